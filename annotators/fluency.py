"""Fluency: does a text read like its language, or like a damaged copy of it?

For each of the 119 labels there is a character n-gram model (`models/fluency.npz`, made by
`annotators.fluency_train`). It is log-linear: every n-gram of a text has a weight, found so that their sum tells real
lines from copies with shuffled characters, lost or replaced characters, wrong encodings and shuffled words.

- `fluency_score` is the probability that the text is real and not such a copy, if both were as likely before. It
  weighs the evidence of the whole text, so long texts lie near 0 or 1.
- `fluency` is the mean weight per character, in standard deviations of real text of that language and length: 0 is the
  average of the lines that the model was calibrated with, -2 is below nearly all of them, and broken text lies at -3 to
  -20. It is the one to compare documents by: text of which a part is broken lies between.

Both are null where there is nothing to compare with: the label is `other` or `und`, the text is source code or blank.

What is counted
- n-grams of 1 to 6 characters, across the spaces between words. Characters are decomposed (NFD, so that Hangul
  syllables fall into letters) and in lower case; a digit counts as the zero of its script. Marks of direction, soft
  hyphens and zero-width spaces are dropped, a run of white space is one space.
- n-grams of 1 to 5 kinds of characters: category and block of letters, any other character as it is. They tell where
  capitals and punctuation belong.
- Words, pairs of neighbours, and of their endings: what order words have.
- The beginning and the end of a line are characters too. A line feed before a small letter is a space, because it
  only wraps a line.

The text is read whole up to 3,000 characters, else in three windows of 1,000 at the beginning, middle and end. It is
compared with the label of the whole document, so that the other part of a document in two languages counts as damage.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotators.code import code_rows
from annotators.sidecar import sidecar
from annotators.text import chunks, sample
from schemas.hashing import GOLDEN, inverse_powers, powers
from schemas.labels import FLUENCY

VERSION = "1"
NEEDS = ("language",)  # annotators whose sidecars `annotate` takes

WINDOW, WINDOWS = 1000, 3
CHUNK_CHARACTERS = 1 << 15  # texts of one language are judged together up to this size: it fits the cache
ORDERS = 6
SHAPE_ORDERS = 5
CELL_BITS = 20
CELLS = 1 << CELL_BITS
NOTHING = CELLS
"""N-grams are known by a hash of so many bits; one that the model lacks meets another's weight once in 35 times.
NOTHING is the cell of no n-gram."""

MODEL = Path(__file__).parent / "models" / "fluency.npz"

_TOP = 1 << 17  # code points above are all one: the rest of the supplementary planes
_EDGE = 10  # the beginning or end of a line
_SPACE = 32
_DROPPED = (0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF)
_STEP = np.uint32(0x9E3779B1)

Cells = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Kinds:
    """What is known of a character, by code point; each of shape (_TOP,)."""

    folded: npt.NDArray[np.uint32]
    shape: npt.NDArray[np.uint32]
    lower: npt.NDArray[np.bool_]
    word: npt.NDArray[np.bool_]
    space: npt.NDArray[np.bool_]
    dropped: npt.NDArray[np.bool_]


@cache
def _kinds() -> Kinds:
    codes = np.arange(_TOP, dtype=np.uint32)
    characters = [chr(code) for code in range(_TOP)]
    categories = np.array([unicodedata.category(character) for character in characters])
    major = categories.astype("U1")
    word = np.isin(major, ("L", "M")) | (categories == "Nd")
    digit = categories == "Nd"
    lowered = (character.lower() for character in characters)
    folded = np.array([ord(low) if len(low) == 1 else code for code, low in enumerate(lowered)], np.uint32)
    folded[digit] = codes[digit] - [unicodedata.digit(character) for character in np.array(characters)[digit]]
    _, category = np.unique(categories, return_inverse=True)
    shape = np.where(word, (codes >> 7 << 5) + category.astype(np.uint32) + _TOP, codes)
    dropped = np.zeros(_TOP, np.bool_)
    dropped[list(_DROPPED)] = True
    space = np.array([character.isspace() for character in characters])
    return Kinds(folded, shape.astype(np.uint32), categories == "Ll", word, space, dropped)


@dataclass(frozen=True)
class Grams:
    """The n-grams of some texts.

    `runs`: for every order the cells of the n-grams at positions 0, 1, ... of the texts, NOTHING where one would reach
    beyond its text. `words`: cells and the positions they begin at, for words and for each kind of pair.
    `starts`, shape (texts + 1,): the position where each text begins, which is that of its first edge.
    """

    runs: list[Cells]
    words: list[tuple[Cells, Positions]]
    starts: Positions

    @property
    def lengths(self) -> Positions:
        """Characters of each text, without its first and last edge."""
        return np.maximum(np.diff(self.starts) - 2, 0)

    def parts(self) -> Iterator[tuple[Cells, Positions]]:
        """Cells and their positions, of all n-grams."""
        for cells in self.runs:
            whole = np.flatnonzero(cells != NOTHING)
            yield cells[whole], whole
        yield from self.words


def normal_form(texts: list[str]) -> tuple[npt.NDArray[np.uint32], Positions]:
    """Code points of `texts`, each between two edges, and where each text begins (and the last one ends)."""
    pieces = [unicodedata.normalize("NFD", text) for text in texts]
    joined = "".join(f"\n{piece}\n" for piece in pieces)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, np.uint32(_TOP - 1))
    ends = np.cumsum([len(piece) + 2 for piece in pieces], dtype=np.intp)
    kinds = _kinds()
    dropped = kinds.dropped[codes]
    if dropped.any():
        ends = np.cumsum(~dropped, dtype=np.intp)[ends - 1]
        codes = codes[~dropped]
    outer = np.zeros(len(codes), np.bool_)  # the first and last edge of each text
    outer[ends - 1] = True
    outer[ends[:-1]] = True
    outer[:1] = True
    space = kinds.space[codes] & ~outer
    # A run of white space is its first character: a line feed if there is one in it, unless a small letter follows.
    first = space.copy()
    first[1:] &= ~space[:-1]
    begins, afters = np.flatnonzero(first), np.flatnonzero(space[:-1] & ~space[1:]) + 1
    broken = np.zeros(len(begins), np.bool_)
    broken[np.searchsorted(begins, np.flatnonzero(space & (codes == _EDGE)), "right") - 1] = True
    codes[begins] = np.where(broken & ~kinds.lower[codes[afters]], _EDGE, _SPACE)
    first[begins[outer[begins - 1] | outer[afters]]] = False  # none at the beginning and end of a text
    kept = ~space | first
    starts = np.concatenate((np.zeros(1, np.intp), np.cumsum(kept, dtype=np.intp)[ends - 1]))
    return codes[kept], starts


def grams(texts: list[str]) -> Grams:
    """All n-grams of `texts` that a model may have a weight for."""
    codes, starts = normal_form(texts)
    kinds = _kinds()
    folded = kinds.folded[codes]
    runs = [*_runs(folded, starts, ORDERS, 0), *_runs(kinds.shape[codes], starts, SHAPE_ORDERS, ORDERS)]
    return Grams(runs, list(_words(folded, kinds.word[codes], starts)), starts)


def _cells(hashes: npt.NDArray[np.uint32], salt: int) -> Cells:
    mixed = hashes + np.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x85EBCA6B)
    mixed >>= np.uint32(32 - CELL_BITS)
    return mixed


def _join(left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    mixed = left ^ (left >> np.uint32(15))
    mixed *= _STEP
    mixed += right
    return mixed


def _runs(symbols: npt.NDArray[np.uint32], starts: Positions, orders: int, salt: int) -> Iterator[Cells]:
    """The cells of runs of 1 to `orders` symbols, by position."""
    hashes = symbols * _STEP
    for order in range(1, orders + 1):
        if order > 1:
            hashes = _join(hashes[:-1], symbols[order - 1 :])
        cells = _cells(hashes, salt + order)
        beyond = (starts[1:, None] - np.arange(1, order)).ravel()  # too near to the end of their text
        cells[beyond[(beyond >= 0) & (beyond < len(cells))]] = NOTHING
        yield cells


def _words(
    folded: npt.NDArray[np.uint32], letter: npt.NDArray[np.bool_], starts: Positions
) -> Iterator[tuple[Cells, Positions]]:
    """Words, and pairs of words with at most two characters between: both, either with the other's ending, endings."""
    if not len(folded):
        return
    change = np.flatnonzero(letter[1:] != letter[:-1]) + 1  # an edge is no letter, so they come in pairs
    begins, ends = change[::2], change[1::2]
    inverses = inverse_powers(GOLDEN, len(folded) + 1)
    terms = (folded.astype(np.uint64) + np.uint64(0x1234567)) * powers(GOLDEN, len(folded))
    sums = np.r_[np.uint64(0), np.cumsum(terms)]

    def span(begin: Positions, end: Positions) -> npt.NDArray[np.uint32]:
        return ((sums[end] - sums[begin]) * inverses[begin] >> np.uint64(29)).astype(np.uint32)

    words = span(begins, ends)
    short = span(np.maximum(ends - 2, begins), ends)
    long = span(np.maximum(ends - 3, begins), ends)
    yield _cells(words, 20), begins
    text = np.searchsorted(starts, begins, "right")
    near = np.flatnonzero((text[1:] == text[:-1]) & (begins[1:] - ends[:-1] <= 2))
    between = folded[ends[near]] * np.uint32(77)
    for salt, (left, right) in enumerate(((words, words), (words, short), (short, words), (long, long)), 21):
        yield _cells(_join(left[near], right[near + 1] + between), salt), begins[near]


