"""Fluency: the n-grams are those of the text, the model file holds what was trained, and damage is seen."""

import re
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators import fluency, fluency_train, table
from annotators.damage import delete_characters, misread, shuffle_characters, shuffle_inside_words, shuffle_words
from annotators.fluency import CELLS, Model, grams, normal_form, pack, packaged_model, unpack
from annotators.train import area_under_curve
from schemas.languages import LANGUAGES
from tests.annotators.documents import documents

EDGE = "\n"
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from(" \n\tabAB1é가\u200b")), max_size=40
)
REAL = {
    "eng_Latn": "The committee published its annual report on Tuesday, and the minister thanked everyone for coming.",
    "deu_Latn": "Die Gemeinde hat beschlossen, die alte Brücke im Frühling zu erneuern und den Weg zu verbreitern.",
    "rus_Cyrl": "Вчера вечером дети долго гуляли в парке, а потом вернулись домой и легли спать.",
    "hin_Deva": "कल शाम को बच्चे बहुत देर तक बाग में खेलते रहे और फिर घर लौट आए।",
    "kor_Hang": "어제 저녁에 아이들은 공원에서 오랫동안 놀다가 집으로 돌아왔습니다.",
    "arb_Arab": "نشرت اللجنة تقريرها السنوي يوم الثلاثاء وشكر الوزير جميع من شارك في العمل.",
}


def slow_form(text: str) -> str:
    """The normal form of a text, by the rules of the module's description."""
    decomposed = unicodedata.normalize("NFD", text)
    kept = "".join(one for one in decomposed if ord(one) not in fluency._DROPPED)
    runs = re.split(r"((?:(?!\S).)+)", kept.replace("\x1c", " "), flags=re.DOTALL)
    out = []
    for part, following in zip(runs, [*runs[1:], ""]):
        if part and part.isspace():
            part = EDGE if "\n" in part and unicodedata.category((following or " ")[0]) != "Ll" else " "
        out.append(part)
    return EDGE + "".join(out).strip(" \n") + EDGE


@given(texts=st.lists(TEXT, max_size=5))
def test_the_normal_form_is_the_described_one(texts: list[str]) -> None:
    texts = [re.sub(r"[\x1c-\x1f\x85]", "", text) for text in texts]  # white space for Python, not for its expressions
    codes, starts = normal_form(texts)
    found = ["".join(map(chr, codes[begin:end])) for begin, end in pairwise(starts)]
    top = fluency._TOP - 1
    assert found == ["".join(min(one, chr(top)) for one in slow_form(text)) for text in texts]


def test_composed_and_decomposed_text_is_the_same() -> None:
    text = "Tiếng Việt và 한국어"
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    codes = [normal_form([form])[0].tolist() for form in forms]
    assert codes[0] == codes[1]


def multiset(texts: list[str]) -> list[list[int]]:
    """The sorted cells of each text."""
    found = grams(texts)
    owner = np.repeat(np.arange(len(texts)), np.diff(found.starts))
    cells: list[list[int]] = [[] for _ in texts]
    for part, positions in found.parts():
        for cell, text in zip(part.tolist(), owner[positions].tolist()):
            cells[text].append(cell)
    return [sorted(one) for one in cells]


@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_no_gram_reaches_into_another_text(texts: list[str]) -> None:
    assert multiset(texts) == [multiset([text])[0] for text in texts]


def test_grams_are_counted_in_full() -> None:
    # Three words of three letters are 13 characters with the edges and spaces; 2 pairs of words in 4 forms.
    runs = sum(13 - order + 1 for order in range(1, fluency.ORDERS + 1))
    shapes = sum(13 - order + 1 for order in range(1, fluency.SHAPE_ORDERS + 1))
    assert len(multiset(["one two tri"])[0]) == runs + shapes + 3 + 2 * 4


def test_words_are_the_same_wherever_they_stand() -> None:
    def words(text: str) -> list[int]:
        codes, starts = normal_form([text])
        kinds = fluency._kinds()
        parts = list(fluency._words(kinds.folded[codes], kinds.word[codes], starts))
        return parts[0][0].tolist()

    first, second = words("harbour"), words("... the old Harbour")
    assert first[0] == second[-1]
    assert len(set(second)) == 3


weights = st.dictionaries(st.integers(0, CELLS - 1), st.integers(-7, 7), max_size=30)


@given(weights=weights)
def test_a_packed_model_is_the_same_model(weights: dict[int, int]) -> None:
    array = np.zeros(CELLS + 1, np.int8)
    array[list(weights)] = list(weights.values())
    back = unpack(pack("x", Model(array, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)), "x")
    assert np.array_equal(back.weights, array)
    assert tuple(vars(back).values())[1:] == (0.5, 1, 2, 3, 4, 5, 6)


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_sums_are_those_of_the_grams(texts: list[str]) -> None:
    model = packaged_model("deu_Latn")
    assert model is not None
    assert model.sums(grams(texts)).tolist() == [sum(int(model.weights[c]) for c in cells) for cells in multiset(texts)]


