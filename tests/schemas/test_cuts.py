"""Cuts against a plain loop over the bytes of each text."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cuts import CUTS, apply_cuts, merge_cuts
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


# --------------------------------------------------------------------------------------------------------- merging


def merged_by_hand(lists: list[list[dict]]) -> list[dict]:
    """Of one text: first overlaps, until there are none, then removals that touch."""
    cuts = sorted((cut for part in lists for cut in part), key=lambda cut: cut["begin"])
    for joins in (
        lambda a, b: b["begin"] < a["end"],
        lambda a, b: b["begin"] == a["end"] and not says(a) and not says(b),
    ):
        done: list[dict] = []
        for cut in cuts:
            if done and joins(done[-1], cut):
                speaker = cut if says(done[-1]) and not says(cut) else done[-1]
                done[-1] = speaker | {"begin": done[-1]["begin"], "end": max(done[-1]["end"], cut["end"])}
            else:
                done.append(cut)
        cuts = done
    return cuts


def says(cut: dict) -> bool:
    return bool(cut["replacement"])


@st.composite
def several(draw: st.DrawFn) -> tuple[str, list[list[dict]]]:
    """A text and three lists of cuts of it."""
    text = draw(st.text(alphabet="aé漢𝒳", max_size=12))
    lists = []
    for name in "abc":
        edges = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
        pairs = [pair for pair in zip(edges[::2], edges[1::2]) if pair[0] < pair[1]]
        borders = [[len(text[:edge].encode()) for edge in pair] for pair in pairs]
        cuts = [
            {"begin": begin, "end": end, "reason": f"{name}{number}", "replacement": draw(st.sampled_from(["", "x"]))}
            for number, (begin, end) in enumerate(borders)
        ]
        lists.append(cuts)
    return text, lists


@given(st.lists(several(), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2))
def test_merged_cuts_are_those_of_a_loop(table: list[tuple[str, list[list[dict]]]], used: int, begin: int) -> None:
    lists = [pa.array([cuts[number] for _, cuts in table], CUTS) for number in range(used)]
    done = merge_cuts(*(part.slice(begin) for part in lists))
    done.validate(full=True)
    assert done.type == CUTS
    assert done.to_pylist() == [merged_by_hand(cuts[:used]) for _, cuts in table[begin:]]
    texts = pa.array([text for text, _ in table[begin:]], pa.large_string())
    after = apply_cuts(texts, done).to_pylist()  # raises if they overlap
    for (text, cuts), result in zip(table[begin:], after):
        gone = {place for part in cuts[:used] for cut in part for place in range(cut["begin"], cut["end"])}
        left = bytes(byte for place, byte in enumerate(text.encode()) if place not in gone)
        assert result.replace("x", "").encode() == left


def test_what_a_removal_overlaps_is_gone() -> None:
    def cut(begin: int, end: int, reason: str, replacement: str = "") -> dict:
        return {"begin": begin, "end": end, "reason": reason, "replacement": replacement}

    masks = pa.array([[cut(2, 6, "pii.phone", "555"), cut(8, 9, "pii.ip", "::")], [cut(0, 1, "pii.ip", "::")]], CUTS)
    lines = pa.array([[cut(4, 8, "line"), cut(9, 10, "line")], []], CUTS)
    spans = pa.array([[cut(10, 12, "span")], []], CUTS)
    assert merge_cuts(masks, lines, spans).to_pylist() == [
        [cut(2, 8, "line"), cut(8, 9, "pii.ip", "::"), cut(9, 12, "line")],
        [cut(0, 1, "pii.ip", "::")],
    ]
