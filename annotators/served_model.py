"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, a provider's), asked so that a run can rely on it.

What can go wrong, and what becomes of it:

- The configuration is wrong (no such address, 401, 403, 404, a redirect): `ConfigError`, at once.
- The server is busy (429, 503): it is left alone as long as `Retry-After` says, by every thread.
- It fails, hangs, cuts the connection or answers nonsense: asked again, ever more slowly, `attempts` times. Then that
  one question is given up (`Unanswered`), unless the server no longer answers a test question either.
- It stays busy, cannot be reached, or fails the test question: `DataError`. That is no fault of a document, so no
  document is rejected for it; the answers so far are kept, and a rerun goes on from there.
- It refuses one question (400, 413, 422): `Unanswered`, at once.

Waiting times carry a random part, so that many workers do not come back at the same moment; no answer depends on them.
Nothing is logged. The key is read from the environment and stands in no message.
"""

import json
import os
import random
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import httpx2
import xxhash

from annotators.answers import Answer, AnswerFolder
from schemas.errors import ConfigError, DataError
from schemas.hashing import canonical_json
from schemas.recipe import Server

Item = TypeVar("Item")
Result = TypeVar("Result")
Message = dict[str, Any]  # {"role": ..., "content": ...} as in the chat completions of OpenAI

COUNTERS = ("requests", "retries", "kept_answers", "unanswered", "prompt_tokens", "completion_tokens")

_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between tries; they double
_LONGEST_RETRY_AFTER = 600.0  # a server that asks for more is not waited for
_FIRST_TRIES = 3  # of a server that was never reached; a wrong address should not take minutes
_FAILURES_IN_A_ROW = 8  # then a test question decides whether the server or the questions are to blame
_ANSWER_BYTES = 64 << 20
_MESSAGE = 200
_RUN_AGAIN = "run again when it is well, it goes on from the answers that are kept"
_BUSY = frozenset({429, 503})
_PASSING = frozenset({408, 409, 425})  # and all of 5xx
_TEST_QUESTION: list[Message] = [{"role": "user", "content": "Answer with the word yes."}]
_TOO_LONG = ("context length", "too long", "maximum context", "context window", "input length")


class Unanswered(Exception):
    """One question got no answer; `error` is a short class (`too_long`, `refused`, `no_answer`)."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass
class _Again(Exception):
    """A try that failed in a way that may pass."""

    fault: Literal["unreachable", "busy", "failed"]
    message: str
    wait: float | None = None  # seconds that the server asked for


def cost(counts: dict[str, int], server: Server) -> float:
    """What the counted tokens cost by the prices of the recipe."""
    sent, answered = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    return (sent * server.input_price + answered * server.output_price) / 1e6


