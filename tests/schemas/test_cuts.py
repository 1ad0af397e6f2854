"""Cuts against a plain loop over the bytes of each text."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cuts import CUTS, apply_cuts
from schemas.errors import DataError


def by_hand(text: str, cuts: list[dict]) -> str:
    data = text.encode()
    for cut in reversed(cuts):
        data = data[: cut["begin"]] + cut["replacement"].encode() + data[cut["end"] :]
    return data.decode()


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, list[dict]]:
    """A text and cuts between its characters."""
    text = draw(st.text(max_size=20))
    edges = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    borders = [len(text[:edge].encode()) for edge in edges]
    pairs = list(zip(borders[::2], borders[1::2]))
    return text, [
        {"begin": begin, "end": end, "reason": "test", "replacement": draw(st.text(max_size=5))} for begin, end in pairs
    ]


@given(st.lists(rows(), max_size=6), st.integers(0, 3), st.integers(0, 6))
def test_cuts_are_those_of_a_loop_over_bytes(table: list[tuple[str, list[dict]]], begin: int, size: int) -> None:
    texts = pa.array([text for text, _ in table], pa.large_string())
    cuts = pa.array([spans for _, spans in table], CUTS)
    expected = [by_hand(text, spans) for text, spans in table]
    done = apply_cuts(texts, cuts)
    done.validate(full=True)
    assert done.to_pylist() == expected
    assert texts.to_pylist() == [text for text, _ in table]
    assert apply_cuts(texts.slice(begin, size), cuts.slice(begin, size)).to_pylist() == expected[begin : begin + size]


@pytest.mark.parametrize(
    "spans",
    [[(0, 0)], [(0, 5)], [(2, 1)], [(-1, 1)], [(0, 2), (1, 3)], [(2, 3), (0, 1)], [(1, 2)], [(0, 1)], [(4, 9)]],
    ids=str,
)
def test_cuts_that_cannot_be_of_these_texts_are_refused(spans: list[tuple[int, int]]) -> None:
    cuts = [{"begin": begin, "end": end, "reason": "test", "replacement": ""} for begin, end in spans]
    with pytest.raises(DataError):
        apply_cuts(pa.array(["éab", "abc"], pa.large_string()), pa.array([cuts, []], CUTS))
