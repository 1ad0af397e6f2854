"""Extract: files become documents, and whatever cannot be read becomes a reject with its reason.

Files are grouped into tasks in the order of (source, path), so that the shards are the same whatever the order in
which the disk lists them and however many workers there are. A long PDF is read range by range, by as many workers
as there are, and put together by the one that writes its shard. User ids are checked for duplicates by a shuffle of
packed (hash, document) keys; the text stays where it was written.

An execution that was stopped leaves whole shards and ranges behind; the next one takes them over.
"""

import contextlib
import json
import os
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from annotators.served_model import in_order
from pipelines.extract.encoding import FIXER
from pipelines.extract.found import Extracted, Found, PageFact, Reject, Repair
from pipelines.extract.inputs import local_copy, read_input, with_rejects
from pipelines.extract.listing import InputFile, list_source
from pipelines.extract.names import PAGE_LOCATOR
from pipelines.extract.page import Page
from pipelines.extract.pdf_file import (
    PAGES_PER_RANGE,
    PdfInfo,
    check_models,
    close_models,
    make_documents,
    open_pdf,
    page_ranges,
    read_range,
    take_spent,
)
from pipelines.extract.progress import FOLDER, BytesDone, FilesDone, range_name
from pipelines.extract.reader import is_pdf
from pipelines.extract.refine import refinement_rows
from pipelines.runner import ShardResult, run_pipeline
from schemas import paths
from schemas.documents import DOCUMENTS, PAGES, REFINEMENTS, REJECTS
from schemas.errors import ConfigError, DataError
from schemas.hashing import ID, ID_BYTES, document_id, text_hash
from schemas.job import Job, Output
from schemas.manifest import FileEntry
from schemas.recipe import Recipe, Source
from schemas.tables import BATCH_BYTES, TableWriter, read_batches, read_table, table_writer, write_table

PARTITIONS = 64
_KEY = np.dtype([("id", "V16"), ("shard", "<u4"), ("row", "<u4"), ("document", "V16")])
_LONG_PDF_BYTES = 256 << 10  # from here on a PDF is worth opening to see whether it has pages for several workers
_FILES_SIDE_BY_SIDE = 8  # where models are asked; each has a child process
_FOLDERS = ("documents", "rejects", "pages", "refinements")
_RANGES = ".ranges"  # folder of what workers read of long PDF files, until a shard is written
_RANGE = pa.schema([pa.field("page", pa.large_string(), nullable=False)])  # a Page as JSON
_ROW_BYTES = 1000  # of a row in memory besides its text
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

    def file(self, folder: str) -> str:
        """The file of this shard in one of `_FOLDERS`, relative to the dataset."""
        return f"{folder}/{self.name}.parquet"


@dataclass(frozen=True)
class PageRange:
    """A reference to some pages of a long PDF, which is file `position` of the task `index`."""

    index: int
    position: int
    file: InputFile
    info: PdfInfo
    first: int
    last: int

    @property
    def name(self) -> str:
        shard = f"{self.index:05d}"
        return f"{_RANGES}/{range_name(shard, self.position, self.first, self.last, self.info.page_count)}"


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


def _may_be_long(file: InputFile) -> bool:
    name = file.location.lower()  # that of a repository may end like a PDF too; opening it tells
    return file.size >= _LONG_PDF_BYTES and name.endswith(".pdf") and file.environment is None


class FindRanges(beam.DoFn):
    """FilesTask -> the page ranges of its PDF files that have more than one."""

    def __init__(self, recipe: Recipe) -> None:
        self.options = recipe.extract

    def process(self, task: FilesTask) -> Iterator[PageRange]:
        for position, file in enumerate(task.files):
            if not _may_be_long(file) or _is_written(task):
                continue
            try:
                with local_copy(file, self.options) as path:
                    info = open_pdf(path, self.options) if is_pdf(path, file.path) else None
            except (ConfigError, DataError):
                raise
            except Exception:
                continue  # whoever writes the shard says what is wrong
            if isinstance(info, PdfInfo) and info.page_count > PAGES_PER_RANGE:
                for first, last in page_ranges(info.page_count):
                    yield PageRange(task.index, position, file, info, first, last)


