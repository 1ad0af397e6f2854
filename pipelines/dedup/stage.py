"""Dedup: duplicates across all shards, without ever shuffling text.

    shard -> band keys, packed        the text is read here and nowhere else; ranks go to a side file of the shard
          -> buckets -> star edges    by partition of the key
          -> unique edges             by partition of the edge, since several bands find the same pair
          -> components               on one worker
          -> survivors                by component, from the ranks of its members
          -> decisions                by shard, beside its keys

What is shuffled is packed: one element per source and partition with an array of records in it, never one per pair.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.dedup import kernels
from pipelines.runner import ShardResult, Task, finished_files, run_pipeline, shard_tasks
from pipelines.sidecars import id_array, id_halves, kept, kept_texts, read_keys, read_sidecar
from schemas import paths
from schemas.documents import DEDUP_DECISIONS
from schemas.hashing import ID, scramble
from schemas.job import Job, Output
from schemas.recipe import Dedup, Recipe
from schemas.tables import read_table, write_table

RANKS = "ranks"  # temporary: one file per shard with what the choice of the survivor needs
RANK = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("document_id", ID, nullable=False),
        pa.field("exact", ID, nullable=False),
        pa.field("priority", pa.int64(), nullable=False),
        pa.field("quality", pa.float64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("date", pa.string()),
    ]
)
PARTITION_BYTES = 32 << 20  # packed records that one worker sorts at once
FLUSH_BYTES = 16 << 20  # packed keys that a shard holds before it hands them on
SIZES = ((1000, "1000_or_more"), (100, "100_to_999"), (5, "5_to_99"), (4, "4"), (3, "3"), (2, "2"))

Packed = tuple[int, bytes]  # partition or shard, records


class FindKeys(beam.DoFn):
    """Task -> (partition, KEY records); writes `ranks/<shard>.parquet`."""

    def __init__(self, recipe: Recipe, partitions: int) -> None:
        self.config = recipe.dedup
        self.seed = recipe.seed
        self.priorities = {source.name: source.priority for source in recipe.sources}
        self.partitions = partitions

    def process(self, task: Task) -> Iterator[Packed]:
        if not (self.config.exact or self.config.near):
            return
        keys = read_keys(task, ["source", "date"])
        mask = kept(task, keys, ["filter"])
        languages = read_sidecar(task, keys, "language", ["language"])
        salts = np.array(languages["language"].to_pylist() if languages else [""] * keys.num_rows, object)
        maps = kernels.permutations(self.seed, self.config.bands * self.config.rows)
        exact = np.zeros((keys.num_rows, 2), np.uint64)
        lengths = np.zeros(keys.num_rows, np.int64)
        held: list[np.ndarray] = []
        for rows, texts in kept_texts(task, mask):
            documents = np.uint64(task.index << 32) + rows.astype(np.uint64)
            lengths[rows] = [len(text) for text in texts]
            exact[rows] = kernels.exact_keys(texts)
            if self.config.exact:
                held.append(kernels.pack_keys(exact[rows][:, None], documents))
            if self.config.near:
                hashes, counts = kernels.shingles(kernels.split_words(texts), self.config.ngram)
                some = np.flatnonzero(counts)
                signature = kernels.signatures(hashes, counts[some], maps)
                bands = kernels.band_keys(signature, self.config.bands, salts[rows[some]])
                held.append(kernels.pack_keys(bands, documents[some]))
            if sum(part.nbytes for part in held) > FLUSH_BYTES:
                yield from self._by_partition(held)
                held = []
        yield from self._by_partition(held)
        self._write_ranks(task, keys, mask, exact, lengths)

    def _by_partition(self, held: list[np.ndarray]) -> Iterator[Packed]:
        if held:
            records = np.concatenate(held)
            yield from packed(records, records["low"] % np.uint64(self.partitions))

    def _write_ranks(
        self, task: Task, keys: pa.Table, mask: np.ndarray, exact: np.ndarray, lengths: np.ndarray
    ) -> None:
        quality = read_sidecar(task, keys, "quality", ["quality_score"])
        scores = quality["quality_score"].to_numpy() if quality else np.zeros(keys.num_rows)
        sources = keys["source"].to_pylist()
        columns = [
            pa.array(range(keys.num_rows), pa.int64()),
            keys["document_id"],
            id_array(exact),
            pa.array([self.priorities.get(source, 0) for source in sources], pa.int64()),
            pa.array(np.nan_to_num(scores.astype(np.float64))),
            pa.array(lengths),
            keys["date"],
        ]
        table = pa.table(columns, schema=RANK).filter(pa.array(mask))
        write_table(task.output, f"{RANKS}/{task.name}.parquet", table)


class FindEdges(beam.DoFn):
    """(partition, all its KEY records) -> (partition of the edge, EDGE records)."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        edges = kernels.star_edges(unpacked(element[1], kernels.KEY))
        mixed = scramble(scramble(edges["first"]) ^ edges["second"])
        yield from packed(edges, mixed % np.uint64(self.partitions))


