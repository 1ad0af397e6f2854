"""What documents repeat of one another, against plain loops over words and lines."""

import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup import kernels, repeats
from pipelines.dedup.repeats_stage import find_repeats
from pipelines.dedup.stage import run
from pipelines.runner import shard_tasks
from pipelines.tokenize import stage as tokenize
from schemas.cuts import CUT_FILE, apply_cuts
from schemas.documents import REPEATS
from schemas.hashing import document_id
from schemas.job import Job, Output
from schemas.languages import UNSPACED_SCRIPTS
from schemas.manifest import Manifest, write_manifest
from schemas.tables import read_table, write_table
from tokenizer.qwen import Tokenizer
from tokenizer.train import train

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
SPACELESS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
SPACELESS = rf"[[{SPACELESS}]&&[\p{{L}}\p{{M}}\p{{N}}]]"
ALONE = regex.compile(rf"(?V1){SPACELESS}")
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
    of_passages = [repeats.anchors(found, every, size) for found, every in zip(split, all_passages)]
    pairs = enumerate(zip(of_passages, all_passages))
    anchors = np.concatenate([repeats.make_anchors(some, every.texts, shard) for shard, (some, every) in pairs])
    anchors = repeats.repeated(repeats.merge(anchors), 1)
    parts = []
    for shard, (found, every) in enumerate(zip(split, all_passages)):
        chosen = every.select(np.isin(of_passages[shard], anchors["hash"][anchors["shard"] == shard]))
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


def borders(text: str) -> list[int]:
    """Where sentences may begin, and the end of the text."""
    return sorted({0, *(match.end() for match in repeats.sentence_end().finditer(text)), len(text)})


def check_sentences(text: str, span: Any) -> None:
    """What is to be cut is whole sentences, and no word that is not repeated."""
    data = text.encode()
    before, cut, after = data[: span["cut_begin"]], data[span["cut_begin"] : span["cut_end"]], data[span["cut_end"] :]
    if not cut:
        return
    assert {len(before.decode()), len((before + cut).decode())} <= set(borders(text))
    assert not WORD.search(data[span["cut_begin"] : max(span["begin"], span["cut_begin"])].decode())
    assert not WORD.search(data[min(span["end"], span["cut_end"]) : span["cut_end"]].decode())
    assert after.decode() == data[span["cut_end"] :].decode()


def by_hand(texts: list[str], size: int) -> dict[int, list[tuple[int, int, int]]]:
    """All runs of words that weigh `size` of all texts; what is covered by those that an earlier text has too."""
    holders: dict[tuple[str, ...], set[int]] = {}
    places: list[list[tuple[tuple[str, ...], int, int]]] = []
    for number, text in enumerate(texts):
        found = list(WORD.finditer(text.lower()))
        weights = [1 if ALONE.fullmatch(match[0]) else 2 for match in found]
        places.append([])
        for first in range(len(found)):
            weight, last = 0, first
            while weight < 2 * size and last < len(found):
                weight += weights[last]
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


@settings(max_examples=80)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 7), st.randoms())
def test_passages_are_all_that_texts_share(texts: list[str], size: int, draw: random.Random) -> None:
    order = list(range(len(texts)))
    draw.shuffle(order)
    at = draw.randint(0, len(order))
    shards = [order[:at], order[at:]]
    assert search(shards, texts, size) == by_hand(texts, size)
    assert search([order], texts, size) == by_hand(texts, size)


@pytest.mark.shared_data
def test_passages_of_real_pages(shared_data: Path) -> None:
    lines = pa.CompressedInputStream(pa.OSFile(str(shared_data / "web" / "web_corpus.jsonl.zst")), "zstd").read()
    pages = [json.loads(line)["text"] for line in lines.splitlines()[::29]]
    texts = [unicodedata.normalize("NFC", page[:4000]) for page in pages if len(page) == len(page.lower())]
    found = search([list(range(0, len(texts), 2)), list(range(1, len(texts), 2))], texts, 50)
    assert found == by_hand(texts, 50)
    assert sum(map(len, found.values())) > 10


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


@settings(max_examples=80)
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
    return sum(1 if ALONE.fullmatch(word) else 2 for word in WORD.findall(line)) < 6


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
    assert [text[begin:end] for begin, end in pairwise(borders(text))] == sentences


