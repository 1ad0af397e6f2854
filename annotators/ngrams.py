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

LONGEST = 5  # characters of an n-gram, with `<` and `>`

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


def fold(codes: npt.NDArray[np.integer]) -> Codes:
    """The lower-case letter or mark for each code point, 0 for any that is neither."""
    return _folded().take(codes, mode="clip")


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
    hashes = span_hashes(codes, begins, ends)
    order = _order(hashes)
    ordered = hashes[order]
    new = np.ones(len(order), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    word = np.empty(len(order), np.int64)
    word[order] = np.cumsum(new) - 1
    place = order[new]
    return Words(codes, begins, ends, word, ordered[new], begins[place], ends[place])


def _order(hashes: npt.NDArray[np.uint64]) -> Positions:
    """Positions of the hashes in ascending order.

    Numbers are sorted much faster than positions by numbers, so what is sorted are hashes with their positions in the
    place of the lowest bits, unless two of them differ in those bits alone.
    """
    mask = np.uint64((1 << len(hashes).bit_length()) - 1)
    both = np.sort(hashes & ~mask | np.arange(len(hashes), dtype=np.uint64))
    order = (both & mask).astype(np.int64)
    ordered = hashes[order]
    alike = (both[1:] ^ both[:-1]) <= mask
    return np.argsort(hashes) if (alike & (ordered[1:] != ordered[:-1])).any() else order


def framed(found: Words, some: slice = slice(None)) -> tuple[Codes, Positions]:
    """The different words, or a stretch of them, between `<` and `>`: their characters, and where each word ends."""
    first = found.first[some]
    lengths = found.last[some] - first + 2
    ends = np.cumsum(lengths)
    begins = ends - lengths
    at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - begins - 1, lengths)
    codes = found.codes.take(at, mode="clip")
    codes[begins], codes[ends - 1] = ord("<"), ord(">")
    return codes, ends


def ngrams(codes: Codes, ends: Positions) -> Iterator[tuple[Codes, npt.NDArray[np.int32]]]:
    """For every length from 1 to LONGEST and every character of framed words: hash of the n-gram that begins there.

    With it, how many characters of the word come after it: less than 0 where there is no n-gram, since it would reach
    beyond the word or be `<` or `>` alone.
    """
    size = len(codes)
    lengths = np.diff(ends, prepend=0)
    left = (np.repeat(ends, lengths) - np.arange(size)).astype(np.int32)  # characters to the end of the word
    alone = (left - 1).astype(np.int32, copy=False)
    alone[ends - lengths] = alone[ends - 1] = -1
    # Zeros after the last word, so that there is a character at any distance from another.
    units = _utf8(np.append(codes, np.zeros(LONGEST - 1, np.uint32)))
    # A byte that is not there changes nothing.
    factors = [np.where(unit != 0, _FNV_PRIME, np.uint32(1)) for unit in units]
    hashes = np.full(size, _FNV_BASIS)
    for length in range(1, LONGEST + 1):
        here = slice(length - 1, length - 1 + size)
        for unit, factor in zip(units, factors):
            hashes = (hashes ^ unit[here]) * factor[here]
        yield hashes, alone if length == 1 else (left - length).astype(np.int32, copy=False)


def _utf8(codes: Codes) -> list[Codes]:
    """The UTF-8 bytes of each character, first to fourth, sign-extended as fastText does; 0 where there is none."""
    table = _encoded()
    units = table.take(codes, mode="clip").view(np.int8).reshape(-1, 4).T
    return [unit.astype(np.int32).view(np.uint32) for unit in units if unit.any()]


@cache
def _encoded() -> Codes:
    """The UTF-8 bytes of every character that may be a letter, one after the other."""
    codes = np.arange(len(_folded()), dtype=np.uint32)
    parts = [codes >> shift & 0x3F | 0x80 for shift in (0, 6, 12)]
    two = codes >> 6 | 0xC0 | parts[0] << 8
    three = codes >> 12 | 0xE0 | parts[1] << 8 | parts[0] << 16
    four = codes >> 18 | 0xF0 | parts[2] << 8 | parts[1] << 16 | parts[0] << 24
    return np.select([codes < 0x80, codes < 0x800, codes < 0x10000], [codes, two, three], four).astype("<u4")


@cache
def _folded() -> Codes:
    table = np.zeros(ord(assigned()[-1]) + 2, np.uint32)  # the last stands for all that come after
    for match in regex.finditer(r"[\p{L}\p{M}]", assigned()):
        table[ord(match[0])] = ord(match[0].lower()[0])
    return table