class ReadRange(beam.DoFn):
    """PageRange -> (index of the task, (PageRange, what models were asked)), its pages written beside the dataset."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        self.options = recipe.extract
        self.output = output

    def process(self, part: PageRange) -> Iterator[tuple[int, tuple[PageRange, dict[str, int]]]]:
        if not paths.exists(paths.join(self.output, part.name)):
            try:
                with local_copy(part.file, self.options) as path:
                    pages = read_range(path, self.options, part.first, part.last)
                    rows = [json.dumps(page.to_json()) for page in pages]
            except OSError as error:
                raise DataError(f"{part.file.location}: {error.strerror}") from error
            write_table(self.output, part.name, pa.table({"page": rows}, _RANGE))
        yield part.index, (part, take_spent(self.options))


class ExtractFiles(beam.DoFn):
    """(index, {tasks, ranges}) -> main output (shard, ShardResult), tagged `ids` (partition, packed user ids)."""

    def __init__(self, recipe: Recipe) -> None:
        self.options = recipe.extract
        self.sources = {source.name: source for source in recipe.sources}

    def process(self, element: tuple[int, dict[str, list[Any]]]) -> Iterator[Any]:
        (task,) = element[1]["tasks"]
        ranges: dict[int, list[PageRange]] = defaultdict(list)
        spent: Counter[str] = Counter()
        for part, asked in sorted(element[1]["ranges"], key=lambda read: (read[0].position, read[0].first)):
            ranges[part.position].append(part)
            spent.update(asked)
        if _is_written(task):
            files = _entries(task)
        else:
            repairs = self.options.refine is not None or self.options.repair_encoding
            done = FilesDone(task.output, task.name)
            with _ShardWriter(task.output, task.name, repairs) as writer:
                for file, everything in self._read(task, ranges):
                    for found in everything:
                        for folder, row in _rows(file, self.sources[file.source], found):
                            writer.add(folder, row)
                    done.add()
            files = writer.entries()
        spent.update(take_spent(self.options))
        yield task.index, _result(task, files, spent)
        for partition, packed in sorted(_user_ids(task).items()):
            yield beam.pvalue.TaggedOutput("ids", (partition, b"".join(packed)))

    def _read(self, task: FilesTask, ranges: dict[int, list[PageRange]]) -> Iterator[tuple[InputFile, Iterable[Found]]]:
        """Every file with what it gives, in order.

        Where models are asked, PDF files are read side by side: one of a few pages would leave a server idle.
        """

        def read(place: tuple[int, InputFile]) -> tuple[InputFile, Iterable[Found]]:
            position, file = place
            parts = ranges.get(position)
            given = self._long_pdf(task, parts) if parts else read_input(file, self.sources[file.source], self.options)
            found = with_rejects(given, file)
            return file, list(found) if threads > 1 and file.path.lower().endswith(".pdf") else found

        servers = [server for server in (self.options.vision, self.options.refine) if server is not None]
        threads = min(_FILES_SIDE_BY_SIDE, max((server.concurrency for server in servers), default=1))
        places = list(enumerate(task.files))
        return in_order(read, places, threads) if threads > 1 else map(read, places)

    def _long_pdf(self, task: FilesTask, ranges: list[PageRange]) -> Iterator[Found]:
        pages: list[Page] = []
        for part in ranges:
            rows = read_table(paths.join(task.output, part.name))["page"].to_pylist()
            pages += [Page.from_json(json.loads(row)) for row in rows]
        return make_documents(pages, ranges[0].info, self.options, {"kind": "pdf"})


class _Rows:
    """Rows on their way into one file of the shard, flushed when their size says so."""

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self.rows: list[dict[str, Any]] = []
        self.size = self.seen = 0

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.seen += 1
        self.size += _ROW_BYTES + sum(len(value) for value in row.values() if isinstance(value, str))
        self.size += sum(len(value) for _, value in row.get("metadata", ()))
        if self.size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        self.writer.write(pa.RecordBatch.from_pylist(self.rows, self.writer.schema))
        self.rows, self.size = [], 0


class _ShardWriter:
    """The files of one shard: documents, rejects, the page table and, where text is repaired, how."""

    def __init__(self, output: str, name: str, repairs: bool) -> None:
        self.output, self.name = output, name
        self.schemas = {"documents": DOCUMENTS, "rejects": REJECTS, "pages": PAGES}
        if repairs:
            self.schemas["refinements"] = REFINEMENTS
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "_ShardWriter":
        with contextlib.ExitStack() as stack:
            self.tables = {
                folder: _Rows(stack.enter_context(table_writer(self.output, f"{folder}/{self.name}.parquet", schema)))
                for folder, schema in self.schemas.items()
            }
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            for table in self.tables.values():
                table.flush()
        self.stack.__exit__(*error)

    def add(self, folder: str, row: dict[str, Any]) -> None:
        self.tables[folder].add(row)

    def entries(self) -> dict[str, FileEntry]:
        """The manifest's lines on the finished files, by folder."""
        return {folder: table.writer.entry() for folder, table in self.tables.items()}


