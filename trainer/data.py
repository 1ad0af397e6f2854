"""Batches straight from the memory-mapped token shards, in an order that is a pure function of pack, seed and step.

Nothing is copied before a step asks for it: a pack says which spans of which documents make a sequence, and the spans
are read from the shards. A sequence of length T has T + 1 positions, T inputs and T labels.
"""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from schemas import paths
from schemas.errors import DataError
from schemas.hashing import scramble
from schemas.job import Job
from schemas.manifest import FileEntry
from schemas.tokens import PACK, TOKENS
from trainer.loss import IGNORE
from trainer.schedule import Batches

WINDOW = 64  # shards that are read side by side
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens. A label belongs to a group of documents, such as a cell."""

    tokens_BT: torch.Tensor  # int64
    labels_BT: torch.Tensor  # int64, `IGNORE` where nothing is to be predicted
    positions_BT: torch.Tensor  # int64
    document_BT: torch.Tensor  # int32, rises with every segment of the batch; padding has a number of its own
    group_BT: torch.Tensor  # int64, the group of the label's document
    segments_N2: np.ndarray  # shard and row behind each document number; -1, -1 for padding
    document_mask: bool

    def part(self, begin: int, end: int) -> "Batch":
        """Some of the sequences."""
        return self._map(lambda tensor: tensor[begin:end])

    def to(self, device: torch.device) -> "Batch":
        return self if device.type == "cpu" else self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return replace(
            self,
            tokens_BT=change(self.tokens_BT),
            labels_BT=change(self.labels_BT),
            positions_BT=change(self.positions_BT),
            document_BT=change(self.document_BT),
            group_BT=change(self.group_BT),
        )


# ---------------------------------------------------------------------------------------------------------------
# Files


def verify(path: str, entry: FileEntry) -> None:
    """Raise DataError unless the file is the one its manifest speaks of."""
    try:
        found = paths.file_hash(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found != entry.hash:
        raise DataError(f"{path}: differs from its manifest (hash {found}, not {entry.hash}); make its stage again")


def _open(path: str, entry: FileEntry, schema: pa.Schema) -> pa.Table:
    """The table of an Arrow file, memory-mapped if it is local; its columns and rows are checked."""
    try:
        source: Any = pa.memory_map(path) if paths.is_local(path) else paths.open_read(path)
        table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for field in schema:
        if field.name not in table.schema.names or table.schema.field(field.name).type != field.type:
            raise DataError(f"{path}: needs a column '{field.name}' of type {field.type}")
    if table.num_rows != entry.rows:
        raise DataError(f"{path}: has {table.num_rows} rows, its manifest says {entry.rows}")
    return table


class _Lists:
    """Rows of a list column that may lie in several record batches, without copying it."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self.values = [chunk.values for chunk in column.chunks]
        self.begins = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def span(self, row: int) -> tuple[int, int, int]:
        """The record batch of a row, and where its values begin and end there."""
        chunk = int(np.searchsorted(self.begins, row, side="right")) - 1
        offsets, at = self.offsets[chunk], row - int(self.begins[chunk])
        return chunk, int(offsets[at]), int(offsets[at + 1])


class _Shard:
    def __init__(self, path: str, entry: FileEntry, group: Sequence[str]) -> None:
        table = _open(path, entry, TOKENS)
        self.table = table
        self.lists = _Lists(table.column("tokens"))
        self.values = [values.to_numpy() for values in self.lists.values]
        self.group = group_names(table, group)

    def tokens(self, row: int) -> np.ndarray:
        chunk, begin, end = self.lists.span(row)
        return self.values[chunk][begin:end]


def group_names(table: pa.Table, columns: Sequence[str]) -> pa.DictionaryArray:
    """The documents' values of some columns, joined by a bar."""
    joined = pc.binary_join_element_wise(*(table.column(name) for name in columns), "|")
    return joined.combine_chunks().dictionary_encode()


