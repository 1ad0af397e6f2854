"""Experts in training: the balancing loss over micro-batches and ranks, and what is logged of routers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from schemas.recipe import Optimizer
from trainer import checkpoint, metrics
from trainer.balance import LoadBalance
from trainer.data import Batch, stage_feed
from trainer.evaluate import batch_loss, hidden_states
from trainer.model.moe import Routing
from trainer.model.qwen3 import Qwen3, apply_checkpointing, build
from trainer.model.sizes import model_config
from trainer.parallel import Ranks
from trainer.shards import TokenShards
from trainer.stages import pretrain

HERE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def experts(toy_factory: Callable[..., Any]) -> Any:
    """A toy whose model has 6 experts, 2 for a token, and whose second stage has padding."""
    toy = toy_factory(packed=True)
    model = toy.recipe["pretrain"]["model"] | {"intermediate_size": 16, "experts": 6, "experts_per_token": 2}
    toy.recipe["pretrain"] |= {"model": model, "optimizer": {"balance_loss": 0.5, "router_z_loss": 0.01}}
    return toy


def first_batch(toy: Any, stage: int = 1) -> tuple[Qwen3, Batch]:
    job = toy.job()
    shards = TokenShards(job)
    model = build(model_config(job.recipe.pretrain, shards.padded_vocabulary_size), 1)
    feed = stage_feed(job, job.recipe.pretrain.stages[stage], shards)
    count = feed.sequences.count
    return model, feed.sequences.read(range(count - 4, count))  # best fit leaves the gaps at the end


def gradients_of(model: Qwen3, batch: Batch, rows: int, settings: Optimizer) -> tuple[dict[str, torch.Tensor], Any]:
    """What the loop does with a batch in micro-batches of some rows, without its optimizer."""
    model.zero_grad()
    labels, tokens = (batch.labels_BT >= 0).sum(), batch.real_BT.sum()
    load_balance = LoadBalance(model.config, settings, tokens, HERE)
    parts = [batch.part(begin, begin + rows) for begin in range(0, len(batch.tokens_BT), rows)]
    if settings.balance_exact:
        for part in parts:
            seen: list[Routing] = []
            with torch.no_grad():
                hidden_states(model, part, seen)
            load_balance.count(seen)
    for part in parts:
        routings: list[Routing] = []
        loss, _ = batch_loss(model, part, 0.0, routings)
        if not settings.balance_exact:
            load_balance.count(routings)
        (loss / labels + load_balance.loss(routings)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, load_balance.stats()


def written_down(model: Qwen3, batch: Batch, settings: Optimizer) -> torch.Tensor:
    """The loss of a batch by the formulas, from hidden states that hooks collect."""
    inputs: list[torch.Tensor] = []
    handles = [block.mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in model.layers]
    hidden = hidden_states(model, batch)
    for handle in handles:
        handle.remove()
    loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), batch.labels_BT.flatten())
    padding = {number for number, (shard, _) in enumerate(batch.segments_N2.tolist()) if shard < 0}
    real = torch.tensor([[number not in padding for number in row] for row in batch.document_BT.tolist()])
    count, experts, chosen = int(real.sum()), model.config.experts, model.config.experts_per_token
    for block, x in zip(model.layers, inputs, strict=True):
        logits = block.mlp.gate(x)[real]
        probability = logits.softmax(-1)
        picked = F.one_hot(probability.topk(chosen).indices, experts).sum(1).float()
        share = picked.sum(0) / (chosen * count)
        loss = loss + settings.balance_loss * experts * (share * probability.mean(0)).sum()
        loss = loss + settings.router_z_loss * logits.logsumexp(-1).square().mean()
    return loss


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a parameter's gradient, in norm."""
    return max(float((one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-6)) for name in one)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_exact_mode_is_the_formula_over_the_whole_batch(experts: Any, rows: int) -> None:
    model, batch = first_batch(experts)
    assert not batch.real_BT.all()
    settings = Optimizer(balance_loss=0.5, router_z_loss=0.01, balance_exact=True)
    found, _ = gradients_of(model, batch, rows, settings)
    model.zero_grad()
    written_down(model, batch, settings).backward()
    assert apart(found, {name: parameter.grad for name, parameter in model.named_parameters()}) < 1e-5


def test_the_running_mode_is_exact_in_one_part_and_near_in_several(experts: Any) -> None:
    model, batch = first_batch(experts)
    exact = Optimizer(balance_loss=0.5, balance_exact=True)
    running = Optimizer(balance_loss=0.5)
    wanted, stats = gradients_of(model, batch, 4, exact)
    assert apart(gradients_of(model, batch, 4, running)[0], wanted) == 0
    in_parts, counted = gradients_of(model, batch, 1, running)
    without, _ = gradients_of(model, batch, 4, Optimizer(balance_loss=0.0))
    assert 1e-4 < apart(in_parts, wanted) < apart(without, wanted)
    # What is logged is that of the whole batch either way.
    assert counted.balance_L == pytest.approx(stats.balance_L, rel=1e-5)
    assert counted.load_LE == pytest.approx(stats.load_LE)
    assert stats.load_LE.sum(1) == pytest.approx(model.config.experts)


