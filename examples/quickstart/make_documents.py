"""Make the PDF and Parquet files of the quickstart corpus from the texts in `sources`.

    python examples/quickstart/make_documents.py [folder]

Two runs give the same bytes: the files hold no date and no random identifier.
"""

import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pymupdf

HERE = Path(__file__).parent
WIDTH, HEIGHT = pymupdf.paper_size("a5")  # points; small pages, so that short texts have several
MARGIN, GUTTER = 42, 16
FONTS = {"zh": "china-s", "ja": "japan"}  # MuPDF's own fonts; Helvetica covers the Latin-1 languages
TWO_COLUMNS = {"bruecken.de"}
SCANS = {"notice.en": "scan.en"}
LICENCE = "CC0-1.0"


def wrap(paragraph: str, font: pymupdf.Font, size: float, width: float) -> list[str]:
    """Break a paragraph into lines of at most `width` points, between words or, in Chinese and Japanese, anywhere."""
    lines, line = [], ""
    for piece in re.findall(r"[\u3000-\u9fff\uff00-\uffef]|[^\s\u3000-\u9fff\uff00-\uffef]+\s?", paragraph):
        # A full stop does not begin a line.
        if line and piece not in "。、，；：" and font.text_length((line + piece).rstrip(), size) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def typeset(text: str, fontname: str, columns: int) -> pymupdf.Document:
    """A document of A5 pages from a `# Title` and paragraphs separated by blank lines."""
    document = pymupdf.open()
    font = pymupdf.Font(fontname)
    width = (WIDTH - 2 * MARGIN - (columns - 1) * GUTTER) / columns
    title, *paragraphs = text.strip().split("\n\n")
    title = title.removeprefix("# ")
    page = document.new_page(width=WIDTH, height=HEIGHT)
    page.insert_text((MARGIN, MARGIN + 14), title, fontname=fontname, fontsize=15)
    top, column = MARGIN + 44, 0
    y: float = top
    for paragraph in paragraphs:
        for line in wrap(paragraph, font, 10, width):
            if y > HEIGHT - MARGIN:
                column += 1
                if column == columns:
                    page = document.new_page(width=WIDTH, height=HEIGHT)
                    top, column = MARGIN + 14, 0
                y = top
            x = MARGIN + column * (width + GUTTER)
            page.insert_text((x, y), line, fontname=fontname, fontsize=10)
            y += 14
        y += 10
    document.set_metadata({"title": title})
    return document


def scan(document: pymupdf.Document) -> pymupdf.Document:
    """The same pages as grey JPEG images without a text layer."""
    scanned = pymupdf.open()
    for page in document.pages():
        image = page.get_pixmap(dpi=110, colorspace=pymupdf.csGRAY).tobytes("jpeg", jpg_quality=60)
        scanned.new_page(width=WIDTH, height=HEIGHT).insert_image(page.rect, stream=image)
    return scanned


def parquet_rows(text: str) -> list[dict[str, str]]:
    """Rows from texts that each follow a comment such as `<!-- id: ... | language: ... -->`."""
    rows = []
    for header, body in re.findall(r"<!-- (.*?) -->\n(.*?)(?=<!-- |\Z)", text, re.S):
        fields = dict(field.split(": ", 1) for field in header.split(" | "))
        rows.append({"text": body.strip(), **fields, "licence": LICENCE})
    return rows


def main(folder: Path) -> None:
    (folder / "pdf").mkdir(parents=True, exist_ok=True)
    (folder / "parquet").mkdir(parents=True, exist_ok=True)
    for source in sorted((HERE / "sources" / "pdf").glob("*.md")):
        fontname = FONTS.get(source.stem.rpartition(".")[2], "helv")
        document = typeset(source.read_text("utf-8"), fontname, columns=2 if source.stem in TWO_COLUMNS else 1)
        name = source.stem
        if name in SCANS:
            document, name = scan(document), SCANS[name]
        document.save(folder / "pdf" / f"{name}.pdf", garbage=4, deflate=True, no_new_id=True)
    rows = parquet_rows((HERE / "sources" / "parquet" / "rows.md").read_text("utf-8"))
    pq.write_table(pa.Table.from_pylist(rows), folder / "parquet" / "rows.parquet", compression="zstd")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "documents")