class UniqueEdges(beam.DoFn):
    """(partition, all its EDGE records) -> (0, EDGE records), no edge twice in all partitions together."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        yield 0, kernels.unique_edges(unpacked(element[1], kernels.EDGE)).tobytes()


class FindComponents(beam.DoFn):
    """(0, all EDGE records) -> (shard, LABEL records of its documents)."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        labels = kernels.components(unpacked(element[1], kernels.EDGE))
        yield from packed(labels, labels["document"] >> np.uint64(32))


class ReadMembers(beam.DoFn):
    """(shard, LABEL records) -> (partition of the component, MEMBER records)."""

    def __init__(self, output: str, partitions: int) -> None:
        self.output = output
        self.partitions = partitions

    def process(self, element: Packed) -> Iterator[Packed]:
        shard, data = element
        labels = np.frombuffer(data, kernels.LABEL)
        ranks = read_table(paths.join(self.output, RANKS, f"{shard:05d}.parquet"))
        rows = (labels["document"] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        ranks = ranks.take(pa.array(np.searchsorted(ranks["row"].to_numpy(), rows)))
        members = np.empty(len(labels), kernels.MEMBER)
        members["component"], members["document"] = labels["component"], labels["document"]
        members["id"], members["exact"] = id_halves(ranks["document_id"]), id_halves(ranks["exact"])
        for name in ("priority", "quality", "length"):
            members[name] = ranks[name].to_numpy()
        dates = ranks["date"].to_pylist()
        members["date"] = [kernels.NO_DATE if date is None else date.encode() for date in dates]
        yield from packed(members, scramble(labels["component"]) % np.uint64(self.partitions))


class ChooseSurvivors(beam.DoFn):
    """(partition, all its MEMBER records) -> (shard, OUTCOME records)."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        outcomes = kernels.survivors(unpacked(element[1], kernels.MEMBER))
        yield from packed(outcomes, outcomes["document"] >> np.uint64(32))


class WriteDecisions(beam.DoFn):
    """(shard, its Task and OUTCOME records) -> ShardResult; writes `decisions/<shard>.parquet`."""

    def __init__(self, config: Dedup) -> None:
        self.config = config

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[ShardResult]:
        (task,) = element[1]["task"]
        keys = read_keys(task)
        judged = kept(task, keys, ["filter"])
        own = id_halves(keys["document_id"])
        cluster, survivor, sizes = own.copy(), own.copy(), np.ones(keys.num_rows, np.int32)
        exact = np.zeros(keys.num_rows, bool)
        outcomes = unpacked(element[1]["outcomes"], kernels.OUTCOME)
        rows = (outcomes["document"] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        cluster[rows], survivor[rows], sizes[rows] = outcomes["cluster"], outcomes["survivor"], outcomes["size"]
        exact[rows] = outcomes["exact"] & self.config.exact
        keep = (own == survivor).all(axis=1)
        names = np.where(exact, "exact_duplicate", "near_duplicate").tolist()
        columns = [
            *keys.columns,
            pa.array(keep),
            pa.array([[] if stays else [name] for stays, name in zip(keep.tolist(), names)], pa.list_(pa.string())),
            id_array(cluster),
            pa.array(sizes),
            id_array(survivor),
        ]
        entry = write_table(task.output, f"decisions/{task.name}.parquet", pa.table(columns, schema=DEDUP_DECISIONS))
        dropped = int((~keep).sum())
        counts = {
            "documents": keys.num_rows,
            "kept": int((keep & judged).sum()),
            "dropped": dropped,
            "not_judged": int((~judged).sum()),
        }
        copies = int((~keep & exact).sum())
        reasons = {"exact_duplicate": copies, "near_duplicate": dropped - copies}
        yield ShardResult([entry], counts, reasons, _cluster_sizes(sizes[keep & (sizes > 1)]))


def packed(records: np.ndarray, targets: np.ndarray) -> Iterator[Packed]:
    """The records by target (any unsigned integers), one element a target."""
    order = np.argsort(targets, kind="stable")
    found, begins = np.unique(targets[order], return_index=True)
    for target, part in zip(found.tolist(), np.split(records[order], begins[1:])):
        yield target, part.tobytes()


def unpacked(parts: Iterable[bytes], kind: np.dtype) -> np.ndarray:
    return np.frombuffer(b"".join(parts), kind)


def run(job: Job) -> Output:
    """Decide on every document; DEDUP_DECISIONS, one file per document shard.

    Documents that the filter dropped take no part: they are kept here, each a cluster of its own. Candidates for
    near-duplicates share a language label where the run has one; exact copies need not.
    """
    config = job.recipe.dedup
    sidecars = {
        "language": ("annotate", "language"),
        "quality": ("annotate", "quality"),
        "filter": ("filter", "decisions"),
    }
    tasks = shard_tasks(job, sidecars)
    keys = sum(entry.rows for entry in job.manifest("extract").select("documents")) * (config.bands + 1)
    partitions = min(4096, max(4, math.ceil(keys * kernels.KEY.itemsize / PARTITION_BYTES)))

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        shards = pipeline | "Shards" >> beam.Create(tasks)
        outcomes = (
            shards
            | beam.Reshuffle()
            | "Find keys" >> beam.ParDo(FindKeys(job.recipe, partitions))
            | "Buckets" >> beam.GroupByKey()
            | "Find edges" >> beam.ParDo(FindEdges(partitions))
            | "Equal edges" >> beam.GroupByKey()
            | "Unique edges" >> beam.ParDo(UniqueEdges())
            | "All edges" >> beam.GroupByKey()
            | "Find components" >> beam.ParDo(FindComponents())
            | "Read members" >> beam.ParDo(ReadMembers(job.output, partitions))
            | "Clusters" >> beam.GroupByKey()
            | "Choose survivors" >> beam.ParDo(ChooseSurvivors())
        )
        by_shard = shards | "By shard" >> beam.Map(lambda task: (task.index, task))
        return (
            {"task": by_shard, "outcomes": outcomes}
            | "Outcomes of shards" >> beam.CoGroupByKey()
            | "Write decisions" >> beam.ParDo(WriteDecisions(config))
        )

    output = run_pipeline(job, build, len(tasks), lambda: len(finished_files(paths.join(job.output, RANKS))))
    paths.remove(paths.join(job.output, RANKS))
    return output


def _cluster_sizes(sizes: np.ndarray) -> dict[str, int]:
    """How many clusters there are by size, from the sizes of their survivors."""
    found: dict[str, int] = {}
    rest = sizes
    for least, name in SIZES:
        found[f"clusters_of_{name}"] = int((rest >= least).sum())
        rest = rest[rest < least]
    return {name: count for name, count in found.items() if count}
