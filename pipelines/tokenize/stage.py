"""Tokenize: one token shard per document shard, with the labels that mixing and losses need beside the tokens.

The text is read once, in batches of a few megabytes, cut and masked, and encoded on one thread per worker. A document
of which nothing is left is a row without tokens.
"""

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import masking
from pipelines.runner import ShardResult, Task, map_shards, shard_tasks
from pipelines.sidecars import read_keys
from pipelines.tokenize.kernels import DOCUMENT_COLUMNS, bounded, encode, label_table
from schemas import paths
from schemas.documents import DROPPED, TRAIN, VALIDATION
from schemas.errors import DataError
from schemas.job import Job, Output
from schemas.labels import check_sidecar
from schemas.tables import read_batches, read_table, table_writer
from schemas.tokens import TOKENS, embedding_rows
from tokenizer.qwen import Tokenizer

SIDECARS = {
    "language": ("annotate", "language"),
    "educational": ("annotate", "educational"),
    "domain": ("annotate", "domain"),
    "split": ("split", "split"),
}
COUNTS = ("documents", TRAIN, VALIDATION, DROPPED, f"{TRAIN}_tokens", f"{VALIDATION}_tokens")
_LANGUAGE = "language/"  # in the sums of the shards: training tokens of a language


class TokenizeShard(beam.DoFn):
    """Task -> ShardResult; writes `tokens/<shard>.arrow`."""

    def __init__(self, tokenizer: str, mask: list[str]) -> None:
        self.folder = tokenizer
        self.mask = mask

    def setup(self) -> None:
        self.tokenizer = load_tokenizer(self.folder)

    def process(self, task: Task) -> Iterator[ShardResult]:
        keys = read_keys(task)
        labels = _labels(task, keys)
        spans = masking.read_spans(keys, task.sidecars, self.mask)
        counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0) | {"documents": labels.num_rows})
        sums: Counter[str] = Counter()
        row = 0
        with table_writer(task.output, f"tokens/{task.name}.arrow", TOKENS) as writer:
            for batch in read_batches(task.path, DOCUMENT_COLUMNS):
                for part in bounded(batch):
                    about = labels.slice(row, part.num_rows)
                    if spans.num_columns:
                        cuts = masking.all_cuts(part["text"], spans.slice(row, part.num_rows), self.mask)
                        text = part.schema.get_field_index("text")
                        part = part.set_column(text, "text", masking.cut_texts(part["text"], cuts))
                        used = pc.not_equal(about["split"], DROPPED).combine_chunks()
                        sums += masking.count_cuts(cuts.filter(used), part["text"].filter(used))
                    rows = encode(part, about, self.tokenizer)
                    row += part.num_rows
                    writer.write(rows)
                    _count(rows, counts, sums)
        counts[DROPPED] = row - counts[TRAIN] - counts[VALIDATION]
        tokens = counts[f"{TRAIN}_tokens"] + counts[f"{VALIDATION}_tokens"]
        yield ShardResult([writer.entry(tokens)], dict(counts), extra=dict(sums))


def _labels(task: Task, keys: pa.Table) -> pa.Table:
    sidecars = {name: read_table(path) for name, path in task.sidecars.items() if path and name in SIDECARS}
    for name, sidecar in sidecars.items():
        try:
            check_sidecar(keys, sidecar)
        except DataError as error:
            raise DataError(f"{task.sidecars[name]}: {error}") from error
    return label_table(sidecars, keys.num_rows)


def _count(rows: pa.RecordBatch, counts: Counter[str], sums: Counter[str]) -> None:
    lengths = pc.add(pc.list_value_length(rows["tokens"]), 1)
    table = pa.table({"split": rows["split"], "language": rows["language"], "tokens": lengths})
    for group in table.group_by(["split", "language"]).aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist():
        counts[group["split"]] += group["tokens_count"]
        counts[f"{group['split']}_tokens"] += group["tokens_sum"]
        if group["split"] == TRAIN:
            sums[_LANGUAGE + group["language"]] += group["tokens_sum"]


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a dataset, wherever that lies."""
    with paths.local_folder(folder) as local:
        return Tokenizer.load(local)


def _named(sums: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in sums.items() if name.startswith(prefix)}


def run(job: Job) -> Output:
    job.manifest("tokenizer")
    folder = job.inputs["tokenizer"]
    tokenizer = load_tokenizer(folder)
    mask: list[str] = sorted(job.recipe.mask.pii)
    tasks = shard_tasks(job, SIDECARS | masking.sidecars(mask))
    done = map_shards(job, tasks, TokenizeShard(folder, mask), watch="tokens")
    size = tokenizer.vocabulary_size
    extra = {
        "vocabulary_size": size,
        "padded_vocabulary_size": embedding_rows(size),
        "end_of_document": tokenizer.end_of_document,
        "tokens": {split: done.counts.get(f"{split}_tokens", 0) for split in (TRAIN, VALIDATION)},
        "languages": _named(done.extra, _LANGUAGE),
    }
    if mask:
        extra["masked"] = dict.fromkeys(mask, 0) | _named(done.extra, masking.MASKED)
    if any(job.sidecars(stage, "cuts") for stage in masking.CUTTING):
        extra["cut"] = {
            "documents": done.extra.get(masking.TOUCHED, 0),
            "emptied": done.extra.get(masking.EMPTIED, 0),
            "spans": _named(done.extra, masking.SPANS),
            "bytes": _named(done.extra, masking.BYTES),
        }
    return Output(done.files, done.counts, {}, extra)
