"""Mojibake is repaired, and nothing else changes: clean text, source code, line ends, quotation marks."""

import json

import ftfy.bad_codecs  # noqa: F401  (registers the sloppy codecs)
import polars as pl
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract import encoding
from pipelines.extract.encoding import FIXER, repair_encoding
from pipelines.extract.found import Extracted, make_document
from pipelines.extract.page import Block, Page
from pipelines.extract.pdf_file import PdfInfo, make_documents
from pipelines.extract.stage import run
from schemas.job import Job
from schemas.recipe import Extract
from tests.pipelines.conftest import Silence
from tests.pipelines.test_extract_stage import make_recipe, rows

ON = Extract(repair_encoding=True)
SENTENCES = {
    "German": "Die Brücke über den Fluß wurde schließlich größer gebaut.",
    "Russian": "Старый мост через реку был построен заново.",
    "Hindi": "नदी पर पुराना पुल फिर से बनाया गया।",
    "Japanese": "川に架かる古い橋が建て直されました。",
    "Arabic": "أعيد بناء الجسر القديم فوق النهر.",
}


def misread(text: str, charset: str, times: int = 1) -> str:
    for _ in range(times):
        text = text.encode().decode(charset)
    return text


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize(("charset", "times"), [("latin-1", 1), ("latin-1", 2), ("sloppy-windows-1252", 2)])
def test_misread_sentences_are_restored(language: str, charset: str, times: int) -> None:
    found = repair_encoding(misread(SENTENCES[language], charset, times))
    assert found is not None and found.text == SENTENCES[language]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "é",
        *SENTENCES.values(),
        "“Curly” ‘quotes’, ﬁne ligatures, ｆｕｌｌ width, é in two, &eacute; &lt;b&gt;\r\nand a line\rend…",
        "one\x85two\x85three — from a mainframe",
        "∑ x² ± 5 °C — §§ 3–4, © 2024 ®, 10 €, ¿Qué? «Oui»",
        "│ ╬ ║ box ░▒▓ drawing │",
    ],
)
def test_what_is_no_mojibake_stays(text: str) -> None:
    assert repair_encoding(text) is None


def test_lines_are_repaired_one_by_one_and_told() -> None:
    good, bad = SENTENCES["Russian"], misread(SENTENCES["Hindi"], "latin-1")
    text = f"{good}\r\n{bad}\r\n\n{good}\n{bad}"
    found = repair_encoding(text)
    assert found is not None
    assert found.text == text.replace(bad, SENTENCES["Hindi"])
    assert [text[chunk.begin : chunk.end] for chunk in found.chunks] == [chunk.before for chunk in found.chunks]
    assert len(found.chunks) == 2


SIGNS = st.text(st.sampled_from("".join(MOJIBAKE_CATEGORIES.values()) + "aZ .,?ЂвВГРСã√≈Ää×\n\r\t\x85\x00"), max_size=8)


@settings(max_examples=400)
@given(SIGNS)
def test_no_line_that_ftfy_finds_bad_is_passed_over(text: str) -> None:
    if any(is_bad(line) for line in text.split("\n")):
        assert encoding._is_suspicious(text)


@settings(max_examples=200)
@given(st.text(max_size=40) | SIGNS | SIGNS.map(lambda text: text * 50))
def test_repaired_text_is_stable_and_keeps_its_lines(text: str) -> None:
    found = repair_encoding(text)
    if found is not None:
        assert found.text.count("\n") == text.count("\n")
        found.text.encode()
        again = repair_encoding(found.text)
        assert again is None or len(again.text) < len(found.text)  # a layer at a time, and never back


@given(st.text(st.sampled_from("ab é\n"), max_size=60), st.integers(1, 9))
def test_pieces_of_a_text_are_the_text(text: str, size: int) -> None:
    before, encoding._PIECE = encoding._PIECE, size
    try:
        spans = list(encoding._lines(text))
    finally:
        encoding._PIECE = before
    assert "".join(text[begin:end] for begin, end in spans) == text.replace("\n", "")
    assert all(0 < end - begin <= size for begin, end in spans)


