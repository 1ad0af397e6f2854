"""What a training says of itself: one JSON line a step, and the same numbers for TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

from schemas.errors import DataError

LINES, BOARD = "metrics.jsonl", "tensorboard"


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
        except OSError as error:
            raise DataError(
                f"{self._lines.name}: cannot be written ({error.strerror}); start again to go on"
            ) from error
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, line["step"])

    def sync(self) -> None:
        """Put the lines on the disk before a checkpoint that counts on them."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        self._lines.close()
        self._board.close()


def drop_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and what was cut off in the writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    kept = 0
    with path.open("rb+") as handle:
        for text in handle:
            try:
                if not text.endswith(b"\n") or json.loads(text)["step"] > step:
                    break
            except ValueError:
                break  # cut off when the process was killed; nothing after it counts
            kept += len(text)
        handle.truncate(kept)


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished or running training."""
    return [json.loads(line) for line in (folder / LINES).read_text("utf-8").splitlines()]
