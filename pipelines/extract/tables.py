"""Tables of a page as Markdown, from drawn lines or from pieces of text that stand in columns.

A cheap test comes first: a table has rows of pieces beside one another. Then the frames of drawn lines are filled; what
is left over is looked through for rows whose pieces align without any line. Two columns of text, lists, tables of
contents, code and forms align as well, so a table without lines has to prove itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from pipelines.extract.page import Box, Document, Line, PageContent, turned_back
from pipelines.extract.rulings import Frame, Rule, frames, levels
from pipelines.extract.wrapping import join_pair

_MOST_CELLS = 10_000
_MOST_COLUMNS = 60
_REPEATED = 40  # characters: so short, a cell over several rows or columns is written in each of them
_CLOSE = 4  # rows: within so many there is a second one with pieces beside one another
_NARROWEST, _LOWEST = 60.0, 16.0  # points: smaller frames hold no table
_LONG = 0.2  # of a table's height: shorter lines down part no columns
_CUT = 0.05  # of the pieces may lie across a line; more do in drawings
_FILLED = 0.4  # of the cells have text; fewer do in drawings
_LONGEST_CELL = 1200  # characters; what is longer is text in a box
_NUMBER = re.compile(r"[-+−–±~≈<>≤≥$€£¥₩(\[]*\d[\d\s.,:/'’%()\[\]±+\-−–×x*eEkKmMbBtT$€£¥°]*|[-–—−.·*]+|n/?a\.?", re.I)
_LEADERS = re.compile(r"\s*(?:[.·_]\s?){4,}$|\s*(?:…\s?){2,}$")
_MARKER = re.compile(r"[^\w\s]{1,2}|[(\[]?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)\]:]*|(?:\d{1,3}\.)+\d{0,3}")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ufffd]+")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: where it lies on the page, in points, and its text in Markdown."""

    box: Box
    markdown: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line of text with its box as a reader sees it who holds the page upright; `order` is its place in the file."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    mono: bool
    order: int

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2

    @property
    def center(self) -> float:
        return (self.left + self.right) / 2


_Row = list[_Piece]  # pieces beside one another, from left to right


def find_tables(content: PageContent, document: Document) -> list[Table]:
    """The tables of one page, from top to bottom; may ask the document for the page's drawn lines."""
    lines = [line for block in content.blocks for line in block if not line.vertical]
    turn = _usual_turn(lines)
    if not _may_hold_tables(lines, turn):
        return []
    width, height = content.width, content.height
    rows = _rows(_pieces(lines, turn, width, height))
    if turn in (90, 270):
        width, height = height, width
    tables: list[tuple[Box, list[list[str]]]] = []
    if content.paths > 1:
        boxes = [turned_back(box, turn, content.width, content.height) for box in document.rulings(content.number)]
        for frame in _ranked(frames(boxes, width, height)):
            inside = [piece for row in rows for piece in row if _within(piece, frame.box)]
            found = _ruled(frame, inside)
            if found is not None:
                tables.append(found)
                rows = [kept for row in rows if (kept := [piece for piece in row if not _within(piece, found[0])])]
    tables += _unruled(rows)
    tables.sort(key=lambda table: (table[0][1], table[0][0]))
    back = (360 - turn) % 360
    return [Table(turned_back(box, back, width, height), _markdown(grid)) for box, grid in tables]


# --- pieces and rows ---


def _usual_turn(lines: list[Line]) -> int:
    if not any(line.turn for line in lines):
        return 0
    letters = dict.fromkeys((0, 90, 180, 270), 0)
    for line in lines:
        letters[line.turn] = letters.get(line.turn, 0) + len(line.text)
    return max(letters, key=lambda turn: (letters[turn], -turn))


def _may_hold_tables(lines: list[Line], turn: int) -> bool:
    """Whether some rows that follow one another have lines side by side: the cheap test."""
    begin, end = (1, 3) if turn in (0, 180) else (0, 2)
    boxes = [
        (line.box[begin] + line.box[end], line.box[end] - line.box[begin])
        for line in lines
        if len(line.text) > 4 or not _is_mark(line.text)
    ]
    boxes.sort()
    row, beside = 0, -_CLOSE
    level = float("-inf")
    alone = True
    for middle, high in boxes:
        if middle - level > 0.7 * high:
            row, level, alone = row + 1, middle, True
        elif alone:
            alone = False
            if row - beside < _CLOSE:
                return True
            beside = row
    return False


