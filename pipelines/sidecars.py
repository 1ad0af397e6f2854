"""Sidecars of one document shard: read beside its keys, checked row by row."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError
from schemas.hashing import ID, ID_BYTES
from schemas.labels import check_sidecar
from schemas.tables import read_batches, read_table

if TYPE_CHECKING:  # Beam takes seconds to import, and the driver reads sidecars without it
    from pipelines.runner import Task

KEYS = ["document_id", "id", "text_hash"]
TEXT_BATCH_BYTES = 1 << 20


def read_keys(task: "Task", extra: Iterable[str] = ()) -> pa.Table:
    """The columns of the shard that say which documents it holds, and `extra` ones; never the text."""
    return read_table(task.path, [*KEYS, *extra]).combine_chunks()


def read_sidecar(task: "Task", keys: pa.Table, name: str, columns: list[str]) -> pa.Table | None:
    """Columns of the sidecar `name`, None if the run has none; DataError if it is not of these documents."""
    path = task.sidecars.get(name)
    return None if path is None else read_checked(path, keys, columns)


def read_checked(path: str, keys: pa.Table, columns: list[str]) -> pa.Table:
    """Columns of a sidecar file; DataError if it is not of the documents that `keys` names."""
    table = read_table(path, ["document_id", "text_hash", *columns])
    try:
        check_sidecar(keys, table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table.select(columns)


def kept(task: "Task", keys: pa.Table, stages: Iterable[str]) -> np.ndarray:
    """bool [rows]: the documents that none of the earlier `stages` dropped."""
    mask = np.ones(keys.num_rows, bool)
    for stage in stages:
        decisions = read_sidecar(task, keys, stage, ["keep"])
        if decisions is not None:
            mask &= pc.fill_null(decisions["keep"], False).to_numpy().astype(bool)
    return mask


def kept_texts(task: "Task", mask: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The rows where `mask` is true and their texts, about TEXT_BATCH_BYTES at a time."""
    begin = 0
    for batch in read_batches(task.path, ["text"], TEXT_BATCH_BYTES):
        rows = np.flatnonzero(mask[begin : begin + batch.num_rows])
        if len(rows):
            yield begin + rows, batch["text"].take(pa.array(rows)).to_pylist()
        begin += batch.num_rows


def id_halves(column: pa.ChunkedArray) -> np.ndarray:
    """Ids or hashes as uint64 [rows, 2], high half first."""
    joined = b"".join(column.to_pylist())
    return np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)


def id_array(halves: np.ndarray) -> pa.Array:
    """The inverse of `id_halves`."""
    data = halves.astype(">u8").tobytes()
    return pa.Array.from_buffers(ID, len(data) // ID_BYTES, [None, pa.py_buffer(data)])
