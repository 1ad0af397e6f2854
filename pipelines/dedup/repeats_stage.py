"""What the documents that dedup keeps repeat of one another: lines, paragraphs and passages, as cuts and a list.

    shard -> lines, paragraphs, anchors of passages    the first reading; each hash once a shard
          -> those in several documents, by shard      by partition of the hash
          -> passages with such anchors                the second reading; no more than are likely repeated
          -> those in several documents, by shard      by partition of the hash
          -> cuts and repeats                          the third reading, with what is known of the shard

What is shuffled is packed (`repeats.KEY`, `repeats.ANCHOR`), and one record stands for all documents of a batch of
texts that hold the same, so a line in a million documents costs its sorting. A shard of which nothing is repeated is
not read again. Source code counts, but nothing is cut out of it: it would not be the program any more.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators.code import code_rows
from pipelines.dedup import kernels, repeats
from pipelines.dedup.repeats import ANCHOR, KEY, KINDS, LINE, PARAGRAPH, SPAN, SUBSTRING
from pipelines.runner import ShardResult, Task, count, finished_files, roomy, run_pipeline
from pipelines.sidecars import id_array, id_halves, kept, kept_texts, read_keys, read_sidecar
from schemas import paths
from schemas.cuts import CUT_FILE, CUTS, merge_cuts
from schemas.documents import REPEATS
from schemas.job import Job, Output
from schemas.recipe import Dedup
from schemas.tables import read_table, struct_lists, write_table

PARTITION_BYTES = 32 << 20  # packed records that one worker sorts at once
FLUSH_BYTES = 16 << 20  # packed records that a shard holds before it hands them on
WORKER_BYTES = 2 << 30  # memory for a worker that holds a partition, or what is repeated of a shard
PER_BYTE = 2  # of records of lines for each byte of a document shard, which is compressed: about a third of the text
ANCHORS = len(KINDS)  # a kind of records beside those of KINDS
NAMES = (*KINDS, "anchor")
REASON = "repeated_"  # before the kind, in the cuts

Sorted = tuple[tuple[int, int], bytes]  # (kind, partition), records
OfShard = tuple[int, tuple[int, bytes]]  # shard, (kind, records)


class FindRepeatable(beam.DoFn):
    """Task -> KEY records of lines and paragraphs and ANCHOR records of passages."""

    def __init__(self, config: Dedup, partitions: int) -> None:
        self.config = config
        self.partitions = partitions

    def process(self, task: Task) -> Iterator[Sorted]:
        keys = read_keys(task)
        ids = id_halves(keys["document_id"])
        held = Held(self.partitions)
        for rows, texts in kept_documents(task, keys):
            for kind, lines in compared_lines(texts, self.config):
                held.add(kind, repeats.make_keys(lines.hashes, lines.texts, ids[rows], task.index))
            if self.config.substrings != "none":
                found = kernels.split_words(texts)
                every = repeats.passages(found, self.config.substring_words)
                anchors = repeats.anchors(found, every, self.config.substring_words)
                held.add(ANCHORS, repeats.make_anchors(anchors, every.texts, task.index))
            yield from held.over(FLUSH_BYTES)
        yield from held.over(0)


class FindPassages(beam.DoFn):
    """(shard, its Task and the anchors that are repeated) -> KEY records of the passages that have them."""

    def __init__(self, config: Dedup, partitions: int) -> None:
        self.config = config
        self.partitions = partitions

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Sorted]:
        (task,) = element[1]["task"]
        shared = known(element[1]["found"], ANCHORS)["hash"]
        if not len(shared):
            return
        keys = read_keys(task)
        ids = id_halves(keys["document_id"])
        held = Held(self.partitions)
        for rows, texts in kept_documents(task, keys):
            found = kernels.split_words(texts)
            every = repeats.passages(found, self.config.substring_words)
            _, likely = repeats.look_up(repeats.anchors(found, every, self.config.substring_words), shared)
            chosen = every.select(likely)
            hashes = repeats.passage_hashes(found, chosen)
            held.add(SUBSTRING, repeats.make_keys(hashes, chosen.texts, ids[rows], task.index))
            yield from held.over(FLUSH_BYTES)
        yield from held.over(0)


class FindRepeated(beam.DoFn):
    """((kind, partition), all its records) -> those of what stands in more documents than may be, by shard."""

    def __init__(self, config: Dedup) -> None:
        self.limits = {LINE: config.lines, PARAGRAPH: config.paragraphs, SUBSTRING: 1, ANCHORS: 1}

    def process(self, element: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[OfShard]:
        (kind, _), parts = element
        records = np.frombuffer(b"".join(parts), ANCHOR if kind == ANCHORS else KEY)
        found = repeats.repeated(records, self.limits[kind] or 0)
        found = found[np.argsort(found["shard"], kind="stable")]
        shards, begins = np.unique(found["shard"], return_index=True)
        count("shuffled_repeated_bytes", found.nbytes)
        for shard, part in zip(shards.tolist(), np.split(found, begins[1:])):
            yield shard, (kind, part.tobytes())


class WriteCuts(beam.DoFn):
    """(shard, its Task and what is repeated) -> ShardResult; writes `repeats/<shard>.parquet`.

    And `cuts/<shard>.parquet`, if the recipe lets anything be cut.
    """

    def __init__(self, config: Dedup) -> None:
        self.config = config
        self.kinds = [
            kind
            for kind, cuts in zip(KINDS, (config.lines, config.paragraphs, config.substrings == "cut" or None))
            if cuts is not None
        ]

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[ShardResult]:
        (task,) = element[1]["task"]
        keys = read_keys(task)
        spans = np.concatenate([np.zeros(0, SPAN), *self._spans(task, keys, list(element[1]["found"]))])
        spans = spans[np.lexsort((spans["kind"], spans["end"], spans["begin"], spans["row"]))]
        files = [write_table(task.output, f"repeats/{task.name}.parquet", repeats_table(spans, keys, self.kinds))]
        if self.kinds:
            table = pa.table([*keys.columns, self._cuts(spans, keys.num_rows)], schema=CUT_FILE)
            files.append(write_table(task.output, f"cuts/{task.name}.parquet", table))
        yield ShardResult(files, extra=_summary(spans, self.kinds))

    def _spans(self, task: Task, keys: pa.Table, found: list[tuple[int, bytes]]) -> Iterator[np.ndarray]:
        if not found:
            return
        ids = id_halves(keys["document_id"])
        lines = {kind: known(found, kind) for kind in (LINE, PARAGRAPH)}
        passages = known(found, SUBSTRING)
        domains = read_sidecar(task, keys, "domain", ["domain"])
        for rows, texts in kept_documents(task, keys):
            parts = [
                repeats.repeated_lines(one, kind, ids[rows], lines[kind])
                for kind, one in compared_lines(texts, self.config)
            ]
            if len(passages):
                split = kernels.split_words(texts)
                chosen = repeats.passages(split, self.config.substring_words)
                parts.append(repeats.repeated_passages(texts, split, chosen, ids[rows], passages))
            spans = np.concatenate(parts)
            some = np.unique(spans["row"])
            code = code_among(task, rows[some], [texts[text] for text in some], domains)
            spans = spans[~np.isin(spans["row"], some[code])]
            spans["row"] = rows[spans["row"]]
            yield spans

    def _cuts(self, spans: np.ndarray, rows: int) -> pa.ListArray:
        lists = [pa.array([[]] * rows, CUTS)]
        for kind in self.kinds:
            some = spans[(spans["kind"] == KINDS.index(kind)) & (spans["cut_begin"] < spans["cut_end"])]
            fields = [pa.array(some[name].astype(np.int32)) for name in ("cut_begin", "cut_end")]
            fields += [pa.repeat(REASON + kind, len(some)), pa.repeat("", len(some))]
            lists.append(struct_lists(CUTS, fields, np.bincount(some["row"], minlength=rows)))
        return merge_cuts(*lists)


class Held:
    """Records by kind until there are enough of them to hand on."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.records: dict[int, list[np.ndarray]] = {}
        self.bytes = 0

    def add(self, kind: int, records: np.ndarray) -> None:
        self.records.setdefault(kind, []).append(records)
        self.bytes += records.nbytes

    def over(self, limit: int) -> Iterator[Sorted]:
        """All that is held, by partition of the hash, if it is more than `limit` bytes."""
        if self.bytes <= limit:
            return
        for kind, parts in self.records.items():
            records = repeats.merge(np.concatenate(parts))
            count(f"shuffled_{NAMES[kind]}_bytes", records.nbytes)
            target = (records["hash"] >> np.uint64(32)) % np.uint64(self.partitions)
            order = np.argsort(target, kind="stable")
            partitions, begins = np.unique(target[order], return_index=True)
            for partition, part in zip(partitions.tolist(), np.split(records[order], begins[1:])):
                yield (kind, partition), part.tobytes()
        self.records, self.bytes = {}, 0


