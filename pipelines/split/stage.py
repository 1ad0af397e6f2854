"""Split: joins the decisions of all stages and sets the validation documents apart; no text is read."""

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam

from pipelines.runner import ShardResult, Task, map_shards, shard_tasks
from pipelines.sidecars import read_keys
from pipelines.split.kernels import assign
from schemas.documents import DECISIONS
from schemas.job import Job, Output
from schemas.tables import read_table, write_table

STAGES = ("filter", "dedup", "decontaminate")


class SplitShard(beam.DoFn):
    """Task -> ShardResult; writes `split/<shard>.parquet`."""

    def __init__(self, validation: float, seed: int) -> None:
        self.validation = validation
        self.seed = seed

    def process(self, task: Task) -> Iterator[ShardResult]:
        decisions = {
            stage: read_table(path, [*DECISIONS.names, *(["cluster_id"] if stage == "dedup" else [])])
            for stage, path in task.sidecars.items()
            if path
        }
        split = assign(read_keys(task), decisions, self.validation, self.seed)
        entry = write_table(task.output, f"split/{task.name}.parquet", split)
        counts = Counter(split["split"].to_pylist())
        yield ShardResult([entry], dict(counts), dict(Counter(filter(None, split["dropped_by"].to_pylist()))))


def run(job: Job) -> Output:
    tasks = shard_tasks(job, {stage: (stage, "decisions") for stage in STAGES})
    worker = SplitShard(job.recipe.split.validation, job.recipe.seed)
    return map_shards(job, tasks, worker, watch="split")
