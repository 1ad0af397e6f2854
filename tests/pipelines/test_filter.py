import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.filter.kernels import decide
from schemas.documents import DECISIONS
from schemas.errors import DataError
from schemas.labels import ANNOTATORS
from schemas.recipe import Filter


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
        zero = "" if pa.types.is_string(field.type) else 0
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


RULES = {"words": {"min": 10, "max": 100}, "mean_word_length": {"max": 8}}


def reasons_of(table):
    return table["reasons"].to_pylist()


def test_every_reason_that_fires_is_named_and_bounds_are_inclusive():
    found = labels([9, 10, 100, 101, 50], ["other"] * 5, scores=[0.9, 0.9, 0.3, 0.9, 0.1])
    decisions = decide(found, Filter(rules=RULES, code_rules={}, language_score=0.3))
    assert decisions.schema == DECISIONS
    # 0.3 is stored in 32 bits, a little above itself in 64
    assert reasons_of(decisions) == [["words.min"], [], [], ["words.max"], ["language_score.min"]]
    assert decisions["keep"].to_pylist() == [False, True, True, False, False]


def test_code_has_rules_of_its_own():
    found = labels([5, 5], ["code", "other"], languages=["und", "und"], scores=[0.0, 0.0])
    config = Filter(rules=RULES, code_rules={"words": {"max": 4}}, languages=["eng_Latn"])
    assert reasons_of(decide(found, config)) == [["words.max"], ["language", "language_score.min", "words.min"]]


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["code", "other"])), max_size=30))
def test_decisions_equal_a_plain_loop_and_do_not_depend_on_the_batch(rows):
    words, domains = [row[0] for row in rows], [row[1] for row in rows]
    config = Filter(rules={"words": {"min": 20, "max": 150}}, code_rules={"words": {"min": 100}})
    expected = []
    for count, domain in rows:
        low, high = (100, np.inf) if domain == "code" else (20, 150)
        expected.append(["words.max"] * (count > high) + ["words.min"] * (count < low))
    assert reasons_of(decide(labels(words, domains), config)) == expected


def test_sidecars_of_other_documents_are_refused():
    found = labels([50, 50], ["other"] * 2)
    found["domain"] = found["domain"].take([1, 0])
    with pytest.raises(DataError, match="row 0"):
        decide(found, Filter())
