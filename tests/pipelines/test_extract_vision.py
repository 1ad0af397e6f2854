"""Pages through the vision client: real pictures of real pages; what the model says is scripted (simulated)."""

import base64
import threading
import time
from collections import Counter
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import served_model
from annotators.answers import Answer
from annotators.served_model import ServedModel
from pipelines.extract import vision
from pipelines.extract.page import Page, Unreadable
from pipelines.extract.vision import Failure, PageRequest, judge_answer, read_answer, read_page, read_pages
from schemas.recipe import Vision
from tests.scripted_model_server import Reply, simulated_model_server

TEXT = """\
The harbour of Kiel lies at the end of a fjord of seventeen kilometres. Ships have been built here since 1242, and
in the years before the canal was opened most of them were made of wood. The shipyards employed 4,300 people.
Sailors called the town windy, which it is on 210 days of the year, and its summers are mild rather than warm."""
HEAD = "---\nturn: {turn}\nlanguage: en\ntext: yes\n---\n"
LADDER = [0.1, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "_FIRST_WAIT", 0.01)


def draw(text: str, longest_side: int, rotate: int) -> bytes:
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        page.insert_textbox((60, 60, 535, 780), text, fontsize=11)
        scale = longest_side / 842
        return page.get_pixmap(matrix=pymupdf.Matrix(scale, scale).prerotate(rotate)).tobytes("png")


PICTURES = {(text, rotate): draw(text, 1288, rotate) for text in (TEXT, "") for rotate in (0, 90)}


def request(text: str = TEXT, layer: str = "", number: int = 1) -> PageRequest:
    def render(longest_side: int, rotate: int) -> bytes:
        assert longest_side == 1288
        return PICTURES[text, rotate]

    return PageRequest(number, 595, 842, render, layer)


def good(text: str = TEXT, turn: int = 0) -> str:
    return HEAD.format(turn=turn) + text


def read(replies: list[Reply], page: PageRequest | None = None, **keys: object):
    """The page that comes of these replies, and the requests that it took."""
    with simulated_model_server(replies, ["small"]) as server:
        options = Vision(url=server.url, model="small", attempts=2, seconds=10, **keys)
        with ServedModel(options) as model:
            return read_page(model, page or request(), options), server.requests


def test_a_page_goes_out_as_a_picture_and_comes_back_as_markdown():
    page, requests = read([Reply(good("# Kiel\n\n" + TEXT))])
    assert page == Page(1, "vlm", "answer 1 of the vision model, language en", 0.9, 595, 842, page.blocks)
    assert [(block.kind, block.text, block.box) for block in page.blocks] == [
        ("markdown", "# Kiel\n\n" + TEXT, (0, 0, 595, 842))
    ]
    (sent,) = requests
    image, prompt = sent["messages"][0]["content"]
    assert prompt == {"type": "text", "text": vision.PROMPT}
    assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PICTURES[TEXT, 0]).decode()
    assert (sent["temperature"], sent["seed"], sent["max_tokens"]) == (0.1, 0, 8_000)


WRONG = {
    "cut off": Reply(good(), finish="length"),
    "ended by content_filter": Reply(good(), finish="content_filter"),
    "ended by none": Reply(good(), finish=None),
    "empty": Reply("  \n"),
    "not in the form asked for": Reply(TEXT),
    "speaks instead of reading": Reply(good("I'm sorry, but I cannot read this picture.")),
    "repeats itself": Reply(good("The harbour of Kiel is windy and so it goes on. " * 40)),
    "more text than ink": Reply(good(" ".join(f"Sentence {number} was never printed here." for number in range(400)))),
}


@pytest.mark.parametrize("problem", WRONG)
def test_a_wrong_answer_is_asked_for_again_at_the_next_temperature(problem):
    page, requests = read([WRONG[problem], WRONG[problem], Reply(good())])
    assert isinstance(page, Page) and page.blocks[0].text == TEXT
    assert page.reason.startswith("answer 3") and page.confidence == 0.7
    assert [sent["temperature"] for sent in requests] == LADDER[:3]
    assert [sent["seed"] for sent in requests] == [0, 1, 2]


def test_at_the_end_of_the_ladder_the_page_failed_with_all_attempts_told():
    page, requests = read([WRONG["cut off"], WRONG["empty"], WRONG["cut off"]])
    assert page == Failure(1, "vision_failed", "no answer will do: cut off (7), empty (1)", page.attempts)
    assert [attempt.temperature for attempt in page.attempts] == LADDER
    assert [sent["temperature"] for sent in requests] == LADDER


@pytest.mark.parametrize(
    ("reply", "error", "count"),
    [(Reply(status=400, body=b"maximum context length"), "too_long", 1), (Reply(status=500), "no_answer", 2)],
    ids=["refused", "fails"],
)
def test_a_page_that_the_server_will_not_answer_fails_at_once(reply, error, count):
    page, requests = read([reply])
    assert isinstance(page, Failure) and page.error == error and len(requests) == count


