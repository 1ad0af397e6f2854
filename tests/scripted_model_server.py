"""A SIMULATED model server: real HTTP on a real port, but no model. What it answers, and how it fails, is scripted.

It serves tests of the client, where a fault must happen at a given request and every request must be counted. What a
real model says is tested elsewhere, with a real server.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One scripted answer to a chat request; the default is a good one."""

    text: str | None = "yes"
    finish: str | None = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of a chat completion
    content_type: str = "application/json"
    wait: float = 0.0  # seconds before the first byte
    slow: float = 0.0  # seconds between the bytes of the body
    cut_after: int | None = None  # bytes of the body, then the connection ends
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})


Script = Callable[[dict[str, Any], int], Reply]
"""(request's body, its number from 0) -> what to answer."""


class SimulatedModelServer:
    """`requests` holds the bodies of all chat requests in the order of arrival, `keys` their authorization."""

    def __init__(self, script: Script, models: list[str]) -> None:
        self.script = script
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []  # time.monotonic() of their arrival
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.connections: set[socket.socket] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _handler(server: SimulatedModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.connections.add(self.connection)

        def finish(self) -> None:
            with server.lock:
                server.connections.discard(self.connection)
            super().finish()

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(Reply(body=json.dumps({"data": [{"id": name} for name in server.models]}).encode()))
            else:
                self._send(Reply(status=404, body=b'{"detail": "Not Found"}'))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/chat/completions":
                self._send(Reply(status=404, body=b'{"detail": "Not Found"}'))
                return
            with server.lock:
                number = len(server.requests)
                server.requests.append(request)
                server.times.append(time.monotonic())
                server.keys.append(self.headers.get("authorization"))
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
            try:
                reply = server.script(request, number)
                server.over.wait(reply.wait)
            finally:
                with server.lock:
                    server.under_way -= 1
            with contextlib.suppress(OSError):  # the client may have gone
                self._send(reply)

        def _send(self, reply: Reply) -> None:
            body = _completion(reply) if reply.body is None else reply.body
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.cut_after is not None:
                self.wfile.write(body[: reply.cut_after])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif reply.slow:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if server.over.wait(reply.slow):
                        break
            else:
                self.wfile.write(body)

    return Handler


def _completion(reply: Reply) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish}
    value: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
    if reply.usage is not None:
        value["usage"] = reply.usage
    return json.dumps(value).encode()


@contextlib.contextmanager
def simulated_model_server(script: Script | list[Reply], models: list[str]) -> Iterator[SimulatedModelServer]:
    """A list answers request after request; its last reply stands for all that follow."""
    if isinstance(script, list):
        replies = script
        script = lambda _, number: replies[min(number, len(replies) - 1)]  # noqa: E731
    server = SimulatedModelServer(script, models)
    try:
        yield server
    finally:
        server.close()
