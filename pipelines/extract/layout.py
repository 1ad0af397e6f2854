"""The lines of a page become blocks: paragraphs, headings, lists, code and tables, in reading order.

    lines of the file -> rows (pieces of one line together) -> columns in order -> groups -> blocks

A row is one line as a reader sees it. Work for each line is kept small: a page of text passes in less time than its
backend takes to read it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipelines.extract.page import Block, Box, Line, PageContent, turned_back
from pipelines.extract.reading_order import jumps_back, reading_order
from pipelines.extract.tables import Table
from pipelines.extract.wrapping import UNSPACED, continues, join_pair

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_UNSEEN = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LATIN = re.compile(r"[A-Za-z]")
_LEADERS = re.compile(r"(?:\s?[.·…_]){4,}\s*")  # dots that lead from an entry of a table of contents to its page
_BULLET = re.compile("[•‣◦⁃∙●○■□▪▫◆◇➢➤►▶✓✔❖\uf0b7\uf0a7\uf0a8\uf0d8\uf06c\uf06e\uf076\uf0fc]\\s*")
_DASH = re.compile(r"[-–*·]\s+(?=\S)")
_NUMBER = re.compile(r"(?:\(?(?:\d{1,3}|[a-z]|[ivx]{2,5})[.)]|\(?[A-Z]\)|\[\d{1,3}\])\s+(?=\S)")
_SECTION = re.compile(r"\d{1,3}(?:\.\d{1,3})+\.?\s")
_MARKER_ALONE = re.compile(
    "(?:[•‣◦⁃∙●○■□▪▫◆◇➢➤►▶✓✔❖\uf000-\uf0ff*·–o-]|\\(?(?:\\d{1,3}(?:\\.\\d{1,3})*|[A-Za-z]|[ivxlIVXL]{1,6})[.)]?|\\[\\d{1,3}\\]|§+)"
)
_SIGNS = re.compile(r"[{}()\[\];=<>$#|\\&@*_~^`]")
_LETTER = re.compile(r"[^\W\d_]{2}|[\u3040-\u9fff\uac00-\ud7af]")

_CELL_GAP = 1.2  # em: pieces of a row farther apart are cells, unless the first is a marker or a number
_MARKER_GAP = 6.0  # em between a marker and its text at most
_STRETCHED_GAP = 2.5  # em between words of a justified line at most
_SPACE = 0.25  # em that a space is wide, about
_OVERHANG, _WIDE_SPACE = 0.5, 1.2  # em by which a piece may begin before the end of the last, also after a space
_TOUCHING = 0.12  # em: pieces closer than that are parts of one word
_SAME_SIZE = 0.08  # share by which sizes of one text may differ
_BODY = 0.3  # of the letters of a page
_LOOSE_PITCH = 1.3  # of the usual distance of lines; a larger one ends a paragraph
_INDENT = 0.6  # em
_HEADING_SIZE = 1.12  # of the body's
_HEADING_ROWS, _HEADING_LETTERS = 4, 200
_BOLD_HEADING_LETTERS = 120
_MONO_WIDTH = (0.47, 0.67)  # em of a letter in fonts of one width
_SAME_WIDTH = 0.04  # share by which the mean width of letters of one font of one width may differ
_TYPEWRITTEN = 0.8  # of the letters of a page
_FEW_SIGNS = 0.02  # of the letters: code has more of them
_MARGIN = 0.08  # of the page's height: what stands there is first or last whenever the file draws it
_COLUMN_LETTERS = 15  # of a row in a column of text at least
_FOOTNOTES = 6  # blocks in smaller letters at most between a paragraph and its rest in the next column
_RAGGED = 0.35  # of its width by which lines of one column may differ
_EDGE_ROWS = 2  # of a header or footer at most
_MOST_APART = 100  # rows beside others up to which a page is looked through for a gutter
_GUTTER_ROWS = 5  # rows drawn across both columns from which on a page is taken for columns


@dataclass(slots=True)
class _Row:
    """One line as a reader sees it; `cells` where its pieces stand apart, as in a table nobody recognised."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    bold: bool
    mono: bool
    rtl: bool
    font: str = ""
    cells: bool = False
    table: Table | None = None


