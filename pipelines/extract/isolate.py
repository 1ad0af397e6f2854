"""Readers of hostile formats in a child process, with a limit on time and memory.

A PDF or an HTML page can crash its parser, keep it busy for hours or fill the memory. Each thread that extracts
borrows a child process, which lives for many documents, so the price of safety is one round trip on a pipe. It
is a plain subprocess and no `multiprocessing`: Beam's workers may be daemons and always hold threads.

Messages in both directions: two 4-byte big-endian lengths, that much JSON, that much payload.

A reader is a function `(payload: bytes, **request) -> answer` or `-> (answer, bytes)`, with values that JSON can carry.
"""

import atexit
import contextlib
import importlib
import json
import os
import resource
import selectors
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from schemas.errors import DataError

READERS = {
    "docx": "pipelines.extract.docx:read_docx",
    "epub": "pipelines.extract.epub:read_epub",
    "html": "pipelines.extract.html:read_html",
    "pdf_open": "pipelines.extract.pdf_child:open_document",
    "pdf_page": "pipelines.extract.pdf_child:read_page",
    "pdf_render": "pipelines.extract.pdf_child:render_page",
}
MEMORY_BYTES = 4 << 30  # address space of a child
ANSWERS_PER_CHILD = 5_000  # then it is replaced, which bounds what leaks in a parser can add up to
_START_SECONDS = 120.0
# NumPy would take 40 MB of the address space for every core, and CPU time faster than the clock runs.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_HEADER = struct.Struct(">II")
_ROOT = str(Path(__file__).resolve().parents[2])
# The package is found beside this very file, never in the working folder of whoever runs it.
_BOOT = f"import sys; sys.path.insert(0, {_ROOT!r}); from pipelines.extract.isolate import serve; serve()"


class _Child:
    """One child process; `ask` is used by one thread at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        assert self.process.stdin and self.process.stdout
        self.answered = -1  # the greeting is not an answer
        self._stdin = self.process.stdin
        self._descriptor = self.process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._descriptor, selectors.EVENT_READ)
        try:
            self._receive(_START_SECONDS)
        except (EOFError, TimeoutError):
            raise DataError(f"{sys.executable} did not start a reader of files: status {self.kill()}") from None

    def ask(self, request: dict[str, Any], payload: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Raises TimeoutError after `seconds`, EOFError or OSError when the process died."""
        head = json.dumps(request).encode()
        self._stdin.write(_HEADER.pack(len(head), len(payload)) + head)
        self._stdin.write(payload)
        self._stdin.flush()
        return self._receive(seconds)

    def _receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + seconds
        length, size = _HEADER.unpack(self._read(_HEADER.size, deadline))
        answer: dict[str, Any] = json.loads(self._read(length, deadline))
        data = self._read(size, deadline)
        self.answered += 1
        return answer, data

    def _read(self, size: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < size:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(self._descriptor, min(size - len(received), 1 << 20))
            if not chunk:
                raise EOFError
            received += chunk
        return bytes(received)

    def kill(self) -> int:
        """End the process and return its exit status, negative for a signal."""
        self._selector.close()
        self.process.kill()
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        return status


_idle: list[_Child] = []
_lock = threading.Lock()


def _forget_children() -> None:
    # A forked copy of this process must not talk on the pipes of its parent's children.
    global _idle, _lock
    _idle, _lock = [], threading.Lock()


def close_children() -> None:
    """End every idle child; the next document starts a new one."""
    with _lock:
        children, _idle[:] = list(_idle), []
    for child in children:
        child.kill()


os.register_at_fork(after_in_child=_forget_children)
atexit.register(close_children)


class Isolated:
    """A child process borrowed for one file: its requests go to the same process for as long as that one lives."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._fresh = False  # whether the child has seen nothing but this file

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the child back, or end it if it may not be used again."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.answered >= ANSWERS_PER_CHILD:
            child.kill()
        else:
            with _lock:
                _idle.append(child)

    def ask(
        self, reader: str, request: dict[str, Any], payload: bytes = b"", seconds: float = 60.0
    ) -> tuple[dict[str, Any], bytes]:
        """The answer of one of `READERS` and what bytes it brings, or an `error` and a `message` when it gave none.

        Errors of the isolation itself: `timeout`, `crashed` and `out_of_memory`.
        """
        request = {"reader": reader, "seconds": seconds, **request}
        if self._child is None:
            with _lock:
                self._child = _idle.pop() if _idle else None
            self._fresh = self._child is None
        answer, data = self._ask(self._child or _Child(), request, payload, seconds)
        if answer.get("error") in {"crashed", "out_of_memory"} and not self._fresh:
            # What earlier files left behind may be to blame: judge this one by a fresh child.
            self._fresh = True
            answer, data = self._ask(_Child(), request, payload, seconds)
        return answer, data

    def _ask(
        self, child: _Child, request: dict[str, Any], payload: bytes, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        self._child = None
        try:
            answer, data = child.ask(request, payload, seconds)
        except TimeoutError:
            child.kill()
            return {"error": "timeout", "message": f"not read within {seconds:g} seconds"}, b""
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(1)  # let it die of its own signal, so that the status says which
            return {"error": "crashed", "message": f"the reader died with status {child.kill()}"}, b""
        except BaseException:
            child.kill()
            raise
        if answer.get("error") in {"crashed", "out_of_memory"}:
            child.kill()
        else:
            self._child = child
        return answer, data


def read_isolated(reader: str, request: dict[str, Any], payload: bytes, seconds: float) -> dict[str, Any]:
    """The answer to a single request; see `Isolated.ask`."""
    with Isolated() as isolated:
        return isolated.ask(reader, request, payload, seconds)[0]


def _answer(request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        module, _, name = READERS[request.pop("reader")].partition(":")
        request.pop("seconds")
        answer = getattr(importlib.import_module(module), name)(payload, **request)
        return answer if isinstance(answer, tuple) else (dict(answer), b"")
    except MemoryError:
        return {"error": "out_of_memory", "message": f"needs more than {MEMORY_BYTES >> 30} GiB of memory"}, b""
    except Exception as error:  # any failure of a parser is a rejected document, with the reason kept
        # Rejects are compared byte by byte between machines: no local path may get into them.
        message = f"{type(error).__name__}: {error}".replace(str(request.get("path", "\0")), "the file")
        return {"error": "crashed", "message": message}, b""


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        os._exit(0)  # the parent has closed the pipe
    return data


def serve() -> None:
    """The child's life: answer requests from standard input until it closes."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a parser that prints must not write into the answers
    requests = sys.stdin.buffer
    answer, data = dict[str, Any](), b""
    while True:
        body = json.dumps(answer).encode()
        answers.write(_HEADER.pack(len(body), len(data)) + body + data)
        answers.flush()
        head, payload_size = _HEADER.unpack(_read_exactly(requests, _HEADER.size))
        request = json.loads(_read_exactly(requests, head))
        payload = _read_exactly(requests, payload_size)
        # Should the parent be killed meanwhile, nobody would end a parser that hangs, except the kernel.
        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = int(used.ru_utime + used.ru_stime + request["seconds"]) + 5
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        answer, data = _answer(request, payload)