def _merged_cells(job: Job) -> dict[str, str]:
    """The mix's cells and what each was merged into; nothing where the job has no mix."""
    if "mix" not in job.inputs:
        return {}
    try:
        return dict(job.manifest("mix").extra["cells"])
    except KeyError as error:
        raise DataError(
            f"{job.inputs['mix']}: the manifest does not say its cells; make the mix stage again"
        ) from error


class TokenShards:
    """The documents of a tokenize dataset, by shard and row.

    Args:
        group: columns whose values put documents into groups, for losses: `groups` has the values, joined by a bar.
            Absent: the cells, merged as the job's mix has merged them if it has one.
        verify_all: read every byte of every shard now. Otherwise a shard is verified when a document of it is read.

    Raises:
        DataError: a shard is missing or differs from its manifest.
    """

    def __init__(self, job: Job, group: Sequence[str] | None = None, *, verify_all: bool = True) -> None:
        manifest = job.manifest("tokenize")
        self.entries = manifest.select("tokens")
        self.paths = job.files("tokenize", "tokens")
        try:
            self.vocabulary_size = int(manifest.extra["vocabulary_size"])
            self.padded_vocabulary_size = int(manifest.extra["padded_vocabulary_size"])
            self.end_of_document = int(manifest.extra["end_of_document"])
        except KeyError as error:
            raise DataError(f"{job.inputs['tokenize']}: the manifest does not say its {error.args[0]}") from error
        self._group = ("cell",) if group is None else tuple(group)
        self._wider = _merged_cells(job) if group is None else {}
        self._verified: set[int] = set()
        self._shard = functools.lru_cache(maxsize=2 * WINDOW)(self._open)
        names: set[str] = set()
        for shard, (path, entry) in enumerate(zip(self.paths, self.entries)):
            if verify_all:
                self._verify(shard)
            names.update(self._names(_Shard(path, entry, self._group)))
        self.groups = sorted(names)
        self._number = {name: number for number, name in enumerate(self.groups)}

    def _verify(self, shard: int) -> None:
        if shard not in self._verified:
            verify(self.paths[shard], self.entries[shard])
            self._verified.add(shard)

    def _names(self, opened: _Shard) -> list[str]:
        return [self._wider.get(name, name) for name in opened.group.dictionary.to_pylist()]

    def _open(self, shard: int) -> tuple[_Shard, np.ndarray]:
        self._verify(shard)
        opened = _Shard(self.paths[shard], self.entries[shard], self._group)
        lookup = np.array([self._number[name] for name in self._names(opened)], dtype=np.int64)
        return opened, lookup[opened.group.indices.to_numpy()]

    def where(self, shard: int, row: int) -> str:
        return f"{self.paths[shard]}, row {row}"

    def document(self, shard: int, row: int) -> tuple[np.ndarray, int]:
        """The stored tokens of a document, uint32 and not a copy, and its group."""
        if not 0 <= shard < len(self.paths):
            raise DataError(f"there is no token shard {shard}, only {len(self.paths)}")
        opened, groups = self._shard(shard)
        if not 0 <= row < len(groups):
            raise DataError(f"{self.paths[shard]}: there is no row {row}, only {len(groups)}")
        return opened.tokens(row), int(groups[row])

    def describe(self, shard: int, row: int) -> dict[str, Any]:
        """Where a document comes from: `shard` (the file), `document_id` in hex, `id`, `source`, `licence`."""
        table = self._shard(shard)[0].table
        values = {name: table.column(name)[row].as_py() for name in ("document_id", "id", "source", "licence")}
        return values | {"shard": self.entries[shard].path, "document_id": values["document_id"].hex()}

    def scan(self) -> Iterator[tuple[pa.Table, list[np.ndarray]]]:
        """Shard after shard: its table and its tokens, record batch after record batch."""
        for shard in range(len(self.paths)):
            opened, _ = self._open(shard)
            yield opened.table, opened.values