def _is_mark(text: str) -> bool:
    """Whether a short text stands before an entry of a list."""
    text = text.strip()
    return not text or (len(text) < 4 and not text[-1].isalnum())


def _pieces(lines: list[Line], turn: int, width: float, height: float) -> list[_Piece]:
    pieces = []
    for order, line in enumerate(lines):
        if line.turn == turn:
            text = line.text
            if not text.isprintable():
                text = _CONTROLS.sub(" ", text)
            text = text.strip()
            if text:
                box = turned_back(line.box, turn, width, height) if turn else line.box
                pieces.append(_Piece(text, *box, line.size, line.mono, order))
    return pieces


def _rows(pieces: list[_Piece]) -> list[_Row]:
    """Pieces whose middles lie on one height."""
    rows: list[_Row] = []
    level = reach = 0.0
    for piece in sorted(pieces, key=lambda piece: piece.top + piece.bottom):
        middle = piece.middle
        if rows and middle - level <= min(reach, 0.35 * (piece.bottom - piece.top)):
            rows[-1].append(piece)
        else:
            rows.append([piece])
            level, reach = middle, 0.35 * (piece.bottom - piece.top)
    for row in rows:
        row.sort(key=lambda piece: piece.left)
    return rows


def _within(piece: _Piece, box: Box) -> bool:
    return box[0] - 1 <= piece.center <= box[2] + 1 and box[1] - 1 <= piece.middle <= box[3] + 1


def _text(pieces: list[_Piece]) -> str:
    """The pieces of a cell as one line of text, in the order in which they are read."""
    text = ""
    backwards = _is_right_to_left("".join(piece.text for piece in pieces))
    for row in _rows(pieces):
        if backwards:
            row.reverse()
        line = " ".join(" ".join(piece.text for piece in row).split())
        text = join_pair(text, line) if text else line
    return _LEADERS.sub("", text).rstrip()


# --- tables with drawn lines ---


def _ranked(found: list[Frame]) -> list[Frame]:
    """Frames with lines down first, and large ones before those inside them; without the very small ones."""
    sizes = [(frame.box[2] - frame.box[0], frame.box[3] - frame.box[1], frame) for frame in found]
    large = [size for size in sizes if size[0] >= _NARROWEST and size[1] >= _LOWEST]
    return [frame for wide, high, frame in sorted(large, key=lambda size: (not size[2].down, -size[0] * size[1]))]


def _ruled(frame: Frame, pieces: list[_Piece]) -> tuple[Box, list[list[str]]] | None:
    """The place and the cells of the table in a frame, or None where there is none."""
    rows = _rows(pieces)
    if len(pieces) < 4 or sum(len(row) > 1 for row in rows) < 2:
        return None
    left, top, right, bottom = frame.box
    centers = [piece.center for piece in pieces]
    inner = [rule for rule in frame.down if min(centers) < rule.at < max(centers)]
    bands = levels([top, bottom, *(rule.at for rule in frame.across)])
    if inner:
        pieces = [part for piece in pieces for part in _split(piece, inner)]
        rows = _rows(pieces)
    else:
        if frame.down and len(bands) < 4:  # a box around something
            grid = _aligned(rows)
            return None if grid is None else (frame.box, grid)
        bands = _tabular(rows, bands)
        if len(bands) < 2:
            return None
        top, bottom = bands[0], bands[-1]
        pieces = [piece for piece in pieces if top <= piece.middle <= bottom]
        rows = _rows(pieces)
    bounds = levels([left, right, *_long(inner, bottom - top)])
    bounds = levels(bounds + _rivers(rows, bounds))
    columns = len(bounds) - 1
    if columns < 2 or columns > _MOST_COLUMNS or columns * len(bands) > _MOST_CELLS:
        return None
    if not inner and (_is_prose(rows, bounds) or _is_code(pieces)):
        return None
    cut = sum(
        any(rule.begin < piece.middle < rule.end and _crosses(piece, rule.at) for rule in inner) for piece in pieces
    )
    if cut > _CUT * len(pieces):
        return None
    frame = Frame((left, top, right, bottom), frame.across, inner)
    grid = _filled(frame, bounds, bands, pieces)
    return None if grid is None else (frame.box, grid)


