"""Where every step stands: its stage, its learning rate, its tokens. No torch, so that a plan can be printed.

The learning rate is a continuous function of the steps done, x in [0, total]; the update that takes a run from x - 1
to x steps uses its value at x. So the last update of a stage uses the stage's end value exactly, and the first update
of a run is not wasted on zero.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Any

from schemas.errors import ConfigError
from schemas.recipe import Pretrain, TrainingStage


@dataclass(frozen=True)
class Span:
    """One stage on the axis of global steps; its rates are those before, at the top and at the end."""

    stage: TrainingStage
    begin: int
    steps: int
    start: float
    peak: float
    final: float

    @property
    def end(self) -> int:
        return self.begin + self.steps

    @property
    def tokens_per_step(self) -> int:
        return self.stage.batch_size * self.stage.sequence_length


def check_training(pretrain: Pretrain) -> None:
    """Refuse at once what a training would refuse after hours of work on its data.

    Raises:
        ConfigError: a stage's tokens do not fill one step.
    """
    spans(pretrain)


def spans(pretrain: Pretrain) -> list[Span]:
    """The stages one after the other, each from the learning rate at which the one before ended.

    Raises:
        ConfigError: a stage's tokens do not fill one step.
    """
    found: list[Span] = []
    begin, rate = 0, 0.0
    for stage in pretrain.stages:
        steps = stage.tokens // (stage.batch_size * stage.sequence_length)
        if steps == 0:
            raise ConfigError(
                f"pretrain.stages.{stage.name}.tokens: {stage.tokens} does not fill one step of "
                f"{stage.batch_size} sequences x {stage.sequence_length} tokens; raise tokens or lower batch_size"
            )
        peak = rate if stage.learning_rate.peak is None else stage.learning_rate.peak
        final = peak if stage.learning_rate.shape == "constant" else stage.learning_rate.end
        found.append(Span(stage, begin, steps, rate, peak, final))
        begin, rate = begin + steps, final
    return found


def span_at(plan: list[Span], step: int) -> Span:
    """The stage of the update that follows `step` updates; after the last one, the last stage."""
    return plan[min(bisect.bisect_right([span.end for span in plan], step), len(plan) - 1)]


def tokens_at(plan: list[Span], step: int) -> int:
    """Training tokens of the first `step` updates, padding included."""
    return sum(min(max(step - span.begin, 0), span.steps) * span.tokens_per_step for span in plan)


def learning_rate(plan: list[Span], done: float) -> float:
    """The learning rate when `done` steps are done."""
    span = next((span for span in plan if done <= span.end), plan[-1])
    share = (done - span.begin) / span.steps
    warmup = span.stage.learning_rate.warmup
    if share < warmup:
        return span.start + (span.peak - span.start) * (share / warmup)
    progress = (share - warmup) / (1 - warmup)
    if progress >= 1:
        return span.final
    fall = {
        "constant": 0.0,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "linear": progress,
        "1-sqrt": math.sqrt(progress),
    }[span.stage.learning_rate.shape]
    return span.peak * (1 - fall) + span.final * fall


def timeline(pretrain: Pretrain) -> list[dict[str, Any]]:
    """One row a stage, for a table."""
    return [
        {
            "stage": span.stage.name,
            "steps": span.steps,
            "tokens": span.steps * span.tokens_per_step,
            "sequence_length": span.stage.sequence_length,
            "batch_size": span.stage.batch_size,
            "rope_base": span.stage.rope_base,
            "learning_rate_start": span.start,
            "learning_rate_peak": span.peak,
            "learning_rate_end": span.final,
        }
        for span in spans(pretrain)
    ]
