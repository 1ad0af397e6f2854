"""What engines of character recognition have in common: the interface, the answer, and processes with limits."""

import math
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.extract.page import Block, Unreadable

LEAST_CONFIDENCE = 0.6
"""A page below has too many wrong letters to be of use."""

Render = Callable[..., bytes]  # render(dpi=300) -> PNG of the page


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was read. Boxes, `width` and `height` are points of the page once it is turned upright."""

    blocks: list[Block]
    confidence: float  # from 0 to 1: mean of the engine's over all letters
    packs: tuple[str, ...]  # a guess for the next page: the language packs that read this one, if they read it well
    rotation: int  # degrees clockwise by which the page had to be turned: 0, 90, 180 or 270
    width: float
    height: float
    reason: str  # in a few words how it was read

    @property
    def text(self) -> str:
        return "\n\n".join(block.text for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Missing:
    """An engine or a language pack that is not installed; the sentence names the package to install."""

    message: str


class Engine(Protocol):
    def identity(self) -> str:
        """What decides its answers besides the picture: the engine's version and its models."""
        ...

    def read(
        self, render: Render, width: float, height: float, known: Sequence[str] = (), seconds: float = 120.0
    ) -> Recognised:
        """Read a page.

        Args:
            render: gives the page as PNG at `dpi` dots per inch, or fewer.
            width, height: of the page in points.
            known: `packs` of the page before, a guess that saves the detection of the language.
            seconds: for the whole page.

        Raises:
            Unreadable: with error `timeout`, `ocr_failed` or `needs_ocr` (no pack for the script of the page); and
                whatever `render` raises.
        """
        ...


MEMORY_BYTES = 4 << 30  # address space of tesseract; a page of 20 million pixels takes about one


def run_bounded(command: list[str], data: bytes, seconds: float, memory: int = MEMORY_BYTES) -> bytes:
    """Standard output of a process that gets `data` on its input.

    Raises TimeoutError when it takes longer and was killed with all its children, Unreadable when it dies.
    """
    name = Path(command[0]).name
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Unreadable("ocr_failed", f"{name} does not start: {error.strerror}") from None
    try:
        # The limits come before the first byte of the picture; CPU time ends it should this process be killed.
        with suppress(ProcessLookupError, AttributeError, ValueError):
            cpu = math.ceil(seconds) + 5
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu))
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        answer, _ = process.communicate(data, timeout=seconds)
    except BaseException as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError from None
        raise
    if process.returncode:
        raise Unreadable("ocr_failed", f"{name} ended with status {process.returncode}")
    return answer
