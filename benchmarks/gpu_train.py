"""Training on a GPU: tokens per second, share of the bf16 peak, memory beside its plan; beside transformers.

    python -m benchmarks.gpu_train [SIZE[:LAYERS] ...] [--rows 4] [--steps 10] [--parts attention experts steps loop]
                                   [--modes none selective full] [--compiled-peer] [--kernels]

Sizes are the published ones, with fewer layers if so many are named; a row of a batch has 4,096 tokens. Weights are
float32 and products bfloat16, except in transformers with experts: its grouped products take the type of the weights,
so those are bfloat16. "planned" is what `trainer.planner` says of a step that is not compiled, an upper bound.

attention   the back ends alone, and how far their results are apart
experts     grouped products and a loop over experts alone, and how far their results are apart
steps       the step in its modes and that of transformers (with --compiled-peer also compiled: minutes)
loop        `trainer.loop` with its data, metrics and checkpoints, in the first of the modes

--kernels lists what the GPU spends a step on. It prints "skipped: no GPU" where there is none.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers.utils import logging

from benchmarks.loader import write_datasets
from benchmarks.train_step import Step, as_transformers, expert_loop, our_step, random_batch, their_step
from schemas.recipe import Checkpointing, Pretrain
from trainer import loop, metrics
from trainer.data import Sequences, stage_feed
from trainer.model.attention import attention, block_mask, document_starts
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3, apply_checkpointing, compile_blocks, empty
from trainer.model.sizes import SIZES, ModelConfig, parameter_count
from trainer.parallel import Ranks
from trainer.planner import flops_per_token, peak_flops, training_memory
from trainer.shards import TokenShards

LENGTH, DOCUMENTS = 4096, 8
MODES: tuple[Checkpointing, ...] = ("none", "selective", "full")
PARTS = ("attention", "experts", "steps", "loop")
SAVE_EVERY = 25  # steps of the loop


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


def clear() -> None:
    """Forget the last model and what was compiled for it."""
    gc.collect()  # it is in circles
    if torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def our_model(
    config: ModelConfig, device: torch.device, checkpointing: Checkpointing = "none", compiled: bool = False
) -> Qwen3:
    """Always the same weights, drawn where the model lives."""
    model = empty(config, device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)
            else:
                parameter.normal_(std=config.init_std, generator=generator)
    if checkpointing != "none":
        apply_checkpointing(model, selective=checkpointing == "selective")
    if compiled:
        compile_blocks(model)
    return model


def steps(
    config: ModelConfig,
    rows: int,
    length: int,
    device: torch.device,
    times: int,
    compiled: bool,
    *,
    modes: tuple[Checkpointing, ...] = MODES,
    compiled_peer: bool = False,
    kernels: bool = False,
) -> None:
    """Rows of our model, with and without documents and in its modes, and of transformers'.

    Args:
        compiled: also with our blocks compiled.
        compiled_peer: also with transformers' whole model compiled.
        kernels: lists the kernels of the first mode with documents.
    """
    on_gpu = device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None
    print(f"{'':52} {'tokens/s':>10} {'MFU':>7} {'GiB':>6} {'planned':>8} {'1st loss':>8}")

    def show(name: str, documents: int, make_step: Callable[[], Step], planned: float, list_kernels: bool) -> None:
        clear()
        try:
            step = make_step()
            first = step()
            speed = rows * length / seconds(step, device, times)
        except torch.OutOfMemoryError:
            print(f"{name:52} out of memory" + (f" {planned:38.1f}" if planned else ""), flush=True)
            return
        work = flops_per_token(config, length // documents)
        share = f"{speed * work / peak:7.1%}" if peak else ""
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:6.1f}" if on_gpu else ""
        plan = f"{planned:8.1f}" if planned else ""
        print(f"{name:52} {speed:10,.0f} {share:>7} {memory:>6} {plan:>8} {first:8.4f}", flush=True)
        if list_kernels:
            print_kernels(step)

    def ours(documents: int, checkpointing: Checkpointing, compile_: bool) -> None:
        batch = random_batch(config, rows, length, documents).to(device)
        how = ("compiled" if compile_ else "not compiled") + f", recompute {checkpointing}"
        show(
            f"sluice, {documents} documents a row, {how}",
            documents,
            lambda: our_step(our_model(config, device, checkpointing, compile_), batch),
            training_memory(config, rows * length, checkpointing, bf16=on_gpu).total / 2**30,
            kernels and checkpointing == modes[0] and documents > 1,
        )

    def theirs(compile_: bool) -> None:
        batch = random_batch(config, rows, length, 1).to(device)

        def make_step() -> Step:
            dtype = torch.bfloat16 if config.experts and on_gpu else torch.float32
            model = as_transformers(our_model(config, device), dtype).to(device)
            clear()
            if compile_:
                model.compile()
            return their_step(model, batch)

        name = f"transformers, 1 document a row, {'compiled' if compile_ else 'not compiled'}"
        show(name, 1, make_step, 0.0, kernels and not compile_)

    ours(1, modes[0], False)
    theirs(False)
    for compile_ in (False, True) if compiled else (False,):
        for checkpointing in modes:
            ours(DOCUMENTS, checkpointing, compile_)
    if compiled:
        ours(1, modes[0], True)
    if compiled_peer:
        theirs(True)


def print_kernels(step: Step) -> None:
    """What the GPU spends one step on."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    found = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    found = sorted(found, key=lambda event: -event.self_device_time_total)
    busy = sum(event.self_device_time_total for event in found) / 1000
    print(f"    a profiled step takes {1000 * took:.1f} ms, its kernels {busy:.1f} ms:")
    for event in found[:16]:
        print(f"    {event.self_device_time_total / 1000:8.2f} ms {event.count:6} x {event.key[:100]}", flush=True)


