import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.filter.kernels import decide
from schemas.documents import DECISIONS
from schemas.errors import DataError
from schemas.labels import ANNOTATORS
from schemas.recipe import Filter
from schemas.thresholds import Thresholds


def sidecar(name, rows, **columns):
    """A label sidecar with plain values; columns not named are zero or empty."""
    keys = {
        "document_id": [bytes([row]) * 16 for row in range(rows)],
        "id": [str(row) for row in range(rows)],
        "text_hash": [bytes([row]) * 16 for row in range(rows)],
        "annotator": [f"{name}/1"] * rows,
    }
    arrays = []
    for field in ANNOTATORS[name]:
        zero = "" if pa.types.is_string(field.type) else [] if pa.types.is_nested(field.type) else 0
        arrays.append(pa.array(keys.get(field.name) or columns.get(field.name) or [zero] * rows, field.type))
    return pa.table(arrays, schema=ANNOTATORS[name])


def labels(words, domains, languages=None, scores=None):
    rows = len(words)
    return {
        "quality": sidecar("quality", rows, words=words, mean_word_length=[5.0] * rows, alpha_word_ratio=[1.0] * rows),
        "domain": sidecar("domain", rows, domain=domains),
        "language": sidecar(
            "language", rows, language=languages or ["eng_Latn"] * rows, language_score=scores or [0.9] * rows
        ),
    }


def with_scripts(table, scripts):
    return table.set_column(table.schema.get_field_index("script"), "script", pa.array(scripts, pa.string()))


RULES = {"words": {"min": 10, "max": 100}, "mean_word_length": {"max": 8}}


def reasons_of(table):
    return table["reasons"].to_pylist()


def test_every_reason_that_fires_is_named_and_bounds_are_inclusive():
    found = labels([9, 10, 100, 101, 50], ["other"] * 5, scores=[0.9, 0.9, 0.3, 0.9, 0.1])
    decisions = decide(found, Filter(rules=RULES, code_rules={}, language_score=0.3), None)
    assert decisions.schema == DECISIONS
    # 0.3 is stored in 32 bits, a little above itself in 64
    assert reasons_of(decisions) == [["words.min"], [], [], ["words.max"], ["language_score.min"]]
    assert decisions["keep"].to_pylist() == [False, True, True, False, False]


def test_code_has_rules_of_its_own():
    found = labels([5, 5], ["code", "other"], languages=["und", "und"], scores=[0.0, 0.0])
    config = Filter(rules=RULES, code_rules={"words": {"max": 4}}, languages=["eng_Latn"])
    assert reasons_of(decide(found, config, None)) == [["words.max"], ["language", "language_score.min", "words.min"]]


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["code", "other"])), max_size=30))
def test_decisions_equal_a_plain_loop_and_do_not_depend_on_the_batch(rows):
    words, domains = [row[0] for row in rows], [row[1] for row in rows]
    config = Filter(rules={"words": {"min": 20, "max": 150}}, code_rules={"words": {"min": 100}})
    expected = []
    for count, domain in rows:
        low, high = (100, np.inf) if domain == "code" else (20, 150)
        expected.append(["words.max"] * (count > high) + ["words.min"] * (count < low))
    assert reasons_of(decide(labels(words, domains), config, None)) == expected


def test_sidecars_of_other_documents_are_refused():
    found = labels([50, 50], ["other"] * 2)
    found["domain"] = found["domain"].take([1, 0])
    with pytest.raises(DataError, match="row 0"):
        decide(found, Filter(), None)


def thresholds(default, **languages):
    """Bounds of mean_word_length and words; a key of four letters is a script."""
    parts = {4: {}, 8: {}}
    for key, bounds in languages.items():
        parts[len(key)][key] = {"bounds": bounds}
    return Thresholds(format=1, unit="document", documents=0, default=default, scripts=parts[4], languages=parts[8])


def test_a_document_is_judged_by_its_language_then_its_script_then_the_default():
    found = labels([50] * 6, ["other"] * 6, ["deu_Latn", "fra_Latn", "rus_Cyrl", "other", "und", "eng_Latn"])
    script = ["Latn", "Latn", "Cyrl", "Latn", "Zyyy", "Latn"]
    found["language"] = with_scripts(found["language"], script)
    bounds = thresholds({"words": {"min": 51}}, Latn={"words": {"min": 50}}, deu_Latn={"words": {"min": 52}})
    fired = reasons_of(decide(found, Filter(), bounds))
    assert fired == [["words.min"], [], ["words.min"], [], ["words.min"], []]


def test_rules_win_over_the_thresholds_of_every_language_and_null_takes_them_away():
    bounds = thresholds(
        {"words": {"min": 100}, "mean_word_length": {"max": 4}, "language_score": {"min": 0.95}},
        deu_Latn={"words": {"min": 60}},
    )
    found = labels([50, 70], ["other"] * 2, ["deu_Latn", "eng_Latn"])
    everything = ["language_score.min", "mean_word_length.max", "words.min"]
    assert reasons_of(decide(found, Filter(), bounds)) == [everything, everything]
    rules = {"words": {"max": 60}, "mean_word_length": None}
    assert reasons_of(decide(found, Filter(rules=rules), bounds)) == [
        ["language_score.min"],
        ["language_score.min", "words.max"],
    ]
    assert reasons_of(decide(found, Filter(rules=rules, language_score=0.5), bounds)) == [[], ["words.max"]]
    off = {**rules, "language_score": None}
    assert reasons_of(decide(found, Filter(rules=off), bounds)) == [[], ["words.max"]]


def test_thresholds_do_not_judge_code():
    found = labels([5, 5], ["code", "other"], languages=["und", "und"], scores=[0.0, 0.0])
    fired = reasons_of(decide(found, Filter(code_rules={}), thresholds({"words": {"min": 50}})))
    assert fired == [[], ["language_score.min", "words.min"]]


KEYS = ["deu_Latn", "hin_Deva", "zho_Hant", "jpn_Jpan", "other", "und"]
SIDES = st.dictionaries(st.sampled_from(["words", "mean_word_length"]), st.integers(0, 9), max_size=2)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from(["Latn", "Hani", "Zyyy"]), st.integers(0, 9)), max_size=20
    ),
    st.dictionaries(st.sampled_from(["deu_Latn", "hin_Deva", "zho_Hant", "Latn", "Hani"]), SIDES),
    SIDES,
    SIDES,
)
def test_every_row_gets_the_bounds_that_a_plain_search_finds(rows, fitted, default, rules):
    def ranges(sides):
        return {column: {"min": low, "max": low + 3} for column, low in sides.items()}

    bounds = thresholds(ranges(default), **{key: ranges(sides) for key, sides in fitted.items()})
    found = labels([row[2] for row in rows], ["other"] * len(rows), [row[0] for row in rows])
    scripts = [row[1] for row in rows]
    found["language"] = with_scripts(found["language"], scripts)
    expected = []
    for label, script, words in rows:
        own = {"zho_Hant": "Hani", "jpn_Jpan": "Jpan"}.get(label, label[4:]) if "_" in label else script
        fired = []
        for column, value in (("mean_word_length", 5.0), ("words", words)):
            places = [rules, fitted.get(label, {}), fitted.get(own, {}), default]
            low = next((sides[column] for sides in places if column in sides), None)
            if low is not None:
                fired += [f"{column}.max"] * (value > low + 3) + [f"{column}.min"] * (value < low)
        expected.append(fired)
    assert reasons_of(decide(found, Filter(rules=ranges(rules)), bounds)) == expected
