"""Our training step beside transformers' Qwen3 with SDPA and fused AdamW: tokens per CPU second, float32, one thread.

    python -m benchmarks.train_step [--rounds 9] [--compile] [--only NAME]

All sides start from the same weights and take the same batch of 2,048 tokens; the losses of every step are compared,
without the experts' balancing loss. Steps of the sides take turns, so that a busy machine slows all alike. The figure
is the median, over the rounds, of one side's CPU seconds over ours in the same round.

    dense       10 M parameters in the proportions of Qwen3-0.6B, at three lengths; then with four documents a row that
                do not see each other, where transformers takes a dense T x T mask
    experts     16 experts, 4 a token, beside transformers with grouped_mm and a dense twin of equally many active
                parameters; then 128 experts beside a loop over them

--compile measures the dense model with our blocks and their whole model compiled: minutes before the first step.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from schemas.recipe import Optimizer
from trainer import hf
from trainer.data import Batch
from trainer.evaluate import batch_loss
from trainer.loop import make_optimizer
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3, build, compile_blocks
from trainer.model.sizes import ModelConfig, parameter_count

RATE, CLIP, TOKENS = 1e-3, 1.0, 2048
DENSE = ModelConfig(
    vocabulary_size=4096, hidden_size=256, intermediate_size=768, layers=9, heads=8, kv_heads=4, head_dim=64,
    tied_embeddings=True,
)  # fmt: skip
EXPERTS = replace(DENSE, layers=4, intermediate_size=192, experts=16, experts_per_token=4)
TWIN = replace(DENSE, layers=4)
Step = Callable[[], float]


def random_batch(config: ModelConfig, rows: int, length: int, documents: int) -> Batch:
    """Random tokens in `documents` documents of equal length a row."""
    tokens = torch.randint(config.vocabulary_size, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    place = torch.arange(length)
    number = place * documents // length
    starts = torch.stack([place[number == n][0] for n in range(documents)])[number]
    labels = tokens[:, 1:].clone()
    ends = torch.ones(length, dtype=torch.bool)
    ends[:-1] = number[:-1] != number[1:]
    if documents > 1:
        labels[:, ends] = -100
    return Batch(
        tokens_BT=tokens[:, :-1].contiguous(),
        labels_BT=labels,
        positions_BT=(place - starts).expand(rows, -1).contiguous(),
        document_BT=(number + documents * torch.arange(rows)[:, None]).int(),
        group_BT=torch.zeros(rows, length, dtype=torch.int64),
        segments_N2=torch.zeros(rows * documents, 2, dtype=torch.int64).numpy(),
        document_mask=documents > 1,
    )


def our_step(model: Qwen3, batch: Batch) -> Step:
    optimizer = make_optimizer(model, Optimizer())
    for group in optimizer.param_groups:
        group["lr"] = RATE
    labels = (batch.labels_BT >= 0).sum()

    def step() -> float:
        loss, nll_BT = batch_loss(model, batch)
        (loss / labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(nll_BT.sum() / labels)

    return step


def their_step(model: PreTrainedModel, batch: Batch) -> Step:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    options = {}
    if batch.document_mask:
        same = batch.document_BT[:, None, :, None] == batch.document_BT[:, None, None, :]
        options["attention_mask"] = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()

    def step() -> float:
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.tokens_BT.is_cuda):  # as in batch_loss
            output = model(
                input_ids=batch.tokens_BT, position_ids=batch.positions_BT, labels=batch.labels_BT,
                shift_labels=batch.labels_BT, use_cache=False, **options,
            )  # fmt: skip
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(output.loss.detach())

    return step


def as_transformers(model: Qwen3, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same weights in transformers' model, ready to train."""
    with tempfile.TemporaryDirectory() as folder:
        hf.export(model, Path(folder) / "model", eos_token_id=0, dtype="float32")
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=dtype, attn_implementation="sdpa")
    if model.config.experts:
        theirs.set_experts_implementation("grouped_mm")
    return theirs.train()


