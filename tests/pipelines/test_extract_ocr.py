"""Character recognition, with the real engines where they are installed."""

import functools
import importlib.util
import io
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pipelines.extract.ocr import LEAST_CONFIDENCE, Missing, Recognised, find_engine
from pipelines.extract.ocr_engine import run_bounded
from pipelines.extract.ocr_lines import Word, joined, page_lines, parse_tsv
from pipelines.extract.ocr_packs import DETECTED_SCRIPTS, OWN_PACKS, SCRIPT_PACKS, VERTICAL, debian_package, packs_of
from pipelines.extract.ocr_pictures import read_picture, usual_dpi, without_leaders
from pipelines.extract.page import Unreadable
from schemas.languages import LANGUAGES

FRENCH = (
    "Les élèves de la première classe étaient arrivés très tôt à l'école, où la maîtresse préparait déjà le goûter. "
    "Après la leçon de français, ils ont mangé des crêpes et bu du thé sous les châtaigniers de la cour."
)
GERMAN = (
    "Die Bürger der Stadt hörten am frühen Morgen die Glocken läuten und gingen über die alte Brücke zum Markt. "
    "Dort verkauften die Bauern Äpfel, Nüsse und süße Trauben, für die man sonst weit fahren müsste."
)
RUSSIAN = (
    "Вчера вечером студенты собрались в библиотеке, чтобы обсудить новую версию Debian и программы для Linux. "
    "Они долго спорили о том, какие книги нужно прочитать прежде всего и кто напишет отчёт."
)
JAPANESE = (
    "吾輩は猫である名前はまだ無いどこで生れたかとんと見当がつかぬ何でも薄暗いじめじめした所で"
    "ニャーニャー泣いていた事だけは記憶している吾輩はここで始めて人間というものを見た"
)
WIDTH, HEIGHT = 420.0, 300.0  # of a test page in points


@functools.cache
def tesseract():
    engine = find_engine("tesseract")
    if isinstance(engine, Missing):
        pytest.skip(engine.message)
    return engine


def needs(*packs: str) -> None:
    if absent := [pack for pack in packs if pack not in tesseract().installed]:
        pytest.skip(f"needs apt install {' '.join(map(debian_package, absent))}")


def page_of(text: str, rotate: int = 0, size: float = 13):
    """A renderer of one page with that text, as a child process renders pages of a file."""
    document = pymupdf.open()
    page = document.new_page(width=WIDTH, height=HEIGHT)
    page.insert_htmlbox(pymupdf.Rect(30, 30, WIDTH - 30, HEIGHT - 30), f'<p style="font-size:{size}px">{text}</p>')
    page.set_rotation(rotate)
    return lambda dpi: page.get_pixmap(dpi=dpi).tobytes("png")


