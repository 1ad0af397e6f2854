"""`sluice extract --explain`: all pages, documents and rejects are told, nothing acts on the terminal or is written."""

import gzip
import io
import json
import tarfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from pipelines.extract import inputs
from pipelines.extract.found import Extracted, PageFact, Reject
from schemas.errors import ConfigError, DataError
from schemas.recipe import check_recipe
from sluice import explain_file
from sluice.explain_file import _fitted, explain_files
from tests.sluice.made_runs import EVIL


@pytest.fixture
def shown(monkeypatch):
    """explains(path, ...) -> what is printed where no terminal is."""

    def explain(*sources: Path, width: int = 200, terminal: bool = False) -> str:
        out = io.StringIO()
        console = Console(file=out, highlight=False, width=width, force_terminal=terminal, color_system=None)
        monkeypatch.setattr(explain_file, "console", console)
        listed = [{"name": f"input-{number}", "path": str(path)} for number, path in enumerate(sources)]
        explain_files(check_recipe({"name": "x", "sources": listed}, Path.cwd()))
        return out.getvalue()

    return explain


@pytest.fixture
def read(monkeypatch):
    """Lets the reader give back what the test says."""

    def give(*found: Extracted | Reject | PageFact) -> None:
        monkeypatch.setattr(inputs, "extract_file", lambda *_: iter(found))

    return give


def _pages(locator: str = "") -> list[PageFact]:
    routes = [("text_layer", 0.97, "a sane text layer", 12, None), ("ocr", 0.5, "an image", 8, None)]
    routes += [("blank", 1.0, "nothing on the page", 0, None), ("ocr", 0.0, "no engine", 0, "needs_ocr")]
    return [
        PageFact(locator, number, route, reason, confidence, characters, error)
        for number, (route, confidence, reason, characters, error) in enumerate(routes, 1)
    ]


DOCUMENT = Extracted(
    "", "First page.\n\nSecond.\nLast", metadata={"kind": "pdf", "title": "A\nB"}, pages=[(1, 0, 11), (2, 13, 25)]
)


def test_every_page_is_told_with_its_route_reason_and_first_words(tmp_path, shown, read):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    read(*_pages(), DOCUMENT, Reject("page=4", "needs_ocr", "no engine"))
    lines = shown(tmp_path).splitlines()
    assert lines == [
        "a.pdf · 8 B · pdf, by its first bytes",
        "  page  route       confidence  characters  why                   text",
        "     1  text layer        0.97          12  a sane text layer     First page.",
        "     2  ocr               0.50           8  an image              Second. Last",
        "     3  blank             1.00           0  nothing on the page",
        "     4  unreadable           –           0  needs_ocr: no engine",
        "  document  25 characters · title: A⏎B",
        "  reject    1 page · needs_ocr",
    ]


def test_pages_of_files_inside_an_archive_stand_apart(tmp_path, shown, read):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04")
    two = [[*_pages(f"member={name}.pdf"), Reject(f"member={name}.pdf!/page=4", "needs_ocr", "x")] for name in "ab"]
    read(*two[0], Reject("member=c", "not_text", "zero bytes"), *two[1])
    text = shown(tmp_path)
    assert text.count("  page  route") == 2 and text.count("  reject    1 page · needs_ocr") == 2
    order = [text.index(part) for part in ("member=a.pdf\n", "member=c · not_text · zero bytes", "member=b.pdf\n")]
    assert order == sorted(order)


def test_files_of_every_kind_say_what_they_are_and_why(tmp_path, shown):
    (tmp_path / "a.txt").write_text("plain words")
    (tmp_path / "b.py").write_text("import os\n")
    (tmp_path / "Makefile").write_text("all:\n\ttrue\n")
    (tmp_path / "c.pdf").write_text("<!doctype html><html><title>T</title><p>" + "Words of a page. " * 20)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"no": 1}\n'))
    (tmp_path / "e.bin").write_bytes(b"a\0b")
    (tmp_path / "f.md").write_bytes(b"")
    with tarfile.open(tmp_path / "g.tgz", "w:gz") as tar:
        tar.add(tmp_path / "b.py", "in/b.py")
    (tmp_path / "h.gz").write_bytes(b"\x1f\x8b\x08 no more")
    text = shown(tmp_path)
    for line in (
        "a.txt · 11 B · text, by having no signature and no other extension",
        "b.py · 10 B · code, by its extension\n  document  9 characters · code: Python\n            import os",
        "Makefile · 11 B · code, by its name",
        " · html, by its first bytes",
        "declared: pdf · title: T",
        " · gzip of jsonl, by its extension",
        "document  line=1 · 3 characters",
        "reject    line=2 · no_text_column",
        "e.bin · 3 B · binary, by its zero bytes\n  reject    not_text",
        "f.md · 0 B · nothing\n  reject    empty_file",
        " · gzip of tar, by its first bytes\n  document  member=in/b.py · 9 characters · kind: code · code: Python",
        "\n  reject    broken_compression",
        "9 files · 6 documents · 4 rejects (",
    ):
        assert line in text


