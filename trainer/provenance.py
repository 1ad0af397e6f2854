"""From a step of training to the documents that it reads, and from a document to the steps that read it.

The order of training is a pure function of pack, seed and step, so nothing is looked up in what a training wrote: a
step that is still to come is answered like one that is done.
"""

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.hashing import ID, ID_BYTES
from schemas.job import Job
from schemas.recipe import training_of
from schemas.tables import read_table
from trainer.data import stage_feed
from trainer.schedule import span_at, spans
from trainer.shard_cache import StageFile
from trainer.shards import TokenShards

ORIGIN = ["path", "locator", "url"]
_IDS = ["document_id", "id"]
_DOCUMENT_ID = re.compile(rf"[0-9a-fA-F]{{{2 * ID_BYTES}}}")


def read_in_step(job: Job, step: int) -> list[dict[str, Any]]:
    """What a step of the training reads, by the step's number in metrics.jsonl: one entry a segment.

    An entry has `sequence` (its row of the step's batch), `begin` and `length` in positions of the document, what
    `TokenShards.describe` says, and the `ORIGIN` of the document where the job has the extract dataset.

    Raises:
        ConfigError: there is no such step; step 0 reads nothing.
    """
    plan = spans(training_of(job.recipe))
    if not 1 <= step <= plan[-1].end:
        raise ConfigError(f"step {step}: the training has steps 1 to {plan[-1].end}")
    span = span_at(plan, step - 1)
    shards = TokenShards(job, check=False)
    feed = stage_feed(job, span.stage, shards)
    counts, segments = feed.sequences.segments(feed.all_rows(step - 1 - span.begin))
    lines = np.repeat(np.arange(len(counts)), counts)
    return [
        {"sequence": line, "begin": begin, "length": length, **document}
        for line, (begin, length), document in zip(
            lines.tolist(), segments[:, 2:].tolist(), _with_origin(job, shards.describe(segments[:, :2]))
        )
    ]


def steps_of(job: Job, name: str) -> list[dict[str, Any]]:
    """When the training reads the documents that have this document id in hex, or this id of their user's.

    One entry a document: what `TokenShards.describe` says, its `split` and `tokens`, `ORIGIN` as in `read_in_step`, and
    `stages`. A stage has `stage`, `first_step`, `last_step`, `epochs` (how often it reads its whole pack) and `reads`:
    in order `step`, `sequence` (the row of its batch), `epoch`, and `begin` and `length` in positions of the document.

    Raises:
        ConfigError: no tokenized document has this id.
    """
    shards = TokenShards(job, check=False)
    documents = _find(job, shards, name)
    found = _with_origin(job, shards.describe(documents))
    for entry, (shard, row) in zip(found, documents.tolist()):
        stored = shards.shard(shard).table.slice(row, 1)
        entry |= {
            "split": stored["split"][0].as_py(),
            "tokens": pc.list_value_length(stored["tokens"])[0].as_py(),
            "stages": [],
        }
    for span in spans(training_of(job.recipe)):
        feed = stage_feed(job, span.stage, shards)
        reads = feed.reads(feed.sequences.holding(documents), span.steps)
        counts, segments = feed.sequences.segments(reads[:, 3])
        steps, rows, epochs, _ = np.repeat(reads, counts, axis=0).T
        for entry, document in zip(found, documents):
            own = np.flatnonzero((segments[:, :2] == document).all(axis=1))
            columns = (span.begin + 1 + steps[own], rows[own], epochs[own], segments[own, 2], segments[own, 3])
            names = ("step", "sequence", "epoch", "begin", "length")
            entry["stages"].append(
                {
                    "stage": span.stage.name,
                    "first_step": span.begin + 1,
                    "last_step": span.end,
                    "epochs": round(span.sequences / feed.sequences.count, 4),
                    "reads": [dict(zip(names, values)) for values in zip(*(column.tolist() for column in columns))],
                }
            )
    return found


def _find(job: Job, shards: TokenShards, name: str) -> np.ndarray:
    """Shard and row of the documents of this id, (documents, 2).

    The plans of the mix are asked first, one small file a stage. A document that is in none of them is looked for in
    all token shards, of which nothing but the ids is read.
    """
    columns = [*_IDS, "shard", "row"]
    found = []
    for path in job.files("mix", "plans") if "mix" in job.inputs else []:
        plan = read_table(path, columns)
        plan = plan.filter(_is_named(plan, name))
        found.append(np.stack([plan["shard"].to_numpy(), plan["row"].to_numpy()], axis=1, dtype=np.int64))
    if not sum(map(len, found)):
        for shard, file in enumerate(shards.files):
            table = shards.shard(shard).table if paths.is_local(file.path) else _remote_ids(file)
            rows = np.flatnonzero(_is_named(table, name).to_numpy())
            found.append(np.stack([np.full(len(rows), shard), rows], axis=1))
    documents = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)
    if not len(documents):
        raise ConfigError(
            f"document {name}: no tokenized document has this id; it is misspelt, or was dropped before tokenizing"
        )
    return documents


def _remote_ids(file: StageFile) -> pa.Table:
    """The ids in a remote token shard: a few percent of its bytes, and none of them kept."""
    try:
        fs, inner = paths.filesystem(file.path)
        with fs.open(inner, "rb", cache_type="none") as handle:  # reading ahead would read the tokens too
            names = pa.ipc.open_file(handle).schema.names
            options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in _IDS])
            table = pa.ipc.open_file(handle, options=options).read_all()
    except Exception as error:  # every store raises exceptions of its own
        raise DataError(f"{file.path}: cannot be read: {type(error).__name__}: {error}") from error
    return table


def _is_named(table: pa.Table, name: str) -> pa.ChunkedArray:
    own = pc.fill_null(pc.equal(table["id"], name), False)
    if not _DOCUMENT_ID.fullmatch(name):
        return own
    return pc.or_(own, pc.equal(table["document_id"], pa.scalar(bytes.fromhex(name), ID)))


def _with_origin(job: Job, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if "extract" not in job.inputs:
        return documents
    wanted: dict[str, set[str]] = {}
    for document in documents:
        wanted.setdefault(PurePosixPath(document["shard"]).stem, set()).add(document["document_id"])
    origins: dict[str, dict[str, Any]] = {}
    for path in job.document_shards():  # a token shard is called as the document shard that it was made from
        if (own := wanted.get(PurePosixPath(path).stem)) is not None:
            table = read_table(path, ["document_id", *ORIGIN])
            ids = pa.array([bytes.fromhex(one) for one in sorted(own)], ID)
            for row in table.filter(pc.is_in(table["document_id"], value_set=ids)).to_pylist():
                origins[row.pop("document_id").hex()] = row
    return [document | origins.get(document["document_id"], {}) for document in documents]
