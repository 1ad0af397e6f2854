"""Operations and bytes of a training against what torch counts and holds."""

import contextlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from schemas.recipe import Checkpointing, Optimizer, Pretrain
from trainer.loop import make_optimizer
from trainer.loss import chunked_cross_entropy
from trainer.model.qwen3 import Qwen3, apply_checkpointing, build
from trainer.model.sizes import SIZES, ModelConfig, parameter_count
from trainer.planner import (
    LOSS_CHUNK,
    flops_per_token,
    peak_flops,
    recomputed_flops_per_token,
    training_flops,
    training_memory,
)

BATCH, LENGTH = 2, 64
FIELDS = {"hidden_size": 64, "intermediate_size": 160, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
STAGE = {"batch_size": 2, "learning_rate": {"shape": "constant", "peak": 1, "end": 1}}


def small(experts: int = 0, tied: bool = True) -> ModelConfig:
    chosen = 2 if experts else 0
    return ModelConfig(vocabulary_size=256, tied_embeddings=tied, experts=experts, experts_per_token=chosen, **FIELDS)


def loss_of(model: Qwen3, tokens: torch.Tensor) -> torch.Tensor:
    return chunked_cross_entropy(model(tokens).flatten(0, 1), model.head_weight, tokens.flatten())[0]


def make(config: ModelConfig, checkpointing: Checkpointing, length: int = LENGTH) -> tuple[Qwen3, torch.Tensor]:
    model = build(config, 0)
    if checkpointing != "none":
        apply_checkpointing(model, selective=checkpointing == "selective")
    return model, torch.randint(config.vocabulary_size, (BATCH, length), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------
# Operations


def grouped(a: tuple[int, ...], b: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """torch does not count grouped products: every row of (S, C) meets one (C, I); or (C, S) x (S, I) in groups."""
    return 2 * a[0] * a[1] * b[-1]


def added(_: Any, a: tuple[int, ...], b: tuple[int, ...], *__: Any, out_shape: Any = None, **___: Any) -> int:
    """torch counts addmm and not addmm_, by which the loss adds up the gradient of the head."""
    return 2 * a[0] * a[1] * b[1]


FORMULAS = {torch.ops.aten._grouped_mm: grouped, torch.ops.aten.addmm_: added}


def counted(config: ModelConfig, checkpointing: Checkpointing) -> float:
    """What torch counts for a training step."""
    model, tokens = make(config, checkpointing)
    with counter() as flops:
        loss_of(model, tokens).backward()
    return causal(flops)


@contextlib.contextmanager
def counter() -> Iterator[FlopCounterMode]:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops:
        yield flops


def causal(flops: FlopCounterMode) -> float:
    """All that was counted, without the keys that come after a query: torch counts the whole square of the scores."""
    by_operation = {str(key): value for key, value in flops.get_flop_counts()["Global"].items()}
    assert set(by_operation) <= {"aten.mm", "aten.addmm_", "aten.bmm", "aten._grouped_mm"}
    scores = by_operation.pop("aten.bmm")
    return sum(by_operation.values()) + scores * (LENGTH + 1) / (2 * LENGTH)


@pytest.mark.parametrize("config", [small(), small(tied=False), small(experts=8)], ids=["dense", "untied", "experts"])
def test_operations_are_those_that_torch_counts(config: ModelConfig) -> None:
    assert flops_per_token(config, LENGTH) * BATCH * LENGTH == counted(config, "none")


@pytest.mark.parametrize("experts", [0, 8])
def test_recomputed_operations_are_those_that_torch_counts(experts: int) -> None:
    config = small(experts)
    once = counted(config, "none")
    repeated = recomputed_flops_per_token(config, LENGTH, "full") * BATCH * LENGTH
    assert counted(config, "full") - once == repeated


def test_selective_checkpointing_repeats_no_product() -> None:
    config = small()
    assert recomputed_flops_per_token(config, LENGTH, "selective") == 0
    model, tokens = make(config, "selective")
    with FlopCounterMode(
        display=False, custom_mapping=FORMULAS
    ) as flops:  # the fused attention of a CPU, which torch counts nowhere
        loss_of(model, tokens).backward()
    attention = 3 * 2 * config.layers * config.heads * config.head_dim * (LENGTH + 1)
    assert flops.get_total_flops() == (flops_per_token(config, LENGTH) - attention) * BATCH * LENGTH


@pytest.mark.parametrize("name", SIZES)
def test_short_sequences_cost_about_six_operations_per_active_parameter(name: str) -> None:
    config = SIZES[name]
    count = parameter_count(config)
    looked_up = 0 if config.tied_embeddings else config.vocabulary_size * config.hidden_size
    assert flops_per_token(config, 1) == pytest.approx(6 * (count.active - looked_up), rel=1e-3)


def test_a_training_costs_its_tokens_at_the_lengths_of_its_stages() -> None:
    stages = [STAGE | {"name": "a", "tokens": 1000, "sequence_length": 64}]
    stages += [STAGE | {"name": "b", "tokens": 4096, "sequence_length": 512}]
    settings = {"model": FIELDS, "stages": stages, "activation_checkpointing": "full"}
    costs = [count(small(), length) for count in (flops_per_token, full) for length in (64, 512)]
    expected = (7 * 128 * costs[0] + 4096 * costs[1], 7 * 128 * costs[2] + 4096 * costs[3])
    assert training_flops(Pretrain.model_validate(settings), small()) == expected


def test_balancing_experts_exactly_costs_a_forward_pass() -> None:
    stage = STAGE | {"name": "a", "tokens": 128, "sequence_length": 64}
    fields = FIELDS | {"experts": 8, "experts_per_token": 2}
    settings = {"model": fields, "stages": [stage], "optimizer": {"balance_exact": True}}
    model, tokens = make(small(experts=8), "none")
    with counter() as flops, torch.no_grad():
        model(tokens)
    assert training_flops(Pretrain.model_validate(settings), small(experts=8))[1] == causal(flops)


def full(config: ModelConfig, length: int) -> int:
    return recomputed_flops_per_token(config, length, "full")


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 990),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("AMD Instinct MI300X", 1307.4),
        ("NVIDIA RTX A1000", None),  # not an A100
        ("Tesla V100-SXM2-32GB", None),  # has no bf16
        ("cpu", None),
    ],
)
def test_peaks_go_by_the_name_of_the_driver(name: str, teraflops: float | None) -> None:
    assert peak_flops(name) == (None if teraflops is None else teraflops * 1e12)