@pytest.mark.parametrize("selective", [True, False])
def test_recomputation_counts_no_token_twice(experts: Any, selective: bool) -> None:
    model, batch = first_batch(experts)
    wanted, stats = gradients_of(model, batch, 2, Optimizer(balance_loss=0.5))
    apply_checkpointing(model, selective=selective)
    found, again = gradients_of(model, batch, 2, Optimizer(balance_loss=0.5))
    assert apart(found, wanted) == 0
    assert (again.load_LE == stats.load_LE).all()


def test_a_rank_without_a_sequence_takes_part(experts: Any) -> None:
    model, batch = first_batch(experts)
    load_balance = LoadBalance(model.config, Optimizer(), batch.real_BT.sum(), HERE)
    load_balance.count([])
    routings: list[Routing] = []
    hidden_states(model, batch, routings)
    load_balance.count(routings)
    assert load_balance.tokens == batch.real_BT.sum()


def test_a_balanced_load_is_one(experts: Any) -> None:
    model, _ = first_batch(experts)
    layers, count = model.config.layers, 6
    routing = Routing(torch.full((count,), 10.0), torch.full((count,), 5.0), *torch.tensor([0.0, 30.0, 30.0]))
    load_balance = LoadBalance(model.config, Optimizer(balance_loss=1.0), torch.tensor(30), HERE)
    load_balance.count([routing] * layers)
    assert load_balance.loss([routing] * layers).item() == pytest.approx(layers)
    stats = load_balance.stats()
    assert stats.balance_L == pytest.approx(1)
    assert stats.load_LE == pytest.approx(1)


def test_a_run_logs_its_routers_and_goes_on_as_it_was(experts: Any) -> None:
    job = experts.job("once", micro_batch_tokens=64, activation_checkpointing="selective")
    pretrain(job)
    lines = metrics.read(Path(job.output))
    for line in lines[1:]:
        assert len(line["layers"]["balance"]) == 2
        assert line["balance"] >= 0.9
        assert 0 < line["router_entropy"] <= 1
        assert line["expert_load_max"] >= 1
    full = [line for line in lines[1:] if "expert_load" in line]
    assert [line["step"] for line in full] == [4, 7, 8, 12]
    for layer in full[-1]["expert_load"]:
        assert sum(layer) == pytest.approx(6, abs=0.01)

    again = experts.job("again", micro_batch_tokens=64, activation_checkpointing="selective")
    (Path(again.output) / "checkpoints").mkdir()
    (Path(job.output) / "checkpoints/step-0000007").rename(Path(again.output) / "checkpoints/step-0000007")
    pretrain(again)
    assert [line["loss"] for line in metrics.read(Path(again.output))] == [line["loss"] for line in lines[8:]]


def test_accumulation_changes_only_rounding_in_the_exact_mode(experts: Any) -> None:
    found = {}
    for exact in (True, False):
        for size in (1 << 20, 1):
            settings = {"balance_loss": 1.0, "balance_exact": exact}
            stage = experts.recipe["pretrain"]["stages"][0] | {"tokens": 4 * 32}
            job = experts.job(f"{exact}{size}", optimizer=settings, micro_batch_tokens=size, stages=[stage])
            pretrain(job)
            found[exact, size] = metrics.read(Path(job.output))[1]
    whole, parts, coarse = found[True, 1 << 20], found[True, 1], found[False, 1]
    assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert parts["balance"] == pytest.approx(whole["balance"], rel=1e-5)
    assert abs(coarse["grad_norm"] - whole["grad_norm"]) > 1e-4 * whole["grad_norm"]
    assert found[False, 1 << 20]["grad_norm"] == whole["grad_norm"]


def test_training_balances_a_router_that_was_not(experts: Any) -> None:
    """The same run with and without the loss: with it the busiest expert is less busy."""
    busiest = {}
    for coefficient in (0.0, 0.3):
        stage = experts.recipe["pretrain"]["stages"][0] | {"tokens": 25 * 4 * 32}
        job = experts.job(f"c{coefficient}", stages=[stage], optimizer={"balance_loss": coefficient})
        pretrain(job)
        lines = metrics.read(Path(job.output))[-10:]
        busiest[coefficient] = sum(line["balance"] for line in lines) / len(lines)
    assert 0.9 < busiest[0.3] < busiest[0.0] - 0.05


def test_a_checkpoint_of_a_dense_model_is_refused(experts: Any, toy: Any) -> None:
    dense = toy.job("dense")
    pretrain(dense)
    model = build(replace(first_batch(experts)[0].config), 0)
    newest = checkpoint.newest(Path(dense.output) / "checkpoints")
    assert newest is not None
    with pytest.raises(Exception, match="another model"):
        checkpoint.load(newest[0], model)
