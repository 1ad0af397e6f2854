"""The client of served models against a real HTTP server that is scripted to fail (simulated), one fault at a time."""

import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from annotators import served_model
from annotators.answers import Answer, AnswerFolder
from annotators.served_model import COUNTERS, ServedModel, Unanswered, cost, in_order
from schemas.errors import ConfigError, DataError
from schemas.recipe import Server
from tests.scripted_model_server import Reply, SimulatedModelServer, simulated_model_server

QUESTION = [{"role": "user", "content": "Is this text readable?"}]
KEY = "sk-not-for-anybodys-eyes-4711"
PAID = {"prompt_tokens": 100, "completion_tokens": 10}
NONE = dict.fromkeys(COUNTERS, 0)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def settings(server: SimulatedModelServer, **keys: object) -> Server:
    return Server(url=server.url, model="small", **{"seconds": 5.0, "attempts": 3, **keys})


def serve(*replies: Reply):
    return simulated_model_server(list(replies), ["small"])


# --- faults that pass -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500, body=b"Internal Server Error", content_type="text/plain"),
        Reply(status=502, body=b"<html>Bad Gateway</html>", content_type="text/html"),
        Reply(status=504, body=b""),
        Reply(status=429, body=b'{"error": {"message": "slow down"}}'),
        Reply(status=503, body=b"loading"),
        Reply(status=408),
        Reply(cut_after=25),
        Reply(cut_after=0),
        Reply(body=b'{"choices": [{"message": {"content": "ye'),
        Reply(body=b"<html>Sign in to the network</html>", content_type="text/html"),
        Reply(body=b"[" * 100_000),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
        Reply(body=b'{"error": {"message": "an error that calls itself fine"}}'),
        Reply(body=b"\xff\xfe\x00"),
    ],
    ids=lambda fault: f"{fault.status}-{fault.cut_after}-{(fault.body or b'')[:24]!r}",
)
def test_a_fault_that_passes_costs_one_retry(fault):
    with serve(fault, Reply("fine")) as server, ServedModel(settings(server)) as model:
        assert model.ask(QUESTION, 0.1).text == "fine"
        assert model.take_counts() == NONE | {"requests": 2, "retries": 1} | PAID
        assert server.requests[0] == server.requests[1]


@pytest.mark.parametrize("fault", [Reply(wait=30), Reply(slow=0.05)], ids=["hangs", "trickles"])
def test_an_answer_that_takes_too_long_is_asked_for_again(fault):
    with serve(fault, Reply("fine")) as server, ServedModel(settings(server, seconds=0.4)) as model:
        start = time.monotonic()
        assert model.ask(QUESTION, 0.1).text == "fine"
        assert time.monotonic() - start < 3
        assert model.take_counts()["retries"] == 1


def test_a_json_answer_counts_whatever_its_content_type():
    with serve(Reply("fine", content_type="text/plain")) as server, ServedModel(settings(server)) as model:
        assert model.ask(QUESTION, 0.1) == Answer("fine", "stop", 100, 10)


@pytest.mark.parametrize("finish", ["length", "content_filter", None])
def test_the_finish_reason_is_the_callers_to_judge(finish):
    with serve(Reply("half", finish=finish)) as server, ServedModel(settings(server)) as model:
        assert model.ask(QUESTION, 0.1).finish_reason == (finish or "none")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": -5}])
def test_a_server_need_not_count_tokens(usage):
    with serve(Reply("fine", usage=usage)) as server, ServedModel(settings(server)) as model:
        assert model.ask(QUESTION, 0.1) == Answer("fine", "stop", 0, 0)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_back_every_thread(status):
    replies = count()
    with (
        simulated_model_server(
            lambda request, _: (
                Reply(status=status, headers={"Retry-After": "0.5"}) if next(replies) == 0 else Reply("fine")
            ),
            ["small"],
        ) as server,
        ServedModel(settings(server)) as model,
    ):
        model.ask(QUESTION, 0.1)
        first, second = server.times
        assert second - first >= 0.5
        server.times.clear()
        # A second refusal while others wait to ask: nobody asks before the time is over.
        replies = count()
        begin = time.monotonic()
        first_ask = threading.Thread(target=model.ask, args=(QUESTION, 0.2))
        first_ask.start()
        while len(server.times) < 1:
            time.sleep(0.005)
        time.sleep(0.1)
        assert list(in_order(lambda seed: model.ask(QUESTION, 0.1, seed).text, range(3), 3)) == ["fine"] * 3
        first_ask.join()
        assert sorted(server.times)[1] - begin >= 0.5


