"""How much a text's letters look like writing, by statistics of neighbouring letters in many languages.

A font with a wrong map to Unicode gives plausible letters in an order that no language has. The packaged model tells
the two apart: for every triple of neighbouring letters it holds the logarithm of how much likelier real text is to
show it than text that went through such a map. Writings of many characters (Chinese, Japanese, Korean) are judged by
pairs. `train_judge` makes the model; `models/letters.md` has its data, licences and figures.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

MODEL = Path(__file__).parent / "models" / "letters.npz"

# Classes of characters. The numbers from RARE on are letters: those that hardly any of the known languages uses though
# their script is judged, then those of SCRIPTS in order. Letters of further scripts are OTHER.
OTHER, SPACE, DIGIT, SYMBOL, BROKEN, MARK, RARE = range(7)
SCRIPTS = (
    *("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Gurmukhi", "Gujarati"),
    *("Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Myanmar", "Georgian", "Khmer"),
    *("Han", "Hiragana", "Katakana", "Hangul"),  # judged by pairs
    *("Bopomofo", "Ethiopic", "Tibetan", "Syriac", "Thaana", "Cherokee", "Mongolian", "Yi", "Coptic"),  # not judged
)
SPACED = RARE + 1 + SCRIPTS.index("Han")  # classes from RARE + 1 to here: letters of alphabets
WIDE = RARE + 1 + SCRIPTS.index("Bopomofo")  # from SPACED to here: writings of many characters
LATIN = RARE + 1 + SCRIPTS.index("Latin")

ASTRAL = 0xFFFF + 1  # stands for every code point beyond the first plane
TRIPLES, PAIRS = 18, 16  # bits of the tables
STEP = 0.5  # nats of one unit in the tables
_LONGEST_WORD = 48  # characters without a space; longer runs are keys, sequences and encoded bytes
_A, _B = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)


@dataclass(frozen=True)
class Letters:
    """The packaged model: classes of the code points, and tables of evidence in units of STEP nats."""

    classes: npt.NDArray[np.uint8]
    triples: npt.NDArray[np.int8]
    pairs: npt.NDArray[np.int8]


@cache
def load() -> Letters:
    with np.load(MODEL, allow_pickle=False) as file:
        return Letters(file["classes"], file["triples"], file["pairs"])


def encode(text: str, classes: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Code points of a text in small letters, one for each of its characters, and their classes."""
    text = text.replace("\u0130", "i").lower()  # the one capital that would become two characters
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return points, classes.take(points, mode="clip")


def triples(
    points: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint32]]:
    """Places of an alphabet's letters in words, and the slots of each with its neighbours in the table.

    Words of one or two letters say little and fill formulas; letters beside digits make part numbers, letters in the
    order of their code points are lists of the alphabet, and rare letters belong to languages that the model never saw.
    """
    if len(points) < 3:
        return np.zeros(0, np.intp), np.zeros(0, np.uint32)
    letter = kinds >= MARK
    judged = letter & (kinds < SPACED)
    inside = letter[:-2] & letter[1:-1] & letter[2:]
    judged[1:-1] &= _beside(inside) | inside
    rare = kinds == RARE
    judged &= ~(_beside((kinds == DIGIT) | rare) | rare)
    judged &= _in_short_runs(kinds)
    places = np.flatnonzero(judged[1:-1])
    before, here, after = points[places], points[places + 1], points[places + 2]
    told = (here - before != 1) | (after - here != 1)
    slots = (((before * _A ^ here) * _B ^ after) * _A) >> np.uint32(32 - TRIPLES)
    return places[told] + 1, slots[told]


def _beside(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Places with a neighbour in the mask."""
    beside = np.zeros_like(mask)
    beside[1:] = mask[:-1]
    beside[:-1] |= mask[1:]
    return beside


def _in_short_runs(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_] | bool:
    """Places in runs without spaces that are short enough for words; writings without spaces have no such bound."""
    ends = np.flatnonzero(kinds == SPACE)
    lengths = np.diff(ends, prepend=-1, append=len(kinds))
    if lengths.max() <= _LONGEST_WORD + 1:
        return True
    return np.repeat(lengths <= _LONGEST_WORD + 1, lengths)[: len(kinds)] | (kinds > LATIN)


def pairs(
    points: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint32]]:
    """Places of the first of two characters of writings of many characters, and their slots in the table."""
    wide = (kinds >= SPACED) & (kinds < WIDE)
    places = np.flatnonzero(wide[:-1] & wide[1:])
    slots = ((points[places] * _A ^ points[places + 1]) * _B) >> np.uint32(32 - PAIRS)
    return places, slots


def evidence(
    points: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8], model: Letters
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int8]]:
    """Places in the text and, for each, how much more it looks like writing than like a wrong map, in STEP nats."""
    places, slots = triples(points, kinds)
    values = model.triples[slots]
    if kinds.max(initial=0) >= SPACED:
        wide, slots = pairs(points, kinds)
        places = np.concatenate((places, wide))
        values = np.concatenate((values, model.pairs[slots]))
    return places, values
