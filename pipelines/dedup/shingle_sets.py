"""The sets of shingles of a shard's documents in one file, so that candidates can be compared by their true similarity.

Candidates lie in any two shards, and their text is not carried between workers. Each shard leaves its sets beside it;
whoever compares two documents reads the few ranges that it needs, from a local disk or from an object store. A shingle
is the upper half of its hash: two different ones of a pair of documents are taken for equal once in some millions.

A file is little-endian: the number of documents n (uint64), n + 1 offsets into the shingles (uint64), n fingerprints
(uint64), n languages (uint64), and the shingles (uint32), sorted and distinct within a document. Fingerprints of equal
sets are equal, so copies are settled without their shingles. Documents of two languages are never similar; a language
that is not known, 0, may be any.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from schemas import paths
from schemas.errors import DataError
from schemas.hashing import scramble

BATCH = 4 << 20  # shingles held at once
CACHED = 256  # heads of files that a worker keeps


class Sets:
    """Gathers the shingle sets of one shard, batch by batch."""

    def __init__(self, languages: np.ndarray) -> None:
        rows = len(languages)
        self.languages = languages
        self.sizes = np.zeros(rows, np.int64)
        self.fingerprints = np.zeros(rows, np.uint64)
        self.parts: list[np.ndarray] = []

    def add(self, rows: np.ndarray, hashes: np.ndarray, counts: np.ndarray) -> None:
        """`rows` ascend from call to call; `hashes` are the shingles of these documents end to end, repeats and all."""
        owners = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
        distinct = np.unique(owners << np.uint64(32) | hashes >> np.uint64(32))
        owners = (distinct >> np.uint64(32)).astype(np.int64)
        shingles = distinct.astype(np.uint32)
        self.sizes[rows] = np.bincount(owners, minlength=len(rows))
        sums = np.zeros(len(rows), np.uint64)
        np.add.at(sums, owners, scramble(shingles.astype(np.uint64) + np.uint64(1)))
        self.fingerprints[rows] = sums
        self.parts.append(shingles)

    def write(self, path: str) -> None:
        offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        with paths.write_atomic(path) as handle:
            handle.write(np.array([len(self.sizes)], "<u8").tobytes())
            handle.write(offsets.astype("<u8").tobytes())
            handle.write(self.fingerprints.astype("<u8").tobytes())
            handle.write(self.languages.astype("<u8").tobytes())
            for part in self.parts:
                handle.write(part.astype("<u4").tobytes())


class Head:
    """What a file says of its documents without their shingles."""

    def __init__(self, path: str) -> None:
        with paths.open_read(path) as handle:
            count = int.from_bytes(handle.read(8), "little")
            data = handle.read(8 * (3 * count + 1))
        if len(data) != 8 * (3 * count + 1):
            raise DataError(f"{path}: is cut off; remove the folder and run again")
        numbers = np.frombuffer(data, "<u8")
        self.offsets = numbers[: count + 1].astype(np.int64)
        self.fingerprints = numbers[count + 1 : 2 * count + 1]
        self.languages = numbers[2 * count + 1 :]
        self.begin = 8 * (3 * count + 2)


@lru_cache(maxsize=CACHED)
def head(path: str) -> Head:
    return Head(path)


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
        about = head(place(shard))
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
    shards, begins = np.unique(documents >> np.uint64(32), return_index=True)
    for shard, begin, end in zip(shards.tolist(), begins.tolist(), [*begins[1:].tolist(), len(documents)]):
        yield shard, slice(begin, end), (documents[begin:end] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _read(documents: np.ndarray, place: Callable[[int], str]) -> list[np.ndarray]:
    """The sets of the documents, given by sorted references."""
    found: list[np.ndarray] = []
    for shard, _, rows in _by_shard(documents):
        path = place(shard)
        about = head(path)
        begins, ends = about.begin + 4 * about.offsets[rows], about.begin + 4 * about.offsets[rows + 1]
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
