"""Exact and near-duplicates: MinHash bands, clusters, and the best document of each."""
