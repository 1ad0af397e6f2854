"""Tables of PDF pages beside PyMuPDF's `find_tables`: how many cells stand beside the right ones, and CPU time.

    python -m benchmarks.pdf_tables [--pages N]

The score is the F1 of neighbour relations (Göbel and others, ICDAR 2013): pairs of the texts of two filled cells, one
beside or below the other, white space left out. Tables with exact truth are set here on pages with paragraphs around
them, in several styles; pages with two columns, lists, contents, code and forms must give no table. The truth of
`docling/` is the checked output of another converter.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pymupdf

from pipelines.extract import pdf_pymupdf, pdf_pypdfium2
from pipelines.extract.page import Document
from pipelines.extract.tables import find_tables

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pdf"
WORDS = (
    "river stone market winter paper signal garden copper window letter bridge harbour meadow engine silver forest "
    "north valley report station number engineer season council harvest machine pattern quarter village weather"
).split()

Grid = list[list[str]]
Relations = Counter[tuple[str, str, str]]


# --- pages with exact truth ---


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def cell(draw: random.Random, column: int) -> str:
    if column == 0:
        return words(draw, draw.randint(1, 2)).title()
    if column % 3 == 2:
        return words(draw, draw.randint(1, 3))
    return draw.choice([f"{draw.randint(1, 99_999):,}", f"{draw.random():.3f}", f"{draw.randint(1, 99)} %", "-"])


def table(page: pymupdf.Page, draw: random.Random, style: str, top: float) -> tuple[float, Grid]:
    """Set one table; gives its lower edge and its cells."""
    columns, rows = draw.randint(3, 6), draw.randint(4, 12)
    width = 468.0 / columns
    grid = [[words(draw, 1).title() for _ in range(columns)]]
    grid += [[cell(draw, column) for column in range(columns)] for _ in range(rows)]
    if style == "wrapped":
        for row in grid[1:]:
            row[-1] = words(draw, draw.randint(3, 9))
    y = top
    for number, row in enumerate(grid):
        lines = [wrapped(text, width - 8) for text in row]
        high = 12.0 * max(map(len, lines)) + 4
        for column, pieces in enumerate(lines):
            left = 72 + column * width
            for at, piece in enumerate(pieces):
                taken = pymupdf.get_text_length(piece, fontsize=9)
                right_aligned = style != "wrapped" and column % 3 == 1
                x = left + width - taken - 4 if right_aligned else left + 4
                page.insert_text((x, y + 11 + 12 * at), piece, fontsize=9)
            if style in ("ruled", "wrapped"):
                page.draw_rect(pymupdf.Rect(left, y, left + width, y + high), width=0.5)
        if style == "lines across" or (style == "three lines" and number in (0, 1)):
            page.draw_line((72, y), (540, y), width=0.5)
        y += high
    if style in ("lines across", "three lines"):
        page.draw_line((72, y), (540, y), width=0.5)
    return y, grid


def wrapped(text: str, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pymupdf.get_text_length(longer, fontsize=9) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


def paragraph(page: pymupdf.Page, draw: random.Random, top: float, left: float = 72, right: float = 540) -> float:
    box = pymupdf.Rect(left, top, right, top + 90)
    page.insert_textbox(box, words(draw, int((right - left) / 6)), fontsize=10, align=3)
    return top + 96


STYLES = ("ruled", "wrapped", "lines across", "three lines", "no lines", "turned")


def tables_of(style: str, folder: Path, count: int) -> tuple[Path, list[Grid]]:
    draw = random.Random(style)
    file = pymupdf.open()
    truths = []
    for _ in range(count):
        page = file.new_page(width=612, height=792)
        top = paragraph(page, draw, 72)
        bottom, grid = table(page, draw, "ruled" if style == "turned" else style, top)
        paragraph(page, draw, bottom + 18)
        if style == "turned":
            page.set_rotation(90)
        truths.append(grid)
    path = folder / f"{style}.pdf"
    file.save(path)
    return path, truths


def two_columns(page: pymupdf.Page, draw: random.Random) -> None:
    for left, right in ((72, 298), (314, 540)):
        top = 72.0
        while top < 640:
            top = paragraph(page, draw, top, left, right)
    page.draw_line((72, 60), (540, 60))
    page.draw_line((72, 750), (540, 750))


def listing(page: pymupdf.Page, draw: random.Random) -> None:
    for number in range(30):
        page.insert_text((72, 80 + 20 * number), draw.choice(["•", f"{number + 1}.", f"({number + 1})"]), fontsize=10)
        page.insert_text((96, 80 + 20 * number), words(draw, draw.randint(3, 11)), fontsize=10)


def contents(page: pymupdf.Page, draw: random.Random) -> None:
    number = 1
    for at in range(30):
        leaders = " " + ". " * 40 if draw.random() < 0.5 else ""
        page.insert_text((72, 80 + 20 * at), f"{at // 5 + 1}.{at % 5}", fontsize=10)
        page.insert_text((108, 80 + 20 * at), words(draw, draw.randint(2, 5)) + leaders, fontsize=10)
        page.insert_text((520, 80 + 20 * at), str(number), fontsize=10)
        number += draw.randint(0, 4)


def code(page: pymupdf.Page, draw: random.Random) -> None:
    page.draw_rect(pymupdf.Rect(68, 66, 544, 700), width=0.5)
    for at in range(40):
        text = f"{words(draw, 1):<12} = {words(draw, 1):<12} # {words(draw, 3)}"
        for x, piece in ((72, text[:12]), (150, text[12:27]), (280, text[27:])):
            page.insert_text((x, 80 + 15 * at), piece, fontsize=9, fontname="cour")


def form(page: pymupdf.Page, draw: random.Random) -> None:
    for at in range(14):
        page.insert_text((72, 90 + 44 * at), words(draw, 2).title() + ":", fontsize=10)
        page.draw_line((200, 92 + 44 * at), (540, 92 + 44 * at), width=0.5)
        if draw.random() < 0.5:
            page.insert_text((204, 90 + 44 * at), words(draw, 2), fontsize=10)


def boxed(page: pymupdf.Page, draw: random.Random) -> None:
    top = 72.0
    while top < 600:
        page.draw_rect(pymupdf.Rect(66, top - 4, 546, top + 92), width=0.5, fill=(0.95, 0.95, 0.95))
        top = paragraph(page, draw, top) + 20


def index(page: pymupdf.Page, draw: random.Random) -> None:
    for left in (72, 240, 408):
        for at in range(50):
            page.insert_text((left, 80 + 13 * at), f"{words(draw, 1)}, {draw.randint(1, 400)}", fontsize=9)


OTHERS: tuple[Callable[[pymupdf.Page, random.Random], None], ...] = (
    *(two_columns, listing, contents, code, form, boxed, index),
)


def others(kind: Callable[[pymupdf.Page, random.Random], None], folder: Path, count: int) -> Path:
    draw = random.Random(kind.__name__)
    file = pymupdf.open()
    for _ in range(count):
        kind(file.new_page(width=612, height=792), draw)
    path = folder / f"{kind.__name__}.pdf"
    file.save(path)
    return path


# --- readers ---


def from_markdown(text: str) -> list[Grid]:
    grids: list[Grid] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("|"):
            cells = [one.replace("\0", "|").strip() for one in line.replace("\\|", "\0").strip().strip("|").split("|")]
            if not inside:
                grids.append([])
            inside = True
            if not all(set(one) <= set("-: ") and one for one in cells):
                grids[-1].append(cells)
        else:
            inside = False
    return grids


def ours(document: Document, number: int) -> list[Grid]:
    content = document.read(number)
    return [from_markdown(found.markdown)[0] for found in find_tables(content, document)]


def peer(page: pymupdf.Page) -> list[Grid]:
    return [[[one or "" for one in row] for row in found.extract()] for found in page.find_tables().tables]


# --- scores ---


def relations(grids: list[Grid]) -> Relations:
    found: Relations = Counter()
    for grid in grids:
        filled = [["".join(one.split()) for one in row] for row in grid]
        for across, lines in (("beside", filled), ("below", list(map(list, zip(*padded(filled)))))):
            for line in lines:
                kept = [one for one in line if one]
                found.update((across, first, second) for first, second in pairwise(kept))
    return found


def padded(grid: Grid) -> Grid:
    width = max(map(len, grid), default=0)
    return [row + [""] * (width - len(row)) for row in grid]


def f1(found: list[Grid], truth: list[Grid]) -> float:
    got, wanted = relations(found), relations(truth)
    if not got or not wanted:
        return float(not got and not wanted)
    return 2 * (got & wanted).total() / (got.total() + wanted.total())


def timed(work: Callable[[], list[Grid]]) -> tuple[list[Grid], float]:
    start = time.process_time()
    return work(), time.process_time() - start


def rows(name: str, path: Path, truths: list[list[Grid]] | None, password: str = "") -> Iterator[str]:
    """One line of the table: mean F1, or pages with a table where there is none, and milliseconds of CPU a page."""
    pymupdf_file, pdfium_file = (
        pdf_pymupdf.open_pdf(str(path), [password]),
        pdf_pypdfium2.open_pdf(str(path), [password]),
    )
    bare = pymupdf.open(path)
    scores: dict[str, list[float]] = {"ours": [], "pypdfium2": [], "peer": []}
    seconds = dict.fromkeys((*scores, "text"), 0.0)
    for number in range(1, bare.page_count + 1):
        start = time.process_time()
        bare[number - 1].get_text()
        seconds["text"] += time.process_time() - start
        content = pymupdf_file.read(number)
        start = time.process_time()
        tables = find_tables(content, pymupdf_file)
        seconds["ours"] += time.process_time() - start
        found = {"ours": [from_markdown(one.markdown)[0] for one in tables], "pypdfium2": ours(pdfium_file, number)}
        found["peer"], spent = timed(lambda number=number: peer(bare[number - 1]))  # type: ignore[misc]
        seconds["peer"] += spent
        for reader, grids in found.items():
            scores[reader].append(f1(grids, truths[number - 1]) if truths else float(bool(grids)))
    each = {key: 1000 * value / bare.page_count for key, value in seconds.items()}
    mean = {key: sum(values) / len(values) for key, values in scores.items()}
    yield (
        f"{name:34}{mean['ours']:7.3f}{mean['pypdfium2']:11.3f}{mean['peer']:9.3f}"
        f"{each['ours']:12.2f}{each['peer']:9.1f}{each['text']:9.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pdf_tables")
    parser.add_argument("--pages", type=int, default=20, help="pages of a style")
    count = parser.parse_args().pages
    title = f"{'ours':>7}{'pypdfium2':>11}{'PyMuPDF':>9}{'ours':>12}{'PyMuPDF':>9}{'text':>9}"
    with TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'F1 of neighbours':34}{title} (CPU ms a page)")
        for style in STYLES:
            path, truths = tables_of(style, folder, count)
            print(*rows(style, path, [[truth] for truth in truths]))
        if SHARED.is_dir():
            for stem in ("2305.03393v1-pg9", "normal_4pages"):
                truth = from_markdown((SHARED / "truth" / f"docling-{stem}.md").read_text())
                path = SHARED / "docling" / f"{stem}.pdf"
                pages = pymupdf.open(path).page_count
                at = next(number for number in range(pages) if pymupdf.open(path)[number].find_tables().tables)
                print(*rows(f"docling/{stem}", path, [truth if number == at else [] for number in range(pages)]))
        print(f"{'share of pages with a table':34}{title}")
        for kind in OTHERS:
            print(*rows(kind.__name__.replace("_", " "), others(kind, folder, count), None))
        if SHARED.is_dir():
            for stem in ("debian/project-history.en", "debian/liboctave", "debian/policy", "debian/refcard-a4"):
                print(*rows(stem, SHARED / f"{stem}.pdf", None))


if __name__ == "__main__":
    main()