def test_retry_after_may_be_a_date():
    assert served_model._retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert served_model._retry_after("Wed, 21 Oct 2065 07:28:00 GMT") > 1e6
    assert served_model._retry_after(" 2.5 ") == 2.5
    for nonsense in ("", "soon", "inf", "nan", "-1"):
        assert not served_model._retry_after(nonsense)


# --- faults that do not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=401, body=b'{"error": {"message": "Incorrect key ' + KEY.encode() + b'"}}'), "OPENAI_API_KEY"),
        (Reply(status=403), "OPENAI_API_KEY"),
        (Reply(status=404, body=b'{"detail": "Not Found"}'), "/v1"),
        (Reply(status=405), "HTTP 405"),
        (Reply(status=301, headers={"Location": "http://127.0.0.1:9/v1"}), "final address"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_wrong_configuration_stops_at_the_first_request(reply, message, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(reply) as server, ServedModel(settings(server)) as model:
        with pytest.raises(ConfigError, match=message) as caught:
            model.ask(QUESTION, 0.1)
        assert KEY not in str(caught.value)
        with pytest.raises(ConfigError, match=message):  # and nobody asks again
            model.ask(QUESTION, 0.2)
        assert len(server.requests) == 1


def test_a_model_that_is_not_served_is_named_with_those_that_are():
    with simulated_model_server([Reply(status=404, body=b"{}")], ["large", "tiny"]) as server:
        with ServedModel(settings(server)) as model, pytest.raises(ConfigError, match=r"'small'.*large, tiny"):
            model.ask(QUESTION, 0.1)
        with ServedModel(settings(server)) as model, pytest.raises(ConfigError, match=r"'small'.*large, tiny"):
            model.check()
        assert len(server.requests) == 1


def test_check_passes_a_server_that_has_the_model_and_names_one_that_is_not_there():
    with serve(Reply()) as server:
        with ServedModel(settings(server)) as model:
            model.check()
        address = settings(server)
        assert not server.requests
    with ServedModel(address) as model, pytest.raises(ConfigError, match="cannot be reached"):
        model.check()


def test_a_server_that_was_never_there_stops_the_run_soon():
    with serve(Reply()) as server:
        address = settings(server, attempts=100)
    with ServedModel(address) as model:
        with pytest.raises(ConfigError, match="cannot be reached"):
            model.ask(QUESTION, 0.1)
        assert model.take_counts()["requests"] == 3


def test_a_server_that_goes_away_or_stays_busy_stops_the_run_without_rejecting_anything():
    with serve(Reply()) as server:
        model = ServedModel(settings(server))
        model.ask(QUESTION, 0.1)
    with model, pytest.raises(DataError, match="after 3 tries"):
        model.ask(QUESTION, 0.2)
    with serve(Reply(status=429)) as server, ServedModel(settings(server)) as model:
        with pytest.raises(DataError, match="HTTP 429, after 3 tries"):
            model.ask(QUESTION, 0.1)
        assert len(server.requests) == 3
    hour = Reply(status=503, headers={"Retry-After": "3600"})
    with serve(hour) as server, ServedModel(settings(server)) as model:
        with pytest.raises(DataError, match="3600 seconds"):
            model.ask(QUESTION, 0.1)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}, "too_long"),
        (400, {"object": "error", "message": "bad image", "code": 400}, "refused"),
        (413, {}, "too_long"),
        (422, {"detail": [{"type": "missing"}]}, "refused"),
    ],
)
def test_a_refused_question_is_given_up_at_once_and_others_go_on(status, said, error):
    refusal = Reply(status=status, body=json.dumps(said).encode())
    with serve(refusal, Reply("fine")) as server, ServedModel(settings(server)) as model:
        with pytest.raises(Unanswered) as caught:
            model.ask(QUESTION, 0.1)
        assert caught.value.error == error
        assert server.url not in caught.value.message
        assert model.ask(QUESTION, 0.2).text == "fine"
        assert model.take_counts() == NONE | {"requests": 2, "unanswered": 1} | PAID


def test_a_question_that_always_fails_is_given_up_and_others_go_on():
    def script(request, _):
        return Reply(status=500) if "bad" in request["messages"][0]["content"] else Reply("fine")

    with simulated_model_server(script, ["small"]) as server, ServedModel(settings(server, attempts=2)) as model:
        for number in range(10):  # a whole hostile file: the test question shows that the server is well
            with pytest.raises(Unanswered, match="HTTP 500; 2 tries"):
                model.ask([{"role": "user", "content": f"bad {number}"}], 0.1)
        assert model.ask(QUESTION, 0.1).text == "fine"


