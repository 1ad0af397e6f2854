"""Lines that a program wrapped become paragraphs again, and words that it broke become whole."""

import re
from collections.abc import Iterable, Iterator

import regex

from pipelines.extract.page import SOFT_HYPHEN, WRAPPED_HYPHEN
from schemas.languages import UNSPACED_SCRIPTS

# Scripts that put no space between words: a line break inside a paragraph stands for nothing.
# So do the punctuation and the wide forms that stand among them.
_SCRIPTS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
UNSPACED = regex.compile(rf"[{_SCRIPTS}\u3000-\u303f\u30fb\u30fc\uff00-\uffef]")
_HYPHENS = "-\u2010"
_WORD_BEFORE = re.compile(r"\w+$")
_WORD_AFTER = re.compile(r"\w+")
_LONGEST_WORD = 40
_BROKEN_WORD = re.compile(rf"\w*(?:{WRAPPED_HYPHEN}\w*)+")
_CONJUNCTIONS = frozenset(
    {"and", "or", "und", "oder", "bzw", "et", "ou", "y", "e", "o", "en", "of", "i", "a", "och", "og", "eller"}
)  # "Haupt- und Nebenfach" keeps its hyphen and space
_ENDS_SENTENCE = re.compile(r"[.!?:;。！？；：…｡؟۔।॥။។៕][\"'»”’)\]）」』】]*$")
_LONG_LINE = 40  # characters; where letters have no case, only longer pieces are taken for parts of a paragraph


def join_pair(before: str, after: str) -> str:
    """Two wrapped lines as one piece; a hyphen that ends the first becomes a mark that `mend_hyphens` resolves."""
    last, first = before[-1], after[0]
    if last == SOFT_HYPHEN:
        return before[:-1] + after
    if last in _HYPHENS and before[-2:-1].isalpha() and first.islower():
        if after.split(maxsplit=1)[0].rstrip(",.;") in _CONJUNCTIONS:
            return f"{before} {after}"
        return before[:-1] + WRAPPED_HYPHEN + after
    if (
        last in "-\u2010\u2013"
        and before[-2:-1].isalnum()
        and first.isalnum()
        and (last != "\u2013" or first.isdigit())
    ):
        return before + after  # "CD-" and "ROM", "1990-" and "1995": the hyphen is written anyway
    if last == "/" and before[-2:-1] not in ("", " "):
        return before + after  # a path or an address
    if not first.isascii() and not last.isascii() and UNSPACED.match(last) and UNSPACED.match(first):
        return before + after
    return f"{before} {after}"


def continues(before: str, after: str) -> bool:
    """Whether `after` goes on with the sentence of `before`, from which the end of a column or page cut it."""
    if not before or not after or "\n" in after[:_LONG_LINE]:
        return False
    last, first = before[-1], after[0]
    if last in _HYPHENS and before[-2:-1].isalnum():
        return first.isalnum()
    if _ENDS_SENTENCE.search(before[-8:]):
        return False
    if first.islower():
        return True
    if first.isupper() or not first.isalpha():
        # A name or a number may well begin the next line, after a word or a comma of a long paragraph.
        return last == "," and len(before) > _LONG_LINE and first.isalnum()
    return min(len(before), len(after)) > _LONG_LINE  # no case to go by


def _compounds(text: str) -> Iterator[str]:
    """The pairs of words with a hyphen between them, in small letters."""
    place = text.find("-")
    while place != -1:
        before = _WORD_BEFORE.search(text[max(0, place - _LONGEST_WORD) : place])
        after = _WORD_AFTER.match(text, place + 1, place + 1 + _LONGEST_WORD)
        if before and after:
            yield f"{before[0]}-{after[0]}".lower()
        place = text.find("-", place + 1)


def mend_hyphens(pieces: Iterable[str]) -> list[str]:
    """Rejoin words broken at line ends: without the hyphen, unless the document writes the compound elsewhere."""
    pieces = list(pieces)
    broken = any(WRAPPED_HYPHEN in piece for piece in pieces)
    compounds: set[str] = set()
    if broken:
        compounds = {compound for piece in pieces if "-" in piece for compound in _compounds(piece)}

    def mend(match: re.Match[str]) -> str:
        first, *rest = match[0].split(WRAPPED_HYPHEN)  # a long word in a narrow column is broken more than once
        whole = first
        for part in rest:
            kept = not first or not part or first[-1].isdigit() or f"{first}-{part}".lower() in compounds
            whole += f"-{part}" if kept else part
            first = part
        return whole

    return [
        (_BROKEN_WORD.sub(mend, piece) if WRAPPED_HYPHEN in piece else piece).replace(SOFT_HYPHEN, "")
        for piece in pieces
    ]
