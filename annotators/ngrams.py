"""The words of texts and their hashed character n-grams, as fastText makes them (Bojanowski et al. 2017, section 3.2).

A word is a run of letters and combining marks, in lower case; everything else separates. Its n-grams are those of the
word between `<` and `>`, hashed by FNV-1a over their UTF-8 bytes. Every word of a batch is cut up once, however often
it occurs, and nothing loops over words.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import regex

from annotators.text import assigned
from schemas.hashing import span_hashes

SHORTEST, LONGEST = 1, 5  # characters of an n-gram, with `<` and `>`

_FNV_BASIS, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)

Codes = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """The words of texts that stand one after the other in one string.

    `word` has one entry for every word in the order of the text, an index into the different words; `begins` and
    `ends` say where it stands, in characters. Of the different words, `keys` are 64-bit hashes and the word at `first`
    and `last` in `codes` is one place where it stands.
    """

    codes: Codes
    begins: Positions
    ends: Positions
    word: Positions
    keys: npt.NDArray[np.uint64]
    first: Positions
    last: Positions


def composed(text: str) -> str:
    """NFC of a text. It is told from ASCII and from text that is composed already without making a copy."""
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def characters(text: str) -> Codes:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def fold(codes: Codes) -> Codes:
    """The lower-case letter or mark for each code point, 0 for any that is neither."""
    return _folded()[codes]


def normal_form(text: str) -> str:
    """The words of a text between single spaces: what a line of fastText's training file is."""
    codes = fold(characters(text))
    return " ".join(np.where(codes == 0, np.uint32(32), codes).tobytes().decode("utf-32-le").split())


def words(codes: Codes) -> Words:
    """The words in folded characters."""
    letter = np.zeros(len(codes) + 2, dtype=bool)
    np.not_equal(codes, 0, out=letter[1:-1])
    change = np.flatnonzero(letter[1:] != letter[:-1])
    begins, ends = change[0::2], change[1::2]
    keys, place, word = np.unique(span_hashes(codes, begins, ends), return_index=True, return_inverse=True)
    return Words(codes, begins, ends, word, keys, begins[place], ends[place])


def ngrams(found: Words) -> Iterator[tuple[Codes, Positions]]:
    """For every length from SHORTEST to LONGEST: hashes of the n-grams, word by word, and how many each word has."""
    lengths = found.last - found.first + 2
    stops = np.cumsum(lengths)
    framed = np.empty(int(stops[-1]) if len(stops) else 0, np.uint32)
    inner = np.ones(len(framed), bool)
    inner[stops - lengths] = False
    inner[stops - 1] = False
    framed[stops - lengths], framed[stops - 1] = ord("<"), ord(">")
    framed[inner] = found.codes[_ranges(found.first, lengths - 2)]
    units = _utf8(framed)
    at = np.arange(len(framed), dtype=np.int32)
    left = np.repeat(stops.astype(np.int32), lengths) - at  # characters to the end of the word
    hashes = np.full(len(framed), _FNV_BASIS)
    for size in range(1, LONGEST + 1):
        if size > 1:
            fits = np.flatnonzero(left >= size)
            at, left, hashes = at[fits], left[fits], hashes[fits]
        hashes = _fnv(hashes, units, at + (size - 1))
        if size == 1:
            yield hashes[inner], lengths - 2
        elif size >= SHORTEST:
            yield hashes, np.maximum(lengths - size + 1, 0)


def _ranges(begins: Positions, counts: Positions) -> Positions:
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(begins - (ends - counts), counts)


def _utf8(codes: Codes) -> list[Codes]:
    """The UTF-8 bytes of each character, first to fourth, sign-extended as fastText does; 0 where there is none."""
    two, three, four = codes >= 0x80, codes >= 0x800, codes >= 0x10000
    lead = np.where(
        four, codes >> 18 | 0xF0, np.where(three, codes >> 12 | 0xE0, np.where(two, codes >> 6 | 0xC0, codes))
    )
    units = [lead]
    for depth, has in enumerate((two, three, four)):
        if not has.any():
            break
        # The bits of a continuation byte depend on how many follow it.
        length = two.astype(np.uint32) + three + four
        shift = np.where(has, (length - 1 - depth) * 6, 0).astype(np.uint32)
        units.append(np.where(has, codes >> shift & 0x3F | 0x80, 0))
    return [np.where(unit >= 0x80, unit | np.uint32(0xFFFFFF00), unit).astype(np.uint32) for unit in units]


def _fnv(hashes: Codes, units: list[Codes], at: npt.NDArray[np.int32]) -> Codes:
    """The hashes with the bytes of the character at `at` taken in."""
    hashes = (hashes ^ units[0][at]) * _FNV_PRIME
    for unit in units[1:]:
        byte = unit[at]
        hashes = np.where(byte != 0, (hashes ^ byte) * _FNV_PRIME, hashes)
    return hashes


@cache
def _folded() -> Codes:
    table = np.zeros(0x110000, np.uint32)
    for match in regex.finditer(r"[\p{L}\p{M}]", assigned()):
        table[ord(match[0])] = ord(match[0].lower()[0])
    return table