def test_training_gives_the_same_bytes_and_learns_the_order_of_characters() -> None:
    random = np.random.default_rng(0)
    words = ["kalo", "mire", "tosu", "nabe", "rilu", "vako", "semi", "dotu"]
    lines = [" ".join(random.choice(words, 8)).capitalize() + "." for _ in range(400)]
    models = [fluency_train.train(lines, ["a", "b"] * 200, "xxx_Latn") for _ in range(2)]
    packed = [pack("xxx_Latn", model) for model in models]
    assert all(np.array_equal(packed[0][name], packed[1][name]) for name in packed[0])
    new = [" ".join(random.choice(words, 8)).capitalize() + "." for _ in range(50)]
    bad = [shuffle_inside_words(line, random) for line in new]
    score = models[0].judge([*new, *bad])
    assert score[0, :50].min() > 0.5 > score[0, 50:].max()
    assert abs(score[1, :50].mean()) < 1


def test_there_is_a_model_of_each_language_and_the_file_is_small() -> None:
    arrays = fluency._archive(fluency.MODEL)
    assert {name.partition(".")[0] for name in arrays} == set(LANGUAGES)
    assert fluency.MODEL.stat().st_size <= 4.4e6
    for array in arrays.values():
        assert array.dtype.kind in "uif"  # no objects


@pytest.mark.parametrize("label", REAL)
def test_damage_lowers_both_figures(label: str) -> None:
    random = np.random.default_rng(3)
    text = REAL[label]
    copies = [
        shuffle_characters(text, random),
        shuffle_inside_words(text, random),
        delete_characters(text, 0.3, random),
        misread(text, "utf-8", "cp1252") if label != "eng_Latn" else text.encode().decode("utf-16-le", "replace"),
    ]
    score, deviation = fluency.fluency([text, *copies], [label] * 5)
    assert score[0] > 0.5
    assert deviation[0] > -2.5
    assert (score[1:] < 0.5).all()
    assert (deviation[1:] < deviation[0] - 1).all()


def test_what_has_no_language_has_no_fluency() -> None:
    texts = [REAL["eng_Latn"], REAL["deu_Latn"], REAL["rus_Cyrl"], " \n", "def main():\n    return 0\n\nmain()\n" * 9]
    labels = pa.record_batch({"language": ["eng_Latn", "other", "und", "eng_Latn", "eng_Latn"]})
    rows = fluency.annotate(documents(texts, ["a.txt"] * 4 + ["a.py"]), labels)
    for name in ("fluency_score", "fluency"):
        assert rows[name].is_valid().to_pylist() == [True, False, False, False, False]


def test_the_language_is_labelled_on_the_way() -> None:
    batch = documents([*REAL.values(), ""])
    alone = table.annotate(batch, ["fluency"])
    assert set(alone) == {"fluency", "language"}
    assert table.with_needs(["fluency", "quality"]) == ["fluency", "language", "quality"]
    given_labels = fluency.annotate(batch, table.annotate(batch, ["language"])["language"])
    assert alone["fluency"].equals(given_labels)


def test_time_is_bounded_for_one_huge_line() -> None:
    texts = ["x" * 50_000_000, "\u0301\u0323" * 3_000_000, "😀" * 3_000_000]
    batch = documents(texts)
    labels = pa.record_batch({"language": ["eng_Latn"] * 3})
    packaged_model("eng_Latn")
    started = time.process_time()
    rows = fluency.annotate(batch, labels)
    assert time.process_time() - started < 5
    assert rows["fluency"].null_count == 0


def test_strange_text_has_a_finite_figure() -> None:
    texts = ["\x00", "\ud800", "x", "\u200f\u202e.", "e\u0301" * 500, "\U0010ffff", "中", "1", "a\x00b"]
    found = fluency.fluency(texts, ["eng_Latn"] * len(texts))
    assert np.isfinite(found).all()
    assert ((found[0] >= 0) & (found[0] <= 1)).all()


@pytest.mark.shared_data
def test_dev_lines_stand_out_from_their_damaged_copies(shared_data: Path) -> None:
    random = np.random.default_rng(11)
    dev = pq.read_table(shared_data / "languages" / "dev.parquet").to_pylist()
    for label in ("ind_Latn", "ukr_Cyrl", "tam_Taml", "fin_Latn"):
        lines = [row["text"] for row in dev if row["label"] == label]
        score, deviation = fluency.fluency(lines, [label] * len(lines))
        assert abs(np.median(deviation)) < 0.5
        assert np.mean(score > 0.5) > 0.8
        for bar, damage in (
            (0.98, lambda text: shuffle_characters(text, random)),
            (0.95, lambda text: delete_characters(text, 0.25, random)),
            (0.70, lambda text: shuffle_words(text, random)),
        ):
            bad = fluency.fluency([damage(line) for line in lines], [label] * len(lines))[0]
            truth = np.arange(2 * len(lines)) < len(lines)
            assert area_under_curve(truth, np.r_[score, bad]) >= bar
