"""Mix: from the token shards to one plan per training stage, which says how often each document is used.

Works on the columns beside the tokens and on the list offsets, which is a few dozen bytes per document: the token
shards are mapped into memory and their tokens never touched. One solve over all documents gives the scale, so there is
nothing to distribute, and the stage runs without Beam.
"""

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.mix.exclude import read_ids
from pipelines.mix.kernels import (
    cluster_classes,
    cluster_weights,
    draw_copies,
    label_weights,
    length_buckets,
    length_classes,
    named,
    shares,
    solve_scale,
    usable,
)
from schemas.cells import merge_small
from schemas.documents import TRAIN, VALIDATION
from schemas.errors import DataError
from schemas.hashing import uniform
from schemas.job import Job, Output
from schemas.manifest import FileEntry
from schemas.recipe import Mixture, TrainingStage, training_of
from schemas.tables import read_table, table_writer
from schemas.tokens import PLAN

COLUMNS = ["document_id", "id", "split", "source", "cell", "language"]
UNKNOWN_SHOWN = 5

log = logging.getLogger(__name__)


def run(job: Job) -> Output:
    stages = training_of(job.recipe).stages
    documents = read_documents(job, any(stage.mixture.cluster_size for stage in stages))
    documents, unknown = excluded(documents, job.recipe.mix.exclude)
    cells = merged_cells(documents, job.recipe.mix.cell_tokens)
    removed = documents.filter(documents["excluded"])
    kept = with_merged(documents.filter(pc.invert(documents["excluded"])), cells)
    train = kept.filter(pc.equal(kept["split"], TRAIN))
    validation = kept.filter(pc.equal(kept["split"], VALIDATION))
    if not train.num_rows:
        raise DataError(
            "no document is left to train on: the filter, deduplication, decontamination and mix.exclude dropped them "
            "all; see the reasons in the manifests of these stages, loosen the rules in the recipe or add sources"
        )

    files: list[FileEntry] = []
    extra: dict[str, Any] = {}
    for done, stage in enumerate(stages):
        job.progress.update(done, len(stages), "stages", stage.name)
        plan, extra[stage.name] = plan_stage(train, stage, job.recipe.mix.max_copies, job.recipe.seed)
        if job.recipe.mix.exclude:
            extra[stage.name]["excluded"] = missed(removed, stage.mixture)
        files.append(write_plan(job.output, stage.name, plan))
    once = np.ones(validation.num_rows)
    files.append(write_plan(job.output, VALIDATION, plan_table(validation, once, once.astype(np.int32))))
    job.progress.update(len(stages), len(stages), "stages")
    counts = {"documents": documents.num_rows, TRAIN: train.num_rows, VALIDATION: validation.num_rows}
    more: dict[str, Any] = {"stages": extra, "cells": cells}
    if job.recipe.mix.exclude:
        counts |= {"excluded": removed.num_rows, "unknown_ids": len(unknown)}
        of_split = {split: pc.sum(pc.equal(removed["split"], split)).as_py() or 0 for split in (TRAIN, VALIDATION)}
        more["excluded"] = of_split | {"unknown": len(unknown), "unknown_ids": unknown[:UNKNOWN_SHOWN]}
    return Output(sorted(files, key=lambda entry: entry.path), counts, {}, more)


def read_documents(job: Job, clusters: bool = False) -> pa.Table:
    """One row per tokenized document: COLUMNS, shard, row, and tokens with the end-of-document token (int64).

    With `clusters` also the column `cluster_size`, from the decisions of deduplication.
    """
    decisions = job.files("dedup", "decisions") if clusters else []
    if clusters and len(decisions) != len(job.files("tokenize", "tokens")):
        raise DataError(f"{job.inputs['dedup']}/decisions: is for another number of shards than were tokenized")
    tables = []
    for shard, path in enumerate(job.files("tokenize", "tokens")):
        table = read_table(path)
        lengths = pc.add(pc.list_value_length(table["tokens"]).cast(pa.int64()), 1)
        table = table.select(COLUMNS)
        table = table.append_column("shard", pa.array(np.full(len(table), shard, np.int32)))
        table = table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))
        if clusters:
            table = table.append_column("cluster_size", cluster_sizes(decisions[shard], table["document_id"]))
        tables.append(table.append_column("tokens", lengths))
    if not tables:
        raise DataError(f"{job.inputs['tokenize']}: holds no token shards, because no documents were extracted")
    return pa.concat_tables(tables).combine_chunks()


