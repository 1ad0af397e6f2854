"""What documents repeat of one another, against plain loops over words and lines."""

import random
import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup import kernels, repeats

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
SPACELESS = r"[\p{Han}\p{Hiragana}\p{Thai}&&[\p{L}\p{M}\p{N}]]"
WORD = regex.compile(rf"(?V1){SPACELESS}|(?:(?!{SPACELESS})[\p{{L}}\p{{M}}\p{{N}}])+")


def numbered(texts: list[str]) -> np.ndarray:
    """Ids of texts: that of text i is smaller than that of text i + 1."""
    return np.array([[number, 0] for number in range(len(texts))], np.uint64).reshape(-1, 2)


def search(shards: list[list[int]], texts: list[str], size: int) -> dict[int, list[tuple[int, int, int]]]:
    """Begin, end (characters) and documents of the passages that each text repeats, by the steps of the stage."""
    ids = numbered(texts)
    mine = [[texts[number] for number in shard] for shard in shards]
    split = [kernels.split_words(shard) for shard in mine]
    all_passages = [repeats.passages(found, size) for found in split]
    anchors = np.concatenate([repeats.make_anchors(found, shard) for shard, found in enumerate(all_passages)])
    anchors = repeats.repeated(repeats.merge(anchors), 1)
    parts = []
    for shard, (found, some) in enumerate(zip(split, all_passages)):
        chosen = repeats.with_anchors(some, np.sort(anchors["hash"][anchors["shard"] == shard]))
        hashes = repeats.passage_hashes(found, chosen)
        parts.append(repeats.make_keys(hashes, chosen.texts, ids[shards[shard]], shard))
    known = repeats.repeated(np.concatenate(parts), 1)
    spans: dict[int, list[tuple[int, int, int]]] = {number: [] for number in range(len(texts))}
    for shard, numbers in enumerate(shards):
        own = known[known["shard"] == shard]
        for span in repeats.repeated_passages(mine[shard], split[shard], all_passages[shard], ids[numbers], own):
            number = numbers[span["row"]]
            data = texts[number].encode()
            begin, end = (len(data[:place].decode()) for place in (span["begin"], span["end"]))
            spans[number].append((begin, end, int(span["documents"])))
            check_sentences(texts[number], span)
    return spans


def check_sentences(text: str, span: Any) -> None:
    """What is to be cut is whole sentences, and no word that is not repeated."""
    data = text.encode()
    before, cut, after = data[: span["cut_begin"]], data[span["cut_begin"] : span["cut_end"]], data[span["cut_end"] :]
    if not cut:
        return
    borders = set(repeats.sentence_borders(text).tolist())
    assert {len(before.decode()), len((before + cut).decode())} <= borders
    assert not WORD.search(data[span["cut_begin"] : max(span["begin"], span["cut_begin"])].decode())
    assert not WORD.search(data[min(span["end"], span["cut_end"]) : span["cut_end"]].decode())
    assert after.decode() == data[span["cut_end"] :].decode()


def by_hand(texts: list[str], size: int) -> dict[int, list[tuple[int, int, int]]]:
    """All runs of words that weigh `size` of all texts; what is covered by those that an earlier text has too."""
    holders: dict[tuple[str, ...], set[int]] = {}
    places: list[list[tuple[tuple[str, ...], int, int]]] = []
    for number, text in enumerate(texts):
        found = list(WORD.finditer(text.lower()))
        places.append([])
        for first in range(len(found)):
            weight, last = 0, first
            while weight < 2 * size and last < len(found):
                weight += 1 if regex.fullmatch(rf"(?V1){SPACELESS}", found[last][0]) else 2
                last += 1
            if weight >= 2 * size:
                passage = tuple(match[0] for match in found[first:last])
                holders.setdefault(passage, set()).add(number)
                places[number].append((passage, first, last))
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for number, text in enumerate(texts):
        covered: dict[int, int] = {}
        for passage, first, last in places[number]:
            if min(holders[passage]) < number:
                for word in range(first, last):
                    covered[word] = max(covered.get(word, 0), len(holders[passage]))
        words = list(WORD.finditer(text.lower()))
        spans[number] = []
        for _, pairs in groupby(enumerate(sorted(covered)), lambda pair: pair[1] - pair[0]):
            run_of_words = [word for _, word in pairs]
            most = max(covered[word] for word in run_of_words)
            spans[number].append((words[run_of_words[0]].start(), words[run_of_words[-1]].end(), most))
    return spans


WORDS = st.sampled_from(["a", "b", "B", "cé", "漢", "か", "กี", "Der", "7"])
GAPS = st.sampled_from([" ", " ", " ", ". ", "\n", "。", "!\n\n", ", ", "  “"])
TEXTS = st.lists(st.tuples(WORDS, GAPS).map("".join), max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 7), st.randoms())
def test_passages_are_all_that_texts_share(texts: list[str], size: int, draw: random.Random) -> None:
    order = list(range(len(texts)))
    draw.shuffle(order)
    at = draw.randint(0, len(order))
    shards = [order[:at], order[at:]]
    assert search(shards, texts, size) == by_hand(texts, size)
    assert search([order], texts, size) == by_hand(texts, size)