def test_a_turned_page_is_drawn_upright_and_asked_again_once():
    page, requests = read([Reply(good("garbled", turn=90)), Reply(good())])
    assert isinstance(page, Page) and "turned by 90 degrees" in page.reason and page.confidence == 0.9
    pictures = [base64.b64decode(sent["messages"][0]["content"][0]["image_url"]["url"][22:]) for sent in requests]
    assert pictures == [PICTURES[TEXT, 0], PICTURES[TEXT, 90]]
    assert [sent["temperature"] for sent in requests] == [0.1, 0.1]
    page, requests = read([Reply(good(turn=90))], temperatures=[0.1, 0.2, 0.3])
    assert (
        isinstance(page, Failure)
        and [attempt.problem for attempt in page.attempts] == ["turned"] + ["still turned"] * 3
    )
    assert [attempt.rotate for attempt in page.attempts] == [0, 90, 90, 90]


def test_a_page_without_text_has_no_blocks_and_little_confidence():
    page, _ = read([Reply("---\nturn: 0\nlanguage: und\ntext: no\n---\nThe picture shows a harbour.")])
    assert isinstance(page, Page) and page.blocks == [] and page.confidence == 0.5
    assert page.reason == "answer 1 of the vision model, no text on it"


def test_text_is_not_believed_on_a_page_without_ink():
    page, requests = read([Reply(good())], request(""), temperatures=[0.1])
    assert isinstance(page, Failure) and page.attempts[0].problem == "more text than ink" and len(requests) == 1


def test_a_sound_text_layer_is_a_witness():
    page, _ = read([Reply(good(TEXT.replace("windy", "rainy")))], request(layer=TEXT))
    assert isinstance(page, Page) and 0.9 < page.confidence < 1
    invented = "A completely different page about the cooking of beans, of which the text layer knows nothing at all."
    page, _ = read([Reply(good(invented)), Reply(good())], request(layer=TEXT))
    assert isinstance(page, Page) and page.reason.startswith("answer 2") and page.confidence == 1
    page, _ = read([Reply("---\nturn: 0\nlanguage: en\ntext: no\n---")], request(layer=TEXT), temperatures=[0.1])
    assert isinstance(page, Failure) and page.attempts[0].problem == "disagrees with the text layer"


def test_a_page_that_cannot_be_drawn_is_a_failure():
    def broken(longest_side: int, rotate: int) -> bytes:
        raise Unreadable("timeout", "not drawn in time")

    for render, error in ((broken, "timeout"), (lambda *_: b"\x89PNG nonsense", "broken_picture")):
        page, requests = read([Reply(good())], PageRequest(7, 595, 842, render))
        assert isinstance(page, Failure) and (page.number, page.error) == (7, error) and not requests


def test_the_same_pages_again_cost_nothing(tmp_path):
    with simulated_model_server([WRONG["cut off"], Reply(good())], ["small"]) as server:
        options = Vision(url=server.url, model="small", concurrency=1)
        runs = []
        for _ in range(2):
            with ServedModel(options, str(tmp_path)) as model:
                runs.append(list(read_pages(model, [request(number=number) for number in (1, 2)], options)))
        assert runs[0] == runs[1] and len(server.requests) == 2


def test_pages_come_in_order_and_are_drawn_one_at_a_time_whatever_the_server_does():
    """The first request for every page fails in one way or another, and the pages are as from a sound server."""
    drawing = Counter()
    seen: set[str] = set()
    lock = threading.Lock()

    def script(sent, number):
        with lock:
            first = (name := sent["messages"][0]["content"][0]["image_url"]["url"][-40:]) not in seen
            seen.add(name)
        faults = [Reply(status=503, headers={"Retry-After": "0.05"}), Reply(status=500), Reply(cut_after=30)]
        return faults[number % 3] if first else Reply(good(), wait=0.01 * (number % 4))

    def use_the_file() -> None:
        drawing["now"] += 1
        drawing["most"] = max(drawing["most"], drawing["now"])
        time.sleep(0.002)
        drawing["now"] -= 1

    def make(number: int) -> PageRequest:
        use_the_file()

        def render(longest_side: int, rotate: int) -> bytes:
            use_the_file()
            return PICTURES[TEXT, 0] + str(number).encode().rjust(30, b"0")  # behind the end of a PNG

        return PageRequest(number, 595, 842, render)

    with simulated_model_server(script, ["small"]) as server:
        options = Vision(url=server.url, model="small", concurrency=4, attempts=8)
        with ServedModel(options) as model:
            pages = list(read_pages(model, (make(number) for number in range(1, 25)), options))
            assert model.take_counts()["retries"] == 24
    assert [page.number for page in pages] == list(range(1, 25))
    assert all(isinstance(page, Page) and page.blocks[0].text == TEXT for page in pages)
    assert drawing["most"] == 1