def _split(piece: _Piece, rules: list[Rule]) -> list[_Piece]:
    """The parts of a piece that runs across lines down, parted at the spaces nearest to them.

    Cells that stand close together come as one line; where its letters lie is only known from its length.
    """
    crossed = sorted({rule.at for rule in rules if rule.begin < piece.middle < rule.end and _crosses(piece, rule.at)})
    parts: list[_Piece] = []
    for at in crossed:
        text = piece.text
        wanted = (at - piece.left) / (piece.right - piece.left) * len(text)
        spaces = [place for place, letter in enumerate(text) if letter == " "]
        place = min(spaces, key=lambda place: abs(place - wanted), default=-1)
        if place < 0 or abs(place - wanted) > 2 + 0.15 * len(text):
            continue
        before, after = text[:place].strip(), text[place:].strip()
        if before and after:
            parts.append(replace(piece, text=before, right=at - 1))
            piece = replace(piece, text=after, left=at + 1)
    return [*parts, piece]


def _long(rules: list[Rule], height: float) -> list[float]:
    """Places of lines that run down a good part of the table, in pieces or as a whole."""
    places = levels([rule.at for rule in rules])
    lengths = dict.fromkeys(places, 0.0)
    for rule in rules:
        lengths[min(places, key=lambda place: abs(place - rule.at))] += rule.end - rule.begin
    return [place for place, length in lengths.items() if length >= _LONG * height]


def _crosses(piece: _Piece, bound: float) -> bool:
    return piece.left < bound - 2 and piece.right > bound + 2


def _tabular(rows: list[_Row], bands: list[float]) -> list[float]:
    """The longest run of spaces between lines in which most rows have pieces beside one another."""
    best: list[float] = []
    run: list[float] = []
    for begin, end in pairwise(bands):
        inside = [row for row in rows if begin <= row[0].middle < end]
        if inside and 2 * sum(_stands_apart(row) for row in inside) >= len(inside):
            run = [*(run or [begin]), end]
            best = max(best, run, key=len)
        else:
            run = []
    return best


def _filled(frame: Frame, bounds: list[float], bands: list[float], pieces: list[_Piece]) -> list[list[str]] | None:
    """The texts of the cells between the bounds of columns and the lines across."""
    contents = [[piece for piece in pieces if begin <= piece.middle < end] for begin, end in pairwise(bands)]
    grid: list[list[str]] = []
    pending: list[int] = []  # bands whose cells are told by their lines
    cells = filled = 0
    for band in range(len(contents) + 1):
        texts = _rows(contents[band]) if band < len(contents) else []
        rows = _by_rows(texts, bounds)
        body = _is_body(rows, bounds, bool(frame.down), len(contents))
        if not body and band < len(contents):
            pending.append(band)
            continue
        framed, all_cells, filled_cells = _framed(frame, bounds, bands, contents, pending)
        by_rows = _texts(rows)
        cells += all_cells + sum(map(len, by_rows))
        filled += filled_cells + sum(bool(cell) for row in by_rows for cell in row)
        grid += framed + by_rows
        pending = []
    return _tidy(grid) if filled >= _FILLED * cells else None


def _rivers(rows: list[_Row], bounds: list[float]) -> list[float]:
    """Places of white space that runs down between pieces, in columns that no drawn line parts."""
    found: list[float] = []
    for begin, end in pairwise(bounds):
        inside = [[piece for piece in row if begin - 2 <= piece.left and piece.right <= end + 2] for row in rows]
        beside = [row for row in inside if len(row) > 1]
        if len(beside) >= 2 and len(beside) >= 0.3 * sum(1 for row in inside if row):
            found += _gaps(beside)
    return found


def _gaps(rows: list[_Row]) -> list[float]:
    """Places of the white space between columns of rows that have pieces beside one another."""
    size = median(piece.size for row in rows for piece in row)
    allowed = len(rows) // 8  # rows that may cross, such as a heading over two columns
    edges = sorted((edge, step) for row in rows for piece in row for edge, step in ((piece.left, 1), (piece.right, -1)))
    gaps: list[tuple[float, float]] = []
    depth, begin = 0, None
    first, last = edges[0][0], edges[-1][0]
    for at, step in edges:
        if depth <= allowed and begin is None:
            begin = at
        depth += step
        if depth > allowed and begin is not None:
            if at - begin >= 0.4 * size and begin > first and at < last:
                gaps.append((begin, at))
            begin = None
        elif depth <= allowed and begin is None:
            begin = at
    return _useful([(begin + end) / 2 for begin, end in gaps], rows)


