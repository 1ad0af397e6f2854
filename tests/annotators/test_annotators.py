"""What all annotators promise: the schema, the same rows however a batch is cut, and an answer for any text."""

import time
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.code import code_rows
from annotators.table import annotate, annotator
from annotators.text import chunks
from schemas.errors import ConfigError
from schemas.labels import ANNOTATORS, DOMAINS, check_sidecar
from schemas.languages import LABELS
from tests.annotators.documents import documents

STRANGE = [
    "",
    "x",
    "中",
    "\x00",
    "\x00 \x00\n\x00",
    "\n\n\n",
    "😀🎉👍🏽",
    "\u200f\u202e\u200f",
    "1234 5678",
    "\ufffd\ufffd",
    "e\u0301" * 3,
]
TEXTS = [
    *STRANGE,
    "The committee published its annual report on Tuesday, and the minister thanked everyone who had taken part.",
    "Die Gemeinde hat beschlossen, die alte Brücke im Frühling zu erneuern.",
    "def main():\n    return 0\n\nif __name__ == '__main__':\n    main()\n",
    "Call +49 30 1234567 or write to jane@example.org.\n" * 100,
]


@pytest.mark.parametrize("name", ANNOTATORS)
def test_rows_follow_the_schema_and_join_to_the_documents(name: str) -> None:
    batch = documents(TEXTS)
    labels = annotate(batch, [name])[name]
    labels.validate(full=True)
    assert labels.schema.equals(ANNOTATORS[name], check_metadata=True)
    check_sidecar(batch, labels)
    assert labels["id"].equals(batch["id"])
    assert set(labels["annotator"].to_pylist()) == {f"{name}/{annotator(name).VERSION}"}
    for field in labels.schema:
        assert field.nullable or labels[field.name].null_count == 0


@pytest.mark.parametrize("name", ANNOTATORS)
def test_empty_batch_gives_no_rows(name: str) -> None:
    labels = annotate(documents([]), [name])[name]
    assert labels.num_rows == 0
    assert labels.schema.equals(ANNOTATORS[name])


@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_batch_cut_differently_gives_the_same_rows(name: str) -> None:
    batch = documents(TEXTS)
    whole = annotate(batch, [name])[name]
    cuts = [batch.slice(0, 1), batch.slice(1, 9), batch.slice(10)]
    pieces = pa.Table.from_batches([annotate(cut, [name])[name] for cut in cuts])
    assert pieces.to_pylist() == whole.to_pylist()


@pytest.mark.parametrize("name", ANNOTATORS)
@given(texts=st.lists(st.text(max_size=80), max_size=4))
@settings(max_examples=25)
def test_any_text_gets_a_valid_label(name: str, texts: list[str]) -> None:
    for row in annotate(documents(texts), [name])[name].to_pylist():
        for column, value in row.items():
            if column.endswith("_score") and column != "educational_score" and value is not None:
                assert 0 <= value <= 1
        assert row.get("language", "und") in LABELS
        assert 0 <= row.get("language_margin", 0) <= row.get("language_score", 0)
        assert row.get("domain", "other") in DOMAINS
        assert 0 <= row.get("educational_score", 0) <= 5.001


@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_huge_line_takes_bounded_time(name: str) -> None:
    batch = documents(["word " * 1_000_000, "x" * 5_000_000, "/*" * 500_000, "a@a." * 250_000])
    annotate(batch.slice(0, 1), [name])
    started = time.process_time()
    annotate(batch, [name])
    assert time.process_time() - started < 10


def test_unknown_annotator_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="no annotator 'topic'; choose from language, quality"):
        annotator("topic")


@given(st.lists(st.integers(0, 12), max_size=30))
def test_chunks_are_all_texts_in_order_and_as_large_as_they_may_be(sizes: list[int]) -> None:
    found = list(chunks(sizes, 10))
    assert [size for chunk in found for size in sizes[chunk]] == sizes
    for chunk, following in pairwise(found):
        assert sum(sizes[chunk]) <= 10 or len(sizes[chunk]) == 1
        assert sum(sizes[chunk]) + sizes[following.start] > 10


def test_whether_a_document_is_code_is_told_of_the_batch_that_is_asked_about() -> None:
    prose, code = documents(["Some words."], ["a.txt"]), documents(["int x;"], ["a.c"])
    assert [code_rows(batch) for batch in (prose, code, code, prose)] == [(False,), (True,), (True,), (False,)]