def _is_written(task: FilesTask) -> bool:
    """Whether an execution that was stopped has written this shard; its documents appear last."""
    return paths.exists(paths.join(task.output, task.file("documents")))


def _entries(task: FilesTask) -> dict[str, FileEntry]:
    """The manifest's lines on the files of a shard that an execution that was stopped has written, by folder."""
    present = [folder for folder in _FOLDERS if paths.exists(paths.join(task.output, task.file(folder)))]
    return {folder: _entry(task.output, task.file(folder)) for folder in present}


def _result(task: FilesTask, files: dict[str, FileEntry], spent: Counter[str]) -> ShardResult:
    """What the files of a shard say, whoever wrote them."""
    rejects = read_table(paths.join(task.output, task.file("rejects")), ["locator", "error"]).to_pylist()
    pages = read_table(paths.join(task.output, task.file("pages")), ["route", "error"]).to_pylist()
    kinds = Counter(f"pages_{'unreadable' if page['error'] else page['route']}" for page in pages)
    kinds.update(f"rejected_pages_{row['error']}" for row in rejects if re.search(PAGE_LOCATOR, row["locator"]))
    if "refinements" in files:
        repairs = read_table(paths.join(task.output, task.file("refinements")), ["document_id", "model"])
        kinds["mended_documents"] = len(repairs.filter(pc.equal(repairs["model"], FIXER))["document_id"].unique())
    counts = {"files": len(task.files)} | {folder: files[folder].rows for folder in ("documents", "pages", "rejects")}
    errors = Counter(row["error"] for row in rejects)
    return ShardResult(list(files.values()), counts, dict(errors), dict(kinds), dict(spent))


def _user_ids(task: FilesTask) -> dict[int, list[bytes]]:
    """Packed (hash of source and the user's own id, shard, row, document) of a shard, by partition."""
    keys: dict[int, list[bytes]] = defaultdict(list)
    before = 0
    for batch in read_batches(paths.join(task.output, task.file("documents")), ["id", "source", "document_id"]):
        columns = (batch[name].to_pylist() for name in ("id", "source", "document_id"))
        for row, (own, source, document) in enumerate(zip(*columns), before):
            if own is not None:
                key = xxhash.xxh3_128_digest(f"{source}\x1f{own}".encode())
                keys[key[0] % PARTITIONS].append(key + struct.pack("<II", task.index, row) + document)
        before += batch.num_rows
    return keys


