"""What the two backends tell of a page, on files made here and on real ones."""

import importlib
import struct
import zlib
from collections import Counter
from pathlib import Path

import pymupdf
import pytest

from pipelines.extract.assemble import assemble
from pipelines.extract.layout import lay_out
from pipelines.extract.page import Page, Unreadable

BACKENDS = [importlib.import_module(f"pipelines.extract.pdf_{name}") for name in ("pymupdf", "pypdfium2")]
both = pytest.mark.parametrize("backend", BACKENDS, ids=["pymupdf", "pypdfium2"])


def markdown(backend, path, passwords=()):
    document = backend.open_pdf(str(path), passwords)
    pages = []
    for number in range(1, document.page_count + 1):
        content = document.read(number)
        pages.append(Page(number, "text_layer", "", 1.0, content.width, content.height, lay_out(content)))
    document.close()
    return assemble(pages)[0]


def size_of(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Two pages, the second one turned: text in several fonts, an image, a hidden line, a frame."""
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    document = pymupdf.open()
    document.set_metadata({"title": "A  small\nbook"})
    page = document.new_page(width=400, height=300)
    page.insert_text((40, 50), "A heading", fontname="hebo", fontsize=20)
    page.insert_text((40, 80), "Some text, and a word", fontname="helv", fontsize=10)
    page.insert_text((40, 94), "print(1 + 2)", fontname="cour", fontsize=10)
    page.insert_text((40, 120), "left cell", fontname="helv", fontsize=10)
    page.insert_text((200, 120), "right cell", fontname="helv", fontsize=10)
    page.insert_text((300, 250), "going up", fontname="helv", fontsize=10, rotate=90)
    page.draw_rect((40, 150, 140, 200))
    page.draw_line((40, 175), (140, 175))
    turned = document.new_page(width=400, height=300)
    turned.insert_text((40, 50), "On a turned page", fontname="helv", fontsize=10)
    turned.set_rotation(90)
    scan = document.new_page(width=400, height=300)
    scan.insert_image(scan.rect, pixmap=pymupdf.Pixmap(pymupdf.csGRAY, (0, 0, 40, 30), False))
    scan.insert_text((40, 50), "Recognised before", fontname="helv", fontsize=10, render_mode=3)
    document.save(path)
    return path


@both
def test_lines_have_their_place_their_font_and_their_turn(backend, book):
    document = backend.open_pdf(str(book), [])
    assert (document.page_count, document.title) == (3, "A small book")
    content = document.read(1)
    lines = {line.text.strip(): line for block in content.blocks for line in block}
    assert (content.width, content.height, content.images) == (400, 300, [])
    assert set(lines) == {
        "A heading", "Some text, and a word", "print(1 + 2)", "left cell", "right cell", "going up",
    }  # fmt: skip
    heading, text, code = lines["A heading"], lines["Some text, and a word"], lines["print(1 + 2)"]
    assert (heading.size, heading.bold, heading.mono) == (pytest.approx(20, abs=0.2), True, False)
    assert (text.size, text.bold, text.mono, text.turn) == (pytest.approx(10, abs=0.2), False, False, 0)
    assert code.mono
    left, top, right, bottom = text.box
    assert left == pytest.approx(40, abs=1)
    assert right == pytest.approx(40 + pymupdf.get_text_length("Some text, and a word", "helv", 10), abs=2)
    assert 66 < top < 73 and 80 <= bottom < 86
    assert lines["going up"].turn == 270
    document.close()


@both
def test_shapes_and_rulings(backend, book):
    document = backend.open_pdf(str(book), [])
    assert document.read(1).paths == 2
    rulings = document.rulings(1)
    assert any(box[2] - box[0] == pytest.approx(100, abs=3) and box[3] - box[1] < 3 for box in rulings)
    assert any(box[3] - box[1] == pytest.approx(50, abs=3) for box in rulings)
    assert document.rulings(2) == []
    document.close()


@both
def test_a_page_with_a_turn_is_told_as_a_reader_sees_it(backend, book):
    document = backend.open_pdf(str(book), [])
    content = document.read(2)
    assert (content.width, content.height) == (300, 400)
    (line,) = [line for block in content.blocks for line in block]
    assert line.turn == 90
    assert line.box[1] == pytest.approx(40, abs=2)
    assert 240 < line.box[0] < line.box[2] < 262
    document.close()


@both
def test_text_under_a_scan_is_told_as_hidden(backend, book):
    document = backend.open_pdf(str(book), [])
    content = document.read(3)
    assert [(line.text.strip(), line.hidden) for block in content.blocks for line in block] == [
        ("Recognised before", True)
    ]
    assert content.images[0] == pytest.approx((0, 0, 400, 300), abs=0.5)
    assert not any(line.hidden for block in document.read(1).blocks for line in block)
    document.close()


@both
def test_pictures_have_the_size_that_was_asked_for(backend, book):
    document = backend.open_pdf(str(book), [])
    assert size_of(document.render(1, dpi=144)) == (800, 600)
    assert max(size_of(document.render(1, longest_side=1288))) == 1288
    assert size_of(document.render(1, dpi=72, rotate=90)) == (300, 400)
    assert size_of(document.render(2, dpi=72)) == (300, 400)
    upright = pymupdf.Pixmap(document.render(2, dpi=72))
    assert {upright.pixel(x, y) for x in range(240, 262) for y in range(40, 120)} > {(255, 255, 255)}
    document.close()


@both
def test_a_huge_page_gives_a_bounded_picture(backend, tmp_path):
    document = pymupdf.open()
    document.new_page(width=14_000, height=14_000)
    document.save(tmp_path / "huge.pdf")
    opened = backend.open_pdf(str(tmp_path / "huge.pdf"), [])
    width, height = size_of(opened.render(1, dpi=1200))
    assert width * height <= 41_000_000
    opened.close()


@both
def test_files_that_cannot_be_read_say_why(backend, tmp_path):
    locked = pymupdf.open()
    locked.new_page().insert_text((50, 50), "A secret")
    locked.save(tmp_path / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="open", owner_pw="all")
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "web.pdf").write_bytes(b"<html><body><p>Not a PDF</p></body></html>")
    compressed = zlib.compress(b"BT (x) Tj ET")
    (tmp_path / "half.pdf").write_bytes(b"%PDF-1.7\n1 0 obj <</Length 99>> stream\n" + compressed)
    errors = {}
    for name, passwords in (
        ("locked", []),
        ("locked", ["wrong"]),
        ("empty", []),
        ("web", []),
        ("half", []),
        ("none", []),
    ):
        with pytest.raises(Unreadable) as caught:
            backend.open_pdf(str(tmp_path / f"{name}.pdf"), passwords)
        errors[name] = caught.value.error
        assert str(tmp_path) not in caught.value.message
    assert errors["locked"] == "encrypted"
    assert {errors[name] for name in ("empty", "web", "none")} == {"broken_pdf"}
    assert errors["half"] in ("broken_pdf", "no_pages")
    assert markdown(backend, tmp_path / "locked.pdf", ["wrong", "open"]) == "A secret"


@both
def test_a_broken_title_costs_nothing_but_the_title(backend, tmp_path):
    document = pymupdf.open()
    document.new_page().insert_text((40, 50), "The text is good", fontname="helv", fontsize=10)
    information = document.get_new_xref()
    document.update_object(information, "<</Title<feffd800d800dc00>>>")  # halves of surrogate pairs in UTF-16
    document.xref_set_key(-1, "Info", f"{information} 0 R")
    document.save(tmp_path / "file.pdf")
    assert markdown(backend, tmp_path / "file.pdf") == "The text is good"


@both
def test_a_page_that_is_not_there_is_unreadable(backend, book):
    document = backend.open_pdf(str(book), [])
    with pytest.raises(Unreadable):
        document.read(9)
    document.close()


# --- real files ---


def letters(text):
    return "".join(text.split())


def likeness(a, b):
    """F1 of character 5-grams."""
    a, b = (Counter(text[i : i + 5] for i in range(len(text) - 4)) for text in (letters(a), letters(b)))
    return 2 * (a & b).total() / (a.total() + b.total())


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    [
        "debian/project-history.de",
        "docling/amt_handbook_sample",
        "docling/right_to_left_01",
        "pdfjs/tracemonkey_a11y",
        "plumber/federal-register-2020-17221",
    ],
)
def test_both_backends_give_nearly_the_same_text(shared_data, name):
    path = shared_data / "pdf" / f"{name}.pdf"
    assert likeness(*(markdown(backend, path) for backend in BACKENDS)) > 0.94


@pytest.mark.shared_data
@both
@pytest.mark.parametrize(
    ("name", "truth", "gain"),
    [
        ("debian/project-history.de", "project-history.de.txt", 0.008),  # running headers and broken words
        ("debian/project-history.ja", "project-history.ja.txt", 0.003),
        ("docling/amt_handbook_sample", "docling-amt_handbook_sample.md", 0.0),  # two columns
    ],
)
def test_closer_to_the_truth_than_plain_text(shared_data, backend, name, truth, gain):
    path = shared_data / "pdf" / f"{name}.pdf"
    wanted = (shared_data / "pdf" / "truth" / truth).read_text()
    with pymupdf.open(path) as document:
        plain = "\n".join(page.get_text() for page in document)
    assert likeness(markdown(backend, path), wanted) >= likeness(plain, wanted) + gain


@pytest.mark.shared_data
def test_ligatures_of_arabic_come_in_logical_order(shared_data):
    text = markdown(BACKENDS[0], shared_data / "pdf" / "docling" / "right_to_left_01.pdf")
    assert "الإنتاجية" in text and "خلال" in text
    assert "انواع الخطوط العربية" in markdown(BACKENDS[0], shared_data / "pdf" / "pdfjs" / "ArabicCIDTrueType.pdf")


@pytest.mark.shared_data
@both
def test_vertical_and_turned_pages(shared_data, backend):
    assert "あいうえお日本語" in letters(markdown(backend, shared_data / "pdf" / "pdfjs" / "vertical.pdf"))
    turned = markdown(backend, shared_data / "pdf" / "samples" / "015-arabic__habibi-rotated.pdf")
    assert turned.count("habibi") == 4 and turned.count("حَبيبي") >= 4
    assert "Hello" in markdown(backend, shared_data / "pdf" / "pdfjs" / "hello_world_rotated.pdf")


@pytest.mark.shared_data
@pytest.mark.slow
@both
def test_no_file_of_the_set_ends_in_anything_but_text_or_unreadable(shared_data, backend):
    for path in sorted((shared_data / "pdf").rglob("*.pdf")):
        if path.stat().st_size > 3_000_000 or Path(path).parent.name == "debian":
            continue
        try:
            document = backend.open_pdf(str(path), ["1234", "letmein"])
        except Unreadable:
            continue
        for number in range(1, document.page_count + 1):
            try:
                lay_out(document.read(number))
                document.rulings(number)
            except Unreadable:
                continue
        document.close()