def test_of_many_records_a_few_are_told_and_all_are_counted(tmp_path, shown):
    lines = [json.dumps({"text": f"number {number}"}) for number in range(500)] + ["nonsense"] * 70
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    text = shown(tmp_path / "a.jsonl")
    assert text.count("  document") == 3 and text.count("  reject") == explain_file.SHOWN
    assert "  … and more; in all 500 documents · 70 rejects (invalid_json 70)" in text


def test_a_reader_that_fails_is_told_and_the_next_file_is_read(tmp_path, shown, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    real = inputs.extract_file

    def fail(data, path, *rest):
        if path == "a.txt":
            raise ValueError("a bug [bold]")
        return real(data, path, *rest)

    monkeypatch.setattr(inputs, "extract_file", fail)
    text = shown(tmp_path)
    assert "reject    extractor_error · ValueError: a bug [bold]" in text and "document  1 characters" in text


def test_nothing_in_a_file_acts_on_the_terminal(tmp_path, shown, read):
    (tmp_path / "a\x1b[2J[bold].pdf").write_bytes(b"%PDF-1.7")
    evil = Extracted("", EVIL, url=EVIL, metadata={"title\x1b[1m": EVIL}, pages=[(1, 0, len(EVIL))])
    read(
        PageFact("", 1, f"odd{EVIL}", EVIL, 0.5, 9), evil, Reject(EVIL, EVIL, EVIL), Reject(f"{EVIL}!/page=1", "x", "y")
    )
    for terminal in (False, True):
        text = shown(tmp_path, width=300, terminal=terminal).replace("\x1b[?25l", "").replace("\x1b[?25h", "")
        text = text.replace("\x1b[2K", "").replace("\x1b[1A", "").replace("\r", "")  # of the live spinner
        assert "\\x1b[31mred" in text and "[bold]rich[/bold]" in text and "\\x1b[2J[bold].pdf" in text
        assert not {c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"}
        assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def test_on_a_terminal_a_page_is_one_line_of_it(tmp_path, shown, read):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    long = Extracted("", "漢字と言葉 " * 400, pages=[(1, 0, 2000), (2, 0, 2000)])
    read(*(PageFact("", number, "text_layer", "reason " * 30, 0.5, 2000) for number in (1, 2)), long)
    for width in (60, 80, 120, 160):
        lines = [line for line in shown(tmp_path, width=width, terminal=True).splitlines() if "text layer  " in line]
        assert len(lines) == 2 and all(cell_len(line.rstrip()) <= width for line in lines)
    assert "漢字" in lines[0] and "reason" in lines[0]


CELLS = st.text(alphabet="ab 漢é", max_size=120)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.integers(50, 200))
def test_rows_fit_into_the_terminal(cells, width):
    rows = [["1", "text layer", "0.50", "100", why, words] for why, words in cells]
    for row, old in zip(_fitted(rows, width), rows):
        assert row[:4] == old[:4]
        assert 2 + 1 + 2 + 10 + 2 + 4 + 2 + 3 + sum(2 + cell_len(cell) for cell in row[4:]) <= width + 2


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_a_fault_of_a_server_is_none_of_the_file(kind, tmp_path, shown, monkeypatch):
    def stop(*_):
        raise kind("no such model")

    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    monkeypatch.setattr(inputs, "extract_file", stop)
    with pytest.raises(kind, match="no such model"):
        shown(tmp_path)


def test_a_place_without_files_is_a_configuration_error(tmp_path, shown):
    with pytest.raises(ConfigError, match="no such file"):
        shown(tmp_path / "absent")


def test_the_command_writes_nothing(tmp_path, sluice):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("some words")
    before = sorted(tmp_path.rglob("*"))
    done = sluice("extract", "--explain", "docs", "docs/a.txt", cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert done.stdout.count("a.txt · 10 B · text") == 2 and "2 files · 2 documents" in done.stdout
    assert sluice("extract", "--explain", "none", cwd=tmp_path, check=False).returncode == 2
    for more, what in ((("--output", "x"), "--output has"), (("--", "--direct_num_workers=2"), "options of Beam have")):
        told = sluice("extract", "--explain", "docs", *more, cwd=tmp_path, check=False)
        assert told.returncode == 2 and f"so {what} nothing to say" in told.stderr


def test_settings_of_a_model_may_stand_beside_its_address(tmp_path, sluice):
    (tmp_path / "a.txt").write_text("Words.")
    model = ["--vlm-url", "http://127.0.0.1:9/v1", "--vlm-model", "m"]
    told = sluice("extract", tmp_path / "a.txt", "--explain", *model, "--set", "extract.vision.nope=3", check=False)
    assert told.returncode == 2 and "nope" in told.stderr
    assert not sluice("extract", tmp_path / "a.txt", "--explain", *model, "--set", "extract.vision.attempts=3").stderr
    told = sluice("extract", tmp_path / "a.txt", "--explain", *model[:2], check=False)
    assert told.returncode == 2 and "--vlm-model" in told.stderr
