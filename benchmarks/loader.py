"""Speed of the data loader: tokens per CPU second of one reading thread, beside what a training step consumes.

    python -m benchmarks.loader [--documents 20000] [--sequence-length 4096] [--batch-size 16]

Documents have log-normal lengths (median 500 tokens, as web pages do), in 16 shards on a temporary folder.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.pack.kernels import concatenate
from pipelines.pack.stage import write_pack
from schemas.job import Job
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import write_table
from schemas.tokens import TOKENS
from trainer.data import Feed, Sequences, prefetch
from trainer.schedule import Batches
from trainer.shards import TokenShards

SHARDS = 16
VOCABULARY = 151_669


class Silent:
    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass


def write_datasets(folder: Path, documents: int, sequence_length: int) -> Job:
    """A tokenize and a pack dataset of random tokens."""
    random = np.random.default_rng(0)
    lengths = np.maximum(2, random.lognormal(np.log(500), 1.0, documents).astype(np.int64))
    shard_of = np.sort(np.arange(documents, dtype=np.int32) % SHARDS)
    row_of = np.concatenate([np.arange(np.count_nonzero(shard_of == shard)) for shard in range(SHARDS)])
    row_of = row_of.astype(np.int32)
    entries = []
    for shard in range(SHARDS):
        sizes = lengths[shard_of == shard]
        count = len(sizes)
        values = random.integers(0, VOCABULARY, int(sizes.sum())).astype(np.uint32)
        columns = {
            "document_id": pa.array([b"%04d%012d" % (shard, row) for row in range(count)], pa.binary(16)),
            "id": pa.nulls(count, pa.string()),
            "licence": pa.nulls(count, pa.string()),
            "educational_score": pa.array(np.ones(count, np.float32)),
            "text_bytes": pa.array(4 * sizes),
            "tokens": pa.LargeListArray.from_arrays(
                pa.array(np.concatenate(([0], np.cumsum(sizes)))), pa.array(values), type=TOKENS.field("tokens").type
            ),
        }
        for name, value in (("split", "train"), ("source", "random"), ("language", "eng_Latn"), ("domain", "other")):
            columns[name] = pa.array([value] * count)
        columns["cell"] = pa.array([f"english/other/{row % 4}" for row in range(count)])
        table = pa.Table.from_arrays([columns[name] for name in TOKENS.names], schema=TOKENS)
        entries.append(write_table(str(folder / "tokenize"), f"tokens/{shard:05}.arrow", table))
    sizes_extra = {"vocabulary_size": VOCABULARY, "padded_vocabulary_size": 151_936, "end_of_document": 151_643}
    write_manifest(str(folder / "tokenize"), Manifest(
        stage="tokenize", version=1, key="", config={}, inputs={}, files=entries, extra=sizes_extra
    ))  # fmt: skip
    stream = concatenate(lengths + 1, sequence_length)
    entry = write_pack(str(folder / "pack"), "s1", stream.packings(), shard_of, row_of)
    stages = {"s1": {"sequence_length": sequence_length, "sequences": entry.rows}}
    write_manifest(str(folder / "pack"), Manifest(
        stage="pack", version=1, key="", config={}, inputs={}, files=[entry], extra={"stages": stages}
    ))  # fmt: skip
    recipe = Recipe.model_validate({"name": "benchmark", "sources": [{"name": "none", "path": "."}]})
    inputs = {name: str(folder / name) for name in ("tokenize", "pack")}
    return Job(recipe, inputs, str(folder), Silent())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = write_datasets(Path(folder), options.documents, options.sequence_length)
        began = time.process_time()
        shards = TokenShards(job)
        size = sum(file.entry.bytes for file in shards.files)
        seconds = time.process_time() - began
        print(f"start: {size / 1e6:,.0f} MB of shards verified at {size / seconds / 1e6:,.0f} MB per CPU second")
        began = time.process_time()
        feed = Feed(Sequences(job, "s1", shards), "benchmark", Batches.equal(options.batch_size))
        feed.rows(0)
        print(f"order: {feed.sequences.count:,} sequences in {time.process_time() - began:.3f} CPU seconds")

        per_round = max(1, 50 * 4096 // options.sequence_length)
        tokens = per_round * options.batch_size * options.sequence_length
        speeds = []
        for number in range(options.rounds):
            began = time.process_time()
            for _ in prefetch(feed.batch, number * per_round, (number + 1) * per_round):
                pass
            speeds.append(tokens / (time.process_time() - began))
        print(
            f"read:  {statistics.median(speeds):,.0f} tokens per CPU second at length {options.sequence_length} "
            f"(lowest {min(speeds):,.0f}); benchmarks.train_step shows what a step consumes"
        )


if __name__ == "__main__":
    main()
