"""What a command costs, CPU seconds, wall time and peak memory of all its processes; and where peers are installed."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Spent:
    cpu: float  # seconds, user and system
    wall: float  # seconds
    peak: int  # bytes: the largest sum of the resident sizes of all processes that was seen
    code: int  # exit status
    output: str  # standard output and error


def peer_python(name: str) -> str | None:
    """The Python of the environment build/<name>, or what SLUICE_<NAME>_PYTHON names; None where there is none."""
    default = Path(__file__).parents[1] / "build" / name / "bin" / "python"
    python = os.environ.get(f"SLUICE_{name.upper()}_PYTHON", str(default))
    return python if Path(python).exists() else None


def measure(command: Sequence[str], check: bool = True) -> Spent:
    """Run a command to its end; RuntimeError with its output where it fails, unless `check` is false."""
    with tempfile.TemporaryFile("w+") as said:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        tree = _Tree(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        tree.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(command)} gave {process.returncode}:\n{output[-3000:]}")
    # A process that its parent did not wait for is missing from the usage, one that lived shortly from the samples.
    # The largest resident size of `usage` is no use: it includes that of this process when it forked.
    cpu = max(usage.ru_utime + usage.ru_stime, sum(tree.cpu.values()))
    return Spent(cpu, wall, tree.peak, process.returncode, output)


class _Tree:
    """Looks at a process and its descendants from a thread until told to stop."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self.cpu: dict[int, float] = {}
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._pid)
            while not self._ended.wait(SAMPLE_SECONDS):
                size = 0
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
                        size += process.memory_info().rss
                        self.peak = max(self.peak, _largest_size(process.pid))
                        times = process.cpu_times()
                        self.cpu[process.pid] = times.user + times.system
                self.peak = max(self.peak, size)


def _largest_size(pid: int) -> int:
    """Bytes that the process itself has had resident at once so far; 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