# ------------------------------------------------------------------------------------------- lines and paragraphs


def line_places(text: str) -> Iterator[tuple[int, int, str]]:
    """Byte begin and end of each line, its feed included, and its text."""
    begin = 0
    for line in text.split("\n"):
        size = len(line.encode())
        yield begin, min(begin + size + 1, len(text.encode())), line
        begin += size + 1


def paragraph_places(text: str) -> Iterator[tuple[int, int, str]]:
    for blank, group in groupby(line_places(text), lambda line: not line[2].strip()):
        if not blank:
            lines = list(group)
            yield lines[0][0], lines[-1][1], "\n".join(line for _, _, line in lines)


def expected_lines(text: str, places: Callable[[str], Iterator[tuple[int, int, str]]]) -> list[tuple[int, int, str]]:
    folded = [(begin, end, " ".join(unicodedata.normalize("NFC", one).split())) for begin, end, one in places(text)]
    return [(begin, end, one) for begin, end, one in folded if WORD.search(one)]


LINED = st.text(alphabet="abé ̈漢.\n\t\r|", max_size=30) | st.lists(st.sampled_from("a b|\n\n."), max_size=9).map(
    "".join
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINED, max_size=6))
def test_lines_and_paragraphs_are_those_of_a_loop(texts: list[str]) -> None:
    names: dict[str, int] = {}
    for found, places in zip(repeats.lines_and_paragraphs(texts), (line_places, paragraph_places)):
        expected = [
            (number, begin, end, one)
            for number, text in enumerate(texts)
            for begin, end, one in expected_lines(text, places)
        ]
        assert found.texts.tolist() == [number for number, *_ in expected]
        assert found.begins.tolist() == [begin for _, begin, _, _ in expected]
        assert found.ends.tolist() == [end for _, _, end, _ in expected]
        assert found.few.tolist() == [few_words(one) for *_, one in expected]
        for (*_, one), number in zip(expected, found.hashes.tolist()):
            assert names.setdefault(one, number) == number
    assert len(set(names.values())) == len(names)


def few_words(line: str) -> bool:
    return sum(1 if regex.fullmatch(rf"(?V1){SPACELESS}", word) else 2 for word in WORD.findall(line)) < 6


def test_a_single_short_line_is_no_boilerplate_and_a_block_of_them_is() -> None:
    texts = ["Home\n\nNews | About\nA line of several words.\n\nReferences\nUnlike this.", "Home\nNews | About\n"]
    found, _ = repeats.lines_and_paragraphs(texts)
    names = {"Home": (0, 0), "News | About": (0, 1), "References": (0, 3)}
    known = np.zeros(3, repeats.KEY)
    known["hash"] = [found.hashes[found.texts == text][line] for text, line in names.values()]
    known["id"], known["documents"] = [7, 0], [5, 6, 9]
    known = known[np.argsort(known["hash"])]
    spans = repeats.repeated_lines(found, repeats.LINE, numbered(texts), known)
    cut = [(span["row"], texts[span["row"]][span["cut_begin"] : span["cut_end"]]) for span in spans]
    assert cut == [(0, "Home\n"), (0, "News | About\n"), (0, ""), (1, "Home\n"), (1, "News | About\n")]
    assert sorted(spans["documents"].tolist()) == [5, 5, 6, 6, 9]
    kept_here = repeats.repeated_lines(found, repeats.LINE, np.array([[7, 0], [8, 0]], np.uint64), known)
    assert set(kept_here["row"].tolist()) == {1}


# ------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! “Three?” Four", ["One. ", "Two! ", "“Three?” ", "Four"]),
        ("e.g. this is one, v1.2 too.", ["e.g. this is one, v1.2 too."]),
        ("一。二！」三", ["一。", "二！」", "三"]),
        ("एक। दो॥ तीन", ["एक। ", "दो॥ ", "तीन"]),
        ("wrapped in\nthe middle\nHeading\n\n- item", ["wrapped in\nthe middle\n", "Heading\n\n", "- item"]),
        ("ไทย คำ abc", ["ไทย ", "คำ abc"]),
        ("ሀ። ለ፧ مرحبا؟ سلام۔ ok", ["ሀ። ", "ለ፧ ", "مرحبا؟ ", "سلام۔ ok"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    borders = repeats.sentence_borders(text).tolist()
    assert [text[begin:end] for begin, end in pairwise(borders)] == sentences


ANY = st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.text(
    alphabet="e\u0301각\u1100\u1161\u11a8İΣ가か\u3099. "
)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_words_stand_where_they_are_found(text: str) -> None:
    begins, ends = repeats.word_places(text)
    assert len(begins) == len(ends) == len(kernels.split_words([text]).hashes)
    assert (begins < ends).all() and (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all()
    for begin, end in zip(begins.tolist(), ends.tolist()):
        assert len(kernels.split_words([text[begin:end]]).hashes) >= 1
