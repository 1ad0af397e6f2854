"""Speed of mixing and packing over columns.

    python -m benchmarks.pack [--documents 1000000]

Documents have log-normal lengths (median 500 tokens, as web pages do) and random labels. Reported per part: seconds,
documents per second and, for packing, sequences per second and the share of padding.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.mix.stage import plan_stage, with_merged
from pipelines.pack.kernels import Packing, Stream, concatenate, pack_whole
from pipelines.pack.stage import stream_order
from schemas.recipe import LearningRate, Mixture, TrainingStage

MAX_COPIES = 4.0


def corpus(count: int) -> pa.Table:
    random = np.random.default_rng(0)
    cells = [
        f"{group}/{domain}/{b}" for group in ("english", "chinese") for domain in ("code", "other") for b in range(4)
    ]
    tokens = np.maximum(2, random.lognormal(np.log(500), 1.2, count).astype(np.int64))
    table = pa.table(
        {
            "document_id": pa.array([b"%016d" % i for i in range(count)], pa.binary(16)),
            "id": pa.nulls(count, pa.string()),
            "cell": pa.array(cells).take(pa.array(random.integers(0, len(cells), count))),
            "language": pa.array(["eng_Latn", "zho_Hans"]).take(pa.array(random.integers(0, 2, count))),
            "source": pa.array(["web", "books"]).take(pa.array(random.integers(0, 2, count))),
            "shard": pa.array((np.arange(count) * 64 // count).astype(np.int32)),
            "row": pa.array(np.arange(count, dtype=np.int32)),
            "tokens": pa.array(tokens),
        }
    )
    return with_merged(table, {name: name for name in cells})


def timed(what: str, count: int, work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    print(f"{what:34} {seconds:8.2f} s {count / seconds:14,.0f} documents/s", end="")
    return result, seconds


def _all(stream: Stream) -> list[Packing]:
    return list(stream.packings())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    count = parser.parse_args().documents
    documents = corpus(count)
    total = int(np.sum(documents["tokens"].to_numpy()))
    print(f"{count:,} documents, {total:,} tokens")
    stage = TrainingStage(
        name="s1",
        tokens=total,
        sequence_length=4096,
        batch_size=256,
        mixture=Mixture(domain={"code": 3.0}, educational={3: 2.0, 0: 0.5}),
        learning_rate=LearningRate(peak=3e-4, end=3e-5),
    )
    (plan, summary), _ = timed("mix", count, lambda: plan_stage(documents, stage, MAX_COPIES, seed=0))
    print(f" {summary['tokens'] - total:+} tokens from the budget")
    order, _ = timed("order by hash", count, lambda: stream_order(plan, 0, "s1"))
    print()
    lengths = plan["tokens"].to_numpy()[order]
    for length in (4096, 32_768):
        stream = concatenate(lengths, length)
        found, seconds = timed(f"concatenate to {length:,}", len(order), partial(_all, stream))
        sequences = sum(len(part.offsets) - 1 for part in found)
        print(f" {sequences / seconds:12,.0f} sequences/s, no padding")
        packing, seconds = timed(f"best-fit into {length:,}", len(order), partial(pack_whole, lengths, length))
        sequences = len(packing.offsets) - 1
        padding = 1 - packing.length.sum() / (sequences * (length + 1))
        print(f" {sequences / seconds:12,.0f} sequences/s, {padding:.3%} padding")


if __name__ == "__main__":
    main()
