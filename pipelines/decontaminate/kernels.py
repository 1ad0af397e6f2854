"""Overlap of texts with the items of benchmarks, by n-grams of words, as arrays.

Case, punctuation, white space, line breaks and compatibility forms do not count (NFKC, case-folded, words only). An
item of at least n words is its distinct n-grams; a shorter one is a single run, its whole word sequence. What is
reported is the share of one item's n-grams that one document holds.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import xxhash

from pipelines import words
from pipelines.words import spans
from schemas.hashing import scramble

FORMULAIC = 20  # an n-gram of more different items of one benchmark than this is a formula, not a leak
LEAST_WORDS = 4  # shorter items say too little; two characters of a script without spaces count as one word


@dataclass(frozen=True)
class Index:
    """The n-grams of all benchmarks; n-gram i belongs to the items `items[offsets[i]:offsets[i + 1]]`."""

    names: np.ndarray  # str [benchmarks], sorted
    keys: np.ndarray  # uint64 [n-grams], sorted: their hashes
    offsets: np.ndarray  # int32 [n-grams + 1]
    items: np.ndarray  # int32
    sizes: np.ndarray  # int32 [items]: distinct n-grams of the item that are no formula
    benchmarks: np.ndarray  # int32 [items]: index into `names`
    lengths: np.ndarray  # int32, sorted: lengths in words that n-grams of the index have
    bits: np.ndarray  # uint8: a bit per value of the upper bits of a hash, set where there may be such a key

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))


@dataclass(frozen=True)
class Overlap:
    """For each pair of a text and a benchmark with any n-gram in common: the largest share of an item found."""

    texts: np.ndarray  # int64, sorted
    benchmarks: np.ndarray  # int64, sorted within a text
    shares: np.ndarray  # float64


def split_words(texts: Sequence[str]) -> words.Words:
    return words.split(texts, lambda piece: words.normal("NFKC", piece).casefold())


def build_index(benchmarks: dict[str, list[str]], ngram: int) -> tuple[Index, dict[str, dict[str, int]]]:
    """The index of the items of each benchmark, and how many it has: items, and why some of them are not used.

    Equal items are taken once. N-grams in more than FORMULAIC items of one benchmark are left out of all of them.
    """
    names = sorted(benchmarks)
    hashes, owners, owner_benchmarks = [], [], []
    lengths: set[int] = set()
    report: dict[str, dict[str, int]] = {}
    total = 0
    for number, name in enumerate(names):
        found = split_words(benchmarks[name])
        sizes = np.minimum(found.lengths, ngram)
        sizes[found.lengths - found.spaceless_counts() / 2 < LEAST_WORDS] = 0
        short = int((sizes == 0).sum())
        sizes[_repeats(found)] = 0
        keys, counts = words.ngrams(found, sizes)
        pairs = np.empty(len(keys), [("key", "<u8"), ("item", "<i8")])
        pairs["key"], pairs["item"] = keys, np.repeat(np.arange(len(counts)), counts)
        pairs = np.unique(pairs)
        _, which, items = np.unique(pairs["key"], return_inverse=True, return_counts=True)
        pairs = pairs[items[which] <= FORMULAIC]
        used, owner = np.unique(pairs["item"], return_inverse=True)
        hashes.append(pairs["key"])
        owners.append(owner + total)
        owner_benchmarks.append(np.full(len(used), number, np.int32))
        lengths.update(np.unique(sizes[used]).tolist())
        total += len(used)
        report[name] = {
            "items": len(sizes),
            "too_short": short,
            "formulaic": int((sizes > 0).sum()) - len(used),
            "used": len(used),
        }
    all_owners = np.concatenate([np.empty(0, np.int64), *owners])
    all_hashes = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.lexsort((all_owners, all_hashes))
    keys, counts = np.unique(all_hashes, return_counts=True)
    index = Index(
        np.array(names, np.str_),
        keys,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        all_owners[order].astype(np.int32),
        np.bincount(all_owners, minlength=total).astype(np.int32),
        np.concatenate([np.empty(0, np.int32), *owner_benchmarks]),
        np.array(sorted(lengths), np.int32),
        _bits(keys),
    )
    return index, report


def overlap(index: Index, texts: Sequence[str]) -> Overlap:
    """What each text shares with each benchmark."""
    found = split_words(texts)
    hits = []
    lengths = set(index.lengths.tolist())
    for size, running in words.windows(found.hashes, max(lengths, default=0)):
        if size in lengths:
            hashes = scramble(running)
            places = np.flatnonzero(_maybe(index, hashes))
            keys = np.minimum(np.searchsorted(index.keys, hashes[places]), len(index.keys) - 1)
            owners = np.searchsorted(found.offsets, places, side="right") - 1
            real = (index.keys[keys] == hashes[places]) & (places + size <= found.offsets[owners + 1])
            hits.append(owners[real] * len(index.keys) + keys[real])
    owners, keys = np.divmod(np.unique(np.concatenate([np.empty(0, np.int64), *hits])), max(1, len(index.keys)))
    begins, counts = index.offsets[keys], index.offsets[keys + 1] - index.offsets[keys]
    items = index.items[spans(begins, counts)]
    pairs, shared = np.unique(np.repeat(owners, counts) * len(index.sizes) + items, return_counts=True)
    owners, items = np.divmod(pairs, max(1, len(index.sizes)))
    shares = shared / index.sizes[items]
    pairs = owners * len(index.names) + index.benchmarks[items]
    order = np.lexsort((-shares, pairs))
    pairs, first = np.unique(pairs[order], return_index=True)
    owners, benchmarks = np.divmod(pairs, max(1, len(index.names)))
    return Overlap(owners, benchmarks, shares[order][first])


def index_to_bytes(index: Index) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{field.name: getattr(index, field.name) for field in fields(index)})
    return buffer.getvalue()


def index_from_bytes(data: bytes) -> Index:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Index(**{field.name: arrays[field.name] for field in fields(Index)})


def _repeats(found: words.Words) -> np.ndarray:
    """bool [texts]: the words of this text are those of an earlier one."""
    data = found.hashes.tobytes()
    bounds = (8 * found.offsets).tolist()
    seen: set[bytes] = set()
    repeats = np.zeros(len(bounds) - 1, bool)
    for text, (begin, end) in enumerate(pairwise(bounds)):
        digest = xxhash.xxh3_128_digest(data[begin:end])
        repeats[text] = digest in seen
        seen.add(digest)
    return repeats


def _bits(keys: np.ndarray) -> np.ndarray:
    """16 to 32 bits per key, of which one is set: most words of most texts need no search among the keys."""
    width = max(10, (16 * len(keys)).bit_length())
    bits = np.zeros(1 << width, bool)
    bits[keys >> np.uint64(64 - width)] = True
    return np.packbits(bits, bitorder="little")


def _maybe(index: Index, hashes: np.ndarray) -> np.ndarray:
    width = (8 * len(index.bits)).bit_length() - 1
    places = hashes >> np.uint64(64 - width)
    return index.bits[places >> np.uint64(3)] & (np.uint8(1) << (places & np.uint64(7)).astype(np.uint8))