def _entry(folder: str, relative: str) -> FileEntry:
    path = paths.join(folder, relative)
    with paths.open_read(path) as handle:
        rows = pq.ParquetFile(handle).metadata.num_rows
        size = handle.seek(0, os.SEEK_END)
    return FileEntry(path=relative, rows=rows, bytes=size, hash=paths.file_hash(path))


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
        files = {entry.path.partition("/")[0]: entry for entry in result.files}
        documents, rejects = files["documents"].path, files["rejects"].path
        self._add_rejects(documents, rejects, drop)
        self._remove_documents(documents, drop)
        files |= {"documents": _entry(self.output, documents), "rejects": _entry(self.output, rejects)}
        counts = {**result.counts, "documents": files["documents"].rows, "rejects": files["rejects"].rows}
        errors = read_table(paths.join(self.output, rejects), ["error"])["error"].to_pylist()
        yield ShardResult(list(files.values()), counts, dict(Counter(errors)), result.extra, result.spent)

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


def _rows(file: InputFile, source: Source, found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """The folder of each row that something found becomes, and the row."""
    if isinstance(found, Extracted):
        yield "documents", _document_row(file, source, found)
        if found.mended:
            for row in _repair_rows(file, Repair(found.locator, found.mended, FIXER)):
                yield "refinements", row
    elif isinstance(found, Reject):
        yield "rejects", _reject_row(file, found)
    elif isinstance(found, PageFact):
        yield "pages", _page_row(file, found)
    else:
        for row in _repair_rows(file, found):
            yield "refinements", row


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


def _repair_rows(file: InputFile, found: Repair) -> list[dict[str, Any]]:
    return refinement_rows(document_id(file.source, file.path, found.locator), found.refined, found.model)


def _page_row(file: InputFile, found: PageFact) -> dict[str, Any]:
    return {
        "document_id": document_id(file.source, file.path, found.locator),
        "source": file.source,
        "path": file.path,
        "locator": found.locator,
        "page": found.page,
        "route": found.route,
        "reason": found.reason,
        "confidence": found.confidence,
        "characters": found.characters,
        "error": found.error,
    }


def _repeated_row(row: dict[str, Any]) -> dict[str, Any]:
    message = f"the id {row['id']!r} stands earlier in source '{row['source']}'; ids must be unique"
    return {**row, "stage": "extract", "error": "duplicate_id", "message": message[:300]}


def run(job: Job) -> Output:
    tasks = plan_tasks(job.recipe, job.output)
    long = [task for task in tasks if any(map(_may_be_long, task.files))]

    def with_ranges(pipeline: beam.Pipeline) -> beam.PCollection:
        ranges = (
            pipeline
            | "Long PDF files" >> beam.Create(long)
            | "Spread files" >> beam.Reshuffle()
            | "Find ranges" >> beam.ParDo(FindRanges(job.recipe))
            | "Spread ranges" >> beam.Reshuffle()
            | "Read ranges" >> beam.ParDo(ReadRange(job.recipe, job.output))
        )
        keyed = pipeline | "Files" >> beam.Create([(task.index, task) for task in tasks])
        return {"tasks": keyed, "ranges": ranges} | "With ranges" >> beam.CoGroupByKey()

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        without = [(task.index, {"tasks": [task], "ranges": []}) for task in tasks]
        ready = with_ranges(pipeline) if long else pipeline | "Files" >> beam.Create(without)
        found = (
            ready
            | beam.Reshuffle()
            | "Extract" >> beam.ParDo(ExtractFiles(job.recipe)).with_outputs("ids", main="written")
        )
        repeated = found.ids | "By id" >> beam.GroupByKey() | "Repeated" >> beam.ParDo(FindRepeatedIds())
        return (
            {"written": found.written, "repeated": repeated}
            | "By shard" >> beam.CoGroupByKey()
            | "Drop repeated" >> beam.ParDo(DropRepeatedIds(job.output))
        )

    try:
        check_models(job.recipe.extract)
        paths.remove(paths.join(job.output, FOLDER))  # of an execution that was stopped, whose workers are no more
        sizes = {task.name: [file.size for file in task.files] for task in tasks}
        done = BytesDone(job.output, "documents", _RANGES, sizes)
        output = run_pipeline(job, build, done.total, done, "bytes")
    finally:
        close_models()
    for folder in (_RANGES, FOLDER):
        paths.remove(paths.join(job.output, folder))
    return output
