"""The report on how files were read: page counts, pictures beside texts, what models used up and changed."""

import base64
import io
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from pipelines.extract import isolate
from schemas.recipe import check_recipe
from sluice import corpus, pictures, report_extraction
from sluice.pictures import Picture, draw_pages
from sluice.report import write_report
from sluice.report_extraction import choose_pages
from sluice.summary import PAGE_ROUTES, require_run, summarise, summary_lines
from tests.sluice import made_pages, made_runs
from tests.sluice.test_report import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_pages.make_extraction(tmp_path_factory.mktemp("extraction"))


@pytest.fixture(scope="module")
def source(run) -> str:
    return Path(write_report(str(run))).read_text("utf-8")


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_pages_are_counted_by_route_and_source(page):
    at = page.rows.index(["source", "pages", "text layer", "ocr", "vlm", "blank", "unreadable"])
    assert page.rows[at + 1] == ["pdf", "56", "42", "6", "3", "2", "3"]
    assert page.rows[at + 2] == ["share", "–", "75.0 %", "10.7 %", "5.4 %", "3.6 %", "5.4 %"]
    at = page.rows.index(["route", "reason", "pages", "share"])
    assert [row[0].replace("\u00a0", " ") for row in page.rows[at + 1 : at + 5]] == [
        "text layer",
        "ocr",
        "vlm",
        "blank",
    ]
    at = page.rows.index(["error", "pages", "share", "for example"])
    assert page.rows[at + 1 : at + 3] == [
        ["needs_ocr", "2", "3.6 %", "no engine is installed"],
        ["timeout", "1", "1.8 %", "not read in time"],
    ]
    labels = " ".join(attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg")
    assert (
        re.search("confidence of 42 pages by text layer; their median is 0.7[12]", labels)
        and "6 pages by ocr" in labels
    )


def test_the_lowest_confidence_comes_first(page):
    at = page.rows.index(["confidence", "file", "page", "route", "characters", "reason"])
    read = [made for made in made_pages.made_pages() if made.error is None and made.route != "blank"]
    lowest = sorted(read, key=lambda made: made.confidence)[:3]
    assert [(row[0], row[2]) for row in page.rows[at + 1 : at + 4]] == [
        (f"{made.confidence:.3f}", str(made.page)) for made in lowest
    ]


def test_sample_pages_stand_beside_their_own_text(source, page):
    shown = "".join(page.text)
    for made in made_pages.made_pages():
        head = " · ".join(part for part in ("pdf", made.path, made.locator, f"page {made.page}") if part)
        for place in [match.start() for match in re.finditer(re.escape(f"{head}\n"), shown)]:
            following = shown[place : place + 600].split(" · page ")[1]
            assert made.text.split("\n")[0] in following if made.text else "no text" in following
    assert "no picture: the file is gone" in shown and "no picture: the file lies inside an archive" in shown
    assert "no picture: cannot be drawn: " in shown


def test_pictures_are_of_the_pages_and_come_with_the_page(page):
    drawn = [attributes for tag, attributes in page.tags if tag == "img"]
    assert 3 <= len(drawn) <= report_extraction.PAGE_SAMPLES
    for attributes in drawn:
        assert set(attributes) == {"src", "alt"} and "paper.pdf · page" in attributes["alt"]
        kind, data = attributes["src"].removeprefix("data:image/").split(";base64,")
        assert len(data) < 200_000 and kind in ("png", "jpeg")
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=[kind.upper()]) as image:
            assert max(image.size) == pictures.LONGEST_SIDE
            assert 5 < sum(image.convert("L").histogram()[:128]) / image.size[0] / image.size[1] * 1000 < 500


def test_texts_of_pages_and_models_are_only_text(source, page):
    assert not {"script", "iframe", "link", "object", "i", "base", "form"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)
    assert "http://" not in source and "https://" not in source
    assert "no text layer <i><script>alert(1)</script> \\x1b[31mred" in "".join(page.text)


def test_models_are_counted_with_their_cost(page):
    at = next(number for number, row in enumerate(page.rows) if row[-1:] == ["cost"])
    row = page.rows[at + 1]
    assert row[0].replace("\u00a0", " ") == "reading pages" and row[1].startswith("eye <script>")
    assert row[2:] == ["7", "2", "1", "0", "12,000", "3,000", "0.60"]  # 12,000 tokens at 50 a million


