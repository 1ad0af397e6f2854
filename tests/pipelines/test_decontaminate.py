import gzip
import json
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.decontaminate import kernels, normal
from pipelines.decontaminate.benchmarks import Fields, Item, find_benchmarks, read_benchmark
from pipelines.decontaminate.stage import run
from schemas.cuts import CUT_FILE, apply_cuts
from schemas.documents import CONTAMINATION_MATCHES
from schemas.errors import ConfigError
from schemas.job import Job
from schemas.labels import check_sidecar
from schemas.recipe import Decontaminate
from schemas.tables import read_table, write_table

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "benchmarks" / "gsm8k_test.jsonl.zst"
DEFAULT = Fields(Decontaminate().question, Decontaminate().choices, Decontaminate().answer)
ITEM = (
    "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg."
)


def filler(seed: int, words: int = 80) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("bcdfghjklm", k=7)) for _ in range(words))


def made_item(words: int, seed: int = 5) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("aeioustrnl", k=8)) for _ in range(words))


def index_of(*items: str | Item, ngram: int = 13) -> kernels.Index:
    named = [Item(item) if isinstance(item, str) else item for item in items]
    return kernels.build_index({"quiz": named}, ngram)[0]


def best(index: kernels.Index, text: str, overlap: float = 0.5) -> dict[int, tuple[str, float, bool]]:
    """Of each item with a candidate in the text: part, ratio and whether it is a leak, of its best place."""
    found = kernels.find(index, [text])
    verdict = kernels.judge(index, index.own, found, overlap)
    result: dict[int, tuple[str, float, bool]] = {}
    for place in np.lexsort((verdict.ratios, verdict.leaks)).tolist():
        number = int(index.numbers[found.items[place]])
        part = kernels.PARTS[verdict.parts[place]]
        result[number] = (part, float(verdict.ratios[place]), bool(verdict.leaks[place]))
    return result


def leaks(index: kernels.Index, text: str) -> list[int]:
    return sorted(number for number, (_, _, leak) in best(index, text).items() if leak)


# -------------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize(
    "text",
    [
        ITEM,
        ITEM.upper(),
        regex.sub(r"[^\w\s]", " ", ITEM),
        ITEM.replace(" ", "\n    "),
        filler(1) + "\nQ: " + ITEM + " A: " + filler(2),
        "|".join(ITEM.split()),
        unicodedata.normalize("NFD", ITEM).replace("fresh", "ｆｒｅｓｈ").replace("farmers'", "farmers’"),
        ITEM.replace("remainder", "re\u00admain\u200bder").replace(" ", "\u00a0"),
        ITEM.replace("remainder", "remain-\n  der").replace("breakfast", "break-\r\nfast"),
    ],
    ids=["same", "upper", "no punctuation", "wrapped", "inside", "table", "compatibility", "unseen", "divided"],
)
def test_an_item_is_found_whatever_it_looks_like(text: str) -> None:
    assert best(index_of(ITEM, filler(3)), text) == {0: ("question", 1.0, True)}


