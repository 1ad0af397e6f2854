import gzip
import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import regex
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.decontaminate import kernels
from pipelines.decontaminate.benchmarks import find_benchmarks, read_benchmark
from pipelines.decontaminate.stage import run
from schemas.errors import ConfigError
from schemas.job import Job
from schemas.tables import read_table, write_table

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "benchmarks" / "gsm8k_test.jsonl.zst"
ITEM = (
    "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg."
)


def filler(seed: int, words: int = 80) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("bcdfghjklm", k=7)) for _ in range(words))


def words_of(text: str) -> list[str]:
    return regex.findall(r"\p{Han}|[a-z0-9]+", unicodedata.normalize("NFKC", text).casefold())


def shares(index: kernels.Index, text: str) -> dict[str, float]:
    found = kernels.overlap(index, [text])
    return dict(zip(index.names[found.benchmarks].tolist(), found.shares.tolist()))


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
    ],
    ids=["same", "upper case", "no punctuation", "wrapped", "in the middle", "table", "compatibility forms"],
)
def test_an_item_is_found_whatever_it_looks_like(text: str) -> None:
    index, _ = kernels.build_index({"ducks": [ITEM, filler(3)]}, 13)
    assert shares(index, text) == {"ducks": 1.0}


def test_a_part_of_an_item_counts_as_its_share() -> None:
    index, _ = kernels.build_index({"ducks": [ITEM]}, 13)
    words = words_of(ITEM)
    half = " ".join(words[: 12 + 9])
    assert shares(index, half) == {"ducks": pytest.approx(9 / (len(words) - 12))}
    assert shares(index, " ".join(words[:12])) == {}
    assert shares(index, " ".join(words[::-1])) == {}


def test_items_shorter_than_an_ngram_are_found_whole_or_not_at_all() -> None:
    items = ["Name the capital of France.", "too short really", "中国的首都是哪里呢", "首都是哪里", ""]
    index, report = kernels.build_index({"geo": items}, 13)
    assert report == {"geo": {"items": 5, "too_short": 3, "formulaic": 0, "used": 2}}
    assert shares(index, "please NAME the\ncapital of: france!") == {"geo": 1.0}
    assert shares(index, "name the capital of Italy") == {}
    assert shares(index, "too short really") == {}
    assert shares(index, "请问：中国的首都是哪里呢？") == {"geo": 1.0}
    assert shares(index, "name the capital of") == {}


def test_a_run_of_words_does_not_cross_from_one_text_to_the_next() -> None:
    index, _ = kernels.build_index({"geo": ["name the capital of france"]}, 13)
    found = kernels.overlap(index, ["name the capital", "of france", "", "name the capital of france"])
    assert found.texts.tolist() == [3]


def test_formulas_are_no_contamination() -> None:
    rule = "Choose the best answer to the following question and explain step by step why it is the best one."
    items = [f"{rule} {filler(seed, 20)}" for seed in range(kernels.FORMULAIC + 1)]
    index, report = kernels.build_index({"quiz": [*items, items[0].upper()], "other": [filler(99)]}, 13)
    assert report["quiz"] == {"items": len(items) + 1, "too_short": 0, "formulaic": 0, "used": len(items)}
    assert shares(index, f"{filler(50)} {rule} {filler(51)}") == {}
    assert shares(index, items[4]) == {"quiz": 1.0}
    few, _ = kernels.build_index({"quiz": items[:-1]}, 13)
    assert shares(few, rule)["quiz"] == pytest.approx(7 / 27)
    assert len(words_of(rule)) == 19 and len(words_of(items[0])) == 39


