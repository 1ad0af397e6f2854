"""Sources to documents: read PDF, HTML, text, code, JSON lines and Parquet."""