def kept_documents(task: Task, keys: pa.Table) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The rows that no stage has dropped and their texts, a batch at a time."""
    return kept_texts(task, kept(task, keys, ["filter", "dedup"]))


def compared_lines(texts: list[str], config: Dedup) -> Iterator[tuple[int, repeats.Lines]]:
    """The lines and the paragraphs of a batch, as far as the recipe asks for them."""
    if config.lines is None and config.paragraphs is None:
        return
    lines, paragraphs = repeats.lines_and_paragraphs(texts)
    if config.lines is not None:
        yield LINE, lines
    if config.paragraphs is not None:
        yield PARAGRAPH, paragraphs


def code_among(task: Task, rows: np.ndarray, texts: list[str], domains: pa.Table | None) -> np.ndarray:
    """bool [rows]: which of these documents are source code; the label `domain` of the shard says it where there is."""
    if domains is not None:
        return pc.equal(domains["domain"].take(pa.array(rows)).cast(pa.string()), "code").to_numpy().astype(bool)
    table = read_table(task.path, ["path", "metadata"]).take(pa.array(rows))
    table = table.append_column("text", pa.array(texts, pa.large_string())).combine_chunks()
    return np.array([code for batch in table.to_batches() for code in code_rows(batch)], bool)


def known(found: Iterable[tuple[int, bytes]], kind: int) -> np.ndarray:
    """Records of one kind, sorted by hash."""
    records = np.frombuffer(b"".join(part for one, part in found if one == kind), ANCHOR if kind == ANCHORS else KEY)
    return records[np.argsort(records["hash"])]


def repeats_table(spans: np.ndarray, keys: pa.Table, cutting: list[str]) -> pa.Table:
    """Rows of REPEATS for SPAN records of a shard."""
    cuts = np.array([kind in cutting for kind in KINDS])[spans["kind"]]
    columns = [
        keys["document_id"].take(pa.array(spans["row"])),
        pa.array(KINDS).take(pa.array(spans["kind"])),
        pa.array(spans["begin"].astype(np.int32)),
        pa.array(spans["end"].astype(np.int32)),
        pa.array(np.ascontiguousarray(spans["hash"])),
        pa.array(np.minimum(spans["documents"], np.iinfo(np.int32).max).astype(np.int32)),
        id_array(spans["id"]),
        pa.array(cuts & (spans["cut_begin"] < spans["cut_end"])),
    ]
    return pa.table(columns, schema=REPEATS)


def _summary(spans: np.ndarray, cutting: list[str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for number, kind in enumerate(KINDS):
        some = spans[spans["kind"] == number]
        if not len(some):
            continue
        found[f"{kind}/spans"] += len(some)
        found[f"{kind}/documents"] += len(np.unique(some["row"]))
        found[f"{kind}/bytes"] += int((some["end"] - some["begin"]).sum())
        found[f"{kind}/cut_bytes"] += int((some["cut_end"] - some["cut_begin"]).sum()) if kind in cutting else 0
    return dict(found)


def write_repeats(pipeline: beam.Pipeline, config: Dedup, tasks: list[Task], partitions: int) -> beam.PCollection:
    """The whole of it, as above."""
    shards = pipeline | "Shards" >> beam.Create(tasks)
    by_shard = shards | "By shard" >> beam.Map(_with_number)
    found = (
        shards
        | beam.Reshuffle()
        | "Find repeatable" >> beam.ParDo(FindRepeatable(config, partitions))
        | "Equal lines" >> beam.GroupByKey()
        | "Find repeated" >> roomy(pipeline, beam.ParDo(FindRepeated(config)), WORKER_BYTES)
    )
    if config.substrings != "none":
        anchors = found | "Anchors" >> beam.Filter(_is_anchor)
        passages = (
            {"task": by_shard, "found": anchors}
            | "Anchors of shards" >> beam.CoGroupByKey()
            | "Find passages" >> beam.ParDo(FindPassages(config, partitions))
            | "Equal passages" >> beam.GroupByKey()
            | "Find repeated passages" >> roomy(pipeline, beam.ParDo(FindRepeated(config)), WORKER_BYTES)
        )
        lines = found | "Lines" >> beam.Filter(_is_line)
        found = (lines, passages) | "All repeated" >> beam.Flatten()
    return (
        {"task": by_shard, "found": found}
        | "Repeats of shards" >> beam.CoGroupByKey()
        | "Write cuts" >> roomy(pipeline, beam.ParDo(WriteCuts(config)), WORKER_BYTES)
    )


def _with_number(task: Task) -> tuple[int, Task]:
    return task.index, task


def _is_anchor(element: OfShard) -> bool:
    return element[1][0] == ANCHORS


def _is_line(element: OfShard) -> bool:
    return element[1][0] != ANCHORS


def find_repeats(job: Job, tasks: list[Task]) -> Output:
    """Find what the kept documents repeat of one another, and write `repeats/` and `cuts/` as the recipe asks.

    `tasks` are those of the stage, with the sidecar `filter`; its decisions lie in `job.output` already. Of what it
    finds `extra` says by kind: spans, documents that have some, their bytes, bytes that are cut.
    """
    config = job.recipe.dedup
    if config.lines is None and config.paragraphs is None and config.substrings == "none":
        return Output([])
    domains = job.sidecars("annotate", "domain")
    tasks = [
        replace(
            task,
            sidecars={
                "filter": task.sidecars.get("filter"),
                "dedup": paths.join(job.output, "decisions", f"{task.name}.parquet"),
                "domain": domains[task.index] if domains else None,
            },
        )
        for task in tasks
    ]
    size = sum(entry.bytes for entry in job.manifest("extract").select("documents"))
    partitions = min(1 << 14, max(4, math.ceil(size * PER_BYTE / PARTITION_BYTES)))

    done = run_pipeline(
        job,
        lambda pipeline: write_repeats(pipeline, config, tasks, partitions),
        len(tasks),
        lambda: len(finished_files(paths.join(job.output, "repeats"))),
    )
    extra: dict[str, dict[str, int]] = {}
    for name, number in done.extra.items():
        kind, _, what = name.partition("/")
        extra.setdefault(kind, {})[what] = number
    return Output(done.files, extra={"repeats": extra}, spent=done.spent)
