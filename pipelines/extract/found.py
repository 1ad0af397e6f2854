"""What the readers of files give back: documents, and rejects for what became none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from annotators.code import is_code
from pipelines.extract.refined import Refined
from schemas.recipe import Extract


@dataclass(frozen=True)
class Extracted:
    """One document.

    `locator` names its place inside the file: "" (all of it), "line=7" or "row=3" (both from 1).
    `pages` holds (page number from 1, begin, end) in characters of `text`; it is empty for all but PDF.
    `mended` is what a repair of the encoding changed, before line ends and the like were unified.
    """

    locator: str
    text: str
    id: str | None = None
    url: str | None = None
    date: str | None = None
    licence: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    pages: list[tuple[int, int, int]] = field(default_factory=list)
    mended: Refined | None = None


@dataclass(frozen=True)
class Reject:
    """Something that became no document: a file, a line, a row or a page, with a short class and a sentence.

    `id` is the user's own, where a row has one.
    """

    locator: str
    error: str
    message: str
    id: str | None = None


@dataclass(frozen=True)
class PageFact:
    """How one page of a PDF was read; a row of the page table."""

    locator: str  # of the document that the page belongs to
    page: int
    route: str
    reason: str
    confidence: float
    characters: int
    error: str | None = None


@dataclass(frozen=True)
class Repair:
    """What a language model repaired in a document."""

    locator: str
    refined: Refined
    model: str


Found = Extracted | Reject | PageFact | Repair
"""What a file gives: documents, what became none, how pages were read, and what a model repaired."""


class Rejected(Exception):
    """The rest of a file cannot be read; carries what the reject says."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


_MESSAGE = 300
_OF_ANY_KIND = frozenset({"jsonl", "parquet", "text"})  # what a row or a plain file holds, only its text tells
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # what any of the three finds


def clean_text(text: str) -> str:
    """Text with `\\n` as its only line end and `\\t` as its only other control character.

    Lone surrogates become U+FFFD; blank lines and byte order marks at both ends go. It is idempotent, and leaves
    Unicode normalisation to the tokenizer.
    """
    if _UNCLEAN.search(text):
        text = _LINE_ENDS.sub("\n", text)
        text = _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
    return text.strip("\n\ufeff")


def clip(text: str, size: int = _MESSAGE) -> str:
    text = " ".join(clean_text(text).split())
    return text if len(text) <= size else text[: size - 1] + "…"


def make_document(
    locator: str, raw: str, options: Extract, metadata: dict[str, str], fields: Mapping[str, str] | None = None
) -> Extracted | Reject:
    known = fields or {}
    if len(raw) > options.max_characters:
        message = f"{len(raw)} characters; the limit is {options.max_characters}"
        return Reject(locator, "too_large", message, known.get("id"))
    mended = _mended(raw, metadata) if options.repair_encoding else None
    text = clean_text(mended.text if mended else raw)
    if not text.strip():
        return Reject(locator, "empty_text", "no text is left after removing white space", known.get("id"))
    if mended:
        metadata["mended_lines"] = str(len(mended.chunks))
    document = Extracted(
        locator, text, known.get("id"), known.get("url"), known.get("date"), known.get("licence"), metadata
    )
    return replace(document, mended=mended) if mended else document


def _mended(text: str, metadata: Mapping[str, str]) -> Refined | None:
    """The repaired text, None where nothing changes; source code may hold mojibake on purpose."""
    kind = metadata.get("kind")
    if kind == "code":
        return None
    from pipelines.extract.encoding import repair_encoding  # ftfy is slow to import, and seldom asked for

    mended = repair_encoding(text)
    return None if mended and kind in _OF_ANY_KIND and is_code("", text) else mended