@settings(max_examples=80)
@given(TEXTS | st.text(alphabet="ab.。\n ไ”'", max_size=40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_whole_sentences_are_all_between_two_words(text: str, first: int, last: int, searched: int) -> None:
    begins, ends = (column.tolist() for column in repeats.word_places(text))
    lows, highs = [0, *ends], [*begins, len(text)]
    low = lows[first % len(lows)]
    high = max(low, highs[last % len(highs)])
    if high != len(text) and high not in begins:
        high = len(text)
    inside = [border for border in borders(text) if low <= border <= high]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "SEARCHED", searched)
        begin, end = repeats.whole_sentences(text, low, high)
    assert (begin, end) == (inside[0], inside[-1]) if len(inside) > 1 else begin == end


ANY = st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.text(
    alphabet="e\u0301각\u1100\u1161\u11a8İΣ가か\u3099. "
)


@settings(max_examples=80)
@given(ANY)
def test_words_stand_where_they_are_found(text: str) -> None:
    begins, ends = repeats.word_places(text)
    assert len(begins) == len(ends) == len(kernels.split_words([text]).hashes)
    assert (begins < ends).all() and (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all()
    for begin, end in zip(begins.tolist(), ends.tolist()):
        assert len(kernels.split_words([text[begin:end]]).hashes) >= 1


# ------------------------------------------------------------------------------------------------------- the stage

QUIET = {"exact": False, "near": False}
SENTENCES = [f"Sentence {number} says that {'red' if number % 2 else 'green'} things differ. " for number in range(60)]
SHARED = "".join(SENTENCES[:12])  # 84 words
MENU = "Home\nNews and weather\nAbout | Contact\n"


def make_corpus(shards: int = 3) -> list[list[dict[str, Any]]]:
    """Twelve documents with a menu each, four with a shared passage in the middle, spread over shards."""
    documents = []
    for number in range(12):
        own = "".join(f"Word{number}x{place} follows here, é{place}. " for place in range(40))
        middle = (
            f"N{number} before it, {SHARED}After it {number}." if number % 3 == 0 else f"Nothing to see here, {number}."
        )
        documents.append({"path": f"{number}.txt", "text": f"{MENU}{own}\n{middle}\nReferences\n{own[::-1]}"})
    return [documents[shard::shards] for shard in range(shards)]


Corpus = list[list[dict[str, Any]]]


def run_alone(job: Job) -> Output:
    """The last step of the stage, after decisions that keep all."""
    for index, path in enumerate(job.document_shards()):
        keys = read_table(path, ["document_id", "text_hash"])
        keep = pa.array(np.ones(keys.num_rows, bool))
        write_table(job.output, f"decisions/{index:05d}.parquet", keys.append_column("keep", keep))
    return find_repeats(job, shard_tasks(job, {"filter": ("filter", "decisions")}))


def outcome(shards: Corpus, job: Job, output: Output) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]]]:
    """What is left of each document, and its rows of REPEATS, by path."""
    names = {document_id("test", document["path"], ""): document["path"] for shard in shards for document in shard}
    left: dict[str, str] = {}
    rows: dict[str, list[dict[str, Any]]] = {path: [] for path in names.values()}
    for entry in output.files:
        folder, _, name = entry.path.partition("/")
        table = read_table(f"{job.output}/{entry.path}")
        shard = shards[int(name[:5])]
        if folder == "cuts":
            assert table.schema == CUT_FILE
            assert [names[key] for key in table["document_id"].to_pylist()] == [document["path"] for document in shard]
            texts = pa.array([document["text"] for document in shard], pa.large_string())
            texts = apply_cuts(texts, table["cuts"].combine_chunks())
            left |= dict(zip((document["path"] for document in shard), texts.to_pylist()))
        elif folder == "repeats":
            assert table.schema == REPEATS
            for row in table.to_pylist():
                rows[names[row["document_id"]]].append(row | {"kept": names.get(row["kept_id"])})
    return left, rows


def smallest(paths: Iterator[str]) -> str:
    return min(paths, key=lambda path: document_id("test", path, ""))


