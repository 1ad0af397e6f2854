"""What a PDF page is on its way from the file to Markdown.

    backend -> PageContent (lines with their geometry) -> judge, layout -> Page (blocks) -> assemble -> text

Coordinates are points of the page as a reader sees it, rotation applied, from the top left corner.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Route = Literal["text_layer", "ocr", "vlm", "blank"]
Kind = Literal["heading", "paragraph", "list", "table", "code", "markdown"]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(slots=True)
class Line:
    """One line of the text layer, in the order in which the file draws it.

    A backend ends a line at a gap wider than about an em, so the cells of a table's row are lines of their own. The
    text is the file's: control, private-use and replacement characters stay for the judge to count.
    """

    text: str
    box: Box
    size: float  # of the font in points; that of most characters
    font: str = ""
    bold: bool = False
    italic: bool = False
    mono: bool = False
    vertical: bool = False  # written from top to bottom
    turn: int = 0  # degrees clockwise by which the line is turned on the page: 0, 90, 180 or 270
    hidden: bool = False  # drawn invisibly, as recognised text under a scan is


@dataclass(slots=True)
class PageContent:
    """The text layer of a page and what lies beside it; `blocks` are the backend's own groups of lines."""

    number: int  # from 1
    width: float
    height: float
    blocks: list[list[Line]] = field(default_factory=list)
    images: list[Box] = field(default_factory=list)
    paths: int = 0  # vector shapes; many of them without text may be letters drawn as outlines


@dataclass(slots=True)
class Block:
    """A piece of a page in Markdown; the lines of a paragraph are joined already.

    A hyphen at the end of a wrapped line is `WRAPPED_HYPHEN` until the whole document has been seen.
    """

    kind: Kind
    text: str
    box: Box
    size: float = 0.0  # of the font in points; 0 where nobody knows
    level: int = 0  # of a heading, 1 to 6


@dataclass(slots=True)
class Page:
    """One page, read; `reason` says in a few words why it took its route, `confidence` is from 0 to 1.

    A page that could not be read has an `error`, a short class such as needs_ocr, and its `reason` is the sentence.
    """

    number: int
    route: Route
    reason: str
    confidence: float
    width: float = 0.0
    height: float = 0.0
    blocks: list[Block] = field(default_factory=list)
    error: str = ""
    fallback: bool = False  # a vision model was asked first and did not read it

    def to_json(self) -> dict[str, Any]:
        """Values that JSON can carry; written out because `dataclasses.asdict` takes longer than reading the page."""
        blocks = [[block.kind, block.text, block.box, block.size, block.level] for block in self.blocks]
        return {
            "number": self.number,
            "route": self.route,
            "reason": self.reason,
            "confidence": self.confidence,
            "width": self.width,
            "height": self.height,
            "blocks": blocks,
            "error": self.error,
            "fallback": self.fallback,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Page":
        blocks = [Block(kind, text, tuple(box), size, level) for kind, text, box, size, level in value["blocks"]]
        return cls(**{**value, "blocks": blocks})


class Unreadable(Exception):
    """A file or a page that its backend cannot read: a short class (broken_pdf, encrypted, no_pages) and a sentence."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


class Document(Protocol):
    """An open PDF; what `pdf_pymupdf.open_pdf` and `pdf_pypdfium2.open_pdf` return. Methods may raise Unreadable."""

    page_count: int
    title: str

    def read(self, number: int) -> PageContent:
        """The text layer of page `number`, counted from 1."""

    def rulings(self, number: int) -> list[Box]:
        """The drawn lines and rectangles of a page, as thin boxes; only asked for where there may be a table."""

    def render(self, number: int, dpi: int | None = None, longest_side: int | None = None, rotate: int = 0) -> bytes:
        """A page as PNG, turned clockwise by `rotate` degrees, with a bound on its pixels whatever the page says."""

    def close(self) -> None: ...


WRAPPED_HYPHEN = "\x02"
SOFT_HYPHEN = "\u00ad"

_MOST_PIXELS = 40_000_000
_LONGEST_SIDE = 12_000  # pixels
_MONO = re.compile(
    r"mono(?!type)|courier|consol|typewriter|menlo|monaco|fixed|terminal|inconsolata|hack-|lucidacons|andale"
    r"|source ?code|fira ?code|letter ?gothic|ocr-?[ab]\b|prestige|cmtt|cmsltt|cmitt|ectt|lmtt|sftt|txtt|nimbusmon",
    re.IGNORECASE,
)


def is_mono(font: str) -> bool:
    """Whether the name of a font is that of one with letters of one width."""
    return _MONO.search(font) is not None


def picture_scale(width: float, height: float, dpi: int | None, longest_side: int | None) -> float:
    """Pixels per point for a page of that size in points, at `dpi` or with the longest side so many pixels.

    Bounded whatever the page says of its size: 12,000 pixels a side, 40 million in all.
    """
    longest = max(width, height, 1.0)
    scale = longest_side / longest if longest_side else (dpi or 72) / 72
    area = max(width, 1.0) * max(height, 1.0)
    return min(scale, _LONGEST_SIDE / longest, (_MOST_PIXELS / area) ** 0.5)


def turned_back(box: Box, turn: int, width: float, height: float) -> Box:
    """A box of a page of that size after the page was turned back by `turn` degrees."""
    left, top, right, bottom = box
    if turn == 90:
        return top, width - right, bottom, width - left
    if turn == 180:
        return width - right, height - bottom, width - left, height - top
    if turn == 270:
        return height - bottom, left, height - top, right
    return box
