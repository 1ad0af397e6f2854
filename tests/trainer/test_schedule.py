"""The schedule as a function of steps: seams, ends, signs, and stages that do not fill a step."""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.recipe import Pretrain
from trainer import metrics
from trainer.schedule import Batches, Span, check_training, learning_rate, span_at, spans, timeline, tokens_at
from trainer.stages import pretrain as train

MODEL = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8}
RATE = st.floats(1e-6, 1.0)


def pretrain(*stages: dict[str, Any]) -> Pretrain:
    base = {"sequence_length": 8, "batch_size": 2}
    named = [base | {"name": f"s{number}"} | stage for number, stage in enumerate(stages)]
    return Pretrain.model_validate({"model": MODEL, "stages": named})


@st.composite
def rates(draw: st.DrawFn, first: bool) -> dict[str, Any]:
    """A stage's part of the schedule; a peak of its own comes with a warm-up, else the rate would jump."""
    rate: dict[str, Any] = {
        "shape": draw(st.sampled_from(["cosine", "linear", "1-sqrt", "constant"])),
        "end": draw(st.one_of(st.just(0.0), RATE)),
    }
    if first or draw(st.booleans()):
        rate |= {"peak": draw(RATE), "warmup": draw(st.floats(0.01, 0.9))}
    if rate["shape"] != "constant" and draw(st.booleans()):
        rate["decay"] = draw(st.floats(0.02, 1.0)) * (1 - rate.get("warmup", 0.0))
    return rate


@st.composite
def plans(draw: st.DrawFn) -> Pretrain:
    """Up to four stages, some with a batch ramp."""
    stages = []
    for number in range(draw(st.integers(1, 4))):
        stage: dict[str, Any] = {"learning_rate": draw(rates(number == 0)), "batch_size": 2}
        if draw(st.booleans()):
            start = draw(st.integers(1, 5))
            stage["batch_size"] = start * draw(st.integers(1, 8))
            stage["batch_ramp"] = {"start": start, "share": draw(st.floats(0.01, 1.0))}
        least = 8 * stage["batch_size"]
        stage["tokens"] = least * draw(st.integers(1, 50)) + draw(st.integers(0, least - 1))
        stages.append(stage)
    return pretrain(*stages)


@given(plans())
def test_rates_are_continuous_bounded_and_end_exactly(settings: Pretrain) -> None:
    plan = spans(settings)
    assert learning_rate(plan, 0) == 0
    for span, stage in zip(plan, settings.stages):
        rate = stage.learning_rate
        assert learning_rate(plan, span.end) == (span.peak if rate.shape == "constant" else rate.end)
        values = [learning_rate(plan, span.begin + span.steps * share / 64) for share in range(65)]
        highest = max(span.start, span.peak, span.final)
        assert all(0 <= value <= highest * (1 + 1e-12) for value in values)
    for before, after in itertools.pairwise(plan):
        assert after.start == learning_rate(plan, before.end)
        # 1-sqrt falls infinitely fast at first, so what comes just after a seam is near it and not at it
        assert learning_rate(plan, before.end + 1e-9) == pytest.approx(after.start, rel=1e-3, abs=4e-4)


@given(plans())
def test_rates_follow_the_tokens(settings: Pretrain) -> None:
    """At the top where the warm-up's tokens are done, and still there where the decay's begin."""
    for number, stage in enumerate(settings.stages):
        span = spans(settings)[number]
        rate = stage.learning_rate
        kinks = [(rate.warmup, span.peak if rate.warmup else span.start)]
        if rate.decay is not None:
            kinks.append((1 - rate.decay, span.peak))
        for share, value in kinks:
            done = step_at(span, share * span.sequences)
            assert learning_rate(spans(settings), span.begin + done) == pytest.approx(value, rel=1e-6, abs=1e-5)


def step_at(span: Span, sequences: float) -> float:
    """The steps, with a fraction, that read so many sequences of a stage, by adding batches up."""
    step = 0
    while step < span.steps and sequences > span.batches.size(step):
        sequences -= span.batches.size(step)
        step += 1
    return step + sequences / span.batches.size(step)


