"""A step that went wrong: how it is recognised, and what is written down about it.

Loss or gradient that is not finite is always wrong. With `deviations` set, so is a loss or a norm of the gradient that
stands out from those of the last steps. What was seen travels in the checkpoints, so a run that goes on judges alike.
"""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schemas.errors import DataError
from schemas.recipe import Guard

FILE = "bad_steps.jsonl"
LEAST = 16  # steps that must have been seen before one can stand out


@dataclass
class History:
    """Of the last steps of the stage, oldest first; `skipped` counts the bad ones since the start of the run."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0

    def add(self, settings: Guard, loss: float, norm: float) -> None:
        """Remember a step, as far as it is finite, and a bad one as no more than just bad.

        Left out, a lasting change could never become what is usual; as it was, one spike would hide the next.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.losses = [*self.losses, min(loss, _limit(settings, self.losses))][-settings.window :]
            self.norms = [*self.norms, min(norm, _limit(settings, self.norms))][-settings.window :]


def _limit(settings: Guard, before: list[float]) -> float:
    """The largest value that does not stand out from those before; infinite while they are too few to tell."""
    if settings.deviations is None or len(before) < min(LEAST, settings.window):
        return math.inf
    return statistics.fmean(before) + settings.deviations * statistics.pstdev(before)


def fault(settings: Guard, history: History, loss: float, norm: float) -> str | None:
    """What is wrong with a step, for a person; None if nothing is."""
    for what, value, before in (("loss", loss, history.losses), ("norm of the gradient", norm, history.norms)):
        if not math.isfinite(value):
            return f"the {what} is {value}"
        if value > (limit := _limit(settings, before)):
            return (
                f"the {what} is {value:.4g}, above {limit:.4g}: {settings.deviations:g} standard deviations over the "
                f"mean ({statistics.fmean(before):.4g}) of the last {len(before)} steps"
            )
    return None


def norms_by_layer(model: nn.Module) -> dict[str, float]:
    """Norm of the gradient of every layer and of what is outside the layers, by name."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            group = ".".join(parts[:2]) if parts[0] == "layers" else parts[0]
            square = parameter.grad.detach().float().square().sum()
            squares[group] = squares[group] + square if group in squares else square
    return {group: math.sqrt(float(square)) if square >= 0 else math.nan for group, square in squares.items()}


def write(folder: Path, record: dict[str, Any]) -> None:
    """Append a record to the file."""
    line = json.dumps(plain(record), sort_keys=True, allow_nan=False)
    try:
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise DataError(f"{folder / FILE}: cannot be written ({error.strerror}); start again to go on") from error


def plain(value: Any) -> Any:
    """A value with words for the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value
