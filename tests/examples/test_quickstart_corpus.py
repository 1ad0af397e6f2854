"""The quickstart corpus gives the documents it promises, and its script makes the committed files."""

import runpy
from pathlib import Path

import pytest

from pipelines.extract.found import Extracted, Reject
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
DOCUMENTS = QUICKSTART / "documents"
RECORD_COLUMNS = Columns(text="body", id="doc", url="link", date="published", licence="rights")


def read(path: Path) -> list[Extracted | Reject]:
    columns = RECORD_COLUMNS if path.parent.name == "records" else Columns()
    found = extract_file(path, path.name, Extract(ocr="none"), columns)
    return [one for one in found if isinstance(one, (Extracted, Reject))]


@pytest.fixture(scope="module")
def found() -> dict[str, list[Extracted | Reject]]:
    return {path.name: read(path) for path in sorted(DOCUMENTS.rglob("*")) if path.is_file()}


def test_only_the_scan_is_rejected(found: dict[str, list[Extracted | Reject]]) -> None:
    rejected = {name: one.error for name, ones in found.items() for one in ones if isinstance(one, Reject)}
    assert rejected == {"scan.en.pdf": "needs_ocr"}
    assert sum(isinstance(one, Extracted) for ones in found.values() for one in ones) == 37


def test_pdf_pages_hold_the_source_paragraphs_in_reading_order(found: dict[str, list[Extracted | Reject]]) -> None:
    sources = {path.stem: path for path in (QUICKSTART / "sources" / "pdf").glob("*.md") if path.stem != "notice.en"}
    assert len(sources) == 5
    for stem, source in sources.items():
        (document,) = found[f"{stem}.pdf"]
        assert isinstance(document, Extracted)
        assert document.text.split() == source.read_text("utf-8").split()
        pages = [document.text[begin:end] for _, begin, end in document.pages]
        assert [word for page in pages for word in page.split()] == document.text.split()
        assert [number for number, _, _ in document.pages] == list(range(1, len(pages) + 1))
        assert len(pages) == (2 if stem in {"photosynthesis.en", "bruecken.de"} else 1)


def test_html_pages_lose_their_navigation(found: dict[str, list[Extracted | Reject]]) -> None:
    (contract,) = found["contracts.en.html"]
    assert isinstance(contract, Extracted)
    assert "peppercorn" in contract.text
    assert [word for word in ("newsletter", "About us", "visits") if word in contract.text] == []
    assert contract.metadata["declared_language"] == "en"


def test_the_page_in_a_legacy_charset_reads_as_russian(found: dict[str, list[Extracted | Reject]]) -> None:
    (chess,) = found["chess.ru.html"]
    assert isinstance(chess, Extracted)
    assert chess.text.startswith("# Как машина научилась играть в шахматы")
    assert "\ufffd" not in chess.text


def test_records_are_mapped_to_the_fields_of_a_document(found: dict[str, list[Extracted | Reject]]) -> None:
    first = found["notes.jsonl"][0]
    assert isinstance(first, Extracted)
    assert (first.locator, first.id, first.date, first.licence) == ("line=1", "cinema-it", "2019-04-12", "CC0-1.0")
    assert first.metadata == {"kind": "jsonl", "topic": "arts", "reviewed": "true"}
    rows = found["rows.parquet"]
    assert [row.locator for row in rows] == [f"row={number}" for number in range(1, 6)]


def test_the_script_makes_the_committed_files_and_the_same_bytes_twice(tmp_path: Path) -> None:
    main = runpy.run_path(str(QUICKSTART / "make_documents.py"))["main"]
    once, again = tmp_path / "once", tmp_path / "again"
    main(once)
    main(again)
    made = sorted(path.relative_to(once) for path in once.rglob("*") if path.is_file())
    assert len(made) == 7
    for path in made:
        assert (once / path).read_bytes() == (again / path).read_bytes()
        # Other versions of the libraries may write other bytes for the same text.
        assert read(once / path) == read(DOCUMENTS / path)