def _useful(places: list[float], rows: list[_Row]) -> list[float]:
    """Without gaps between columns that are never both filled: a heading to the left and numbers to the right."""
    kept: list[float] = []
    for index, place in enumerate(places):
        begin = kept[-1] if kept else float("-inf")
        end = places[index + 1] if index + 1 < len(places) else float("inf")
        both = sum(
            any(begin < piece.center < place for piece in row) and any(place < piece.center < end for piece in row)
            for row in rows
        )
        if both >= max(2, 0.15 * len(rows)) or (both and len(rows) < 4):
            kept.append(place)
    return kept


def _column(piece: _Piece, bounds: list[float]) -> int:
    """The column of a piece: that of its middle, or of its beginning where it is wider than one."""
    last = len(bounds) - 2
    at = piece.center
    for column in range(last + 1):
        if bounds[column] - 2 <= piece.left and piece.right <= bounds[column + 1] + 2:
            return column
    for column in range(last + 1):
        if piece.left < bounds[column + 1] - 2:
            return column if piece.right > bounds[column + 1] + 2 or at < bounds[column + 1] else min(column + 1, last)
    return last


def _is_body(cells: list[list[list[_Piece]]], bounds: list[float], crossed: bool, bands: int) -> bool:
    """Whether the rows of text between two drawn lines are rows of the table, rather than wrapped lines of one row."""
    rows = len(cells)
    if rows < (2 if not crossed else 3 if bands <= 3 else 5):
        return False
    if not crossed:
        return True
    filled = [sum(bool(row[column]) for row in cells) for column in range(len(bounds) - 1)]
    used = [count for count in filled if count]
    wide = pieces = 0
    for row in cells:
        for column, cell in enumerate(row):
            pieces += len(cell)
            for piece in cell:
                if piece.right - piece.left > 0.75 * (bounds[column + 1] - bounds[column]):
                    wide += not _LEADERS.search(piece.text)
    return (
        len(used) > 1
        and used[0] >= 0.6 * rows
        and sum(used) >= 0.6 * rows * len(used)
        and (wide < 0.4 * pieces or (len(used) > 2 and median(used) >= 0.7 * rows))
    )


def _by_rows(texts: list[_Row], bounds: list[float]) -> list[list[list[_Piece]]]:
    """One row of cells for each row of text; a row that only goes on with cells of the row above is part of it."""
    columns = len(bounds) - 1
    cells: list[list[list[_Piece]]] = []
    below = above = 0.0
    tight = _tight(texts)
    for row in texts:
        placed: list[list[_Piece]] = [[] for _ in range(columns)]
        for piece in row:
            placed[_column(piece, bounds)].append(piece)
        used = [column for column in range(columns) if placed[column]]
        top = min(piece.top for piece in row)
        size = median(piece.size for piece in row)
        goes_on = (
            cells
            and len(used) < sum(map(bool, cells[-1]))
            and all(cells[-1][column] for column in used)
            and (
                row[0].middle - above < tight or (used[0] > 0 and 2 * len(used) <= columns and top - below < 0.6 * size)
            )
        )
        if goes_on:
            for column in used:
                cells[-1][column] += placed[column]
        else:
            cells.append(placed)
        below = max(piece.bottom for piece in row)
        above = row[0].middle
    return cells


def _tight(texts: list[_Row]) -> float:
    """The distance below which a row of text belongs to the row above; 0 where all rows stand alike."""
    steps = [below[0].middle - above[0].middle for above, below in pairwise(texts)]
    if not steps or max(steps) < 1.15 * min(steps):
        return 0.0
    limit = (max(steps) + min(steps)) / 2
    apart = sum(step > limit for step in steps)
    return limit if 0.4 * len(steps) <= apart else 0.0


def _texts(cells: list[list[list[_Piece]]]) -> list[list[str]]:
    return [[_text(cell) for cell in row] for row in cells]


