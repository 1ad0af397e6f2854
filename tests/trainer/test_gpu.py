"""What only a GPU does: bfloat16 products over float32 weights, flex attention and grouped products with gradients,
compiled blocks, pinned buffers, NCCL. Each beside an oracle: transformers, single documents, a loop, the CPU."""

import copy
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from benchmarks.train_step import as_transformers, expert_loop
from schemas.errors import Interrupted
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Optimizer
from tests.trainer.conftest import StopAfter
from trainer import checkpoint, metrics
from trainer.data import Batch
from trainer.evaluate import batch_loss
from trainer.generate import generate
from trainer.loop import make_optimizer
from trainer.loss import IGNORE, chunked_cross_entropy
from trainer.model.attention import attention, document_mask
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3, apply_checkpointing, build, compile_blocks
from trainer.model.sizes import ModelConfig
from trainer.parallel import Ranks
from trainer.planner import training_memory
from trainer.stages import evaluate, pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]
DENSE = ModelConfig(
    vocabulary_size=512, hidden_size=256, intermediate_size=640, layers=3, heads=8, kv_heads=2, head_dim=64,
    tied_embeddings=True, init_std=0.06,
)  # fmt: skip
EXPERTS = replace(DENSE, intermediate_size=128, experts=16, experts_per_token=4, tied_embeddings=False)
MODEL = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
MIXTURE = MODEL | {"intermediate_size": 64, "experts": 8, "experts_per_token": 2}
CHANGES = {"seconds", "tokens_per_second", "mfu"}  # of a metrics line, from run to run


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())


def documents_of(lengths: list[list[int]]) -> torch.Tensor:
    """(B, T) numbers of documents, rising."""
    rows, number = [], 0
    for row in lengths:
        rows.append(torch.repeat_interleave(torch.arange(number, number + len(row)), torch.tensor(row)))
        number += len(row)
    return torch.stack(rows).int()


RAGGED = [[1, 130, 37, 500, 1, 331], [999, 1], [128, 128, 256, 488]]  # lengths that are no tiles of 128


def random_batch(config: ModelConfig, lengths: list[list[int]], seed: int = 0) -> Batch:
    """Random tokens in documents of these lengths."""
    document_BT = documents_of(lengths)
    tokens = torch.randint(config.vocabulary_size, document_BT.shape, generator=torch.Generator().manual_seed(seed))
    labels = torch.full_like(tokens, -100)
    labels[:, :-1] = torch.where(document_BT[:, 1:] == document_BT[:, :-1], tokens[:, 1:], -100)
    positions = torch.cat([torch.arange(size) for row in lengths for size in row]).view_as(tokens)
    return Batch(
        tokens_BT=tokens, labels_BT=labels, positions_BT=positions, document_BT=document_BT,
        group_BT=torch.zeros_like(tokens), segments_N2=torch.zeros(int(document_BT.max()) + 1, 2).numpy(),
        document_mask=True,
    )  # fmt: skip


