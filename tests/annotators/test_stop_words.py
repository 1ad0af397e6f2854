"""Stop words of a text's own language: how many there are, and how they are chosen."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.code import code_rows
from annotators.stop_words import annotate, count, stop_words
from annotators.stop_words_train import LEAST, MOST, choose
from annotators.table import annotator
from annotators.text import letters_only
from schemas.languages import LANGUAGES
from tests.annotators.documents import SHARED, documents


def counted(text, label):
    return count(letters_only([text]), [label])[0]


def test_words_count_once_and_in_their_own_language():
    assert counted("The cat is on the mat, and THE dog is not.", "eng_Latn") == 3  # the, is, and
    assert counted("Die Katze und der Hund, die Maus und der Floh", "deu_Latn") == 3
    assert counted("Thermal candles", "eng_Latn") == 0  # no part of a word counts
    assert counted("我的书在桌子上", "zho_Hans") == 2
    assert [counted("The cat and the dog", label) for label in ("other", "und", None)] == [None] * 3


@given(st.text(max_size=60), st.sampled_from(sorted(LANGUAGES)))
def test_any_text_has_from_none_to_all(text, label):
    assert 0 <= counted(text, label) <= len(stop_words()[label])


def test_code_and_text_in_no_language_have_null():
    texts = ["The cat is on the mat.", "The cat is on the mat.", "import os\n\nprint(os.name)\n"]
    batch = documents(texts, ["a.txt", "b.txt", "c.py"], [{}, {}, {"kind": "source"}])
    language = annotator("language").annotate(batch)
    labels = pa.array(["eng_Latn", "other", "eng_Latn"])
    language = language.set_column(language.schema.get_field_index("language"), "language", labels)
    assert list(code_rows(batch)) == [False, False, True]
    assert annotate(batch, language)["own_stop_words"].to_pylist() == [2, None, None]


def test_every_language_has_a_list_of_its_own():
    assert list(stop_words()) == sorted(LANGUAGES)
    for words in stop_words().values():
        assert LEAST <= len(words) == len(set(words)) <= MOST
        assert letters_only(list(words)) == list(words)


def rare(source, line):
    """Four words that no other line has: digits count for nothing."""
    spelt = "".join(chr(ord("a") + int(digit)) for digit in str(line))
    return " ".join(f"{source}{letter}{spelt}" for letter in "pqrs")


def test_a_word_of_one_source_is_no_stop_word():
    texts, sources = [], []
    for source, common in (("first", "sivu sivu sivu"), ("second", ""), ("third", "nimi nimi")):
        texts += [f"ja on ja {common} {rare(source, line)}" for line in range(200)]
        sources += [source] * 200
    words = choose(texts, "fin_Latn", sources)
    assert words[:2] == ["ja", "on"] and not {"sivu", "nimi"} & set(words)
    assert choose(texts[::-1], "fin_Latn", sources[::-1]) == words
    assert "sivu" in choose(texts[:200], "fin_Latn", sources[:200])


def test_scripts_without_spaces_have_letters_for_words():
    assert choose(["的书 的纸 的的"], "zho_Hans", ["a"])[0] == "的"
    assert choose(["ที่นี่ ที่นี่"], "tha_Thai", ["a"]) == ["ที่นี่"]  # two letters with their marks


@pytest.mark.shared_data
def test_text_has_two_and_text_of_another_language_rarely():
    import polars as pl

    lines = pl.read_parquet(SHARED / "languages" / "dev.parquet", columns=["text", "label"])
    texts, labels = [], []
    for (label,), part in lines.group_by("label", maintain_order=True):
        joined = part["text"].to_list()
        texts += ["\n".join(joined[at : at + 10]) for at in range(0, len(joined) - 9, 10)]
        labels += [label] * (len(joined) // 10)
    found = count(letters_only(texts), labels)
    assert sum(number < 2 for number in found) / len(found) < 0.005
    others = {"fin_Latn": "swh_Latn", "rus_Cyrl": "kaz_Cyrl", "hin_Deva": "tam_Taml", "deu_Latn": "ind_Latn"}
    swapped = [(text, others[label]) for text, label in zip(texts, labels) if label in others]
    found = count(letters_only([text for text, _ in swapped]), [label for _, label in swapped])
    assert sum(number >= 2 for number in found) / len(found) < 0.1