class Sequences:
    """The sequences of one pack, by number.

    Raises:
        DataError: the pack is missing, differs from its manifest, or has another sequence length than asked for.
    """

    def __init__(self, job: Job, name: str, shards: TokenShards, document_mask: bool = True) -> None:
        manifest = job.manifest("pack")
        declared = manifest.extra.get("validation") if name == "validation" else manifest.extra["stages"].get(name)
        entry = next((entry for entry in manifest.files if entry.path == f"{name}/pack.arrow"), None)
        if declared is None or entry is None:
            raise DataError(f"{job.inputs['pack']}: has no pack of '{name}'; make the pack stage again")
        self.path = paths.join(job.inputs["pack"], entry.path)
        self.length = int(declared["sequence_length"])
        self.shards = shards
        self.document_mask = document_mask
        verify(self.path, entry)
        self._lists = _Lists(_open(self.path, entry, PACK).column("segments"))
        fields = PACK.field("segments").type.value_type
        self._fields = [[values.field(i).to_numpy() for i in range(fields.num_fields)] for values in self._lists.values]
        self.count = entry.rows
        if self.count != declared["sequences"]:
            raise DataError(f"{self.path}: has {self.count} sequences, its manifest says {declared['sequences']}")

    def segments(self, sequence: int) -> list[tuple[int, int, int, int]]:
        """(shard, row, begin, length) of each segment."""
        chunk, begin, end = self._lists.span(sequence)
        return list(zip(*(field[begin:end].tolist() for field in self._fields[chunk])))

    def first_shards(self) -> np.ndarray:
        """The shard in which each sequence begins, (sequences,) int32."""
        firsts = []
        for offsets, fields in zip(self._lists.offsets, self._fields):
            if (empty := np.flatnonzero(np.diff(offsets) < 1)).size:
                raise DataError(f"{self.path}: sequence {empty[0]} is empty; make the pack stage again")
            firsts.append(fields[0][offsets[:-1]])
        return np.concatenate(firsts) if firsts else np.zeros(0, np.int32)

    def read(self, sequences: Sequence[int] | np.ndarray) -> Batch:
        """The batch of some sequences.

        With the document mask positions restart at every segment and a document's last token predicts nothing.
        Without it positions run on and labels cross from document to document, but not into the rest of a document
        that was cut: its first token does not follow what stands before it, and was a label where the cut was made.
        """
        shape = (len(sequences), self.length + 1)
        tokens = np.full(shape, self.shards.end_of_document, np.int64)  # also the padding and the ends of documents
        document = np.zeros(shape, np.int32)
        real = np.zeros(shape, bool)
        positions = np.zeros(shape, np.int64)
        positions[:] = count = np.arange(self.length + 1)
        groups: list[int] = []
        origin: list[tuple[int, int]] = []
        rest: list[bool] = []  # of a document that was cut

        for line, sequence in enumerate(sequences):
            at = 0
            for shard, row, begin, length in self.segments(int(sequence)):
                stored, group = self._document(int(sequence), shard, row)
                end = at + length
                if begin < 0 or length < 1 or begin + length > len(stored) + 1 or end > self.length + 1:
                    raise DataError(
                        f"{self.path}: sequence {sequence} takes {length} positions from {begin} on of a document of "
                        f"{len(stored)} tokens ({self.shards.where(shard, row)}), as positions {at} to {end} of "
                        f"{self.length + 1}; the pack does not belong to these shards"
                    )
                part = stored[begin : begin + length]
                tokens[line, at : at + len(part)] = part
                document[line, at:end] = len(origin)
                if self.document_mask:
                    positions[line, at:end] = count[:length]
                origin.append((shard, row))
                groups.append(group)
                rest.append(begin > 0)
                at = end
            real[line, :at] = True
            if at <= self.length:
                document[line, at:] = len(origin)
                origin.append((-1, -1))
                groups.append(0)
                rest.append(False)

        segments_N2 = np.array(origin, np.int64).reshape(-1, 2)
        if tokens.max(initial=0) >= self.shards.vocabulary_size:
            line, at = np.argwhere(tokens >= self.shards.vocabulary_size)[0]
            shard, row = segments_N2[document[line, at]].tolist()
            raise DataError(
                f"{self.shards.where(shard, row)}: token {tokens[line, at]} is not below the vocabulary size "
                f"{self.shards.vocabulary_size}"
            )
        follows = document[:, 1:] == document[:, :-1]
        if not self.document_mask:
            follows |= ~np.array(rest, bool)[document[:, 1:]]
        valid = real[:, 1:] & follows
        return Batch(
            tokens_BT=torch.from_numpy(tokens[:, :-1].copy()),
            labels_BT=torch.from_numpy(np.where(valid, tokens[:, 1:], IGNORE)),
            positions_BT=torch.from_numpy(positions[:, :-1].copy()),
            document_BT=torch.from_numpy(document[:, :-1].copy()),
            group_BT=torch.from_numpy(np.array(groups, np.int64)[document[:, 1:]]),
            segments_N2=segments_N2,
            document_mask=self.document_mask,
        )

    def _document(self, sequence: int, shard: int, row: int) -> tuple[np.ndarray, int]:
        try:
            return self.shards.document(shard, row)
        except DataError as error:
            raise DataError(f"{self.path}: sequence {sequence}: {error}") from error

    def document_ids(self, batch: Batch) -> list[str]:
        """Hex ids of the documents in a batch, each once, in order of appearance."""
        known = (pair for pair in batch.segments_N2.tolist() if pair[0] >= 0)
        return [self.shards.describe(shard, row)["document_id"] for shard, row in dict.fromkeys(map(tuple, known))]


