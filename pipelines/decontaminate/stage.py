"""Decontaminate: documents that hold items of the recipe's benchmarks are dropped, cut or only reported.

    shard -> places that hold some of an item    the text is read here and nowhere else; the places go beside the shard
          -> words of formulas                   found in too many documents that do not hold the rest of their item
          -> decisions, matches, cuts            by shard, of the places and what is no formula

The driver builds one index of all benchmarks into a temporary file, which every worker loads once. Without benchmarks
no text is read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.decontaminate import kernels
from pipelines.decontaminate.benchmarks import Fields, find_benchmarks, read_benchmark
from pipelines.decontaminate.normal import byte_places
from pipelines.groups import borders
from pipelines.runner import ShardResult, Task, finished_files, map_shards, run_pipeline, shard_tasks
from pipelines.sidecars import kept, kept_texts, read_keys
from schemas import paths
from schemas.cuts import CUT_FILE, CUTS
from schemas.documents import CONTAMINATION_MATCHES, DECONTAMINATION_DECISIONS
from schemas.errors import ConfigError
from schemas.job import Job, Output
from schemas.recipe import Decontaminate
from schemas.tables import read_table, struct_lists, table_writer, write_table

WORK = "work"  # temporary: the index, and the places that each shard has
INDEX = "index.npz"
EARLIER = ("filter", "dedup")
REASON = "contaminated"
EXCERPT = 400  # characters of a document that are shown beside an item
FORMULAS = "formulas"  # tag of an output
COUNT = np.dtype([("word", "<i8"), ("documents", "<i8")])

_SPANS = pa.list_(pa.struct([("begin", pa.int32()), ("end", pa.int32())]))
PLACES = pa.schema(
    [
        ("row", pa.int64()),
        ("item", pa.int64()),  # of the index
        ("item_words", pa.list_(pa.int32())),
        ("spans", _SPANS),  # UTF-8 bytes of the text, in its order
        ("excerpt", pa.string()),
    ]
)


class FindPlaces(beam.DoFn):
    """Task -> Task; writes the PLACES of a shard.

    The output FORMULAS has COUNT records: words of the index that documents hold without their item.
    """

    def __init__(self, index: str, overlap: float) -> None:
        self.index = index
        self.overlap = overlap

    def process(self, task: Task) -> Iterator[Any]:
        index = _load(self.index)
        words = []
        with table_writer(task.output, _places_of(task), PLACES) as writer:
            for rows, texts in kept_texts(task, kept(task, read_keys(task), EARLIER)):
                found = kernels.find(index, texts)
                words.append(kernels.partial(index, found, kernels.judge(index, index.own, found, self.overlap)))
                if len(found):
                    writer.write(_places(index, found, rows, texts))
        word, documents = np.unique(np.concatenate([np.empty(0, np.int64), *words]), return_counts=True)
        if len(word):
            yield beam.pvalue.TaggedOutput(FORMULAS, _counts(word, documents).tobytes())
        yield task


class Common(beam.CombineFn):
    """COUNT records -> words that more than `common` documents have, int64 as bytes."""

    def __init__(self, common: int) -> None:
        self.common = common

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        counts = np.frombuffer(b"".join(accumulators), COUNT)
        words, which = np.unique(counts["word"], return_inverse=True)
        sums = np.zeros(len(words), np.int64)
        np.add.at(sums, which, counts["documents"])
        return _counts(words, sums).tobytes()

    def extract_output(self, accumulator: bytes) -> bytes:
        counts = np.frombuffer(accumulator, COUNT)
        return counts["word"][counts["documents"] > self.common].tobytes()


class Decide(beam.DoFn):
    """(Task, words of formulas) -> ShardResult; writes decisions, and of benchmarks matches and, if asked, cuts."""

    def __init__(self, index: str | None, config: Decontaminate) -> None:
        self.index = index
        self.config = config

    def process(self, task: Task, formulas: bytes = b"") -> Iterator[ShardResult]:
        keys = read_keys(task)
        judged = kept(task, keys, EARLIER)
        drops = self.config.action == "drop"
        reasons: list[list[str]] = [[] for _ in range(keys.num_rows)]
        benchmarks: list[str | None] = [None] * keys.num_rows
        ratios = np.zeros(keys.num_rows)
        contaminated = np.zeros(keys.num_rows, bool)
        extra: Counter[str] = Counter()
        files = []
        if self.index is not None:
            index = _load(self.index)
            own = index.own.copy()
            own[np.frombuffer(formulas, np.int64)] = False
            places = read_table(paths.join(task.output, _places_of(task))).combine_chunks()
            found = _found(places)
            verdict = kernels.judge(index, own, found, self.config.overlap)
            names = index.names[index.benchmarks[found.items]]
            best_first = np.lexsort((names, -verdict.ratios, ~verdict.leaks, found.texts))
            rows, best = np.unique(found.texts[best_first], return_index=True)
            ratios[rows] = verdict.ratios[best_first[best]]
            for row, name in zip(rows.tolist(), names[best_first[best]].tolist()):
                benchmarks[row] = name
            contaminated[found.texts[verdict.leaks]] = True
            hits = sorted(set(zip(found.texts[verdict.leaks].tolist(), names[verdict.leaks].tolist())))
            for row, name in hits:
                reasons[row] += [f"{REASON}.{name}"] if drops else []
            matches = _matches(index, keys, places, found, verdict)
            files.append(write_table(task.output, f"matches/{task.name}.parquet", matches))
            extra.update(f"documents\t{name}" for _, name in hits)
            shown = (matches[name].to_pylist() for name in ("benchmark", "item"))
            extra.update(f"item\t{name}\t{item}" for name, item in zip(*shown))
            if self.config.action == "cut":
                cuts = _cuts(keys, places, found, verdict, names)
                files.append(write_table(task.output, f"cuts/{task.name}.parquet", cuts))
        keep = ~contaminated | (not drops)
        columns = [
            *keys.columns,
            pa.array(keep),
            pa.array(reasons, pa.list_(pa.string())),
            pa.array(benchmarks, pa.string()),
            pa.array(ratios, pa.float32()),
        ]
        table = pa.table(columns, schema=DECONTAMINATION_DECISIONS)
        files.append(write_table(task.output, f"decisions/{task.name}.parquet", table))
        dropped = int((~keep).sum())
        counts = {
            "documents": keys.num_rows,
            "kept": int((keep & judged).sum()),
            "dropped": dropped,
            "not_judged": int((~judged).sum()),
            "contaminated": int(contaminated.sum()),
        }
        yield ShardResult(files, counts, {REASON: dropped}, dict(extra))


def run(job: Job) -> Output:
    """Decide on every document; DECONTAMINATION_DECISIONS, one file per document shard.

    With benchmarks there are CONTAMINATION_MATCHES too, a file per shard, and with the action `cut` the spans that
    are taken out: `cuts/<shard>.parquet`, a row per document.

    Documents that the filter or dedup dropped take no part and are kept here. `extra` reports on every benchmark: its
    items, those not used and why, lines that could not be read, items found and documents that hold one.
    """
    config = job.recipe.decontaminate
    tasks = shard_tasks(job, {stage: (stage, "decisions") for stage in EARLIER})
    if not config.benchmarks:
        return map_shards(job, tasks, Decide(None, config), watch="decisions")
    fields = Fields(config.question, config.choices, config.answer)
    read = {name: read_benchmark(path, fields) for name, path in find_benchmarks(config.benchmarks).items()}
    index, report = kernels.build_index({name: benchmark.items for name, benchmark in read.items()}, config.ngram)
    idle = [name for name, found in report.items() if not found["short"] + found["long"]]
    if idle:
        raise ConfigError(
            f"decontaminate: no item of benchmark '{idle[0]}' can be compared ({report[idle[0]]['items']} items); "
            "name the fields that hold its text in decontaminate.question, choices and answer"
        )
    work = paths.join(job.output, WORK)
    place = paths.join(work, INDEX)
    with paths.write_atomic(place) as handle:
        handle.write(kernels.index_to_bytes(index))
    del index

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        found = (
            pipeline
            | "Shards" >> beam.Create(tasks)
            | beam.Reshuffle()
            | "Find" >> beam.ParDo(FindPlaces(place, config.overlap)).with_outputs(FORMULAS, main="tasks")
        )
        formulas = found[FORMULAS] | beam.CombineGlobally(Common(config.common))
        again = found["tasks"] | "Spread" >> beam.Reshuffle()
        return again | "Decide" >> beam.ParDo(Decide(place, config), beam.pvalue.AsSingleton(formulas))

    def done() -> float:
        found = len(finished_files(paths.join(work, "places")))
        return (found + len(finished_files(paths.join(job.output, "decisions")))) / 2

    try:
        output = run_pipeline(job, build, len(tasks), done)
    finally:
        _load.cache_clear()
        paths.remove(work)
    items = (name.removeprefix("item\t") for name in output.extra if name.startswith("item\t"))
    found = Counter(name.rpartition("\t")[0] for name in items)
    per_benchmark = {
        name: {
            **report[name],
            "unreadable": read[name].unreadable,
            "found": found[name],
            "documents": output.extra.get(f"documents\t{name}", 0),
        }
        for name in report
    }
    return Output(output.files, output.counts, output.reasons, {"benchmarks": per_benchmark})


@lru_cache(maxsize=1)
def _load(path: str) -> kernels.Index:
    """The index, once for each process."""
    with paths.open_read(path) as handle:
        return kernels.index_from_bytes(handle.read())


def _places_of(task: Task) -> str:
    return f"{WORK}/places/{task.name}.parquet"


def _counts(words: np.ndarray, documents: np.ndarray) -> np.ndarray:
    counts = np.empty(len(words), COUNT)
    counts["word"], counts["documents"] = words, documents
    return counts


def _places(index: kernels.Index, found: kernels.Found, rows: np.ndarray, texts: list[str]) -> pa.Table:
    """PLACES of a batch of texts, which are those of `rows`."""
    place, first, last = kernels.stretches(index, found)
    begins, ends = np.zeros(len(place), np.int64), np.zeros(len(place), np.int64)
    excerpts: list[str] = []
    bounds = np.searchsorted(found.texts, np.arange(len(texts) + 1))
    for text in np.unique(found.texts).tolist():
        its = slice(*np.searchsorted(place, bounds[text : text + 2]).tolist())
        numbers = np.unique(np.concatenate([first[its], last[its]]))
        word_begins, word_ends = byte_places(texts[text], numbers)
        begins[its] = word_begins[np.searchsorted(numbers, first[its])]
        ends[its] = word_ends[np.searchsorted(numbers, last[its])]
        data = texts[text].encode()
        for one in range(bounds[text], bounds[text + 1]):
            low, high = np.searchsorted(place, [one, one + 1]).tolist()
            shown = data[begins[low] : min(ends[high - 1], begins[low] + 4 * EXCERPT)]  # no character has more bytes
            excerpts.append(shown.decode(errors="ignore")[:EXCERPT])
    spans = [pa.array(begins, pa.int32()), pa.array(ends, pa.int32())]
    return pa.table(
        [
            pa.array(rows[found.texts]),
            pa.array(found.items),
            pa.ListArray.from_arrays(pa.array(found.item_offsets, pa.int32()), pa.array(found.item_words)),
            struct_lists(_SPANS, spans, np.bincount(place, minlength=len(found))),
            pa.array(excerpts, pa.string()),
        ],
        schema=PLACES,
    )


def _found(places: pa.Table) -> kernels.Found:
    """The places of a shard; which words of the texts they are is not known any more."""
    counts = pc.list_value_length(places["item_words"]).to_numpy().astype(np.int64)
    nothing = np.empty(0, np.int64)
    return kernels.Found(
        places["row"].to_numpy(),
        places["item"].to_numpy(),
        pc.list_flatten(places["item_words"]).to_numpy(),
        np.concatenate([[0], np.cumsum(counts)]),
        nothing,
        np.zeros(len(counts) + 1, np.int64),
    )


def _matches(
    index: kernels.Index, keys: pa.Table, places: pa.Table, found: kernels.Found, verdict: kernels.Verdict
) -> pa.Table:
    """CONTAMINATION_MATCHES: of each document and item the best place."""
    leaks = np.flatnonzero(verdict.leaks)
    order = leaks[np.lexsort((leaks, -verdict.ratios[leaks], found.items[leaks], found.texts[leaks]))]
    fresh = borders(found.texts[order], found.items[order])
    best = order[fresh]
    times = np.diff(np.append(np.flatnonzero(fresh), len(order)))
    items = found.items[best]
    ids = keys.select(["document_id", "id"]).take(pa.array(found.texts[best]))
    parts = np.where(index.short[items], kernels.SHORT, np.array(kernels.PARTS)[verdict.parts[best]])
    spans = places["spans"].take(pa.array(best)).to_pylist()
    return pa.table(
        [
            *ids.columns,
            pa.array(index.names[index.benchmarks[items]], pa.string()),
            pa.array(index.numbers[items]),
            pa.array(parts, pa.string()),
            pa.array(verdict.words[best], pa.int32()),
            pa.array(verdict.matched[best], pa.int32()),
            pa.array(verdict.ratios[best], pa.float32()),
            pa.array(times, pa.int32()),
            pa.array([its[0]["begin"] for its in spans], pa.int32()),
            pa.array([its[-1]["end"] for its in spans], pa.int32()),
            places["excerpt"].take(pa.array(best)),
            pa.array([index.excerpt(item) for item in items.tolist()], pa.string()),
        ],
        schema=CONTAMINATION_MATCHES,
    )


def _cuts(
    keys: pa.Table, places: pa.Table, found: kernels.Found, verdict: kernels.Verdict, names: np.ndarray
) -> pa.Table:
    """CUT_FILE: the words of items in all documents, those that overlap as one."""
    leaks = places["spans"].filter(pa.array(verdict.leaks))
    counts = pc.list_value_length(leaks).to_numpy().astype(np.int64)
    place = np.repeat(np.flatnonzero(verdict.leaks), counts)
    flat = pc.list_flatten(leaks)
    rows = found.texts[place]
    begins = (rows << 32) + pc.struct_field(flat, "begin").to_numpy()  # texts lie end to end, 2**32 bytes apart
    ends = (rows << 32) + pc.struct_field(flat, "end").to_numpy()
    order = np.lexsort((names[place], begins))
    begins, reach, reasons = begins[order], np.maximum.accumulate(ends[order]), names[place][order]
    opens = np.flatnonzero(np.append(True, begins[1:] >= reach[:-1])[: len(begins)])
    closes = np.append(opens[1:], len(begins))[: len(opens)] - 1
    low = np.int64(0xFFFFFFFF)
    columns = [
        pa.array((begins[opens] & low).astype(np.int32)),
        pa.array((reach[closes] & low).astype(np.int32)),
        pa.array([f"{REASON}.{name}" for name in reasons[opens].tolist()], pa.string()),
        pa.array([""] * len(opens), pa.string()),
    ]
    cuts = struct_lists(CUTS, columns, np.bincount(begins[opens] >> 32, minlength=keys.num_rows))
    return pa.table([*keys.select(["document_id", "id", "text_hash"]).columns, cuts], schema=CUT_FILE)
