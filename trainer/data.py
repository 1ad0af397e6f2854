"""Batches straight from the memory-mapped token shards, in an order that is a pure function of pack, seed and step.

Nothing is copied before a step asks for it: a pack says which spans of which documents make a sequence, and the spans
are read from the shards. A sequence of length T has T + 1 positions, T inputs and T labels.

torch is imported when a batch is made and not before, so that the order can be asked for without waiting for it.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from schemas.errors import DataError
from schemas.hashing import digest, scramble
from schemas.job import Job
from schemas.recipe import TrainingStage
from schemas.tokens import PACK
from trainer.schedule import Batches, batches_of
from trainer.shards import WINDOW, Lists, TokenShards, stage_files

if TYPE_CHECKING:
    import torch

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

    @property
    def real_BT(self) -> torch.Tensor:
        """False at padding."""
        import torch

        real_N = torch.from_numpy(self.segments_N2[:, 0] >= 0).to(self.document_BT.device, non_blocking=True)
        return real_N[self.document_BT.long()]

    def part(self, begin: int, end: int) -> Batch:
        """Some of the sequences."""
        return self._map(lambda tensor: tensor[begin:end])

    def pinned(self) -> Batch:
        """In memory that a GPU reads without making the CPU wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        return self if device.type == "cpu" else self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(
            self,
            tokens_BT=change(self.tokens_BT),
            labels_BT=change(self.labels_BT),
            positions_BT=change(self.positions_BT),
            document_BT=change(self.document_BT),
            group_BT=change(self.group_BT),
        )


class Sequences:
    """The sequences of one pack, by number.

    Raises:
        DataError: the pack is missing, differs from its manifest, or has another sequence length than asked for.
    """

    def __init__(self, job: Job, name: str, shards: TokenShards, document_mask: bool = True) -> None:
        manifest = job.manifest("pack")
        declared = manifest.extra.get("validation") if name == "validation" else manifest.extra["stages"].get(name)
        file = next(iter(stage_files(job, "pack", name)), None)
        if declared is None or file is None:
            raise DataError(f"{job.inputs['pack']}: has no pack of '{name}'; make the pack stage again")
        self.path = file.path
        self.length = int(declared["sequence_length"])
        self.shards = shards
        self.document_mask = document_mask
        table, self._lease = shards.open(file, PACK)  # in use as long as this is
        self._lists = Lists(table.column("segments"))
        fields = PACK.field("segments").type.value_type
        self._fields = [[values.field(i).to_numpy() for i in range(fields.num_fields)] for values in self._lists.values]
        self.count = file.entry.rows
        if self.count != declared["sequences"]:
            raise DataError(f"{self.path}: has {self.count} sequences, its manifest says {declared['sequences']}")

    def segments(self, sequences: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of some sequences the number of segments, and all segments: (segments, 4) shard, row, begin and length."""
        chunks, begins, ends = self._lists.spans(np.asarray(sequences, np.int64))
        found = [np.zeros((0, 4), np.int64)]
        for chunk, begin, end in zip(chunks.tolist(), begins.tolist(), ends.tolist()):
            found.append(np.stack([field[begin:end] for field in self._fields[chunk]], axis=1, dtype=np.int64))
        return ends - begins, np.concatenate(found)

    def holding(self, documents: np.ndarray) -> np.ndarray:
        """The sequences that hold something of some documents, (documents, 2) by shard and row; sorted, each once."""
        wanted = documents[:, 0] << 32 | documents[:, 1]
        found = [np.zeros(0, np.int64)]
        for first, offsets, (shards, rows, *_) in zip(self._lists.begins, self._lists.offsets, self._fields):
            at = np.flatnonzero(np.isin(shards.astype(np.int64) << 32 | rows, wanted))
            found.append(first + np.searchsorted(offsets, at, side="right") - 1)
        return np.unique(np.concatenate(found))

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
        import torch

        from trainer.loss import IGNORE

        shape = (len(sequences), self.length + 1)
        counts, segments_N4 = self.segments(sequences)
        lines, lengths = np.repeat(np.arange(len(counts)), counts), segments_N4[:, 3]
        ends = np.concatenate(([0], np.cumsum(lengths)))
        last = np.cumsum(counts)
        starts = ends[:-1] - ends[last - counts][lines]  # in the segment's own sequence
        free = shape[1] - (ends[last] - ends[last - counts])

        tokens = np.full(shape, self.shards.end_of_document, np.int64)  # also the padding and the ends of documents
        groups = np.zeros(len(lines), np.int64)
        for shard in np.unique(segments_N4[:, 0]).tolist():
            here = np.flatnonzero(segments_N4[:, 0] == shard)
            groups[here] = self._fill(tokens, sequences, lines[here], starts[here], segments_N4[here])

        # What is free at the end of a sequence is a segment of its own, of no document.
        short = np.flatnonzero(free)
        places = last[short]
        segments_N2 = np.insert(segments_N4[:, :2], places, -1, axis=0)
        starts, groups = np.insert(starts, places, 0), np.insert(groups, places, 0)
        rest = np.insert(segments_N4[:, 2] > 0, places, False)  # of a document that was cut
        lengths = np.insert(lengths, places, free[short])
        document = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths).reshape(shape)
        positions = np.broadcast_to(np.arange(shape[1]), shape)
        if self.document_mask:
            positions = positions - starts[document]
        if tokens.max(initial=0) >= self.shards.vocabulary_size:
            line, at = np.argwhere(tokens >= self.shards.vocabulary_size)[0]
            shard, row = segments_N2[document[line, at]].tolist()
            raise DataError(
                f"{self.shards.where(shard, row)}: token {tokens[line, at]} is not below the vocabulary size "
                f"{self.shards.vocabulary_size}; make the shards again with `sluice run RECIPE --from tokenize`"
            )
        follows = document[:, 1:] == document[:, :-1]
        if not self.document_mask:
            follows |= ~rest[document[:, 1:]]
        valid = (segments_N2[:, 0] >= 0)[document[:, 1:]] & follows
        return Batch(
            tokens_BT=torch.from_numpy(tokens[:, :-1].copy()),
            labels_BT=torch.from_numpy(np.where(valid, tokens[:, 1:], IGNORE)),
            positions_BT=torch.from_numpy(positions[:, :-1].copy()),
            document_BT=torch.from_numpy(document[:, :-1].copy()),
            group_BT=torch.from_numpy(groups[document[:, 1:]]),
            segments_N2=segments_N2,
            document_mask=self.document_mask,
        )

    def _fill(
        self,
        tokens: np.ndarray,
        sequences: Sequence[int] | np.ndarray,
        lines: np.ndarray,
        starts: np.ndarray,
        segments_M4: np.ndarray,
    ) -> np.ndarray:
        """Put the tokens of segments of one shard where they belong, and return the segments' groups, (M,)."""
        shard, (rows, begins, lengths) = int(segments_M4[0, 0]), segments_M4[:, 1:].T
        opened = self.shards.shard(shard)
        try:
            chunks, firsts, lasts = opened.spans(rows)
        except DataError as error:
            raise DataError(f"{self.path}: sequence {sequences[lines[0]]}: {error}") from error
        ends = starts + lengths
        wrong = (begins < 0) | (lengths < 1) | (begins + lengths > lasts - firsts + 1) | (ends > tokens.shape[1])
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{self.path}: sequence {sequences[lines[at]]} takes {lengths[at]} positions from {begins[at]} on of a "
                f"document of {lasts[at] - firsts[at]} tokens ({self.shards.where(shard, int(rows[at]))}), as "
                f"positions {starts[at]} to {ends[at]} of {tokens.shape[1]}; the pack does not belong to these shards"
            )
        stored = np.minimum(lengths, lasts - firsts - begins)  # without the end-of-document token
        flat, places, sources = tokens.reshape(-1), lines * tokens.shape[1] + starts, firsts + begins
        for chunk, place, source, length in zip(*(column.tolist() for column in (chunks, places, sources, stored))):
            flat[place : place + length] = opened.values[chunk][source : source + length]
        return opened.group[rows]

    def documents(self, sequences: Sequence[int]) -> list[dict[str, Any]]:
        """Where the documents of some sequences come from (`TokenShards.describe`), each once, in order."""
        documents, first = np.unique(self.segments(sequences)[1][:, :2], axis=0, return_index=True)
        return self.shards.describe(documents[np.argsort(first)])


