"""The training step on a GPU: tokens per second, share of the bf16 peak, memory; beside transformers.

    python -m benchmarks.gpu_train [--steps 10] [--layers 8]

The shape is that of Qwen3-0.6B with fewer layers, then one layer of Qwen3-30B-A3B with a small vocabulary, both at
4,096 tokens a sequence. Weights are float32 and products bfloat16, except in transformers with experts: its grouped
products take the type of the weights, so those are bfloat16. First come the attention back ends and the grouped
products alone, and how far their results are apart. It prints "skipped: no GPU" where there is none.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers.utils import logging

from benchmarks.train_step import Step, as_transformers, expert_loop, our_step, random_batch, their_step
from schemas.recipe import Checkpointing
from trainer.model.attention import attention, block_mask, document_starts
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3, apply_checkpointing, build, compile_blocks
from trainer.model.sizes import SIZES, ModelConfig
from trainer.planner import flops_per_token, peak_flops

ROWS, LENGTH, DOCUMENTS = 4, 4096, 8


def seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Median of some runs, each waited for, after two that compile and warm up."""
    found = []
    for number in range(times + 2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 1:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def our_model(config: ModelConfig, device: torch.device, checkpointing: Checkpointing, compiled: bool) -> Qwen3:
    model = build(config, 0, device)
    if checkpointing != "none":
        apply_checkpointing(model, selective=checkpointing == "selective")
    if compiled:
        compile_blocks(model)
    return model


def steps(config: ModelConfig, rows: int, length: int, device: torch.device, times: int, compiled: bool) -> None:
    """Rows of our model, with and without documents and in its modes, and of transformers'.

    Args:
        compiled: also with blocks, and transformers' whole model, compiled.
    """
    on_gpu = device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None

    def show(name: str, documents: int, make_step: Callable[[], Step]) -> None:
        gc.collect()  # the last model is in circles
        if on_gpu:
            torch.compiler.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            step = make_step()
            first = step()
            speed = rows * length / seconds(step, device, times)
        except torch.OutOfMemoryError:
            print(f"{name:52} out of memory", flush=True)
            return
        work = flops_per_token(config, length // documents)
        share = f"{speed * work / peak:7.1%}" if peak else ""
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:6.1f}" if on_gpu else ""
        print(f"{name:52} {speed:10,.0f} {share:>7} {memory:>6} {first:8.4f}", flush=True)

    def ours(documents: int, checkpointing: Checkpointing, compile_: bool) -> None:
        batch = random_batch(config, rows, length, documents).to(device)
        how = ("compiled" if compile_ else "not compiled") + f", recompute {checkpointing}"
        name = f"sluice, {documents} documents a row, {how}"
        show(name, documents, lambda: our_step(our_model(config, device, checkpointing, compile_), batch))

    def theirs(compile_: bool) -> None:
        batch = random_batch(config, rows, length, 1).to(device)

        def make_step() -> Step:
            dtype = torch.bfloat16 if config.experts and on_gpu else torch.float32
            model = as_transformers(build(config, 0), dtype).to(device)
            if compile_:
                model.compile()
            return their_step(model, batch)

        show(f"transformers, 1 document a row, {'compiled' if compile_ else 'not compiled'}", 1, make_step)

    for compile_ in (False, True) if compiled else (False,):
        ours(1, "none", compile_)
        theirs(compile_)
        modes: tuple[Checkpointing, ...] = ("none", "selective", "full")
        for checkpointing in modes:
            ours(DOCUMENTS, checkpointing, compile_)


def attention_table(config: ModelConfig, rows: int, length: int, device: torch.device, times: int) -> None:
    """Rows of attention alone, forward and backward: what documents save, and torch's own kernel for them."""
    shapes = [(rows, heads, length, config.head_dim) for heads in (config.heads, config.kv_heads, config.kv_heads)]
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    document_BT = (torch.arange(length, device=device) * DOCUMENTS // length).expand(rows, -1)
    mask = block_mask(document_starts(document_BT))
    size = length // DOCUMENTS
    ends = torch.arange(0, rows * length + 1, size, device=device, dtype=torch.int32)

    def varlen() -> torch.Tensor:
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        y = varlen_attn(*flat, ends, ends, size, size, window_size=(-1, 0), enable_gqa=True)
        return y.view(rows, length, config.heads, config.head_dim).transpose(1, 2)

    sides = {
        "SDPA, causal, one document": lambda: attention(q, k, v, None),
        f"flex, {DOCUMENTS} documents": lambda: attention(q, k, v, mask),
        f"varlen, {DOCUMENTS} documents": varlen,
    }
    for name, forward in sides.items():
        took = seconds(lambda forward=forward: forward().float().square().sum().backward(), device, times)
        print(f"{name:52} {1000 * took:9.2f} ms", flush=True)
    with torch.no_grad():
        _, flex, other = (forward().float() for forward in sides.values())
    print(f"flex and varlen are at most {(flex - other).abs().max():.1e} apart")


def experts_table(config: ModelConfig, tokens: int, device: torch.device, times: int) -> None:
    """Rows of one layer of experts by grouped products and by a loop, and how far apart they are."""
    layer = MixtureOfExperts(config.hidden_size, config.intermediate_size, config.experts, config.experts_per_token)
    layer = layer.to(device)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, tokens, config.hidden_size, device=device, requires_grad=True)
    outputs = {}

    def run(forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        layer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            y = forward(x)
        y.float().square().sum().backward()
        return y.detach()

    for name, forward in (("grouped_mm", lambda x: layer(x, None)[0]), ("loop", lambda x: expert_loop(layer, x))):
        took = seconds(lambda forward=forward: run(forward), device, times)
        y = run(forward)
        outputs[name] = (y.float(), layer.experts.up_proj.grad)
        print(f"{config.experts} experts, {tokens:,} tokens, {name:28} {1000 * took:9.2f} ms", flush=True)
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
    logging.disable_progress_bar()
    device = torch.device("cuda")
    dense = replace(SIZES["qwen3-0.6b"], layers=options.layers)
    experts = replace(SIZES["qwen3-30b-a3b"], layers=1, vocabulary_size=8192)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    attention_table(dense, ROWS, LENGTH, device, options.steps)
    experts_table(experts, 4099, device, options.steps)  # a prime: no group has a round size
    for config in (dense, experts):
        print(f"{config.layers} layers of {'experts' if config.experts else 'dense'}, {ROWS} x {LENGTH} tokens a step")
        print(f"{'':52} {'tokens/s':>10} {'MFU':>7} {'GiB':>6} {'1st loss':>8}")
        steps(config, ROWS, LENGTH, device, options.steps, compiled=True)


if __name__ == "__main__":
    main()
