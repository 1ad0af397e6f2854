"""The measures of the benchmark of language identification, on answers that are known."""

import polars as pl
import pytest

from annotators.language import script_shares
from benchmarks import language
from schemas.languages import LANGUAGES


def test_f1_is_that_of_its_definition() -> None:
    truth, given = ["a", "a", "a", "b", "b"], ["a", "a", "b", "b", "c"]
    found = language.f1(truth, given, ["a", "b", "c"])
    assert found == pytest.approx({"a": 0.8, "b": 0.5, "c": 0.0})  # precision 1, recall 2/3; 1/2 and 1/2; never right


def test_codes_are_those_of_the_same_language() -> None:
    known = frozenset({"en", "ar", "hbs", "hr", "no"})
    codes = {label: language.peer_code(label, known) for label in LANGUAGES}
    assert {label: code for label, code in codes.items() if code} == {
        "eng_Latn": "en", "arb_Arab": "ar", "bos_Latn": "hbs", "hrv_Latn": "hr", "srp_Cyrl": "hbs",
        "nob_Latn": "no",
    }  # fmt: skip
    assert language.peer_code("als_Latn", frozenset({"als", "sq"})) == "sq"  # `als` is Alemannic to lid.176


def test_pairs_of_mixed_documents_are_not_confusable() -> None:
    assert language.confusable("ind_Latn", "jav_Latn") and language.confusable("eng_Latn", "afr_Latn")
    assert not language.confusable("eng_Latn", "fra_Latn") and not language.confusable("srp_Cyrl", "hrv_Latn")


def test_documents_have_the_asked_size() -> None:
    lines = pl.DataFrame({"text": ["слово за слово", "one two three"], "label": ["rus_Cyrl", "eng_Latn"]})
    found = language.documents(lines, ("rus_Cyrl", "eng_Latn"), "\n")
    assert {len(text.encode()) for text in found} <= {999, 1_000} and len(found) == language.DOCUMENTS
    latin = script_shares(found)[:, 0]
    assert latin[1::2].min() == 1 and latin[0::2].max() == 0


def test_text_without_language_is_the_same_each_time() -> None:
    found = language.generated()
    assert all(len(texts) == 200 and all(map(str.strip, texts)) for texts in found.values())
    assert found == language.generated()
