"""The training step on a GPU: tokens per second, share of the bf16 peak, memory; beside transformers.

    python -m benchmarks.gpu_train [--steps 10] [--layers 8]

The shape is that of Qwen3-0.6B with fewer layers, at 4,096 tokens a sequence; then that of Qwen3-30B-A3B's experts.
Weights are float32 and products bfloat16 on all sides. It prints "skipped: no GPU" where there is none.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from benchmarks.train_step import as_transformers, our_step, random_batch, their_step
from trainer.data import Batch
from trainer.model.attention import attention, block_mask, document_starts
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3, apply_checkpointing, build
from trainer.model.sizes import SIZES, ModelConfig
from trainer.planner import flops_per_token, peak_flops

ROWS, LENGTH, DOCUMENTS = 4, 4096, 8


def seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Median of some runs after two to warm up, each waited for."""
    found = []
    for number in range(times + 2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 1:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def show_step(name: str, config: ModelConfig, batch: Batch, step: Callable[[], float], times: int) -> None:
    """Print one row: what a step of a model costs."""
    device = batch.tokens_BT.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    tokens = batch.tokens_BT.numel()
    speed = tokens / seconds(step, device, times)
    peak = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    share = "" if peak is None else f"{speed * flops_per_token(config, batch.tokens_BT.shape[1]) / peak:7.1%}"
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:8.1f}" if device.type == "cuda" else ""
    print(f"{name:44} {speed:12,.0f} {share:>7} {memory:>8}", flush=True)


def our_model(config: ModelConfig, device: torch.device, checkpointing: str, compiled: bool) -> Qwen3:
    model = build(config, 0, device)
    if checkpointing != "none":
        apply_checkpointing(model, selective=checkpointing == "selective")
    if compiled:
        for block in model.layers:
            block.compile()
    return model


def steps(config: ModelConfig, rows: int, length: int, device: torch.device, times: int, compiled: bool) -> None:
    """Rows of our model with and without documents, of its modes, and of transformers'."""
    whole, packed = (random_batch(config, rows, length, documents).to(device) for documents in (1, DOCUMENTS))
    modes = [("none", False), *(((mode, True) for mode in ("none", "selective", "full")) if compiled else ())]
    for checkpointing, compile_ in modes:
        how = f"recompute {checkpointing}, {'compiled' if compile_ else 'not compiled'}"
        show_step(
            f"sluice, {DOCUMENTS} documents a row, {how}", config, packed,
            our_step(our_model(config, device, checkpointing, compile_), packed), times,
        )  # fmt: skip
    model = our_model(config, device, "none", compiled)
    show_step("sluice, one document a row", config, whole, our_step(model, whole), times)
    theirs = as_transformers(build(config, 0)).to(device)
    if compiled:
        theirs.compile()
    plain = their_step(theirs, whole)

    def mixed() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return plain()

    show_step("transformers, one document a row", config, whole, mixed, times)


def attention_table(config: ModelConfig, rows: int, length: int, device: torch.device, times: int) -> None:
    """Rows of the forward and backward pass of attention alone: what documents save, and torch's varlen kernel."""
    from torch.nn.attention.varlen import varlen_attn

    shapes = [(rows, heads, length, config.head_dim) for heads in (config.heads, config.kv_heads, config.kv_heads)]
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    document_BT = (torch.arange(length, device=device) * DOCUMENTS // length).expand(rows, -1)
    mask = block_mask(document_starts(document_BT))
    flat = [x.detach().transpose(1, 2).flatten(0, 1).requires_grad_() for x in (q, k, v)]
    ends = torch.arange(0, rows * length + 1, length // DOCUMENTS, device=device, dtype=torch.int32)
    sides = {
        "causal, one document": lambda: attention(q, k, v, None),
        f"flex, {DOCUMENTS} documents": lambda: attention(q, k, v, mask),
        f"varlen, {DOCUMENTS} documents": lambda: varlen_attn(
            *flat, ends, ends, length // DOCUMENTS, length // DOCUMENTS, window_size=(-1, 0), enable_gqa=True
        ),
    }
    for name, forward in sides.items():
        took = seconds(lambda forward=forward: forward().float().sum().backward(), device, times)
        print(f"attention: {name:33} {1000 * took:9.2f} ms", flush=True)


def expert_loop(layer: MixtureOfExperts, x_BTC: torch.Tensor) -> torch.Tensor:
    """Every expert in turn, routed in float32 and multiplied in bfloat16 as the layer itself does under autocast."""
    x_NC = x_BTC.flatten(0, 1)
    with torch.autocast(x_NC.device.type, enabled=False):
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


def experts_table(config: ModelConfig, tokens: int, device: torch.device, times: int) -> None:
    """Rows of one layer of experts by grouped products and by a loop, and how far apart they are."""
    layer = MixtureOfExperts(config.hidden_size, config.intermediate_size, config.experts, config.experts_per_token)
    layer = layer.to(device)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, tokens, config.hidden_size, device=device, requires_grad=True)
    outputs = {}

    def run(forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            y = forward(x)
        y.float().square().sum().backward()
        return y

    for name, forward in (("grouped_mm", lambda x: layer(x, None)[0]), ("loop", lambda x: expert_loop(layer, x))):
        took = seconds(lambda forward=forward: run(forward), device, times)
        layer.zero_grad()
        y = run(forward)
        gradient = layer.experts.up_proj.grad
        outputs[name] = (y.detach().float(), gradient.clone())
        print(f"{config.experts} experts, {tokens:,} tokens: {name:20} {1000 * took:9.2f} ms", flush=True)
    apart = [float((a - b).norm() / b.norm()) for a, b in zip(*outputs.values(), strict=True)]
    print(f"apart, relative: output {apart[0]:.1e}, gradient of a weight {apart[1]:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps, of which the median is shown")
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU")
        return
    device = torch.device("cuda")
    dense = replace(SIZES["qwen3-0.6b"], layers=options.layers)
    experts = replace(SIZES["qwen3-30b-a3b"], layers=2, vocabulary_size=32_768)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    attention_table(dense, ROWS, LENGTH, device, options.steps)
    experts_table(experts, 4099, device, options.steps)  # a prime: no group has a round size
    print(f"{'':44} {'tokens/s':>12} {'MFU':>7} {'GiB':>8}")
    for config in (dense, experts):
        print(f"{config.layers} layers of {'experts' if config.experts else 'dense'}, {ROWS} x {LENGTH} tokens a step")
        steps(config, ROWS, LENGTH, device, options.steps, compiled=True)


if __name__ == "__main__":
    main()