def lay_out(content: PageContent, tables: Sequence[Table] = ()) -> list[Block]:
    """The blocks of a page in reading order; lines inside one of `tables` give way to it."""
    lines: list[Line] = [line for block in content.blocks for line in block]
    width, height = content.width, content.height
    places = _places(lines, tables) if tables else {}
    asides: list[Line] = []
    if any(line.turn or line.vertical for line in lines):
        lines, places, asides, turned = _upright(lines, places, width, height)
        if turned:
            width, height = height, width
    rows, columns = _rows(lines, places)
    rtl = sum(row.rtl for row in rows) * 2 > len(rows)
    blocks: list[Block] = []
    page = _Measures(rows)
    for chunk in _ordered(rows, columns, width, height, rtl):
        new = page.blocks(chunk)
        if blocks and new:
            place = _unfinished(blocks, new[0])
            if place is not None:
                blocks[place] = _joined(blocks[place], new.pop(0))
        blocks.extend(new)
    blocks.extend(_aside_blocks(asides))
    return blocks


# --- lines: tables out, turned pages upright ---


def _places(lines: list[Line], tables: Sequence[Table]) -> dict[int, Table | None]:
    """By index of a line: the table that stands in its place, or None where another line of it came before."""
    places: dict[int, Table | None] = {}
    seen: set[int] = set()
    for index, line in enumerate(lines):
        left, top, right, bottom = line.box
        x, y = (left + right) / 2, (top + bottom) / 2
        for number, table in enumerate(tables):
            box = table.box
            if box[0] <= x <= box[2] and box[1] <= y <= box[3]:
                places[index] = None if number in seen else table
                seen.add(number)
                break
    return places


def _upright(
    lines: list[Line], places: dict[int, Table | None], width: float, height: float
) -> tuple[list[Line], dict[int, Table | None], list[Line], bool]:
    """The lines as if the page were held so that most of its text reads from left to right, and the lines that do not.

    Text from top to bottom is turned too: its columns become rows, the rightmost one the first.
    """
    letters = Counter[int]()
    for line in lines:
        letters[90 if line.vertical else line.turn] += len(line.text)
    turn = max(letters, key=lambda key: (letters[key], -key))
    kept: list[Line] = []
    moved: dict[int, Table | None] = {}
    asides: list[Line] = []
    for index, line in enumerate(lines):
        if index in places:
            moved[len(kept)] = places[index]
        elif (90 if line.vertical else line.turn) != turn:
            asides.append(line)
            continue
        kept.append(replace(line, box=turned_back(line.box, turn, width, height)))
    return kept, moved, asides, turn in (90, 270)


def _aside_blocks(lines: list[Line]) -> list[Block]:
    """Lines turned against the rest of the page, such as a stamp in the margin."""
    blocks = []
    for line in lines:
        text = _clean(line.text)
        if len(text) > 1:
            blocks.append(Block("paragraph", text, line.box, line.size))
    return blocks


def _clean(text: str) -> str:
    if not text.isprintable():
        text = _UNSEEN.sub("", _CONTROLS.sub(" ", text))
    return " ".join(text.split())


# --- rows ---


