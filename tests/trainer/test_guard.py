"""Bad steps: recognised, written down, and never passed over in silence."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError, Interrupted
from schemas.recipe import Guard
from trainer import checkpoint, guard, metrics
from trainer.data import stage_feed
from trainer.guard import History, fault
from trainer.model.qwen3 import build
from trainer.model.sizes import model_config
from trainer.shards import TokenShards
from trainer.stages import pretrain

# So touchy that ordinary noise is a bad step now and then: real steps of a real training are judged.
TOUCHY = {"deviations": 1.2, "window": 16}


@given(st.lists(st.floats(1, 3), min_size=16, max_size=40), st.floats(0, 10), st.floats(1, 8))
def test_a_value_is_bad_when_it_stands_out_from_those_before(
    losses: list[float], loss: float, deviations: float
) -> None:
    window = losses[-32:]
    mean = sum(window) / len(window)
    spread = math.sqrt(sum((value - mean) ** 2 for value in window) / len(window))
    settings, history = Guard(deviations=deviations, window=32), History()
    for value in losses:
        history.add(Guard(window=32), value, 1.0)
    found = fault(settings, history, loss, 1.0)
    if abs(loss - mean - deviations * spread) > 1e-9:
        assert (found is not None) == (loss > mean + deviations * spread)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_always_bad(value: float) -> None:
    assert "loss" in (fault(Guard(), History(), value, 1.0) or "")
    assert "gradient" in (fault(Guard(), History(), 1.0, value) or "")
    assert fault(Guard(), History(), 1e30, 1e30) is None


def test_few_steps_are_no_measure() -> None:
    history = History()
    for _ in range(15):
        history.add(Guard(), 1.0, 1.0)
    assert fault(Guard(deviations=6), history, 100.0, 1.0) is None
    history.add(Guard(), 1.0, 1.0)
    assert fault(Guard(deviations=6), history, 100.0, 1.0) is not None


def test_a_lasting_change_becomes_what_is_usual() -> None:
    settings, history = Guard(deviations=4, window=16), History()
    faults = []
    for step in range(60):
        loss = (1.0 if step < 30 else 3.0) + 0.01 * (step % 3)
        faults.append(fault(settings, history, loss, 1.0 + 0.01 * (step % 3)) is not None)
        history.add(settings, loss, 1.0 + 0.01 * (step % 3))
    assert faults[30] and not any(faults[:30]) and not any(faults[46:])


def test_one_spike_does_not_hide_the_next() -> None:
    settings, history = Guard(deviations=6), History()
    for step in range(128):
        history.add(settings, 2.0, 0.5 + 0.03 * math.sin(step))
    for norm in (50.0, 25.0, 10.0):
        assert fault(settings, history, 2.0, norm) is not None
        history.add(settings, 2.0, norm)
    assert fault(settings, history, 2.0, 0.53) is None


def test_another_stage_is_judged_by_its_own_steps(toy: Any) -> None:
    """Losses of the second stage would all stand out from those of the first, which is at its end by then."""
    first, second = toy.recipe["pretrain"]["stages"]
    stages = [first | {"tokens": 18 * 4 * 32}, second | {"tokens": 16 * 2 * 64}]
    job = toy.job("stages", stages=stages, guard={"policy": "skip", "deviations": 50.0, "window": 16})
    pretrain(job)
    newest = checkpoint.newest(Path(job.output) / "checkpoints")
    assert newest is not None
    assert len(newest[1]["guard"]["losses"]) == 16
    at_the_seam = json.loads((Path(job.output) / "checkpoints/step-0000018/state.json").read_text())
    assert not set(at_the_seam["guard"]["losses"]) & set(newest[1]["guard"]["losses"])


def job_with(toy: Any, name: str, policy: str, **more: Any) -> Any:
    stages = [toy.recipe["pretrain"]["stages"][0] | {"tokens": 40 * 4 * 32}]
    options = {"checkpoint_every": 40, "keep_checkpoints": 100, "guard": TOUCHY | {"policy": policy}, "stages": stages}
    return toy.job(name, **(options | more))


def weights(job: Any, step: int) -> dict[str, torch.Tensor]:
    shards = TokenShards(job)
    model = build(model_config(job.recipe.pretrain, shards.padded_vocabulary_size), 0)
    checkpoint.load(Path(job.output) / "checkpoints" / checkpoint.name_of(step), model)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def records(job: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(job.output) / guard.FILE).read_text().splitlines()]


def test_a_skipped_step_changes_no_weight_and_leaves_its_documents(toy: Any) -> None:
    job = job_with(toy, "skip", "skip", checkpoint_every=1)
    pretrain(job)
    found = records(job)
    assert 1 <= len(found) <= 20
    bad = {record["step"] for record in found}
    lines = {line["step"]: line for line in metrics.read(Path(job.output))}
    assert bad == {step for step, line in lines.items() if "fault" in line}
    for step in range(1, 41):
        assert same(weights(job, step), weights(job, step - 1)) == (step in bad)
    record = found[0]
    feed = stage_feed(job, job.recipe.pretrain.stages[0], TokenShards(job))
    assert record["sequences"] == feed.rows(record["step"] - 1)
    _, segments = feed.sequences.segments(record["sequences"])
    expected = {(shard, row) for shard, row, *_ in segments.tolist()}
    assert {(document["shard"], document["row"]) for document in record["documents"]} == {
        (f"tokens/{shard:05}.arrow", row) for shard, row in expected
    }
    assert set(record["grad_norms"]) == {"embed_tokens", "layers.0", "layers.1", "norm"}
    total = math.sqrt(sum(norm**2 for norm in record["grad_norms"].values()))
    assert total == pytest.approx(record["grad_norm"], rel=1e-5)
    assert "standard deviations" in record["fault"]


def test_rolling_back_restores_the_last_scheduled_checkpoint(toy: Any) -> None:
    job = job_with(toy, "back", "roll-back", checkpoint_every=3)
    pretrain(job)
    found = records(job)
    assert found
    for record in found:
        step, back = record["step"], record["back_to_step"]
        assert back == (step - 1) // 3 * 3
        if step % 3 == 0:  # nothing was learned between the roll-back and the checkpoint
            assert same(weights(job, step), weights(job, back))
    assert any(record["step"] % 3 == 0 for record in found)


@pytest.mark.parametrize("policy", ["skip", "roll-back"])
def test_an_interrupted_run_judges_its_steps_alike(toy: Any, policy: str) -> None:
    whole = job_with(toy, "whole", policy, checkpoint_every=4)
    pretrain(whole)
    bad = records(whole)[0]["step"]

    class Stop:
        left = bad + 2

        def update(self, done: float, total: float, unit: str, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

    parts = replace(job_with(toy, "parts", policy, checkpoint_every=4), progress=Stop())
    with pytest.raises(Interrupted):
        pretrain(parts)
    pretrain(replace(parts, progress=whole.progress))
    assert records(parts) == records(whole)
    ends = [Path(job.output) / "checkpoints/step-0000040" for job in (whole, parts)]
    for file in sorted(ends[0].rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (ends[1] / file.relative_to(ends[0])).read_bytes(), file


def test_the_policy_may_change_after_a_stop(toy: Any) -> None:
    stopped = job_with(toy, "run", "stop")
    with pytest.raises(DataError, match=r"step \d+ of stage s1: .*standard deviations.*bad_steps.jsonl"):
        pretrain(stopped)
    assert len(records(stopped)) == 1
    pretrain(job_with(toy, "run", "skip"))
    straight = job_with(toy, "straight", "skip")
    pretrain(straight)
    # The stop left the step it failed at to the next start, which writes it down by its own policy.
    assert records(job_with(toy, "run", "skip")) == records(straight)


def test_rolling_back_finds_a_checkpoint_when_their_distance_has_changed(toy: Any) -> None:
    """Step 14 would be scheduled now; what there is to go back to is of step 10."""
    stages = [toy.recipe["pretrain"]["stages"][0] | {"tokens": 60 * 4 * 32}]
    first = job_with(toy, "run", "roll-back", stages=stages, checkpoint_every=10, guard={"policy": "roll-back"})

    class Stop:
        left = 12

        def update(self, done: float, total: float, unit: str, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        pretrain(replace(first, progress=Stop()))
    assert checkpoint.steps_in(Path(first.output) / "checkpoints") == [0, 10, 13]
    again = job_with(toy, "run", "roll-back", stages=stages, checkpoint_every=14)
    pretrain(again)
    backs = {record["back_to_step"] for record in records(again)}
    assert backs <= {0, 10, 14, 28, 42, 56}
    assert backs


def test_a_model_that_is_not_finite_is_named(toy: Any) -> None:
    class Poison:
        def update(self, done: float, total: float, unit: str, note: str = "") -> None:
            raise AssertionError("no step is made")

    job = toy.job("run", optimizer={"z_loss": 0.0}, model=toy.recipe["pretrain"]["model"] | {"init_std": 1e39})
    with pytest.raises(DataError, match=r"step 0: the validation loss is .*not finite"):
        pretrain(replace(job, progress=Poison()))


def test_too_many_bad_steps_end_the_run(toy: Any) -> None:
    job = job_with(toy, "run", "skip", guard=TOUCHY | {"policy": "skip", "most": 1})
    with pytest.raises(DataError, match=r"more than pretrain\.guard\.most, 1, bad steps"):
        pretrain(job)
    assert len(records(job)) == 2


def test_a_gradient_that_is_not_finite_has_a_record_in_json(toy: Any) -> None:
    stage = toy.recipe["pretrain"]["stages"][0] | {"learning_rate": {"shape": "constant", "peak": 1e30, "end": 0}}
    job = toy.job("run", stages=[stage])
    with pytest.raises(DataError, match=r"is (nan|inf).*pretrain\.guard\.policy"):
        pretrain(job)
    (record,) = records(job)
    assert "nan" in (str(record["loss"]), str(record["grad_norm"]), *map(str, record["grad_norms"].values()))