def with_expert_loop(model: Qwen3) -> Qwen3:
    """The model with every expert in turn on the tokens that chose it, as it is commonly written down."""
    for block in model.layers:
        block.mlp.forward = lambda x_BTC, _, layer=block.mlp: (expert_loop(layer, x_BTC), None)
    return model


def expert_loop(layer: MixtureOfExperts, x_BTC: torch.Tensor) -> torch.Tensor:
    x_NC = x_BTC.flatten(0, 1)
    with torch.autocast(x_NC.device.type, enabled=False):  # routed in float32, as the layer itself does
        share_NK, expert_NK = layer.gate(x_NC).softmax(-1).topk(layer.experts_per_token)
        share_NK = share_NK / share_NK.sum(-1, keepdim=True)
    y_NC = torch.zeros_like(x_NC)
    weights = (parameter.unbind() for parameter in layer.experts.parameters())
    for expert, (gate, up, down) in enumerate(zip(*weights, strict=True)):
        token, place = (expert_NK == expert).nonzero(as_tuple=True)
        x = x_NC[token]
        y = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
        y_NC = y_NC.index_add(0, token, y.float() * share_NK[token, place, None])
    return y_NC.view_as(x_BTC)


def compare(name: str, sides: dict[str, Step], rounds: int) -> None:
    """Print the speed of all sides, the first of which is ours, and how far their losses are from ours: in the first
    step, and at most in any."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    apart: dict[str, list[float]] = {side: [] for side in sides}
    ours, *_ = sides
    for number in range(rounds + 1):
        losses = {}
        for side in sides if number % 2 else reversed(sides):
            began = time.process_time()
            losses[side] = sides[side]()
            if number:  # the first round warms up
                seconds[side].append(time.process_time() - began)
        for side in sides:
            apart[side].append(abs(losses[side] - losses[ours]))
    for side in sides:
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds[side], seconds[ours], strict=True))
        speed = TOKENS / statistics.median(seconds[side])
        note = "" if side == ours else f"{ratio:8.2f} {apart[side][0]:9.1e} {max(apart[side]):9.1e}"
        print(f"{name:32} {side:24} {speed:12,.0f} {note}", flush=True)


def dense(length: int, documents: int, rounds: int, compiled: bool = False) -> None:
    batch = random_batch(DENSE, TOKENS // length, length, documents)
    ours = build(DENSE, 0)
    theirs = as_transformers(ours)
    name = f"dense, length {length:,}" + (", packed" if documents > 1 else "")
    if compiled:
        name += ", compiled"
        torch.compiler.reset()
        compile_blocks(ours)
        theirs.compile()
    compare(name, {"sluice": our_step(ours, batch), "transformers": their_step(theirs, batch)}, rounds)


def experts(number: int, rounds: int) -> None:
    config = replace(EXPERTS, experts=number)
    batch = random_batch(config, 4, TOKENS // 4, 1)
    ours = build(config, 0)
    sides = {
        "sluice": our_step(ours, batch),
        "transformers grouped_mm": their_step(as_transformers(ours), batch),
        "loop over experts": our_step(with_expert_loop(build(config, 0)), batch),
        "dense twin (other loss)": our_step(build(TWIN, 0), batch),
    }
    compare(f"{number} experts, length {TOKENS // 4}", sides, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", choices=("dense", "experts"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for config in (DENSE, EXPERTS, replace(EXPERTS, experts=128), TWIN):
        count = parameter_count(config)
        print(
            f"{config.experts or 'no'} experts: {count.total:,} parameters, {count.active:,} active, "
            f"{count.body:,} without the embedding"
        )
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{options.rounds} rounds; load average {load}")
    print(f"{'':57} {'tokens/CPU s':>12} {'to ours':>8} {'loss apart: first, any':>20}")
    if options.compile:
        for length in (512, 1024):
            dense(length, 1, options.rounds, compiled=True)
        return
    if options.only != "experts":
        for length, documents in ((512, 1), (1024, 1), (2048, 1), (1024, 4)):
            dense(length, documents, options.rounds)
    if options.only != "dense":
        for number in (16, 128):
            experts(number, options.rounds)


if __name__ == "__main__":
    main()