def cluster_sizes(path: str, document_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The sizes of the clusters (int32) of some of the documents that the decisions at `path` are about.

    A token shard has only the documents that were not dropped. DataError for a document without a decision.
    """
    decisions = read_table(path, ["document_id", "cluster_size"])
    places = pc.index_in(document_ids, value_set=single(decisions["document_id"]))
    if places.null_count:
        raise DataError(f"{path}: has no decision on {places.null_count} documents; was it made for other documents?")
    return decisions["cluster_size"].take(places)


def excluded(documents: pa.Table, files: list[str]) -> tuple[pa.Table, list[str]]:
    """`documents` with the column `excluded`, and the ids in the files that no document has."""
    found, unknown = named(single(documents["document_id"]), single(documents["id"]), read_ids(files))
    if unknown:
        more = ", ..." if len(unknown) > UNKNOWN_SHOWN else ""
        log.warning(
            "mix.exclude: no document has %s of the ids: %s%s", len(unknown), ", ".join(unknown[:UNKNOWN_SHOWN]), more
        )
    return documents.append_column("excluded", pa.array(found)), unknown


def missed(removed: pa.Table, mixture: Mixture) -> dict[str, int]:
    """What a stage would have had to choose from as well: training documents that were excluded, and their tokens."""
    removed = removed.filter(pc.equal(removed["split"], TRAIN))
    tokens = removed["tokens"].to_numpy()
    chosen = usable(weights_of(removed, mixture), tokens, mixture)
    return {"documents": int(chosen.sum()), "tokens": int(tokens[chosen].sum())}


def weights_of(documents: pa.Table, mixture: Mixture) -> np.ndarray:
    """float64 [documents]: the product of the weights of a document's labels and of the size of its cluster."""
    columns = [single(documents[name]) for name in ("cell", "language", "source")]
    weights = label_weights(columns[0], columns[1], columns[2], mixture)
    if mixture.cluster_size:
        weights *= cluster_weights(documents["cluster_size"].to_numpy(), mixture.cluster_size)
    return weights


def merged_cells(documents: pa.Table, minimum: int) -> dict[str, str]:
    """Cell -> merged cell, sorted, by the tokens that may be trained on; a cell without any counts as empty."""
    trained = pc.and_(pc.equal(documents["split"], TRAIN), pc.invert(documents["excluded"]))
    tokens = pc.if_else(trained, documents["tokens"], 0)
    sums = pa.table({"cell": documents["cell"], "tokens": tokens}).group_by("cell").aggregate([("tokens", "sum")])
    return merge_small(dict(sorted(zip(sums["cell"].to_pylist(), sums["tokens_sum"].to_pylist()))), minimum)


def with_merged(documents: pa.Table, cells: dict[str, str]) -> pa.Table:
    """`documents` with the column `merged`, dictionary-encoded over the sorted merged cells."""
    names = sorted(set(cells.values()))
    encoded = single(documents["cell"]).dictionary_encode()
    position = np.array([names.index(cells[name]) for name in encoded.dictionary.to_pylist()], np.int32)
    codes = position[encoded.indices.to_numpy(zero_copy_only=False)] if len(position) else position
    return documents.append_column("merged", pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)))


