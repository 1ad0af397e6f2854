from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import language
from annotators.language import SCRIPTS, annotate, identify, script_shares
from annotators.train import class_figures
from schemas.labels import check_sidecar
from tests.annotators.documents import SHARED, documents, needs_shared_data

SENTENCES = {
    "eng_Latn": "The children walked home through the rain because the last bus had already left the village.",
    "deu_Latn": "Gestern haben wir den ganzen Abend auf den Zug gewartet, aber er ist nicht gekommen.",
    "fra_Latn": "Nous avons oublié nos clés dans la voiture et il a fallu appeler un serrurier.",
    "spa_Latn": "Mañana por la tarde iremos al mercado para comprar naranjas y un poco de pan.",
    "pol_Latn": "Wczoraj wieczorem poszliśmy do kina, ale wszystkie bilety były już sprzedane.",
    "rus_Cyrl": "Вчера вечером мы долго ждали автобус, а потом решили идти домой пешком.",
    "ell_Grek": "Το βράδυ φάγαμε ψάρι σε μια μικρή ταβέρνα δίπλα στη θάλασσα.",
    "hin_Deva": "कल सुबह हम बाज़ार जाएँगे और बच्चों के लिए नई किताबें खरीदेंगे।",
    "zho_Hans": "昨天晚上我们在河边散步，后来下雨了，大家都跑回家去了。",
    "jpn_Jpan": "昨日の夜、友達と一緒に駅前の小さな店でラーメンを食べました。",
    "kor_Hang": "어제 저녁에 친구들과 함께 강가를 산책하다가 비가 와서 집으로 돌아왔다.",
    "tur_Latn": "Dün akşam arkadaşlarımla birlikte deniz kenarında uzun bir yürüyüş yaptık.",
    "swh_Latn": "Jana jioni tulikwenda sokoni kununua matunda na samaki kwa ajili ya wageni wetu.",
    "tha_Thai": "เมื่อวานนี้เราไปตลาดเพื่อซื้อผลไม้และปลาสดสำหรับอาหารเย็น",
}


def test_obvious_sentences() -> None:
    found = identify(list(SENTENCES.values()))
    assert found["language"] == list(SENTENCES)
    assert min(found["language_score"]) > 0.5
    scripts = {"Hans": "Hani"}
    assert found["script"] == [scripts.get(label[4:], label[4:]) for label in SENTENCES]


@pytest.mark.parametrize("text", ["", "a", "ok", "12:30", "😀😀", "\u200f\u200f", "\x00\x00\x00"])
def test_too_few_letters_are_undetermined(text: str) -> None:
    found = identify([text])
    assert found["language"] == ["und"]
    assert found["language_score"] == found["language_margin"] == [0.0]


