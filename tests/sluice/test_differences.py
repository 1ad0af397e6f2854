"""Differences of texts against their own parts, and the longest common subsequence against a plain one."""

import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import differences
from sluice.differences import common_runs, word_difference
from sluice.text import printable

WORDS = st.lists(st.sampled_from(["alpha ", "beta, ", "12 ", "\n", "漢", "字", "(x) ", "e\u0301 ", "_ "]), max_size=60)
CODES = st.lists(st.integers(0, 12), max_size=40)


@given(WORDS, WORDS)
def test_a_difference_holds_all_that_changed(before, after):
    old, new = "".join(before), "".join(after)
    pieces = word_difference(old, new)
    whole = {
        "out": "".join(text for kind, text in pieces if kind != "in"),
        "in": "".join(text for kind, text in pieces if kind != "out"),
    }
    for kind, text in (("out", old), ("in", new)):
        pattern = ".*".join(re.escape(part) for part in whole[kind].split(" … "))
        assert re.fullmatch(pattern, printable(text, 10_000), re.DOTALL)
    if old == new:
        assert all(kind == "same" for kind, _ in pieces)


def longest_common(old, new):
    row = [0] * (len(new) + 1)
    for code in old:
        above = row[:]
        for at, other in enumerate(new):
            row[at + 1] = above[at] + 1 if code == other else max(above[at + 1], row[at])
    return row[-1]


@given(CODES, CODES)
def test_runs_are_common_in_order_and_apart(old, new):
    runs = common_runs(np.array(old, np.int64), np.array(new, np.int64))
    for begin, left, size in runs:
        assert size > 0 and old[begin : begin + size] == new[left : left + size]
    for (begin, left, size), (next_begin, next_left, _) in pairwise(runs):
        assert begin + size <= next_begin and left + size <= next_left
        assert (begin + size, left + size) != (next_begin, next_left)


@given(CODES, CODES)
def test_without_anchors_no_longer_subsequence_is_common(old, new):
    old, new = old + old, new + new  # no word occurs once
    runs = common_runs(np.array(old, np.int64), np.array(new, np.int64))
    assert sum(size for _, _, size in runs) == longest_common(old, new)


@pytest.mark.parametrize("edits", [1, 30, 400])
def test_long_texts_are_told_apart_by_their_edits_alone(edits):
    rng = np.random.default_rng(edits)
    old = rng.integers(0, 3000, 20_000)
    new, places = old.copy(), rng.choice(20_000, edits, replace=False)
    new[places] += 10_000
    runs = common_runs(old, new)
    assert sum(size for _, _, size in runs) >= 20_000 - 1.05 * edits
    assert not {place for begin, _, size in runs for place in range(begin, begin + size)} & set(places.tolist())


def test_a_difference_shows_only_words_beside_a_change():
    old = "one " * 200 + "wrong " + "two " * 200
    pieces = word_difference(old, old.replace("wrong", "right"))
    assert [kind for kind, _ in pieces] == ["same", "out", "in", "same"]
    assert pieces[0][1].count("one") == pieces[3][1].count("two") == differences.CONTEXT
    assert pieces[1:3] == [("out", "wrong "), ("in", "right ")]


def test_a_difference_of_hostile_text_takes_no_time():
    before = time.process_time()
    word_difference("a " * 50_000, "a b " * 50_000, 100_000)
    word_difference("ab" * 50_000, "\x00\n" * 50_000, 100_000)
    rng = np.random.default_rng(0)
    for letters in ("ab", "abcdefgh"):
        word_difference(*(" ".join(rng.choice(list(letters), 50_000)) for _ in range(2)), 100_000)
    ordered = [f"w{number}" for number in range(15_000)]
    word_difference(" ".join(ordered), " ".join(ordered[::-1]), 100_000)
    word_difference(" ".join(ordered), " ".join(rng.permutation(ordered)), 100_000)
    word_difference(" ".join(ordered), " ".join(word + " x" for word in ordered), 100_000)
    assert time.process_time() - before < 10
