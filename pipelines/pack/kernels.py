"""Laying documents into sequences of T + 1 positions: T inputs and T labels, which overlap in all but one.

Documents come as `lengths` in positions (tokens and the end-of-document token), in the order of the stream. A packing
answers with pieces of documents, grouped by sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SEGMENTS_PER_BATCH = 1 << 18

_Bins = np.ndarray  # numbers of sequences, int64


@dataclass(frozen=True)
class Packing:
    """Sequence k holds the pieces offsets[k] to offsets[k + 1]: positions begin to begin + length of `document`."""

    offsets: np.ndarray  # int64 [sequences + 1]
    document: np.ndarray  # int64 [pieces], index into the stream
    begin: np.ndarray  # int64 [pieces]
    length: np.ndarray  # int64 [pieces]


@dataclass(frozen=True)
class Stream:
    """The documents joined end to end: sequence k covers the positions k * T to k * T + T of it, both included.

    The incomplete rest is dropped. Consecutive sequences share one position: the last label of one is the first input
    of the next.
    """

    ends: np.ndarray  # int64 [documents + 1], position where each document begins; the last is the total
    sequence_length: int

    @property
    def sequences(self) -> int:
        return max(0, (int(self.ends[-1]) - 1) // self.sequence_length)

    @property
    def cut_documents(self) -> int:
        """Documents used in part or over several sequences only, never whole inside one."""
        length, count = self.sequence_length, self.sequences
        begin, end = self.ends[:-1], self.ends[1:]
        used = begin < count * length + 1 if count else np.zeros(len(begin), bool)
        first = np.minimum(begin // length, count - 1)  # the last sequence that begins at or before the document
        return int(np.count_nonzero(used & (end > first * length + length + 1)))

    def packings(self) -> Iterator[Packing]:
        """The sequences in order, in parts of about SEGMENTS_PER_BATCH pieces."""
        starts = np.arange(self.sequences, dtype=np.int64) * self.sequence_length
        first = np.searchsorted(self.ends, starts, "right") - 1
        last = np.searchsorted(self.ends, starts + self.sequence_length, "right") - 1
        offsets = np.concatenate(([0], np.cumsum(last - first + 1)))
        for a, b in split_evenly(offsets):
            part = offsets[a : b + 1] - offsets[a]
            counts = np.diff(part)
            document = np.repeat(first[a:b] - part[:-1], counts) + np.arange(part[-1])
            start = np.repeat(starts[a:b], counts)
            begin = np.maximum(start - self.ends[document], 0)
            end = np.minimum(start + self.sequence_length + 1, self.ends[document + 1]) - self.ends[document]
            yield Packing(part, document, begin, end - begin)


def concatenate(lengths: np.ndarray, sequence_length: int) -> Stream:
    """lengths: int64 [documents], each at least 1."""
    return Stream(np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64))), sequence_length)


def split_evenly(offsets: np.ndarray, limit: int = SEGMENTS_PER_BATCH) -> Iterator[tuple[int, int]]:
    """Ranges of sequences of about `limit` pieces each, at least one sequence."""
    a, count = 0, len(offsets) - 1
    while a < count:
        b = max(a + 1, int(np.searchsorted(offsets, offsets[a] + limit, "right")) - 1)
        yield a, b
        a = b


def cut(lengths: np.ndarray, sequence_length: int, minimum: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents into pieces of at most T + 1 positions -> (document, begin, length), int64 [pieces].

    Consecutive pieces share one position, so that no label is lost. Pieces under `minimum` positions are dropped; two
    are the least that hold an input and a label.
    """
    counts = np.maximum(0, -(-(lengths - 1) // sequence_length))
    document = np.repeat(np.arange(len(lengths)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    begin = (np.arange(len(document)) - first) * sequence_length
    length = np.minimum(sequence_length + 1, lengths[document] - begin)
    keep = length >= max(2, minimum)
    return document[keep], begin[keep], length[keep]


def best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Best-fit decreasing: each size into the fullest sequence that has room -> (sequence of each, sequences).

    Pieces of one size are placed together. Sizes fall, so the sequences with room for the present size form a stack
    with the fullest on top: what has room only for the next, smaller size is fuller than all of them, and what receives
    a piece was on top. No search is needed and the work is O(pieces + capacity), after one sort. A sequence of free
    space f takes f // size pieces in a row, since the first piece makes it fuller still.
    Sources: Johnson 1973; packing of training data by it, Ding et al. 2024 (arXiv:2404.10830).
    """
    order = np.argsort(-sizes, kind="stable")
    placed = np.empty(len(sizes), np.int64)
    distinct, starts = np.unique(-sizes[order], return_index=True)
    stops = np.append(starts[1:], len(sizes))
    roomy: list[tuple[int, _Bins]] = []  # (free, bins) with room for the present size, the fullest on top
    waiting: dict[int, list[_Bins]] = {}  # free -> bins without room for it
    opened, previous = 0, capacity + 1

    for size, start, stop in zip((-distinct).tolist(), starts.tolist(), stops.tolist()):
        released = (free for free in range(previous - 1, size - 1, -1) if free in waiting)
        roomy.extend((free, np.concatenate(waiting.pop(free))) for free in released)
        previous = size
        while start < stop:
            left = stop - start
            if roomy:
                free, bins = roomy.pop()
                each = free // size
                wanted = -(-left // each)
                if wanted < len(bins):
                    roomy.append((free, bins[wanted:]))
                    bins = bins[:wanted]
            else:
                free, each = capacity, capacity // size
                bins = np.arange(opened, opened + -(-left // each))
                opened += len(bins)
            number = min(left, each * len(bins))
            placed[order[start : start + number]] = np.repeat(bins, each)[:number]
            start += number
            short = each * len(bins) - number  # pieces that the last of these sequences did not get
            full = bins[:-1] if short else bins
            if len(full) and (free_after := free - each * size):
                waiting.setdefault(free_after, []).append(full)
            if short:
                roomy.append((free - (each - short) * size, bins[-1:]))
    return placed, opened


def pack_whole(lengths: np.ndarray, sequence_length: int, minimum: int = 2) -> Packing:
    """Best-fit packing of documents, longer ones cut; a sequence may end in unused positions.

    Sequences come in the order of their first piece in the stream, and so do the pieces of a sequence: the order keeps
    no trace of the sizes, and neighbours in the stream stay close on disk.
    """
    document, begin, length = cut(lengths, sequence_length, minimum)
    placed, count = best_fit(length, sequence_length + 1)
    first = np.full(count, len(placed), np.int64)
    np.minimum.at(first, placed, np.arange(len(placed)))
    order = np.argsort(first[placed], kind="stable")
    sizes = np.bincount(placed, minlength=count)[np.argsort(first)]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    return Packing(offsets, document[order], begin[order], length[order])


def parts(packing: Packing) -> Iterator[Packing]:
    """A packing in parts of about SEGMENTS_PER_BATCH pieces."""
    for a, b in split_evenly(packing.offsets):
        low, high = packing.offsets[a], packing.offsets[b]
        yield Packing(
            packing.offsets[a : b + 1] - low,
            packing.document[low:high],
            packing.begin[low:high],
            packing.length[low:high],
        )