@pytest.mark.parametrize("text", ["ሰላም ለዓለም ሁሉ ይሁን እንዴት ነህ", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᏂᏴᏫᏯ", "ꆈꌠꉙ ꉬ ꊈ ꆈꌠꁱꂷ ꉬ"])
def test_a_script_of_no_label_is_another_language(text: str) -> None:
    assert identify([text])["language"] == ["other"]


def test_script_is_that_of_most_letters() -> None:
    texts = ["abc абвгд", "漢字 test", "ひらがなと漢字漢字", "123", "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字の"]
    assert identify(texts)["script"] == ["Cyrl", "Latn", "Jpan", "Zyyy", "Hani"]


@given(st.lists(st.text("aБあ漢中ไ한नि\u0301 1\n\r😀ሰ𐌰", max_size=40), min_size=1, max_size=5))
def test_shares_of_scripts_are_those_of_the_letters_one_by_one(texts: list[str]) -> None:
    kana, han = list(SCRIPTS).index("Jpan"), list(SCRIPTS).index("Hani")
    for text, found in zip(texts, script_shares(texts)):
        expected = [0] * (len(SCRIPTS) + 1)
        for letter in regex.findall(r"\p{L}", text):
            names = [regex.match(rf"[\p{{{name}}}]", letter) is not None for name in SCRIPTS.values()]
            expected[names.index(True) if any(names) else -1] += 1
        if expected[kana] and 10 * expected[kana] >= expected[kana] + expected[han]:
            expected[kana], expected[han] = expected[kana] + expected[han], 0
        assert found == pytest.approx([count / max(1, sum(expected)) for count in expected])


def test_source_code_has_the_language_of_its_comments() -> None:
    code = "# Diese Funktion liest alle Zeilen der Datei und gibt sie sortiert zurück.\ndef read(path):\n    pass\n"
    batch = documents([code, "int main(void) { return 0; }\n"], ["read.py", "main.c"])
    labels = annotate(batch)
    check_sidecar(batch, labels)
    assert labels["language"].to_pylist() == ["deu_Latn", "und"]


@pytest.mark.shared_data
@needs_shared_data
def test_macro_f1_on_the_development_lines() -> None:
    lines = pq.read_table(SHARED / "languages" / "dev.parquet", columns=["text", "label"]).slice(0, 5000)
    found = identify(lines["text"].to_pylist())
    assert class_figures(lines["label"].to_pylist(), found["language"])["macro_f1"] >= 0.93


@pytest.mark.parametrize("between", ["\n", "\n\n", "\r\n"])
def test_a_mixed_document_has_both_languages_and_its_paragraphs_say_where(between: str) -> None:
    german = " ".join([SENTENCES["deu_Latn"]] * 3)
    russian = " ".join([SENTENCES["rus_Cyrl"]] * 2)
    text = f"{german}{between}{russian}\n"
    found = identify([text])
    shares = {item["language"]: item["share"] for item in found["languages"][0].as_py()}
    assert list(shares) == ["deu_Latn", "rus_Cyrl"]
    assert sum(shares.values()) == pytest.approx(1)
    places = found["paragraphs"][0].as_py()
    assert [place["language"] for place in places if place["language"] != "und"] == ["deu_Latn", "rus_Cyrl"]
    content = text.encode()
    assert content[places[0]["begin"] : places[0]["end"]].decode().strip() == german
    assert content[places[1]["begin"] : places[1]["end"]].decode().strip() == russian
    assert found["language"] == ["deu_Latn"]
    assert shares["deu_Latn"] > found["language_margin"][0]


@settings(max_examples=40)
@given(st.lists(st.sampled_from([*SENTENCES.values(), "", "x", "123", "e\u0301", "\u2028", "\r"]), max_size=12))
def test_paragraphs_tile_the_lines_of_a_document(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = identify([text, "A line of another document that stands after it."])
    places = found["paragraphs"][0].as_py()
    content = text.encode()
    assert places[0]["begin"] == 0
    assert places[-1]["end"] == len(content)
    for place, following in pairwise(places):
        assert following["begin"] == place["end"] + 1
        assert content[place["end"] : place["end"] + 1] == b"\n"
    shares = [item["share"] for item in found["languages"][0].as_py()]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= place["margin"] <= place["score"] <= 1 for place in places)


def test_documents_do_not_change_one_another() -> None:
    texts = [*SENTENCES.values(), "", "a\n\nb"]
    together = identify(texts)
    for number, text in enumerate(texts):
        alone = identify([text])
        assert alone["language"][0] == together["language"][number]
        assert alone["language_score"][0] == pytest.approx(together["language_score"][number], abs=1e-5)
        assert alone["paragraphs"][0].as_py()[0]["end"] == together["paragraphs"][number].as_py()[0]["end"]


def test_of_a_long_document_stretches_are_read() -> None:
    text = f"{SENTENCES['deu_Latn']}\n" * 5_000 + f"{SENTENCES['rus_Cyrl']}\n" * 2_500
    found = identify([text])
    shares = {item["language"]: item["share"] for item in found["languages"][0].as_py()}
    assert shares == {"deu_Latn": pytest.approx(0.7, abs=0.1), "rus_Cyrl": pytest.approx(0.3, abs=0.1)}
    last = found["paragraphs"][0].as_py()[-2]
    assert text.encode()[last["begin"] : last["end"]].decode() in text.split("\n")


def test_of_a_long_paragraph_stretches_are_read() -> None:
    text = " ".join([SENTENCES["deu_Latn"]] * 10 + [SENTENCES["pol_Latn"]] * 6)
    codes, feeds = language.fold(language.characters(f"abc\n{text}\n{text}x\nd\n")), [3, 4 + len(text)]
    feeds = np.array([*feeds, feeds[1] + len(text) + 2, feeds[1] + len(text) + 4])
    thinned, ends = language._thinned(codes.copy(), feeds, np.array([0, 2, 3]))
    sizes = np.diff(ends, prepend=-1) - 1
    assert sizes[0] == 3 and sizes[3] == 1 and thinned[ends[[0, 2, 3]]].tolist() == [0] * 3
    assert 0 <= sizes[1:3].sum() - 2 * len(text) / 4 <= language.PARAGRAPH // 4
    found = identify([text, f"{text}\n{SENTENCES['rus_Cyrl']}"])
    assert found["language"] == ["deu_Latn"] * 2
    assert [item["language"] for item in found["paragraphs"][1].as_py()] == ["deu_Latn", "rus_Cyrl"]
    assert found["paragraphs"][0][0]["end"].as_py() == len(text.encode())


@given(st.lists(st.text("ab漢 ", max_size=1500), min_size=1, max_size=5), st.integers(1, 3))
def test_short_paragraphs_are_read_whole_and_of_long_ones_a_quarter_at_least(lines: list[str], together: int) -> None:
    codes = language.fold(language.characters("\n".join([*lines, ""])))
    feeds = np.cumsum([len(line) + 1 for line in lines]) - 1
    last = np.unique([*range(together - 1, len(lines), together), len(lines) - 1])
    thinned, ends = language._thinned(codes.copy(), feeds, last)
    before = np.diff(feeds[last], prepend=-1)
    after = np.diff(ends[last], prepend=-1)
    for begin, end, size, left in zip(
        np.append(0, feeds[last] + 1), np.append(0, ends[last] + 1), before.tolist(), after.tolist()
    ):
        if size <= language.PARAGRAPH:
            assert left == size and (thinned[end : end + left] == codes[begin : begin + size]).all()
        else:
            assert max(language.PARAGRAPH, size / 4) <= left < size


@pytest.mark.parametrize(
    "text",
    [
        "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } return sum / (double) n;",
        "SGVsbG8gd29ybGQhIFRoaXMgaXMgYSB0ZXN0IG9mIGJhc2U2NCB0ZXh0IHRoYXQgc2F5cyBub3RoaW5n",
        "2024-01-01 12.5 17.25 -3.0\n2024-01-02 13.1 16.75 -2.5\n2024-01-03 11.9 18.00 -4.0",
        '<div class="row"><span id="x1"></span><td><a href="#"></a></td></div>',
        "3f786850e387550fdab836ed7e6dc881de23001b 89e6c98d92887913cadf06b2adb97f26cde4849b",
    ],
)
def test_what_is_no_language_gets_none_of_the_labels(text: str) -> None:
    assert identify([text])["language"][0] in ("other", "und")


def test_marks_tell_source_code_from_the_same_words_of_english() -> None:
    texts = ["Machine learning models need data.", "Read user email address and return value"]
    code = ["machine.learning(models)[need] = {data};", "read(user.email, {'address': &return_value});"]
    assert identify(texts)["language"] == ["eng_Latn"] * 2
    assert identify(code)["language"] == ["other"] * 2


def test_english_counts_more_than_other_languages_and_changes_nothing_between_them(monkeypatch):
    texts = ["The report is due on Monday.", "Vi ses i morgen, min ven.", "Мы увидимся завтра."]
    counted = next(language.label(language.packaged(), texts)).documents
    monkeypatch.setattr(language, "ENGLISH", 1.0)
    alike = next(language.label(language.packaged(), texts)).documents
    english = language.NAMES.tolist().index("eng_Latn")
    assert alike.label[0] == counted.label[0] == english
    odds = [answers.score / (1 - answers.score) for answers in (counted, alike)]
    assert odds[0][0] == pytest.approx(3 * odds[1][0], rel=1e-3)
    assert counted.label[2] == alike.label[2] != english
    assert counted.score[2] == pytest.approx(alike.score[2], abs=1e-6)  # no letters of its script, no English
    assert counted.score[1] <= alike.score[1] and counted.label[1] == alike.label[1]


ENGLISH_TEXT = "The committee will meet again on Thursday to discuss the proposal in more detail with all members."
FRENCH_TEXT = "Le comité se réunira de nouveau jeudi pour discuter de la proposition avec tous les membres."
ROMANIAN_TEXT = "Comitetul se va întruni din nou joi pentru a discuta propunerea cu toți membrii săi."


def test_a_document_in_many_languages_has_the_label_of_the_first_among_them():
    found = identify(["\n\n".join([ENGLISH_TEXT, FRENCH_TEXT, ROMANIAN_TEXT])])
    shares = {item["language"] for item in found["languages"][0].as_py()}
    assert shares == {"eng_Latn", "fra_Latn", "ron_Latn"} and found["language"][0] == "eng_Latn"


def test_addresses_are_not_read():
    address = "http://www.example.org/50SITES/index.asp?x=kjhkjh&asd=qweqwe"
    found = identify(
        [f"{ENGLISH_TEXT}\n{address}\n{address}\n{address}", address, f"詳しくは{address}をご覧ください。", "://"]
    )
    assert found["language"] == ["eng_Latn", "und", "jpn_Jpan", "und"]
    assert found["language_score"][0] > 0.95
