"""Time until a training goes on, early and late in it; and how long a step waits for a checkpoint.

    python -m benchmarks.resume [--consumed 1000 1000000] [--sequences 1100000] [--rounds 7]

What going on computes, for a run that stands after so many sequences: the newest checkpoint is checked and loaded, the
metrics are cut off after its step, and the order of a pack's sequences and the first batch are made. Runs alternate and
medians are shown, so that a busy machine slows all alike. The model is Qwen3's shape with about 10 M parameters.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.loader import write_datasets
from schemas.job import Job
from schemas.recipe import Optimizer
from trainer import checkpoint
from trainer.data import Feed, Sequences, TokenShards
from trainer.loop import make_optimizer
from trainer.metrics import LINES, Metrics
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import ModelConfig
from trainer.schedule import Batches

CONFIG = ModelConfig(
    vocabulary_size=8_192, hidden_size=288, intermediate_size=768, layers=8, heads=8, kv_heads=4, head_dim=36,
    tied_embeddings=True,
)  # fmt: skip
BATCH, LENGTH = 8, 64
PARTS = ("checkpoint", "metrics", "first batch")


def trained() -> tuple[Qwen3, torch.optim.AdamW]:
    """A model after one update, so that its optimizer has a state."""
    model = build(CONFIG, 0)
    optimizer = make_optimizer(model, Optimizer())
    model(torch.arange(LENGTH)[None]).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def stand(folder: Path, consumed: int) -> None:
    """What a run leaves that has read so many sequences: a line a step and a checkpoint."""
    folder.mkdir()
    step = consumed // BATCH
    cells = {f"{language}/{number}": [123.456789, 100, 400] for language in ("english", "code") for number in range(6)}
    with (folder / LINES).open("w") as file:
        for number in range(step + 1):
            line = {"step": number, "loss": 3.14159265, "grad_norm": 0.5, "tokens": number * BATCH * LENGTH}
            file.write(json.dumps(line | {"cells": cells}) + "\n")
    with closing(checkpoint.Saver(folder / "checkpoints")) as saver:
        saver.save(step, *trained(), {"key": "benchmark", "step": step})


def go_on(folder: Path, job: Job) -> dict[str, float]:
    """Seconds of each part of it."""
    model, optimizer = trained()
    sequences = Sequences(job, "large", TokenShards(job))
    for number in range(0, sequences.count, max(1, sequences.count // 500)):
        sequences.read([number])  # opens and checks the shards, wherever the run stands
    times = [time.perf_counter()]
    state = checkpoint.load_newest(folder / "checkpoints", model, optimizer, "benchmark")
    assert state is not None
    times.append(time.perf_counter())
    metrics = Metrics(folder, state["step"])
    times.append(time.perf_counter())
    Feed(sequences, "benchmark", Batches.equal(BATCH)).batch(state["step"])
    times.append(time.perf_counter())
    metrics.close()
    return {part: after - before for part, before, after in zip(PARTS, times, times[1:])}


def save(root: Path) -> tuple[float, float]:
    """Seconds that a step waits, and that the files take."""
    model, optimizer = trained()
    with closing(checkpoint.Saver(root)) as saver:
        saver.save(1, model, optimizer, {})  # the first one makes the buffers
        saver.wait()
        began = time.perf_counter()
        saver.save(2, model, optimizer, {})
        waited = time.perf_counter()
        saver.wait()
        return waited - began, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consumed", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--sequences", type=int, default=1_100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_datasets(folder, 60, 4_000_000, LENGTH, options.sequences)
        runs = {consumed: folder / f"after-{consumed}" for consumed in options.consumed}
        for consumed, run in runs.items():
            stand(run, consumed)
        rounds = [{consumed: go_on(run, job) for consumed, run in runs.items()} for _ in range(options.rounds)]
        print(f"{'sequences consumed':>18}" + "".join(f"{part:>14}" for part in (*PARTS, "in all")) + "   milliseconds")
        for consumed in runs:
            middle = [statistics.median(one[consumed][part] for one in rounds) for part in PARTS]
            whole = statistics.median(sum(one[consumed].values()) for one in rounds)
            print(f"{consumed:>18,}" + "".join(f"{1000 * seconds:>14.1f}" for seconds in (*middle, whole)))
        saves = [save(folder / f"saves-{number}") for number in range(options.rounds)]
        size = sum(path.stat().st_size for path in (folder / "saves-0" / checkpoint.name_of(2)).iterdir())
        waited, written = (1000 * statistics.median(times) for times in zip(*saves))
        print(f"a step waits {waited:.1f} ms for a checkpoint of {size / 1e6:.0f} MB, written in {written:.1f} ms")


if __name__ == "__main__":
    main()
