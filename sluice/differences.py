"""Two texts as one: which words stay, which go and which come.

Words that occur once in either text are anchors (patience diff, Bram Cohen). What lies between anchors is settled by
the longest common subsequence where it is short, and counts as replaced where it is long, so the time is linear in the
length of the texts but for sorting, whatever they hold.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sluice.text import printable

CHARACTERS = 6000  # of each text that are compared
CONTEXT = 12  # words around a change that are shown
PIECE_CHARACTERS = 1000
GAP_CELLS = 1 << 18  # words x words between two anchors up to which the longest common subsequence is sought
DEPTH = 16  # how often anchors are sought again between anchors

# A word with the space after it, so that most of what is compared means something. A character of a script that is
# written without spaces is a word.
_NO_SPACES = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[^\W_{_NO_SPACES}]+\s*|.\s*", re.DOTALL)


def word_difference(before: str, after: str, characters: int = CHARACTERS) -> list[tuple[str, str]]:
    """Pieces of text, each `same`, `out` or `in`, in order; of what stays the same only the words beside a change.

    No more than the first `characters` of each text are compared; where one goes on, a change at the end of what is
    compared says nothing and is left out. The pieces are printable.
    """
    pieces = _pieces(before, after, characters)
    ends = len(pieces) - 1
    shown = [
        (kind, _shortened(words, at == 0, at == ends and at > 0) if kind == "same" else "".join(words))
        for at, (kind, words) in enumerate(pieces)
    ]
    return [(kind, printable(text, PIECE_CHARACTERS)) for kind, text in shown]


def word_hunks(before: str, after: str, characters: int = CHARACTERS) -> list[list[tuple[str, str]]]:
    """The pieces of `word_difference` in groups: changes with the words beside them, apart from the next group by more.

    Texts that are the same have none.
    """
    hunks: list[list[tuple[str, str]]] = [[]]
    pieces = _pieces(before, after, characters)
    for at, (kind, words) in enumerate(pieces):
        if kind != "same" or (0 < at < len(pieces) - 1 and len(words) <= 2 * CONTEXT + 1):
            hunks[-1].append((kind, "".join(words)))
        else:
            if at > 0:
                hunks[-1].append((kind, "".join(words[:CONTEXT])))
                hunks.append([])
            if at < len(pieces) - 1:
                hunks[-1].append((kind, "".join(words[-CONTEXT:])))
    shown = [[(kind, printable(text, PIECE_CHARACTERS)) for kind, text in hunk] for hunk in hunks]
    return [hunk for hunk in shown if any(kind != "same" for kind, _ in hunk)]


def _pieces(before: str, after: str, characters: int) -> list[tuple[str, list[str]]]:
    """The words of both texts as pieces, none of them empty."""
    old, new = (_WORDS.findall(text[:characters]) for text in (before, after))
    pieces: list[tuple[str, list[str]]] = []
    left = right = 0
    for begin, there, length in [*common_runs(*_codes(old, new)), (len(old), len(new), 0)]:
        pieces += [("out", old[left:begin]), ("in", new[right:there]), ("same", old[begin : begin + length])]
        left, right = begin + length, there + length
    pieces = [(kind, words) for kind, words in pieces if words]
    if max(len(before), len(after)) > characters and any(kind == "same" for kind, _ in pieces):
        while pieces[-1][0] != "same":
            pieces.pop()
    return pieces


def common_words(one: str, other: str, least: int = 2) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Both texts as pieces, each `common` or `same`: what both have in the same order, at least `least` words of it.

    Case, punctuation and compatibility forms make no difference. The pieces are printable.
    """
    sides = [_WORDS.findall(text[:CHARACTERS]) for text in (one, other)]
    keys = [[_key(word) for word in words] for words in sides]
    places = [np.array([at for at, key in enumerate(side) if key], np.int64) for side in keys]
    codes = _codes(*([key for key in side if key] for side in keys))
    runs = common_runs(*codes)
    least = min(least, *map(len, codes))
    found = []
    for side, words in enumerate(sides):
        is_common = np.zeros(len(words), bool)
        for run in runs:
            if run[2] >= least:
                # From its first word to its last, whatever punctuation stands between.
                is_common[places[side][run[side]] : places[side][run[side] + run[2] - 1] + 1] = True
        found.append(_grouped(words, is_common))
    return found[0], found[1]