def png_of(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def read(text: str, rotate: int = 0, known: tuple[str, ...] = ()) -> Recognised:
    width, height = (HEIGHT, WIDTH) if rotate in (90, 270) else (WIDTH, HEIGHT)
    return tesseract().read(page_of(text, rotate), width, height, known)


def squeezed(text: str) -> str:
    return "".join(text.split())


def similarity(truth: str, text: str) -> float:
    """F1 of character 5-grams without white space, and without rows of dots."""
    grams = []
    for each in (truth, text):
        plain = squeezed(each)
        while "...." in plain:
            plain = plain.replace("....", "")
        grams.append(Counter(plain[begin : begin + 5] for begin in range(len(plain) - 4)))
    return 2 * (grams[0] & grams[1]).total() / max(1, grams[0].total() + grams[1].total())


# --- packs ---


def test_every_language_has_a_pack_of_its_own_or_of_its_script():
    assert all(packs_of(label)[-1] for label in LANGUAGES)
    assert packs_of("deu_Latn") == ("deu", "Latin")
    assert packs_of("ary_Arab") == ("ara", "Arabic")
    assert debian_package("chi_tra_vert") == "tesseract-ocr-chi-tra-vert"
    assert debian_package("HanT_vert") == "tesseract-ocr-script-hant-vert"
    assert packs_of("lmo_Latn") == ("Latin",)
    assert {language.script for language in LANGUAGES.values()} == set(SCRIPT_PACKS)
    with pytest.raises(KeyError):
        packs_of("other")


def test_the_detection_names_only_scripts_that_have_packs():
    assert {script for scripts in DETECTED_SCRIPTS.values() for script in scripts} == set(SCRIPT_PACKS)


def test_all_packs_of_the_table_exist():
    installed = set(tesseract().installed)
    if len(installed) < 150:
        pytest.skip("needs apt install tesseract-ocr-all")
    assert {pack for label in LANGUAGES for pack in packs_of(label)} | set(VERTICAL) <= installed
    assert len(OWN_PACKS) == 95


def test_a_missing_engine_or_pack_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = find_engine("tesseract", ["deu", "chi_sim", "HanT"])
    assert isinstance(missing, Missing)
    assert missing.message.endswith(
        "apt install tesseract-ocr tesseract-ocr-deu tesseract-ocr-chi-sim tesseract-ocr-script-hant"
    )


def test_an_unknown_pack_is_missing():
    tesseract()
    missing = find_engine("tesseract", ["eng", "klingon"])
    assert isinstance(missing, Missing)
    assert missing.message == "tesseract has no language pack klingon: apt install tesseract-ocr-klingon"


def test_the_identity_tells_packs_versions_and_what_tells_the_language(monkeypatch):
    engine = tesseract()
    assert engine.identity() == find_engine("tesseract").identity()
    assert engine.version in engine.identity()
    assert engine.identity() != find_engine("tesseract", ["eng"]).identity()
    assert "/" not in engine.identity()
    before = engine.identity()
    monkeypatch.setattr("pipelines.extract.ocr_tesseract.LANGUAGE_VERSION", "another")
    assert engine.identity() != before


# --- words and lines ---


def row(line: int, word: int, left: int, top: int, width: int, height: int, confidence: float, text: str) -> str:
    return "\t".join(map(str, (5, 1, 1, 1, line, word, left, top, width, height, confidence, text)))


def test_dots_and_smudges_are_no_words():
    table = "\n".join(
        [
            "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext",
            "4\t1\t1\t1\t1\t0\t0\t0\t900\t40\t-1\t",
            row(1, 1, 0, 0, 120, 40, 95.0, "Remarks"),
            row(1, 2, 150, 35, 1200, 5, 0.0, "2..."),
            row(1, 3, 1400, 0, 290, 44, 23.7, "eee"),
            row(1, 4, 1800, 0, 40, 40, 91.0, "45"),
            row(2, 1, 0, 100, 40, 40, 12.0, "q7"),
            row(3, 1, 0, 200, 40, 40, 93.0, "|"),
        ]
    )
    assert [[word.text for word in line] for line in parse_tsv(table)] == [["Remarks", "45"]]
    assert parse_tsv("") == []


def test_spaces_come_from_the_plain_text_where_it_has_the_line():
    table = "\n".join(row(1, index, 40 * index, 0, 35, 40, 90.0, text) for index, text in enumerate("엔진의내용"))
    (line,) = parse_tsv(table, "다른 줄\n엔진의 내용\n")
    assert joined(line, 40.0) == "엔진의 내용"
    (line,) = parse_tsv(table)
    assert joined(line, 40.0) == "엔 진 의 내 용"


def test_chinese_has_no_spaces_and_cells_stand_apart():
    def words(texts: str, begin: float, step: float) -> list[Word]:
        return [
            Word(text, 0.9, begin + step * index, 0, begin + step * index + 40, 40)
            for index, text in enumerate(texts.split())
        ]

    chinese = words("可能 你 已经", 0, 60)
    assert joined(chinese, 40.0) == "可能你已经"
    lines = page_lines([chinese + words("Debian GNU", 1000, 60)], 2.0)
    assert [line.text for line in lines] == ["可能你已经", "Debian GNU"]
    assert lines[1].box == (500.0, 0.0, 550.0, 20.0)


_WORDS = st.lists(
    st.builds(
        lambda text, confidence, left, top, width, height: Word(
            text, confidence, left, top, left + width, top + height
        ),
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8),
        st.floats(0, 1),
        *(st.integers(0, 3000) for _ in range(2)),
        *(st.integers(0, 500) for _ in range(2)),
    ),
    min_size=1,
    max_size=8,
)


@given(st.lists(_WORDS, max_size=5))
def test_lines_keep_every_letter(lines):
    found = page_lines(lines, 3.0)
    kept = "".join(line.text for line in found)
    assert squeezed(kept) == squeezed("".join(word.text for words in lines for word in words))
    assert all(line.box[0] <= line.box[2] and line.box[1] <= line.box[3] and line.size > 0 for line in found)


# --- pictures ---


def test_leaders_go_and_text_stays():
    picture = Image.new("L", (1200, 200), 255)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((50, 60, 80, 100), fill=0)  # a letter
    for left in (90, 110, 130):  # an ellipsis
        draw.rectangle((left, 95, left + 4, 99), fill=0)
    text = np.asarray(picture).copy()
    for left in range(200, 1100, 25):
        draw.ellipse((left, 94, left + 5, 99), fill=0)
    assert (np.asarray(without_leaders(picture, 300)) == text).all()
    assert without_leaders(Image.fromarray(text), 300).tobytes() == text.tobytes()


