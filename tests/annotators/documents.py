"""Batches of documents for the tests of the annotators, and the folder of labelled text."""

from pathlib import Path

import pyarrow as pa
import pytest

from schemas.documents import DOCUMENTS
from schemas.hashing import document_id, text_hash

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data beside the checkout")


def documents(
    texts: list[str], paths: list[str] | None = None, metadata: list[dict[str, str]] | None = None
) -> pa.RecordBatch:
    """A batch of schema DOCUMENTS with these texts."""
    rows = [
        {
            "document_id": document_id("test", path, str(number)),
            "id": f"user-{number}" if number % 2 else None,
            "text_hash": text_hash(text),
            "text": text,
            "source": "test",
            "path": path,
            "locator": str(number),
            "metadata": list(extra.items()),
            "pages": [],
        }
        for number, (text, path, extra) in enumerate(
            zip(texts, paths or ["notes.txt"] * len(texts), metadata or [{}] * len(texts))
        )
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)
