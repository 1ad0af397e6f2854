"""Training: what a step computes, what a run writes, and that stopping it changes nothing."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from schemas.errors import ConfigError, DataError, Interrupted
from schemas.recipe import Optimizer
from tests.trainer.conftest import StopAfter
from trainer import checkpoint, hf, loop, metrics
from trainer.data import Sequences, stage_feed
from trainer.evaluate import batch_loss, group_sums, measure
from trainer.loop import make_optimizer
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import ModelConfig, model_config
from trainer.prompt import load_model
from trainer.provenance import read_in_step
from trainer.shards import TokenShards
from trainer.stages import pretrain

WORKER = Path(__file__).with_name("pretrain_worker.py")
CHANGES = {"seconds", "tokens_per_second"}  # of a metrics line, from run to run


def outcome(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """All files of the checkpoints, and the metrics without times."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "checkpoints").rglob("*"))
        if path.is_file()
    }
    return files, [{key: line[key] for key in line.keys() - CHANGES} for line in metrics.read(folder)]


def start(toy: Any, output: Path, seconds: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(toy.root), str(output), str(seconds)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env={"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True)


# ---------------------------------------------------------------------------------------------------------------
# One run


def test_a_run_writes_a_line_a_step_and_its_checkpoints(toy: Any) -> None:
    job = toy.job()
    output = pretrain(job)
    folder = Path(job.output)
    lines = metrics.read(folder)
    assert [line["step"] for line in lines] == list(range(13))
    assert [line["stage"] for line in lines] == ["s1"] * 8 + ["s2"] * 5
    assert [line["step"] for line in lines if "validation_bits_per_byte" in line] == [0, 4, 7, 8, 12]
    assert [line["tokens"] for line in lines][-1] == 7 * 4 * 32 + 5 * 2 * 64 == output.counts["tokens"]
    assert lines[7]["learning_rate"] == 0.004
    assert lines[12]["learning_rate"] == 0.001
    assert lines[12]["loss"] < lines[1]["loss"] - 1
    assert checkpoint.steps_in(folder / "checkpoints") == [7, 9, 12]  # both ends of stages, and the last two due
    assert sum(path.stat().st_size for path in (folder / "tensorboard").iterdir()) > 0

    stages = output.extra["stages"]
    losses = [line["loss"] for line in lines[1:]]
    assert stages["s1"]["first_loss"] == round(sum(losses[:3]) / 3, 4)
    assert stages["s1"]["last_loss"] == round(sum(losses[4:7]) / 3, 4)
    assert stages["s2"]["validation_bits_per_byte"] == round(lines[12]["validation_bits_per_byte"], 4)
    listed = {entry.path: entry.hash for entry in output.files}
    assert set(listed) == set(outcome(folder)[0])
    assert job.progress.note.startswith("s2 step 5/5 loss ")


def test_losses_of_cells_sum_to_the_total(toy: Any) -> None:
    job = toy.job()
    pretrain(job)
    for line in metrics.read(Path(job.output))[1:]:
        nll, labels, sizes = np.array(list(line["cells"].values())).sum(0)
        assert labels == line["labels"]
        assert nll / labels == pytest.approx(line["loss"], rel=1e-12)
        assert nll / (math.log(2) * sizes) == pytest.approx(line["bits_per_byte"], rel=1e-12)


def test_cells_of_the_metrics_are_those_of_the_mix(toy: Any) -> None:
    raw = toy.job("raw")
    pretrain(raw)
    toy.add_mix(cells=dict.fromkeys(TokenShards(raw).groups, "*/*/*"))
    merged = toy.job("merged")
    pretrain(merged)
    for before, after in zip(metrics.read(Path(raw.output)), metrics.read(Path(merged.output)), strict=True):
        assert before.keys() == after.keys()
        for key in {"cells", "validation_cells"} & set(before):
            assert set(after[key]) == {"*/*/*"} != set(before[key])
            assert after[key]["*/*/*"] == pytest.approx(np.array(list(before[key].values())).sum(0), rel=1e-12)


def test_accumulation_changes_only_rounding(toy_factory: Callable[..., Any]) -> None:
    toy = toy_factory(packed=True)
    runs = []
    for name, size in (("whole", 1 << 20), ("one by one", 1)):
        job = toy.job(name, micro_batch_tokens=size)
        pretrain(job)
        runs.append(metrics.read(Path(job.output)))
    first, second = runs[0][1], runs[1][1]
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-5)
    for one, other in zip(*runs):
        if one["step"]:
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
            assert one["labels"] == other["labels"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_packed_batch_is_its_documents_one_by_one(toy_factory: Callable[..., Any], packed: bool) -> None:
    """Loss and gradient of a packed batch equal the sums over its documents, each alone in a batch."""
    toy = toy_factory(packed=packed)
    job = toy.job()
    shards = TokenShards(job)
    sequences = Sequences(job, "s2", shards)
    model = build(model_config(job.recipe.pretrain, shards.padded_vocabulary_size), 1)
    batch = sequences.read([0, 3, 4])
    loss, nll_BT = batch_loss(model, batch, z_loss=1e-3)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    total, alone, z = torch.zeros(()), [], torch.zeros(())
    for sequence in (0, 3, 4):
        for shard, row, begin, length in toy.packs["s2"][sequence]:
            ids = torch.tensor([[*toy.shards[shard][row], 256][begin : begin + length]])
            if length > 1:
                logits = model.logits(model(ids[:, :-1]))[0]
                nll = F.cross_entropy(logits, ids[0, 1:], reduction="none")
                total = total + nll.sum()
                z = z + logits.logsumexp(-1).square().sum()
                alone += nll.tolist()
    (total + 1e-3 * z).backward()
    assert nll_BT[batch.labels_BT >= 0].tolist() == pytest.approx(alone, abs=2e-5)
    assert loss.item() == pytest.approx((total + 1e-3 * z).item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_the_first_update_equals_plain_pytorch(toy: Any) -> None:
    """A whole step against AdamW written for this test: mean over the labels, clip, decay of matrices only."""
    stage = toy.recipe["pretrain"]["stages"][0] | {"tokens": 128}
    job = toy.job(stages=[stage | {"document_mask": False}], optimizer={"clip": 0.5, "weight_decay": 0.3})
    pretrain(job)
    shards = TokenShards(job)
    config = model_config(job.recipe.pretrain, shards.padded_vocabulary_size)
    settings = job.recipe.pretrain.optimizer
    model = build(config, job.recipe.seed)
    line = metrics.read(Path(job.output))[1]

    batch = stage_feed(job, job.recipe.pretrain.stages[0], shards).batch(0)
    loss = F.cross_entropy(model.logits(model(batch.tokens_BT)).flatten(0, 1), batch.labels_BT.flatten())
    loss.backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    assert line["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-5)
    trained = build(config, 0)
    checkpoint.load(Path(job.output) / "checkpoints/step-0000001", trained)
    rate = line["learning_rate"]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad * min(1.0, 0.5 / norm)
        moved = gradient / (gradient.abs() + settings.epsilon)  # the first step of Adam, after bias correction
        decay = rate * 0.3 if parameter.ndim > 1 else 0.0
        # Where a gradient is of epsilon's size, the quotient is all rounding.
        clear = gradient.abs() > 1e-5
        wanted = parameter * (1 - decay) - rate * moved
        torch.testing.assert_close(trained.get_parameter(name)[clear], wanted[clear], rtol=1e-4, atol=1e-5, msg=name)


def test_decay_spares_the_norms() -> None:
    config = ModelConfig(
        vocabulary_size=8, hidden_size=8, intermediate_size=8, layers=2, heads=1, kv_heads=1, head_dim=8,
        tied_embeddings=False,
    )  # fmt: skip
    model = build(config, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = make_optimizer(model, Optimizer(weight_decay=0.2)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.2, 0.0)
    assert all("norm" in names[id(parameter)] for parameter in spared["params"])
    assert not any("norm" in names[id(parameter)] for parameter in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_group_sums_count_valid_labels_only(toy: Any) -> None:
    job = toy.job()
    shards = TokenShards(job)
    batch = Sequences(job, "s2", shards).read([0, 1, 2])
    values = torch.arange(batch.labels_BT.numel()).view_as(batch.labels_BT)
    sums = group_sums(batch, (values,), len(shards.groups))
    for group in range(len(shards.groups)):
        chosen = (batch.group_BT == group) & (batch.labels_BT != -100)
        assert sums[:, group].tolist() == [values[chosen].sum().item(), chosen.sum().item()]


# ---------------------------------------------------------------------------------------------------------------
# Stopping and going on


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_run_in_two_parts_equals_one_in_one_go(toy: Any, step: int) -> None:
    whole = toy.job("whole")
    described = pretrain(whole)
    parts = toy.job("parts")
    with pytest.raises(Interrupted, match=f"stopped at step {step + 1} of 12"):
        pretrain(replace(parts, progress=StopAfter(step)))
    assert step + 1 in checkpoint.steps_in(Path(parts.output) / "checkpoints")
    assert pretrain(parts) == described
    assert outcome(Path(parts.output)) == outcome(Path(whole.output))


@pytest.mark.parametrize("validation", [1, 2])
def test_a_stop_during_a_validation_is_heeded_by_the_next_step(
    toy: Any, monkeypatch: pytest.MonkeyPatch, validation: int
) -> None:
    whole = toy.job("whole")
    pretrain(whole)
    parts = toy.job("parts")
    measured: list[Any] = []

    def signalled(*arguments: Any) -> Any:
        measured.append(measure(*arguments))
        if len(measured) == validation:
            signal.raise_signal(signal.SIGTERM)
        return measured[-1]

    monkeypatch.setattr(loop, "measure", signalled)
    # Validations are at the steps 0, 4, 7, ...
    with pytest.raises(Interrupted, match=f"stopped at step {[1, 5][validation - 1]} of 12"):
        pretrain(parts)
    pretrain(parts)
    assert outcome(Path(parts.output)) == outcome(Path(whole.output))


@pytest.mark.parametrize(
    ("step", "written"), [(6, ["model.safetensors"]), (4, ["model.safetensors", "state.json", "manifest.json"])]
)
def test_what_a_kill_left_of_a_checkpoint_changes_nothing(toy: Any, step: int, written: list[str]) -> None:
    """Killed while it wrote the checkpoint of a step that comes again, or of one that does not."""
    whole = toy.job("whole")
    pretrain(whole)
    parts = toy.job("parts")
    with pytest.raises(Interrupted, match="stopped at step 5 of 12"):
        pretrain(replace(parts, progress=StopAfter(4)))
    left = Path(parts.output) / f"checkpoints/step-{step:07}.writing"
    left.mkdir()
    for name in written:
        (left / name).write_bytes(b"half of")
    pretrain(parts)
    assert outcome(Path(parts.output)) == outcome(Path(whole.output))


def test_a_kill_after_the_last_checkpoint_leaves_nothing_behind(toy: Any) -> None:
    job = toy.job()
    pretrain(job)
    before = outcome(Path(job.output))
    root = Path(job.output) / "checkpoints"
    shutil.copytree(root / "step-0000009", root / "step-0000006")  # as if it had not yet been removed
    (root / "step-0000012.writing").mkdir()
    pretrain(job)
    assert outcome(Path(job.output)) == before
    assert sorted(path.name for path in root.iterdir()) == ["step-0000007", "step-0000009", "step-0000012"]


def test_weights_are_drawn_or_read_only_where_training_begins(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a checkpoint overwrites anyway takes minutes in a large model."""
    job = toy.job(stages=toy.recipe["pretrain"]["stages"][:1])
    output = pretrain(job)
    before = outcome(Path(job.output))
    shutil.rmtree(Path(job.output) / "checkpoints/step-0000007")
    hf.export(build(ModelConfig(**output.extra["model"]), 1), tmp_path / "start", eos_token_id=256)
    start = {"path": str(tmp_path / "start")}
    on = toy.job("on", stages=toy.recipe["pretrain"]["stages"][:1], model=start)
    pretrain(on)

    def never(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Qwen3, "init_weights", never)
    monkeypatch.setattr(hf, "load", never)
    assert pretrain(job) == output
    assert outcome(Path(job.output)) == before
    pretrain(on)
    load_model(job.output)
    with pytest.raises(NotImplementedError):
        pretrain(toy.job("other"))


def test_a_finished_run_is_not_trained_again(toy: Any) -> None:
    job = toy.job()
    described = pretrain(job)
    before = outcome(Path(job.output))
    assert pretrain(job) == described
    assert outcome(Path(job.output)) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random_and_started_again_the_run_is_the_same(toy: Any, kind: signal.Signals) -> None:
    job = toy.job("whole")
    pretrain(job)
    output = toy.root / f"killed {kind}"
    chance = random.Random(kind)
    kills = 0
    while True:
        process = start(toy, output, seconds=0.15)
        assert process.stdout is not None
        process.stdout.readline()  # the first step is done
        if kills < 2:
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(kind)
        process.stdout.read()
        code = process.wait()
        if code == 0:
            break
        assert code == (75 if kind == signal.SIGTERM else -kind)
        kills += 1
    assert kills == 2
    assert outcome(output) == outcome(Path(job.output))


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = toy.job()
    pretrain(job)
    before = outcome(Path(job.output))
    (Path(job.output) / "checkpoints/step-0000012/model.safetensors").write_bytes(b"")
    with (Path(job.output) / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 13, "lo')
    pretrain(job)
    assert "step-0000012" in caplog.text
    assert outcome(Path(job.output)) == before


def test_a_checkpoint_of_another_recipe_is_refused(toy: Any) -> None:
    pretrain(toy.job())
    with pytest.raises(DataError, match="belongs to another model, other data or another schedule"):
        pretrain(toy.job(optimizer={"weight_decay": 0.2}))
    pretrain(toy.job(keep_checkpoints=5, micro_batch_tokens=64))  # how, not what


def test_a_loss_that_is_not_finite_stops_with_the_documents(toy: Any) -> None:
    stages = toy.recipe["pretrain"]["stages"]
    rate = {"shape": "constant", "peak": 1e30, "end": 0}
    job = toy.job(stages=[stages[0] | {"learning_rate": rate}])
    with pytest.raises(DataError, match=r"step [23] of stage s1: the (loss|norm).* is .* [0-9a-f]{32}"):
        pretrain(job)
    found = checkpoint.newest(Path(job.output) / "checkpoints")
    assert found is not None
    assert found[1]["step"] == 0
    assert [line["step"] for line in metrics.read(Path(job.output))] in ([0, 1], [0, 1, 2])


def test_sizes_that_do_not_fit_are_refused(toy: Any) -> None:
    stages = toy.recipe["pretrain"]["stages"]
    with pytest.raises(DataError, match=r"packed for 32 tokens a sequence, stage s1 asks for 16"):
        pretrain(toy.job(stages=[stages[0] | {"sequence_length": 16}]))
    with pytest.raises(DataError, match="has no pack of 's9'"):
        pretrain(toy.job(stages=[stages[0] | {"name": "s9"}]))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            pretrain(toy.job(device="cuda"))


def test_training_leaves_torch_as_it_was(toy: Any) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGTERM))
    pretrain(toy.job(threads=2, stages=[toy.recipe["pretrain"]["stages"][0] | {"tokens": 128}]))
    after = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGTERM))
    assert before == after


def test_recomputed_activations_change_nothing(toy: Any) -> None:
    runs = []
    for name, recompute in (("kept", "none"), ("some", "selective"), ("again", "full")):
        job = toy.job(name, activation_checkpointing=recompute)
        pretrain(job)
        runs.append([line["loss"] for line in metrics.read(Path(job.output))[1:]])
    assert runs[0] == runs[1] == runs[2]


def test_what_a_step_read_leads_back_to_the_documents(toy: Any) -> None:
    job = toy.job()
    shards = TokenShards(job)
    for step, stage, place in ((1, 0, 0), (7, 0, 6), (8, 1, 0)):
        entries = read_in_step(job, step)
        batch = stage_feed(job, job.recipe.pretrain.stages[stage], shards).batch(place)
        tokens: dict[int, list[int]] = {}
        for entry in entries:
            shard, row = int(entry["shard"][-11:-6]), entry["row"]
            assert entry["document_id"] == bytes([shard] * 8 + [row] * 8).hex()
            stored = [*toy.shards[shard][row], 256]
            tokens.setdefault(entry["sequence"], []).extend(stored[entry["begin"] :][: entry["length"]])
        assert [tokens[line][:-1] for line in range(len(tokens))] == batch.tokens_BT.tolist()
    with pytest.raises(ConfigError, match="step 13: the training has steps 1 to 12"):
        read_in_step(job, 13)


def test_metrics_lines_are_json(toy: Any) -> None:
    job = toy.job()
    pretrain(job)
    for text in (Path(job.output) / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
