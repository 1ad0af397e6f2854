"""Documents with planted near-duplicates, made from a seed as arrays of words.

Words follow Zipf's law over a vocabulary of random letters. Documents come in pairs of a base and a partner: the base
with a share of its words replaced, deleted or followed by a new one (EDITS), its first 50-90 % (CUT), another document
between the same header and footer, 22 % of its words (FURNITURE), or another document altogether (UNRELATED). The first
two kinds are one family, the other two are not. One space or line feed stands between two words, so that every reading
of `word` gives the same n-grams.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.hashing import GOLDEN

EDITS = ("1 %", "2 %", "3 %", "5 %", "10 %", "15 %")
CUT, FURNITURE, UNRELATED = "cut", "furniture", "unrelated"
KINDS = (*EDITS, CUT, FURNITURE, UNRELATED)
FAMILIES = (*EDITS, CUT)
PAIRS_PER_FILE = 5_000
VOCABULARY = 50_000
SITES = 50
NGRAM = 5


def write_corpus(folder: Path, documents: int, words: int, seed: int) -> pl.DataFrame:
    """Write `text` and `id` to Parquet files of 2 * PAIRS_PER_FILE rows, of which the last may be smaller.

    Answers with a row per pair: `pair` (its documents are pair:0 and pair:1), `kind`, and `jaccard` of the sets of its
    word 5-grams. Pairs stand together, so that the first half of the files is a corpus of half the size.
    """
    folder.mkdir(parents=True)
    vocabulary = make_vocabulary(seed)
    truth = []
    for number, begin in enumerate(range(0, documents // 2, PAIRS_PER_FILE)):
        pairs = np.arange(begin, min(begin + PAIRS_PER_FILE, documents // 2))
        kinds = pairs % len(KINDS)
        sides = _word_pairs(kinds, words, np.random.default_rng([seed, number]))
        texts = [_texts(vocabulary, *side) for side in sides]
        order = np.arange(2 * len(pairs)).reshape(2, -1).T.ravel()
        ids = [f"{pair}:{side}" for pair in pairs.tolist() for side in (0, 1)]
        table = pa.table({"id": ids, "text": pa.concat_arrays(texts).take(pa.array(order))})
        pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd", row_group_size=1_000)
        names = [KINDS[kind] for kind in kinds.tolist()]
        truth.append(pl.DataFrame({"pair": pairs, "kind": names, "jaccard": _jaccard(*sides)}))
    return pl.concat(truth)


def make_vocabulary(seed: int) -> np.ndarray:
    """Words of 2 to 10 letters; a few are the same."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 11, VOCABULARY)
    letters = "".join(draw.choice(list("etaoinshrdlucmfwypvbgk"), sizes.sum()))
    ends = np.cumsum(sizes).tolist()
    return np.array([letters[end - size : end] for end, size in zip(ends, sizes.tolist())], object)


def _zipf(size: int | tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Ranks of words: rank r comes up as often as 1 / r."""
    return np.exp(draw.random(size) * np.log(VOCABULARY)).astype(np.int32)


def _word_pairs(kinds: np.ndarray, words: int, draw: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bases and partners, each as (the words of all documents end to end, how many each document has)."""
    base, other = _zipf((len(kinds), words), draw), _zipf((len(kinds), words), draw)
    head, foot = words // 8, words // 10
    rows = np.flatnonzero(kinds == KINDS.index(FURNITURE))
    sites = _zipf((SITES, head + foot), draw)[draw.integers(SITES, size=len(rows))]
    for side in (base, other):
        side[rows, :head], side[rows, words - foot :] = sites[:, :head], sites[:, head:]

    repeats = np.ones(base.shape, np.int8)  # of every word of the partner: 0 is deleted, 2 is followed by a new one
    edited = np.zeros(base.shape, bool)
    for kind, name in enumerate(EDITS):
        rows = np.flatnonzero(kinds == kind)
        count = round(int(name.split()[0]) / 100 * words)
        places = np.argsort(draw.random((len(rows), words)), axis=1)[:, :count]
        repeats[rows[:, None], places] = draw.integers(3, size=places.shape)
        edited[rows[:, None], places] = True
        other[rows] = base[rows]
    rows = np.flatnonzero(kinds == KINDS.index(CUT))
    kept = (words * draw.uniform(0.5, 0.9, len(rows))).astype(int)
    other[rows] = base[rows]
    repeats[rows] = np.arange(words) < kept[:, None]

    origin = np.repeat(np.arange(other.size), repeats.ravel())
    flat = other.ravel()[origin]
    new = np.diff(origin, prepend=-1) == 0  # the second of two
    new |= edited.ravel()[origin] & (repeats.ravel()[origin] == 1)
    flat[new] = _zipf(int(new.sum()), draw)
    whole = np.full(len(kinds), words)
    return [(base.ravel(), whole), (flat, repeats.sum(axis=1, dtype=np.int64))]


def _texts(vocabulary: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> pa.Array:
    """Every document as a string; every sixteenth word begins a line."""
    words = pa.array(vocabulary, pa.string()).take(pa.array(ranks))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(len(ranks)) - np.repeat(offsets[:-1], counts)
    ends = (place % 16 == 15) & (place < np.repeat(counts, counts) - 1)
    lines = pc.binary_join(pa.ListArray.from_arrays(_line_offsets(offsets, ends).astype(np.int32), words), " ")
    starts = np.concatenate([[0], np.cumsum(np.add.reduceat(ends, offsets[:-1], dtype=np.int64) + 1)])
    return pc.binary_join(pa.ListArray.from_arrays(starts.astype(np.int32), lines), "\n")


def _line_offsets(offsets: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate([offsets, np.flatnonzero(ends) + 1]))


def _jaccard(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> list[float]:
    """Of the sets of n-grams of every pair."""
    grams = []
    for ranks, counts in (first, second):
        numbers = np.zeros(len(ranks) - NGRAM + 1, np.uint64)
        for place in range(NGRAM):
            numbers = numbers * np.uint64(GOLDEN) + ranks[place : len(numbers) + place].astype(np.uint64)
        ends = np.cumsum(counts)
        grams.append([numbers[end - count : end - NGRAM + 1] for end, count in zip(ends.tolist(), counts.tolist())])
    shares = []
    for left, right in zip(*grams):
        left, right = np.unique(left), np.unique(right)
        common = len(np.intersect1d(left, right, assume_unique=True))
        shares.append(common / (len(left) + len(right) - common))
    return shares