def test_noise_is_left_alone_in_bounded_time():
    picture = Image.fromarray(np.where(np.random.default_rng(0).random((3300, 2550)) < 0.05, 0, 255).astype(np.uint8))
    begin = time.process_time()
    assert without_leaders(picture, 300) is picture
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", png_of(Image.new("L", (40, 40)))[:-30], b"P5 1 1 255\n0", bytes(range(7, 107))]
)
def test_damaged_pictures_are_an_error(data):
    with pytest.raises(Unreadable) as caught:
        read_picture(data)
    assert caught.value.error == "ocr_failed"


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = bytearray(png_of(Image.new("1", (8, 8))))
    header = data.index(b"IHDR") + 4
    data[header : header + 8] = (8_000).to_bytes(4, "big") * 2
    data[header + 13 : header + 17] = zlib.crc32(data[header - 4 : header + 13]).to_bytes(4, "big")
    with pytest.raises(Unreadable, match="8000 x 8000 pixels"):
        read_picture(bytes(data))


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_pages_of_any_size_have_bounded_pixels(width, height):
    dpi = usual_dpi(width, height)
    assert 1 <= dpi <= 300
    assert dpi == 1 or width * height * (dpi / 72) ** 2 <= 20_000_001


# --- processes ---


def test_a_process_that_hangs_ends_with_its_children(tmp_path):
    script = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    with pytest.raises(TimeoutError):
        run_bounded([sys.executable, "-c", script], b"", 1.5)
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("the grandchild is still alive")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process are set on Linux only")
def test_a_process_that_takes_too_much_memory_fails():
    script = "import sys; sys.stdin.read(); bytearray(1 << 30)"
    with pytest.raises(Unreadable, match="ended with status"):
        run_bounded([sys.executable, "-c", script], b"x", 20.0, 512 << 20)


# --- tesseract ---


def test_a_page_is_read_in_its_own_language():
    needs("Latin", "fra")
    page = read(FRENCH)
    assert squeezed(page.text) == squeezed(FRENCH)
    assert page.packs == ("fra",)
    assert page.confidence > 0.9
    assert (page.rotation, page.width, page.height) == (0, WIDTH, HEIGHT)
    left, top, right, bottom = page.blocks[0].box
    assert 25 < left < 40
    assert 25 < top < 50
    assert left < right < WIDTH - 25
    assert top < bottom < HEIGHT / 2


def test_the_packs_of_the_page_before_are_a_guess_and_no_more():
    needs("Latin", "fra", "deu")
    assert squeezed(read(GERMAN, known=("fra",)).text) == squeezed(GERMAN)


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_a_page_on_its_side_or_its_head_is_turned(rotate):
    needs("Latin", "deu", "osd")
    page = read(GERMAN, rotate)
    assert page.rotation == 360 - rotate
    assert (page.width, page.height) == (WIDTH, HEIGHT)
    assert squeezed(page.text) == squeezed(GERMAN)
    assert all(block.box[2] <= WIDTH and block.box[3] <= HEIGHT for block in page.blocks)


@pytest.mark.slow
def test_cyrillic_with_latin_words():
    needs("Latin", "Cyrillic", "rus", "eng", "osd")
    page = read(RUSSIAN)
    assert page.packs == ("rus", "eng")
    assert similarity(RUSSIAN, page.text) > 0.97


def test_a_script_without_a_pack_is_named_with_its_package():
    engine = tesseract()
    bare = type(engine)(engine.program, engine.version, engine.folder, {"osd": engine.installed["osd"]}, ())
    with pytest.raises(Unreadable) as caught:
        bare.read(page_of(RUSSIAN), WIDTH, HEIGHT)
    assert caught.value.error == "needs_ocr"
    assert caught.value.message == ("tesseract has no language pack for script Cyrl: install tesseract-ocr-script-cyrl")


def test_packs_of_the_recipe_are_used():
    needs("deu", "fra")
    engine = find_engine("tesseract", ["deu", "fra"])
    page = engine.read(page_of(GERMAN), WIDTH, HEIGHT)
    assert page.packs == ("deu", "fra")
    assert squeezed(page.text) == squeezed(GERMAN)


def test_a_page_without_text_has_no_confidence():
    needs("Latin")
    smudge = Image.new("L", (300, 200), 255)
    smudge.paste(0, (100, 100, 160, 110))
    for picture in (Image.new("L", (900, 700), 255), Image.new("L", (1, 1), 0), smudge):
        png = png_of(picture)
        page = tesseract().read(lambda dpi, png=png: png, 200.0, 150.0)
        assert (page.blocks, page.confidence, page.reason) == ([], 0.0, "no text was recognised")