class ServedModel:
    """A client for one model, for any number of threads; at most `server.concurrency` requests are under way.

    Args:
        server: address, model, limits and prices.
        answers: folder or `fsspec` URL where answers are kept; None keeps none.

    Raises:
        ConfigError: the key in the environment cannot be sent, or the folder of answers cannot be used.
    """

    def __init__(self, server: Server, answers: str | None = None) -> None:
        self.server = server
        self._kept = AnswerFolder(answers) if answers else None
        self._key = os.environ.get(server.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the environment variable {server.key_variable} holds no key that can be sent")
        self._client = httpx2.Client(
            headers={"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
            | ({"authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx2.Timeout(server.seconds, connect=min(_CONNECT_SECONDS, server.seconds), pool=None),
            verify=_certificates(),
            limits=httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency),
        )
        self._slots = threading.BoundedSemaphore(server.concurrency)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._not_before = 0.0  # by time.monotonic()
        self._reached = self._answered = False
        self._failures = 0  # since the last answer
        self._stop: ConfigError | DataError | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> "ServedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what waits, and close the connections."""
        with self._lock:
            self._stop = self._stop or DataError(f"the client of {self.server.model} is closed")
        self._stopped.set()
        self._client.close()

    def take_counts(self) -> dict[str, int]:
        """What was counted since the last call: plain numbers that a stage can sum up, the names in `COUNTERS`.

        `requests` counts every try and `retries` those after a first one; `kept_answers` cost nothing.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return {name: counts[name] for name in COUNTERS}

    def ask(self, messages: list[Message], temperature: float, seed: int = 0) -> Answer:
        """The answer to a chat: the kept one if this very question was asked before.

        The key of a kept answer is the hash of the request's body: messages (with images), model and all sampling
        settings, but not the address. An answer that was cut off is kept as well; judging it is the caller's.

        Raises:
            Unanswered: this question has no answer; others may.
            ConfigError, DataError: the run must stop.
        """
        body = self._body(messages, temperature, seed, self.server.max_tokens)
        key = xxhash.xxh3_128_hexdigest(body)
        if self._kept and (answer := self._kept.get(key)):
            self._count(kept_answers=1)
            return answer
        try:
            answer = self._try_often(body)
        except Unanswered as error:
            self._count(unanswered=1)
            self._suspect(error)
            raise
        if self._kept:
            self._kept.put(key, answer)
        return answer

    def _body(self, messages: list[Message], temperature: float, seed: int, max_tokens: int) -> bytes:
        request = {
            "model": self.server.model,
            "messages": messages,
            "temperature": temperature,
            "seed": seed,
            "max_tokens": max_tokens,
        }
        return canonical_json(request).encode("utf-8", "backslashreplace")  # a lone surrogate is \ud800 in JSON too

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    # --- tries --------------------------------------------------------------------------------------------------

    def _try_often(self, body: bytes) -> Answer:
        tries = 0
        while True:
            tries += 1
            self._wait_for_turn()
            try:
                answer = self._try(body, tries)
            except _Again as again:
                never_reached = again.fault == "unreachable" and not self._reached
                if tries >= (min(_FIRST_TRIES, self.server.attempts) if never_reached else self.server.attempts):
                    raise self._given_up(again, tries) from None
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
                if again.wait is not None:
                    wait = again.wait + min(wait, _FIRST_WAIT)
                if again.fault == "busy":
                    with self._lock:
                        self._not_before = max(self._not_before, time.monotonic() + wait)
                else:
                    self._stopped.wait(wait)
                continue
            with self._lock:
                self._answered, self._failures = True, 0
            return answer

    def _wait_for_turn(self) -> None:
        """Until the server wants to be asked again; raises what stopped the client meanwhile."""
        while not self._stopped.is_set():
            wait = self._not_before - time.monotonic()
            if wait <= 0:
                return
            self._stopped.wait(wait)
        error = self._stop
        assert error is not None
        raise type(error)(str(error))

    def _given_up(self, again: _Again, tries: int) -> Exception:
        times = f"{tries} tries" if tries > 1 else "one try"
        if again.fault == "failed":
            return Unanswered("no_answer", f"{again.message}; {times}")
        where = f"{self.server.url} ({self.server.model})"
        if again.fault == "unreachable" and not self._reached:
            message = f"{where} cannot be reached: {again.message}; start the server, or correct its `url`"
            return self._stop_with(ConfigError(message))
        message = f"{where}: {again.message}, after {times}; {_RUN_AGAIN}"
        return self._stop_with(DataError(message))

    def _stop_with(self, error: ConfigError | DataError) -> ConfigError | DataError:
        """The error to raise; every other thread raises the first of them as soon as it looks up."""
        with self._lock:
            self._stop = self._stop or error
        self._stopped.set()
        return error

    def _suspect(self, error: Unanswered) -> None:
        """Count a question without an answer; too many in a row stop the run, if the server is to blame."""
        with self._lock:
            if error.error == "too_long" or (error.error == "refused" and self._answered):
                return
            self._failures += 1
            if self._failures < _FAILURES_IN_A_ROW:
                return
            self._failures = 0
        where = f"{self.server.url} ({self.server.model})"
        if error.error == "refused":
            raise self._stop_with(ConfigError(f"{where} refuses every question: {error.message}"))
        try:
            self._try(self._body(_TEST_QUESTION, 0.0, 0, 16), 1)
        except (_Again, Unanswered) as failed:
            message = f"{where} gave no answer {_FAILURES_IN_A_ROW} times in a row, nor to a test question"
            raise self._stop_with(DataError(f"{message}: {failed.message}; {_RUN_AGAIN}")) from None

    # --- one try ------------------------------------------------------------------------------------------------

    def _try(self, body: bytes, tries: int) -> Answer:
        with self._slots:
            self._count(requests=1, retries=int(tries > 1))
            status, headers, data = self._post(body)
        if status == 200:
            answer = _read_answer(data)
            self._count(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
            return answer
        said = self._said(data)
        if status in _BUSY:
            wait = _retry_after(headers.get("retry-after", ""))
            if wait is not None and wait > _LONGEST_RETRY_AFTER:
                message = f"asks to be left alone for {wait:.0f} seconds (HTTP {status}); run again later"
                raise self._stop_with(
                    DataError(f"{self.server.url}: the server {message}: the answers so far are kept")
                )
            raise _Again("busy", f"HTTP {status}", wait)
        if status >= 500 or status in _PASSING:
            raise _Again("failed", f"HTTP {status}")
        if status in (400, 413, 415, 422):
            too_long = status == 413 or any(sign in said.lower() for sign in _TOO_LONG)
            raise Unanswered("too_long" if too_long else "refused", f"HTTP {status}: {said}")
        raise self._stop_with(ConfigError(self._wrong(status, said)))

    def _post(self, body: bytes) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and the whole body of one answer; `_Again` when there is none in time."""
        deadline = time.monotonic() + self.server.seconds
        url = self.server.url.rstrip("/") + "/chat/completions"
        data = bytearray()
        try:
            with self._client.stream("POST", url, content=body) as response:
                self._reached = True
                for chunk in response.iter_raw():
                    data += chunk
                    if time.monotonic() > deadline:  # bytes that trickle in keep every single read in time
                        raise _Again("failed", f"no whole answer within {self.server.seconds:g} seconds")
                    if len(data) > _ANSWER_BYTES:
                        raise _Again("failed", f"an answer of more than {_ANSWER_BYTES} bytes")
                return response.status_code, response.headers, bytes(data)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _Again("unreachable", _reason(error)) from None
        except httpx2.TimeoutException:
            self._reached = True
            raise _Again("failed", f"no whole answer within {self.server.seconds:g} seconds") from None
        except httpx2.TransportError:
            self._reached = True
            raise _Again("failed", "the connection was cut") from None
        except RuntimeError:
            if self._stopped.is_set():  # closed while a thread was about to ask
                self._wait_for_turn()
            raise

    def _said(self, data: bytes) -> str:
        """What the server says of an error, in one short line without the key."""
        try:
            value = json.loads(data)
            value = value.get("error", value)
            text = value.get("message") or value.get("detail") if isinstance(value, dict) else value
        except (ValueError, RecursionError, AttributeError):
            text = data[:4096].decode("utf-8", "replace")
        line = " ".join(str(text).split())
        if self._key:
            line = line.replace(self._key, "[key]")
        line = "".join(character for character in line if character.isprintable())
        return line if len(line) <= _MESSAGE else f"{line[: _MESSAGE - 1]}…"

    def _wrong(self, status: int, said: str) -> str:
        server = self.server
        if status in (401, 403):
            has = "is not accepted" if self._key else "is not set"
            return f"{server.url}: HTTP {status}: the key in the environment variable {server.key_variable} {has}"
        if status == 404:
            names = self._served_names()
            if names and server.model not in names:
                return f"{server.url} serves no model {server.model!r}; it serves: {', '.join(names)}"
            return f"{server.url}: HTTP 404: {said or 'not found'}; `url` should end like https://host/v1"
        if 300 <= status < 400:
            return f"{server.url}: HTTP {status}: the server is elsewhere; give its final address as `url`"
        return f"{server.url} ({server.model}): HTTP {status}: {said}"

    def _served_names(self) -> list[str]:
        try:
            response = self._client.get(self.server.url.rstrip("/") + "/models", timeout=_CONNECT_SECONDS)
            names = [str(model["id"]) for model in response.json()["data"]]
        except (httpx2.HTTPError, ValueError, RecursionError, KeyError, TypeError):
            return []
        return sorted(names)[:10]

    def check(self) -> None:
        """Ask the server which models it has, at no cost; raises ConfigError if it cannot serve this one."""
        try:
            url = self.server.url.rstrip("/") + "/models"
            status = self._client.get(url, timeout=min(_CONNECT_SECONDS, self.server.seconds)).status_code
        except httpx2.HTTPError as error:
            message = f"{self.server.url} ({self.server.model}) cannot be reached: {_reason(error)}"
            raise ConfigError(f"{message}; start the server, or correct its `url`") from None
        if status in (401, 403):
            raise ConfigError(self._wrong(status, ""))
        if (names := self._served_names()) and self.server.model not in names:
            raise ConfigError(self._wrong(404, ""))


@cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # takes longer than all the rest of a client


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "no connection in time"
    return " ".join(str(error).split())[:_MESSAGE] or type(error).__name__


def _retry_after(value: str) -> float | None:
    """Seconds from a `Retry-After` header: a number, or a date (RFC 9110, 10.2.3)."""
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _read_answer(data: bytes) -> Answer:
    """The first choice of a chat completion; `_Again` for what is none."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        text = choice["message"].get("content")
        finish = choice.get("finish_reason")
        usage = value.get("usage")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        raise _Again("failed", "the answer is no chat completion") from None
    if not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise _Again("failed", "the answer is no chat completion")
    tokens = [_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text or "", finish or "none", *tokens)


def _tokens(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


# --- many questions ---------------------------------------------------------------------------------------------


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`work` of every item, in the order of the items, with `threads` of them under way at a time.

    At most twice as many items are taken as have been given back and are under way, so that endless `items` need
    little memory. The threads end with the iterator; it does not wait for work that nobody will look at any more.
    """
    jobs: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()
    waiting: deque[Future[Result]] = deque()
    started = 0

    def run() -> None:
        while (job := jobs.get()) is not None:
            future, item = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work(item))
            except BaseException as error:  # it belongs to whoever takes the result
                future.set_exception(error)

    try:
        for item in items:
            future: Future[Result] = Future()
            waiting.append(future)
            jobs.put((future, item))
            if started < threads:
                started += 1
                threading.Thread(target=run, daemon=True).start()
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in range(started):
            jobs.put(None)
