"""The text layer of a PDF, page by page, in the order in which the file draws it.

Sorting by position would mix the columns of a page, so the file's own order is kept. PyMuPDF is not thread-safe
and hostile files can crash it or keep it busy for hours: callers go through `isolate`.
"""

import re
from itertools import pairwise
from typing import Any

import pymupdf
import regex

from schemas.languages import UNSPACED_SCRIPTS

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)

# Ligatures are written out, and a glyph without a Unicode value becomes U+FFFD rather than its glyph number.
_FLAGS = (
    pymupdf.TEXTFLAGS_BLOCKS
    & ~pymupdf.TEXT_PRESERVE_IMAGES
    & ~pymupdf.TEXT_PRESERVE_LIGATURES
    & ~pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE
)
_SOFT_HYPHEN = "\u00ad"
_WRAPPED_HYPHEN = "\x02"  # a hyphen at the end of a wrapped line, until the whole document has been seen
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")
_UNMAPPED = re.compile("[\ufffd\ue000-\uf8ff]")
# Scripts that put no space between words: a line break inside a paragraph stands for nothing.
# So do the punctuation and the wide forms that stand among them.
_SCRIPTS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
_UNSPACED = regex.compile(rf"[{_SCRIPTS}\u3000-\u303f\u30fb\u30fc\uff00-\uffef]")
_COMPOUND = re.compile(r"\w+-\w+")
_BROKEN_WORD = re.compile(rf"(\w+){_WRAPPED_HYPHEN}(\w+)")
_CONJUNCTIONS = frozenset({"and", "or", "und", "oder"})  # "Haupt- und Nebenfach" keeps its hyphen and space

_MINIMUM_WIDTH = 25  # characters: narrower blocks are headings, labels and table cells, not paragraphs
_FULL_LINE = 0.6  # of the upper quartile of a block's lines: one that long ended at the margin, not by intent
_OUTLINES = 20  # vector shapes on a page without text from which on it may hold text drawn as outlines


def join_wrapped_lines(block: str) -> str:
    """One block of a page with the lines of a paragraph joined; short lines keep their line break.

    A line that reaches 60 % of the upper quartile of the lengths in its block continues on the next one. A
    hyphen at the end of a line before a small letter becomes a mark that `mend_hyphens` resolves.
    """
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    if len(lines) < 2:
        return "".join(lines)
    usual = sorted(map(len, lines))[3 * len(lines) // 4]
    if usual < _MINIMUM_WIDTH and not _UNSPACED.search(block):
        return "\n".join(lines)
    parts = [lines[0]]
    for before, line in pairwise(lines):
        if before.endswith(_SOFT_HYPHEN):
            parts.append(line)
        elif before[-1] in "-\u2010" and before[-2:-1].isalpha() and line[0].islower():
            if line.split(maxsplit=1)[0] in _CONJUNCTIONS:
                parts.append(" " + line)
            else:
                parts[-1] = parts[-1][:-1] + _WRAPPED_HYPHEN
                parts.append(line)
        elif len(before) < _FULL_LINE * usual:
            parts.append("\n" + line)
        elif _UNSPACED.match(before[-1]) and _UNSPACED.match(line[0]):
            parts.append(line)
        else:
            parts.append(" " + line)
    return "".join(parts)


def mend_hyphens(pages: list[str]) -> list[str]:
    """Rejoin words broken at line ends: without the hyphen, unless the document writes it elsewhere."""
    compounds = {word.lower() for page in pages for word in _COMPOUND.findall(page)}

    def mend(match: re.Match[str]) -> str:
        compound = f"{match[1]}-{match[2]}"
        return compound if compound.lower() in compounds else match[1] + match[2]

    return [_BROKEN_WORD.sub(mend, page).replace(_WRAPPED_HYPHEN, "-").replace(_SOFT_HYPHEN, "") for page in pages]


def _page_text(page: pymupdf.Page) -> str:
    blocks = [_CONTROLS.sub("", block[4]) for block in page.get_text("blocks", flags=_FLAGS) if block[6] == 0]
    return "\n\n".join(joined for block in blocks if (joined := join_wrapped_lines(block)))


def _unreadable(page: pymupdf.Page, text: str) -> str:
    """Why a page needs character recognition, or "" when its text layer will do or the page is blank."""
    if text:
        unmapped = len(_UNMAPPED.findall(text))
        return "the text layer has no Unicode values" if 5 * unmapped > len("".join(text.split())) else ""
    shapes = [kind for kind, *_ in page.get_bboxlog()]
    if any("image" in kind or "imgmask" in kind for kind in shapes):
        return "the page is an image without a text layer"
    if sum("path" in kind for kind in shapes) >= _OUTLINES:
        return "the page draws its letters as outlines, without a text layer"
    return ""


def read_pdf(payload: bytes, path: str, max_pages: int, max_characters: int) -> dict[str, Any]:
    """The readable pages of the PDF file at `path`, as values that JSON can carry.

    Returns:
        `{"error": class, "message": ...}` when nothing is usable, else `title`, `page_count`, `pages`
        [[page number from 1, text], ...] and `bad_pages` [[page number, error class, message], ...].
    """
    try:
        document = pymupdf.open(path, filetype="pdf")
    except (RuntimeError, ValueError) as error:  # the text of the error holds the local path
        return {"error": "broken_pdf", "message": f"not readable as PDF ({type(error).__name__})"}
    with document:
        if document.needs_pass:
            return {"error": "encrypted", "message": "the file asks for a password"}
        count = document.page_count
        if count == 0:
            return {"error": "no_pages", "message": "the file has no page"}
        if count > max_pages:
            return {"error": "too_large", "message": f"{count} pages; the limit is {max_pages}"}
        numbers, texts, bad_pages, characters = [], [], [], 0
        for number in range(1, count + 1):
            try:
                page = document.load_page(number - 1)
                text = _page_text(page)
                unreadable = _unreadable(page, text)
            except (RuntimeError, ValueError) as error:
                bad_pages.append([number, "broken_pdf", f"page {number} is damaged ({type(error).__name__})"])
                continue
            if unreadable:
                bad_pages.append([number, "needs_ocr", unreadable])
            elif text:
                numbers.append(number)
                texts.append(text)
                characters += len(text)
                if characters > max_characters:
                    message = f"more than {max_characters} characters, reached on page {number} of {count}"
                    return {"error": "too_large", "message": message}
        title = (document.metadata or {}).get("title") or ""
    pymupdf.TOOLS.store_shrink(100)
    return {
        "title": " ".join(title.split()),
        "page_count": count,
        "pages": [list(page) for page in zip(numbers, mend_hyphens(texts))],
        "bad_pages": bad_pages,
    }
