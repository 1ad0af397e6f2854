"""Recognised words with their boxes become the lines of a page."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import regex

from pipelines.extract.page import Box, Line
from pipelines.extract.wrapping import UNSPACED


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its box in pixels; `confidence` is from 0 to 1."""

    text: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float
    glued: bool = False  # to the word before, whatever is between their boxes


_LEAST_WORD = 0.3  # confidence of the words of a line; less is a smudge, a picture or a rule
_WIDE_LETTER = 2.0  # heights of a line: no letter is wider, but dots that lead to a page number are read as such
_LOW_LETTER = 0.3  # of the height of a line: dots and rules
_CELL_GAP = 2.0  # heights of a line
_TIGHT, _TIGHT_CJK = 0.3, 1.0  # heights of a line: letters of scripts without spaces stand closer than that
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\u3000-\u303f\u30fb\u30fc\uff00-\uffef]")
_ASCENDERS = re.compile(r"[^acegm-suvwxyz.,;:_·…\-\u0430-\u044f]")
_DESCENDERS = re.compile(r"[gjpqy,;()\[\]{}/|@$QµçşţįęąýÿСруфцщд]")


def _line_words(words: list[Word]) -> list[Word]:
    """The words of a line without what is no text."""
    height = usual_height(words)
    return [
        word
        for word in words
        if word.confidence >= 0.6
        or (
            word.right - word.left <= _WIDE_LETTER * height * len(word.text)
            and word.bottom - word.top >= _LOW_LETTER * height
        )
    ]


def usual_height(words: Sequence[Word]) -> float:
    """Height of most letters of a line in pixels: the median over its letters."""
    heights = sorted((word.bottom - word.top, len(word.text)) for word in words)
    half = sum(length for _, length in heights) / 2
    for height, length in heights:
        half -= length
        if half <= 0:
            return max(height, 1.0)
    return 1.0


def box_of(words: Iterable[Word]) -> Box:
    """The box around words."""
    boxes = [(word.left, word.top, word.right, word.bottom) for word in words]
    lefts, tops, rights, bottoms = zip(*boxes)
    return min(lefts), min(tops), max(rights), max(bottoms)


def confidence_of(words: Iterable[Word]) -> float:
    """Mean confidence of a letter, 0 without any."""
    weighted = letters = 0.0
    for word in words:
        weighted += word.confidence * len(word.text)
        letters += len(word.text)
    return weighted / letters if letters else 0.0


def font_size(words: Sequence[Word]) -> float:
    """Size of a line's font in pixels, by the height of its words and the letters that are in them."""
    sizes = []
    for word in words:
        rises, hangs = bool(_ASCENDERS.search(word.text)), bool(_DESCENDERS.search(word.text))
        share = (0.92 if hangs else 0.72) if rises else (0.7 if hangs else 0.5)
        sizes.append(Word(word.text, 0.0, 0.0, 0.0, 0.0, (word.bottom - word.top) / share))
    return usual_height(sizes)


def _pieces(words: list[Word], height: float) -> Iterator[list[Word]]:
    """Words of a line, apart where the gap is so wide that the parts belong to different cells."""
    piece = [words[0]]
    for before, word in pairwise(words):
        gap = max(word.left - before.right, before.left - word.right)  # the next word may stand on the left
        if gap > _CELL_GAP * height:
            yield piece
            piece = []
        piece.append(word)
    yield piece


def joined(words: list[Word], height: float) -> str:
    """The text of words side by side; between letters of scripts without spaces there are none."""
    text = words[0].text
    for before, word in pairwise(words):
        gap = max(word.left - before.right, before.left - word.right, word.top - before.bottom)
        last, first = text[-1], word.text[0]
        most = _TIGHT_CJK if _CJK.match(last) and _CJK.match(first) else _TIGHT
        tight = word.glued or (gap < most * height and UNSPACED.match(last) and UNSPACED.match(first))
        text += word.text if tight else f" {word.text}"
    return text


def page_lines(lines: Iterable[list[Word]], scale: float) -> list[Line]:
    """Lines of words in pixels as the lines of a page; `scale` is pixels per point.

    Sizes of letters that differ little from those of most of the page are taken for the same.
    """
    found: list[Line] = []
    for words in lines:
        height = usual_height(words)
        left, top, right, bottom = box_of(words)
        vertical = len(words) > 1 and bottom - top > 3 * (right - left)
        for piece in [words] if vertical else _pieces(words, height):
            left, top, right, bottom = (edge / scale for edge in box_of(piece))
            box = left, top, right, bottom
            size = max(right - left, 1 / scale) if vertical else font_size(piece) / scale
            found.append(Line(joined(piece, height), box, size, vertical=vertical))
    return _even_sizes(found)


_SAME_SIZE = 1.25


def _even_sizes(lines: list[Line]) -> list[Line]:
    usual = usual_height([Word(line.text, 0.0, 0.0, 0.0, 0.0, line.size) for line in lines]) if lines else 0.0
    return [
        replace(line, size=round(usual if usual / _SAME_SIZE < line.size < usual * _SAME_SIZE else line.size, 1))
        for line in lines
    ]


def parse_tsv(table: str, text: str = "") -> list[list[Word]]:
    """Lines of words in tesseract's TSV output, without what is no text.

    `text` is its plain output. For some languages only that says where words end: their rows in the table are
    syllables.
    """
    spaced = {"".join(line.split()): line for line in text.splitlines()}
    rows = (row.split("\t") for row in table.splitlines())
    words = (row for row in rows if len(row) == 12 and row[0] == "5" and row[11].strip())
    lines = []
    for _, group in groupby(words, key=lambda row: row[1:5]):
        line = []
        for row in group:
            left, top, width, height = map(int, row[6:10])
            line.append(Word(row[11].strip(), float(row[10]) / 100, left, top, left + width, top + height))
        line = _line_words(_glued(line, spaced.get("".join(word.text for word in line), "")))
        if any(letter.isalnum() for word in line for letter in word.text) and confidence_of(line) >= _LEAST_WORD:
            lines.append(line)
    return lines


def _glued(words: list[Word], spaced: str) -> list[Word]:
    """The words of a line, marked where its text has no space between them."""
    if not spaced:
        return words
    begins = set()
    length = 0
    for part in spaced.split():
        begins.add(length)
        length += len(part)
    marked = []
    length = 0
    for word in words:
        marked.append(word if length in begins else replace(word, glued=True))
        length += len(word.text)
    return marked