def _key(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(character for character in folded if character.isalnum())


def _grouped(words: Sequence[str], is_common: np.ndarray) -> list[tuple[str, str]]:
    begins = np.flatnonzero(np.append(True, is_common[1:] != is_common[:-1])[: len(words)]).tolist()
    pieces = []
    for begin, end in zip(begins, [*begins[1:], len(words)]):
        pieces.append(("common" if is_common[begin] else "same", printable("".join(words[begin:end]), CHARACTERS)))
    return pieces


def first_pieces(pieces: Sequence[tuple[str, str]], characters: int) -> list[tuple[str, str]]:
    """The pieces with which `characters` are full, and a sign that there are more."""
    found: list[tuple[str, str]] = []
    for kind, text in pieces:
        if characters <= 0:
            return [*found, ("same", " …")]
        found.append((kind, text))
        characters -= len(text)
    return found


def common_runs(old: np.ndarray, new: np.ndarray) -> list[tuple[int, int, int]]:
    """(place in `old`, place in `new`, length) of what two sequences of codes have in common, in order.

    Neighbours are joined: between two runs at least one of the sequences has something that the other has not.
    """
    found: list[tuple[int, int, int]] = []
    waiting = [(0, len(old), 0, len(new), 0)]
    while waiting:
        begin, end, left, right, depth = waiting.pop()
        size = _equal(old[begin:end], new[left:right])
        found.append((begin, left, size))
        begin, left = begin + size, left + size
        size = _equal(old[begin:end][::-1], new[left:right][::-1])
        found.append((end - size, right - size, size))
        end, right = end - size, right - size
        if begin == end or left == right:
            continue
        one, other = old[begin:end], new[left:right]
        anchors = _anchors(one, other) if depth < DEPTH else []
        if anchors:
            ends = [(-1, -1), *anchors, (end - begin, right - left)]
            for (a, b), (c, d) in pairwise(ends):
                # An anchor is the first word of what follows it, so that runs of anchors are found as one.
                waiting.append((begin + max(a, 0), begin + c, left + max(b, 0), left + d, depth + 1))
        elif len(one) * len(other) <= GAP_CELLS:
            found += [(begin + a, left + b, 1) for a, b in _subsequence(one, other)]
    return _joined(sorted(run for run in found if run[2]))


def _codes(old: Sequence[str], new: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The same number for the same word."""
    numbers: dict[str, int] = {}
    one, other = ([numbers.setdefault(word, len(numbers)) for word in words] for words in (old, new))
    return np.array(one, np.int64), np.array(other, np.int64)


def _equal(one: np.ndarray, other: np.ndarray) -> int:
    """How many of the first codes are the same."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(np.argmax(differs)) if differs.any() else size


def _anchors(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Places of codes that occur once in each: the longest list of them that is in order in both."""
    sides = []
    for codes in (one, other):
        values, places, counts = np.unique(codes, return_index=True, return_counts=True)
        sides.append((values[counts == 1], places[counts == 1]))
    _, here, there = np.intersect1d(sides[0][0], sides[1][0], assume_unique=True, return_indices=True)
    left, right = sides[0][1][here], sides[1][1][there]
    order = np.argsort(left)
    pairs = list(zip(left[order].tolist(), right[order].tolist()))
    tops: list[int] = []  # the smallest place at which an increasing list of each length ends
    last: list[int] = []  # the pair that ends it
    before: list[int] = []
    for number, (_, place) in enumerate(pairs):
        at = bisect_left(tops, place)
        before.append(last[at - 1] if at else -1)
        tops[at : at + 1], last[at : at + 1] = [place], [number]
    chosen = []
    number = last[-1] if last else -1
    while number >= 0:
        chosen.append(pairs[number])
        number = before[number]
    return chosen[::-1]


def _subsequence(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, in order; time and memory are len(one) * len(other)."""
    best = np.zeros((len(one) + 1, len(other) + 1), np.int32)  # [i, j]: of one[:i] and other[:j]
    for row, code in enumerate(one):
        longer = np.maximum(best[row, 1:], best[row, :-1] + (other == code))
        np.maximum.accumulate(longer, out=best[row + 1, 1:])
    places = []
    i, j = len(one), len(other)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            places.append((i, j))
    return places[::-1]


def _joined(runs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    joined: list[tuple[int, int, int]] = []
    for begin, left, size in runs:
        if joined and (begin, left) == (joined[-1][0] + joined[-1][2], joined[-1][1] + joined[-1][2]):
            joined[-1] = (*joined[-1][:2], joined[-1][2] + size)
        else:
            joined.append((begin, left, size))
    return joined


def _shortened(words: Sequence[str], first: bool, last: bool) -> str:
    head, tail = 0 if first else CONTEXT, 0 if last else CONTEXT
    if len(words) <= head + tail + 1:
        return "".join(words)
    return "".join(words[:head]) + " … " + "".join(words[len(words) - tail :])