# ---------------------------------------------------------------------------------------------------------------
# Order


def epoch_order(first_shard: np.ndarray, key: str, epoch: int, window: int = WINDOW) -> np.ndarray:
    """A permutation of the sequences: shards in random order, and sequences at random inside `window` shards.

    Args:
        first_shard: (sequences,) the shard in which each begins.
        key: names pack and seed.
    """
    present = np.flatnonzero(np.bincount(first_shard))
    rank = np.argsort(np.argsort(scramble(present, f"{key}/{epoch}/shards"), kind="stable"))
    windows = np.zeros(present.max(initial=0) + 1, np.int64)
    windows[present] = rank // window
    # Hashes differ, so any sort of them is stable; small numbers are sorted by their digits, in linear time.
    order = np.argsort(scramble(np.arange(len(first_shard)), f"{key}/{epoch}/sequences"))
    number = windows.astype(np.min_scalar_type(windows.max()))[first_shard]
    return order[np.argsort(number[order], kind="stable")]


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

    def all_rows(self, step: int) -> list[int]:
        """The sequences of a step over all ranks."""
        return [self.sequence_at(self.batches.first(step) + row) for row in range(self.batches.size(step))]

    def rows(self, step: int) -> list[int]:
        """This rank's sequences of a step."""
        mine = range(self._rank, self.batches.size(step), self._ranks)
        return [self.sequence_at(self.batches.first(step) + row) for row in mine]

    def batch(self, step: int) -> Batch:
        return self.sequences.read(self.rows(step))

    def reads(self, sequences: np.ndarray, steps: int) -> np.ndarray:
        """When the first `steps` steps read some sequences of the pack, over all ranks and epochs and in order.

        (reads, 4): the step, the row of its batch, the epoch and the sequence. The inverse of `all_rows`.
        """
        found = []
        total, count = self.batches.first(steps), self.sequences.count
        for epoch in range(-(-total // count)):
            order = self._order(epoch)
            for at in np.flatnonzero(np.isin(order, sequences)).tolist():
                if (index := epoch * count + at) < total:
                    step = self.batches.step_of(index)
                    found.append((step, index - self.batches.first(step), epoch, order[at]))
        return np.array(found, np.int64).reshape(-1, 4)


def stage_feed(job: Job, stage: TrainingStage, shards: TokenShards, rank: int = 0, ranks: int = 1) -> Feed:
    """The batches of a stage of training.

    Raises:
        DataError: the stage's pack is missing, damaged, empty or of another sequence length.
    """
    sequences = Sequences(job, stage.name, shards, stage.document_mask)
    if sequences.length != stage.sequence_length:
        raise DataError(
            f"{sequences.path}: packed for {sequences.length} tokens a sequence, stage {stage.name} asks for "
            f"{stage.sequence_length}; make the pack again"
        )
    order = digest([job.manifest("pack").hash, job.recipe.seed, stage.name])
    return Feed(sequences, order, batches_of(stage), rank, ranks)


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
