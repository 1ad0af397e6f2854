"""Annotate: one sidecar per document shard and annotator, in the row order of the documents.

The text is read once; every annotator labels the batch while it is in memory. Labels that another annotator needs are
made on the way where the recipe does not ask for them, and not written.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import apache_beam as beam

from annotators.table import annotate, annotator
from pipelines.runner import ShardResult, Task, map_shards, shard_tasks
from schemas.job import Job, Output
from schemas.labels import ANNOTATORS
from schemas.tables import read_batches, table_writer


class AnnotateShard(beam.DoFn):
    """Task -> ShardResult; writes `<annotator>/<shard>.parquet` for each of `names`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def process(self, task: Task) -> Iterator[ShardResult]:
        languages: Counter[str] = Counter()
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(table_writer(task.output, f"{name}/{task.name}.parquet", ANNOTATORS[name]))
                for name in self.names
            }
            for batch in read_batches(task.path):
                labels = annotate(batch, self.names)
                for name, writer in writers.items():
                    writer.write(labels[name])
                if "language" in writers:
                    languages.update(labels["language"]["language"].to_pylist())
        entries = [writer.entry() for writer in writers.values()]
        yield ShardResult(entries, {"documents": entries[0].rows if entries else 0}, extra=dict(languages))


def run(job: Job) -> Output:
    names: list[str] = sorted(set(job.recipe.annotate.labels))  # two writers must not share a file
    done = map_shards(job, shard_tasks(job, {}), AnnotateShard(names), watch=names[0])
    versions = {name: annotator(name).VERSION for name in names}
    return Output(done.files, done.counts, {}, {"annotators": versions, "languages": done.extra})