# ---------------------------------------------------------------------------------------------------------------
# Order


def epoch_order(first_shard: np.ndarray, key: str, epoch: int, window: int = WINDOW) -> np.ndarray:
    """A permutation of the sequences: shards in random order, and sequences at random inside `window` shards.

    Args:
        first_shard: (sequences,) the shard in which each begins.
        key: names pack and seed.
    """
    present, index = np.unique(first_shard, return_inverse=True)
    rank = np.argsort(np.argsort(scramble(present, f"{key}/{epoch}/shards"), kind="stable"))
    return np.lexsort((scramble(np.arange(len(index)), f"{key}/{epoch}/sequences"), rank[index] // window))


class Feed:
    """The batches of one stage of training, by step inside the stage.

    The global batch of a step does not depend on the number of ranks: rank r of R reads rows r, r + R, r + 2R, ...

    Args:
        key: names pack and seed; equal keys give equal orders.
        batches: sequences of every step over all ranks.
    """

    def __init__(self, sequences: Sequences, key: str, batches: Batches, rank: int = 0, ranks: int = 1) -> None:
        if not sequences.count:
            raise DataError(f"{sequences.path}: holds no sequence; give the stage more documents or shorter sequences")
        self.sequences = sequences
        self.batches = batches
        self._rank, self._ranks = rank, ranks
        first = sequences.first_shards()
        # A batch may lie across the border of two epochs.
        self._order = functools.lru_cache(maxsize=2)(lambda epoch: epoch_order(first, key, epoch))

    def sequence_at(self, index: int) -> int:
        """The number in the pack of the stage's index-th sequence, epoch after epoch."""
        epoch, at = divmod(index, self.sequences.count)
        return int(self._order(epoch)[at])

    def rows(self, step: int) -> list[int]:
        """This rank's sequences of a step."""
        mine = range(self._rank, self.batches.size(step), self._ranks)
        return [self.sequence_at(self.batches.first(step) + row) for row in mine]

    def batch(self, step: int) -> Batch:
        return self.sequences.read(self.rows(step))


def prefetch(read: Callable[[int], T], begin: int, end: int, depth: int = 4) -> Generator[T, None, None]:
    """read(begin), ..., read(end - 1), up to `depth` of them ahead in a thread; its errors are raised here.

    Close the generator to end the thread early.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for number in range(begin, end):
                if stop.is_set():
                    return
                put((read(number), None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(begin, end):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