@given(plans())
def test_steps_and_tokens_of_the_plan_add_up(settings: Pretrain) -> None:
    plan = spans(settings)
    total = plan[-1].end
    names = [span_at(plan, step).stage.name for step in range(total)]
    assert [len(list(group)) for _, group in itertools.groupby(names)] == [span.steps for span in plan]
    sizes = [span.batches.size(step) * span.stage.sequence_length for span in plan for step in range(span.steps)]
    for step in (0, total // 3, total // 2, total):
        assert tokens_at(plan, step) == sum(sizes[:step])
    assert sum(row["tokens"] for row in timeline(settings)) == tokens_at(plan, total)
    for span in plan:  # what is left does not fill one more step
        left = span.stage.tokens - span.tokens
        assert 0 <= left < span.batches.size(span.steps) * span.stage.sequence_length


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 3000))
def test_a_ramp_grows_with_the_sequences_done(start: int, rungs: int, ramp: int) -> None:
    batches = Batches.ramp(start, start * rungs, ramp)
    done = step = 0
    while done < ramp:
        # Within one batch of the straight line from `start` to the full size: the levels are whole and begin late.
        line = start + (rungs - 1) * start * done / ramp
        assert line - start <= batches.size(step) <= line
        assert batches.first(step) == done
        done += batches.size(step)
        step += 1
    assert [batches.size(later) for later in (step, step + 1, 10**9)] == [start * rungs] * 3


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 3000), st.integers(0, 10**12))
def test_the_step_of_a_sequence_is_the_inverse_of_the_first_sequence(
    start: int, rungs: int, ramp: int, sequence: int
) -> None:
    batches = Batches.ramp(start, start * rungs, ramp)
    for index in (sequence, sequence % (ramp + 100)):
        step = batches.step_of(index)
        assert batches.first(step) <= index < batches.first(step + 1)
        assert batches.step_of(batches.first(step)) == step


def test_a_ramp_costs_the_same_wherever_it_is_asked() -> None:
    """A plan of a million steps and more is a few levels, not a list of steps."""
    batches = Batches.ramp(32, 1024, 10**9)
    assert len(batches.levels) == 32
    assert batches.step_of(batches.first(123_456_789)) == 123_456_789


@given(
    peak=RATE,
    shapes=st.tuples(st.sampled_from(["cosine", "linear"]), st.sampled_from(["linear", "1-sqrt", "cosine"])),
    ends=st.tuples(st.floats(0.3, 0.6), st.floats(0.1, 0.3)),
    warmup=st.floats(0.001, 0.05),
    ramp=st.one_of(st.none(), st.fixed_dictionaries({"start": st.sampled_from([1, 4]), "share": st.floats(0.01, 0.2)})),
)
def test_the_stages_of_the_report(
    peak: float, shapes: tuple[str, str], ends: tuple[float, float], warmup: float, ramp: dict[str, Any] | None
) -> None:
    """S1 warms up and falls slowly, S2 falls faster per token from where S1 ended, S3 warms up again and ends at 0."""
    first = {"shape": shapes[0], "peak": peak, "end": ends[0] * peak, "warmup": warmup}
    second = {"shape": shapes[1], "end": ends[1] * ends[0] * peak}
    third = {"shape": "linear", "peak": 1.2 * ends[1] * ends[0] * peak, "end": 0, "warmup": 0.05}
    plan = spans(
        pretrain(
            {"tokens": 3_000_000, "rope_base": 1e4, "learning_rate": first, "batch_size": 16, "batch_ramp": ramp},
            {"tokens": 500_000, "learning_rate": second, "batch_size": 16},
            {"tokens": 50_000, "rope_base": 1e6, "learning_rate": third},
        )
    )

    def fall(span: Span) -> float:
        """Of the learning rate per token, from the top on, which is somewhere in a step."""
        top = step_at(span, span.stage.learning_rate.warmup * span.sequences)
        tokens = span.tokens * (1 - span.stage.learning_rate.warmup)
        return (learning_rate(plan, span.begin + top) - learning_rate(plan, span.end)) / tokens

    assert fall(plan[1]) > fall(plan[0]) > 0
    assert learning_rate(plan, plan[1].begin) == ends[0] * peak and learning_rate(plan, plan[-1].end) == 0
    assert [span.rope_base for span in plan] == [10_000, 10_000, 1_000_000]


