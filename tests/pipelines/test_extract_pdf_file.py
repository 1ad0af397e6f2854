"""A PDF as a whole: ranges of pages, faults of single pages, the page table, and what becomes of hostile files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract.found import Extracted, PageFact, Reject, Repair
from pipelines.extract.isolate import Isolated, close_children
from pipelines.extract.page import Block, Page
from pipelines.extract.pdf_file import PAGES_PER_RANGE, PdfInfo, extract_pdf, make_documents, page_ranges, read_range
from pipelines.extract.stage import run
from schemas.job import Job
from schemas.recipe import Extract, check_recipe
from schemas.tables import read_table
from tests.pipelines.conftest import Silence
from tests.scripted_model_server import Reply, simulated_model_server

NUMBERS = "zero one two three four five six seven eight nine".split()
WITHOUT_OCR = {"ocr": "none"}


def sentence(page):
    spelt = " ".join(NUMBERS[int(digit)] for digit in str(page))
    return f"The lighthouse keeper wrote page {spelt} of the book before the lamp was lit in the evening."


def make_pdf(path, pages, sign=sentence, **save):
    """A book with a running title and page numbers, a sentence of its own on every page."""
    with pymupdf.open() as document:
        for number in range(1, pages + 1):
            page = document.new_page(width=400, height=500)
            page.insert_text((150, 30), "The Lighthouse", fontsize=9)
            page.insert_text((195, 480), str(number), fontsize=9)
            page.insert_textbox((50, 80, 350, 300), sign(number), fontsize=11)
        document.save(path, **save)
    return path


def parts(found, kind):
    return [item for item in found if isinstance(item, kind)]


def read(path, **options):
    return list(extract_pdf(str(path), Extract(**{**WITHOUT_OCR, **options}), {"kind": "pdf"}))


def run_stage(folder, output, beam_options=(), **options):
    sections = {"name": "test", "sources": [{"name": "in", "path": str(folder)}], "extract": {**WITHOUT_OCR, **options}}
    return run(Job(check_recipe(sections, Path("/")), {}, str(output), Silence(), tuple(beam_options)))


def test_ranges_cover_every_page_once():
    for count in (1, PAGES_PER_RANGE - 1, PAGES_PER_RANGE, PAGES_PER_RANGE + 1, 5 * PAGES_PER_RANGE + 3):
        pages = [page for first, last in page_ranges(count) for page in range(first, last + 1)]
        assert pages == list(range(1, count + 1))


@pytest.mark.parametrize("backend", ["pymupdf", "pypdfium2"])
def test_every_page_is_in_the_text_and_in_the_page_table(tmp_path, backend):
    found = read(make_pdf(tmp_path / "book.pdf", 12), pdf_backend=backend)
    (document,) = parts(found, Extracted)
    facts = parts(found, PageFact)
    assert not parts(found, Reject)
    assert [fact.page for fact in facts] == [page for page, _, _ in document.pages] == list(range(1, 13))
    for page, begin, end in document.pages:
        assert document.text[begin:end].split() == sentence(page).split()
    assert "The Lighthouse" not in document.text
    assert {fact.route for fact in facts} == {"text_layer"}
    assert [fact.characters for fact in facts] == [end - begin for _, begin, end in document.pages]
    assert document.metadata["routes"] == "text_layer 12" and document.metadata["page_count"] == "12"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two long PDF files, a short one and a broken one."""
    folder = tmp_path_factory.mktemp("library")
    for name, pages, copies in (("long.pdf", 2 * PAGES_PER_RANGE + 7, 3), ("other.pdf", 2 * PAGES_PER_RANGE, 5)):
        make_pdf(folder / name, pages, lambda page, copies=copies: "\n".join([sentence(page)] * copies))
        with pymupdf.open(folder / name) as document:  # only files of some size are opened to count their pages
            document.embfile_add("ballast", random.Random(pages).randbytes(300_000))
            document.saveIncr()
    make_pdf(folder / "short.pdf", 3)
    (folder / "broken.pdf").write_bytes((folder / "long.pdf").read_bytes()[:300_000].replace(b"/Page", b"/Gone"))
    return folder


