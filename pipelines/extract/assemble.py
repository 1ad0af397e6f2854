"""All pages of a file become one text in Markdown: what belongs to paper is left out, what paper cut is joined."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pipelines.extract.furniture import body_size, without_furniture
from pipelines.extract.page import WRAPPED_HYPHEN, Block, Page
from pipelines.extract.wrapping import continues, join_pair, mend_hyphens

_SAME_SIZE = 0.05  # share by which sizes of one text may differ
_NOTE_SIZE = 0.93  # of the paragraph's
_LARGER = 1.15  # than the body: short pieces in such letters are headings
_HEADING_LETTERS = 200
_LEVELS = 6
_FENCE = re.compile(r"^\s{0,3}`{3,}", re.MULTILINE)
_LETTERS = re.compile(r"[^\W\d_]{2}|[\u3040-\u9fff\uac00-\ud7af]")


def assemble(pages: list[Page]) -> tuple[str, list[tuple[int, int, int]]]:
    """The text of all pages, and of each page its number and where it begins and ends, in characters.

    A paragraph over a page end belongs to both pages: the second one begins inside it. Spans follow each other without
    a gap; a page without text has an empty one. Time grows with the number of blocks.
    """
    body = body_size(pages)
    contents = without_furniture(pages)
    _move_footnotes(contents)
    levels = _levels(pages, contents, body)
    pieces: list[str] = []  # of text, with what separates them
    owners: list[int] = []  # index of the page of each piece
    last: Block | None = None  # the block before, if text of it is there
    for index, blocks in enumerate(contents):
        begins = True  # no block of this page is out yet
        for block in blocks:
            if not block.text:
                continue
            if block.kind in ("paragraph", "heading"):
                block = _as_it_is(block, body, levels)
            if last is None:
                pieces.append(_markdown(block))
            elif begins and pieces[-1] and _cut_by_page(last, block):
                joined = join_pair(pieces[-1], block.text)
                # The mark of a hyphen, or none, takes the place of what ended the page before.
                border = len(joined) - len(block.text)
                if WRAPPED_HYPHEN in joined[border - 1 : border]:
                    # The whole word goes to the page where it began: a hyphen is mended inside one piece.
                    word = re.match(r"\S*", block.text)
                    cut = border + (word.end() if word else 0)
                else:
                    cut = border
                pieces[-1] = joined[:cut]
                pieces.append(joined[cut:])
            elif last.kind == "list" and block.kind == "list":
                pieces.append("\n" + block.text)
            elif begins and last.kind == "code" and block.kind == "code" and pieces[-1].endswith("\n```"):
                pieces[-1] = pieces[-1][:-4]
                pieces.append("\n" + _markdown(block).split("\n", 1)[1])
            else:
                pieces.append("\n\n" + _markdown(block))
            owners.append(index)
            last, begins = block, False
    return _with_spans(pages, mend_hyphens(pieces), owners)


def _with_spans(
    pages: Sequence[Page], pieces: Sequence[str], owners: Sequence[int]
) -> tuple[str, list[tuple[int, int, int]]]:
    lengths = [0] * len(pages)
    for piece, owner in zip(pieces, owners, strict=True):
        lengths[owner] += len(piece)
    spans, begin = [], 0
    for page, length in zip(pages, lengths):
        spans.append((page.number, begin, begin + length))
        begin += length
    return "".join(pieces), spans


def _markdown(block: Block) -> str:
    if block.kind == "heading":
        return f"{'#' * max(1, block.level)} {block.text}"
    if block.kind == "code":
        fence = "````" if _FENCE.search(block.text) else "```"
        return f"{fence}\n{block.text}\n{fence}"
    return block.text


def _cut_by_page(before: Block, after: Block) -> bool:
    if after.kind != "paragraph" or before.kind not in ("paragraph", "list") or "\n" in before.text:
        return False
    if before.size and after.size and abs(before.size - after.size) > _SAME_SIZE * before.size:
        return False
    return continues(before.text, after.text)


def _move_footnotes(contents: list[list[Block]]) -> None:
    """Put the footnotes of a page before its last paragraph, where that goes on at the top of the next page."""
    last: list[Block] = []  # of the page before
    for blocks in contents:
        if not blocks:
            continue
        first = blocks[0]
        if last and first.kind == "paragraph" and first.size:
            place = len(last) - 1
            while place > 0 and last[place].kind == "paragraph" and 0 < last[place].size < _NOTE_SIZE * first.size:
                place -= 1
            if place < len(last) - 1 and _cut_by_page(last[place], first):
                last.append(last.pop(place))
        last = blocks


# --- headings ---


def _is_large(block: Block, body: float) -> bool:
    return body > 0 and block.size >= _LARGER * body


def _may_be_heading(block: Block) -> bool:
    return len(block.text) <= _HEADING_LETTERS and "\n" not in block.text.strip() and bool(_LETTERS.search(block.text))


def _levels(pages: Sequence[Page], contents: Iterable[Sequence[Block]], body: float) -> dict[float, int]:
    """Level of a heading by the size of its letters, the largest first; sizes that are alike share one."""
    sizes = Counter[float]()
    for blocks in contents:
        for block in blocks:
            named = block.kind == "heading" and block.level == 0
            if (named or (block.kind == "paragraph" and _is_large(block, body))) and _may_be_heading(block):
                sizes[round(block.size, 1)] += 1
    levels: dict[float, int] = {}
    level, before = 0, float("inf")
    for size in sorted(sizes, reverse=True):
        if size < before * (1 - _SAME_SIZE):
            level, before = min(level + 1, _LEVELS), size
        levels[size] = level
    return levels


def _as_it_is(block: Block, body: float, levels: dict[float, int]) -> Block:
    """A paragraph or heading, as the sizes of the whole file show it; one page alone may mislead."""
    if block.kind == "paragraph":
        if not (_is_large(block, body) and _may_be_heading(block)):
            return block
    elif block.level:
        return block
    elif block.size and block.size < (1 - _SAME_SIZE) * body:
        return Block("paragraph", block.text, block.box, block.size)
    return Block(
        "heading", " ".join(block.text.split()), block.box, block.size, levels.get(round(block.size, 1), _LEVELS)
    )