def test_a_server_that_fails_every_question_stops_the_run():
    with serve(Reply(status=500)) as server, ServedModel(settings(server, attempts=1)) as model:
        for number in range(7):
            with pytest.raises(Unanswered):
                model.ask(QUESTION, 0.1, number)
        with pytest.raises(DataError, match="test question"):
            model.ask(QUESTION, 0.1, 7)


def test_a_server_that_refuses_every_question_is_a_wrong_configuration():
    refusal = Reply(status=400, body=b'{"error": {"message": "small is not a multimodal model"}}')
    with serve(refusal) as server, ServedModel(settings(server)) as model:
        for number in range(7):
            with pytest.raises(Unanswered):
                model.ask(QUESTION, 0.1, number)
        with pytest.raises(ConfigError, match="not a multimodal model"):
            model.ask(QUESTION, 0.1, 7)


def test_what_stops_one_thread_stops_all():
    def script(request, number):
        return Reply(status=401) if number == 5 else Reply(status=500)

    with simulated_model_server(script, ["small"]) as server, ServedModel(settings(server, attempts=100)) as model:
        with pytest.raises(ConfigError):
            list(in_order(lambda seed: model.ask(QUESTION, 0.1, seed), range(50), 8))
        time.sleep(0.3)
        assert len(server.requests) < 25


# --- concurrency ------------------------------------------------------------------------------------------------


def test_no_more_requests_are_under_way_than_allowed():
    with serve(Reply(wait=0.03)) as server, ServedModel(settings(server, concurrency=3)) as model:
        assert len(list(in_order(lambda seed: model.ask(QUESTION, 0.1, seed), range(24), 9))) == 24
        assert server.most_under_way == 3


def test_in_order_keeps_the_order_and_looks_ahead_a_little():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 * (7 * number % 5))
        return number * number

    results = in_order(work, endless(), 4)
    assert [next(results) for _ in range(50)] == [number * number for number in range(50)]
    assert len(taken) <= 50 + 8
    before = threading.active_count()
    results.close()
    for _ in range(100):
        if threading.active_count() < before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before - 4


