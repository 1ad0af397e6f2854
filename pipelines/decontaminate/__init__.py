"""Contamination: documents that hold items of evaluation sets."""