def gradients(model: Qwen3, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss of a batch, and the gradient of every parameter."""
    model.zero_grad(set_to_none=True)
    loss, nll_BT = batch_loss(model, batch)
    labels = (batch.labels_BT >= 0).sum()
    (loss / labels).backward()
    return float(nll_BT.sum() / labels), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------------------------------------------------------
# Attention and experts


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_documents_equals_attention_per_document(width: int, dtype: torch.dtype) -> None:
    """Outputs and gradients of the tiles, beside SDPA in float64 on every document alone."""
    document_BT = documents_of(RAGGED)
    batch, length = document_BT.shape
    generator = torch.Generator(CUDA).manual_seed(0)
    inputs = [
        torch.randn(batch, heads, length, width, device=CUDA, generator=generator).to(dtype).requires_grad_()
        for heads in (8, 2, 2)
    ]
    upstream = torch.randn(batch, 8, length, width, device=CUDA, generator=generator).to(dtype)
    found = attention(*inputs, document_mask(document_BT.to(CUDA)))
    ours = [found, *torch.autograd.grad(found, inputs, upstream)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    rows = []
    for row, sizes in enumerate(RAGGED):
        parts = zip(*(x[row : row + 1].split(sizes, dim=2) for x in exact), strict=True)
        rows.append(
            torch.cat([F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts], dim=2)
        )
    wanted = torch.cat(rows)
    for a, b in zip(ours, [wanted, *torch.autograd.grad(wanted, exact, upstream.double())], strict=True):
        assert apart(a, b) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("tokens", [1, 7, 4099])
def test_experts_equal_a_loop_over_them(tokens: int) -> None:
    """Grouped products in bfloat16 beside every expert in turn in float32; with few tokens some experts are idle."""
    layer = MixtureOfExperts(256, 128, 16, 4)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    layer = layer.to(CUDA)
    x = torch.randn(1, tokens, 256, generator=generator).to(CUDA).requires_grad_()
    upstream = torch.randn(1, tokens, 256, generator=generator).to(CUDA)
    results = []
    for bf16, forward in ((True, lambda: layer(x, None)[0]), (False, lambda: expert_loop(layer, x))):
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            y = forward()
        results.append((y, *torch.autograd.grad(y, [x, *layer.parameters()], upstream.to(y.dtype))))
    for ours, wanted in zip(*results, strict=True):
        assert ours.isfinite().all()
        assert apart(ours, wanted) < 2e-2


# ---------------------------------------------------------------------------------------------------------------
# The model


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_the_loss_and_its_gradients_equal_cross_entropy(z_loss: float) -> None:
    """Over several chunks, the last one short, with labels that do not count; beside float32."""
    generator = torch.Generator(CUDA).manual_seed(0)
    hidden = torch.randn(2500, 64, device=CUDA, generator=generator).requires_grad_()
    weight = (0.3 * torch.randn(3000, 64, device=CUDA, generator=generator)).requires_grad_()
    labels = torch.randint(3000, (2500,), device=CUDA, generator=generator)
    labels[::5] = IGNORE
    with torch.autocast("cuda", torch.bfloat16):
        total, nll_N = chunked_cross_entropy(hidden, weight, labels, z_loss=z_loss)
    logits = hidden @ weight.T
    wanted = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    expected = wanted.sum() + z_loss * (logits.logsumexp(-1).square() * (labels != IGNORE)).sum()
    assert apart(nll_N, wanted) < 2e-3
    assert total.item() == pytest.approx(expected.item(), rel=1e-3)
    ours = torch.autograd.grad(total, (hidden, weight))
    for a, b in zip(ours, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert a.dtype == torch.float32
        assert apart(a, b) < 1e-2
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert apart(chunked_cross_entropy(hidden, weight, labels)[1], nll_N) < 1e-6


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_logits_and_gradients_are_those_of_transformers(config: ModelConfig) -> None:
    """In float32 the same; in bfloat16 ours are no further from them than those of transformers are."""
    ours = build(config, 0, CUDA)
    theirs = as_transformers(ours).to(CUDA)
    ids = torch.randint(config.vocabulary_size, (2, 300), generator=torch.Generator().manual_seed(0)).to(CUDA)

    def run(bf16: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        found = []
        for model, forward in (
            (ours, lambda: ours.logits(ours(ids))),
            (theirs, lambda: theirs(ids, use_cache=False).logits),
        ):
            model.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                logits = forward()
            F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()).backward()
            embedding = ours.embed_tokens if model is ours else theirs.model.embed_tokens
            found.append([logits.detach().float(), embedding.weight.grad])
        return found[0], found[1]

    exact, same = run(False)
    for a, b in zip(exact, same, strict=True):
        assert apart(a, b) < 1e-4
    if config.experts:  # transformers' grouped products want weights in bfloat16 too
        return
    for a, b, wanted in zip(*run(True), same, strict=True):
        assert apart(a, wanted) < min(0.02, 1.1 * apart(b, wanted))


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_a_packed_batch_is_its_documents_one_by_one(config: ModelConfig) -> None:
    model = build(config, 0, CUDA)
    batch = random_batch(config, RAGGED)
    loss, found = gradients(model, batch.to(CUDA))
    exact = build(config, 0)
    wanted_loss, wanted = gradients(exact, batch)
    assert loss == pytest.approx(wanted_loss, rel=1e-3)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    for name in wanted:
        # Rounded scores send some tokens to other experts.
        assert apart(found[name], wanted[name]) < (0.3 if config.experts else 0.03), name


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_what_is_computed_again_is_the_same(config: ModelConfig) -> None:
    batch = random_batch(config, RAGGED).to(CUDA)
    results = []
    for mode in ("none", "selective", "full"):
        model = build(config, 0, CUDA)
        if mode != "none":
            apply_checkpointing(model, selective=mode == "selective")
        results.append(gradients(model, batch))
    for loss, found in results[1:]:
        assert loss == results[0][0]
        for name, wanted in results[0][1].items():
            assert apart(found[name], wanted) < 1e-5, name


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_compiled_blocks_give_the_same_losses(config: ModelConfig, mode: str) -> None:
    """Also of other documents, with no graph of their own."""
    torch._dynamo.reset()
    plain = build(config, 0, CUDA)
    compiled = copy.deepcopy(plain)
    if mode != "none":
        apply_checkpointing(compiled, selective=mode == "selective")
    compile_blocks(compiled)
    for number, lengths in enumerate((RAGGED, [[400, 600], [1] * 1000, [500, 500]])):
        batch = random_batch(config, lengths, seed=number).to(CUDA)
        wanted_loss, wanted = gradients(plain, batch)
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            loss, found = gradients(compiled, batch)
        assert loss == pytest.approx(wanted_loss, rel=2e-3)
        for name in wanted:
            assert apart(found[name], wanted[name]) < (0.3 if config.experts else 0.03), name


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_text_goes_on_as_on_a_cpu(config: ModelConfig) -> None:
    model = build(config, 0)
    wanted = generate(model, [3, 1, 4, 1, 5], 20)
    assert generate(model.to(CUDA), [3, 1, 4, 1, 5], 20) == wanted


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize("experts", [0, 16])
def test_the_plan_bounds_the_memory(experts: int, mode: Any) -> None:
    config = ModelConfig(
        vocabulary_size=32_768, hidden_size=512, intermediate_size=256 if experts else 1536, layers=8, heads=8,
        kv_heads=4, head_dim=128, tied_embeddings=True, experts=experts, experts_per_token=4 if experts else 0,
    )  # fmt: skip
    model = build(config, 0, CUDA)
    if mode != "none":
        apply_checkpointing(model, selective=mode == "selective")
    optimizer = make_optimizer(model, Optimizer())
    batch = random_batch(config, [[1000, 1048, 2048]] * 4).to(CUDA)
    for _ in range(2):
        gradients(model, batch)
        optimizer.step()
        torch.cuda.synchronize()
        before = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    gradients(model, batch)
    optimizer.step()
    peak = max(before, torch.cuda.max_memory_allocated())
    plan = training_memory(config, 4 * 4096, mode, bf16=True).total
    assert 0.75 * plan < peak < 1.05 * plan


# ---------------------------------------------------------------------------------------------------------------
# Checkpoints and ranks


def test_a_checkpoint_holds_the_step_it_was_saved_at(tmp_path: Path) -> None:
    """Updates go on while it is written from pinned buffers."""
    model = build(DENSE, 0, CUDA)
    optimizer = make_optimizer(model, Optimizer())
    batch = random_batch(DENSE, RAGGED).to(CUDA)
    saved: list[dict[str, torch.Tensor]] = []
    with closing(checkpoint.Saver(tmp_path, pinned=True)) as saver:
        for step in (1, 2, 3):
            gradients(model, batch)
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
            saved.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
            saver.save(step, model, optimizer, {"step": step})
    for step, wanted in enumerate(saved, 1):
        loaded = build(DENSE, 1, CUDA)
        other = make_optimizer(loaded, Optimizer())
        checkpoint.load(tmp_path / checkpoint.name_of(step), loaded, other)
        assert all(torch.equal(parameter, wanted[name]) for name, parameter in loaded.named_parameters())
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        for key, value in optimizer.state[theirs].items():
            assert torch.equal(other.state[mine][key], value)
            assert other.state[mine][key].device == value.device


def test_nccl_sums_and_copies() -> None:
    """One process is all that one GPU takes; it runs the calls, and sums of one are the summands."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=address, rank=0, world_size=1)
    try:
        ranks = Ranks(0, 2, CUDA)  # so that it communicates
        tensors = [torch.randn(size, device=CUDA) for size in (3, 1 << 20, 7)]
        wanted = [tensor.clone() for tensor in tensors]
        ranks.sum(tensors)
        ranks.copy_from_first(tensors)
        assert all(torch.equal(a, b) for a, b in zip(tensors, wanted, strict=True))
        assert ranks.broadcast({"step": 3}) == {"step": 3}
    finally:
        dist.destroy_process_group()


RANK = """
import sys
import torch.distributed as dist
begin = dist.init_process_group
dist.init_process_group = lambda backend: begin("gloo")  # NCCL wants a GPU for every rank
sys.argv = ["worker", *sys.argv[2:]]
sys.path.insert(0, sys.path[0])
import runpy
runpy.run_path(WORKER, run_name="__main__")
"""


def test_two_ranks_on_one_gpu_give_the_losses_of_one(toy: Any) -> None:
    job = toy.job("one", device="cuda", model=MODEL, micro_batch_tokens=64)
    pretrain(job)
    wanted = metrics.read(Path(job.output))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = str(Path(__file__).with_name("pretrain_worker.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK.replace("WORKER", repr(worker)), "-", str(toy.root), str(toy.root / "two")],
            cwd=ROOT,
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            | {"MASTER_PORT": str(port), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    found = metrics.read(toy.root / "two")
    for line, other in zip(found[1:], wanted[1:], strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert line["labels"] == other["labels"]


# ---------------------------------------------------------------------------------------------------------------
# Training


def lines_of(job: Any) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line.keys() - CHANGES} for line in metrics.read(Path(job.output))]


@pytest.mark.parametrize("model", [MODEL, MIXTURE], ids=["dense", "experts"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_gives_the_losses_of_a_cpu_and_goes_on_after_a_stop(
    toy_factory: Callable[..., Any], model: dict[str, int], compiled: bool
) -> None:
    torch._dynamo.reset()
    toy = toy_factory(lengths=(128, 256), documents=96, packed=True)
    on_cpu = toy.job("cpu", model=model)
    pretrain(on_cpu)
    options = {"device": "cuda", "compile": compiled, "model": model, "micro_batch_tokens": 256}
    whole = toy.job("whole", **options)
    pretrain(whole)
    for line, other in zip(lines_of(whole), lines_of(on_cpu), strict=True):
        if line["step"]:
            assert line["loss"] == pytest.approx(other["loss"], rel=2e-2)
            assert line["labels"] == other["labels"]
        for key in line.keys() & {"validation_bits_per_byte", "grad_norm"}:
            assert line[key] == pytest.approx(other[key], rel=0.1)
    parts = toy.job("parts", **options)
    with pytest.raises(Interrupted, match="stopped at step 5 of 12"):
        pretrain(replace(parts, progress=StopAfter(4)))
    pretrain(parts)
    assert checkpoint.steps_in(Path(parts.output) / "checkpoints") == [7, 9, 12]
    losses = [[line["loss"] for line in lines_of(job)[1:]] for job in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_killed_training_goes_on_with_the_same_losses(toy: Any) -> None:
    whole = toy.job("whole", device="cuda", model=MODEL)
    pretrain(whole)
    output = toy.root / "killed"
    command = [sys.executable, str(Path(__file__).with_name("pretrain_worker.py")), str(toy.root), str(output)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([*command, "0.2"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "s1 step 7/7" in done.stdout
    assert "s1 step 1/7" not in done.stdout
    losses = [[line["loss"] for line in metrics.read(folder)[1:]] for folder in (output, Path(whole.output))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_trained_model_is_scored_as_on_a_cpu(toy: Any) -> None:
    job = toy.job("pretrain", device="cuda", model=MODEL)
    output = pretrain(job)
    manifest = Manifest(
        stage="pretrain", version=1, key="k", config={}, inputs={}, files=output.files, extra=output.extra
    )
    write_manifest(job.output, manifest)
    scores = []
    for device in ("cuda", "cpu"):
        later = toy.job(f"later {device}", device=device, model=MODEL)
        later = replace(later, inputs=later.inputs | {"pretrain": job.output})
        scores.append(evaluate(later).extra["bits_per_byte"])
    assert scores[0] == pytest.approx(scores[1], rel=5e-3)
