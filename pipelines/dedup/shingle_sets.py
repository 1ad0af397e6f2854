"""The sets of shingles of a shard's documents in one file, so that candidates can be compared by their true similarity.

Candidates lie in any two shards, and their text is not carried between workers. Each shard leaves its sets beside it;
whoever compares two documents reads the few ranges that it needs, from a local disk or from an object store. A shingle
is the upper half of its hash: two different ones of a pair of documents are taken for equal once in some millions.

A file is little-endian: the shingles (uint32), sorted and distinct within a document; then, for n documents, n + 1
offsets into them, n fingerprints, n languages and n itself (all uint64). Fingerprints of equal sets are equal, so
copies are settled without their shingles. Documents of two languages are never similar; a language that is not known,
0, may be any.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import IO

import numpy as np

from pipelines.dedup.kernels import rows_of, shards_of
from schemas import paths
from schemas.errors import DataError
from schemas.hashing import scramble

BATCH = 4 << 20  # shingles held at once
CACHED = 256  # tails of files that a worker keeps


class Writer:
    """Writes the shingle sets of one shard, batch by batch."""

    def __init__(self, handle: IO[bytes], languages: np.ndarray) -> None:
        self.handle = handle
        self.languages = languages
        self.sizes = np.zeros(len(languages), np.int64)
        self.fingerprints = np.zeros(len(languages), np.uint64)

    def add(self, rows: np.ndarray, hashes: np.ndarray, counts: np.ndarray) -> None:
        """`rows` ascend from call to call; `hashes` are the shingles of these documents end to end, repeats and all."""
        owners = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
        distinct = np.unique(owners << np.uint64(32) | hashes >> np.uint64(32))
        owners = (distinct >> np.uint64(32)).astype(np.int64)
        shingles = distinct.astype("<u4")
        self.sizes[rows] = np.bincount(owners, minlength=len(rows))
        sums = np.zeros(len(rows), np.uint64)
        np.add.at(sums, owners, scramble(shingles.astype(np.uint64) + np.uint64(1)))
        self.fingerprints[rows] = sums
        self.handle.write(shingles.tobytes())

    def close(self) -> None:
        offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        for column in (offsets, self.fingerprints, self.languages, np.array([len(self.sizes)])):
            self.handle.write(column.astype("<u8").tobytes())


@contextlib.contextmanager
def writer(path: str, languages: np.ndarray) -> Iterator[Writer]:
    """Opens a file of as many documents as there are `languages`; it appears when the block ends without an error."""
    with paths.write_atomic(path) as handle:
        sets = Writer(handle, languages)
        yield sets
        sets.close()


class Tail:
    """What a file says of its documents without their shingles."""

    def __init__(self, path: str) -> None:
        with paths.open_read(path) as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 8))
            count = int.from_bytes(handle.read(8), "little")
            begin = size - 8 * (3 * count + 2)
            if begin < 0:
                raise DataError(f"{path}: is cut off; remove the folder and run again")
            handle.seek(begin)
            numbers = np.frombuffer(handle.read(8 * (3 * count + 1)), "<u8")
        self.offsets = numbers[: count + 1].astype(np.int64)
        self.fingerprints = numbers[count + 1 : 2 * count + 1]
        self.languages = numbers[2 * count + 1 :]
        if 4 * int(self.offsets[-1]) != begin:
            raise DataError(f"{path}: is cut off; remove the folder and run again")


@lru_cache(maxsize=CACHED)
def tail(path: str) -> Tail:
    return Tail(path)


def similar(edges: np.ndarray, place: Callable[[int], str], least: float) -> np.ndarray:
    """bool [edges]: the Jaccard similarity of the two documents' shingle sets is at least `least`.

    `edges` are records with `first` and `second`, best sorted by `first`; `place` gives the file of a shard. Two
    documents without shingles are not similar. About BATCH shingles are in memory at a time, or one pair.
    """
    ends = np.stack([edges["first"], edges["second"]], axis=1)
    documents, inverse = np.unique(ends, return_inverse=True)
    inverse = inverse.reshape(ends.shape)
    sizes = np.zeros(len(documents), np.int64)
    prints, languages = np.zeros(len(documents), np.uint64), np.zeros(len(documents), np.uint64)
    for shard, members, rows in _by_shard(documents):
        about = tail(place(shard))
        sizes[members] = about.offsets[rows + 1] - about.offsets[rows]
        prints[members], languages[members] = about.fingerprints[rows], about.languages[rows]
    first, second = inverse.T
    small, large = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
    possible = (small >= least * large) & (small > 0)
    possible &= (languages[first] == languages[second]) | (languages[first] == 0) | (languages[second] == 0)
    found = possible & (prints[first] == prints[second]) & (small == large)
    open_ones = np.flatnonzero(possible & ~found)
    load = np.cumsum(sizes[first[open_ones]] + sizes[second[open_ones]]) // BATCH
    for batch in np.split(open_ones, np.flatnonzero(np.diff(load)) + 1) if len(open_ones) else []:
        needed, local = np.unique(inverse[batch], return_inverse=True)
        sets = _read(documents[needed], place)
        pairs = local.reshape(-1, 2).tolist()
        shared = np.array([_shared(sets[one], sets[other]) for one, other in pairs])
        found[batch] = shared >= least * (small[batch] + large[batch] - shared)
    return found


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    if len(one) > len(other):
        one, other = other, one
    places = np.minimum(np.searchsorted(other, one), len(other) - 1)
    return int((other[places] == one).sum())


def _by_shard(documents: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Shard, where its documents stand in the sorted references, and their rows."""
    shards, begins = np.unique(shards_of(documents), return_index=True)
    for shard, begin, end in zip(shards.tolist(), begins.tolist(), [*begins[1:].tolist(), len(documents)]):
        yield shard, slice(begin, end), rows_of(documents[begin:end])


def _read(documents: np.ndarray, place: Callable[[int], str]) -> list[np.ndarray]:
    """The sets of the documents, given by sorted references."""
    found: list[np.ndarray] = []
    for shard, _, rows in _by_shard(documents):
        path = place(shard)
        about = tail(path)
        begins, ends = 4 * about.offsets[rows], 4 * about.offsets[rows + 1]
        found += [np.frombuffer(data, "<u4") for data in _ranges(path, begins.tolist(), ends.tolist())]
    return found


def _ranges(path: str, begins: Sequence[int], ends: Sequence[int]) -> Sequence[bytes]:
    if paths.is_local(path):
        with paths.open_read(path) as handle:
            found = []
            for begin, end in zip(begins, ends):
                handle.seek(begin)
                found.append(handle.read(end - begin))
            return found
    fs, inner = paths.filesystem(path)
    return list(fs.cat_ranges([inner] * len(begins), list(begins), list(ends), on_error="raise"))
