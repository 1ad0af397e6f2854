"""Labellers on record batches: language, quality, educational value, domain, safety."""
