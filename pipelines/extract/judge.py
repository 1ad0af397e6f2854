"""Whether the text layer of a page can be used: the way a page goes, why, and how sure that is.

A blank page goes no further, a page whose letters are pictures, outlines or wrong goes to recognition. Wrong letters
that look plausible, from a font with a wrong map to Unicode, are told by the statistics of `letters`: for the page as
a whole and for each of its fonts. False alarms cost as much as misses: where a page has too little to go by, its text
is taken as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import numpy.typing as npt

from pipelines.extract import letters
from pipelines.extract.letters import BROKEN, RARE, SPACE, SPACED, SYMBOL
from pipelines.extract.page import Box, Line, PageContent, Route

_OUTLINES = 20  # vector shapes on a page without text from which on it may hold text drawn as outlines
_MANY_OUTLINES = 300  # the same beside a few letters
_FEW = 20  # characters that may lie beside outlines, such as a page number
_PICTURE = 0.02  # of the page: smaller images are ornaments
_SCAN = 0.6  # of the page by images
_STAMP = 200  # characters over a scan that are a stamp rather than its text
_GLYPH_NUMBER = re.compile(r"\(cid:\d{1,6}\)")
_BROKEN = 0.1  # of the characters without a Unicode value
_SIGNS = np.frombuffer('"#$%&@\\`~{}'.encode("utf-32-le"), np.uint32)  # rare side by side, even in code
_SIGN = 0.01  # of the characters: a sign that is not rare
_MANY_SIGNS = 4
_FEW_WORDS = 0.1  # of the characters, judged by their neighbours
_RARE = 0.4  # of the letters
_ENOUGH_RARE = 20
_ENOUGH_CHARACTERS = 60
_MIXED = 0.1  # of the pairs of neighbouring letters by two scripts
_ENOUGH_PAIRS = 30
_LONGEST_SAMPLE = 2500  # characters
_ENOUGH = 25  # judged places below which letters say nothing
_FONT_ENOUGH = 80  # the same for one font among several
_FONT_SHARE = 0.3  # of the judged places in wrong fonts that makes a page wrong
_UNSURE = 12.0  # nats: short texts may look this much worse
_WORST = -0.3  # nats a place: what long texts may look like
_FONT_MARGIN = 0.15  # nats a place: several fonts are several chances of a false alarm
_LITTLE = 100  # letters and digits of a document
_NOTICE = 500  # the same, for one that may be a notice
_LITTLE_READ = 20_000  # characters: longer texts are not looked through
_WIDE_WORTH = 2.5  # letters that one character of Chinese or Japanese stands for
_NOTICE_WORDS = re.compile(
    r"(?:not|no longer) (?:\w+ )?(?:available|supported|displayed)|please wait|(?:does|could|can|may) ?not (?:be )?"
    r"(?:support|display|open|load|show|found|render)|upgrade (?:to|your)|left blank|has been (?:removed|moved)"
    r"|(?:page|file) not found|access denied",
    re.IGNORECASE,
)

_WITH_ALL = RARE + 1 + letters.SCRIPTS.index("Bopomofo")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The way a page goes, the reason in a few words, and how sure the text layer is: 0 to 1."""

    route: Route
    reason: str
    confidence: float


