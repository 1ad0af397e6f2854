"""Reading and writing the files of a dataset, byte-stable and whole or not at all."""

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileEntry

BATCH_BYTES = 4 << 20


class _Hashed(io.RawIOBase):
    """Passes bytes on and keeps their count and hash."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle = handle
        self.state = xxhash.xxh3_128()
        self.size = 0
        self.abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.abandoned:
            return view.nbytes
        self.handle.write(view)
        self.state.update(view)
        self.size += view.nbytes
        return view.nbytes


class TableWriter:
    """Writes record batches to one Parquet or Arrow IPC file, chosen by its ending (.parquet or .arrow)."""

    def __init__(self, handle: IO[bytes], relative: str, schema: pa.Schema) -> None:
        self.relative = relative
        self.schema = schema
        self.rows = 0
        self._sink = _Hashed(handle)
        if relative.endswith(".arrow"):
            # Uncompressed, so that a reader can map it into memory.
            self._writer: Any = pa.ipc.new_file(self._sink, schema)
        else:
            self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", compression_level=3)

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        if batch.num_rows:
            self._writer.write(batch)
            self.rows += batch.num_rows

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that will not be finished; Arrow's writer would write its end when it is collected."""
        self._sink.abandoned = True
        with contextlib.suppress(Exception):
            self._writer.close()

    def entry(self, tokens: int | None = None) -> FileEntry:
        """The manifest's line on the finished file."""
        return FileEntry(
            path=self.relative,
            rows=self.rows,
            bytes=self._sink.size,
            hash=self._sink.state.hexdigest(),
            tokens=tokens,
        )


@contextlib.contextmanager
def table_writer(folder: str, relative: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open `folder/relative` for writing; the file appears when the block ends without an error."""
    with paths.write_atomic(paths.join(folder, relative)) as handle:
        writer = TableWriter(handle, relative, schema)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def write_table(folder: str, relative: str, table: pa.Table | pa.RecordBatch) -> FileEntry:
    with table_writer(folder, relative, table.schema) as writer:
        writer.write(table)
    return writer.entry()


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """A whole Parquet or Arrow IPC file; for sidecars and plans, not for text."""
    try:
        if path.endswith(".arrow"):
            source: Any = pa.memory_map(path) if paths.is_local(path) else paths.open_read(path)
            table = pa.ipc.open_file(source).read_all()
            return table.select(columns) if columns else table
        with paths.open_read(path) as handle:
            return pq.read_table(handle, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def read_batches(
    path: str, columns: list[str] | None = None, batch_bytes: int = BATCH_BYTES
) -> Iterator[pa.RecordBatch]:
    """Record batches of about `batch_bytes` from a Parquet file, with memory bounded by one row group."""
    try:
        with paths.open_read(path) as handle:
            file = pq.ParquetFile(handle)
            for group in range(file.num_row_groups):
                meta = file.metadata.row_group(group)
                per_row = max(1, meta.total_byte_size // max(1, meta.num_rows))
                rows = max(1, batch_bytes // per_row)
                yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def struct_lists(kind: pa.ListType, columns: list[pa.Array], counts: np.ndarray) -> pa.ListArray:
    """Lists of structs (type `kind`) from the fields of all items and how many items each list has."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    items = pa.StructArray.from_arrays(columns, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(offsets, items, type=kind)
