"""How texts are compared with items of benchmarks: as words, whatever they look like; and where a word stands.

Case, punctuation, white space, compatibility forms (NFKC) and characters that nobody sees (soft hyphens, joiners, marks
of direction) make no difference, nor does a word that is divided at the end of a line.
"""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import regex

from pipelines import words

_DIVIDED = regex.compile(r"(?<=\p{L})[-\u00AD\u2010\u2011]\r?\n[ \t]*(?=\p{L})")
_UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_UNITS = tuple(
    map(regex.compile, (r"\X", r"\S+|\s+", r"(?s).+"))
)  # what may be normalised by itself, the smallest first


def split_words(texts: Sequence[str]) -> words.Words:
    return words.split(texts, normalise)


def normalise(piece: str) -> str:
    for pattern in _left_out(piece):
        piece = pattern.sub("", piece)
    return _fold(piece)


def byte_places(text: str, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words of a text stand, by their `numbers` (int64, sorted): UTF-8 begins and ends, int64.

    The bytes are whole characters, all that are needed for the word.
    """
    parts = words.pieces(text)
    firsts = np.concatenate([[0], np.cumsum(split_words(parts).lengths)])
    sizes = np.concatenate([[0], np.cumsum([len(part.encode()) for part in parts])])
    begins, ends = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
    which = np.searchsorted(firsts, numbers, side="right") - 1
    for number in np.unique(which).tolist():
        wanted = which == number
        places = _word_places(parts[number])[numbers[wanted] - firsts[number]] + sizes[number]
        begins[wanted], ends[wanted] = places[:, 0], places[:, 1]
    return begins, ends


def _word_places(piece: str) -> np.ndarray:
    """UTF-8 begin and end of each word of a piece: int64 [words, 2]."""
    rest, origin = piece, np.arange(len(piece))
    for pattern in _left_out(piece):
        kept = np.ones(len(rest), bool)
        for match in pattern.finditer(rest):
            kept[match.start() : match.end()] = False
        rest, origin = pattern.sub("", rest), origin[kept]
    whole = _fold(rest)
    if rest.isascii():
        owners = np.stack([origin, origin + 1], axis=1)
    else:
        for pattern in _UNITS:
            units = [match.span() for match in pattern.finditer(rest)]
            folded = [_fold(rest[begin:end]) for begin, end in units]
            if "".join(folded) == whole:
                break
        bounds = np.array(units, np.int64).reshape(-1, 2)
        bounds = np.stack([origin[bounds[:, 0]], origin[bounds[:, 1] - 1] + 1], axis=1)
        owners = np.repeat(bounds, [len(unit) for unit in folded], axis=0)  # of each character of `whole`
    begins, ends = words.places(words.characters(whole)[1])
    characters = np.stack([owners[begins, 0], owners[ends - 1, 1]], axis=1)
    if piece.isascii():
        return characters
    codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(widths)])[characters]


def _left_out(piece: str) -> Iterator[regex.Pattern[str]]:
    """What is left out of a piece, in this order; nothing for nearly every piece of ASCII."""
    if not piece.isascii() or "-\n" in piece or "-\r" in piece:
        yield _DIVIDED
    if not piece.isascii():
        yield _UNSEEN


def _fold(piece: str) -> str:
    if piece.isascii():
        return piece.lower()
    folded = unicodedata.normalize("NFKC", piece).casefold()
    return folded.replace("i\u0307", "i").replace("ı", "i")  # what Turkish makes of an i
