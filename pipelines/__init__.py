"""Everything that is Apache Beam: one folder per stage, whose kernels never import Beam."""

import logging

# Beam says on every start, through the root logger, that Google's client libraries are not installed.
logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))