def test_in_order_raises_where_the_work_failed():
    def work(number: int) -> int:
        if number == 3:
            raise DataError("three")
        return number

    results = in_order(work, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(results)


# --- kept answers -----------------------------------------------------------------------------------------------


def test_a_rerun_asks_nothing(tmp_path):
    for folder in (str(tmp_path / "answers"), "memory://test_a_rerun_asks_nothing"):
        with simulated_model_server(lambda _, number: Reply(f"answer {number}"), ["small"]) as server:
            with ServedModel(settings(server), folder) as model:
                first = [model.ask(QUESTION, 0.1, seed) for seed in range(5)]
                assert model.take_counts()["requests"] == 5
            with ServedModel(settings(server), folder) as model:
                assert [model.ask(QUESTION, 0.1, seed) for seed in range(5)] == first
                assert model.take_counts() == NONE | {"kept_answers": 5}
            assert len(server.requests) == 5
        with ServedModel(settings(server), folder) as model:  # nor does it need the server
            assert model.ask(QUESTION, 0.1, 4) == first[4]


def test_whatever_changes_the_question_is_asked_anew(tmp_path):
    with serve(Reply()) as server:
        for server_settings, question, temperature, seed in [
            (settings(server), QUESTION, 0.1, 0),
            (settings(server), QUESTION, 0.1, 1),
            (settings(server), QUESTION, 0.2, 0),
            (settings(server), [{"role": "user", "content": "Is this text readable"}], 0.1, 0),
            (settings(server).model_copy(update={"model": "other"}), QUESTION, 0.1, 0),
            (settings(server, max_tokens=5), QUESTION, 0.1, 0),
        ]:
            with ServedModel(server_settings, str(tmp_path)) as model:
                model.ask(question, temperature, seed)
        assert len(server.requests) == 6
        moved = settings(server, attempts=1, seconds=1, concurrency=1, input_price=9)
        with ServedModel(moved, str(tmp_path)) as model:
            model.ask(QUESTION, 0.1, 0)
        assert len(server.requests) == 6


def test_failures_are_not_kept(tmp_path):
    replies = serve(Reply(status=400, body=b"no"), Reply("fine"))
    with replies as server, ServedModel(settings(server), str(tmp_path)) as model:
        with pytest.raises(Unanswered):
            model.ask(QUESTION, 0.1)
        assert model.ask(QUESTION, 0.1).text == "fine"


@pytest.mark.parametrize("damage", ["cut", "empty", "letter", "other", "deep", "list", "extra"])
def test_a_damaged_answer_is_asked_for_anew(tmp_path, damage):
    answers = simulated_model_server(lambda _, number: Reply(f"answer {number}"), ["small"])
    with answers as server, ServedModel(settings(server), str(tmp_path)) as model:
        model.ask(QUESTION, 0.1)
        model.ask(QUESTION, 0.2)
        file, other = sorted(tmp_path.rglob("*.json"), key=lambda path: "answer 1" in path.read_text())
        data = file.read_bytes()
        file.write_bytes(
            {
                "cut": data[:-9],
                "empty": b"",
                "letter": data.replace(b"answer 0", b"answer 9"),
                "other": other.read_bytes(),
                "deep": b"[" * 100_000,
                "list": b"[1, 2]",
                "extra": data.replace(b'"text"', b'"more": 1, "text"'),
            }[damage]
        )
        assert model.ask(QUESTION, 0.1).text == "answer 2"
        assert model.ask(QUESTION, 0.1).text == "answer 2"
        assert len(server.requests) == 3


def test_workers_share_a_folder(tmp_path):
    """Many threads with clients of their own write and read the same answers at the same time."""
    with serve(Reply("word " * 5_000)) as server:

        def work(number: int) -> str:
            with ServedModel(settings(server), str(tmp_path)) as model:
                return model.ask(QUESTION, 0.1, number % 3).text

        assert set(in_order(work, range(12), 6)) == {"word " * 5_000}
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json"] * 3


def test_texts_of_all_kinds_survive_the_folder(tmp_path):
    folder = AnswerFolder(str(tmp_path))
    for text in ("", "\ud800 alone", "\x00\x02", "漢字 עברית 🜁", "line\u2028line\r\n"):
        folder.put("ab" * 16, Answer(text, "stop"))
        assert folder.get("ab" * 16) == Answer(text, "stop")


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/answers"):
        AnswerFolder(str(tmp_path / "file" / "answers"))
    folder = AnswerFolder(str(tmp_path / "answers"))
    (tmp_path / "answers" / "ab").write_text("in the way")
    with pytest.raises(DataError, match="cannot be kept"):
        folder.put("ab" * 16, Answer("text", "stop"))


# --- the key, the costs -----------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    echo = {"error": {"message": f"bad request with key {KEY}"}}
    with serve(Reply(status=400, body=json.dumps(echo).encode()), Reply("fine")) as server:
        with ServedModel(settings(server, key_variable="MY_KEY"), str(tmp_path)) as model:
            with pytest.raises(Unanswered, match=r"key \[key\]") as caught:
                model.ask(QUESTION, 0.1)
            model.ask(QUESTION, 0.1)
            assert KEY not in f"{caught.value!r} {model.server!r} {model!r}"
        assert server.keys == [f"Bearer {KEY}"] * 2
        assert KEY not in json.dumps(server.requests)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text and "readable" not in caplog.text
    with serve(Reply()) as server, ServedModel(settings(server, key_variable="NO_SUCH_KEY")) as model:
        model.ask(QUESTION, 0.1)
        assert server.keys == [None]


def test_a_key_that_cannot_be_sent_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        ServedModel(Server(url="http://localhost:1/v1", model="small", key_variable="MY_KEY"))
    assert "two" not in str(caught.value)


def test_the_cost_is_that_of_the_counted_tokens():
    server = Server(url="http://localhost:1/v1", model="small", input_price=0.5, output_price=2)
    assert cost(NONE | {"prompt_tokens": 3_000_000, "completion_tokens": 250_000}, server) == 2.0


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host/v1?key=1", "http://a b/"])
def test_an_address_must_be_one(url):
    with pytest.raises(ValueError, match="address of a server"):
        Server(url=url, model="small")


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        Server(url=f"http://user:{KEY}@host/v1", model="small")


def test_answers_stay_where_they_are_when_the_disk_is_asked_for_another_path(tmp_path: Path):
    with serve(Reply()) as server, ServedModel(settings(server), f"file://{tmp_path}/a b") as model:
        model.ask(QUESTION, 0.1)
    assert len(list((tmp_path / "a b").rglob("*.json"))) == 1
