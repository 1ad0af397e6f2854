"""Every kind of file and every way for it to be bad, with real files and the real readers."""

import gzip
import io
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pymupdf
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipelines.extract import isolate, python_environment
from pipelines.extract.found import Extracted, PageFact, Reject, clean_text
from pipelines.extract.reader import extract_file, sniff_kind
from schemas.code import code_language
from schemas.recipe import Columns, Extract

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROSE = "The tide rises twice a day because the earth turns beneath two bulges of water. "
HTML = f"<!DOCTYPE html><html lang=en><head><title>Tides</title></head><body><p>{PROSE * 3}</p></body></html>"
AES_256 = 5  # PyMuPDF's number of the method
Found = list[Extracted | Reject]


def extract(data: bytes | Path | io.BytesIO, path: str, columns: Columns | None = None, **limits: float) -> Found:
    """Documents and rejects; pages are the subject of other tests."""
    found = extract_file(data, path, Extract.model_validate({"ocr": "none", **limits}), columns or Columns())
    return [item for item in found if not isinstance(item, PageFact)]


def only(found: Found) -> Extracted:
    (document,) = found
    assert isinstance(document, Extracted), document
    return document


def error(found: Found) -> str:
    (reject,) = found
    assert isinstance(reject, Reject), reject
    assert reject.locator == ""
    assert reject.message
    return reject.error


def errors(found: Found) -> dict[str, str]:
    return {one.locator: one.error for one in found if isinstance(one, Reject)}


def texts(found: Found) -> dict[str, str]:
    return {one.locator: one.text for one in found if isinstance(one, Extracted)}


def make_pdf(*pages: str, **save: object) -> bytes:
    """A PDF with one page a text; "" is a blank page and "image" is a picture of text."""
    document = pymupdf.open()
    for text in pages:
        page = document.new_page()
        if text == "image":
            drawn = pymupdf.open()
            drawn.new_page().insert_textbox((72, 72, 500, 700), PROSE)
            page.insert_image(page.rect, stream=drawn[0].get_pixmap(dpi=40).tobytes("jpeg"))
        elif text:
            page.insert_textbox((72, 72, 500, 700), text)
    return bytes(document.tobytes(**save))


