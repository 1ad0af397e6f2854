"""Texts as arrays of word hashes: what near-duplicates and contamination are looked for in.

A word is a run of letters, combining marks and digits; punctuation, symbols and white space only separate. In scripts
written without spaces (`schemas.languages.UNSPACED_SCRIPTS`) every character is a word.

A word's hash is a polynomial of its code points in a fixed odd base, modulo 2**64, then mixed. All words of many texts
are hashed at once from running sums; no loop in Python runs over words or characters. Collisions of 64 bits are left
unchecked: a billion different n-grams hold about 0.03 colliding pairs.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import regex

from schemas.hashing import scramble, span_hashes
from schemas.languages import UNSPACED_SCRIPTS

PIECE = 1 << 11  # characters: CPython's normalisation takes quadratic time on long runs of combining marks
BLOCK = 1 << 17  # characters hashed at once: the working arrays stay near the cache
STEP = 0xD6E8FEB86659FD93

SEPARATOR, LETTER, SPACELESS = 0, 1, 2  # kinds of characters


@dataclass(frozen=True)
class Words:
    """The words of several texts end to end: text i owns `hashes[offsets[i]:offsets[i + 1]]`."""

    hashes: np.ndarray  # uint64
    spaceless: np.ndarray  # bool: the word is one character of a script without spaces
    offsets: np.ndarray  # int64, one more than there are texts

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def spaceless_counts(self) -> np.ndarray:
        """How many words of each text are characters of a script without spaces."""
        running = np.concatenate([[0], np.cumsum(self.spaceless)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


def split(texts: Sequence[str], normalise: Callable[[str], str]) -> Words:
    """The words of each text after `normalise`, which is called on pieces of a text."""
    found = [_hash_block(*block) for block in _blocks(texts, normalise)]
    if not found:
        return Words(np.empty(0, np.uint64), np.empty(0, bool), np.zeros(len(texts) + 1, np.int64))
    hashes, spaceless, owners = (np.concatenate(column) for column in zip(*found))
    counts = np.bincount(owners, minlength=len(texts))
    return Words(hashes, spaceless, np.concatenate([[0], np.cumsum(counts)]))


def pieces(text: str) -> list[str]:
    """The text in pieces of at most PIECE characters (BLOCK, if all is ASCII), cut at spaces where there are any."""
    limit = BLOCK if text.isascii() else PIECE  # ASCII needs no normalisation
    found, begin = [], 0
    while len(text) - begin > limit:
        end = begin + limit
        cut = max(text.rfind(" ", begin + limit // 2, end), text.rfind("\n", begin + limit // 2, end)) + 1
        found.append(text[begin : cut or end])
        begin = cut or end
    return [*found, text[begin:]]


def windows(hashes: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """For k = 1, 2, ... `longest`: (k, numbers of all runs of k words), the run at i being `hashes[i : i + k]`.

    Runs do not stop at the end of a text: the caller picks those that do, and mixes them. The array changes with the
    next step.
    """
    running = hashes.copy()
    for size in range(1, min(longest, len(hashes)) + 1):
        if size > 1:
            running = running[:-1]
            running *= np.uint64(STEP)
            running += hashes[size - 1 :]
        yield size, running


def ngrams(found: Words, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of `sizes[i]` words of text i: uint64 [all runs], int64 [texts] how many each text has.

    No size is larger than its text; a size of 0 gives no runs. Runs that repeat are repeated.
    """
    counts = np.where(sizes > 0, found.lengths - sizes + 1, 0)
    begins = np.cumsum(counts) - counts
    hashes = np.empty(int(counts.sum()), np.uint64)
    for size, running in windows(found.hashes, int(sizes.max(initial=0))):
        texts = np.flatnonzero(sizes == size)
        hashes[spans(begins[texts], counts[texts])] = running[spans(found.offsets[texts], counts[texts])]
    return scramble(hashes), counts


def spans(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, ... (counts[0] numbers), then the same of begins[1] and so on."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(begins - (ends - counts), counts)


def _blocks(texts: Sequence[str], normalise: Callable[[str], str]) -> Iterator[tuple[list[str], list[int]]]:
    """Normalised pieces, about BLOCK characters at a time, and the index of the text that each comes from."""
    block: list[str] = []
    owners: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        for piece in pieces(text):
            block.append(normalise(piece))
            owners.append(index)
            size += len(block[-1]) + 1
            if size >= BLOCK:
                yield block, owners
                block, owners, size = [], [], 0
    if block:
        yield block, owners


def _hash_block(block: list[str], owners: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of all pieces: hash, whether it is of a script without spaces, and which text it belongs to."""
    joined = "\n".join(block)
    codes, kinds = characters(joined)
    begins, ends = places(kinds)
    ends_of_pieces = np.cumsum([len(piece) + 1 for piece in block])
    words = np.diff(np.searchsorted(begins, ends_of_pieces), prepend=0)
    return span_hashes(codes, begins, ends), kinds[begins] == SPACELESS, np.repeat(np.array(owners, np.int64), words)


def characters(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Code points of a text (uint8 or uint32), and of which kind each of them is (uint8)."""
    if text.isascii():
        data = text.encode()
        return np.frombuffer(data, np.uint8), np.frombuffer(data.translate(_kinds()[:256].tobytes()), np.uint8)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return codes, np.take(_kinds(), codes, mode="clip")


def places(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end among characters of these `kinds`."""
    around = np.zeros(len(kinds) + 2, np.uint8)  # one separator before the first and after the last character
    around[1:-1] = kinds
    letter, alone = around == LETTER, kinds == SPACELESS
    begins = np.flatnonzero((letter[1:-1] & ~letter[:-2]) | alone)
    return begins, np.flatnonzero((letter[1:-1] & ~letter[2:]) | alone) + 1


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """What each code point is: uint8 [0x110000]."""
    everything = "".join(map(chr, range(0x110000)))
    kinds = np.zeros(len(everything), np.uint8)
    for match in regex.finditer(r"[\p{L}\p{M}\p{N}]+", everything):
        kinds[match.start() : match.end()] = LETTER
    scripts = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
    for match in regex.finditer(f"[{scripts}]+", everything):
        kinds[match.start() : match.end()] *= SPACELESS
    return kinds


def normal(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Unicode normalisation that is free for ASCII."""
    return text if text.isascii() else unicodedata.normalize(form, text)
