"""Tables of PDF pages: set here with known cells, and real ones; pages that hold none give none."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract import pdf_pymupdf, pdf_pypdfium2
from pipelines.extract.page import Box, Line, PageContent
from pipelines.extract.rulings import frames
from pipelines.extract.tables import Table, find_tables

Grid = list[list[str]]
BACKENDS = [pdf_pymupdf, pdf_pypdfium2]


class Drawing:
    """A page without a file: lines of text, and the boxes of drawn lines."""

    page_count = 1
    title = ""

    def __init__(self, width: float = 612.0, height: float = 792.0) -> None:
        self.content = PageContent(1, width, height)
        self.boxes: list[Box] = []
        self.asked = 0

    def write(self, x: float, y: float, text: str, size: float = 10.0, **known: object) -> None:
        self.content.blocks.append([Line(text, (x, y, x + 0.5 * size * len(text), y + size), size, **known)])

    def draw(self, *box: float) -> None:
        left, top, right, bottom = box
        self.boxes.append((left, top, right, bottom))
        self.content.paths += 1

    def read(self, number: int) -> PageContent:
        return self.content

    def rulings(self, number: int) -> list[Box]:
        self.asked += 1
        return self.boxes

    def render(self, number: int, dpi: int | None = None, longest_side: int | None = None, rotate: int = 0) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def tables(self) -> list[Table]:
        return find_tables(self.content, self)


def grid(drawing: Drawing, cells: Grid, wide: float = 90.0, high: float = 20.0, ruled: bool = True) -> None:
    for row, texts in enumerate(cells):
        for column, text in enumerate(texts):
            left, top = 72 + column * wide, 100 + row * high
            if ruled:
                drawing.draw(left, top, left + wide, top + high)
            if text:
                drawing.write(left + 4, top + 5, text)


def markdown(cells: Grid) -> str:
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([rows[0], "|" + " --- |" * len(cells[0]), *rows[1:]])


CELLS = [["Name", "Count", "Note"], ["alpha", "12", "good"], ["beta", "7", ""], ["gamma", "140", "worse"]]


def test_a_ruled_table() -> None:
    drawing = Drawing()
    drawing.write(72, 60, "Before the table")
    grid(drawing, CELLS)
    drawing.write(72, 300, "After the table")
    [table] = drawing.tables()
    assert table.markdown == markdown(CELLS)
    assert table.box == pytest.approx((72, 100, 342, 180))


def test_bars_and_line_breaks_in_cells() -> None:
    drawing = Drawing()
    cells = [["a|b", "x\\y"], ["", "two"], ["c", "d"]]
    grid(drawing, cells, high=40)
    drawing.write(76, 145, "first line")
    drawing.write(76, 157, "second")
    [table] = drawing.tables()
    assert table.markdown == markdown([["a\\|b", "x\\\\y"], ["first line second", "two"], ["c", "d"]])


def test_lines_across_and_no_lines_at_all() -> None:
    for across in (True, False):
        drawing = Drawing()
        cells = [["Year", "Sold", "Share"], ["1990", "1,204", "12 %"], ["1991", "999", "9 %"], ["1992", "31", "-"]]
        grid(drawing, cells, ruled=False)
        if across:
            for y in (98.0, 118.0, 182.0):
                drawing.draw(72, y, 342, y + 0.5)
        [table] = drawing.tables()
        assert table.markdown == markdown(cells)


def test_cells_over_columns_and_rows() -> None:
    drawing = Drawing()
    # Score spans two columns, Name two rows.
    drawing.write(76, 112, "Name")
    drawing.write(196, 104, "Score")
    for x, text in ((170, "home"), (260, "away")):
        drawing.write(x, 124, text)
    for row, texts in enumerate((("alpha", "1", "2"), ("beta", "3", "4"))):
        for column, text in enumerate(texts):
            drawing.write(76 + 90 * column, 144 + 20 * row, text)
    for y in (140.0, 160.0, 180.0, 100.0):
        drawing.draw(72, y, 342, y + 0.5)
    drawing.draw(162, 120, 342, 120.5)
    for x in (72.0, 162.0, 342.0):
        drawing.draw(x, 100, x + 0.5, 180)
    drawing.draw(252, 120, 252.5, 180)
    [table] = drawing.tables()
    assert table.markdown == markdown(
        [["Name", "Score", "Score"], ["Name", "home", "away"], ["alpha", "1", "2"], ["beta", "3", "4"]]
    )


def test_columns_of_right_to_left_text_begin_at_the_right() -> None:
    drawing = Drawing()
    grid(drawing, [["שניים", "אחת"], ["ארבע", "שלוש"]])
    [table] = drawing.tables()
    assert table.markdown == markdown([["אחת", "שניים"], ["שלוש", "ארבע"]])


def test_pieces_of_a_right_to_left_cell_are_read_from_the_right() -> None:
    drawing = Drawing()
    grid(drawing, [["ثلاثة", "", "واحد"], ["خمسة", "أربعة", "ستة"]])
    drawing.write(170, 105, "ثانية")  # in the middle cell of the first row, which says «كلمة ثانية»
    drawing.write(215, 105, "كلمة")
    (table,) = drawing.tables()
    assert table.markdown.splitlines()[0] == "| واحد | كلمة ثانية | ثلاثة |"


def test_a_line_across_two_cells_is_parted() -> None:
    drawing = Drawing()
    grid(drawing, [["first", "1"], ["second", "2"], ["", ""]])
    drawing.write(138, 145, "third 3")
    [table] = drawing.tables()
    assert table.markdown == markdown([["first", "1"], ["second", "2"], ["third", "3"]])


def two_columns(drawing: Drawing) -> None:
    for left in (72, 320):
        for at in range(30):
            drawing.write(left, 80 + 12 * at, "some words of a column that fill it all")
    drawing.draw(72, 60, 540, 60.5)
    drawing.draw(72, 750, 540, 750.5)


def numbered(drawing: Drawing) -> None:
    for at in range(12):
        drawing.write(72, 80 + 14 * at, f"{at + 1}.")
        drawing.write(96, 80 + 14 * at, "an entry of the list" + " and more" * (at % 3))


def contents(drawing: Drawing) -> None:
    for at in range(12):
        drawing.write(72, 80 + 14 * at, f"1.{at}")
        drawing.write(110, 80 + 14 * at, "Title of a chapter" + " . . . . . ." * (at % 2))
        drawing.write(520, 80 + 14 * at, str(3 + 4 * at))


def code(drawing: Drawing) -> None:
    drawing.draw(60, 70, 540, 300)
    for at in range(12):
        for x, text in ((72, "value"), (140, f"= {at}"), (220, "# why")):
            drawing.write(x, 80 + 14 * at, text, mono=True)


def index(drawing: Drawing) -> None:
    for left in (72, 240, 408):
        for at in range(30):
            drawing.write(left, 80 + 12 * at, f"entry, {at + left}")


def boxed(drawing: Drawing) -> None:
    drawing.draw(60, 70, 540, 300)
    for at in range(12):
        drawing.write(72, 80 + 14 * at, "a paragraph that stands in a box and has no columns at all")


def chart(drawing: Drawing) -> None:
    for at in range(11):
        drawing.draw(100, 100 + 20 * at, 300, 100.5 + 20 * at)
        drawing.draw(100 + 20 * at, 100, 100.5 + 20 * at, 300)
        drawing.write(104 + 20 * at, 305, str(at))
        drawing.write(102, 102 + 20 * at, str(at))
        drawing.write(284, 102 + 20 * at, "x")


def form(drawing: Drawing) -> None:
    for at, label in enumerate(("Name:", "Street:", "Town:", "Date:", "Signature:")):
        drawing.write(72, 80 + 40 * at, label)
        drawing.write(200, 80 + 40 * at, "written by hand" if at % 2 else "x")
        drawing.draw(200, 92 + 40 * at, 540, 92.5 + 40 * at)


@pytest.mark.parametrize("page", [two_columns, numbered, contents, code, index, boxed, chart, form])
def test_what_is_no_table(page: Callable[[Drawing], None]) -> None:
    drawing = Drawing()
    page(drawing)
    assert drawing.tables() == []


def test_drawn_lines_are_asked_for_only_where_pieces_stand_side_by_side() -> None:
    drawing = Drawing()
    for at in range(40):
        drawing.write(72, 80 + 14 * at, "a line of a page of prose")
        drawing.draw(72, 90 + 14 * at, 300, 90.5 + 14 * at)
    assert drawing.tables() == []
    assert drawing.asked == 0


def test_a_page_of_countless_lines_is_a_drawing() -> None:
    across = [(10.0 + at % 500, at / 20, 40.0 + at % 500, at / 20) for at in range(9000)]
    assert frames(across, 612, 792) == []
    assert frames([(0.0, 0.0, 612.0, 792.0)], 612, 792) == []


WORDS = st.text("abcdefghij0123456789|", max_size=7).map(lambda text: f"{text}a")  # a lone bar is the mark of a list


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(2, 8), st.data())
def test_any_full_ruled_grid_comes_back_as_it_was(columns: int, rows: int, data: st.DataObject) -> None:
    cells = [[data.draw(WORDS) for _ in range(columns)] for _ in range(rows)]
    drawing = Drawing()
    grid(drawing, cells)
    [table] = drawing.tables()
    assert table.markdown == markdown([[cell.replace("|", "\\|") for cell in row] for row in cells])


BOXES = st.tuples(*[st.floats(-50, 900, allow_nan=False)] * 4).map(lambda box: (*sorted(box[:2]), *sorted(box[2:])))


@settings(max_examples=80)
@given(
    st.lists(st.tuples(BOXES, st.text(max_size=12), st.sampled_from([0, 90, 180, 270])), max_size=25),
    st.lists(BOXES, max_size=25),
)
def test_any_page_gives_well_formed_tables(lines: list[tuple[Box, str, int]], boxes: list[Box]) -> None:
    drawing = Drawing()
    for (left, right, top, bottom), text, turn in lines:
        drawing.content.blocks.append([Line(text, (left, top, right, bottom), 10.0, turn=turn)])
    for left, right, top, bottom in boxes:
        drawing.draw(left, top, right, bottom)
    for table in drawing.tables():
        rows = table.markdown.split("\n")
        bars = {row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows}
        assert len(bars) == 1
        assert len(rows) >= 3
        assert "\n" not in rows


def typeset(path: Path, rotation: int) -> Grid:
    cells = [["Town", "People", "Area"], *[[f"Town {at}", f"{7919 * at % 90_001:,}", f"{at}.5"] for at in range(1, 9)]]
    with pymupdf.open() as file:
        page = file.new_page(width=612, height=792)
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                left, top = 72 + 130 * column, 100 + 20 * row
                page.draw_rect(pymupdf.Rect(left, top, left + 130, top + 20), width=0.5)
                page.insert_text((left + 5, top + 14), text, fontsize=10)
        page.set_rotation(rotation)
        file.save(path)
    return cells


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_files_of_both_backends_and_turned_pages(tmp_path: Path, backend: ModuleType, rotation: int) -> None:
    cells = typeset(tmp_path / "table.pdf", rotation)
    document = backend.open_pdf(str(tmp_path / "table.pdf"), [])
    [table] = find_tables(document.read(1), document)
    document.close()
    assert table.markdown == markdown(cells)
    upright = (72, 100, 462, 280)
    turned = {
        0: upright,
        90: (792 - 280, 72, 792 - 100, 462),
        180: (612 - 462, 792 - 280, 612 - 72, 792 - 100),
        270: (100, 612 - 462, 280, 612 - 72),
    }
    assert table.box == pytest.approx(turned[rotation], abs=1)


def tables_of(backend: ModuleType, path: Path, number: int) -> list[Grid]:
    document = backend.open_pdf(str(path), [])
    found = find_tables(document.read(number), document)
    document.close()
    return [[row[2:-2].split(" | ") for row in table.markdown.split("\n") if "---" not in row] for table in found]


@pytest.mark.shared_data
def test_the_cells_of_a_paper(shared_data: Path) -> None:
    truth = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (shared_data / "pdf/truth/docling-2305.03393v1-pg9.md").read_text().split("\n")
        if line.startswith("|") and not line.startswith("| - ")
    ]
    [table] = tables_of(pdf_pymupdf, shared_data / "pdf/docling/2305.03393v1-pg9.pdf", 1)
    assert table == truth


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["nics-background-checks-2015-11", "nics-background-checks-2015-11-rotated"])
def test_a_table_whose_totals_are_known(shared_data: Path, backend: ModuleType, name: str) -> None:
    [table] = tables_of(backend, shared_data / f"pdf/plumber/{name}.pdf", 1)
    states = [row for row in table if row[0] in ("Alabama", "Alaska", "Texas", "Wyoming", "Ohio")]
    assert len(states) == 5
    for row in states:
        numbers = [int(cell.replace(",", "").replace(" ", "") or 0) for cell in row[1:]]
        assert sum(numbers[:-1]) == numbers[-1], row


@pytest.mark.shared_data
def test_books_without_tables(shared_data: Path) -> None:
    for name, pages in (("policy", range(1, 40)), ("liboctave", range(5, 30)), ("refcard-a4", (1, 2, 3))):
        document = pdf_pymupdf.open_pdf(str(shared_data / f"pdf/debian/{name}.pdf"), [])
        for number in pages:
            assert find_tables(document.read(number), document) == [], (name, number)
        document.close()