def _framed(
    frame: Frame, bounds: list[float], bands: list[float], contents: list[list[_Piece]], chosen: list[int]
) -> tuple[list[list[str]], int, int]:
    """Rows of cells of the chosen bands, and how many cells there are and have text; without a line, two are one."""
    columns = len(bounds) - 1
    count = len(chosen) * columns
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    down = _along(frame.down, bounds)
    parted_bands = {
        band for band in chosen if not any(_covers(rule, bands[band], bands[band + 1]) for rule in frame.down)
    }
    across = _along(frame.across, bands)
    for place, band in enumerate(chosen):
        middle = (bands[band] + bands[band + 1]) / 2
        for column in range(columns):
            cell = place * columns + column
            if column + 1 < columns:
                bound = bounds[column + 1]
                ruled = down.get(column + 1)
                if ruled is not None and band not in parted_bands:
                    parted = any(begin <= middle <= end for begin, end in ruled)
                else:
                    parted = not any(_crosses(piece, bound) for piece in contents[band])
                if not parted:
                    parent[root(cell + 1)] = root(cell)
            if place + 1 < len(chosen) and chosen[place + 1] == band + 1:
                center = (bounds[column] + bounds[column + 1]) / 2
                if not any(begin <= center <= end for begin, end in across.get(band + 1, ())):
                    parent[root(cell + columns)] = root(cell)
    pieces: dict[int, list[_Piece]] = {}
    for place, band in enumerate(chosen):
        for piece in contents[band]:
            pieces.setdefault(root(place * columns + _column(piece, bounds)), []).append(piece)
    texts = {cell: _text(held) for cell, held in pieces.items()}
    written: set[int] = set()
    grid: list[list[str]] = []
    for place in range(len(chosen)):
        row: list[str] = []
        for column in range(columns):
            cell = root(place * columns + column)
            text = texts.get(cell, "")
            row.append(text if cell not in written or len(text) <= _REPEATED else "")
            written.add(cell)
        if len({root(place * columns + column) for column in range(columns)}) == 1:
            row[1:] = [""] * (columns - 1)  # a title over the whole width stands there once
        grid.append(row)
    return grid, len({root(cell) for cell in range(count)}), len(texts)


def _covers(rule: Rule, begin: float, end: float) -> bool:
    middle = (begin + end) / 2
    return rule.begin <= middle <= rule.end


def _along(rules: Sequence[Rule], places: list[float]) -> dict[int, list[tuple[float, float]]]:
    """By index of a place: the stretches of the lines that lie there."""
    found: dict[int, list[tuple[float, float]]] = {}
    for rule in rules:
        index = min(range(len(places)), key=lambda at: abs(places[at] - rule.at))
        if abs(places[index] - rule.at) <= 3:
            found.setdefault(index, []).append((rule.begin - 1, rule.end + 1))
    return found


def _tidy(grid: list[list[str]]) -> list[list[str]] | None:
    """Without empty rows and columns; None where too little is left for a table."""
    grid = [row for row in grid if any(row)]
    if not grid:
        return None
    used = [column for column in range(len(grid[0])) if any(row[column] for row in grid)]
    grid = [[row[column] for column in used] for row in grid]
    if len(used) < 2 or len(grid) < 2:
        return None
    cells = [cell for row in grid for cell in row]
    if max(map(len, cells)) > _LONGEST_CELL or sum(map(bool, cells)) < 0.3 * len(cells):
        return None
    if sum(1 for row in grid if sum(map(bool, row)) > 1) < 2:
        return None
    texts = [cell for cell in cells if cell]
    single = sum(len(cell) == 1 and not cell.isdigit() for cell in texts)
    if 2 * single > len(texts) and len(texts) < 0.8 * len(cells):
        return None  # letters and signs that label a drawing
    return grid


# --- tables without drawn lines ---


def _unruled(rows: list[_Row]) -> list[tuple[Box, list[list[str]]]]:
    tables = []
    for run in _runs(rows):
        found = _aligned(run)
        if found is not None:
            box = (
                min(piece.left for row in run for piece in row),
                min(piece.top for row in run for piece in row),
                max(piece.right for row in run for piece in row),
                max(piece.bottom for row in run for piece in row),
            )
            tables.append((box, found))
    return tables


def _stands_apart(row: _Row) -> bool:
    return any(right.left - left.right >= 0.8 * left.size for left, right in pairwise(row))


def _runs(rows: list[_Row]) -> list[list[_Row]]:
    """Rows one below the other that have pieces beside one another; single pieces may stand between them."""
    runs: list[list[_Row]] = []
    run: list[_Row] = []
    alone = 0
    for row in rows:
        if run:
            size = row[0].size
            gap = min(piece.top for piece in row) - max(piece.bottom for piece in run[-1])
            if gap > 2.0 * size or (alone >= 2 and not _stands_apart(row)):
                runs.append(run[: len(run) - alone])
                run, alone = [], 0
        if _stands_apart(row):
            run.append(row)
            alone = 0
        elif run:
            run.append(row)
            alone += 1
    runs.append(run[: len(run) - alone])
    return [run for run in runs if sum(len(row) > 1 for row in run) >= 3]