def loop_rows(
    config: ModelConfig, rows: int, length: int, device: torch.device, checkpointing: Checkpointing, compiled: bool
) -> None:
    """The whole training loop on random documents: its speed, its memory, and what checkpoints cost."""
    clear()
    count = 3 * SAVE_EVERY
    stage = {
        "name": "concatenate",
        "tokens": count * rows * length,
        "sequence_length": length,
        "batch_size": rows,
        "learning_rate": {"shape": "constant", "peak": 1e-5, "end": 1e-5},
    }
    settings = Pretrain.model_validate(
        {
            "model": "qwen3-0.6b",  # the loop gets its model made
            "stages": [stage],
            "micro_batch_tokens": rows * length,
            "checkpoint_every": SAVE_EVERY,
            "keep_checkpoints": 1,
            "validate_every": count,
            "validation_tokens": rows * length,
            "compile": compiled,
            "activation_checkpointing": checkpointing,
        }
    )
    ended: list[float] = []

    class Clock:
        def update(self, done: float, total: float, unit: str, note: str = "") -> None:
            ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_datasets(folder, 500, (count + 10) * rows * length, length)
        shards = TokenShards(job)
        data = loop.Data(
            feeds={"concatenate": stage_feed(job, settings.stages[0], shards)},
            validation=Sequences(job, "best-fit", shards),
            token_bytes=np.full(config.vocabulary_size, 4),
            groups=shards.groups,
        )
        model = our_model(config, device)
        loop.train(settings, model, data, folder, "benchmark", Clock(), Ranks(0, 1, device))
        whole = time.perf_counter()
        lines = metrics.read(folder)[1:]
        size = sum(path.stat().st_size for path in (folder / loop.CHECKPOINTS).rglob("*") if path.is_file())
    # The steps before a checkpoint is written, and those while it is.
    quiet, saving = lines[SAVE_EVERY - 8 : SAVE_EVERY - 1], lines[SAVE_EVERY : SAVE_EVERY + 5]
    took = np.diff(ended)  # of steps 2, 3, ...
    first, again = (took[step - 2] - lines[step - 1]["seconds"] for step in (SAVE_EVERY, count - SAVE_EVERY))
    speed, mfu, before = (
        statistics.median(line.get(key, 0.0) for line in quiet) for key in ("tokens_per_second", "mfu", "seconds")
    )
    during = statistics.median(line["seconds"] for line in saving)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    print(
        f"training loop, {'compiled' if compiled else 'not compiled'}, recompute {checkpointing}: {speed:,.0f} "
        f"tokens/s, MFU {mfu:.1%}, {memory:.1f} GiB, loss {lines[0]['loss']:.4f} to {lines[-1]['loss']:.4f}; "
        f"a step takes {before:.3f} s, and {during:.3f} s while a checkpoint of {size / 1e9:.1f} GB is written; it "
        f"waits {first:.2f} s for the first one and {again:.2f} s later; the last one is whole after "
        f"{whole - ended[-1]:.1f} s",
        flush=True,
    )