@pytest.mark.slow
def test_vertical_writing_is_read_from_the_right():
    needs("Latin", "osd", "Japanese", "Japanese_vert")
    document = pymupdf.open()
    page = document.new_page(width=WIDTH, height=HEIGHT)
    left, top = WIDTH - 60, 50
    for letter in JAPANESE * 2:
        page.insert_text((left, top), letter, fontname="japan", fontsize=14)
        top += 16
        if top > HEIGHT - 30:
            left, top = left - 26, 50
    engine, render = tesseract(), lambda dpi: page.get_pixmap(dpi=dpi).tobytes("png")
    found = engine.read(render, WIDTH, HEIGHT)
    assert found.packs == ("Japanese_vert",)
    assert similarity(JAPANESE * 2, found.text) > 0.75
    assert squeezed(found.text).startswith(JAPANESE[:2])
    assert engine.read(render, WIDTH, HEIGHT, found.packs).text == found.text


@pytest.mark.slow
def test_noise_has_too_little_confidence():
    noise = np.random.default_rng(0).integers(0, 256, (825, 637), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    page = tesseract().read(lambda dpi: png_of(Image.fromarray(noise)), 612.0, 792.0)
    assert page.confidence < LEAST_CONFIDENCE


def test_a_page_that_takes_too_long_is_a_timeout_that_names_the_limit():
    render = page_of(FRENCH)
    with pytest.raises(Unreadable) as caught:
        tesseract().read(render, WIDTH, HEIGHT, seconds=0.05)
    assert (caught.value.error, caught.value.message) == ("timeout", "not recognised within 0.05 seconds")


def test_an_engine_that_dies_is_an_error_without_local_paths(tmp_path):
    engine = tesseract()
    broken = type(engine)("/bin/false", engine.version, tmp_path, engine.installed, ("eng",))
    with pytest.raises(Unreadable) as caught:
        broken.read(page_of(FRENCH), WIDTH, HEIGHT)
    assert (caught.value.error, caught.value.message) == ("ocr_failed", "false ended with status 1")


def _by_hand(png: bytes, pack: str) -> str:
    command = ["tesseract", "stdin", "stdout", "-l", pack, "--dpi", "300"]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    return subprocess.run(command, input=png, env=environment, capture_output=True, check=True).stdout.decode()


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("stem", "pack"),
    [("scan-de-100dpi", "deu"), ("scan-zh", "chi_sim"), ("scan-vi", "vie")],
)
def test_scans_are_read_as_well_as_by_hand(shared_data: Path, stem: str, pack: str):
    needs("Latin", "osd", pack)
    truth = (shared_data / "pdf" / "truth" / f"{stem}.txt").read_text()
    known: tuple[str, ...] = ()
    ours, hand = [], []
    with pymupdf.open(shared_data / "pdf" / "derived" / f"{stem}.pdf") as document:
        for page in document:
            recognised = tesseract().read(
                lambda dpi, page=page: page.get_pixmap(dpi=dpi).tobytes("png"), *page.rect[2:], known
            )
            known = recognised.packs
            assert recognised.confidence >= LEAST_CONFIDENCE
            ours.append(recognised.text.replace("\x02", "-"))
            hand.append(_by_hand(page.get_pixmap(dpi=300).tobytes("png"), pack))
    assert similarity(truth, "\n".join(ours)) > similarity(truth, "\n".join(hand)) - 0.02


# --- rapidocr ---


def rapidocr():
    engine = find_engine("rapidocr")
    if isinstance(engine, Missing):
        pytest.skip(engine.message)
    return engine


def test_rapidocr_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = find_engine("rapidocr")
    assert isinstance(missing, Missing)
    assert missing.message.endswith("pip install 'sluice-llm[rapidocr]'")


def test_rapidocr_does_not_read_every_script():
    rapidocr()
    missing = find_engine("rapidocr", ["deu", "rus"])
    assert isinstance(missing, Missing)
    assert "not rus" in missing.message


@pytest.mark.slow
def test_rapidocr_reads_and_turns_a_page():
    page = rapidocr().read(page_of(GERMAN, 180), WIDTH, HEIGHT)
    assert page.rotation == 180
    assert similarity(GERMAN, page.text) > 0.9
    assert page.confidence > 0.9
    assert rapidocr().identity().startswith("rapidocr ")


@pytest.mark.slow
def test_letters_that_rapidocr_leaves_out_lower_the_confidence():
    assert rapidocr().read(page_of(RUSSIAN), WIDTH, HEIGHT).confidence < LEAST_CONFIDENCE
