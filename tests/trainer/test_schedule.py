"""The schedule as a function of steps: seams, ends, signs, and stages that do not fill a step."""

import itertools
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.recipe import Pretrain
from trainer.schedule import check_training, learning_rate, span_at, spans, timeline, tokens_at

MODEL = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8}
RATE = st.floats(1e-6, 1.0)


def pretrain(*stages: dict[str, Any]) -> Pretrain:
    base = {"sequence_length": 8, "batch_size": 2}
    named = [base | {"name": f"s{number}"} | stage for number, stage in enumerate(stages)]
    return Pretrain.model_validate({"model": MODEL, "stages": named})


@st.composite
def plans(draw: st.DrawFn) -> Pretrain:
    """Up to four stages without jumps: a peak other than the rate before comes with a warm-up."""
    stages = []
    for number in range(draw(st.integers(1, 4))):
        rate: dict[str, Any] = {
            "shape": draw(st.sampled_from(["cosine", "linear", "1-sqrt", "constant"])),
            "end": draw(st.one_of(st.just(0.0), RATE)),
        }
        if number == 0 or draw(st.booleans()):
            rate |= {"peak": draw(RATE), "warmup": draw(st.floats(0.01, 0.9))}
        stages.append({"tokens": 16 * draw(st.integers(1, 50)) + draw(st.integers(0, 15)), "learning_rate": rate})
    return pretrain(*stages)


@given(plans())
def test_rates_are_continuous_bounded_and_end_exactly(settings: Pretrain) -> None:
    plan = spans(settings)
    assert learning_rate(plan, 0) == 0
    for span, stage in zip(plan, settings.stages):
        rate = stage.learning_rate
        top = learning_rate(plan, span.begin + span.steps * rate.warmup)
        # 1-sqrt falls infinitely fast at first, so a rounded step count shows
        assert top == pytest.approx(span.peak, rel=1e-6, abs=1e-6)
        assert learning_rate(plan, span.end) == (span.peak if rate.shape == "constant" else rate.end)
        values = [learning_rate(plan, span.begin + span.steps * share / 64) for share in range(65)]
        highest = max(span.start, span.peak, span.final)
        assert all(0 <= value <= highest * (1 + 1e-12) for value in values)
    for before, after in itertools.pairwise(plan):
        assert after.start == learning_rate(plan, before.end)
        assert learning_rate(plan, before.end + 1e-9) == pytest.approx(after.start, rel=1e-3, abs=2e-4)


@given(plans())
def test_steps_and_tokens_of_the_plan_add_up(settings: Pretrain) -> None:
    plan = spans(settings)
    total = plan[-1].end
    stages = [span_at(plan, step).stage for step in range(total)]
    assert [len(list(group)) for _, group in itertools.groupby(stages, key=lambda stage: stage.name)] == [
        stage.tokens // 16 for stage in settings.stages
    ]
    sizes = [stage.batch_size * stage.sequence_length for stage in stages]
    for step in (0, total // 3, total // 2, total):
        assert tokens_at(plan, step) == sum(sizes[:step])
    assert sum(row["tokens"] for row in timeline(settings)) == tokens_at(plan, total)


@pytest.mark.parametrize(
    ("shape", "middle"), [("cosine", 0.6), ("linear", 0.6), ("1-sqrt", 1 - 0.8 * math.sqrt(0.5)), ("constant", 1.0)]
)
def test_shapes_half_way_down(shape: str, middle: float) -> None:
    plan = spans(pretrain({"tokens": 1600, "learning_rate": {"shape": shape, "peak": 1.0, "end": 0.2, "warmup": 0.5}}))
    assert learning_rate(plan, 25) == pytest.approx(0.5)
    assert learning_rate(plan, 75) == pytest.approx(middle)


def test_a_stage_shorter_than_a_step_is_refused() -> None:
    enough = {"tokens": 16, "learning_rate": {"peak": 1.0, "end": 0}}
    check_training(pretrain(enough))
    with pytest.raises(ConfigError, match=r"stages\.s1\.tokens: 15 .* 2 sequences x 8 tokens"):
        check_training(pretrain(enough, enough | {"tokens": 15}))


def test_the_schedule_needs_no_torch() -> None:
    code = "import sys, trainer.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