def test_a_long_file_is_the_same_in_one_go_and_by_ranges_on_two_workers(library, tmp_path, monkeypatch):
    outputs = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        if workers == 1:  # every file is read where its shard is written
            monkeypatch.setattr("pipelines.extract.stage._LONG_PDF_BYTES", 1 << 40)
        else:
            monkeypatch.undo()
        several = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"] if workers == 2 else []
        result = run_stage(library, output, several)
        outputs.append((result, {path.relative_to(output): path.read_bytes() for path in output.rglob("*.parquet")}))
    assert outputs[0] == outputs[1]
    result, files = outputs[0]
    assert sorted({path.parts[0] for path in files}) == ["documents", "pages", "rejects"]
    assert result.counts["documents"] == 3 and result.counts["pages"] == 4 * PAGES_PER_RANGE + 10


def test_ranges_of_long_files_are_read_apart(library, tmp_path, monkeypatch):
    read_apart = []
    monkeypatch.setattr(
        "pipelines.extract.stage.read_range",
        lambda path, options, first, last: (
            read_apart.append((Path(path).name, first)) or read_range(path, options, first, last)
        ),
    )
    run_stage(library, tmp_path / "out")
    assert len(read_apart) == 5 and {name for name, _ in read_apart} == {"long.pdf", "other.pdf"}