def test_nothing_is_drawn_after_the_pages_were_closed():
    drawn: list[int] = []

    def make(number: int) -> PageRequest:
        def render(longest_side: int, rotate: int) -> bytes:
            drawn.append(number)
            return PICTURES[TEXT, rotate]

        return PageRequest(number, 595, 842, render)

    with simulated_model_server([Reply(good(), wait=0.05)], ["small"]) as server:
        options = Vision(url=server.url, model="small", concurrency=2)
        with ServedModel(options) as model:
            pages = read_pages(model, map(make, range(100)), options)
            next(pages)
            pages.close()
            before = len(drawn)
            time.sleep(0.3)
            assert len(drawn) == before < 10


def test_one_page_in_250_may_fall_back():
    options = Vision(url="http://localhost:1/v1", model="small")
    assert vision.too_many_fallbacks(1, 249, options)
    assert not vision.too_many_fallbacks(1, 250, options)
    assert not vision.too_many_fallbacks(0, 1, options)
    assert vision.too_many_fallbacks(3, 500, options)


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "---\nturn: 0\nlanguage: de\ntext: yes\n---\nWörter",
        "\n\n---\nlanguage: DE\ntext: Yes\nturn: 0°\n---\n\nWörter\n",
        "```markdown\n---\nturn: 0\nlanguage: de\ntext: yes\n---\nWörter\n```",
        "---\nturn: 0\nlanguage: de\ntext: yes\n---\n```markdown\nWörter\n```\n",
        '---\nturn: "0"\nlanguage: "de"\ntext: true\nnotes: none\n---\nWörter![a picture](http://invented/1.png)',
    ],
)
def test_ways_to_say_the_same(answer):
    assert read_answer(answer) == vision.Reading(0, "de", "Wörter")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Wörter",
        "---\nWörter\n---\nWörter",
        "---\nturn: 45\nlanguage: de\ntext: yes\n---\nWörter",
        "---\nturn: 0\nlanguage: de\n---\nWörter",
        "---\nturn: 0\nlanguage: de\ntext: yes\nWörter",
        "---\nturn: 0\nlanguage: de\ntext: yes\n---\n   \n",
        "Here it is:\n---\nturn: 0\nlanguage: de\ntext: yes\n---\nWörter",
    ],
)
def test_answers_without_the_form(answer):
    assert read_answer(answer) is None


@pytest.mark.parametrize(
    "text",
    [
        "I can't assist with that.",
        "The image shows a table of numbers.",
        "There is no legible text on this page.",
        "抱歉，我无法识别这张图片。",
        "Es tut mir leid, das kann ich nicht lesen.",
    ],
)
def test_refusals(text):
    assert judge_answer(Answer(good(text), "stop"), 10**6, "")[1] == "speaks instead of reading"


def test_a_page_may_tell_of_being_sorry():
    text = "I'm sorry to hear that, he said. " + TEXT + " " + TEXT[::-1]
    assert judge_answer(Answer(good(text), "stop"), 10**6, "")[1] == ""


@given(st.text(max_size=400))
@settings(max_examples=200)
def test_no_answer_breaks_the_checks(text):
    for answer in (text, good(text), "---\n" + text):
        reading, problem = judge_answer(Answer(answer, "stop"), 1000, text)
        assert problem or (reading is not None and not set(reading.text) & set("\x02\r\x00"))


@pytest.mark.parametrize("evil", ["---\n" * 50_000, "```\n" * 50_000, "![" * 100_000, "![](" * 50_000, "- \n" * 60_000])
def test_hostile_answers_take_no_time(evil):
    start = time.process_time()
    for answer in (evil, good(evil), "```markdown\n" + evil):
        judge_answer(Answer(answer, "stop"), 10**6, "")
    assert time.process_time() - start < 2


def test_agreement_counts_and_forgets_order():
    assert vision.agreement("", "anything") == 1
    assert vision.agreement(TEXT, "") == 0
    halves = TEXT[len(TEXT) // 2 :] + "\n" + TEXT[: len(TEXT) // 2]
    assert vision.agreement(TEXT, halves) > 0.95
    assert vision.agreement("漢字かな交じり文です", "漢字かな交じり文です。") == 1
    assert vision.agreement("abcdefgh" * 4, "abcdefgh") < 0.3


@pytest.mark.shared_data
def test_true_pages_are_within_the_bounds(shared_data: Path):
    """The text layer of real pages, taken as an answer to their picture, is neither too long nor repeated too much."""
    files = ["debian/install.ro.pdf", "docling/normal_4pages.pdf", "plumber/senate-expenditures.pdf"]
    files = [shared_data / "pdf" / name for name in files]
    judged = 0
    for file in [file for file in files if file.exists()]:
        with pymupdf.open(file) as document:
            for page in list(document)[:4]:
                text = page.get_text()
                scale = 1288 / max(page.rect.width, page.rect.height)
                picture = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale)).tobytes("png")
                _, problem = judge_answer(Answer(good(text), "stop"), vision.count_ink(picture), text)
                assert problem == "", (file.name, page.number, problem)
                judged += 1
    assert judged >= 8
