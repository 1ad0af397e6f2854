"""From documents and their labels to rows of a token shard."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.cells import cell
from schemas.documents import DROPPED, TRAIN
from schemas.languages import UNDETERMINED, group
from schemas.tokens import TOKENS
from tokenizer.qwen import Tokenizer

BATCH_BYTES = 4 << 20
DOCUMENT_COLUMNS = ["document_id", "id", "text", "source", "licence"]


def label_table(sidecars: Mapping[str, pa.Table], rows: int) -> pa.Table:
    """The columns split, language, domain, educational_score and cell of a shard of `rows` documents.

    `sidecars` holds split, language, domain and educational where they exist. Without a split everything is for
    training; without labels a document is of no language and no domain, and has the least educational value.
    """

    def column(sidecar: str, name: str, otherwise: object, kind: pa.DataType) -> pa.Array:
        if sidecar in sidecars:
            return pa.concat_arrays(sidecars[sidecar][name].cast(kind).chunks or [pa.array([], kind)])
        return pa.repeat(pa.scalar(otherwise, kind), rows)

    columns = {
        "split": column("split", "split", TRAIN, pa.string()),
        "language": column("language", "language", UNDETERMINED, pa.string()),
        "domain": column("domain", "domain", "other", pa.string()),
        "educational_score": column("educational", "educational_score", 0.0, pa.float32()),
    }
    bins = column("educational", "educational_bin", 0, pa.int8())
    return pa.table(columns | {"cell": cells(columns["language"], columns["domain"], bins)})


def cells(languages: pa.Array, domains: pa.Array, bins: pa.Array) -> pa.Array:
    """The cell of each row; one call of schemas.cells.cell for each combination that occurs."""
    rows = list(zip(languages.to_pylist(), domains.to_pylist(), bins.to_pylist()))
    names = {row: cell(group(row[0]), row[1], row[2]) for row in set(rows)}
    return pa.array([names[row] for row in rows], pa.string())


def bounded(batch: pa.RecordBatch, limit: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """Slices of a batch with about `limit` bytes of text each, at least one row."""
    ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64))
    begin = 0
    while begin < batch.num_rows:
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + limit, "right")))
        yield batch.slice(begin, end - begin)
        begin = end


def encode(documents: pa.RecordBatch, labels: pa.Table, tokenizer: Tokenizer) -> pa.RecordBatch:
    """Rows of schemas.tokens.TOKENS for the documents that are not dropped; `labels` are those of the same rows."""
    keep = pc.not_equal(labels["split"], DROPPED).combine_chunks()
    documents, labels = documents.filter(keep), labels.filter(keep)
    encoded = tokenizer.encode_batch(documents["text"].to_pylist())
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    values = np.concatenate([np.zeros(0, np.uint32), *encoded])
    # Byte-level BPE loses nothing: the bytes of the tokens are the bytes of the text.
    bytes_before = np.concatenate(([0], np.cumsum(tokenizer.bytes_per_token[values], dtype=np.int64)))
    columns = {name: documents[name] for name in ("document_id", "id", "source", "licence")}
    for name in ("split", "cell", "language", "domain", "educational_score"):
        columns[name] = pa.concat_arrays(labels[name].chunks or [pa.array([], labels[name].type)])
    columns["text_bytes"] = pa.array(np.diff(bytes_before[offsets]))
    columns["tokens"] = pa.LargeListArray.from_arrays(
        pa.array(offsets), pa.array(values), type=TOKENS.field("tokens").type
    )
    return pa.record_batch([columns[name] for name in TOKENS.names], schema=TOKENS)
