"""Everything that is Apache Beam: one folder per stage, whose kernels never import Beam."""
