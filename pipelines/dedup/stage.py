"""Dedup: duplicates across all shards, without ever shuffling text.

    shard -> keys, packed             the text is read here and nowhere else; what the rest needs goes beside the shard
          -> buckets -> edges         by partition of the key; keys of earlier runs join here
          -> unique edges             by partition of the edge, several bands find the same pair; verified if asked
    edges -> components               on one worker, or in rounds of stars over all workers
          -> best of each shard       by shard
          -> survivors                by component
          -> decisions                by shard
    kept documents -> cuts            of what they repeat, if asked: see repeats_stage

What is shuffled is packed: one element per source and partition with an array of records in it, never one per pair.
The steps on the left are pipelines of their own, since how the second goes on depends on what the first finds; a run
that was stopped goes on after the last one that was finished.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import xxhash

from pipelines.dedup import graph, kernels, shingle_sets, survivors
from pipelines.dedup.index import (
    DOCUMENTS,
    FORMAT,
    INDEX,
    RANK,
    SHINGLES,
    Earlier,
    earlier_runs,
    key_file,
    key_table,
    matching_keys,
)
from pipelines.dedup.repeats_stage import find_repeats
from pipelines.runner import ShardResult, Task, count, finished_files, roomy, run_pipeline, shard_tasks
from pipelines.sidecars import id_array, id_halves, kept, kept_texts, read_keys, read_sidecar
from schemas import paths
from schemas.documents import DEDUP_DECISIONS
from schemas.hashing import scramble
from schemas.job import Job, Output
from schemas.languages import LANGUAGES
from schemas.manifest import FileEntry
from schemas.recipe import Dedup, Recipe
from schemas.tables import read_table, write_table

WORK = "work"  # temporary: ranks/, shingles/, and the edges of each step with a note on what it found
PARTITION_BYTES = 8 << 20  # packed records that one worker sorts at once
MOST_PARTITIONS = 1 << 14
WORKER_BYTES = 2 << 30  # memory for a worker that sorts partitions: several times their bytes, and Beam itself
FLUSH_BYTES = 16 << 20  # packed keys that a shard holds before it hands them on
SIZES = ((1000, "1000_or_more"), (100, "100_to_999"), (5, "5_to_99"), (4, "4"), (3, "3"), (2, "2"))
EDGES, RESULTS = "edges", "results"  # tags of outputs

Packed = tuple[int, bytes]  # partition or shard, records


@dataclass(frozen=True)
class Places:
    """Where things lie: of the run's own documents, and of those of earlier runs."""

    output: str
    keep: bool  # the index is kept
    shards: int
    earlier: tuple[Earlier, ...]

    @property
    def ranks(self) -> str:
        return DOCUMENTS if self.keep else f"{WORK}/ranks"

    @property
    def shingles(self) -> str:
        return SHINGLES if self.keep else f"{WORK}/shingles"

    def run_of(self, shard: int) -> Earlier | None:
        """The earlier run that a shard belongs to, None for the run's own."""
        return next((run for run in reversed(self.earlier) if shard >= run.first_shard), None)

    def read_ranks(self, shard: int, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """The ranks (RANK, or some `columns` of it with `row`) of the documents that stand in `rows` of a shard."""
        run = self.run_of(shard)
        if run is None:
            path = paths.join(self.output, self.ranks, f"{shard:05d}.parquet")
        else:
            path = paths.join(run.folder, run.documents[shard - run.first_shard])
        ranks = read_table(path, columns)
        return ranks.take(pa.array(np.searchsorted(ranks["row"].to_numpy(), rows)))

    def shingles_of(self, shard: int) -> str:
        run = self.run_of(shard)
        if run is None:
            return paths.join(self.output, self.shingles, f"{shard:05d}.bin")
        return paths.join(run.folder, SHINGLES, f"{shard - run.first_shard:05d}.bin")


class FindKeys(beam.DoFn):
    """Task -> (partition, KEY records), and (partition, EDGE records) of buckets that are too full for one batch.

    Writes the ranks of the shard and, if candidates are verified, its shingles.
    """

    def __init__(self, recipe: Recipe, places: Places, partitions: int) -> None:
        self.config = recipe.dedup
        self.seed = recipe.seed
        self.priorities = {source.name: source.priority for source in recipe.sources}
        self.places = places
        self.partitions = partitions

    def process(self, task: Task) -> Iterator[Any]:
        config = self.config
        if not (config.exact or config.urls or config.near):
            return
        keys = read_keys(task, ["source", "date", "url"])
        mask = kept(task, keys, ["filter"])
        scopes, salts, languages = self._salts(task, keys)
        exact = np.zeros((keys.num_rows, 2), np.uint64)
        address = np.zeros((keys.num_rows, 2), np.uint64)
        lengths = np.zeros(keys.num_rows, np.int64)
        held: list[np.ndarray] = []
        if config.urls:
            address[mask] = kernels.address_keys(keys["url"].filter(pa.array(mask)).to_pylist())
            found = np.flatnonzero(address.any(axis=1))
            named = kernels.salted(address[found], [f"url\x1f{scope}" for scope in scopes[found]])
            held.append(kernels.pack_keys(named[:, None], kernels.references(task.index, found), sure=True))
        with self._sets(task, languages) as sets:
            for rows, texts in kept_texts(task, mask):
                lengths[rows] = [len(text) for text in texts]
                if config.exact:
                    exact[rows] = kernels.exact_keys(texts)
                    same = kernels.salted(exact[rows], scopes[rows].tolist())
                    held.append(kernels.pack_keys(same[:, None], kernels.references(task.index, rows), sure=True))
                if config.near:
                    hashes, counts = kernels.shingles(kernels.split_words(texts), config.ngram)
                    if sets is not None:
                        sets.add(rows, hashes, counts)
                    some = np.flatnonzero(counts)
                    bands = self._band_keys(hashes, counts[some], salts[rows[some]])
                    held.append(kernels.pack_keys(bands, kernels.references(task.index, rows[some]), sure=False))
                if sum(part.nbytes for part in held) > FLUSH_BYTES:
                    yield from self._by_partition(held)
                    held = []
        yield from self._by_partition(held)
        self._write_ranks(task, keys, mask, exact, address, lengths)

    def _sets(self, task: Task, languages: np.ndarray) -> contextlib.AbstractContextManager[shingle_sets.Writer | None]:
        if not self.config.near or self.config.verify is None:
            return contextlib.nullcontext()
        return shingle_sets.writer(self.places.shingles_of(task.index), languages)

    def _band_keys(self, hashes: np.ndarray, counts: np.ndarray, salts: np.ndarray) -> np.ndarray:
        bands, rows = kernels.bands_and_rows(self.config)
        signature = kernels.signatures(hashes, counts, kernels.permutations(self.seed, bands * rows))
        lone = kernels.lone_shingles(hashes, counts)
        own = [f"{salt}\x1f{shingle:x}" if shingle else salt for salt, shingle in zip(salts, lone)]
        return kernels.band_keys(signature, bands, own)

    def _salts(self, task: Task, keys: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What parts the copies and what parts the candidates, objects [rows], and languages as hashes [rows].

        Where candidates are verified their languages are compared then, so that a document whose language was not
        recognised can be a duplicate of one in any. Otherwise such documents are compared with each other.
        """
        scopes = np.full(keys.num_rows, "", object)
        if self.config.scope == "source":
            scopes[:] = keys["source"].to_pylist()
        labels = read_sidecar(task, keys, "language", ["language"])
        if labels is None:
            return scopes, scopes, np.zeros(keys.num_rows, np.uint64)
        names = labels["language"].to_pylist()
        if self.config.verify is not None:
            hashes = {name: xxhash.xxh3_64_intdigest(name.encode()) if name in LANGUAGES else 0 for name in set(names)}
            return scopes, scopes, np.array([hashes[name] for name in names], np.uint64)
        salts = np.full(keys.num_rows, "", object)
        salts[:] = [f"{name}\x1f{scope}" if scope else name for name, scope in zip(names, scopes)]
        return scopes, salts, np.zeros(keys.num_rows, np.uint64)

    def _by_partition(self, held: list[np.ndarray]) -> Iterator[Any]:
        if held:
            records, edges = kernels.thin(np.concatenate(held))
            yield from packed("keys", records, kernels.partition(records, self.partitions))
            for element in by_edge(edges, self.partitions):
                yield beam.pvalue.TaggedOutput(EDGES, element)

    def _write_ranks(
        self,
        task: Task,
        keys: pa.Table,
        mask: np.ndarray,
        exact: np.ndarray,
        address: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        quality = read_sidecar(task, keys, "quality", ["quality_score"])
        scores = quality["quality_score"].to_numpy() if quality else np.zeros(keys.num_rows)
        sources = keys["source"].to_pylist()
        columns = [
            pa.array(range(keys.num_rows), pa.int64()),
            keys["document_id"],
            id_array(exact),
            id_array(address),
            pa.array([self.priorities.get(source, 0) for source in sources], pa.int64()),
            pa.array(np.nan_to_num(scores.astype(np.float64))),
            pa.array(lengths),
            keys["date"],
        ]
        table = pa.table(columns, schema=RANK).filter(pa.array(mask))
        write_table(self.places.output, f"{self.places.ranks}/{task.name}.parquet", table)


class FindEdges(beam.DoFn):
    """(partition, all its KEY records) -> (partition of the edge, EDGE records); writes the keys of an index."""

    def __init__(self, places: Places, pairs: bool, partitions: int) -> None:
        self.places = places
        self.pairs = pairs
        self.partitions = partitions

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        number, parts = element
        keys = kernels.sorted_keys(unpacked(parts, kernels.KEY))
        opens = kernels.key_borders(keys)
        if self.places.keep:
            write_table(self.places.output, key_file(number), key_table(keys, opens))
        found = [matching_keys(run, keys, number, self.partitions) for run in self.places.earlier]
        if any(map(len, found)):
            keys = kernels.sorted_keys(np.concatenate([keys, *found]))
            opens = kernels.key_borders(keys)
        edges = graph.bucket_edges(keys, opens, self.pairs, self.places.shards << 32)
        yield from by_edge(edges, self.partitions)


class UniqueEdges(beam.DoFn):
    """(partition, all its EDGE records) -> ShardResult; writes the PAIR records of those that are duplicates.

    No pair is written twice in all partitions together.
    """

    def __init__(self, places: Places, verify: float | None) -> None:
        self.places = places
        self.verify = verify

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[ShardResult]:
        number, parts = element
        edges = graph.unique_edges(unpacked(parts, graph.EDGE))
        candidates = int((~edges["sure"]).sum())
        if self.verify is not None:
            right = edges["sure"].copy()
            right[~right] = shingle_sets.similar(edges[~right], self.places.shingles_of, self.verify)
            edges = edges[right]
        write_pairs(self.places.output, "found", number, edges)
        yield ShardResult(counts={"edges": len(edges), "candidates": candidates})


class ReadNeighbours(beam.DoFn):
    """Path of PAIR records -> (partition of a document, PAIR records both ways)."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def process(self, path: str) -> Iterator[Packed]:
        yield from by_first(graph.both_ways(read_pairs(path)), self.partitions)


class LargeStar(beam.DoFn):
    """(partition, all neighbours of its documents) -> (partition, PAIR records downwards), and a ShardResult."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        pairs, unfinished = graph.large_star(unpacked(element[1], graph.PAIR))
        yield beam.pvalue.TaggedOutput(RESULTS, ShardResult(counts={"unfinished": unfinished}))
        yield from by_first(graph.downwards(pairs), self.partitions)


class SmallStar(beam.DoFn):
    """(partition, all smaller neighbours of its documents) -> ShardResult; writes PAIR records."""

    def __init__(self, output: str, step: str) -> None:
        self.output = output
        self.step = step

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[ShardResult]:
        number, parts = element
        write_pairs(self.output, self.step, number, graph.small_star(unpacked(parts, graph.PAIR)))
        yield ShardResult()


class FindComponents(beam.DoFn):
    """Paths of all PAIR records -> (shard, LABEL records of its documents)."""

    def process(self, files: list[str]) -> Iterator[Packed]:
        edges = np.concatenate([np.empty(0, graph.PAIR), *map(read_pairs, files)])
        labels = graph.components(edges)
        yield from packed("labels", labels, kernels.shards_of(labels["document"]))


class ReadStars(beam.DoFn):
    """Path of PAIR records of finished stars -> (shard, LABEL records); the centre of a star may come several times."""

    def process(self, path: str) -> Iterator[Packed]:
        labels = graph.star_labels(graph.downwards(read_pairs(path)))
        yield from packed("labels", labels, kernels.shards_of(labels["document"]))


class BestOfShard(beam.DoFn):
    """(shard, LABEL records of its documents) -> (partition of the component, SUMMARY records)."""

    def __init__(self, places: Places, partitions: int) -> None:
        self.places = places
        self.partitions = partitions

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        shard, parts = element
        labels = _unique_labels(unpacked(parts, graph.LABEL))
        rows = kernels.rows_of(labels["document"])
        ranks = self.places.read_ranks(shard, rows)
        members = np.zeros(len(labels), survivors.SUMMARY)
        members["component"], members["shard"], members["size"] = labels["component"], shard, 1
        members["exact"], members["address"] = id_halves(ranks["exact"]), id_halves(ranks["address"])
        run = self.places.run_of(shard)
        if run is None:
            members["id"] = members["cluster"] = id_halves(ranks["document_id"])
            for name in ("priority", "quality", "length"):
                members[name] = ranks[name].to_numpy()
            dates = ranks["date"].to_pylist()
            members["date"] = [survivors.NO_DATE if date is None else date.encode() for date in dates]
        else:
            path = paths.join(run.folder, run.decisions[shard - run.first_shard])
            decided = read_table(path, ["survivor_id", "cluster_id", "cluster_size"]).take(pa.array(rows))
            members["run"] = self.places.earlier.index(run) + 1
            members["id"], members["cluster"] = id_halves(decided["survivor_id"]), id_halves(decided["cluster_id"])
            members["size"] = decided["cluster_size"].to_numpy()
        found = survivors.best(members)
        yield from packed("summaries", found, scramble(found["component"]) % np.uint64(self.partitions))


class ChooseSurvivors(beam.DoFn):
    """(partition, all its SUMMARY records) -> (shard, CHOICE records of the components that it has documents of)."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Packed]:
        summaries = unpacked(element[1], survivors.SUMMARY)
        yield from packed("choices", survivors.choices(summaries), summaries["shard"])


class WriteDecisions(beam.DoFn):
    """(shard, its Task, LABEL and CHOICE records) -> ShardResult; writes `decisions/<shard>.parquet`."""

    def __init__(self, config: Dedup, places: Places) -> None:
        self.config = config
        self.places = places

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[ShardResult]:
        shard, given = element
        tasks = list(given["task"])
        if not tasks:  # a shard of an earlier run
            return
        (task,) = tasks
        keys = read_keys(task)
        judged = kept(task, keys, ["filter"])
        own = id_halves(keys["document_id"])
        cluster, survivor, sizes = own.copy(), own.copy(), np.ones(keys.num_rows, np.int32)
        runs = np.zeros(keys.num_rows, np.int32)
        keep = np.ones(keys.num_rows, bool)
        fired = {name: np.zeros(keys.num_rows, bool) for name in ("exact_duplicate", "same_url", "near_duplicate")}
        labels = _unique_labels(unpacked(given["labels"], graph.LABEL))
        if len(labels):
            rows = kernels.rows_of(labels["document"])
            choices = np.sort(unpacked(given["choices"], survivors.CHOICE), order="component")
            choices = choices[np.searchsorted(choices["component"], labels["component"])]
            cluster[rows], survivor[rows] = choices["cluster"], choices["survivor"]
            keep[rows] = (own[rows] == choices["survivor"]).all(axis=1) & (choices["run"] == 0)
            runs[rows] = choices["run"]
            sizes[rows] = np.minimum(choices["size"], np.iinfo(np.int32).max)
            ranks = self.places.read_ranks(shard, rows, ["row", "exact", "address"])
            exact, address = id_halves(ranks["exact"]), id_halves(ranks["address"])
            fired["exact_duplicate"][rows] = (exact == choices["exact"]).all(axis=1) & self.config.exact
            fired["same_url"][rows] = (address == choices["address"]).all(axis=1) & address.any(axis=1)
        for name in ("exact_duplicate", "same_url"):
            fired[name] &= ~keep
        fired["near_duplicate"] = ~keep & ~fired["exact_duplicate"] & ~fired["same_url"]
        reasons = [
            [name for name, one in zip(fired, row) if one]
            for row in zip(*(column.tolist() for column in fired.values()))
        ]
        columns = [
            *keys.columns,
            pa.array(keep),
            pa.array(reasons, pa.list_(pa.string())),
            id_array(cluster),
            pa.array(sizes),
            id_array(survivor),
            pa.array(runs, mask=runs == 0),
        ]
        entry = write_table(task.output, f"decisions/{task.name}.parquet", pa.table(columns, schema=DEDUP_DECISIONS))
        counts = {
            "documents": keys.num_rows,
            "kept": int((keep & judged).sum()),
            "dropped": int((~keep).sum()),
            "not_judged": int((~judged).sum()),
        }
        used = [name for name in fired if name != "same_url" or self.config.urls]
        yield ShardResult(
            [entry],
            counts,
            {name: int(fired[name].sum()) for name in used},
            _cluster_sizes(sizes[keep & (sizes > 1)]),
        )


def packed(kind: str, records: np.ndarray, targets: np.ndarray) -> Iterator[Packed]:
    """The records by target (any unsigned integers), one element a target."""
    count(f"shuffled_{kind}_bytes", records.nbytes)
    order = np.argsort(targets, kind="stable")
    found, begins = np.unique(targets[order], return_index=True)
    for target, part in zip(found.tolist(), np.split(records[order], begins[1:])):
        yield target, part.tobytes()


def unpacked(parts: Iterable[bytes], kind: np.dtype) -> np.ndarray:
    return np.frombuffer(b"".join(parts), kind)


def by_edge(edges: np.ndarray, partitions: int) -> Iterator[Packed]:
    """Records by their pair of documents."""
    mixed = scramble(scramble(edges["first"]) ^ edges["second"])
    yield from packed("edges", edges, mixed % np.uint64(partitions))


def by_first(pairs: np.ndarray, partitions: int) -> Iterator[Packed]:
    """PAIR records by their first document."""
    yield from packed("pairs", pairs, scramble(pairs["first"]) % np.uint64(partitions))


def write_pairs(output: str, step: str, number: int, edges: np.ndarray) -> None:
    pairs = np.empty(len(edges), graph.PAIR)
    pairs["first"], pairs["second"] = edges["first"], edges["second"]
    with paths.write_atomic(paths.join(output, WORK, step, f"{number:05d}.bin")) as handle:
        handle.write(pairs.tobytes())


def read_pairs(path: str) -> np.ndarray:
    with paths.open_read(path) as handle:
        return np.frombuffer(handle.read(), graph.PAIR)


def find_pairs(
    pipeline: beam.Pipeline, recipe: Recipe, tasks: list[Task], places: Places, partitions: int
) -> beam.PCollection:
    """First step: the pairs of duplicates, in files of `work/found`."""
    config = recipe.dedup
    keys = (
        pipeline
        | "Shards" >> beam.Create(tasks)
        | beam.Reshuffle()
        | "Find keys" >> beam.ParDo(FindKeys(recipe, places, partitions)).with_outputs(EDGES, main="keys")
    )
    edges = (
        keys.keys
        | "Buckets" >> beam.GroupByKey()
        | "Find edges"
        >> roomy(pipeline, beam.ParDo(FindEdges(places, config.verify is not None, partitions)), WORKER_BYTES)
    )
    return (
        (keys[EDGES], edges)
        | "All edges" >> beam.Flatten()
        | "Equal edges" >> beam.GroupByKey()
        | "Unique edges" >> roomy(pipeline, beam.ParDo(UniqueEdges(places, config.verify)), WORKER_BYTES)
    )


def star_round(pipeline: beam.Pipeline, files: list[str], output: str, step: str, partitions: int) -> beam.PCollection:
    """One round of stars from the pairs in `files` to those in `work/<step>`."""
    large = (
        pipeline
        | "Files" >> beam.Create(files)
        | "Read neighbours" >> beam.ParDo(ReadNeighbours(partitions))
        | "Neighbours" >> beam.GroupByKey()
        | "Large star" >> beam.ParDo(LargeStar(partitions)).with_outputs(RESULTS, main="pairs")
    )
    small = (
        large.pairs | "Smaller neighbours" >> beam.GroupByKey() | "Small star" >> beam.ParDo(SmallStar(output, step))
    )
    return (large[RESULTS], small) | "Results" >> beam.Flatten()


def decide(
    pipeline: beam.Pipeline,
    config: Dedup,
    tasks: list[Task],
    places: Places,
    files: list[str],
    stars: bool,
    partitions: int,
) -> beam.PCollection:
    """Last step: the survivor of every component and the decision on every document."""
    if stars:
        labels = pipeline | "Files" >> beam.Create(files) | "Read stars" >> beam.ParDo(ReadStars())
    else:
        find = roomy(pipeline, beam.ParDo(FindComponents()), WORKER_BYTES + config.component_memory)
        labels = pipeline | "Files" >> beam.Create([files]) | "Find components" >> find
    found = (
        labels
        | "Labels of shards" >> beam.GroupByKey()
        | "Best of shards" >> beam.ParDo(BestOfShard(places, partitions))
        | "Components" >> beam.GroupByKey()
        | "Choose survivors" >> beam.ParDo(ChooseSurvivors())
    )
    shards = pipeline | "Shards" >> beam.Create(tasks) | beam.Map(lambda task: (task.index, task))
    return (
        {"task": shards, "labels": labels, "choices": found}
        | "All of shards" >> beam.CoGroupByKey()
        | "Write decisions" >> beam.ParDo(WriteDecisions(config, places))
    )


def run(job: Job) -> Output:
    """Decide on every document; DEDUP_DECISIONS, one file per document shard.

    Documents that the filter dropped take no part: they are kept here, each a cluster of its own. Candidates for
    near-duplicates share a language label where the run has one; exact copies need not.
    """
    recipe, config = job.recipe, job.recipe.dedup
    sidecars = {
        "language": ("annotate", "language"),
        "quality": ("annotate", "quality"),
        "filter": ("filter", "decisions"),
    }
    tasks = shard_tasks(job, sidecars)
    labelled = job.sidecars(*sidecars["language"]) is not None
    earlier = earlier_runs(config, recipe.seed, len(tasks), labelled)
    places = Places(job.output, config.index, len(tasks), earlier)
    bands, _ = kernels.bands_and_rows(config)
    records = sum(entry.rows for entry in job.manifest("extract").select("documents")) * (bands + 2)
    wanted = min(MOST_PARTITIONS, max(4, math.ceil(records * kernels.KEY.itemsize / PARTITION_BYTES)))
    partitions = max([wanted, *(run.partitions for run in earlier)])
    spent: Counter[str] = Counter()

    def step(name: str, build: Any) -> tuple[list[str], dict[str, int]]:
        """Files and counts of a step, made now or by an execution that was stopped later."""
        note, folder = paths.join(job.output, WORK, f"{name}.json"), paths.join(job.output, WORK, name)
        if not paths.exists(note):
            paths.remove(folder)
            ranks = paths.join(job.output, places.ranks)
            done = run_pipeline(job, build, len(tasks), lambda: len(finished_files(ranks)))
            spent.update(done.spent | done.counts)
            paths.write_text(note, json.dumps(done.counts))
        return [paths.join(folder, file) for file in sorted(finished_files(folder))], json.loads(paths.read_text(note))

    files, counts = step("found", lambda pipeline: find_pairs(pipeline, recipe, tasks, places, partitions))
    in_rounds = counts.get("edges", 0) * graph.MEMORY_OF_AN_EDGE > config.component_memory
    unfinished, rounds = in_rounds, 0
    while unfinished:
        rounds += 1
        name = f"round{rounds}"
        build = partial(star_round, files=files, output=job.output, step=name, partitions=partitions)
        stars, found = step(name, build)
        unfinished = bool(found.get("unfinished"))
        files = stars if unfinished else files
    last = run_pipeline(
        job,
        lambda pipeline: decide(pipeline, config, tasks, places, files, in_rounds, partitions),
        len(tasks),
        lambda: len(finished_files(paths.join(job.output, "decisions"))),
    )
    index = _index_files(job.output) if config.index else []
    repeats = find_repeats(job, tasks)
    paths.remove(paths.join(job.output, WORK))
    extra = last.extra | repeats.extra
    if config.index:
        extra[INDEX] = {"format": FORMAT, "partitions": partitions, "languages": labelled}
    written = sorted([*last.files, *repeats.files, *index], key=lambda entry: entry.path)
    spent.update(last.spent | repeats.spent)
    return Output(written, last.counts, last.reasons, extra, dict(sorted(spent.items())))


def _index_files(output: str) -> list[FileEntry]:
    """The manifest's lines on the files of the index."""
    fs, inner = paths.filesystem(paths.join(output, INDEX))
    found = []
    for name in sorted(fs.find(inner)):
        relative = INDEX + str(name).removeprefix(inner)
        path = paths.join(output, relative)
        rows = len(shingle_sets.Tail(path).fingerprints) if relative.endswith(".bin") else _rows(path)
        found.append(FileEntry(path=relative, rows=rows, bytes=fs.size(name), hash=paths.file_hash(path)))
    return found


def _rows(path: str) -> int:
    return read_table(path, []).num_rows


def _unique_labels(labels: np.ndarray) -> np.ndarray:
    """LABEL records sorted by document, each document once."""
    _, places = np.unique(labels["document"], return_index=True)
    return labels[places]


def _cluster_sizes(sizes: np.ndarray) -> dict[str, int]:
    """How many clusters there are by size, from the sizes of their survivors."""
    found: dict[str, int] = {}
    rest = sizes
    for least, name in SIZES:
        found[f"clusters_of_{name}"] = int((rest >= least).sum())
        rest = rest[rest < least]
    return {name: count for name, count in found.items() if count}