def test_a_training_goes_through_a_ramp(toy: Any) -> None:
    stage = toy.recipe["pretrain"]["stages"][0]
    stage |= {"tokens": 24 * stage["sequence_length"], "batch_size": 6, "batch_ramp": {"start": 2, "share": 0.5}}
    job = toy.job(stages=[stage])
    output = train(job)
    lines = metrics.read(Path(job.output))
    sequences = [line["tokens"] // stage["sequence_length"] for line in lines]
    # A quarter of the 24 sequences by twos and a quarter by fours, which takes two whole steps.
    assert sequences == [0, 2, 4, 6, 10, 14, 20]
    assert output.counts["tokens"] == 20 * stage["sequence_length"]
    warmed = 0.3 * 20
    for done, line in zip(sequences[1:3], lines[1:3]):
        assert line["learning_rate"] == pytest.approx(0.01 * done / warmed)


@pytest.mark.parametrize(
    ("shape", "middle"), [("cosine", 0.6), ("linear", 0.6), ("1-sqrt", 1 - 0.8 * math.sqrt(0.5)), ("constant", 1.0)]
)
def test_shapes_half_way_down(shape: str, middle: float) -> None:
    plan = spans(pretrain({"tokens": 1600, "learning_rate": {"shape": shape, "peak": 1.0, "end": 0.2, "warmup": 0.5}}))
    assert learning_rate(plan, 25) == pytest.approx(0.5)
    assert learning_rate(plan, 75) == pytest.approx(middle)


def test_wsd_holds_the_peak_until_its_decay() -> None:
    rate = {"shape": "1-sqrt", "peak": 1.0, "end": 0.1, "warmup": 0.1, "decay": 0.2}
    plan = spans(pretrain({"tokens": 1600, "learning_rate": rate}))
    assert [learning_rate(plan, step) for step in (5, 10, 45, 80)] == pytest.approx([0.5, 1, 1, 1])
    assert learning_rate(plan, 85) == pytest.approx(1 - 0.9 * math.sqrt(1 / 4))
    assert learning_rate(plan, 100) == 0.1


def test_a_warmup_under_a_ramp_is_a_share_of_the_tokens() -> None:
    """A tenth of the tokens takes more than a tenth of the steps, as batches are small at first."""
    rate = {"shape": "linear", "peak": 1.0, "end": 0.0, "warmup": 0.1}
    stage = {"tokens": 8 * 3200, "batch_size": 32, "batch_ramp": {"start": 8, "share": 0.3}, "learning_rate": rate}
    plan = spans(pretrain(stage))
    # 3,200 sequences: 320 at 8, 16 and 24 a step, and 2,240 at 32. The 14th step of 24 reads on into the last part.
    assert [plan[0].batches.size(step) for step in (39, 40, 59, 60, 73, 74)] == [8, 16, 16, 24, 24, 32]
    assert plan[0].steps == 40 + 20 + 14 + (3200 - 976) // 32
    assert learning_rate(plan, 20) == pytest.approx(0.5, rel=1e-2)
    assert learning_rate(plan, 40) == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": {"shape": "constant", "peak": 1, "end": 0, "decay": 0.1}}, "`constant` has no `decay`"),
        ({"learning_rate": {"peak": 1, "end": 0, "warmup": 0.5, "decay": 0.6}}, "more than the whole stage"),
        ({"learning_rate": {"peak": 1, "end": 0, "decay": 0}}, "greater than 0"),
        ({"batch_size": 32, "batch_ramp": {"start": 6, "share": 0.1}}, "32.* multiple of batch_ramp.start .6"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        pretrain({"tokens": 1600, "learning_rate": {"peak": 1, "end": 0}} | change)


def test_a_jump_between_stages_is_refused() -> None:
    first = {"tokens": 1600, "learning_rate": {"peak": 1.0, "end": 0.5}}
    with pytest.raises(ConfigError, match=r"stages\.s1\..*peak: 0\.8 is not 0\.5, where stage s0 ends.*warmup"):
        spans(pretrain(first, {"tokens": 1600, "learning_rate": {"peak": 0.8, "end": 0}}))
    spans(pretrain(first, {"tokens": 1600, "learning_rate": {"peak": 0.5, "end": 0}}))


def test_a_stage_shorter_than_a_step_is_refused() -> None:
    enough = {"tokens": 16, "learning_rate": {"peak": 1.0, "end": 0}}
    check_training(pretrain(enough))
    with pytest.raises(ConfigError, match=r"stages\.s1\.tokens: 15 .* 2 sequences x 8 tokens"):
        check_training(pretrain(enough, enough | {"tokens": 15}))


def test_the_schedule_needs_no_torch() -> None:
    code = "import sys, trainer.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