def _rows(lines: list[Line], places: dict[int, Table | None]) -> tuple[list[_Row], bool]:
    """The rows of a page in the file's order, and whether they run across columns."""
    rows: list[_Row] = []
    apart: list[int] = []  # rows that stand beside the row before them, a gap away
    row: _Row | None = None
    space_follows = False  # the line before ends with a space
    for index, line in enumerate(lines):
        if index in places:
            table = places[index]
            if table is not None:
                rows.append(_Row("", *table.box, line.size, False, False, False, table=table))
            row = None
            continue
        text, mono, size = line.text, line.mono, line.size
        if not text.isprintable():
            text = _UNSEEN.sub("", _CONTROLS.sub(" ", text))
        left, top, right, bottom = line.box
        rtl = not text.isascii() and _reads_leftwards(text)
        if text[-1:] == " ":
            if rtl:
                left += _SPACE * size
            else:
                right -= _SPACE * size
        if mono:
            text = text.expandtabs(8).rstrip()
            if not text.isascii():
                text = text.replace("\u00a0", " ")
            if text.isspace():
                text = ""
        else:
            if text[:1] == " " and not rtl:
                left += _SPACE * size
            text = " ".join(text.split())
        if not text:
            continue
        # The space that ends a line may be as wide as a letter, and the next letter stand on it.
        backwards = _WIDE_SPACE if space_follows else _OVERHANG
        spaced, space_follows = space_follows or line.text[:1] == " ", line.text[-1:] == " "
        if row is not None and min(bottom, row.bottom) - max(top, row.top) > 0.5 * min(
            bottom - top, row.bottom - row.top
        ):
            em = max(size, row.size)
            gap = left - row.right
            if gap < -_OVERHANG * em and (rtl or row.rtl):
                gap = row.left - right
            if gap > -backwards * em and (gap > -_OVERHANG * em or left > row.left):
                near = gap < _CELL_GAP * em
                if near or (gap < _MARKER_GAP * em and _MARKER_ALONE.fullmatch(row.text)):
                    _extend(row, text, (left, top, right, bottom), line, rtl, gap, spaced)
                    continue
                apart.append(len(rows))
        row = _Row(text, left, top, right, bottom, size, line.bold, mono, rtl, line.font)
        rows.append(row)
    if not apart:
        return rows, False
    if _across_columns(rows, apart):
        return rows, True
    return _with_cells(rows, _without_gutter(rows, apart)), False


def _extend(row: _Row, text: str, box: Box, line: Line, rtl: bool, gap: float, spaced: bool) -> None:
    """Add a piece that stands beside a row, `gap` points away."""
    left, top, right, bottom = box
    em = max(line.size, row.size)
    if row.mono and line.mono:
        space = " " * max(0, round(gap / (0.6 * em)))
    elif UNSPACED.match(row.text[-1]) and UNSPACED.match(text[0]):
        space = ""
    else:
        space = " " if spaced or gap > _TOUCHING * em else ""
    before = (row.rtl or rtl) and left > row.left and row.rtl != (len(text) < 3)
    row.text = f"{text}{space}{row.text}" if before and row.rtl else f"{row.text}{space}{text}"
    if 2 * len(text) > len(row.text):  # what is raised or set lower is small: the height is that of the longer piece
        row.size, row.top, row.bottom = line.size, top, bottom
    row.left, row.right = min(left, row.left), max(right, row.right)
    row.bold = row.bold and line.bold
    row.mono = row.mono and line.mono
    row.rtl = row.rtl or rtl


def _reads_leftwards(text: str) -> bool:
    count = len(_RTL.findall(text))
    return count > 0 and count >= len(_LATIN.findall(text))