def judge(content: PageContent) -> Verdict:
    """Judge the text layer of one page; route text_layer, ocr or blank."""
    lines = [line for block in content.blocks for line in block]
    text = " ".join([line.text for line in lines])
    characters = len(text) - text.count(" ")
    covered = _covered(content.images, content.width, content.height)
    if characters == 0:
        if covered >= _PICTURE:
            return Verdict("ocr", "an image without a text layer", 1.0)
        if content.paths >= _OUTLINES:
            return Verdict("ocr", "letters drawn as outlines, without a text layer", 0.5)
        return Verdict("blank", "nothing on the page", 1.0)
    if covered >= _SCAN and characters < _STAMP:
        return Verdict("ocr", "a few characters over an image of the whole page", 0.9)
    if characters < _FEW and content.paths >= _MANY_OUTLINES:
        return Verdict("ocr", "letters drawn as outlines, with few as text", 0.5)
    if characters > _LONGEST_SAMPLE:
        lines = lines[:: characters // _LONGEST_SAMPLE + 1]
        text = " ".join([line.text for line in lines])
    reason, confidence = _judge_text(lines, text)
    if reason:
        return Verdict("ocr", reason, confidence)
    if covered >= _SCAN and all(line.hidden for line in lines):
        return Verdict("text_layer", "text recognised before, hidden under an image", 0.8 * confidence)
    return Verdict("text_layer", "a sane text layer", confidence)


def judge_document(text: str, page_count: int) -> str:
    """What is wrong with a document as a whole, from the text of all its pages, or "".

    A build that failed, a viewer that could not show a form and a scan of which only a title has text leave a few words
    where a document should be. Such a document is readable, so this is a warning and no reason to reject it.
    """
    size = sum(_WIDE_WORTH if character > "\u2e80" else 1 for character in text[:_LITTLE_READ] if character.isalnum())
    if size < _NOTICE and page_count <= 2 and _NOTICE_WORDS.search(text):
        return "a notice in place of the document"
    if size < _LITTLE:
        return "almost no text"
    if page_count > 2 and len(text) < _LITTLE_READ and size < _LITTLE * page_count / 4:
        return "almost no text for its number of pages"
    return ""


def _covered(images: Sequence[Box], width: float, height: float) -> float:
    """The share of the page that images cover, overlaps counted twice."""
    area = 0.0
    for left, top, right, bottom in images:
        area += max(0.0, min(right, width) - max(left, 0.0)) * max(0.0, min(bottom, height) - max(top, 0.0))
    return area / max(width * height, 1.0)


def _judge_text(lines: list[Line], text: str) -> tuple[str, float]:
    """What is wrong with the text of the lines, joined by spaces, or "", and how sure that is."""
    model = letters.load()
    if "(cid:" in text:
        numbers = sum(len(number) for number in _GLYPH_NUMBER.findall(text))
        if numbers >= _BROKEN * len(text):
            return "glyph numbers in place of letters", 1.0
    points, kinds = letters.encode(text, model.classes)
    count = np.bincount(kinds, minlength=RARE + 1)
    visible = len(kinds) - int(count[SPACE])
    if count[BROKEN] >= _BROKEN * visible:
        return "characters without a Unicode value", 1.0
    if count[RARE] >= _ENOUGH_RARE and count[RARE] > _RARE * count[RARE:].sum():
        return "letters that hardly any language uses", 0.9
    if np.count_nonzero(count[RARE + 1 :]) > 1 and _mixed_scripts(kinds):
        return "words of letters from several scripts", 0.9
    places, values = letters.evidence(points, kinds, model)
    if visible >= _ENOUGH_CHARACTERS and len(places) < _FEW_WORDS * visible and count[SYMBOL] > _SIGN * visible:
        often = np.bincount(points[kinds == SYMBOL], minlength=128)[_SIGNS]
        if np.count_nonzero(often >= _SIGN * visible) >= _MANY_SIGNS:
            return "signs in place of letters", 0.9
    return _judge_letters(lines, places, values)


def _mixed_scripts(kinds: npt.NDArray[np.uint8]) -> bool:
    """Whether many neighbouring letters are of two scripts; Chinese, Japanese and Korean go with all others."""
    before, after = kinds[:-1], kinds[1:]
    pairs = (before > RARE) & (after > RARE)
    count = int(np.count_nonzero(pairs))
    if count < _ENOUGH_PAIRS:
        return False
    mixed = pairs & (before != after) & ~_goes_with_all(before) & ~_goes_with_all(after)
    return int(np.count_nonzero(mixed)) >= _MIXED * count


def _goes_with_all(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return (kinds >= SPACED) & (kinds <= _WITH_ALL)


def _judge_letters(lines: list[Line], places: npt.NDArray[np.intp], values: npt.NDArray[np.int8]) -> tuple[str, float]:
    count = len(places)
    if count < _ENOUGH:
        return "", 0.5
    mean = letters.STEP * float(values.mean())
    margin = mean - (_WORST - _UNSURE / count)
    if margin < 0:
        return "letters in an order that no language has", _sure(-margin)
    fonts = {line.font for line in lines}
    if len(fonts) > 1:
        number = {font: at for at, font in enumerate(sorted(fonts))}
        font_of_line = [number[line.font] for line in lines]
        font = np.repeat(font_of_line, [len(line.text) + 1 for line in lines])[places]
        counts = np.bincount(font, minlength=len(fonts))
        means = letters.STEP * np.bincount(font, values, len(fonts)) / np.maximum(counts, 1)
        wrong = int(counts[(counts >= _FONT_ENOUGH) & (means < _bound(counts) - _FONT_MARGIN)].sum())
        if wrong >= _FONT_SHARE * count:
            return "a font whose letters are in an order that no language has", 0.8
    return "", _sure(margin)


def _bound(count: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The lowest mean evidence, in nats a place, of so many places of real text."""
    bound: npt.NDArray[np.float64] = _WORST - _UNSURE / np.maximum(count, 1)
    return bound


def _sure(margin: float) -> float:
    """Half at the bound, nearly one at a nat beyond it."""
    return round(1.0 / (1.0 + exp(-5.0 * margin)), 2)
