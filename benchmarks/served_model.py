"""What asking costs: CPU time a request beside the bare HTTP client, of answers that are kept, and of a page's checks.

    python -m benchmarks.served_model [--requests 400]

A simulated server in a process of its own answers at once, so only the client's CPU time is counted; a real model takes
seconds for an answer. `openai` is a row where it is installed. Also shows how many threads keep how many requests under
way when answers take 0.1 s.
"""

import argparse
import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import httpx2
import pymupdf

from annotators.answers import Answer
from annotators.served_model import Message, ServedModel, in_order
from pipelines.extract.vision import PROMPT, count_ink, judge_answer
from schemas.recipe import Server
from tests.scripted_model_server import Reply, simulated_model_server

TEXT = "The harbour of Kiel lies at the end of a fjord of seventeen kilometres, and it is windy. " * 30
IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 40_000  # as long as that of a page
QUESTIONS: dict[str, list[Message]] = {
    "text of 2,700 characters": [{"role": "user", "content": TEXT}],
    "picture of 440 kB": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": IMAGE}}, {"type": "text", "text": PROMPT}],
        }
    ],
}


def _serve(pipe: Connection, wait: float) -> None:
    with simulated_model_server([Reply(TEXT, wait=wait)], ["small"]) as server:
        pipe.send(server.url)
        pipe.recv()


@contextmanager
def server_process(wait: float = 0.0) -> Iterator[str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, wait))
    process.start()
    yield ours.recv()
    ours.send("over")
    process.join()


def cpu_ms(work: Callable[[int], Any], count: int) -> float:
    work(-1)  # connects
    start = time.process_time()
    for number in range(count):
        work(number)
    return 1e3 * (time.process_time() - start) / count


def bare(url: str, messages: list[Message]) -> Callable[[int], Any]:
    client = httpx2.Client(timeout=60)

    def ask(number: int) -> str:
        body = {"model": "small", "messages": messages, "temperature": 0.1, "seed": number, "max_tokens": 8000}
        answer: str = client.post(f"{url}/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        return answer

    return ask


def official(url: str, messages: list[Message]) -> Callable[[int], Any] | None:
    try:
        openai = importlib.import_module("openai")
    except ImportError:
        return None
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    return lambda number: client.chat.completions.create(
        model="small", messages=messages, temperature=0.1, seed=number, max_tokens=8000
    )


def requests_table(count: int) -> None:
    print(f"{'CPU ms a request':26} {'httpx2':>8} {'openai':>8} {'ours':>8} {'ours, new and kept':>19} {'kept':>8}")
    with server_process() as url, tempfile.TemporaryDirectory() as folder:
        server = Server(url=url, model="small")
        for name, messages in QUESTIONS.items():
            peer = official(url, messages)
            row = [cpu_ms(bare(url, messages), count), cpu_ms(peer, count) if peer else float("nan")]
            for answers in (None, folder, folder):
                with ServedModel(server, answers) as model:
                    row.append(cpu_ms(lambda number: model.ask(messages, 0.1, number), count))  # noqa: B023
            print(f"{name:26} {row[0]:8.2f} {row[1]:8.2f} {row[2]:8.2f} {row[3]:19.2f} {row[4]:8.2f}")


def concurrency_table() -> None:
    print("\nanswers that take 0.1 s, 20 for each thread")
    with server_process(0.1) as url:
        for threads in (1, 8, 32):
            with ServedModel(Server(url=url, model="small", concurrency=threads)) as model:
                start = time.perf_counter()
                questions = range(20 * threads)
                list(in_order(lambda n: model.ask([{"role": "user", "content": "x"}], 0.1, n), questions, threads))
                rate = 20 * threads / (time.perf_counter() - start)
            print(f"  concurrency {threads:3}: {rate:6.1f} answers a second, {rate * 0.1 / threads:.0%} of the ideal")


def page_checks() -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_textbox((40, 40, 560, 800), TEXT, fontsize=10)
        picture = page.get_pixmap(matrix=pymupdf.Matrix(1288 / 842, 1288 / 842)).tobytes("png")
    answer = Answer(f"---\nturn: 0\nlanguage: en\ntext: yes\n---\n{TEXT}", "stop")
    ink = cpu_ms(lambda _: count_ink(picture), 20)
    judge = cpu_ms(lambda _: judge_answer(answer, 10**6, TEXT), 50)
    print(f"\na page of 1,288 pixels: {ink:.1f} CPU ms to count its ink, {judge:.1f} to judge 2,700 characters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    requests_table(parser.parse_args().requests)
    concurrency_table()
    page_checks()


if __name__ == "__main__":
    main()