def test_repairs_are_counted_and_shown_as_differences(page):
    at = page.rows.index(["outcome", "reason", "chunks", "share"])
    assert page.rows[at + 1 : at + 3] == [["accepted", "–", "8", "66.7 %"], ["rejected", "numbers", "4", "33.3 %"]]
    assert "chunk 2 · numbers: lost 2 <script>" in "".join(page.text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("del") == tags.count("ins") == 2 * (4 + 4)  # two changes in each sample
    assert "Teh " in "".join(page.text)


def test_a_run_without_pages_and_models_says_nothing_of_them(tmp_path):
    page = Page(Path(write_report(str(made_runs.make_run(tmp_path, "extract")))).read_text("utf-8"))
    assert not {"pages", "models", "refinement"} & set(page.ids())
    assert not any(line.startswith("pages") for line in summary_lines(summarise(str(tmp_path))))


def test_a_rejected_page_is_no_rejected_document(run, page):
    found = summarise(str(run))
    assert found.rejected == {"encrypted": 1} and "documents  4 in · 1 rejected · 3 kept" in summary_lines(found)
    at = page.rows.index(["", "all", "rejected", "kept"])
    assert page.rows[at + 1] == ["pdf", "4", "1", "3"]
    at = page.rows.index(["stage", "reason", "documents", "share", "pdf", "languages most hit"])
    assert page.rows[at + 1 : at + 2] == [["extract", "encrypted", "1", "25.0 %", "1", "–"]]
    assert page.rows[at + 2][0] != "extract"


def test_the_end_of_a_run_counts_pages(run):
    lines = summary_lines(summarise(str(run)))
    assert "pages      42 text layer · 6 ocr · 3 vlm · 2 blank · 3 unreadable" in lines


def test_a_report_without_a_recipe_has_the_texts(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "recipe.yaml").write_text("a: [")
    page = Page(Path(write_report(str(copy))).read_text("utf-8"))
    shown = "".join(page.text)
    assert "no picture: the recipe of this run" in shown and "Read 0 of a scan." in shown
    assert "img" not in {tag for tag, _ in page.tags}


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def _recipe(folder: Path):
    return check_recipe({"name": "x", "sources": [{"name": "pdf", "path": str(folder)}]}, folder)


def test_no_path_leads_out_of_the_source(tmp_path):
    (tmp_path / "docs").mkdir()
    made_pages.draw_pdf(tmp_path / "outside.pdf", 1)
    wanted = [
        ("pdf", "../outside.pdf", "", 1),
        ("pdf", str(tmp_path / "outside.pdf"), "", 1),
        ("other", "a.pdf", "", 1),
    ]
    found = draw_pages(_recipe(tmp_path / "docs"), wanted)
    assert [picture.uri for picture in found] == ["", "", ""]
    assert "outside its source" in found[0].note and "outside its source" in found[1].note


def test_a_remote_source_is_not_fetched(tmp_path):
    recipe = check_recipe({"name": "x", "sources": [{"name": "pdf", "path": "gs://somewhere/else"}]}, tmp_path)
    assert draw_pages(recipe, [("pdf", "a.pdf", "", 1)]) == [Picture("", "the source is not on this machine")]


def test_a_single_file_is_its_source_and_parts_are_pages_of_the_file(tmp_path):
    made_pages.draw_pdf(tmp_path / "one.pdf", 2)
    found = draw_pages(_recipe(tmp_path / "one.pdf"), [("pdf", "one.pdf", "part=2", 2), ("pdf", "one.pdf", "", 3)])
    assert found[0].uri.startswith("data:image/") and not found[0].note
    assert not found[1].uri and found[1].note


def test_slow_pages_are_given_up_after_a_few(tmp_path, monkeypatch):
    asked = []

    def hang(self, reader, request, payload=b"", seconds=60.0):
        asked.append((reader, seconds))
        return {"error": "timeout", "message": "not read in time"}, b""

    made_pages.draw_pdf(tmp_path / "one.pdf", 1)
    monkeypatch.setattr(isolate.Isolated, "ask", hang)
    found = draw_pages(_recipe(tmp_path), [("pdf", "one.pdf", "", 1)] * 6)
    assert asked == [("pdf_render", pictures.SECONDS)] * 3 and len(found) == 6
    assert "took too long" in found[-1].note


def test_what_is_no_picture_or_too_large_is_not_shown():
    huge = io.BytesIO()
    Image.new("1", (20_000, 10)).save(huge, "PNG")
    jpeg = io.BytesIO()
    Image.new("RGB", (10, 10)).save(jpeg, "JPEG")
    for data in (b"", b"<svg onload=alert(1)>", huge.getvalue(), jpeg.getvalue(), b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        assert pictures._embed(data).uri == "" and pictures._embed(data).note


# ---------------------------------------------------------------------------------------------------------------
# Samples and differences


def _frame(pages: list[tuple[str, int, str, float]]) -> pl.DataFrame:
    columns = {
        "document_id": [f"{path:16}".encode() for path, _, _, _ in pages],
        "source": ["s"] * len(pages),
        "path": [path for path, _, _, _ in pages],
        "page": pl.Series([number for _, number, _, _ in pages], dtype=pl.Int32),
        "fate": [fate for _, _, fate, _ in pages],
        "confidence": [confidence for _, _, _, confidence in pages],
        "characters": [100] * len(pages),
    }
    return pl.DataFrame(columns)


def test_samples_are_of_every_route_low_ones_and_others_of_many_files():
    pages = [(f"{number % 7}.pdf", number, "text_layer", 1 - number / 1000) for number in range(200)]
    pages += [("7.pdf", number, "ocr", number / 10) for number in range(5)] + [("8.pdf", 1, "blank", 1.0)] * 2
    pages += [("9.pdf", number, "unreadable", 0.0) for number in range(9)]
    chosen = choose_pages(_frame(pages))
    assert len(chosen) == report_extraction.PAGE_SAMPLES
    fates = [row["fate"] for row in chosen]
    assert fates == sorted(fates, key=list(PAGE_ROUTES).index) and set(fates) == set(PAGE_ROUTES) - {"vlm"}
    assert fates.count("blank") == 1
    mine = [row for row in chosen if row["fate"] == "text_layer"]
    assert mine[0]["page"] == 199 and len({row["path"] for row in mine}) >= len(mine) - 1
    assert choose_pages(_frame(pages[::-1])) == chosen


def test_texts_of_pages_are_read_from_their_spans(run):
    manifests = require_run(str(run))
    frame = corpus.read_pages(str(run), manifests).frame
    wanted = [(row["shard"], row["document_id"], row["page"]) for row in frame.iter_rows(named=True)]
    texts = corpus.read_page_texts(str(run), manifests["extract"], wanted, 30)
    for row, key in zip(frame.iter_rows(named=True), wanted):
        made = next(m for m in made_pages.made_pages() if (m.path, m.page) == (row["path"], row["page"]))
        assert texts.get(key, "") == made.text[:30]


@pytest.mark.slow
def test_from_files_to_the_report(tmp_path, sluice):
    docs = tmp_path / "docs"
    docs.mkdir()
    made_pages.draw_pdf(docs / "paper.pdf", 3)
    made_pages.draw_pdf(docs / "scan.pdf", 2, text=False)
    made_pages.draw_pdf(docs / "empty.pdf", 1, empty=True)
    (tmp_path / "r.yaml").write_text("name: r\nsources: [{name: pdf, path: docs}]\nextract: {ocr: none}\n")
    done = sluice("run", "r.yaml", "--until", "extract", "--output", "run", cwd=tmp_path)
    assert "pages      3 text layer · 1 blank · 2 unreadable" in done.stdout
    page = Page((tmp_path / "run" / "report.html").read_text("utf-8"))
    at = page.rows.index(["source", "pages", "text layer", "blank", "unreadable"])
    assert page.rows[at + 1] == ["pdf", "6", "3", "1", "2"]
    assert "The quick brown fox" in "".join(page.text) and [tag for tag, _ in page.tags].count("img") == 6
