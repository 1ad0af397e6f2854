"""Token shards, memory-mapped where they lie or from a cache of remote ones, and checked when they are first used."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.job import Job
from schemas.recipe import training_of
from schemas.tokens import TOKENS
from trainer.shard_cache import Full, Lease, ShardCache, StageFile

WINDOW = 64  # shards that are read side by side
DESCRIBED = ["document_id", "id", "source", "licence", "cell"]


class Lists:
    """Rows of a list column that may lie in several record batches, without copying it."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self.values = [chunk.values for chunk in column.chunks]
        self.begins = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The record batch of each row, and where its values begin and end there."""
        chunks = np.searchsorted(self.begins, rows, side="right") - 1
        begins, ends = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for chunk in np.unique(chunks).tolist():
            here = np.flatnonzero(chunks == chunk)
            at = rows[here] - self.begins[chunk]
            begins[here], ends[here] = self.offsets[chunk][at], self.offsets[chunk][at + 1]
        return chunks, begins, ends


class Shard:
    """An open token shard. `group` is the number of each row's group, `kept` the bytes of its copy in a cache."""

    def __init__(self, file: StageFile, table: pa.Table, group: np.ndarray, kept: int, lease: Lease | None) -> None:
        self.file, self.table, self.group, self.kept, self._lease = file, table, group, kept, lease
        self._lists = Lists(table.column("tokens"))
        self.values = [values.to_numpy() for values in self._lists.values]  # tokens by record batch

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The record batch of each row, and where its tokens begin and end there. DataError if there is no such row."""
        if len(bad := rows[(rows < 0) | (rows >= len(self.group))]):
            raise DataError(f"{self.file.path}: there is no row {bad[0]}, only {len(self.group)}")
        return self._lists.spans(rows)

    def close(self) -> None:
        """Let its copy go; what is mapped of it stays readable."""
        if self._lease is not None:
            self._lease.close()


class TokenShards:
    """The documents of a tokenize dataset, by shard and row.

    A shard is opened when a document of it is first read: copied to the cache of `pretrain.cache_folder` if it is
    remote, and checked against its manifest once per process. Several threads may read.

    Args:
        group: columns whose values put documents into groups, for losses: `groups` has the values, joined by a bar.
            Absent: the cells, merged as the job's mix has merged them if it has one. The mix knows its cells; for
            anything else every shard is opened now.
        check: False takes local files as they are, for a look at where documents come from.

    Raises:
        DataError: a local shard is missing or has another size than its manifest says.
        ConfigError: the cache is too small for the remote files.
    """

    def __init__(self, job: Job, group: Sequence[str] | None = None, *, check: bool = True) -> None:
        manifest = job.manifest("tokenize")
        self.folder = job.inputs["tokenize"]
        self.files = stage_files(job, "tokenize", "tokens")
        try:
            self.vocabulary_size = int(manifest.extra["vocabulary_size"])
            self.padded_vocabulary_size = int(manifest.extra["padded_vocabulary_size"])
            self.end_of_document = int(manifest.extra["end_of_document"])
        except KeyError as error:
            raise DataError(f"{job.inputs['tokenize']}: the manifest does not say its {error.args[0]}") from error
        for file in self.files:
            _check_size(file)
        self._check = check
        self._checked: set[str] = set()
        self._lock = threading.RLock()
        self._shards: OrderedDict[int, Shard] = OrderedDict()  # the least recently used first
        self._cache, self._room = _cache(job, self.files)
        self._group = ("cell",) if group is None else tuple(group)
        self._wider = _merged_cells(job) if group is None else None
        self.groups = sorted(self._all_names() if self._wider is None else set(self._wider.values()))
        self._number = {name: number for number, name in enumerate(self.groups)}

    def _all_names(self) -> set[str]:
        names: set[str] = set()
        for file in self.files:
            table, lease = self.open(file, TOKENS, check=False)
            names.update(group_names(table, self._group).dictionary.to_pylist())
            if lease is not None:
                lease.close()
        return names

    # -----------------------------------------------------------------------------------------------------------
    # Opening

    def open(self, file: StageFile, schema: pa.Schema, *, check: bool = True) -> tuple[pa.Table, Lease | None]:
        """The memory-mapped table of a file; of a remote one also what keeps its copy in the cache until it is closed.

        Raises:
            DataError: the file cannot be read or is not the one its manifest speaks of.
        """
        if paths.is_local(file.path):
            place = local_path(file)
            if check and self._check and file.path not in self._checked:
                verify(file)
                self._checked.add(file.path)
            return _mapped(file, place, schema), None
        lease = self._copy(file)
        try:
            return _mapped(file, lease.path, schema), lease
        except BaseException:
            lease.close()
            raise

    def _copy(self, file: StageFile) -> Lease:
        assert self._cache is not None
        while True:
            try:
                return self._cache.take(file)
            except Full:
                if not self._close_oldest():
                    raise DataError(
                        f"{self._cache.folder}: other processes are reading all that its {self._cache.limit} bytes "
                        "hold; raise pretrain.cache_bytes, or give this run a pretrain.cache_folder of its own"
                    ) from None

    def _close_oldest(self) -> bool:
        with self._lock:
            if self._shards:
                self._shards.popitem(last=False)[1].close()
                return True
            return False

    def shard(self, number: int) -> Shard:
        """An open shard; it stays open while it is among those used last."""
        if not 0 <= number < len(self.files):
            raise DataError(
                f"{self.folder}: there is no token shard {number}, only {len(self.files)}; the pack is of others"
            )
        with self._lock:
            if number not in self._shards:
                self._shards[number] = self._open_shard(self.files[number])
            self._shards.move_to_end(number)
            return self._shards[number]

    def _open_shard(self, file: StageFile) -> Shard:
        kept = 0 if paths.is_local(file.path) else file.entry.bytes
        while len(self._shards) >= 2 * WINDOW or sum(shard.kept for shard in self._shards.values()) + kept > self._room:
            if not self._close_oldest():
                break
        table, lease = self.open(file, TOKENS)
        column = group_names(table, self._group)
        numbers = self._numbers(file, column.dictionary.to_pylist())
        return Shard(file, table, numbers[column.indices.to_numpy()], kept, lease)

    def _numbers(self, file: StageFile, names: list[str]) -> np.ndarray:
        """The number of each group."""
        wider = [name if self._wider is None else self._wider.get(name, "") for name in names]
        for name, known in zip(names, wider):
            if known not in self._number:
                file.refuse(f"has documents of the cell '{name}', which the mix does not know")
        return np.array([self._number[name] for name in wider], dtype=np.int64)

    # -----------------------------------------------------------------------------------------------------------
    # Reading

    def where(self, shard: int, row: int) -> str:
        return f"{self.files[shard].path}, row {row}"

    def describe(self, documents: np.ndarray) -> list[dict[str, Any]]:
        """Where documents, (documents, 2) by shard and row, come from.

        `shard` (the file), `row`, `document_id` in hex, `id`, `source`, `licence`, and `cell` as the mix has merged it.
        """
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(documents[:, 0]).tolist():
            here = np.flatnonzero(documents[:, 0] == number)
            rows = documents[here, 1]
            shard = self.shard(number)
            shard.spans(rows)
            table = shard.table.select(DESCRIBED).take(pa.array(rows))
            for at, row, values in zip(here.tolist(), rows.tolist(), table.to_pylist()):
                place = {"shard": self.files[number].entry.path, "row": row}
                cell = (self._wider or {}).get(values["cell"], values["cell"])
                found[at] = place | values | {"document_id": values["document_id"].hex(), "cell": cell}
        return [found[at] for at in range(len(documents))]

    def scan(self) -> Iterator[tuple[pa.Table, list[np.ndarray]]]:
        """Shard after shard: its table and its tokens, record batch after record batch."""
        for number in range(len(self.files)):
            opened = self.shard(number)
            yield opened.table, opened.values


def group_names(table: pa.Table, columns: Sequence[str]) -> pa.DictionaryArray:
    """The documents' values of some columns, joined by a bar."""
    joined = pc.binary_join_element_wise(*(table.column(name) for name in columns), "|")
    return joined.combine_chunks().dictionary_encode()


