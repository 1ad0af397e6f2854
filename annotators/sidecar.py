"""How an annotator's answers become a label sidecar: the key columns of the batch, then the labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.labels import KEY_FIELDS


def sidecar(batch: pa.RecordBatch, schema: pa.Schema, version: str, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Rows of `schema` for the documents of `batch`; `columns`: lists or arrays of its labels by name."""
    name = schema.metadata[b"sluice.labels"].decode()
    annotator = pa.array(np.zeros(batch.num_rows, np.int8))
    arrays = [
        batch["document_id"],
        batch["id"].cast(pa.string()),
        batch["text_hash"],
        pa.DictionaryArray.from_arrays(annotator, [f"{name}/{version}"]),
    ]
    for field in list(schema)[len(KEY_FIELDS) :]:
        values = columns[field.name]
        # Counts arrive as float64, which holds them exactly; the cast refuses anything that is not whole.
        array = pa.array(values) if isinstance(values, np.ndarray) else pa.array(values, field.type)
        arrays.append(array.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
