"""Extract: files become documents, and whatever cannot be read becomes a reject with its reason.

Files are grouped into tasks in the order of (source, path), so that the shards are the same whatever the order in
which the disk lists them and however many workers there are. User ids are checked for duplicates by a shuffle of
packed (hash, document) keys; the text stays where it was written.
"""

import errno
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipelines.extract.found import Extracted, Reject
from pipelines.extract.listing import InputFile, list_source
from pipelines.extract.python_environment import extract_environment_file
from pipelines.extract.reader import extract_file
from pipelines.runner import ShardResult, run_pipeline
from schemas import paths
from schemas.documents import DOCUMENTS, REJECTS
from schemas.errors import DataError
from schemas.hashing import ID, ID_BYTES, document_id, text_hash
from schemas.job import Job, Output
from schemas.manifest import FileEntry
from schemas.recipe import Recipe, Source
from schemas.tables import BATCH_BYTES, read_batches, read_table, table_writer, write_table

PARTITIONS = 64
_KEY = np.dtype([("id", "V16"), ("shard", "<u4"), ("row", "<u4"), ("document", "V16")])
_REJECTS_PER_FLUSH = 10_000
_ROW_BYTES = 1000  # of a row in memory besides its text
MACHINE_AT_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_REPEATED_COLUMNS = ["document_id", "id", "source", "path", "locator"]


@dataclass(frozen=True)
class FilesTask:
    """A reference to the input files of one document shard."""

    index: int
    output: str
    files: tuple[InputFile, ...]

    @property
    def name(self) -> str:
        return f"{self.index:05d}"


def plan_tasks(recipe: Recipe, output: str) -> list[FilesTask]:
    """Group the files of all sources, in order, to about `extract.shard_bytes` a task; sources are never mixed."""
    tasks: list[FilesTask] = []
    for source in sorted(recipe.sources, key=lambda source: source.name):
        group: list[InputFile] = []
        size = 0
        for file in list_source(source, recipe.seed):
            if group and size + file.size > recipe.extract.shard_bytes:
                tasks.append(FilesTask(len(tasks), output, tuple(group)))
                group, size = [], 0
            group.append(file)
            size += file.size
        if group:
            tasks.append(FilesTask(len(tasks), output, tuple(group)))
    return tasks


class ExtractFiles(beam.DoFn):
    """FilesTask -> main output (shard, ShardResult), tagged `ids` (partition, packed keys of the user ids)."""

    def __init__(self, recipe: Recipe) -> None:
        self.options = recipe.extract
        self.sources = {source.name: source for source in recipe.sources}

    def process(self, task: FilesTask) -> Iterator[Any]:
        keys: dict[int, list[bytes]] = defaultdict(list)
        errors: Counter[str] = Counter()
        documents_name, rejects_name = f"documents/{task.name}.parquet", f"rejects/{task.name}.parquet"
        with (
            table_writer(task.output, documents_name, DOCUMENTS) as documents,
            table_writer(task.output, rejects_name, REJECTS) as rejects,
        ):
            rows: list[dict[str, Any]] = []
            refused: list[dict[str, Any]] = []
            size = 0
            for file in task.files:
                source = self.sources[file.source]
                for found in self._read(file, source):
                    if isinstance(found, Reject):
                        refused.append(_reject_row(file, found))
                        errors[found.error] += 1
                        if len(refused) >= _REJECTS_PER_FLUSH:
                            rejects.write(pa.RecordBatch.from_pylist(refused, REJECTS))
                            refused = []
                        continue
                    row = _document_row(file, source, found)
                    if row["id"] is not None:
                        key = xxhash.xxh3_128_digest(f"{file.source}\x1f{row['id']}".encode())
                        place = struct.pack("<II", task.index, documents.rows + len(rows))
                        keys[key[0] % PARTITIONS].append(key + place + row["document_id"])
                    rows.append(row)
                    size += len(found.text) + sum(map(len, found.metadata.values())) + _ROW_BYTES
                    if size >= BATCH_BYTES:
                        documents.write(pa.RecordBatch.from_pylist(rows, DOCUMENTS))
                        rows, size = [], 0
            documents.write(pa.RecordBatch.from_pylist(rows, DOCUMENTS))
            rejects.write(pa.RecordBatch.from_pylist(refused, REJECTS))
        counts = {"files": len(task.files), "documents": documents.rows, "rejects": rejects.rows}
        yield task.index, ShardResult([documents.entry(), rejects.entry()], counts, dict(errors))
        for partition, packed in sorted(keys.items()):
            yield beam.pvalue.TaggedOutput("ids", (partition, b"".join(packed)))

    def _read(self, file: InputFile, source: Source) -> Iterator[Extracted | Reject]:
        try:
            if file.environment is not None:
                yield from extract_environment_file(file.environment, self.options)
            elif paths.is_local(file.location):
                local = Path(file.location.removeprefix("file://"))
                yield from extract_file(local, file.path, self.options, source.columns)
            else:
                with paths.open_read(file.location) as handle:
                    yield from extract_file(cast(BinaryIO, handle), file.path, self.options, source.columns)
        except DataError:
            raise
        except OSError as error:
            if error.errno in MACHINE_AT_FAULT:  # no fault of the file, so no reject
                raise DataError(f"{file.location}: {error.strerror}") from error
            yield Reject("", "unreadable", f"the file cannot be read: {error.strerror or error}")
        except Exception as error:  # one file's surprise must not end the run
            yield Reject("", "extractor_error", f"{type(error).__name__}: {error}"[:300])