@dataclass(frozen=True)
class Model:
    """One language: `weights` by cell, int8 of shape (CELLS + 1,), and how the evidence of real text is distributed.

    The evidence E of a text is the sum of its weights, and `base` for every character. With L characters, E / L of
    real text has the mean `mean + edge / L` and the variance `variance + noise / L`, and the log-odds of a text are
    `offset + slope * E / sqrt(L)`.
    """

    weights: npt.NDArray[np.int8]
    base: float
    mean: float
    edge: float
    variance: float
    noise: float
    offset: float
    slope: float

    def judge(self, texts: list[str]) -> npt.NDArray[np.float64]:
        """`fluency_score` and `fluency` of each text, shape (2, texts); they are read whole. NaN for a blank one."""
        found = grams(texts)
        evidence, lengths = self.evidence(found), found.lengths
        size = np.maximum(lengths, 1)
        odds = self.offset + self.slope * evidence / np.sqrt(size)
        deviation = (evidence / size - self.mean - self.edge / size) / np.sqrt(self.variance + self.noise / size)
        # Odds beyond these are the same number in single precision, or would overflow.
        return np.where(lengths > 0, (1 / (1 + np.exp(-np.clip(odds, -80, 80))), deviation), np.nan)

    def evidence(self, found: Grams) -> npt.NDArray[np.float64]:
        """Evidence that each text is real, for which every n-gram speaks with its weight."""
        return self.sums(found) + self.base * found.lengths

    def sums(self, found: Grams) -> npt.NDArray[np.int64]:
        """Sum of the weights of each text: whole numbers, so that no order of summing changes a score."""
        if len(found.starts) == 1:
            return np.zeros(0, np.int64)
        by_position = np.zeros(found.starts[-1], np.int16)  # of at most 16 weights each
        for cells in found.runs:
            by_position[: len(cells)] += self.weights[cells]
        for cells, positions in found.words:
            by_position[positions] += self.weights[cells]
        return np.add.reduceat(by_position, found.starts[:-1], dtype=np.int64)


