"""What a page carries because it is paper: running headers, footers, page numbers and stamps in the margin.

A piece at the edge of a page is taken out when pages nearby carry the same at the same height, where the numbers in it
may count with the pages; when it stands in a row with such a piece, or where many pages have one; or when it is a page
number that counts with the pages. Text of the body that recurs, at another height or away from the edge, stays.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.extract.page import Block, Page

_EDGE_BLOCKS = 4  # of a page, from its top and from its bottom, that may be furniture
_ZONE = 0.15  # of the height of the page, at the top and at the bottom; beside the text, of its width
_FAR_ZONE = 0.3  # of the height, for the outermost row
_ROW = 18.0  # points that one row takes at most
_SAME_HEIGHT = 3.0  # points
_REACH = 4  # pages between two that carry the same: left and right pages differ, a chapter's first has none
_LONGEST = 200  # characters
_SEEN = 3  # pages of a file on which a piece must recur; of a shorter one on all
_COMMON_PLACE = 0.25  # of the pages have a running header at a height, so that everything there is one
_SMALL, _LARGE = 1.1, 1.3  # of the body's size: running headers are small, titles large
_FULL_PAGE = 500  # letters of a page whose last line may be its number
_NUMBERED_KINDS = ("paragraph", "heading", "list", "code")

_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"^[\W_]*([ivxlc]{1,7}|[IVXLC]{1,7})[\W_]*$")
_KANJI = re.compile("^第?([〇零一二三四五六七八九十百]{1,5})(?:頁|页|ページ)?$")
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_LONE_NUMBER = re.compile(
    r"^[\W_]*(?:(?:page|seite|pagina|página|pág|p|s|стр|страница|strona|strana|trang|第|頁|页|쪽)\.?\s*)?\d{1,4}"
    r"(?:\s*(?:/|of|von|de|di|sur|из|z|trên|van|／)\s*\d{1,5})?\s*(?:頁|页|ページ|쪽)?[\W_]*$",
    re.IGNORECASE,
)
_BARE = frozenset(
    {"#", "-#-", "–#–", "—#—", "[#]", "(#)", "page#", "#/#", "第#页", "第#頁", "#页", "#頁", "第#页共#页"}
)
_VALUES = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


@dataclass(slots=True)
class _Piece:
    """A block, or a part of a row, at the edge of a page."""

    page: int  # index
    block: int  # index on the page
    side: str  # top, bottom or beside
    height: float
    size: float
    text: str
    key: str
    numbers: tuple[int, ...]
    gone: bool = False


def without_furniture(pages: Sequence[Page]) -> list[list[Block]]:
    """The blocks of each page without its furniture, in time that grows with the number of blocks."""
    pieces: list[_Piece] = []
    for index, page in enumerate(pages):
        pieces.extend(_pieces(index, page))
    body = body_size(pages)
    _mark_recurring(pieces, len(pages), body)
    _mark_row_mates(pieces)
    _mark_same_place(pieces, len(pages), body)
    _mark_lone_numbers(pieces, pages)
    by_block: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
    for piece in pieces:
        by_block[piece.page, piece.block].append(piece)
    result = []
    for index, page in enumerate(pages):
        kept = []
        for number, block in enumerate(page.blocks):
            parts = by_block.get((index, number))
            if parts and any(part.gone for part in parts):
                left = [part.text for part in parts if not part.gone]
                if not left:
                    continue
                block = Block(block.kind, "  ".join(left), block.box, block.size, block.level)
            kept.append(block)
        result.append(kept)
    if not any(result):  # pages of a line or two
        return [list(page.blocks) for page in pages]
    return result


def _pieces(index: int, page: Page) -> Iterable[_Piece]:
    """The pieces at the edges of a page; what stands side by side in a row counts as pieces of its own."""
    blocks = [
        (number, block)
        for number, block in enumerate(page.blocks)
        if block.kind in _NUMBERED_KINDS and len(block.text) <= _LONGEST and "\n" not in block.text
    ]
    if not blocks or page.height <= 0:
        return
    # A page may be larger than what was made to stand on it: the outermost blocks may be farther from its edge.
    highest, lowest = min(block.box[1] for _, block in blocks), max(block.box[3] for _, block in blocks)
    top = max(_ZONE * page.height, min(highest + _ROW, _FAR_ZONE * page.height))
    bottom = min((1 - _ZONE) * page.height, max(lowest - _ROW, (1 - _FAR_ZONE) * page.height))
    upper = sorted((item for item in blocks if item[1].box[3] < top), key=lambda item: item[1].box[1])
    lower = sorted((item for item in blocks if item[1].box[1] > bottom), key=lambda item: -item[1].box[3])
    beside = [
        item for item in blocks if item[1].box[2] < _ZONE * page.width or item[1].box[0] > (1 - _ZONE) * page.width
    ]
    sides = (("top", upper[:_EDGE_BLOCKS]), ("bottom", lower[:_EDGE_BLOCKS]), ("beside", beside[:_EDGE_BLOCKS]))
    seen: set[int] = set()
    for side, items in sides:
        for number, block in items:
            if number in seen:
                continue
            seen.add(number)
            for text in block.text.split("  ") if block.kind == "paragraph" else (block.text,):
                key, numbers = _key(text)
                height = (block.box[1] + block.box[3]) / 2
                yield _Piece(index, number, side, height, block.size, text, key, numbers)


def _key(text: str) -> tuple[str, tuple[int, ...]]:
    """The text with its numbers taken out, and the numbers."""
    for pattern, value in ((_ROMAN, _roman), (_KANJI, _kanji)):
        match = pattern.match(text.strip())
        if match:
            return text.replace(match[1], "#"), (value(match[1]),)
    numbers = tuple(int(digits[:9]) for digits in _DIGITS.findall(text))
    return "".join(_DIGITS.sub("#", text).casefold().split()), numbers


def _roman(text: str) -> int:
    values = [_VALUES[letter] for letter in text.lower()]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0]))


def _kanji(text: str) -> int:
    total, digit = 0, 0
    for letter in text:
        if letter in "十百":
            total += max(digit, 1) * (10 if letter == "十" else 100)
            digit = 0
        else:
            digit = max("〇一二三四五六七八九".find(letter), 0)
    return total + digit


def body_size(pages: Iterable[Page]) -> float:
    """The size in which most of the letters of the file's paragraphs stand, to a tenth of a point; 0 unknown."""
    sizes = Counter[float]()
    for page in pages:
        for block in page.blocks:
            if block.size and block.kind in ("paragraph", "list"):
                sizes[round(block.size, 1)] += len(block.text)
    return max(sizes, key=lambda size: (sizes[size], -size)) if sizes else 0.0