def single(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else combined.chunk(0)


def plan_stage(
    documents: pa.Table, stage: TrainingStage, max_copies: float, seed: int
) -> tuple[pa.Table, dict[str, Any]]:
    """The plan of one stage (rows as schemas.tokens.PLAN) and its summary."""
    tokens = documents["tokens"].to_numpy()
    weights = weights_of(documents, stage.mixture)
    buckets = length_buckets(weights, tokens, stage.tokens, max_copies, stage.mixture)
    if not any(len(bucket.documents) for bucket in buckets):
        raise DataError(f"stage '{stage.name}' has nothing to train on: {_why_empty(stage.mixture, weights)}")

    ids = documents["document_id"].to_pylist()
    draws, keys = uniform(ids, seed, stage.name), np.array(ids, "S16")
    expected = np.zeros(len(tokens))
    copies = np.zeros(len(tokens), np.int32)
    scales: dict[str, float] = {}
    for bucket in buckets:
        here = bucket.documents
        if not len(here):
            continue
        scale = solve_scale(weights[here], tokens[here], bucket.got, max_copies)
        expected[here] = np.minimum(max_copies, scale * weights[here])
        copies[here] = draw_copies(expected[here], tokens[here], bucket.got, draws[here], keys[here])
        scales[bucket.name] = float(f"{scale:.6g}")

    planned = tokens * copies
    total = int(planned.sum())
    summary: dict[str, Any] = {
        "documents": int(np.count_nonzero(copies)),
        "tokens": total,
        "budget": stage.tokens,
        "missing": max(0, stage.tokens - total),  # not 0: the trainer starts another epoch
        "scale": scales,
        "cells": before_after(tokens, planned, documents["merged"]),
        "lengths": length_shares(tokens, planned),
    }
    if stage.mixture.cluster_size:
        sizes = documents["cluster_size"].to_numpy()
        summary["clusters"] = cluster_shares(tokens, planned, sizes, stage.mixture)
    if stage.mixture.lengths is not None:
        summary["buckets"] = {
            bucket.name: {"asked": round(bucket.asked), "got": int(planned[bucket.documents].sum())}
            for bucket in buckets
        }
    used = np.flatnonzero(expected > 0)
    return plan_table(documents.take(pa.array(used)), expected[used], copies[used]), summary


def _why_empty(mixture: Mixture, weights: np.ndarray) -> str:
    if not (weights > 0).any():
        return "its mixture gives every document a weight of 0; raise a weight"
    if mixture.lengths is None:
        return "all documents that its mixture allows are empty; add sources"
    return (
        f"no document that its mixture allows has {mixture.lengths.minimum} tokens or more; "
        "lower `mixture.lengths.minimum` or add longer documents"
    )


def before_after(before: np.ndarray, after: np.ndarray, merged: pa.ChunkedArray) -> dict[str, dict[str, float]]:
    """Merged cell -> its share of all training tokens and its share of the plan."""
    column = single(merged)
    names, codes = column.dictionary.to_pylist(), column.indices.to_numpy()
    old, new = shares(before, codes, names), shares(after, codes, names)
    return {name: {"before": old[name], "after": new[name]} for name in names if old[name] or new[name]}


def length_shares(before: np.ndarray, after: np.ndarray) -> dict[str, dict[str, float]]:
    """Shares by powers of two: the key is the least length of the class, in tokens."""
    classes = length_classes(before)
    names = [str(2**exponent) for exponent in range(int(classes.max()) + 1)]
    old, new = shares(before, classes, names), shares(after, classes, names)
    return {name: {"before": old[name], "after": new[name]} for name in names if old[name]}


def cluster_shares(
    before: np.ndarray, after: np.ndarray, sizes: np.ndarray, mixture: Mixture
) -> dict[str, dict[str, float]]:
    """Shares by the size of clusters, and the tokens of the plan: the key is the least size of the class."""
    least, classes = cluster_classes(sizes, mixture.cluster_size)
    names = [str(size) for size in least]
    old, new = shares(before, classes, names), shares(after, classes, names)
    planned = np.bincount(classes, weights=after, minlength=len(names))
    rows = zip(names, planned.tolist())
    return {name: {"before": old[name], "after": new[name], "tokens": int(count)} for name, count in rows if old[name]}


def plan_table(documents: pa.Table, expected: np.ndarray, copies: np.ndarray) -> pa.Table:
    columns = {name: documents[name] for name in ("document_id", "id", "shard", "row", "tokens")}
    columns["cell"] = documents["merged"].cast(pa.string())
    columns["expected_copies"] = pa.array(expected.astype(np.float32))
    columns["copies"] = pa.array(copies)
    return pa.table([columns[name] for name in PLAN.names], schema=PLAN)


def write_plan(folder: str, name: str, plan: pa.Table) -> FileEntry:
    with table_writer(folder, f"plans/{name}.parquet", PLAN) as writer:
        writer.write(plan)
    used = pc.sum(pc.multiply(plan["tokens"], plan["copies"].cast(pa.int64()))).as_py() or 0
    return writer.entry(tokens=used)