def test_an_archive_that_is_named_like_a_long_pdf_is_an_archive(tmp_path):
    """PDF readers look for pages anywhere in a file."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "all.pdf", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("notes.txt", sentence(0) * 4_000)
        archive.write(make_pdf(tmp_path / "book.pdf", PAGES_PER_RANGE + 1), "book.pdf")
    run_stage(tmp_path / "in", tmp_path / "out")
    (written,) = (tmp_path / "out" / "documents").iterdir()
    assert read_table(str(written))["locator"].to_pylist() == ["member=notes.txt", "member=book.pdf"]


def let_pages_hang(monkeypatch, pages):
    """Stop the process that is asked for one of the pages, so that it cannot answer, and give it little time.

    Returns what is asked from now on, with the seconds that were meant for it.
    """
    asked = []
    ask = Isolated.ask

    def stopping(self, reader, request, payload=b"", seconds=60.0):
        asked.append((reader, seconds))
        if reader == "pdf_page" and request["number"] in pages:
            os.kill(self._child.process.pid, signal.SIGSTOP)
            seconds = 0.1
        return ask(self, reader, request, payload, seconds)

    monkeypatch.setattr(Isolated, "ask", stopping)
    return asked


def test_a_page_that_takes_too_long_is_left_and_the_file_given_up_after_three(tmp_path, monkeypatch):
    let_pages_hang(monkeypatch, range(1, 7))
    found = read(make_pdf(tmp_path / "slow.pdf", 6))
    assert not parts(found, Extracted)
    errors = [fact.error for fact in parts(found, PageFact)]
    assert errors == ["timeout"] * 3 + ["given_up"] * 3
    (reject,) = parts(found, Reject)
    assert reject.locator == "" and reject.error == "timeout"


def test_one_page_that_hangs_costs_that_page_only(tmp_path):
    path = make_pdf(tmp_path / "hang.pdf", 3)
    with pymupdf.open(path) as document:
        page = document[1]
        content = page.get_contents()[0]
        # Arithmetic without end that the interpreter of the page has to walk through.
        form = b"q 1 0 0 1 0 0 cm BT /F 9 Tf (" + b"ab" * 2000 + b") Tj ET Q\n"
        document.update_stream(content, form * 60_000)
        document.save(tmp_path / "hangs.pdf", deflate=True)
    found = read(tmp_path / "hangs.pdf", page_seconds=2.0)
    (document,) = parts(found, Extracted)
    assert [page for page, _, _ in document.pages] == [1, 3]
    assert [(reject.locator, reject.error) for reject in parts(found, Reject)] in (
        [("page=2", "timeout")],
        [("page=2", "out_of_memory")],
        [("page=2", "broken_pdf")],
    )


def test_a_page_of_more_text_than_a_page_has_is_left(tmp_path):
    path = make_pdf(tmp_path / "bomb.pdf", 3)
    with pymupdf.open(path) as document:
        page = document[1]
        for height in range(300):
            page.insert_text((9, 9 + height), "letters " * 100, fontsize=0.8)
        document.save(tmp_path / "bombs.pdf")
    found = read(tmp_path / "bombs.pdf")
    (document,) = parts(found, Extracted)
    assert [page for page, _, _ in document.pages] == [1, 3]
    (reject,) = parts(found, Reject)
    assert reject.locator == "page=2" and reject.error == "too_large"


def test_a_document_over_the_limit_is_split_between_pages(tmp_path):
    path = make_pdf(tmp_path / "book.pdf", 10)
    (whole,) = parts(read(path), Extracted)
    limit = len(whole.text) // 3
    found = read(path, max_characters=limit)
    documents = parts(found, Extracted)
    assert [document.locator for document in documents] == [f"part={number}" for number in range(1, len(documents) + 1)]
    assert all(len(document.text) <= limit for document in documents)
    assert [page for document in documents for page, _, _ in document.pages] == list(range(1, 11))
    for document in documents:
        assert [document.text[begin:end].split() for _, begin, end in document.pages] == [
            sentence(page).split() for page, _, _ in document.pages
        ]
    assert {fact.locator for fact in parts(found, PageFact)} == {document.locator for document in documents}


def test_passwords_of_the_recipe_open_encrypted_files(tmp_path):
    secret = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": "ship", "owner_pw": "lamp"}
    path = make_pdf(tmp_path / "locked.pdf", 2, **secret)
    for backend in ("pymupdf", "pypdfium2"):
        (reject,) = read(path, pdf_backend=backend)
        assert reject.error == "encrypted"
        (reject,) = read(path, pdf_backend=backend, passwords=["wrong"])
        assert reject.error == "encrypted" and "wrong" not in reject.message
        (document,) = parts(read(path, pdf_backend=backend, passwords=["wrong", "ship"]), Extracted)
        assert sentence(2) in document.text.replace("\n", " ")


def test_control_characters_of_a_block_do_not_move_the_spans():
    box = (0.0, 0.0, 100.0, 10.0)
    pages = [
        Page(number, "ocr", "made", 0.5, 100, 100, [Block("paragraph", f"\ufeff\x00Page\x07 {name}.\x85", box)])
        for number, name in enumerate(NUMBERS, 1)
    ]
    found = list(make_documents(pages, PdfInfo(10, "A\x00 title"), Extract(), {}))
    (document,) = parts(found, Extracted)
    assert [document.text[begin:end].strip() for _, begin, end in document.pages] == [
        f"Page {name}." for name in NUMBERS
    ]
    told = {"page_count": "10", "routes": "ocr 10", "confidence": "0.50", "title": "A title"}
    assert document.metadata == {**told, "warning": "almost no text"}


LETTERS = st.text("ab \n\x02-.\ufeff\x85\u2028\x00#A1|`é漢", max_size=30)
KINDS = st.sampled_from(["paragraph", "heading", "list", "code", "table", "markdown"])
BLOCKS = st.builds(lambda kind, text, y: Block(kind, text, (50, y, 300, y + 10), 10), KINDS, LETTERS, st.floats(0, 700))


@settings(max_examples=150)
@given(st.lists(st.lists(BLOCKS, max_size=4), max_size=5), st.sampled_from([20, 60, 5_000]))
def test_spans_follow_each_other_and_hold_text_whatever_the_pages_hold(contents, limit):
    pages = [Page(number, "text_layer", "made", 1, 600, 800, blocks) for number, blocks in enumerate(contents, 1)]
    found = list(make_documents(pages, PdfInfo(len(pages), ""), Extract(max_characters=limit), {}))
    for document in parts(found, Extracted):
        at = 0
        for _, begin, end in document.pages:
            assert at <= begin < end <= len(document.text)
            assert not document.text[at:begin].strip() and not document.text[begin].isspace()
            at = end
        assert not document.text[at:].strip() and "\x02" not in document.text


def test_a_path_may_come_back_with_another_file_behind_it(tmp_path):
    path = make_pdf(tmp_path / "a.pdf", 1)
    request = {"path": str(path), "backend": "pymupdf", "passwords": [], "number": 1}
    with Isolated() as isolated:
        before, _ = isolated.ask("pdf_page", request)
        make_pdf(path, 1, lambda page: "Nobody reads this page, which was written later.")
        after, _ = isolated.ask("pdf_page", request)
    assert "lighthouse keeper" in str(before["blocks"]) and "Nobody reads" in str(after["blocks"])


def test_the_child_that_judges_pages_has_one_thread_however_many_cores_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    close_children()
    request = {"path": str(make_pdf(tmp_path / "a.pdf", 1)), "backend": "pymupdf", "passwords": [], "number": 1}
    with Isolated() as isolated:
        assert isolated.ask("pdf_page", request)[0]["route"] == "text_layer"
        assert isolated._child is not None
        assert len(list(Path(f"/proc/{isolated._child.process.pid}/task").iterdir())) == 1


def test_opening_a_file_has_a_time_of_its_own_in_every_child(tmp_path, monkeypatch):
    asked = let_pages_hang(monkeypatch, {2})
    found = read(make_pdf(tmp_path / "book.pdf", 3), file_seconds=50, page_seconds=20)
    assert [reject.error for reject in parts(found, Reject)] == ["timeout"]
    page, opened = ("pdf_page", 20), ("pdf_open", 50)
    assert asked == [opened, opened, page, page, opened, page]


SCAN = "The second page is a picture, and nothing but a model reads it to the end."


def with_a_scan(path):
    """Three pages, of which the second is a picture."""
    make_pdf(path, 3)
    with pymupdf.open(path) as document:
        with pymupdf.open() as printed:
            sheet = printed.new_page(width=400, height=500)
            sheet.insert_textbox((50, 80, 350, 300), SCAN, fontsize=11)
            picture = sheet.get_pixmap(dpi=150)
        document.delete_page(1)
        document.new_page(1, width=400, height=500).insert_image((0, 0, 400, 500), pixmap=picture)
        document.save(path.with_name("scan.pdf"))
    return path.with_name("scan.pdf")


def read_by_model(path, reply, role, **keys):
    with simulated_model_server(reply, ["small"]) as server:
        return read(path, **{role: {"url": server.url, "model": "small", "attempts": 1, **keys}}), server.requests


def test_a_vision_model_reads_the_pages_that_need_it(tmp_path):
    answer = Reply(f"---\nturn: 0\nlanguage: en\ntext: yes\n---\n{SCAN}")
    found, requests = read_by_model(with_a_scan(tmp_path / "book.pdf"), [answer], "vision")
    (document,) = parts(found, Extracted)
    assert [fact.route for fact in parts(found, PageFact)] == ["text_layer", "vlm", "text_layer"]
    for (_, begin, end), wanted in zip(document.pages, [sentence(1), SCAN, sentence(3)], strict=True):
        assert " ".join(document.text[begin:end].split()).endswith(wanted)
    assert len(requests) == 1 and document.metadata["routes"] == "text_layer 2, vlm 1"


@pytest.mark.parametrize("max_fallback", [0.004, 1.0])
def test_a_page_that_the_vision_model_did_not_read_falls_back(tmp_path, max_fallback):
    path = with_a_scan(tmp_path / "book.pdf")
    found, requests = read_by_model(path, [Reply("nonsense")], "vision", max_fallback=max_fallback, temperatures=[0.5])
    facts = parts(found, PageFact)
    assert [fact.error for fact in facts] == [None, "needs_ocr", None] and len(requests) == 1
    assert "the vision model did not read it: no answer will do" in facts[1].reason
    (reject,) = parts(found, Reject)
    assert (reject.locator, reject.error) == (("", "vision_failed") if max_fallback < 1 else ("page=2", "needs_ocr"))
    assert len(parts(found, Extracted)) == int(max_fallback == 1)


def test_the_spans_of_pages_follow_the_repair_of_their_text(tmp_path):
    path = make_pdf(tmp_path / "book.pdf", 4, lambda page: sentence(page).replace("evening", "even ing"))

    def repair(sent, number):
        text = sent["messages"][1]["content"].partition("<text>\n")[2].removesuffix("\n</text>")
        return Reply(text.replace("even ing", "evening"))

    found, requests = read_by_model(path, repair, "refine", chunk_characters=200)
    (document,) = parts(found, Extracted)
    (repaired,) = parts(found, Repair)
    assert requests and all(chunk.accepted for chunk in repaired.refined.chunks)
    assert [" ".join(document.text[begin:end].split()) for _, begin, end in document.pages] == [
        sentence(page) for page in (1, 2, 3, 4)
    ]


def test_files_of_one_page_keep_a_server_busy(tmp_path):
    """Twelve PDF files of one page each: their requests are under way side by side, and nothing depends on that."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        make_pdf(
            tmp_path / "in" / f"{number:02d}.pdf", 1, lambda page, number=number: f"{sentence(number)} {sentence(7)}"
        )

    def repair(sent, number):
        text = sent["messages"][1]["content"].partition("<text>\n")[2].removesuffix("\n</text>")
        return Reply(text.replace("lamp was lit", "lamp was lighted"), wait=0.3)

    outputs = []
    for concurrency in (4, 1):
        with simulated_model_server(repair, ["small"]) as server:
            keys = {"url": server.url, "model": "small", "concurrency": concurrency}
            result = run_stage(tmp_path / "in", tmp_path / str(concurrency), refine=keys)
            assert server.most_under_way == concurrency
        files = sorted((tmp_path / str(concurrency)).rglob("*.parquet"))
        outputs.append((result.counts, [read_table(str(file)).to_pylist() for file in files]))
    assert outputs[0] == outputs[1] and "lighted" in str(outputs[0])