# --- text -------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\r\n\x00\x85\u2028\ufeff\ud800 \t"))))
def test_clean_text_is_idempotent_and_leaves_only_newline_and_tab(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    clean.encode("utf-8")  # no lone surrogate is left
    assert not {character for character in clean if ord(character) < 32 or character == "\x7f"} - {"\n", "\t"}
    # Letters pass through in their order.
    letters = [character for character in text if character.isalpha()]
    assert [character for character in clean if character.isalpha()] == letters


def test_line_ends_become_newlines_and_indentation_stays() -> None:
    assert clean_text("\r\n  a\r\nb\rc\x0cd\u2029e\x00f\n\n") == "  a\nb\nc\nd\nef"


@pytest.mark.parametrize(
    ("head", "path", "kind"),
    [
        (b"%PDF-1.7", "a.txt", "pdf"),
        (b"\xef\xbf junk %PDF-1.4", "a.pdf", "pdf"),
        (b"a line that mentions %PDF-1.4", "a.md", "markdown"),
        (b"PAR1", "a", "parquet"),
        (b" <!doctype HTML>", "a.pdf", "html"),
        (b"<?xml version='1.0'?><!-- x --><html>", "a", "html"),
        (b"<html> in a script", "a.py", "code"),
        (b"no markup", "a.html", "html"),
        (b"", "a.parquet", "parquet"),
        (b"{}", "A.JSONL", "jsonl"),
        (b'{"text": "x"}\n{"text"', "a.json", "jsonl"),
        (b'{"text": "' + b"x" * 9000, "a.json", "jsonl"),
        (b'{\n  "name": 1\n}', "a.json", "code"),
        (b"all:", "src/Makefile", "code"),
        (b"\x00\x01", "a.txt", "binary"),
        (b"words", "a", "text"),
    ],
)
def test_content_decides_before_the_name(head: bytes, path: str, kind: str) -> None:
    assert sniff_kind(head, path) == kind


def test_plain_text_markdown_and_code() -> None:
    assert only(extract(b"\xef\xbb\xbfgr\xc3\xbcn", "a.txt")).text == "grün"
    assert only(extract("grün".encode("utf-16"), "a.txt")).text == "grün"
    assert only(extract(b"# A", "a.md")).metadata == {"kind": "markdown"}
    assert only(extract(b"  x = 1\n", "a.py")) == Extracted("", "  x = 1", metadata={"kind": "code", "code": "Python"})
    assert code_language("lib/x.rs") == "Rust"
    assert code_language("x.tar") is None


def test_bad_text_is_rejected_with_the_place() -> None:
    (reject,) = extract(b"abc\xff", "a.txt")
    assert isinstance(reject, Reject)
    assert (reject.error, "byte 3" in reject.message) == ("invalid_utf8", True)
    assert error(extract(b"", "a.txt")) == "empty_file"
    assert error(extract(b"ab\x00\x01", "a.dat")) == "not_text"
    assert error(extract(b" \n\t\x01", "a.md")) == "empty_text"
    assert error(extract(b"x" * 41, "a.txt", max_characters=10)) == "too_large"
    assert error(extract(b"x" * 11, "a.txt", max_characters=10)) == "too_large"
    assert only(extract(b"x" * 10, "a.txt", max_characters=10)).text == "x" * 10


def test_a_missing_file_is_a_reject(tmp_path: Path) -> None:
    assert error(extract(tmp_path / "absent.txt", "absent.txt")) == "unreadable"


def test_bytes_paths_and_open_files_read_alike(tmp_path: Path) -> None:
    for name, data in (("a.pdf", make_pdf(PROSE)), ("a.txt", b"words"), ("a.jsonl", b'{"text": "x"}')):
        path = tmp_path / name
        path.write_bytes(data)
        assert extract(path, name) == extract(data, name) == extract(io.BytesIO(data), name)


# --- HTML -------------------------------------------------------------------------------------------------------


def test_html_named_pdf_is_read_as_html() -> None:
    document = only(extract(HTML.encode(), "report.pdf"))
    assert PROSE.strip() in document.text
    assert document.metadata == {
        "kind": "html",
        "declared": "pdf",
        "title": "Tides",
        "declared_language": "en",
        "charset": "utf-8",
    }


@pytest.mark.parametrize("charset", ["shift_jis", "euc-jp", "iso-2022-jp", "utf-8", "utf-16"])
def test_html_charsets(charset: str) -> None:
    sentence = "日本の鉄道は時間に正確なことで知られている。" * 5
    page = f'<html><head><meta charset="{charset}"></head><body><p>{sentence}</p></body></html>'
    assert only(extract(page.encode(charset), "a.html")).text == sentence


def test_utf8_wins_over_a_wrong_declaration() -> None:
    page = f'<html><head><meta charset="iso-8859-1"></head><body><p>{"Größe und Übung. " * 9}</p></body></html>'
    assert "Größe und Übung." in only(extract(page.encode(), "a.html")).text


def test_html_without_text_is_empty() -> None:
    assert error(extract(b"<html><script>x()</script></html>", "a.html")) == "empty_text"


def test_a_page_that_takes_too_long_is_given_up_and_the_next_one_is_read() -> None:
    endless = b"<html><body>" + b"<p>x</p>" * 2_000_000
    begin = time.monotonic()
    assert error(extract(endless, "a.html", file_seconds=0.5)) == "timeout"
    assert time.monotonic() - begin < 20
    assert PROSE.strip() in only(extract(HTML.encode(), "a.html")).text


# --- PDF --------------------------------------------------------------------------------------------------------


def test_pdf_pages_and_their_spans() -> None:
    document = only(extract(make_pdf("First page.", "", "Third page."), "a.pdf"))
    assert document.text == "First page.\n\nThird page."
    assert document.pages == [(1, 0, 11), (3, 13, 24)]
    assert document.metadata["kind"] == "pdf" and document.metadata["page_count"] == "3"


def test_image_pages_need_ocr_and_the_others_stay() -> None:
    found = extract(make_pdf("Words.", "image"), "a.pdf")
    assert texts(found) == {"": "Words."}
    assert errors(found) == {"page=2": "needs_ocr"}
    assert error(extract(make_pdf("image", "image", ""), "a.pdf")) == "needs_ocr"
    assert error(extract(make_pdf(""), "a.pdf")) == "empty_text"


NO_PAGES = b"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[]/Count 0>> endobj
trailer <</Root 1 0 R/Size 3>>
%%EOF
"""


def test_bad_pdfs() -> None:
    encrypted = make_pdf(PROSE, encryption=AES_256, user_pw="secret", owner_pw="owner")
    assert error(extract(encrypted, "a.pdf")) == "encrypted"
    readable = make_pdf(PROSE, encryption=AES_256, user_pw="", owner_pw="owner")
    assert PROSE.strip() in only(extract(readable, "a.pdf")).text
    assert error(extract(NO_PAGES, "a.pdf")) == "no_pages"
    assert error(extract(b"these are words, not a PDF", "a.pdf")) in {"broken_pdf", "no_pages"}
    assert error(extract(b"", "a.pdf")) == "empty_file"
    assert error(extract(make_pdf("a", "b", "c"), "a.pdf", max_pages=2)) == "too_large"
    assert error(extract(make_pdf(PROSE), "a.pdf", max_characters=20)) == "too_large"
    assert error(extract(make_pdf(PROSE), "a.pdf", max_file_bytes=100)) == "too_large"


def test_of_a_truncated_pdf_what_opens_is_used() -> None:
    whole = make_pdf(*(f"Page {number}. {PROSE}" for number in range(9)))
    document = only(extract(whole[: -len(whole) // 20], "a.pdf"))
    assert document.text.startswith("Page 0.")
    assert error(extract(whole[: len(whole) // 50], "a.pdf")) in {"broken_pdf", "no_pages"}


# --- isolation --------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_children() -> Iterator[None]:
    isolate.close_children()
    yield
    isolate.close_children()


@pytest.mark.usefixtures("fresh_children")
def test_a_child_is_reused_and_one_that_died_is_replaced() -> None:
    extract(HTML.encode(), "a.html")
    (child,) = isolate._idle
    extract(HTML.encode(), "a.html")
    assert isolate._idle == [child]
    os.kill(child.process.pid, signal.SIGKILL)
    assert PROSE.strip() in only(extract(HTML.encode(), "a.html")).text
    assert child not in isolate._idle


@pytest.mark.usefixtures("fresh_children")
def test_threads_and_a_forked_daemon_read_side_by_side() -> None:
    pages = [HTML.replace("twice", f"twice {number}") for number in range(40)]

    def read(page: str) -> bool:
        return page.partition("<p>")[2][:40] in only(extract(page.encode(), "a.html")).text

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(read, pages))
    assert 1 <= len(isolate._idle) <= 3
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(0 if all(map(read, pages)) else 1), daemon=True
    )
    process.start()
    assert all(map(read, pages))
    process.join(60)
    assert process.exitcode == 0


# --- JSON lines -------------------------------------------------------------------------------------------------

LINES = b"\n".join(
    [
        b'\xef\xbb\xbf{"text": "one", "id": 7, "url": "u", "date": "2020", "licence": "MIT", "n": 1.5, "d": {}}',
        b"not json",
        b'{"body": "no text"}',
        b"",
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": "bad \xff"}',
        b'["text"]',
        b'{"text": " "}',
        b'{"text": ' + b"[" * 100_000,
        b'{"text": "last \\ud800"}\r',
    ]
)


def test_bad_lines_are_rejected_one_by_one() -> None:
    found = extract(LINES, "a.jsonl")
    assert found[0] == Extracted("line=1", "one", "7", "u", "2020", "MIT", {"kind": "jsonl", "n": "1.5"})
    assert texts(found) == {"line=1": "one", "line=11": "last \ufffd"}
    assert errors(found) == {
        "line=2": "invalid_json",
        "line=3": "no_text_column",
        "line=5": "text_not_string",
        "line=6": "text_not_string",
        "line=7": "invalid_utf8",
        "line=8": "invalid_json",
        "line=9": "empty_text",
        "line=10": "invalid_json",
    }


def test_rejects_of_rows_keep_the_id_of_the_row() -> None:
    rows = [{"id": 1, "text": 5}, {"id": "b", "text": " "}, {"id": "c", "text": "x" * 99}, {"id": "d"}, {"text": 5}]
    lines = "\n".join(map(json.dumps, rows)).encode()
    found = extract(lines, "a.jsonl", max_characters=50)
    assert [(one.error, one.id) for one in found if isinstance(one, Reject)] == [
        ("text_not_string", "1"),
        ("empty_text", "b"),
        ("too_large", "c"),
        ("no_text_column", "d"),
        ("text_not_string", None),
    ]
    not_utf8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b""]).buffers())
    data = parquet({"text": not_utf8, "key": ["a", "b"]})
    found = extract(data, "a.parquet", Columns(id="key"))
    assert [(one.error, one.id) for one in found if isinstance(one, Reject)] == [
        ("invalid_utf8", "a"),
        ("empty_text", "b"),
    ]


def test_columns_are_mapped_and_metadata_is_bounded() -> None:
    row = {"body": "x", "doc": "a", **{f"f{number}": number for number in range(99)}, "long": "y" * 5000}
    columns = Columns.model_validate({"text": "body", "id": "doc"})
    document = only(extract(json.dumps(row).encode(), "a.ndjson", columns))
    assert (document.text, document.id, document.url) == ("x", "a", None)
    assert len(document.metadata) == 33  # kind and 32 of the fields
    assert "body" not in document.metadata


def test_a_line_that_is_too_long_is_skipped_and_the_next_one_is_read() -> None:
    lines = b'{"text": "' + b"x" * 200_000 + b'"}\n{"text": "short"}'
    found = extract(lines, "a.jsonl", max_characters=100)
    assert errors(found) == {"line=1": "too_large"}
    assert texts(found) == {"line=2": "short"}


def test_json_lines_are_streamed() -> None:
    class Endless(io.RawIOBase):
        """100 GB of lines; reading all of them would never end."""

        position = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self.position = offset
            return offset

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            line = b'{"text": "a line"}\n'
            size = min(len(buffer), 1 << 16)
            begin = self.position % len(line)
            buffer[:size] = (line * (size // len(line) + 2))[begin : begin + size]
            self.position += size
            return size

    stream = Endless()
    found = extract_file(io.BufferedReader(stream), "a.jsonl", Extract(), Columns())
    assert [next(found).locator for _ in range(1000)][-1] == "line=1000"
    assert stream.position < 1 << 20


# --- compression ------------------------------------------------------------------------------------------------

MANY = "".join(json.dumps({"text": f"{number} {os.urandom(30).hex()}"}) + "\n" for number in range(3000)).encode()


def test_compressed_files_are_what_they_hold() -> None:
    plain = extract(MANY, "a.jsonl")
    assert len(plain) == 3000
    members = gzip.compress(MANY[:100_001]) + gzip.compress(MANY[100_001:])
    frames = zstandard.compress(MANY[:100_001]) + zstandard.compress(MANY[100_001:])
    assert extract(members, "a.jsonl.gz") == extract(frames, "a.jsonl.zst") == plain
    assert only(extract(gzip.compress(b"x = 1"), "a.py.gz")).metadata["code"] == "Python"
    assert only(extract(zstandard.compress(make_pdf("Words.")), "a.pdf.zst")).text == "Words."
    assert error(extract(gzip.compress(b""), "a.txt.gz")) == "empty_file"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_of_a_truncated_file_the_whole_lines_are_kept(compress: object) -> None:
    packed = compress(MANY)  # type: ignore[operator]
    found = extract(packed[: len(packed) * 3 // 4], "a.jsonl.gz")
    assert errors(found) == {"": "broken_compression"}
    assert texts(found).items() <= texts(extract(MANY, "a.jsonl")).items()
    assert len(found) > 1000
    assert error(extract(packed[:10], "a.jsonl")) == "broken_compression"
    assert error(extract(compress(random.Random(0).randbytes(3000))[:2000], "a.tar.gz")) == "broken_compression"  # type: ignore[operator]
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    assert "broken_compression" in errors(extract(bytes(damaged), "a.jsonl")).values()


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_bomb_is_defused(compress: object) -> None:
    bomb = compress(b"x" * (16 << 20))  # type: ignore[operator]
    assert len(bomb) < 20_000
    assert error(extract(bomb, "a.txt", max_file_bytes=1 << 20)) == "too_large"
    assert error(extract(bomb, "a.pdf", max_file_bytes=1 << 20)) == "too_large"
    lines = compress(b'{"text": "fine"}\n' * 200_000)  # type: ignore[operator]
    found = extract_file(lines, "a.jsonl.gz", Extract(max_file_bytes=1 << 20), Columns())
    *good, last = found
    assert isinstance(last, Reject)
    assert last.error == "too_large"
    assert len(good) == (1 << 20) // 17


# --- Parquet ----------------------------------------------------------------------------------------------------


def parquet(table: dict[str, pa.Array | list[object]], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, **options)
    return sink.getvalue()


def test_parquet_rows_become_documents() -> None:
    data = parquet(
        {
            "text": ["one", None, "three"] * 100,
            "date": pa.array([0, 1, 2] * 100, pa.date32()),
            "tags": [["a"]] * 300,
            "ok": [True] * 300,
        },
        row_group_size=50,
    )
    found = extract(data, "a.parquet")
    assert found[0] == Extracted("row=1", "one", date="1970-01-01", metadata={"kind": "parquet", "ok": "true"})
    assert list(texts(found)) == [f"row={row}" for row in range(1, 301) if row % 3 != 2]
    assert errors(found) == {f"row={row}": "text_not_string" for row in range(2, 301, 3)}


def test_parquet_with_large_and_dictionary_strings() -> None:
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        data = parquet({"text": pa.array(["a", "b", "a"]).cast(kind)})
        assert list(texts(extract(data, "a.parquet")).values()) == ["a", "b", "a"]


def test_a_parquet_bomb_is_defused() -> None:
    data = parquet({"text": ["x" * 20_000] * 2_000})
    assert len(data) < 10_000
    *good, last = extract(data, "a.parquet", max_file_bytes=1 << 20)
    assert isinstance(last, Reject)
    assert last.error == "too_large"
    assert len(good) < 100


def test_bad_parquet() -> None:
    data = parquet({"text": ["one"] * 1000})
    assert error(extract(b"", "a.parquet")) == "empty_file"
    assert error(extract(b"PAR1", "a.parquet")) == "broken_parquet"
    assert error(extract(b"words", "a.parquet")) == "broken_parquet"
    assert error(extract(data[: len(data) // 2], "a.parquet")) == "broken_parquet"
    assert error(extract(parquet({"body": ["one"]}), "a.parquet")) == "no_text_column"
    assert error(extract(parquet({"text": [1]}), "a.parquet")) == "text_not_string"
    not_utf8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"ok"]).buffers())
    found = extract(parquet({"text": not_utf8}), "a.parquet")
    assert errors(found) == {"row=1": "invalid_utf8"}
    assert texts(found) == {"row=2": "ok"}


# --- the Python environment -------------------------------------------------------------------------------------


def test_python_environment() -> None:
    files = python_environment.list_files(400_000, seed=3)
    assert 200_000 < sum(file.size for file in files) <= 400_000
    assert {file.path for file in python_environment.list_files(200_000, seed=3)} < {file.path for file in files}
    for file in files:
        found = list(python_environment.extract_environment_file(file, Extract()))
        assert len(found) <= 1
        assert {one.locator for one in found} <= {"source", "docstrings"}
        for document in found:
            if isinstance(document, Extracted):
                assert document.licence == file.licence
                assert document.metadata["package"] == file.package


def test_a_module_gives_its_source_or_its_docstrings_and_never_both(tmp_path: Path) -> None:
    prose = "It explains at length what happens and why, in whole sentences that a reader can follow. " * 10
    sources = {"long": f'"""{prose}"""\nx = 1', "short": '"""Short."""\nx = 1', "none": f"x = '{prose}'"}
    locators: dict[str, list[str]] = {}
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
        for number in range(300):
            file = python_environment.EnvironmentFile(str(tmp_path / name), f"p/{number}.py", "p", "1", "MIT", 1)
            document = only(list(python_environment.extract_environment_file(file, Extract())))
            expected = source if document.locator == "source" else prose.strip()
            assert document.text == expected
            assert (document.locator == "docstrings") <= python_environment.gives_docstrings(file.path)
            locators.setdefault(name, []).append(document.locator)
    assert 70 < locators["long"].count("docstrings") < 130
    assert set(locators["short"] + locators["none"]) == {"source"}


def test_docstrings_of_a_module() -> None:
    long = "It explains at length what happens and why, in whole sentences that a reader can follow. " * 5
    source = f'"""{long}"""\n\ndef f():\n    """More."""\n\ndef g():\n    """Short."""\n'
    assert python_environment.module_docstrings(source) == ""
    source = source.replace("More.", long + "More.")
    assert python_environment.module_docstrings(source) == f"{long.strip()}\n\n{long}More."
    assert python_environment.module_docstrings("def broken(:") == ""


# --- hostile files ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_hostile_pdfs_neither_crash_nor_hang() -> None:
    manifest = [json.loads(line) for line in (SHARED / "pdf" / "MANIFEST.jsonl").read_text("utf-8").splitlines()]
    files = [entry["file"] for entry in manifest if entry["role"] == "pdf"]
    assert len(files) > 150
    found = {file: extract(SHARED / "pdf" / file, file, file_seconds=20) for file in files}
    assert all(found.values())
    for file, ones in found.items():
        for one in ones:
            if isinstance(one, Extracted):
                one.text.encode()
                assert all(one.text[begin:end].strip() for _, begin, end in one.pages)
            else:
                assert one.error not in {"timeout", "out_of_memory"}, file
                assert str(SHARED) not in one.message
    scans = [file for file in files if file.startswith("derived/scan-")]
    assert len(scans) == 8
    assert all(error(found[file]) == "needs_ocr" for file in scans)
    assert error(found["derived/zero-pages.pdf"]) == "no_pages"
    assert error(found["derived/encrypted-user.pdf"]) == "encrypted"
    assert only(found["derived/html-named-pdf.pdf"]).metadata["declared"] == "pdf"
    assert only(found["derived/leading-junk.pdf"]).metadata["kind"] == "pdf"