class FindRepeatedIds(beam.DoFn):
    """(partition, packed keys) -> (shard, document ids whose user id stood earlier in the same source)."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
        keys = np.frombuffer(b"".join(element[1]), dtype=_KEY)
        order = np.lexsort((keys["row"], keys["shard"], *_words(keys["id"])))
        keys = keys[order]
        repeated = np.flatnonzero(keys["id"][1:] == keys["id"][:-1]) + 1
        for shard in np.unique(keys["shard"][repeated]):
            mine = repeated[keys["shard"][repeated] == shard]
            yield int(shard), keys["document"][mine].tobytes()


def _words(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    halves = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


class DropRepeatedIds(beam.DoFn):
    """(shard, {written, repeated}) -> ShardResult; rewrites the rare shard that holds repeated user ids.

    A run that dies at any point may be repeated any number of times: a document leaves its file only once its reject
    is on disk, what is done already is not done again, and the result is read from the two files as they then are.
    """

    def __init__(self, output: str) -> None:
        self.output = output

    def process(self, element: tuple[int, dict[str, list[Any]]]) -> Iterator[ShardResult]:
        _, groups = element
        (result,) = groups["written"]
        packed = b"".join(groups["repeated"])
        if not packed:
            yield result
            return
        drop = pa.array([packed[begin : begin + ID_BYTES] for begin in range(0, len(packed), ID_BYTES)], ID)
        documents, rejects = (entry.path for entry in result.files)
        self._add_rejects(documents, rejects, drop)
        self._remove_documents(documents, drop)
        files = [self._entry(documents), self._entry(rejects)]
        counts = {"files": result.counts["files"], "documents": files[0].rows, "rejects": files[1].rows}
        errors = read_table(paths.join(self.output, rejects), ["error"])["error"].to_pylist()
        yield ShardResult(files, counts, dict(Counter(errors)))

    def _add_rejects(self, documents: str, rejects: str, drop: pa.Array) -> None:
        known = read_table(paths.join(self.output, rejects))
        there = known.filter(pc.equal(known["error"], "duplicate_id"))["document_id"].combine_chunks()
        refused = [
            _repeated_row(row)
            for batch in read_batches(paths.join(self.output, documents), _REPEATED_COLUMNS)
            for row in batch.filter(pc.is_in(batch["document_id"], drop)).to_pylist()
            if not pc.is_in(pa.scalar(row["document_id"], ID), there).as_py()
        ]
        if refused:
            table = pa.concat_tables([known, pa.Table.from_pylist(refused, REJECTS)])
            write_table(self.output, rejects, table.combine_chunks())

    def _remove_documents(self, documents: str, drop: pa.Array) -> None:
        path = paths.join(self.output, documents)
        ids = read_table(path, ["document_id"])["document_id"]
        if pc.any(pc.is_in(ids, drop)).as_py():
            with table_writer(self.output, documents, DOCUMENTS) as writer:
                for batch in read_batches(path):
                    writer.write(batch.filter(pc.invert(pc.is_in(batch["document_id"], drop))))

    def _entry(self, relative: str) -> FileEntry:
        path = paths.join(self.output, relative)
        with paths.open_read(path) as handle:
            rows = pq.ParquetFile(handle).metadata.num_rows
            size = handle.seek(0, os.SEEK_END)
        return FileEntry(path=relative, rows=rows, bytes=size, hash=paths.file_hash(path))


def _document_row(file: InputFile, source: Source, found: Extracted) -> dict[str, Any]:
    licence = file.environment.licence if file.environment else source.licence
    return {
        "document_id": document_id(file.source, file.path, found.locator),
        "id": found.id,
        "text_hash": text_hash(found.text),
        "text": found.text,
        "source": file.source,
        "path": file.path,
        "locator": found.locator,
        "url": found.url,
        "date": found.date,
        "licence": found.licence or licence,
        "metadata": list(found.metadata.items()),
        "pages": [{"page": page, "begin": begin, "end": end} for page, begin, end in found.pages],
    }


def _reject_row(file: InputFile, found: Reject) -> dict[str, Any]:
    return {
        "document_id": document_id(file.source, file.path, found.locator),
        "id": found.id,
        "source": file.source,
        "path": file.path,
        "locator": found.locator,
        "stage": "extract",
        "error": found.error,
        "message": found.message,
    }


def _repeated_row(row: dict[str, Any]) -> dict[str, Any]:
    message = f"the id {row['id']!r} stands earlier in source '{row['source']}'; ids must be unique"
    return {**row, "stage": "extract", "error": "duplicate_id", "message": message[:300]}


def run(job: Job) -> Output:
    tasks = plan_tasks(job.recipe, job.output)

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        found = (
            pipeline
            | "Files" >> beam.Create(tasks)
            | beam.Reshuffle()
            | "Extract" >> beam.ParDo(ExtractFiles(job.recipe)).with_outputs("ids", main="written")
        )
        repeated = found.ids | "By id" >> beam.GroupByKey() | "Repeated" >> beam.ParDo(FindRepeatedIds())
        return (
            {"written": found.written, "repeated": repeated}
            | "By shard" >> beam.CoGroupByKey()
            | "Drop repeated" >> beam.ParDo(DropRepeatedIds(job.output))
        )

    return run_pipeline(job, build, len(tasks), watch="documents")
