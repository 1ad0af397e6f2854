"""Pack: from the plans to an index of sequences; no token is read or moved.

A document costs its row of the plan and a sequence costs its segments, 24 bytes each. Each stage is one pass of array
operations over its plan, faster than any distribution of it, so the stage runs without Beam.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.pack.kernels import Packing, concatenate, pack_whole, parts
from schemas import paths
from schemas.documents import VALIDATION
from schemas.errors import DataError
from schemas.hashing import uniform
from schemas.job import Job, Output
from schemas.manifest import FileEntry
from schemas.recipe import TrainingStage, training_of
from schemas.tables import read_table, table_writer
from schemas.tokens import PACK, SEGMENT


def run(job: Job) -> Output:
    job.manifest("mix")
    stages = training_of(job.recipe).stages
    files: list[FileEntry] = []
    extra: dict[str, Any] = {}
    for done, stage in enumerate(stages):
        job.progress.update(done, len(stages) + 1, "stages", stage.name)
        entry, extra[stage.name] = pack_stage(job, stage)
        files.append(entry)
    job.progress.update(len(stages), len(stages) + 1, "stages", VALIDATION)
    entry, validation = pack_validation(job, stages[0].sequence_length)
    files.append(entry)
    job.progress.update(len(stages) + 1, len(stages) + 1, "stages")
    counts = {name: summary["sequences"] for name, summary in extra.items()} | {VALIDATION: validation["sequences"]}
    ordered = sorted(files, key=lambda entry: entry.path)
    return Output(ordered, counts, {}, {"stages": extra, "validation": validation})


def pack_stage(job: Job, stage: TrainingStage) -> tuple[FileEntry, dict[str, Any]]:
    plan = read_plan(job, stage.name)
    chosen = stream_order(plan, job.recipe.seed, stage.name)
    shard, row, lengths = (plan[name].to_numpy()[chosen] for name in ("shard", "row", "tokens"))
    if stage.packing == "concatenate":
        stream = concatenate(lengths, stage.sequence_length)
        packings, cut_documents = stream.packings(), stream.cut_documents
    else:
        minimum = stage.mixture.lengths.minimum if stage.mixture.lengths else 2
        packings = parts(pack_whole(lengths, stage.sequence_length, minimum))
        cut_documents = int(np.count_nonzero(lengths > stage.sequence_length + 1))
    entry = write_pack(job.output, stage.name, packings, shard, row)
    if not entry.rows:
        raise DataError(
            f"stage '{stage.name}': its {int(lengths.sum())} tokens fill no sequence of {stage.sequence_length}; "
            f"lower pretrain.stages.{stage.name}.sequence_length, raise its `tokens` or add sources"
        )
    return entry, summary(entry, stage.sequence_length) | {"cut_documents": cut_documents}


def pack_validation(job: Job, sequence_length: int) -> tuple[FileEntry, dict[str, Any]]:
    """The validation documents, each once, in the order of the shards."""
    plan = read_plan(job, VALIDATION)
    shard, row, lengths = (plan[name].to_numpy() for name in ("shard", "row", "tokens"))
    entry = write_pack(job.output, VALIDATION, concatenate(lengths, sequence_length).packings(), shard, row)
    return entry, {"sequence_length": sequence_length, "sequences": entry.rows}


def read_plan(job: Job, name: str) -> pa.Table:
    columns = ["document_id", "shard", "row", "tokens", "copies"]
    return read_table(paths.join(job.inputs["mix"], f"plans/{name}.parquet"), columns)


def stream_order(plan: pa.Table, seed: int, stage: str) -> np.ndarray:
    """Rows of the plan, each as often as its copies, shard after shard and shuffled by hash inside a shard."""
    copies, shard = plan["copies"].to_numpy(), plan["shard"].to_numpy()
    ids = np.array(plan["document_id"].to_pylist(), object)
    rows, draws = [], []
    for copy in range(int(copies.max(initial=0))):
        here = np.flatnonzero(copies > copy)
        rows.append(here)
        draws.append(uniform(ids[here], seed, stage, "order", copy))
    if not rows:
        return np.zeros(0, np.int64)
    row = np.concatenate(rows)
    return row[np.lexsort((row, np.concatenate(draws), shard[row]))]


def write_pack(folder: str, name: str, packings: Iterator[Packing], shard: np.ndarray, row: np.ndarray) -> FileEntry:
    """Write `<name>/pack.arrow`; `shard` and `row` say where each document of the stream lies."""
    positions = 0
    with table_writer(folder, f"{name}/pack.arrow", PACK) as writer:
        for packing in packings:
            columns = [shard[packing.document], row[packing.document], packing.begin, packing.length]
            segments = pa.StructArray.from_arrays([pa.array(column) for column in columns], fields=list(SEGMENT))
            offsets = pa.array(packing.offsets.astype(np.int32))
            lists = pa.ListArray.from_arrays(offsets, segments, type=PACK.field("segments").type)
            writer.write(pa.record_batch([lists], schema=PACK))
            positions += int(packing.length.sum())
    return writer.entry(tokens=positions)


def summary(entry: FileEntry, sequence_length: int) -> dict[str, Any]:
    positions = entry.tokens or 0
    padding = 1 - positions / max(1, entry.rows * (sequence_length + 1))
    return {
        "sequence_length": sequence_length,
        "sequences": entry.rows,
        "positions": positions,
        "padding": round(padding, 6),
    }
