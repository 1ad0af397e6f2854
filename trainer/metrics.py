"""What a training says of itself: one JSON line a step, and the same numbers for TensorBoard."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from schemas.errors import DataError

LINES, BOARD = "metrics.jsonl", "tensorboard"
BLOCK = 1 << 16  # bytes read at a time from the end of the lines


class Metrics:
    """Appends to metrics.jsonl and to TensorBoard's log in a folder.

    Args:
        step: what was written of later steps is dropped, so that a run that goes on from a checkpoint leaves one line
            a step. A negative step drops everything.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        path = folder / LINES
        drop_after(path, step)
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1 if step >= 0 else None)

    def write(self, line: dict[str, Any]) -> None:
        """One step: numbers at the top level also go to TensorBoard."""
        try:
            self._lines.write(json.dumps(line, sort_keys=True) + "\n")
            self._lines.flush()
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, line["step"])
        except OSError as error:
            raise self._unwritable(error) from error

    def sync(self) -> None:
        """Put the lines on the disk before a checkpoint that counts on them."""
        try:
            os.fsync(self._lines.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        # Every line was flushed when it was written, so what cannot be written now is one that failed then, or is in
        # the lines and only missing from TensorBoard.
        with contextlib.suppress(OSError):
            self._lines.close()
        with contextlib.suppress(OSError):
            self._board.close()

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"{self._lines.name}: cannot be written ({error.strerror or error}); start again to go on")


def drop_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and what was cut off in the writing.

    It reads from the end, so that a long training goes on as soon as a short one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("rb+") as handle:
        end = handle.seek(0, os.SEEK_END)
        while end:
            begin = _line_begin(handle, end)
            handle.seek(begin)
            text = handle.read(end - begin)
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut off when the process was killed
                if text.endswith(b"\n") and json.loads(text)["step"] <= step:
                    break
            end = begin
        handle.truncate(end)


def _line_begin(handle: BinaryIO, end: int) -> int:
    """Where the line begins that ends before `end`."""
    at = end - 1  # its own newline, if it has one
    while at > 0:
        begin = max(0, at - BLOCK)
        handle.seek(begin)
        found = handle.read(at - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return 0


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished or running training."""
    return [json.loads(line) for line in (folder / LINES).read_text("utf-8").splitlines()]