def test_stage_cuts_what_is_repeated_out_of_all_documents_but_one(make_job: Callable[..., Job]) -> None:
    shards = make_corpus()
    job = make_job(shards, {"dedup": {"lines": 5, "substrings": "cut"}})
    output = run_alone(job)
    left, rows = outcome(shards, job, output)
    first, holder = smallest(iter(left)), smallest(path for path in left if int(path[:-4]) % 3 == 0)
    sentences = SHARED.partition(". ")[2]  # the first one begins with other words in front of it
    for document in (document for shard in shards for document in shard):
        path, text = document["path"], document["text"]
        expected = text if path == first else text.replace(MENU, "")
        assert left[path] == (expected if path == holder else expected.replace(sentences, ""))
        lines = [row for row in rows[path] if row["kind"] == "line"]
        named = [(text.encode()[row["begin"] : row["end"]].decode(), row["cut"]) for row in lines]
        menu = [(line, True) for line in MENU.splitlines(keepends=True)]
        assert named == ([] if path == first else [*menu, ("References\n", False)])
        assert all((row["documents"], row["kept"]) == (12, first) for row in lines)
    passages = [row for found in rows.values() for row in found if row["kind"] == "substring"]
    assert [(row["documents"], row["kept"], row["cut"]) for row in passages] == [(4, holder, True)] * 3
    said = output.extra["repeats"]
    assert said["line"] == {
        "spans": 44,
        "documents": 11,
        "bytes": 11 * len(MENU + "References\n"),
        "cut_bytes": 11 * len(MENU),
    }
    assert said["substring"]["spans"] == 3 and said["substring"]["cut_bytes"] == 3 * len(sentences)


def test_what_is_cut_reaches_no_token(make_job: Callable[..., Job], tmp_path: Path) -> None:
    shards = [*make_corpus(2), [{"path": "12.txt", "text": MENU + "\n"}]]
    job = make_job(shards, {"dedup": {**QUIET, "lines": 5, "substrings": "cut"}})
    done = run(job)
    left, _ = outcome(shards, job, done)
    assert smallest(iter(left)) != "12.txt" and left["12.txt"] == "\n"
    train(left.values(), 400, tmp_path / "tokenizer")
    inputs = job.inputs | {"dedup": job.output, "tokenizer": str(tmp_path / "tokenizer")}
    for stage, files in (("dedup", done.files), ("tokenizer", [])):
        manifest = Manifest(stage=stage, version=1, key="", config={}, inputs={}, files=files)
        write_manifest(inputs[stage], manifest)
    made = tokenize.run(Job(job.recipe, inputs, str(tmp_path / "shards"), job.progress))
    decode = Tokenizer.load(tmp_path / "tokenizer").decode
    texts = [
        decode(np.array(tokens))
        for entry in made.files
        for tokens in read_table(f"{tmp_path}/shards/{entry.path}")["tokens"].to_pylist()
    ]
    left["12.txt"] = ""  # nothing but white space would be
    assert texts == [left[document["path"]] for shard in shards for document in shard]
    assert made.extra["cut"]["documents"] == 12 and made.extra["cut"]["emptied"] == 1
    assert made.extra["cut"]["bytes"]["repeated_line"] == 12 * len(MENU)


def test_a_report_cuts_nothing(make_job: Callable[..., Job]) -> None:
    shards = make_corpus()
    job = make_job(shards, {"dedup": {"substrings": "report"}})
    output = run_alone(job)
    left, rows = outcome(shards, job, output)
    assert not left and not any(entry.path.startswith("cuts/") for entry in output.files)
    assert [row["cut"] for found in rows.values() for row in found] == [False] * 3
    assert output.extra["repeats"]["substring"]["cut_bytes"] == 0