def test_a_page_survives_the_pipe():
    page = Page(3, "vlm", "made", 0.25, 1.5, 2.5, [Block("heading", "A\x02b", (1.0, 2.0, 3.0, 4.0), 9.5, 2)], "e", True)
    assert Page.from_json(json.loads(json.dumps(page.to_json()))) == page


COUNT_PAGES = """
import resource
from pipelines.extract.isolate import close_children
from pipelines.extract.pdf_file import extract_pdf
from schemas.recipe import Extract

found = list(extract_pdf(path, Extract(ocr="none"), {}))
close_children()
pages = sum(len(getattr(item, "pages", ())) for item in found)
print(pages, *(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)))
"""


@pytest.mark.slow
def test_memory_stays_flat_with_the_pages(tmp_path):
    """The child that reads 5,000 pages needs no more than one that read 500, save the text itself."""
    peaks = []
    for pages in (500, 5_000):
        path = make_pdf(tmp_path / f"{pages}.pdf", pages)
        code = f"path = {str(path)!r}\n{COUNT_PAGES}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        read_pages, *memory = map(int, done.stdout.split())
        assert read_pages == pages
        peaks.append(memory)
    (child_before, parent_before), (child_after, parent_after) = peaks
    assert child_after < child_before + 100_000 and parent_after < parent_before + 100_000  # kB


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("backend", ["pymupdf", "pypdfium2"])
def test_every_shared_file_ends_as_documents_or_rejects(shared_data, backend):
    """No crash, no hang; a hostile file costs seconds."""
    files = sorted((shared_data / "pdf").glob("*/*.pdf"))
    assert len(files) > 150
    small = [file for file in files if file.parent.name not in {"debian"}]
    started = time.monotonic()
    for file in small:
        try:
            found = read(file, pdf_backend=backend)
        except Exception as error:
            raise AssertionError(f"{file.name}: {error}") from error
        documents, rejects = parts(found, Extracted), parts(found, Reject)
        assert documents or rejects, file.name
        for document in documents:
            assert document.text.strip() and "\x02" not in document.text
            ends = [0]
            for _, begin, end in document.pages:
                assert ends[-1] <= begin <= end <= len(document.text)
                ends.append(end)
        assert all(reject.error != "extractor_error" and len(reject.message) <= 300 for reject in rejects)
    assert time.monotonic() - started < 300


@pytest.mark.shared_data
def test_a_broken_build_is_flagged(shared_data):
    (document,) = parts(read(shared_data / "pdf" / "debian" / "debian-faq.ja.pdf"), Extracted)
    assert document.metadata["warning"]
    (document,) = parts(read(shared_data / "pdf" / "debian" / "project-history.ja.pdf"), Extracted)
    assert "warning" not in document.metadata
