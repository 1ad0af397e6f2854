"""The judge of text layers: what can be used, what goes to recognition, and what is blank."""

import random
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract import letters, pdf_pymupdf, pdf_pypdfium2
from pipelines.extract.judge import Verdict, judge, judge_document
from pipelines.extract.page import Line, PageContent
from pipelines.extract.train_judge import ascii_numbers, labelled_lines, mixed_alphabet, train

# Article 1 and parts of the preamble of the Universal Declaration of Human Rights.
REAL = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja "
    "omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. Mọi con người đều được tạo hóa "
    "ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
    "должны поступать в отношении друг друга в духе братства.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με "
    "λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميراً وعليهم أن يعامل بعضهم بعضاً "
    "بروح الإخاء، ولكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और "
    "अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
    "人人有资格享有本宣言所载的一切权利和自由，不分种族、肤色、性别、语言、宗教。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。すべて人は、人種、皮膚の色、性、言語、宗教"
    "その他これに類するいかなる事由による差別をも受けることなく、この宣言に掲げるすべての権利と自由とを享有することができる。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "
    "인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
}

GOOD = {
    "code": "def read(path: str, *, limit: int = 10) -> dict[str, list[int]]:\n    with open(path) as file:\n"
    "        return {key: [int(v) for v in row[:limit]] for key, row in json.load(file).items()}\n"
    "if __name__ == '__main__':\n    print(read(sys.argv[1]))",
    "formulas": "f(x) = ax^2 + bx + c\ny = (−b ± √(b² − 4ac)) / 2a\n∑ x_i y_i ≤ ‖x‖ ‖y‖\n∫ f dμ = lim ∫ f_n dμ\n"
    "∂u/∂t = α ∂²u/∂x²\ncos²θ + sin²θ = 1\nE = mc²\nF = ma\n∇ × B = μ J",
    "numbers": "\n".join(f"{n:,} {n * 7 / 3:.2f} {n % 13} ${n}.00 {n % 100}%" for n in range(1000, 1400, 7)),
    "parts": "XC7A35T-1CPG236C LM317T NE555P TL072CP BC547B 2N3904 1N4148 ATMEGA328P-PU STM32F103C8T6 ESP8266EX " * 4,
    "keys": "\n".join(
        "".join(random.Random(at).choices(string.ascii_letters + string.digits + "+/", k=64)) for at in range(20)
    ),
    "alphabet": "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ αβγδεζηθικλμνξοπρστυφχψω абвгдежзийклмнопр",
    "states": "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND",
    "unknown script": "ᐃᓄᐃᑦ ᓄᓇᖓᑦ ᐃᓄᒃᑎᑐᑦ ᐅᖃᐅᓯᖅ ᑕᑯᒃᓴᐅᔪᖅ " * 6,
    "capitals": REAL["en"].upper(),
}


def page(text: str, **known: object) -> PageContent:
    lines = [Line(line, (72.0, 12.0 * at, 540.0, 12.0 * at + 10.0), 10.0) for at, line in enumerate(text.split("\n"))]
    return PageContent(1, 612.0, 792.0, [lines] if text else [], **known)


def through(text: str, font: str) -> str:
    """The text as a font with a wrong map would give it."""
    if font == "mixed":
        return text.translate(mixed_alphabet([text], np.random.default_rng(3)))
    if font == "glyph numbers":
        return text.translate(ascii_numbers([text], np.random.default_rng(3)))
    return "".join(one if one.isspace() else chr(ord(one) + int(font)) for one in text)


WHOLE_PAGE = [(0.0, 0.0, 612.0, 792.0)]


def test_pages_without_text() -> None:
    assert judge(page("")).route == "blank"
    assert judge(page("  \n \n")).route == "blank"
    assert judge(page("", images=WHOLE_PAGE)).route == "ocr"
    assert judge(page("", images=[(300.0, 20.0, 320.0, 40.0)])).route == "blank"
    assert judge(page("", images=[(-5000.0, -5000.0, -10.0, -10.0)])).route == "blank"
    assert judge(page("", paths=900)) == Verdict("ocr", "letters drawn as outlines, without a text layer", 0.5)
    assert judge(page("17", paths=900)).route == "ocr"
    assert judge(page("", paths=4)).route == "blank"