def test_one_line_of_millions_of_characters_is_repaired_in_pieces() -> None:
    clean = " ".join([SENTENCES["German"]] * 5_000)
    found = repair_encoding(misread(clean, "latin-1"))
    assert found is not None and found.text == clean


def test_source_code_is_left_alone() -> None:
    code = "def repair(text):\n    if 'Ã©' in text:\n        return text.replace('Ã©', 'é')\n    return text\n" * 3
    for kind in ("code", "text", "jsonl"):
        found = make_document("", code, ON, {"kind": kind})
        assert isinstance(found, Extracted) and found.text == code.strip("\n") and found.mended is None


def test_a_byte_that_reads_as_a_line_end_is_repaired_before_lines_are_unified() -> None:
    clean = "Åse og Ånund bodde på Ås."
    damaged = misread(clean, "latin-1")
    assert "\x85" in damaged
    found = make_document("", damaged, ON, {"kind": "text"})
    assert isinstance(found, Extracted) and found.text == clean
    assert found.metadata["mended_lines"] == "1"


def test_pages_of_a_pdf_keep_their_text() -> None:
    sentences = [*SENTENCES.values()]
    box = (0.0, 0.0, 100.0, 100.0)
    damaged = [misread(sentence, "sloppy-windows-1252") for sentence in sentences]
    contents = [sentences[number] if number % 2 else damaged[number] for number in range(len(sentences))]
    pages = [
        Page(number, "text_layer", "made", 1, 600, 800, [Block("paragraph", text, box)])
        for number, text in enumerate(contents, 1)
    ]
    found = list(make_documents(pages, PdfInfo(len(pages), ""), ON, {}))
    (document,) = (one for one in found if isinstance(one, Extracted))
    assert [document.text[begin:end].strip() for _, begin, end in document.pages] == sentences


def test_lone_surrogates_beside_mojibake() -> None:
    found = repair_encoding("\ud800 " + misread(SENTENCES["German"], "latin-1"))
    assert found is not None and found.text == "\ufffd " + SENTENCES["German"]


def test_a_run_records_what_it_repaired(tmp_path) -> None:
    clean = SENTENCES["Russian"]
    records = [{"text": clean}, {"text": misread(clean, "latin-1")}, {"text": f"{clean}\n{misread(clean, 'cp1251')}"}]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sources = [{"name": "in", "path": str(tmp_path / "lines.jsonl")}]
    recipe = make_recipe({"sources": sources, "extract": {"repair_encoding": True}})
    done = run(Job(recipe, {}, str(tmp_path / "out"), Silence()))
    documents, repairs = rows(tmp_path / "out", "documents"), rows(tmp_path / "out", "refinements")
    assert [row["text"] for row in documents] == [clean, clean, f"{clean}\n{clean}"]
    assert [row["document_id"] for row in repairs] == [row["document_id"] for row in documents[1:]]
    assert {(row["after"], row["accepted"], row["model"]) for row in repairs} == {(clean, True, FIXER)}
    assert done.extra["mended_documents"] == 2
    assert "mended_lines" not in dict(documents[0]["metadata"])


@pytest.mark.shared_data
def test_clean_lines_in_all_languages_stay_and_damaged_ones_come_back(shared_data) -> None:
    lines = pl.read_parquet(shared_data / "languages" / "dev.parquet")["text"].gather_every(9).to_list()
    assert [line for line in lines if repair_encoding(line)] == []
    damaged = [(line, misread(line, "sloppy-windows-1252")) for line in lines if not line.isascii()]
    found = [(line, repair_encoding(text)) for line, text in damaged]
    assert sum(one is not None and one.text == line for line, one in found) / len(found) > 0.97
