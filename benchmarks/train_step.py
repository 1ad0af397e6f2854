"""Our training step beside transformers' Qwen3 with SDPA and fused AdamW: tokens per CPU second, one thread.

    python -m benchmarks.train_step [--rounds 7] [--documents 4]

Both start from the same weights and take the same batch; the losses of every step are compared. The rounds alternate
and medians are shown, so that a busy machine slows both alike. First without document masks, where both do the same
work; then packed, where transformers restarts the positions and masks with a dense T x T matrix.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from schemas.recipe import Optimizer
from trainer import hf
from trainer.data import Batch
from trainer.evaluate import batch_loss
from trainer.loop import make_optimizer
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import ModelConfig

RATE, CLIP = 1e-3, 1.0


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


def our_step(model: Qwen3, batch: Batch) -> Callable[[], float]:
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


def their_step(model: PreTrainedModel, batch: Batch) -> Callable[[], float]:
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


def compare(name: str, config: ModelConfig, rows: int, length: int, documents: int, rounds: int) -> None:
    batch = random_batch(config, rows, length, documents)
    ours = build(config, 0)
    with tempfile.TemporaryDirectory() as folder:
        hf.export(ours, Path(folder) / "model", eos_token_id=0, dtype="float32")
        theirs = AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=torch.float32, attn_implementation="sdpa"
        )
    steps = {"sluice": our_step(ours, batch), "transformers": their_step(theirs.train(), batch)}
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    apart = 0.0
    for round_number in range(rounds + 1):
        losses = []
        for side, step in steps.items():
            began = time.process_time()
            losses.append(step())
            if round_number:  # the first round warms up
                seconds[side].append(time.process_time() - began)
        apart = max(apart, abs(losses[0] - losses[1]))
    speed = {side: rows * length / statistics.median(found) for side, found in seconds.items()}
    print(
        f"{name:28} {speed['sluice']:9,.0f} {speed['transformers']:9,.0f} tokens per CPU second, "
        f"{speed['sluice'] / speed['transformers']:.2f} times; losses at most {apart:.1e} apart over {rounds + 1} steps"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=4, help="per sequence, in the packed case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    small = ModelConfig(
        vocabulary_size=4096, hidden_size=128, intermediate_size=384, layers=4, heads=4, kv_heads=2, head_dim=32,
        tied_embeddings=True,
    )  # fmt: skip
    wide = ModelConfig(
        vocabulary_size=32_768, hidden_size=256, intermediate_size=768, layers=4, heads=8, kv_heads=4, head_dim=32,
        tied_embeddings=True,
    )  # fmt: skip
    print(f"{'':28} {'sluice':>9} {'transformers':>9}")
    for label, config, rows, length in (("1.3 M, length 256", small, 8, 256), ("11 M, length 512", wide, 2, 512)):
        compare(label, config, rows, length, 1, options.rounds)
        compare(f"{label}, packed", config, rows, length, options.documents, options.rounds)


if __name__ == "__main__":
    main()