def test_a_stamp_over_a_scan_is_no_text_layer_but_recognised_text_is() -> None:
    stamp = "Downloaded from the archive on 12 March 2021."
    assert judge(page(stamp, images=WHOLE_PAGE)).route == "ocr"
    assert judge(page(stamp)).route == "text_layer"
    recognised = page(REAL["en"] * 3, images=WHOLE_PAGE)
    for line in recognised.blocks[0]:
        line.hidden = True
    verdict = judge(recognised)
    assert verdict.route == "text_layer"
    assert "hidden" in verdict.reason
    garbage = page(through(REAL["en"] * 3, "mixed"), images=WHOLE_PAGE)
    assert judge(garbage).route == "ocr"


@pytest.mark.parametrize("wrong", ["\ufffd", "\ue0a1", "\x13", "\u0378"])
def test_characters_without_a_value(wrong: str) -> None:
    assert judge(page(REAL["en"].replace("e", wrong))) == Verdict("ocr", "characters without a Unicode value", 1.0)
    assert judge(page(REAL["en"] + wrong * 3)).route == "text_layer"


def test_glyph_numbers_and_signs() -> None:
    numbers = "".join(f"(cid:{ord(one)})" for one in REAL["en"])
    assert judge(page(numbers)) == Verdict("ocr", "glyph numbers in place of letters", 1.0)
    assert judge(page(REAL["en"] * 2 + " (cid:12)")).route == "text_layer"
    order = {one: chr(33 + at) for at, one in enumerate(dict.fromkeys(REAL["en"].replace(" ", "")))}
    assert judge(page("".join(order.get(one, one) for one in REAL["en"]))).route == "ocr"


@pytest.mark.parametrize("language", REAL)
def test_real_text_is_sane(language: str) -> None:
    assert judge(page(REAL[language])).route == "text_layer"
    for size in (10, 30, 60):
        assert judge(page(REAL[language][:size])).route == "text_layer"


@pytest.mark.parametrize("kind", GOOD)
def test_pages_without_sentences_are_sane(kind: str) -> None:
    assert judge(page(GOOD[kind])).route == "text_layer"


@pytest.mark.parametrize("language", REAL)
def test_wrong_maps_are_seen(language: str) -> None:
    caught = [judge(page(through(REAL[language], font))).route == "ocr" for font in ("mixed", "1", "2", "3", "-3")]
    assert sum(caught) >= 3  # of two sentences; whole pages are surer


@pytest.mark.parametrize("language", ["en", "de", "fi", "vi"])
def test_glyph_numbers_as_code_points_are_seen(language: str) -> None:
    assert judge(page(through(REAL[language], "glyph numbers"))).route == "ocr"


def test_letters_of_several_scripts_in_a_word() -> None:
    scripts = "aбγدहกა"
    mixed = "".join(one if one == " " else scripts[at % len(scripts)] for at, one in enumerate(REAL["en"]))
    assert judge(page(mixed)) == Verdict("ocr", "words of letters from several scripts", 0.9)
    assert judge(page("Das α-Teilchen trägt 2e; 東京のTokyo駅とJR線, Москва (Moscow)")).route == "text_layer"


def test_one_wrong_font_among_good_ones() -> None:
    wrong, good = through(REAL["de"], "mixed"), REAL["de"]

    def with_fonts(*texts: tuple[str, str]) -> Verdict:
        lines = [Line(text, (72.0, 0.0, 540.0, 10.0), 10.0, font) for text, font in texts]
        return judge(PageContent(1, 612.0, 792.0, [lines]))

    assert with_fonts((good, "A"), (good, "A"), (wrong, "B")).route == "ocr"
    assert with_fonts(*[(good, "A")] * 8, (wrong, "B")).route == "text_layer"  # a small part of the page
    assert with_fonts((good, "A"), (good, "B")).route == "text_layer"