def attention_table(config: ModelConfig, rows: int, length: int, device: torch.device, times: int) -> None:
    """Rows of attention alone, forward and backward: what documents save, and torch's own kernel for them."""
    shapes = [(rows, heads, length, config.head_dim) for heads in (config.heads, config.kv_heads, config.kv_heads)]
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    document_BT = (torch.arange(length, device=device) * DOCUMENTS // length).expand(rows, -1)
    mask = block_mask(document_starts(document_BT))
    one = block_mask(torch.zeros_like(document_BT))
    size = length // DOCUMENTS
    ends = torch.arange(0, rows * length + 1, size, device=device, dtype=torch.int32)

    def varlen() -> torch.Tensor:
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        y = varlen_attn(*flat, ends, ends, size, size, window_size=(-1, 0), enable_gqa=True)
        return y.view(rows, length, config.heads, config.head_dim).transpose(1, 2)

    sides = {
        "SDPA, causal, one document": lambda: attention(q, k, v, None),
        "flex, one document": lambda: attention(q, k, v, one),
        f"flex, {DOCUMENTS} documents": lambda: attention(q, k, v, mask),
        f"varlen, {DOCUMENTS} documents": varlen,
    }
    upstream = torch.randn_like(q)
    for name, forward in sides.items():
        alone = seconds(forward, device, times)
        took = seconds(lambda forward=forward: forward().backward(upstream), device, times)
        print(f"{name:52} {1000 * took:9.2f} ms, forward {1000 * alone:9.2f} ms", flush=True)
    with torch.no_grad():
        _, _, flex, other = (forward().float() for forward in sides.values())
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


def named(size: str) -> ModelConfig:
    name, _, layers = size.partition(":")
    return replace(SIZES[name], layers=int(layers)) if layers else SIZES[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", default=["qwen3-0.6b", "qwen3-30b-a3b:3"])
    parser.add_argument("--rows", type=int, default=4, help="sequences a step")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, of which the median is shown")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--compiled-peer", action="store_true")
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU")
        return
    logging.disable_progress_bar()
    device, rows = torch.device("cuda"), options.rows
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if "attention" in options.parts:
        attention_table(SIZES["qwen3-0.6b"], rows, LENGTH, device, options.steps)
    if "experts" in options.parts:  # a prime: no group has a round size
        experts_table(SIZES["qwen3-30b-a3b"], 4099, device, options.steps)
    for size in options.sizes:
        config, modes = named(size), tuple(options.modes)
        count = parameter_count(config)
        print(
            f"\n{size}, {config.layers} layers, {count.total / 1e6:,.0f} M parameters, {count.active / 1e6:,.0f} M "
            f"active; {rows} x {LENGTH} tokens a step"
        )
        if "steps" in options.parts:
            steps(
                config, rows, LENGTH, device, options.steps, compiled=True,
                modes=modes, compiled_peer=options.compiled_peer, kernels=options.kernels,
            )  # fmt: skip
        if "loop" in options.parts:
            loop_rows(config, rows, LENGTH, device, modes[0], compiled=True)


if __name__ == "__main__":
    main()