def test_only_kept_documents_count_and_source_code_stays(make_job: Callable[..., Job]) -> None:
    notice = "This licence lets anybody copy these words, " * 12 + "as they are.\n\n"
    program = "".join(f"def function{number}(value):\n    return value + {number}\n" for number in range(9))
    alone = "Words that two documents hold, of which one was dropped. " * 9
    shards = [
        [
            {"path": "a.txt", "text": notice + "First.", "keep": True},
            {"path": "b.py", "text": notice + program, "keep": True},
        ],
        [
            {"path": "c.txt", "text": notice + "Third.", "keep": True},
            {"path": "d", "text": notice + program, "keep": True},
        ],
        [{"path": "e.txt", "text": alone + "Fifth.", "keep": True}, {"path": "f.txt", "text": alone, "keep": False}],
        [{"path": "g.txt", "text": "", "keep": True}, {"path": "h.txt", "text": ".", "keep": True}],
        [],
    ]
    job = make_job(shards, {"dedup": {"paragraphs": 3, "substrings": "cut"}})
    left, rows = outcome(shards, job, run_alone(job))
    stays = smallest(path for path in left if path in ("a.txt", "b.py", "c.txt", "d"))
    for document in (document for shard in shards for document in shard):
        path, text = document["path"], document["text"]
        cut = path in ("a.txt", "c.txt") and path != stays
        assert left[path] == (text.removeprefix(notice) if cut else text)
        assert {(row["kind"], row["documents"], row["kept"]) for row in rows[path]} == (
            {("paragraph", 4, stays), ("substring", 4, stays)} if cut else set()
        )


def test_the_label_says_what_is_source_code(make_job: Callable[..., Job], tmp_path: Path) -> None:
    shards = make_corpus(1)
    for document in shards[0]:
        document["domain"] = "code"
    job = make_job(shards, {"dedup": {"lines": 5}})
    left, rows = outcome(shards, job, run_alone(job))
    assert list(left.values()) == [document["text"] for document in shards[0]] and not any(rows.values())


@pytest.mark.slow
def test_any_order_of_shards_gives_the_same(make_job: Callable[..., Job]) -> None:
    sections = {"dedup": {"lines": 5, "paragraphs": 5, "substrings": "cut"}}
    found = []
    for shards in (make_corpus(3), make_corpus(3)[::-1], make_corpus(1), make_corpus(12)):
        job = make_job(shards, sections)
        left, rows = outcome(shards, job, run_alone(job))
        found.append((dict(sorted(left.items())), dict(sorted(rows.items()))))
    assert all(one == found[0] for one in found[1:])


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(make_job: Callable[..., Job]) -> None:
    sections = {"dedup": {"lines": 5, "paragraphs": 5, "substrings": "cut"}}
    one, two = make_job(make_corpus(6), sections), make_job(make_corpus(6), sections, *TWO_WORKERS)
    assert run(one) == run(two)
    written = [
        {str(path.relative_to(job.output)): path.read_bytes() for path in Path(job.output).rglob("*.parquet")}
        for job in (one, two)
    ]
    assert written[0] == written[1] and len(written[0]) == 18


@pytest.mark.slow
def test_a_million_equal_lines(make_job: Callable[..., Job]) -> None:
    line = "The same line again and again.\n"
    shards = [[{"path": f"{number}", "text": line * 500_000 + f"Own {number}."}] for number in range(2)]
    job = make_job(shards, {"dedup": {"lines": 1, "substrings": "cut"}})
    left, _ = outcome(shards, job, run_alone(job))
    stays = smallest(iter(left))
    assert all(
        text == (shards[int(path)][0]["text"] if path == stays else f"Own {path}.") for path, text in left.items()
    )


@pytest.mark.slow
def test_a_line_of_twenty_megabytes(make_job: Callable[..., Job]) -> None:
    draw = random.Random(0)
    long = " ".join(str(draw.getrandbits(40)) for _ in range(1_600_000))
    shards = [[{"path": "0", "text": long}, {"path": "1", "text": "And. " + long[9_000_000:9_000_900] + ". So."}]]
    job = make_job(shards, {"dedup": {"lines": 1, "paragraphs": 1, "substrings": "cut"}})
    _, rows = outcome(shards, job, run_alone(job))
    ((row,),) = (found for found in rows.values() if found)
    assert row["kind"] == "substring" and row["end"] - row["begin"] > 800


def test_what_a_million_documents_hold_comes_back_once_a_shard() -> None:
    keys = np.zeros(1_000_000, repeats.KEY)
    keys["hash"][::2] = 5
    keys["id"][:, 0], keys["id"][:, 1] = 9, np.arange(len(keys))[::-1]
    keys["shard"], keys["documents"] = np.arange(len(keys)) % 7, 1
    found = repeats.repeated(keys, 499_999)
    assert found["shard"].tolist() == 2 * list(range(7)) and set(found["documents"].tolist()) == {500_000}
    assert found["id"].tolist() == [[9, 0]] * 7 + [[9, 1]] * 7
    assert len(repeats.repeated(keys, 500_000)) == 0