def test_a_long_page_is_judged_by_lines_from_all_over_it() -> None:
    half = "\n".join([REAL["en"]] * 40 + [through(REAL["en"], "mixed")] * 60)
    assert judge(page(half)).route == "ocr"
    assert judge(page("\n".join([REAL["en"]] * 100))).route == "text_layer"


@settings(max_examples=200)
@given(st.lists(st.text(max_size=60), max_size=12), st.integers(0, 2000), st.booleans())
def test_any_page_gets_a_verdict(lines: Sequence[str], paths: int, scanned: bool) -> None:
    blocks = [[Line(line, (0.0, 0.0, 10.0, 10.0), 10.0, f"F{at % 3}") for at, line in enumerate(lines)]]
    content = PageContent(1, 612.0, 792.0, blocks, WHOLE_PAGE if scanned else [], paths)
    verdict = judge(content)
    assert verdict == judge(content)
    assert verdict.route in {"text_layer", "ocr", "blank"}
    assert 0.0 <= verdict.confidence <= 1.0
    assert (verdict.route == "blank") <= (not "".join(lines).strip())


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(shuffler: random.Random) -> None:
    lines = [REAL["en"], REAL["ru"], REAL["hi"], through(REAL["de"], "mixed"), GOOD["states"]]
    before = judge(page("\n".join(lines)))
    shuffler.shuffle(lines)
    assert judge(page("\n".join(lines))) == before


def test_documents_that_are_hardly_there() -> None:
    notice = "The PDF version of the manual\nis currently not available for the\nlanguage you've selected.\n1"
    assert judge_document(notice, 1) == "a notice in place of the document"
    assert judge_document("Please wait... If this message is not eventually replaced, upgrade your reader.", 1)
    assert judge_document("", 0) == "almost no text"
    assert judge_document("Annual report 2019", 1) == "almost no text"
    assert judge_document(REAL["en"], 1) == ""
    assert judge_document(REAL["zh"], 1) == ""
    assert judge_document(REAL["en"], 40) == "almost no text for its number of pages"
    assert judge_document("This option is not available on older systems. " + REAL["en"] * 5, 1) == ""


def test_the_model_is_small() -> None:
    assert letters.MODEL.stat().st_size <= 300_000
    assert letters.MODEL.with_suffix(".md").is_file()


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", [pdf_pymupdf, pdf_pypdfium2])
def test_the_files_with_wrong_maps(shared_data: Path, backend: object) -> None:
    def routes(name: str) -> list[str]:
        document = backend.open_pdf(str(shared_data / "pdf" / name), [])  # type: ignore[attr-defined]
        found = [judge(document.read(number)).route for number in range(1, document.page_count + 1)]
        document.close()
        return found

    for name in ("shifted-en", "shifted-fr", "removed-ru", "removed-ja"):
        assert set(routes(f"derived/tounicode-{name}.pdf")) == {"ocr"}, name
    for name in ("project-history.en", "project-history.fr", "project-history.ru", "project-history.ja", "refcard-a4"):
        assert set(routes(f"debian/{name}.pdf")) == {"text_layer"}, name
    assert set(routes("derived/scan-ko.pdf")) == {"ocr"}
    assert routes("ocr/blank.pdf") == ["blank"]


@pytest.mark.shared_data
def test_held_out_lines_of_every_language(shared_data: Path) -> None:
    generator = np.random.default_rng(4)
    caught = []
    for label, lines in labelled_lines(shared_data, "dev").items():
        text = "\n".join(lines[:12])[:400]
        assert judge(page(text)).route == "text_layer", label
        caught.append(judge(page(text.translate(mixed_alphabet([text], generator)))).route == "ocr")
    assert len(caught) == 119
    assert np.mean(caught) >= 0.97


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_model_is_what_its_command_makes(shared_data: Path) -> None:
    made, packaged = train(shared_data), letters.load()
    assert np.array_equal(made.triples, packaged.triples)
    assert np.array_equal(made.pairs, packaged.pairs)
    assert np.array_equal(made.classes, packaged.classes)