# ---------------------------------------------------------------------------------------------------------------
# Bytes


def held(tracker: MemTracker, when: str) -> dict[str, int]:
    [by_kind] = tracker.get_tracker_snapshot(when).values()
    return {getattr(kind, "value", kind): size for kind, size in by_kind.items()}


@pytest.mark.parametrize(
    ("experts", "checkpointing", "bf16", "length"),
    [
        (0, "none", False, LENGTH),
        (0, "none", False, 512),  # attention in blocks of queries, with masks
        (0, "none", True, LENGTH),
        (0, "selective", True, LENGTH),
        (0, "full", True, LENGTH),
        (8, "none", True, LENGTH),
        (8, "selective", False, LENGTH),
        (8, "full", False, LENGTH),
        (8, "full", False, 512),
    ],
)
def test_bytes_are_those_that_a_training_step_holds(
    experts: int, checkpointing: Checkpointing, bf16: bool, length: int
) -> None:
    """The state exactly, what is kept for the backward pass within 0.2 %, and the whole as a bound that is near.

    In float32 as on a CPU, where attention goes document by document; in bf16 as on a GPU, where it is one operation.
    """
    config = small(experts)
    model, tokens = make(config, checkpointing, length)
    document = None if bf16 else torch.zeros_like(tokens)
    optimizer = make_optimizer(model, Optimizer())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer, *([] if document is None else [document]))
    with tracker:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden = model(tokens, document_BT=document)
            kept = held(tracker, "current")["Activation"]
            loss, _ = chunked_cross_entropy(hidden.flatten(0, 1), model.head_weight, tokens.flatten())
        loss.backward()
    peak = held(tracker, "peak")

    plan = training_memory(config, BATCH * length, checkpointing, bf16=bf16)
    counters = 4 * len(list(model.parameters()))  # AdamW's number of steps, of every tensor
    assert (plan.weights, plan.gradients) == (peak["Parameter"], peak["Gradient"])
    assert plan.moments == peak["Optstate"] - counters
    if checkpointing == "none" or not bf16:  # blocks that are computed again cast their weights again
        assert kept == pytest.approx(plan.copies + plan.activations, rel=2e-3)
    assert 0.9 * plan.total <= peak["Total"] <= plan.total


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("vocabulary", "width", "tokens"), [(8192, 64, 300), (8192, 64, 700), (8192, 64, 2048), (2048, 1024, 600)]
)
def test_bytes_of_the_loss_are_those_that_it_holds(vocabulary: int, width: int, tokens: int, bf16: bool) -> None:
    """Of one chunk, of a chunk and a shorter one, of many; and of a head larger than the logits."""
    config = replace(small(), vocabulary_size=vocabulary, hidden_size=width)
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width)
    for tensor in (hidden, weight):
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    labels = torch.randint(vocabulary, (tokens,))
    tracker = MemTracker()
    tracker.track_external(hidden, weight, hidden.grad, weight.grad, labels)
    with tracker:
        before = held(tracker, "current")["Total"]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = chunked_cross_entropy(hidden, weight, labels)
        loss.backward()
    taken = held(tracker, "peak")["Total"] - before
    plan = training_memory(config, tokens, "none", bf16=bf16).transient
    assert 0.95 * plan <= taken <= plan


def test_the_chunk_of_the_loss_is_the_one_that_is_used() -> None:
    assert inspect.signature(chunked_cross_entropy).parameters["chunk"].default == LOSS_CHUNK


def test_the_planner_needs_no_torch() -> None:
    code = "import sys, trainer.planner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
