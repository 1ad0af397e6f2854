"""Where every step stands: its stage, learning rate, batch and tokens. No torch, so that a plan can be printed.

The learning rate is a continuous function of the tokens done: the shares of warm-up and decay mean the same data
whatever a batch ramp does to the number of steps, and stages compare by their fall per token. The update that takes a
run from x - 1 to x steps uses the rate at x. So the last update of a stage uses the stage's end value exactly, and the
first update of a run is not wasted on zero.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.errors import ConfigError
from schemas.recipe import LearningRate, Pretrain, TrainingStage


class Level(NamedTuple):
    """Steps of one batch size: the first of them and the sequences before it, both counted inside the stage."""

    step: int
    sequence: int
    size: int


@dataclass(frozen=True)
class Batches:
    """How the sequences of a stage are shared out to its steps, all counted from 0 inside the stage."""

    levels: tuple[Level, ...]  # in order; the last one has no end

    @classmethod
    def equal(cls, size: int) -> "Batches":
        return cls((Level(0, 0, size),))

    @classmethod
    def ramp(cls, start: int, size: int, sequences: int) -> "Batches":
        """Batches of start, 2 start, 3 start, ... for equal parts of the first `sequences`, then of `size`.

        The batch grows linearly with the tokens done, as in GPT-3 (arXiv 2005.14165). A level takes whole steps and may
        so reach into the next one, which is then that much shorter, or left out.
        """
        levels: list[Level] = []
        step = done = 0
        rungs = size // start - 1
        for rung in range(1, rungs + 1):
            steps = max(0, _ceil(_ceil(sequences * rung, rungs) - done, rung * start))
            if steps:
                levels.append(Level(step, done, rung * start))
            step, done = step + steps, done + steps * rung * start
        return cls((*levels, Level(step, done, size)))

    def size(self, step: int) -> int:
        """Sequences of a step."""
        return self._at_step(step).size

    def first(self, step: int) -> int:
        """The first sequence of a step; also the number of sequences in the first `step` steps."""
        level = self._at_step(step)
        return level.sequence + (step - level.step) * level.size

    def step_of(self, sequence: int) -> int:
        """The step that reads a sequence of the stage: the inverse of `first`."""
        level = self.levels[bisect.bisect_right(self.levels, sequence, key=lambda level: level.sequence) - 1]
        return level.step + (sequence - level.sequence) // level.size

    def _at_step(self, step: int) -> Level:
        return self.levels[bisect.bisect_right(self.levels, step, key=lambda level: level.step) - 1]


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


@dataclass(frozen=True)
class Span:
    """One stage on the axis of global steps; its rates are those before, at the top and at the end.

    `rope_base` is None up to the first stage that states one: the model's own holds.
    """

    stage: TrainingStage
    begin: int
    steps: int
    batches: Batches
    start: float
    peak: float
    final: float
    rope_base: float | None

    @property
    def end(self) -> int:
        return self.begin + self.steps

    @property
    def sequences(self) -> int:
        return self.batches.first(self.steps)

    @property
    def tokens(self) -> int:
        """Of all its steps, padding included."""
        return self.sequences * self.stage.sequence_length


def check_training(pretrain: Pretrain) -> None:
    """Refuse at once what a training would refuse after hours of work on its data.

    Raises:
        ConfigError: see `spans`.
    """
    spans(pretrain)


def batches_of(stage: TrainingStage) -> Batches:
    ramp = stage.batch_ramp
    if ramp is None:
        return Batches.equal(stage.batch_size)
    return Batches.ramp(ramp.start, stage.batch_size, round(ramp.share * (stage.tokens // stage.sequence_length)))


def spans(pretrain: Pretrain) -> list[Span]:
    """The stages one after the other, each from the learning rate at which the one before ended.

    A stage has as many steps as its tokens fill; what is left is less than a batch.

    Raises:
        ConfigError: a stage's tokens do not fill one step, or its learning rate would jump at its beginning.
    """
    found: list[Span] = []
    begin, rate, base = 0, 0.0, None
    for stage in pretrain.stages:
        key = f"pretrain.stages.{stage.name}"
        batches = batches_of(stage)
        steps = batches.step_of(stage.tokens // stage.sequence_length)
        if steps == 0:
            raise ConfigError(
                f"{key}.tokens: {stage.tokens} does not fill one step of {batches.size(0)} sequences x "
                f"{stage.sequence_length} tokens; raise tokens or lower batch_size"
            )
        settings = stage.learning_rate
        peak = rate if settings.peak is None else settings.peak
        if found and peak != rate and not settings.warmup:
            raise ConfigError(
                f"{key}.learning_rate.peak: {peak:g} is not {rate:g}, where stage {found[-1].stage.name} ends, so the "
                "learning rate would jump; give a warmup, or leave peak out to go on from there"
            )
        final = peak if settings.shape == "constant" else settings.end
        base = stage.rope_base or base
        found.append(Span(stage, begin, steps, batches, rate, peak, final, base))
        begin, rate = begin + steps, final
    return found


def span_at(plan: list[Span], step: int) -> Span:
    """The stage of the update that follows `step` updates; after the last one, the last stage."""
    return plan[min(bisect.bisect_right([span.end for span in plan], step), len(plan) - 1)]


def tokens_at(plan: list[Span], step: int) -> int:
    """Training tokens of the first `step` updates, padding included."""
    return sum(
        span.batches.first(min(max(step - span.begin, 0), span.steps)) * span.stage.sequence_length for span in plan
    )


def learning_rate(plan: list[Span], done: float) -> float:
    """The learning rate when `done` steps are done."""
    span = next((span for span in plan if done <= span.end), plan[-1])
    settings = span.stage.learning_rate
    share = _share(span, done - span.begin)
    if share >= 1:
        return span.final
    if share < settings.warmup:
        return span.start + (span.peak - span.start) * (share / settings.warmup)
    progress = max(0.0, 1 - (1 - share) / _decay(settings))
    fall = {
        "constant": 0.0,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "linear": progress,
        "1-sqrt": math.sqrt(progress),
    }[settings.shape]
    return span.peak * (1 - fall) + span.final * fall


def _decay(settings: LearningRate) -> float:
    """Share of a stage's tokens, at its end, in which its learning rate falls."""
    return 1 - settings.warmup if settings.decay is None else settings.decay


def _share(span: Span, done: float) -> float:
    """Share of a stage's tokens that its first `done` steps take."""
    whole = math.floor(done)
    return (span.batches.first(whole) + (done - whole) * span.batches.size(whole)) / span.sequences


def timeline(pretrain: Pretrain) -> list[dict[str, Any]]:
    """One row a stage, for a table. Shares are of the stage's tokens."""
    return [
        {
            "stage": span.stage.name,
            "first_step": span.begin + 1,
            "steps": span.steps,
            "sequences": span.sequences,
            "tokens": span.tokens,
            "sequence_length": span.stage.sequence_length,
            "batch_size": span.stage.batch_size,
            "batch_size_start": span.batches.size(0),
            "ramp": 0.0 if span.stage.batch_ramp is None else span.stage.batch_ramp.share,
            "rope_base": span.rope_base,
            "document_mask": span.stage.document_mask,
            "learning_rate_start": span.start,
            "learning_rate_peak": span.peak,
            "learning_rate_end": span.final,
            "learning_rate_shape": span.stage.learning_rate.shape,
            "warmup": span.stage.learning_rate.warmup,
            "decay": _decay(span.stage.learning_rate),
        }
        for span in spans(pretrain)
    ]