def _merged_cells(job: Job) -> dict[str, str] | None:
    """The mix's cells and what each was merged into; None where the job has no mix."""
    if "mix" not in job.inputs:
        return None
    try:
        return dict(job.manifest("mix").extra["cells"])
    except KeyError as error:
        raise DataError(
            f"{job.inputs['mix']}: the manifest does not say its cells; make the mix stage again"
        ) from error


# ---------------------------------------------------------------------------------------------------------------
# Files


def stage_files(job: Job, stage: str, folder: str) -> list[StageFile]:
    """The files of one sub-folder of an input dataset, in shard order."""
    return [
        StageFile(stage, paths.join(job.inputs[stage], entry.path), entry)
        for entry in job.manifest(stage).select(folder)
    ]


def local_path(file: StageFile) -> Path:
    return Path(file.path.removeprefix("file://"))


def verify(file: StageFile) -> None:
    """Read a local file through; DataError unless it is the one its manifest speaks of."""
    try:
        file.check(local_path(file).stat().st_size, paths.file_hash(file.path))
    except OSError as error:
        raise _unreadable(file, error) from error


def _check_size(file: StageFile) -> None:
    """Notice a missing or shortened file before hours of work, without reading it; of remote ones nothing is asked."""
    if not paths.is_local(file.path):
        return
    try:
        size = local_path(file).stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error
    file.check(size, file.entry.hash)


def _mapped(file: StageFile, place: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from error
    for field in schema:
        if field.name not in table.schema.names or table.schema.field(field.name).type != field.type:
            raise DataError(f"{file.path}: needs a column '{field.name}' of type {field.type}")
    if table.num_rows != file.entry.rows:
        file.refuse(f"has {table.num_rows} rows, not {file.entry.rows}")
    return table


def _unreadable(file: StageFile, error: Exception) -> DataError:
    return DataError(f"{file.path}: cannot be read: {getattr(error, 'strerror', None) or error}")


def _cache(job: Job, shards: list[StageFile]) -> tuple[ShardCache | None, int]:
    """The cache of a job's remote files, and the bytes of token shards that this process may keep in use there.

    The packs are in use all the time, the same ones by every process of the machine. What they leave is shared out, so
    that every process has room for a shard whatever the others hold.
    """
    largest = max((file.entry.bytes for file in shards if not paths.is_local(file.path)), default=0)
    remote_packs = "pack" in job.inputs and not paths.is_local(job.inputs["pack"])
    packs = sum(entry.bytes for entry in job.manifest("pack").files) if remote_packs else 0
    if not largest and not packs:
        return None, 0
    settings = training_of(job.recipe)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = packs + processes * largest
    if settings.cache_bytes < needed:
        raise ConfigError(
            f"pretrain.cache_bytes: {settings.cache_bytes} is too little for this run's remote files: its packs and a "
            f"token shard per process take {needed}"
        )
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(settings.cache_folder) if settings.cache_folder else user / "sluice" / "shards"
    return ShardCache(folder, settings.cache_bytes), (settings.cache_bytes - packs) // processes