def _mark_recurring(pieces: list[_Piece], page_count: int, body: float) -> None:
    """Pieces that pages nearby carry at the same height; numbers must be the same or count with the pages."""
    alike: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
    for piece in pieces:
        alike[piece.side, piece.key].append(piece)
    for group in alike.values():
        if len(group) < 2:
            continue
        matches: list[list[_Piece]] = []  # chains of pieces of which each goes with the one before
        open_chains: list[list[_Piece]] = []
        for piece in group:
            open_chains = [chain for chain in open_chains if piece.page - chain[-1].page <= _REACH]
            for chain in open_chains:
                if _goes_with(chain[-1], piece):
                    chain.append(piece)
                    break
            else:
                open_chains.append([piece])
                matches.append(open_chains[-1])
                if len(open_chains) > 2 * _REACH:  # a bound on the work where hardly anything matches
                    open_chains.pop(0)
        for chain in matches:
            needed = min(_SEEN, page_count)
            if chain[0].size > _LARGE * body:  # a title on slides may recur
                needed = max(needed, page_count // 2)
            if len(chain) >= needed:
                for piece in chain:
                    piece.gone = True


def _goes_with(before: _Piece, after: _Piece) -> bool:
    pages = after.page - before.page
    if pages <= 0 or abs(before.height - after.height) > _SAME_HEIGHT or len(before.numbers) != len(after.numbers):
        return False
    letters = bool(_NOT_LETTERS.sub("", before.key))
    counts = False
    for a, b in zip(before.numbers, after.numbers):
        if b - a == pages:
            counts = True
        elif a != b:
            return False
    return letters or counts or not before.numbers


def _mark_row_mates(pieces: list[_Piece]) -> None:
    """What stands in one row with a page number that was found belongs to the same header or footer."""
    rows: dict[tuple[int, str], list[_Piece]] = defaultdict(list)
    for piece in pieces:
        rows[piece.page, piece.side].append(piece)
    for row in rows.values():
        anchors = [piece for piece in row if piece.gone]
        for piece in row:
            if not piece.gone and any(abs(piece.height - anchor.height) <= _SAME_HEIGHT for anchor in anchors):
                piece.gone = True


def _mark_same_place(pieces: list[_Piece], page_count: int, body: float) -> None:
    """Running headers whose text changes with every section: they stand where many pages have had theirs."""
    counts: dict[tuple[str, int], int] = Counter(
        (piece.side, round(piece.height / _SAME_HEIGHT)) for piece in pieces if piece.gone and piece.side != "beside"
    )
    needed = max(_SEEN, _COMMON_PLACE * page_count)
    places = {place for place, count in counts.items() if count >= needed}
    for piece in pieces:
        if not piece.gone and piece.size <= _SMALL * body:
            place = round(piece.height / _SAME_HEIGHT)
            piece.gone = any((piece.side, near) in places for near in (place - 1, place, place + 1))


def _mark_lone_numbers(pieces: list[_Piece], pages: Sequence[Page]) -> None:
    """Page numbers of which too few are left to be found by their sequence."""
    offsets = Counter(
        piece.numbers[0] - piece.page for piece in pieces if piece.gone and piece.numbers and piece.key in _BARE
    )
    rows = Counter((piece.page, piece.side, round(piece.height)) for piece in pieces)
    for piece in pieces:
        if piece.gone or not piece.numbers or rows[piece.page, piece.side, round(piece.height)] > 1:
            continue
        page = pages[piece.page]
        height = piece.height / page.height
        if not (piece.key in _BARE or _LONE_NUMBER.match(piece.text)):
            continue
        outermost = all(
            block.box[1] >= piece.height if height < 0.5 else block.box[3] <= piece.height
            for number, block in enumerate(page.blocks)
            if number != piece.block
        )
        if not outermost:
            continue
        told = piece.text.strip() != str(piece.numbers[0])  # more than a bare number: "- 3 -", "Page 3 of 10"
        letters = sum(len(block.text) for block in page.blocks)
        if offsets[piece.numbers[0] - piece.page] >= 2 or (len(pages) < _SEEN and (told or letters > _FULL_PAGE)):
            piece.gone = True
