"""One Beam pipeline per stage: how it is started, watched and summed up.

The elements of a pipeline are small references (a `Task` names an input shard); each `DoFn` reads its shard once,
runs the kernels and writes its output shard, and answers with a `ShardResult`. The results, never the data, come back
to the driver, which makes the manifest of them.
"""

import contextlib
import io
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import dead_workers
from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.job import Job, Output
from schemas.manifest import FileEntry

RESULTS = ".results.json"
COUNTERS = "sluice"
LOCAL_RUNNER = "FnApiRunner"  # named explicitly: `DirectRunner` may try to download a binary first
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """A reference to one input shard; `sidecars` are the files in the same row order, None where there are none."""

    index: int
    path: str
    output: str
    sidecars: dict[str, str | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """File name of whatever is made of this shard; it sorts as the shards do."""
        return f"{self.index:05d}"


@dataclass
class ShardResult:
    """What a DoFn says of the files it wrote."""

    files: list[FileEntry] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        value = asdict(self) | {"files": [entry.model_dump() for entry in self.files]}
        return json.dumps(value, sort_keys=True)


def shard_tasks(job: Job, sidecars: dict[str, tuple[str, str]]) -> list[Task]:
    """One task per document shard. `sidecars` maps a name to (stage, folder); absent stages give None."""
    shards = job.document_shards()
    found = {name: job.sidecars(stage, folder) for name, (stage, folder) in sidecars.items()}
    return [
        Task(index, path, job.output, {name: files[index] if files else None for name, files in found.items()})
        for index, path in enumerate(shards)
    ]


def map_shards(job: Job, tasks: list[Task], worker: beam.DoFn, watch: str) -> Output:
    """Run `worker` (Task -> ShardResult) over all tasks; `watch` is the folder whose files show the progress."""

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        return pipeline | "Shards" >> beam.Create(tasks) | beam.Reshuffle() | "Work" >> beam.ParDo(worker)

    return run_pipeline(job, build, len(tasks), lambda: len(finished_files(paths.join(job.output, watch))))


def run_pipeline(
    job: Job,
    build: Callable[[beam.Pipeline], beam.PCollection],
    total: float,
    done: Callable[[], float],
    unit: str = "shards",
) -> Output:
    """Run the pipeline that `build` lays out (its last collection holds ShardResults) and sum the results up.

    `done` says, from another thread, how many of `total` units are there.
    """
    results = paths.join(job.output, RESULTS)
    with _watch(job, total, done, unit), _one_line_errors(job.output), dead_workers.noticed():
        runner, options = _options(job.beam_options)
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            _ = (
                build(pipeline)
                | "To text" >> beam.Map(ShardResult.to_json)
                | "Collect" >> beam.combiners.ToList()
                | "Write results" >> beam.Map(_write_results, results)
            )
        counted = _counted(pipeline)
    merged = merge_results(json.loads(paths.read_text(results)))
    paths.remove(results)
    return replace(merged, spent=merged.spent | counted)


def count(name: str, number: int) -> None:
    """Add to what this execution used up, from a DoFn; see Output.spent."""
    beam.metrics.Metrics.counter(COUNTERS, name).inc(number)


def _counted(pipeline: beam.Pipeline) -> dict[str, int]:
    wanted = beam.metrics.MetricsFilter().with_namespace(COUNTERS)
    counters = pipeline.result.metrics().query(wanted)["counters"]
    totals: Counter[str] = Counter()
    for counter in counters:
        totals[counter.key.metric.name] += counter.committed or counter.attempted or 0
    return dict(sorted(totals.items()))


def roomy(pipeline: beam.Pipeline, transform: beam.ParDo, memory: int) -> beam.PTransform:
    """Tell the runner of a pipeline how many bytes of memory a transform takes.

    The local runner is told nothing: it would start worker processes of their own for such a transform.
    """
    if type(pipeline.runner).__name__ == LOCAL_RUNNER:
        return transform
    return transform.with_resource_hints(min_ram=f"{memory}B")


def merge_results(results: Iterable[dict[str, Any]]) -> Output:
    """Sum counts, sort files by path; the order of the results does not matter."""
    files: list[FileEntry] = []
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    extra: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for result in results:
        files += [FileEntry(**entry) for entry in result["files"]]
        counts.update(result["counts"])
        reasons.update(result["reasons"])
        extra.update(result["extra"])
        spent.update(result["spent"])
    files.sort(key=lambda entry: entry.path)
    return Output(files, *(dict(sorted(counter.items())) for counter in (counts, reasons, extra, spent)))


def _write_results(results: list[str], path: str) -> None:
    paths.write_text(path, "[" + ",\n".join(sorted(results)) + "]")


def _options(arguments: tuple[str, ...]) -> tuple[str | None, PipelineOptions]:
    # Workers are started as `python -m ...`, which would put the working directory, and whatever folder named
    # `pipelines` lies in it, before the installed packages.
    os.environ["PYTHONSAFEPATH"] = "1"
    named = any(argument.split("=")[0] == "--runner" for argument in arguments)
    if not named:  # what goes wrong here is raised here, and Beam would log it as well
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    unknown = _unknown_options(arguments)
    if unknown:
        raise ConfigError(f"after `--`: Beam has no pipeline option {unknown}")
    quiet = [] if named else ["--default_sdk_harness_log_level=CRITICAL"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # argparse would print all of Beam's options first
            options = PipelineOptions([*quiet, *arguments])
            options.get_all_options()
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1].rpartition("error: ")[2]
        raise ConfigError(f"after `--`: {message}") from None
    return (None if named else LOCAL_RUNNER), options


def _unknown_options(arguments: tuple[str, ...]) -> str | None:
    known: set[str] = set()
    for options in PipelineOptions.__subclasses__():
        parser = _Names()
        with contextlib.suppress(Exception):
            options._add_argparse_args(parser)  # type: ignore[arg-type]
        known |= parser.names
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and name not in known:
            return name
    return None


class _Names:
    """Stands where Beam expects an argument parser and keeps the names of the options."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add_argument(self, *flags: str, **_: Any) -> None:
        self.names.update(flags)

    def add_argument_group(self, *_: Any, **__: Any) -> "_Names":
        return self

    add_mutually_exclusive_group = add_argument_group


@contextlib.contextmanager
def _one_line_errors(job_output: str) -> Iterator[None]:
    """Beam wraps an error of a worker in pages of text; give back the one line that was written for a person."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(_without_place(str(error))) from error
    except Exception as error:
        text = str(error)
        if isinstance(error, OSError) or "OSError: [Errno" in text or "No space left on device" in text:
            raise DataError(f"{job_output}: {_without_place(text).splitlines()[0]}") from error
        for kind in (ConfigError, DataError):
            marker = f"{kind.__module__}.{kind.__qualname__}: "
            if marker in text:
                raise kind(_without_place(text.rsplit(marker, 1)[1].splitlines()[0])) from error
        raise


def _without_place(message: str) -> str:
    return message.split(" [while running", 1)[0]


def finished_files(folder: str) -> list[str]:
    """Names of the files of a folder that are whole; none where there is no such folder."""
    fs, inner = paths.filesystem(folder)
    fs.invalidate_cache()
    try:
        names = [str(name).rpartition("/")[2] for name in fs.ls(inner, detail=False)]
    except FileNotFoundError:
        return []
    return [name for name in names if name and not name.endswith(".writing")]


@contextlib.contextmanager
def _watch(job: Job, total: float, done: Callable[[], float], unit: str) -> Iterator[None]:
    """Report how far the output is by the files that exist: it works the same on every runner."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            job.progress.update(min(done(), total), total, unit)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        job.progress.update(total, total, unit)
    finally:
        stop.set()
        thread.join()