def test_no_changed_word_hides_an_item() -> None:
    for size in (13, 14, 15, 16, 19, 20, 25, 26, 27, 39):
        words = made_item(size).split()
        index = index_of(" ".join(words))
        for place in range(size):
            text = " ".join([*words[:place], "instead", *words[place + 1 :]])
            ((_, ratio, leak),) = best(index, f"{filler(1)} {text} {filler(2)}").values()
            assert leak and ratio >= (size - min(max(size // 4, 3), 6)) / size


def test_question_alone_answer_and_any_order_of_choices_are_found() -> None:
    question, answer, *choices = (made_item(size, seed) for seed, size in enumerate((15, 20, 8, 9, 10, 8, 9, 10)))
    index = index_of(Item(question, answer, "\n".join(choices)))
    assert best(index, question) == {0: ("question", 1.0, True)}
    assert best(index, f"{question} {filler(1, 5)} {answer}")[0] == ("question", 1.0, True)
    half = " ".join(question.split()[:13])
    assert best(index, f"{half} {answer}")[0] == ("answer", 33 / 35, True)
    assert leaks(index, half) == []
    assert leaks(index_of(Item(question, answer)), half) == [0]
    shuffled = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEF", choices[::-1]))
    assert best(index, f"{shuffled}\n{half}\n{answer}")[0] == ("item", 87 / 89, True)
    assert leaks(index, f"{shuffled}\n{' '.join(question.split()[:6])}\n{answer}") == []  # choices of another question
    assert leaks(index, choices[0] + filler(2) + choices[1]) == []


def test_a_part_of_an_item_counts_as_its_share_and_never_for_less_than_n_words() -> None:
    words = made_item(40).split()
    index = index_of(" ".join(words))
    assert best(index, " ".join(words[:20])) == {0: ("item", 0.5, True)}
    assert best(index, " ".join(words[:19])) == {0: ("question", 19 / 40, False)}
    assert best(index, " ".join(words[:12])) == {}
    assert best(index, " ".join(words[::-1])) == {}
    few = index_of(" ".join(words[:20]))
    assert best(few, " ".join(words[:12])) == {0: ("question", 12 / 20, False)}
    assert best(few, " ".join(words[:13])) == {0: ("item", 13 / 20, True)}
    assert best(few, " ".join([*words[:6], "x", *words[7:13]])) == {}


def test_words_far_from_a_candidate_do_not_count() -> None:
    words = made_item(30).split()
    text = " ".join(words[:14]) + " " + filler(1, 100) + " " + " ".join(words[16:])
    found = kernels.find(index_of(" ".join(words)), [text])
    assert np.diff(found.item_offsets).tolist() == [14, 14]


def test_how_far_from_a_candidate_words_count() -> None:
    words = made_item(30).split()
    index = index_of(" ".join(words))
    for gap, held in ((33, 25), (34, 24), (41, 17), (42, 14)):  # 13 and 15 words from where the item would end
        text = " ".join([*words[:14], *filler(1, gap).split(), *words[16:27]])
        assert len(kernels.find(index, [text]).item_words) == held


def test_short_stretches_and_an_answer_without_its_question_do_not_count() -> None:
    words = made_item(60).split()
    index = index_of(" ".join(words))
    pieces = [words[:13], words[14:20], words[21:26], words[27:31], words[40:43]]
    assert best(index, " x ".join(map(" ".join, pieces))) == {0: ("question", 19 / 60, False)}
    question, answer, choices = made_item(14), made_item(50, 6), made_item(30, 7)
    index = index_of(Item(question, answer, choices))
    assert leaks(index, answer) == [] and leaks(index, f"{answer} {choices}") == []
    assert leaks(index, f"{' '.join(question.split()[:7])} {answer}") == [0]


def test_short_items_are_found_whole_or_not_at_all() -> None:
    items = ["Name the capital of France.", "too short really", "中国的首都是哪里呢", "首都是哪里", "", "¿¡!?"]
    index, report = kernels.build_index(
        {"geo": [Item(item, "Paris") for item in items[:1]] + [*map(Item, items[1:])]}, 13
    )
    assert report == {"geo": {"items": 6, "too_short": 4, "formulaic": 0, "short": 2, "long": 0}}
    assert leaks(index, "please NAME the\ncapital of: france!") == [0]
    assert leaks(index, "name the capital of Italy") == []
    assert leaks(index, "请问：中国的首都是哪里呢？") == [2]
    assert leaks(index, "name the capital of") == []
    twice = index_of(Item("Which one is right?", "the red house"), Item("Which one is right?", "a blue house"))
    assert leaks(twice, "which one is right?") == []
    assert leaks(twice, "Which one is right? A blue house!") == [1]


def test_a_run_of_words_does_not_cross_from_one_text_to_the_next() -> None:
    index = index_of("name the capital of france", made_item(30))
    words = made_item(30).split()
    texts = [
        "name the capital",
        "of france",
        "",
        " ".join(words[:12]),
        " ".join(words[12:24]),
        "name the capital of france",
    ]
    assert kernels.find(index, texts).texts.tolist() == [5]
    assert len(kernels.find(index, [])) == 0


def test_formulas_of_a_benchmark_do_not_count() -> None:
    rule = "Choose the best answer to the following question and explain step by step why it is the best one."
    items = [Item(f"{rule} {filler(seed, 20)}") for seed in range(kernels.FORMULAIC + 1)]
    index, report = kernels.build_index(
        {"quiz": [*items, Item(items[0].question.upper())], "other": [Item(filler(99))]}, 13
    )
    assert report["quiz"] == {"items": 22, "too_short": 0, "formulaic": 0, "short": 0, "long": 21}
    assert best(index, f"{filler(50)} {rule} {filler(51)}") == {}
    assert leaks(index, items[4].question) == [4]
    assert index.own.sum() == 21 * 20 + 80
    few, _ = kernels.build_index({"quiz": items[:-1]}, 13)
    assert few.own.all() and len(best(few, rule)) == 20


letters = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=36).map(" ".join)
items_drawn = st.lists(
    st.tuples(letters, st.sampled_from(["", "a", "d e f g h"]), st.sampled_from(["", "c a b", "b c d e f g h a"])),
    min_size=1,
    max_size=4,
)
copies = st.tuples(
    st.integers(0, 3), st.integers(0, 15), st.integers(0, 40), st.sampled_from(["", "x", "b", "x y x y"])
)


@settings(max_examples=150)
@given(
    items_drawn,
    st.lists(st.lists(st.one_of(letters, copies), max_size=4), max_size=3),
    st.sampled_from([0.3, 0.5, 0.8]),
)
def test_what_is_found_is_what_a_slow_search_finds(pairs: list, plans: list, overlap: float) -> None:
    """Texts are random words and mutilated copies of items."""
    items = list(dict.fromkeys(Item(*pair) for pair in pairs))
    index, _ = kernels.build_index({"a": items}, 8)
    index = kernels.index_from_bytes(kernels.index_to_bytes(index))

    def text_of(plan: list) -> str:
        parts = []
        for part in plan:
            if isinstance(part, tuple):
                words = items[part[0] % len(items)].text().split()
                part = " ".join([*words[: part[1]], part[3], *words[part[1] + 1 : part[2]]])
            parts.append(part)
        return " ".join(parts)

    texts = [text_of(plan) for plan in plans]
    found = kernels.find(index, texts)
    verdict = kernels.judge(index, index.own, found, overlap)
    places = []
    for place, (text, item) in enumerate(zip(found.texts.tolist(), found.items.tolist())):
        held = found.item_words[found.item_offsets[place] : found.item_offsets[place + 1]].tolist()
        where = found.text_words[found.text_offsets[place] : found.text_offsets[place + 1]].tolist()
        places.append((text, int(index.numbers[item]), held, where, bool(verdict.leaks[place])))
    assert sorted(places) == sorted(slow_search(items, texts, 8, overlap))


def slow_search(items: list[Item], texts: list[str], n: int, overlap: float) -> Iterator[tuple]:
    """The rule as the kernels tell it, word by word."""
    seen: set[tuple] = set()
    fresh = []
    for number, item in enumerate(items):
        words = tuple(item.text().split())
        if words not in seen:
            seen.add(words)
            fresh.append((number, item))
    asked = Counter(item.question for _, item in fresh)
    whole: set[tuple] = set()
    for number, item in fresh:
        question, words = item.question.split(), item.text().split()
        once = asked[item.question] == 1
        short = len(words) < n
        if short:
            words = question if once and len(question) >= 4 else words
            if len(words) < 4 or tuple(words) in whole:
                continue
            whole.add(tuple(words))
        asked_and_answered = len(question) + len(item.answer.split())
        parts = {len(words)}
        parts |= {len(question)} if once and len(question) >= n else set()
        parts |= {asked_and_answered} if item.answer and item.choices and asked_and_answered >= n else set()
        run = min(parts)
        if item.choices:
            longest = max(len(question), len(item.answer.split()), len(item.choices.split()))
            run = min(run, max(longest, 2 * (n // 2)))
        need = len(words) if short else min(n, run // 2)
        reach = n + len(words) // 2
        for number_of_text, text in enumerate(text.split() for text in texts):
            begins = sorted(
                {
                    place - word
                    for place in range(len(text) - need + 1)
                    for word in range(len(words) - need + 1)
                    if text[place : place + need] == words[word : word + need]
                }
            )
            regions: list[list[int]] = []
            for begin in begins:
                low, high = max(begin - reach, 0), min(begin + len(words) + reach, len(text))
                if short:
                    regions.append([begin, begin + len(words)])
                elif regions and low <= regions[-1][1]:
                    regions[-1][1] = high
                else:
                    regions.append([low, high])
            for low, high in regions:
                run = len(words) if short else 3
                held, where = set(), set()
                for place in range(low, high - run + 1):
                    for word in range(len(words) - run + 1):
                        if text[place : place + run] == words[word : word + run]:
                            held |= set(range(word, word + run))
                            where |= set(range(place, place + run))
                yield (
                    number_of_text,
                    number,
                    sorted(held),
                    sorted(where),
                    any(
                        enough(part, len(words), held, len(question), bool(item.choices), overlap, n, short)
                        for part in parts
                    ),
                )


def enough(
    part: int, size: int, held: set[int], question: int, choices: bool, overlap: float, n: int, short: bool
) -> bool:
    stretch = min(max(part // 4, 3), n // 2)
    counted = {
        word
        for first in held
        for last in range(first + stretch, max(held) + 2)
        if held.issuperset(range(first, last))
        for word in range(first, last)
    }
    matched = len([word for word in counted if word < part])
    if short:
        return matched == part
    asked = len([word for word in counted if word < question]) >= question * overlap - 1e-9
    if part == question < size:
        return matched >= (part if choices and part < 2 * n else part * max(overlap, 0.75) - 1e-9)
    if part < size:
        return asked and matched >= (part if part < 2 * n else part * max(overlap, 0.75) - 1e-9)
    return asked and matched >= max(part * overlap - 1e-9, min(n, part - stretch))


@settings(max_examples=200)
@given(
    st.text(
        st.one_of(
            st.sampled_from(
                "ab -\n\r.１½ﬁßİı\u00ad\u200b\u0301中文のภา한\u1112\u1161\u11ab\ufe0f😀\u200dﷺŉ\x00\u0308i"
            ),
            st.characters(codec="utf-8"),
        ),
        max_size=80,
    )
)
def test_every_word_has_its_bytes(text: str) -> None:
    count = int(normal.split_words([text]).lengths[0])
    begins, ends = normal.byte_places(text, np.arange(count))
    data = text.encode()
    assert (begins < ends).all() and (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all()
    for begin, end in zip(begins.tolist(), ends.tolist()):
        word = data[begin:end].decode()  # whole characters
        assert normal.normalise(word).strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t  stop—it’s Ｆｉｎｅ", ["Don", "t", "stop", "it", "s", "Ｆｉｎｅ"]),
        ("a re\u00admain\u200bder of exam-\n  ples", ["a", "re\u00admain\u200bder", "of", "exam-\n  ples"]),
        ("x² 中文 e\u0301a", ["x²", "中", "文", "e\u0301a"]),
        ("½ cup", ["½", "½", "cup"]),
        ("слово " * 1000 + "end", ["слово"] * 1000 + ["end"]),
        ("word " * 60_000 + "end", ["word"] * 60_000 + ["end"]),
        ("", []),
    ],
)
def test_where_words_stand(text: str, words: list[str]) -> None:
    begins, ends = normal.byte_places(text, np.arange(len(words)))
    assert [text.encode()[begin:end].decode() for begin, end in zip(begins, ends)] == words


def test_stretches_are_the_words_of_the_item() -> None:
    words = made_item(40).split()
    text = [
        *filler(1, 30).split(),
        *words[:20],
        "changed",
        *words[21:33],
        *filler(2, 6).split(),
        *words[33:],
        *filler(3, 9).split(),
    ]
    index = index_of(" ".join(words))
    place, first, last = kernels.stretches(index, kernels.find(index, [" ".join(text)]))
    assert list(zip(place.tolist(), first.tolist(), last.tolist())) == [(0, 30, 62), (0, 69, 75)]


def test_words_are_counted_where_texts_hold_a_run_and_not_the_item() -> None:
    words = made_item(40).split()
    index = index_of(made_item(20, 8), " ".join(words))

    def counted(*texts: str) -> list[int]:
        found = kernels.find(index, texts)
        return (kernels.partial(index, found, kernels.judge(index, index.own, found, 0.5)) - 20).tolist()

    assert counted(" ".join(words[:13])) == list(range(13))
    assert counted(" ".join(words[:12])) == []
    assert counted(" ".join(words[5:20]) + filler(1, 200) + " " + " ".join(words[5:20])) == list(range(5, 20))
    assert counted(" ".join(words[:13]), "", " ".join(words[:14])) == sorted([*range(13), *range(14)])
    assert counted(" ".join(words[:30])) == [] and counted(" ".join(words[:29])) == list(range(29))
    assert counted(" ".join(words[:36]) + filler(1, 200) + " ".join(words[:20])) == []


@pytest.mark.slow
def test_a_text_full_of_an_item_is_read_in_bounded_time() -> None:
    item = made_item(30)
    index = index_of(*(f"{item} {filler(seed, 20)}" for seed in range(15)))
    begin = time.process_time()
    found = kernels.find(index, [f"{item} " * 20_000])
    assert len(set(found.items.tolist())) == 15
    assert time.process_time() - begin < 20


# ------------------------------------------------------------------------------------------------- benchmark files


def write_lines(path: Path, rows: list) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_items_are_read_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"question": "Why?", "choices": ["this", "that"], "answer": 1}, {"question": "How?", "choices": None}]
    if ending == "parquet":
        write_table(str(tmp_path), "set.parquet", pa.Table.from_pylist(rows))
        path = tmp_path / "set.parquet"
    else:
        path = write_lines(tmp_path / f"set.{ending}", rows)
    assert read_benchmark(str(path), DEFAULT).items == [Item("Why?", "that", "this\nthat"), Item("How?")]


@pytest.mark.parametrize(
    ("row", "item"),
    [
        ({"question": "Why?", "options": ["A)x", "B)y"], "correct": "B"}, Item("Why?", "B)y", "A)x\nB)y")),
        (
            {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            Item("Why?", "y", "x\ny"),
        ),
        ({"question": "Why?", "choices": [{"label": "A", "text": "x"}], "answer": "A"}, Item("Why?", "x", "x")),
        ({"question": "Why?", "choices": {"A": "x", "B": "y"}, "answer": "C"}, Item("Why?", "C", "x\ny")),
        ({"Body": "Two and", "Question": "two?", "Answer": 4.0, "Equation": "2+2"}, Item("Two and\ntwo?", "4")),
        ({"code": "def f(x)", "input": "[1]", "output": "2"}, Item("def f(x)\n[1]", "2")),
        ({"question": "Why?", "answer": True, "choices": []}, Item("Why?")),
        ({"question": "Why?", "answer": {"value": "x", "aliases": ["y"]}}, Item("Why?", "x")),
        ({"question": ["Why", ["not", [["so", ["never"]]]]]}, Item("Why\nnot\nso")),
        ({"question": "Why?", "answer": -1, "options": ["x"]}, Item("Why?", "-1", "x")),
        ({"question": "Why?", "answer": 10**400}, Item("Why?", str(10**400))),
        ({"question": "Why?", "answer": float("inf")}, Item("Why?", "inf")),
    ],
)
def test_question_answer_and_choices_are_told_apart(tmp_path: Path, row: dict, item: Item) -> None:
    assert read_benchmark(str(write_lines(tmp_path / "set.jsonl", [row])), DEFAULT).items == [item]


def test_rows_may_hold_several_items(tmp_path: Path) -> None:
    row = {
        "context": "A passage.",
        "qas": [{"question": "Why?", "answers": ["so"]}, {"question": "How?"}, "no", {"id": 1}],
    }
    path = write_lines(tmp_path / "set.jsonl", [row])
    assert read_benchmark(str(path), DEFAULT).items == [Item("Why?", "so"), Item("How?")]


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'{"text": "one"}\n\n{"text": \n[1]\n\xff\n' + deep + b'\n{"text": "\\ud800 two"}\n{"no": 1}')
    found = read_benchmark(str(path), DEFAULT)
    assert (found.items, found.unreadable) == ([Item("one"), Item("? two")], 4)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("set.jsonl", b'{"a": 1}\n', "no item has any of the fields text, choices, answer"),
        ("set.jsonl", b"", "no item has any of the fields"),
        ("set.csv", b"text\n", "neither JSON lines"),
        ("set.jsonl.gz", b"no gzip", "cannot be read"),
        ("set.jsonl.zst", b"no zstandard", "cannot be read"),
        ("set.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_a_file_without_items_is_a_configuration_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message) as error:
        read_benchmark(str(tmp_path / name), Fields(["text"], ["choices"], ["answer"]))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_a_file_that_ends_too_early_is_a_configuration_error(tmp_path: Path, ending: str) -> None:
    path = write_lines(tmp_path / f"set.{ending}", [{"text": filler(seed)} for seed in range(2000)])
    assert len(read_benchmark(str(path), DEFAULT).items) == 2000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_benchmark(str(path), DEFAULT)


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    for name in ("mmlu/test.jsonl", "arc/test.jsonl.gz", "arc/dev.jsonl"):
        write_lines(tmp_path / name, [])
    found = find_benchmarks([str(tmp_path / "*/*"), str(tmp_path / "arc/dev.jsonl")])
    assert sorted(found) == ["arc/test", "dev", "mmlu/test"]
    with pytest.raises(ConfigError, match=r"nothing\*: there is no such file"):
        find_benchmarks([str(tmp_path / "nothing*")])


# ---------------------------------------------------------------------------------------------------------- stage


def corpus() -> list[list[dict]]:
    return [
        [
            {"text": f"{filler(1)}\n{ITEM.lower()}\n{filler(2)}", "path": "leak", "keep": True},
            {"text": filler(3), "path": "clean", "keep": True},
            {"text": ITEM, "path": "dropped", "keep": False},
        ],
        [{"text": " ".join(ITEM.split()[:15]) + filler(4), "path": "partly", "keep": True}],
        [],
    ]


def rows_of(job: Job, folder: str, shard: int) -> list[dict]:
    return read_table(f"{job.output}/{folder}/{shard:05d}.parquet").to_pylist()


def ducks(tmp_path: Path) -> str:
    return str(write_lines(tmp_path / "ducks.jsonl.zst", [{"question": "How?"}, "no object", {"question": ITEM}]))


def test_stage_drops_documents_that_hold_an_item(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(corpus(), {"decontaminate": {"benchmarks": [ducks(tmp_path)]}})
    output = run(job)
    (leak, clean, dropped), (partly,), nothing = (rows_of(job, "decisions", shard) for shard in range(3))
    assert nothing == []
    assert (leak["keep"], leak["reasons"], leak["benchmark"]) == (False, ["contaminated.ducks"], "ducks")
    assert leak["overlap"] == 1
    assert (clean["keep"], clean["reasons"], clean["benchmark"], clean["overlap"]) == (True, [], None, 0)
    assert (dropped["keep"], dropped["benchmark"]) == (True, None)  # not judged
    assert partly["keep"] and partly["benchmark"] == "ducks" and 0 < partly["overlap"] < 0.5
    assert output.counts == {"contaminated": 1, "documents": 4, "dropped": 1, "kept": 2, "not_judged": 1}
    assert output.reasons == {"contaminated": 1}
    report = {"items": 2, "too_short": 1, "formulaic": 0, "short": 0, "long": 1}
    assert output.extra == {"benchmarks": {"ducks": {**report, "unreadable": 1, "found": 1, "documents": 1}}}
    assert sorted(path.name for path in Path(job.output).iterdir()) == ["decisions", "matches"]
    assert [entry.path for entry in output.files] == [
        f"{folder}/{shard:05d}.parquet" for folder in ("decisions", "matches") for shard in range(3)
    ]
    (match,) = rows_of(job, "matches", 0)
    words = len(regex.findall(r"\w+", ITEM))
    assert (match["benchmark"], match["item"], match["part"]) == ("ducks", 1, "question")
    assert (match["words"], match["matched"], match["ratio"], match["times"]) == (words, words, 1, 1)
    assert match["document_text"] == ITEM.lower()[:-1] and match["item_text"] == ITEM
    assert match["begin"] == len(filler(1)) + 1
    assert match["end"] - match["begin"] == len(ITEM[:-1].encode())
    assert rows_of(job, "matches", 1) == []
    assert read_table(f"{job.output}/matches/00002.parquet").schema == CONTAMINATION_MATCHES

    strict = make_job(corpus(), {"decontaminate": {"benchmarks": [ducks(tmp_path)], "overlap": 0.1}})
    assert run(strict).counts["dropped"] == 2


def test_stage_cuts_items_out_of_documents(make_job: Callable[..., Job], tmp_path: Path) -> None:
    other = write_lines(tmp_path / "other.jsonl", [{"question": ITEM[60:] + " " + filler(2, 20)}])
    benchmarks = [ducks(tmp_path), str(other)]
    shards = corpus()
    shards[0].append({"text": f"«日本» {ITEM} – {filler(5)} {ITEM}", "path": "twice", "keep": True})
    job = make_job(shards, {"decontaminate": {"benchmarks": benchmarks, "action": "cut"}})
    output = run(job)
    assert (output.counts["contaminated"], output.counts["dropped"], output.counts["kept"]) == (2, 0, 4)
    assert output.reasons == {"contaminated": 0}
    assert all(row["keep"] and row["reasons"] == [] for row in rows_of(job, "decisions", 0))
    tables = [read_table(f"{job.output}/cuts/{shard:05d}.parquet") for shard in range(3)]
    documents = [read_table(path) for path in job.document_shards()]
    assert all(table.schema == CUT_FILE for table in tables)
    for table, texts in zip(tables, documents):
        check_sidecar(texts, table)
    after = apply_cuts(documents[0]["text"].combine_chunks(), tables[0]["cuts"].combine_chunks()).to_pylist()
    rest = " ".join(filler(2).split()[20:])
    assert after == [f"{filler(1)}\n {rest}", filler(3), ITEM, f"«日本» . – {filler(5)} ."]
    cuts = tables[0]["cuts"].to_pylist()
    assert [len(found) for found in cuts] == [1, 0, 0, 2]
    assert {(cut["reason"], cut["replacement"]) for found in cuts for cut in found} == {("contaminated.ducks", "")}
    assert tables[1]["cuts"].to_pylist() == [[]]


def test_stage_only_reports(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(corpus(), {"decontaminate": {"benchmarks": [ducks(tmp_path)], "action": "report"}})
    output = run(job)
    assert (output.counts["contaminated"], output.counts["dropped"]) == (1, 0)
    leak, *_ = rows_of(job, "decisions", 0)
    assert (leak["keep"], leak["reasons"], leak["benchmark"], leak["overlap"]) == (True, [], "ducks", 1)
    assert len(rows_of(job, "matches", 0)) == 1
    assert not Path(job.output, "cuts").exists()


def test_what_many_documents_hold_without_the_rest_is_a_formula(make_job: Callable[..., Job], tmp_path: Path) -> None:
    formula = made_item(14)
    item = f"{formula} {made_item(12, 6)}"
    path = write_lines(tmp_path / "quiz.jsonl", [{"question": item}])

    def dropped(with_formula: int, whole: int) -> list[str]:
        texts = [f"{filler(seed)} {formula} {filler(seed + 100)}" for seed in range(with_formula)]
        texts += [f"{filler(seed + 200)} {item}" for seed in range(whole)]
        rows = [{"text": text, "path": str(number), "keep": True} for number, text in enumerate(texts)]
        job = make_job([rows[::2], rows[1::2]], {"decontaminate": {"benchmarks": [str(path)], "common": 5}})
        run(job)
        keys = [row for shard in job.document_shards() for row in read_table(shard)["path"].to_pylist()]
        keep = [row["keep"] for shard in range(2) for row in rows_of(job, "decisions", shard)]
        return sorted((key for key, good in zip(keys, keep) if not good), key=int)

    assert dropped(5, 1) == ["0", "1", "2", "3", "4", "5"]
    assert dropped(6, 1) == ["6"]
    assert len(dropped(0, 9)) == 9  # a leak that is everywhere is no formula


def test_stage_without_benchmarks_keeps_everything_unread(make_job: Callable[..., Job]) -> None:
    shards = corpus()
    job = make_job(shards, {})
    for shard, path in enumerate(job.document_shards()):  # texts are gone: whoever reads them fails
        table = read_table(path).drop_columns(["text"])
        write_table(job.inputs["extract"], f"documents/{shard:05d}.parquet", table)
    output = run(job)
    assert [len(rows_of(job, "decisions", shard)) for shard in range(3)] == [3, 1, 0]
    assert all(row["keep"] for shard in range(3) for row in rows_of(job, "decisions", shard))
    assert output.counts == {"contaminated": 0, "documents": 4, "dropped": 0, "kept": 3, "not_judged": 1}


def test_a_benchmark_without_anything_to_compare_is_a_configuration_error(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "empty.jsonl", [{"question": "!"}, {"question": ""}])
    job = make_job(corpus(), {"decontaminate": {"benchmarks": [str(path)]}})
    with pytest.raises(ConfigError, match="no item of benchmark 'empty' can be compared"):
        run(job)


def test_odd_documents_have_decisions(make_job: Callable[..., Job], tmp_path: Path) -> None:
    texts = ["", "\x00", "ducks", "。", "\u0301" * 5000, "a" * 200_000, f"\ufeff{ITEM}\x00", "- \n" * 1000]
    rows = [{"text": text, "path": str(number), "keep": True} for number, text in enumerate(texts)]
    job = make_job([rows], {"decontaminate": {"benchmarks": [ducks(tmp_path)], "action": "cut"}})
    run(job)
    cuts = read_table(f"{job.output}/cuts/00000.parquet")["cuts"].combine_chunks()
    after = apply_cuts(read_table(job.document_shards()[0])["text"].combine_chunks(), cuts).to_pylist()
    assert after == [*texts[:6], "\ufeff.\x00", texts[7]]


@pytest.mark.slow
def test_stage_writes_the_same_bytes_with_two_workers(make_job: Callable[..., Job], tmp_path: Path) -> None:
    sections = {"decontaminate": {"benchmarks": [ducks(tmp_path)], "action": "cut", "common": 1}}
    partly = [{"text": " ".join(ITEM.split()[:14]) + filler(4), "path": str(n), "keep": True} for n in range(3)]
    shards = [*corpus(), partly, partly[:1]]
    one = make_job(shards, sections)
    two = make_job(shards, sections, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run(one) == run(two)


@pytest.mark.shared_data
@pytest.mark.skipif(not GSM8K.exists(), reason="../shared/data/benchmarks is not here")
def test_gsm8k_is_found_and_its_neighbours_are_not() -> None:
    items = read_benchmark(str(GSM8K), DEFAULT).items
    indexed, unseen = items[:900], items[900:]
    index, _ = kernels.build_index({"gsm8k": indexed}, 13)
    draw = random.Random(7)

    def disguise(item: Item) -> str:
        words = [
            word.upper() if draw.random() < 0.1 else word for word in regex.sub(r"[.,?$]", " ", item.question).split()
        ]
        words[draw.randrange(len(words))] = "instead"
        return f"{filler(draw.randrange(10**6), 60)}\n" + "\n  ".join(words) + f"\n{filler(draw.randrange(10**6), 60)}"

    planted, clean = [disguise(item) for item in indexed[:300]], [disguise(item) for item in unseen]
    found = kernels.find(index, planted + clean)
    leaking = set(found.texts[kernels.judge(index, index.own, found, 0.5).leaks].tolist())
    assert leaking == set(range(300))
