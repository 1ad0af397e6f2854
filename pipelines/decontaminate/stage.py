"""Decontaminate: drops documents that hold items of the recipe's benchmarks.

The driver builds one index of all benchmarks into a temporary file; every worker loads it once and reads each text
once. Without benchmarks no text is read.
"""

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.decontaminate import kernels
from pipelines.decontaminate.benchmarks import find_benchmarks, read_benchmark
from pipelines.runner import ShardResult, Task, map_shards, shard_tasks
from pipelines.sidecars import kept, kept_texts, read_keys
from schemas import paths
from schemas.documents import DECONTAMINATION_DECISIONS
from schemas.errors import ConfigError
from schemas.job import Job, Output
from schemas.tables import write_table

INDEX = "index.npz"  # temporary
EARLIER = ("filter", "dedup")
TOLERANCE = 1e-9  # of the share: 0.3 of 10 n-grams is 3 of them, however the product is rounded


class DecontaminateShard(beam.DoFn):
    """Task -> ShardResult; writes `decisions/<shard>.parquet`. `index` is the path of the index, None without one."""

    def __init__(self, index: str | None, overlap: float) -> None:
        self.path = index
        self.overlap = overlap
        self.index: kernels.Index | None = None

    def setup(self) -> None:
        if self.path is not None:
            with paths.open_read(self.path) as handle:
                self.index = kernels.index_from_bytes(handle.read())

    def process(self, task: Task) -> Iterator[ShardResult]:
        keys = read_keys(task)
        judged = kept(task, keys, EARLIER)
        reasons: list[list[str]] = [[] for _ in range(keys.num_rows)]
        benchmarks: list[str | None] = [None] * keys.num_rows
        shares = [0.0] * keys.num_rows
        if self.index is not None:
            names = self.index.names.tolist()
            for rows, texts in kept_texts(task, judged):
                found = kernels.overlap(self.index, texts)
                places = rows[found.texts].tolist()
                for row, benchmark, share in zip(places, found.benchmarks.tolist(), found.shares.tolist()):
                    if share > shares[row]:
                        benchmarks[row], shares[row] = names[benchmark], share
                    if share >= self.overlap - TOLERANCE:
                        reasons[row].append(f"contaminated:{names[benchmark]}")
        keep = np.array([not fired for fired in reasons], bool)
        columns = [
            *keys.columns,
            pa.array(keep),
            pa.array(reasons, pa.list_(pa.string())),
            pa.array(benchmarks, pa.string()),
            pa.array(shares, pa.float32()),
        ]
        table = pa.table(columns, schema=DECONTAMINATION_DECISIONS)
        entry = write_table(task.output, f"decisions/{task.name}.parquet", table)
        dropped = int((~keep).sum())
        counts = {
            "documents": keys.num_rows,
            "kept": int((keep & judged).sum()),
            "dropped": dropped,
            "not_judged": int((~judged).sum()),
        }
        by_benchmark = Counter(reason.partition(":")[2] for fired in reasons for reason in fired)
        yield ShardResult([entry], counts, {"contaminated": dropped}, dict(by_benchmark))


def run(job: Job) -> Output:
    """Decide on every document; DECONTAMINATION_DECISIONS, one file per document shard.

    Documents that the filter or dedup dropped take no part and are kept here. `extra` reports on every benchmark: its
    items, those not used and why, lines that could not be read, documents dropped for it.
    """
    config = job.recipe.decontaminate
    tasks = shard_tasks(job, {stage: (stage, "decisions") for stage in EARLIER})
    if not config.benchmarks:
        return map_shards(job, tasks, DecontaminateShard(None, config.overlap), watch="decisions")
    read = {name: read_benchmark(path, config.fields) for name, path in find_benchmarks(config.benchmarks).items()}
    index, report = kernels.build_index({name: benchmark.items for name, benchmark in read.items()}, config.ngram)
    idle = [name for name, found in report.items() if not found["used"]]
    if idle:
        raise ConfigError(
            f"decontaminate: no item of benchmark '{idle[0]}' can be compared ({report[idle[0]]['items']} items); "
            "name the fields that hold its text in decontaminate.fields"
        )
    place = paths.join(job.output, INDEX)
    with paths.write_atomic(place) as handle:
        handle.write(kernels.index_to_bytes(index))
    try:
        output = map_shards(job, tasks, DecontaminateShard(place, config.overlap), watch="decisions")
    finally:
        paths.remove(place)
    per_benchmark = {
        name: {**report[name], "unreadable": read[name].unreadable, "documents": output.extra.get(name, 0)}
        for name in report
    }
    return Output(output.files, output.counts, output.reasons, {"benchmarks": per_benchmark})