@cache
def _archive(path: Path) -> dict[str, npt.NDArray]:
    """Every array of a model file, which holds no Python objects."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@cache
def packaged_model(label: str) -> Model | None:
    """The model of a label, unpacked at the first call in a process; None if there is none."""
    arrays = _archive(MODEL)
    return unpack(arrays, label) if f"{label}.gaps" in arrays else None


def pack(label: str, model: Model) -> dict[str, npt.NDArray]:
    """The arrays of a language in the model file: the distances between its cells in bytes, and their weights."""
    cells = np.flatnonzero(model.weights)
    gaps = np.diff(cells, prepend=-1) - 1
    # 255 is "255 empty cells, and on": the bytes of a gap add up to it.
    sizes = gaps // 255 + 1
    encoded = np.full(int(sizes.sum()), 255, np.uint8)
    encoded[np.cumsum(sizes) - 1] = gaps % 255
    return {
        f"{label}.gaps": encoded,
        f"{label}.weights": model.weights[cells],
        f"{label}.figures": np.array(
            [model.base, model.mean, model.edge, model.variance, model.noise, model.offset, model.slope]
        ),
    }


def unpack(arrays: dict[str, npt.NDArray], label: str) -> Model:
    """The model that `pack` made into arrays."""
    encoded = arrays[f"{label}.gaps"]
    ends = np.flatnonzero(encoded < 255)
    steps = np.cumsum(encoded, dtype=np.int64)[ends]
    weights = np.zeros(CELLS + 1, np.int8)
    weights[steps + np.arange(len(ends))] = arrays[f"{label}.weights"]
    return Model(weights, *arrays[f"{label}.figures"].tolist())


def annotate(batch: pa.RecordBatch, language: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS), of which `language` is the sidecar of that annotator.

    Rows follow schema FLUENCY.
    """
    labels = [
        None if code else label for code, label in zip(code_rows(batch), language["language"].to_pylist(), strict=True)
    ]
    texts = [sample(text.as_py(), WINDOW, WINDOWS) if label else "" for text, label in zip(batch["text"], labels)]
    score, deviation = (pa.array(values, pa.float32(), from_pandas=True) for values in fluency(texts, labels))
    return sidecar(batch, FLUENCY, VERSION, {"fluency_score": score, "fluency": deviation})


def fluency(texts: list[str], labels: list[str | None]) -> npt.NDArray[np.float64]:
    """`fluency_score` and `fluency` of each text as text of its label, shape (2, texts); they are read whole.

    NaN for a blank text, and for a label without a model.
    """
    found = np.full((2, len(texts)), np.nan)
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows.setdefault(label, []).append(row)
    for label, chosen in rows.items():
        model = packaged_model(label)
        if model is None:
            continue
        for part in chunks((len(texts[row]) for row in chosen), CHUNK_CHARACTERS):
            found[:, chosen[part]] = model.judge([texts[row] for row in chosen[part]])
    return found