sentences = st.lists(st.sampled_from("abcdef"), min_size=4, max_size=12).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(sentences, min_size=1, max_size=5), st.lists(sentences, min_size=1, max_size=4), st.integers(3, 6))
def test_overlap_is_that_of_sets_of_ngrams(items: list[str], texts: list[str], ngram: int) -> None:
    def grams(text: str, size: int) -> set[str]:
        return {text[begin : begin + 2 * size - 1] for begin in range(0, len(text) - 2 * size + 2, 2)}

    index, _ = kernels.build_index({"a": items[::2], "b": items[1::2]}, ngram)
    index = kernels.index_from_bytes(kernels.index_to_bytes(index))
    found = kernels.overlap(index, texts)
    expected = {}
    for number, text in enumerate(texts):
        for benchmark, part in enumerate((items[::2], items[1::2])):
            for item in part:
                size = min(ngram, (len(item) + 1) // 2)
                share = len(grams(item, size) & grams(text, size)) / len(grams(item, size))
                if share:
                    expected[number, benchmark] = max(expected.get((number, benchmark), 0), share)
    assert dict(zip(zip(found.texts.tolist(), found.benchmarks.tolist()), found.shares.tolist())) == expected


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
    rows = [{"question": "Why?", "choices": ["this", "that"], "answer": 3}, {"question": "How?", "choices": None}]
    if ending == "parquet":
        write_table(str(tmp_path), "set.parquet", pa.Table.from_pylist(rows))
        path = tmp_path / "set.parquet"
    else:
        path = write_lines(tmp_path / f"set.{ending}", rows)
    assert read_benchmark(str(path), ["choices", "question", "answer"]).items == ["this\nthat\nWhy?", "How?"]


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'{"text": "one"}\n\n{"text": \n[1]\n\xff\n' + deep + b'\n{"text": "\\ud800 two"}\n{"no": 1}')
    found = read_benchmark(str(path), ["text"])
    assert (found.items, found.unreadable) == (["one", "? two"], 4)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("set.jsonl", b'{"a": 1}\n', "no item has any of the fields text, answer"),
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
        read_benchmark(str(tmp_path / name), ["text", "answer"])
    assert str(tmp_path / name) in str(error.value)


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
        [{"text": ITEM[: len(ITEM) // 2] + filler(4), "path": "partly", "keep": True}],
        [],
    ]


def rows_by_shard(job: Job) -> list[list[dict]]:
    return [read_table(f"{job.output}/decisions/{shard:05d}.parquet").to_pylist() for shard in range(3)]


def test_stage_drops_documents_that_hold_an_item(make_job: Callable[..., Job], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "ducks.jsonl.zst", [{"question": ITEM}, {"question": "How?"}, "no object"])
    job = make_job(corpus(), {"decontaminate": {"benchmarks": [str(path)]}})
    output = run(job)
    (leak, clean, dropped), (partly,), nothing = rows_by_shard(job)
    assert nothing == []
    assert (leak["keep"], leak["reasons"], leak["benchmark"]) == (False, ["contaminated:ducks"], "ducks")
    assert leak["overlap"] == 1
    assert (clean["keep"], clean["reasons"], clean["benchmark"], clean["overlap"]) == (True, [], None, 0)
    assert (dropped["keep"], dropped["benchmark"]) == (True, None)  # not judged
    assert partly["keep"] and partly["benchmark"] == "ducks" and 0 < partly["overlap"] < 0.5
    assert output.counts == {"documents": 4, "kept": 2, "dropped": 1, "not_judged": 1}
    assert output.reasons == {"contaminated": 1}
    ducks = {"items": 2, "too_short": 1, "formulaic": 0, "used": 1, "unreadable": 1, "documents": 1}
    assert output.extra == {"benchmarks": {"ducks": ducks}}
    assert [path.name for path in Path(job.output).iterdir()] == ["decisions"]

    strict = make_job(corpus(), {"decontaminate": {"benchmarks": [str(path)], "overlap": 0.1}})
    assert run(strict).counts["dropped"] == 2


def test_stage_without_benchmarks_keeps_everything_unread(make_job: Callable[..., Job]) -> None:
    shards = corpus()
    job = make_job(shards, {})
    for shard, path in enumerate(job.document_shards()):  # texts are gone: whoever reads them fails
        table = read_table(path).drop_columns(["text"])
        write_table(job.inputs["extract"], f"documents/{shard:05d}.parquet", table)
    output = run(job)
    assert [len(rows) for rows in rows_by_shard(job)] == [3, 1, 0]
    assert all(row["keep"] for rows in rows_by_shard(job) for row in rows)
    assert output.counts == {"documents": 4, "kept": 3, "dropped": 0, "not_judged": 1}


@pytest.mark.slow
def test_stage_writes_the_same_bytes_with_two_workers(make_job: Callable[..., Job], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "ducks.jsonl", [{"question": ITEM}])
    sections = {"decontaminate": {"benchmarks": [str(path)]}}
    one = make_job(corpus(), sections)
    two = make_job(corpus(), sections, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run(one) == run(two)


@pytest.mark.shared_data
@pytest.mark.skipif(not GSM8K.exists(), reason="../shared/data/benchmarks is not here")
def test_gsm8k_is_found_and_its_neighbours_are_not() -> None:
    items = read_benchmark(str(GSM8K), ["question", "answer"]).items
    indexed, unseen = items[:900], items[900:]
    index, _ = kernels.build_index({"gsm8k": indexed}, 13)
    draw = random.Random(7)

    def disguise(item: str) -> str:
        words = [word.upper() if draw.random() < 0.1 else word for word in regex.sub(r"[.,?$]", " ", item).split()]
        return f"{filler(draw.randrange(10**6), 60)}\n" + "\n  ".join(words) + f"\n{filler(draw.randrange(10**6), 60)}"

    leaks, clean = [disguise(item) for item in indexed[:300]], [disguise(item) for item in unseen]
    found = kernels.overlap(index, leaks + clean)
    dropped = set(found.texts[found.shares >= 0.5].tolist())
    recall = len(dropped & set(range(300))) / 300
    precision = len(dropped & set(range(300))) / len(dropped)
    assert recall == 1
    assert precision > 0.99