def _across_columns(rows: list[_Row], apart: list[int]) -> bool:
    """Whether the file draws line by line across two columns of text: both sides long, one gutter between all."""
    pairs = [(rows[index - 1], rows[index]) for index in apart]
    long = [(a, b) for a, b in pairs if min(len(a.text), len(b.text)) >= _COLUMN_LETTERS]
    if len(long) < _GUTTER_ROWS or 5 * len(long) < 3 * len(pairs):
        return False
    ends = sorted(min(a.right, b.right) for a, b in long)
    begins = sorted(max(a.left, b.left) for a, b in long)
    return ends[9 * len(ends) // 10] < begins[len(begins) // 10]


def _without_gutter(rows: list[_Row], apart: list[int]) -> list[int]:
    """The rows in `apart` that do not stand across the gap between two columns of text."""
    long = [row for row in rows if len(row.text) >= _COLUMN_LETTERS]
    if len(long) < 2 * _GUTTER_ROWS or len(apart) > _MOST_APART:
        return apart
    cells = []
    for index in apart:
        left, right = rows[index - 1].right, rows[index].left
        before = sum(row.right <= right for row in long)
        after = sum(row.left >= left for row in long)
        if min(before, after) < _GUTTER_ROWS or 10 * (before + after) < 9 * len(long):
            cells.append(index)
    return cells


def _with_cells(rows: list[_Row], apart: list[int]) -> list[_Row]:
    """Rows whose pieces stand apart become one row of cells."""
    beside = set(apart)
    merged: list[_Row] = []
    stretched: list[int] = []  # rows whose gaps are not wider than in a justified line of few words
    for index, row in enumerate(rows):
        if index not in beside or not merged or merged[-1].table:
            merged.append(row)
            continue
        into = merged[-1]
        narrow = row.left - into.right < _STRETCHED_GAP * row.size
        if narrow and not into.cells:
            stretched.append(len(merged) - 1)
        elif not narrow and stretched and stretched[-1] == len(merged) - 1:
            stretched.pop()
        if row.mono and into.mono:
            space = " " * max(2, round((row.left - into.right) / (0.6 * row.size or 1.0)))
        else:
            into.cells = True
            space = "  "
        into.text = f"{into.text}{space}{row.text}"
        into.left, into.right = min(row.left, into.left), max(row.right, into.right)
        into.top, into.bottom = min(row.top, into.top), max(row.bottom, into.bottom)
        into.bold = into.bold and row.bold
        into.mono = into.mono and row.mono
    for index in stretched:
        row = merged[index]
        if any(_same_margins(row, other) for other in merged[max(0, index - 1) : index + 2] if other is not row):
            row.cells = False
            row.text = " ".join(row.text.split())
    return merged


def _same_margins(row: _Row, other: _Row) -> bool:
    """Whether a row with gaps is as wide as a line of text beside it."""
    edge = 0.5 * row.size
    return (
        not other.cells
        and other.table is None
        and len(other.text) >= _COLUMN_LETTERS
        and abs(row.right - other.right) < edge
        and abs(row.left - other.left) < 2 * row.size
    )


# --- columns ---


def _ordered(rows: list[_Row], columns: bool, width: float, height: float, rtl: bool) -> Iterator[list[_Row]]:
    """The rows in reading order, in runs that go down without a jump."""
    runs = _runs(rows, strict=False)
    head, body, foot = _edges(runs, height, columns)
    if columns or (len(body) > 1 and jumps_back([_box(run) for run in body], rtl)):
        body = _runs([row for run in body for row in run], strict=True)
        order = reading_order([_box(run) for run in body], rtl)
        body = _runs([row for index in order for row in body[index]], strict=False)
    yield from head
    yield from body
    yield from foot


def _edges(
    runs: list[list[_Row]], height: float, columns: bool
) -> tuple[list[list[_Row]], list[list[_Row]], list[list[_Row]]]:
    """Short runs above and below everything else, whenever the file draws them; then the rest between them."""
    top, bottom = _MARGIN * height, (1 - _MARGIN) * height
    long = [run for run in runs if len(run) > _EDGE_ROWS]
    if not columns and 2 * sum(map(len, long)) > sum(map(len, runs)):
        top = max(top, min(run[0].top for run in long) + 1)
        bottom = min(bottom, max(run[-1].bottom for run in long) - 1)
    head, body, foot = [], [], []
    for run in runs:
        if len(run) <= _EDGE_ROWS and run[-1].bottom < top:
            head.append(run)
        elif len(run) <= _EDGE_ROWS and run[0].top > bottom:
            foot.append(run)
        else:
            body.append(run)
    return head, body, foot


def _runs(rows: list[_Row], strict: bool) -> list[list[_Row]]:
    """Rows that lie below each other; a strict run also ends at a gap and where a row is wider than it."""
    runs: list[list[_Row]] = []
    left = right = 0.0
    last: _Row | None = None
    for row in rows:
        if last is not None:
            down = row.top + row.bottom > last.top + last.bottom and row.top > last.top
            if down and row.left < right and row.right > left:
                slack = max(2 * row.size, _RAGGED * (right - left))
                if not strict or (
                    row.top - last.bottom < row.size and row.left > left - slack and row.right < right + slack
                ):
                    runs[-1].append(row)
                    left, right, last = min(left, row.left), max(right, row.right), row
                    continue
        runs.append([row])
        left, right, last = row.left, row.right, row
    return runs


def _box(rows: Sequence[_Row]) -> Box:
    return (
        min(row.left for row in rows),
        min(row.top for row in rows),
        max(row.right for row in rows),
        max(row.bottom for row in rows),
    )


def _unfinished(blocks: list[Block], after: Block) -> int | None:
    """Index of the paragraph that goes on in `after`, at the top of the next column; footnotes may stand below it."""
    if after.kind != "paragraph":
        return None
    for index in range(len(blocks) - 1, max(-1, len(blocks) - 1 - _FOOTNOTES), -1):
        before = blocks[index]
        if abs(before.size - after.size) <= _SAME_SIZE * after.size:
            goes_on = before.kind in ("paragraph", "list") and continues(before.text, after.text)
            return index if goes_on else None
        if before.size > after.size or before.kind != "paragraph":
            return None
    return None


def _joined(before: Block, after: Block) -> Block:
    a, b = before.box, after.box
    box = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    return Block(before.kind, join_pair(before.text, after.text), box, before.size)


# --- groups of rows, and what they are ---


class _Measures:
    """What is usual on a page: the size of its letters and the distance of its lines."""

    def __init__(self, rows: list[_Row]) -> None:
        sizes: dict[float, int] = {}
        pitches: list[float] = []
        before: _Row | None = None
        for row in rows:
            size = row.size
            sizes[size] = sizes.get(size, 0) + len(row.text)
            if before is not None and before.size == size and size > 0:
                pitch = (row.top + row.bottom - before.top - before.bottom) / 2 / size
                if 0.8 < pitch < 3.5:
                    pitches.append(pitch)
            before = row
            if row.mono and not _in_one_width(row):
                row.mono = False
        if _is_typewritten(rows):
            for row in rows:
                row.mono = False
        else:
            _unmark_mixed(rows)
        # Footnotes may fill more of a page than its text, and nothing but headings is larger than that.
        letters = sum(sizes.values())
        self.body = max((size for size, count in sizes.items() if count >= _BODY * letters), default=0.0)
        if not self.body and sizes:
            self.body = max(sizes, key=lambda size: (sizes[size], -size))
        pitches.sort()
        self.pitch = pitches[3 * len(pitches) // 10] if pitches else 1.3
        self.levels: list[float] = []  # left edges of the list items that are open

    def blocks(self, run: list[_Row]) -> list[Block]:
        """The blocks of rows that lie below each other."""
        blocks: list[Block] = []
        left = min(row.left for row in run)
        right = max((row.right for row in run if not row.mono), default=run[0].right)  # code may run over the margin
        code: list[_Row] = []  # of the block of code that is open
        for group in self._groups(run, left, right):
            first = group[0]
            if code and not all(row.mono for row in group):
                blocks.append(Block("code", self._code(code), _box(code), code[0].size))
                code = []
            if first.table:
                blocks.append(Block("table", first.table.markdown, first.table.box, first.size))
            elif all(row.mono for row in group):
                code.extend(group)
                continue
            elif self._is_heading(group):
                self.levels = []
                blocks.extend(_headings(group))
            elif first.cells:
                text = "\n".join(_LEADERS.sub(" ", row.text) for row in group)
                blocks.append(Block("paragraph", text, _box(group), first.size))
            else:
                blocks.extend(self._paragraphs(group, left, right))
        if code:
            blocks.append(Block("code", self._code(code), _box(code), code[0].size))
        return blocks

    def _groups(self, run: list[_Row], left: float, right: float) -> Iterator[list[_Row]]:
        """Rows of one style at the usual distance."""
        group = [run[0]]
        for before, row in pairwise(run):
            size = max(row.size, before.size)
            pitch = (row.top + row.bottom - before.top - before.bottom) / 2
            if (
                pitch > _LOOSE_PITCH * self.pitch * size + 0.5
                or _other_size(before, row)
                or row.cells != before.cells
                or row.table
                or before.table
                or ((row.mono != before.mono or row.bold != before.bold) and _style_ends(before, row, left, right))
            ):
                yield group
                group = [row]
            else:
                group.append(row)
        yield group

    def _is_heading(self, group: list[_Row]) -> bool:
        if len(group) > _HEADING_ROWS:
            return False
        first = group[0]
        letters = sum(len(row.text) for row in group)
        if first.cells or letters > _HEADING_LETTERS or not _LETTER.search(first.text):
            return False
        if first.size >= _HEADING_SIZE * self.body:
            return True
        return (
            letters <= _BOLD_HEADING_LETTERS
            and first.size >= 0.95 * self.body
            and all(row.bold for row in group)
            and group[-1].text[-1] not in ".,;:"
            and not any(_BULLET.match(row.text) or _DASH.match(row.text) for row in group)
        )

    def _code(self, rows: list[_Row]) -> str:
        """Rows of code with their indentation and their empty lines."""
        letters = [(row.right - row.left) / len(row.text) for row in rows if row.text]
        width = sorted(letters)[len(letters) // 2] or 1.0
        left = min(row.left for row in rows)
        lines: list[str] = []
        before: _Row | None = None
        for row in rows:
            if before is not None:
                pitch = (row.top + row.bottom - before.top - before.bottom) / 2
                empty = round(pitch / (self.pitch * row.size or 1.0)) - 1
                lines.extend([""] * max(0, min(empty, 2)))
            lines.append(" " * min(round((row.left - left) / width), 120) + row.text)
            before = row
        return "\n".join(lines)

    def _paragraphs(self, group: list[_Row], left: float, right: float) -> Iterator[Block]:
        """The paragraphs and list items of rows of one style."""
        if len(group) == 1:
            yield self._block(group)
            return
        if len(group) > 2:
            left, right = min(row.left for row in group), max(row.right for row in group)
        wanted = [_break_was_wanted(before, row, left, right) for before, row in pairwise(group)]
        edges = [row.right if row.rtl else row.left for row in group]
        even = max(edges) - min(edges) < _INDENT * group[0].size
        if len(wanted) > 2 and even and 5 * sum(wanted) > 3 * len(wanted) and not any(map(_is_item, group)):
            # Most lines end where they want to: verse, an address.
            text = "\n".join(row.text for row in group)
            yield Block("paragraph", _PRIVATE.sub("", text), _box(group), group[0].size)
            return
        piece = [group[0]]
        for index, (before, row) in enumerate(pairwise(group)):
            following = group[index + 2] if index + 2 < len(group) else None
            if wanted[index] or _begins(piece, before, row, following):
                yield self._block(piece)
                piece = [row]
            else:
                piece.append(row)
        yield self._block(piece)

    def _block(self, rows: list[_Row]) -> Block:
        """A paragraph or a list item."""
        text = _wrapped(rows)
        if "...." in text or ". . ." in text:
            text = _LEADERS.sub(" ", text).rstrip()
        first = rows[0]
        box, size = (first.left, first.top, first.right, first.bottom), first.size
        if len(rows) > 1:  # the first letter may be a raised number: the second row tells the size of the text
            box, size = _box(rows), rows[1].size
        bullet = _BULLET.match(text) or _DASH.match(text)
        if bullet:
            rest = text[bullet.end() :]
            if rest:
                return Block("list", f"{self._indent(first)}- {rest}", box, size)
        elif _NUMBER.match(text):
            return Block("list", self._indent(first) + text, box, size)
        elif self.levels and first.left < self.levels[0] - 1:
            self.levels = []
        return Block("paragraph", _PRIVATE.sub("", text), box, size)

    def _indent(self, row: _Row) -> str:
        """Two spaces for each list item that is open to the left of this one."""
        edge = -row.right if row.rtl else row.left
        while self.levels and edge < self.levels[-1] - _INDENT * row.size:
            self.levels.pop()
        if not self.levels or edge > self.levels[-1] + _INDENT * row.size:
            self.levels.append(edge)
        return "  " * min(len(self.levels) - 1, 4)


def _wrapped(rows: list[_Row]) -> str:
    """The text of rows that a program wrapped."""
    parts = [rows[0].text]
    for row in rows[1:]:
        joined = join_pair(parts[-1], row.text)  # which ends with the text of the row
        parts[-1:] = joined[: len(joined) - len(row.text)], row.text
    return "".join(parts)


def _other_size(before: _Row, row: _Row) -> bool:
    """Whether two rows are set in letters of different size.

    The size of a row may be that of a first letter which is raised or a small capital: then the heights decide.
    """
    if abs(row.size - before.size) <= _SAME_SIZE * max(row.size, before.size):
        return False
    small, large = (row, before) if row.size < before.size else (before, row)
    height, other = small.bottom - small.top, large.bottom - large.top
    return height < (1 - 2 * _SAME_SIZE) * other or height * large.size < 1.15 * other * small.size


def _style_ends(before: _Row, row: _Row, left: float, right: float) -> bool:
    """Whether a change of style between two rows is one of lines and not of words in a paragraph."""
    if row.mono != before.mono:
        indent = row.left - before.left if row.mono else before.left - row.left  # of the code
        return indent > 0.5 * row.size or _break_was_wanted(before, row, left, right)
    return before.right < right - max(2 * row.size, 0.08 * (right - before.left))


def _in_one_width(row: _Row) -> bool:
    """Whether a row whose first letter is of a font of one width may hold that font alone."""
    if not row.text.isascii():
        return True  # wide letters stand among the narrow ones
    return _MONO_WIDTH[0] < (row.right - row.left) / len(row.text) / (row.size or 1.0) < _MONO_WIDTH[1]


def _is_typewritten(rows: list[_Row]) -> bool:
    """Whether letters of one width are the text of the page and no code: nearly all of it, with hardly a sign."""
    letters = sum(len(row.text) for row in rows if row.mono)
    if letters < _TYPEWRITTEN * sum(len(row.text) for row in rows):
        return False
    signs = sum(len(_SIGNS.findall(row.text)) for row in rows if row.mono)
    return signs < _FEW_SIGNS * letters


def _unmark_mixed(rows: list[_Row]) -> None:
    """Rows that begin in a font of one width and go on in another: their letters are not as wide as those of others."""
    widths: dict[str, list[tuple[float, _Row]]] = {}
    for row in rows:
        if row.mono and row.text.isascii() and len(row.text) > 3:
            width = (row.right - row.left) / len(row.text) / (row.size or 1.0)
            widths.setdefault(row.font, []).append((width, row))
    for found in widths.values():
        usual = sorted(width for width, _ in found)[len(found) // 2]
        for width, row in found:
            if abs(width - usual) > _SAME_WIDTH * usual:
                row.mono = False


def _headings(group: list[_Row]) -> Iterator[Block]:
    piece: list[_Row] = []
    for row in group:
        if piece and _SECTION.match(row.text):
            yield _heading(piece)
            piece = []
        piece.append(row)
    yield _heading(piece)


def _heading(rows: list[_Row]) -> Block:
    return Block("heading", _PRIVATE.sub("", _LEADERS.sub(" ", _wrapped(rows))).strip(), _box(rows), rows[0].size)


def _break_was_wanted(before: _Row, row: _Row, left: float, right: float) -> bool:
    """Whether the first word of a row would have had room at the end of the row before it."""
    room = before.left - left if row.rtl else right - before.right
    text = row.text
    if room < row.size:
        return False
    last = before.text[-1]
    if last in "-\u2010\u00ad" and text[0].islower():
        return False
    width = (row.right - row.left) / len(text)
    if not text.isascii() and UNSPACED.match(text[0]):
        return room > 2.5 * row.size
    word = text.find(" ")
    return room > (word + 1 if word > 0 else len(text) + 1) * width + 0.3 * row.size


def _begins(piece: list[_Row], before: _Row, row: _Row, following: _Row | None) -> bool:
    """Whether a row begins a paragraph though the row before it is full: by its indent or its bullet."""
    text = row.text
    if not text[0].isalnum() and _BULLET.match(text):
        return True
    offset = before.right - row.right if row.rtl else row.left - before.left
    if offset > _INDENT * row.size:
        if following is None:
            return len(piece) > 1
        back = row.right - following.right if row.rtl else following.left - row.left
        return len(piece) > 1 or (back < -_INDENT * row.size and not _starts_item(before.text))
    if offset < -_INDENT * row.size:
        return len(piece) > 1 or _starts_item(text)
    return _starts_item(text) and _starts_item(piece[0].text)


def _is_item(row: _Row) -> bool:
    return _starts_item(row.text)


def _starts_item(text: str) -> bool:
    return bool(_BULLET.match(text) or _DASH.match(text) or _NUMBER.match(text))