def _aligned(run: list[_Row]) -> list[list[str]] | None:
    """The cells of rows without lines, or None where they are no table."""
    beside = [row for row in run if len(row) > 1]
    bounds = [float("-inf"), *_gaps(beside), float("inf")]
    columns = len(bounds) - 1
    if columns < 2 or columns > _MOST_COLUMNS or len(beside) < 0.6 * len(run):
        return None
    if _is_prose(beside, bounds) or not _drawn_by_rows(run):
        return None
    if _is_code([piece for row in run for piece in row]):
        return None
    grid = _tidy(_texts(_by_rows(run, bounds)))
    if grid is None or len(grid) < 3:
        return None
    if _is_contents(run, grid) or _is_list(grid):
        return None
    values = [cell for row in grid[1:] for cell in row[1:] if cell]
    numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in values)
    cells = [cell for row in grid for cell in row if cell]
    words = sum(len(cell.split()) for cell in cells)
    filled = len(cells) / (len(grid) * len(grid[0]))
    if not values or filled < 0.5 or sum(map(len, values)) < 2 * len(values):
        return None
    if len(grid[0]) == 2:
        return grid if len(grid) >= 4 and numbers >= 0.7 * len(values) else None
    return grid if numbers >= 0.25 * len(values) or (filled >= 0.8 and words <= 2.5 * len(cells)) else None


def _is_prose(rows: list[_Row], bounds: list[float]) -> bool:
    """Whether the columns are columns of text: most lines fill their column and have several words."""
    extents: dict[int, list[_Piece]] = {}
    for row in rows:
        for piece in row:
            extents.setdefault(_column(piece, bounds), []).append(piece)
    full = several = 0
    for pieces in extents.values():
        width = max(piece.right for piece in pieces) - min(piece.left for piece in pieces)
        full += sum(piece.right - piece.left >= 0.8 * width for piece in pieces if len(piece.text) > 15)
        several += sum(len(piece.text) > 25 for piece in pieces)
    count = sum(map(len, extents.values()))
    return several > 0.5 * count and full > 0.4 * count


def _is_code(pieces: list[_Piece]) -> bool:
    return sum(piece.mono for piece in pieces) > 0.6 * len(pieces)


def _drawn_by_rows(run: list[_Row]) -> bool:
    """Whether the file draws the pieces row by row, as it does in tables, and not column by column."""
    row_of = {piece.order: index for index, row in enumerate(run) for piece in row}
    orders = sorted(row_of)
    together = sum(row_of[first] == row_of[second] for first, second in pairwise(orders))
    return together >= 0.5 * (len(orders) - len(run))


def _is_contents(run: list[_Row], grid: list[list[str]]) -> bool:
    """Whether it is a table of contents: leading dots, or page numbers that grow."""
    if sum(any(_LEADERS.search(piece.text) for piece in row) for row in run) >= 0.3 * len(run):
        return True
    last = [row[-1] for row in grid if row[-1]]
    pages = [int(cell) for cell in last if cell.isdecimal() and len(cell) < 6]
    growing = all(first <= second for first, second in pairwise(pages))
    return len(pages) >= 3 and len(pages) >= 0.8 * len(last) and growing and len(grid[0]) <= 3


def _is_list(grid: list[list[str]]) -> bool:
    """Whether the first column holds only marks or numbers of a list, and one other column its text."""
    marks = sum(_MARKER.fullmatch(row[0]) is not None for row in grid if row[0])
    return len(grid[0]) == 2 and marks >= 0.7 * sum(bool(row[0]) for row in grid)


def _is_right_to_left(text: str) -> bool:
    return 2 * len(_RIGHT_TO_LEFT.findall(text)) > sum(map(str.isalpha, text)) > 0


# --- Markdown ---


def _markdown(grid: list[list[str]]) -> str:
    if _is_right_to_left("".join(cell for row in grid for cell in row)):
        grid = [row[::-1] for row in grid]
    rows = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in grid]
    rows.insert(1, ["---"] * len(grid[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
