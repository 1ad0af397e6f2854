"""Filter: decisions with reasons, from the label sidecars alone; no text is read."""

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import pyarrow.compute as pc

from pipelines.filter.kernels import decide
from pipelines.runner import ShardResult, Task, map_shards, shard_tasks
from schemas.job import Job, Output
from schemas.recipe import Filter
from schemas.tables import read_table, write_table
from schemas.thresholds import Thresholds, find_thresholds


class FilterShard(beam.DoFn):
    """Task -> ShardResult; writes `decisions/<shard>.parquet`."""

    def __init__(self, config: Filter, thresholds: Thresholds | None) -> None:
        self.config = config
        self.thresholds = thresholds

    def process(self, task: Task) -> Iterator[ShardResult]:
        labels = {name: read_table(path) for name, path in task.sidecars.items() if path}
        decisions = decide(labels, self.config, self.thresholds)
        entry = write_table(task.output, f"decisions/{task.name}.parquet", decisions)
        kept = pc.sum(decisions["keep"]).as_py() or 0
        reasons = Counter(pc.list_flatten(decisions["reasons"]).to_pylist())
        counts = {"documents": decisions.num_rows, "kept": kept, "dropped": decisions.num_rows - kept}
        yield ShardResult([entry], counts, dict(reasons))


def run(job: Job) -> Output:
    tasks = shard_tasks(job, {name: ("annotate", name) for name in sorted(job.recipe.annotate.labels)})
    config = job.recipe.filter
    return map_shards(job, tasks, FilterShard(config, find_thresholds(config.thresholds)), watch="decisions")
