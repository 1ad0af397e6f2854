"""Token shards against a plain loop over the documents, and the same bytes with several workers."""

import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tokenize.kernels import bounded
from pipelines.tokenize.stage import run
from schemas.cells import cell
from schemas.documents import DOCUMENTS, SPLIT
from schemas.errors import DataError
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.labels import DOMAIN, EDUCATIONAL, LANGUAGE
from schemas.languages import group
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import read_table, write_table
from schemas.tokens import TOKENS
from tokenizer.qwen import ADDED_TOKENS, Tokenizer
from tokenizer.train import train

RECIPE = Recipe.model_validate({"name": "test", "sources": [{"name": "here", "path": "."}]})
LANGUAGES, DOMAINS = ["eng_Latn", "jpn_Jpan", "und"], ["code", "mathematics"]
TEXTS = [
    "Plain text, once more and once more.\n",
    "<|endoftext|> and <|im_start|>user are only text here, and so is <think>.",
    unicodedata.normalize("NFD", "Ångström, Übergröße, 각각"),
    "日本語の文章です。",
    "",
    "def f(x):\n    return x\n" * 40,
    "a" * 5000,
]


class Silent:
    def update(self, done, total, unit, note=""):
        assert 0 <= done <= total


def dataset(folder, name, files):
    files = sorted(files, key=lambda entry: entry.path)
    write_manifest(str(folder), Manifest(stage=name, version=1, key="k", config={}, inputs={}, files=files))
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train(TEXTS * 3, 400, folder)
    return dataset(folder, "tokenizer", [])


def document(shard, i):
    text = TEXTS[(shard + i) % len(TEXTS)] + (f" {i}" if (shard + i) % len(TEXTS) != 4 else "")
    return {
        "document_id": document_id("here", f"{shard}", f"{i}"),
        "id": f"user-{i}" if i % 2 else None,
        "text_hash": text_hash(text),
        "text": text,
        "source": "here",
        "path": f"{shard}",
        "locator": f"{i}",
        "licence": "CC0-1.0" if i % 3 else None,
        "metadata": [("code", "Python")] if i % 4 == 0 else [],
        "pages": [],
    }


def labels_of(row, i):
    """Label columns of a document, by sidecar."""
    key = {name: row[name] for name in ("document_id", "id", "text_hash")}
    note = key | {"annotator": "test/1"}
    score = (i % 9) / 2
    return {
        "split": key | {"split": ("train", "train", "dropped", "validation")[i % 4]},
        "language": note | {"language": LANGUAGES[i % 3], "language_score": 1, "language_margin": 1, "script": "Latn"},
        "educational": note | {"educational_score": score, "educational_bin": min(3, int(score))},
        "domain": note | {"domain": DOMAINS[i % 2], "domain_score": 1},
    }


SCHEMAS = {"split": SPLIT, "language": LANGUAGE, "educational": EDUCATIONAL, "domain": DOMAIN}


def corpus(folder, shards, labels=True):
    files: dict[str, list] = {"extract": [], "split": [], "annotate": []}
    for index, rows in enumerate(shards):
        name = f"{index:05d}.parquet"
        files["extract"].append(
            write_table(f"{folder}/extract", f"documents/{name}", pa.Table.from_pylist(rows, DOCUMENTS))
        )
        for sidecar, schema in SCHEMAS.items():
            stage = "split" if sidecar == "split" else "annotate"
            table = pa.Table.from_pylist([labels_of(row, i)[sidecar] for i, row in enumerate(rows)], schema)
            files[stage].append(write_table(f"{folder}/{stage}", f"{sidecar}/{name}", table))
    wanted = files if labels else {"extract": files["extract"]}
    return {stage: dataset(f"{folder}/{stage}", stage, entries) for stage, entries in wanted.items()}


def tokenize(folder, inputs, tokenizer, *options):
    job = Job(RECIPE, inputs | {"tokenizer": tokenizer}, str(folder / "out"), Silent(), options)
    return run(job)


SHARDS = [[document(shard, i) for i in range(count)] for shard, count in enumerate((40, 3, 0, 25))]


def test_shards_are_what_a_loop_over_the_documents_gives(tmp_path, tokenizer):
    done = tokenize(tmp_path, corpus(tmp_path, SHARDS), tokenizer)
    encoder = Tokenizer.load(tokenizer)
    counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    assert [entry.path for entry in done.files] == [f"tokens/{i:05d}.arrow" for i in range(4)]
    for entry, rows in zip(done.files, SHARDS):
        table = read_table(str(tmp_path / "out" / entry.path))
        assert table.schema.equals(TOKENS)
        expected = []
        for i, row in enumerate(rows):
            labels = labels_of(row, i)
            split, language = labels["split"]["split"], labels["language"]["language"]
            counts.update(["documents", split])
            if split == "dropped":
                continue
            text = unicodedata.normalize("NFC", row["text"])
            tokens = encoder.encode(text)
            assert encoder.decode(tokens) == text
            counts[f"{split}_tokens"] += len(tokens) + 1
            if split == "train":
                languages[language] += len(tokens) + 1
            score = labels["educational"]["educational_score"]
            expected.append(
                {name: row[name] for name in ("document_id", "id", "source", "licence")}
                | {
                    "split": split,
                    "cell": cell(group(language), labels["domain"]["domain"], min(3, int(score))),
                    "language": language,
                    "domain": labels["domain"]["domain"],
                    "educational_score": score,
                    "text_bytes": len(text.encode()),
                    "tokens": tokens,
                }
            )
        assert table.to_pylist() == expected
        assert entry.rows == len(expected)
        assert entry.tokens == sum(len(row["tokens"]) + 1 for row in expected)
    assert done.counts == dict(counts)
    size = encoder.vocabulary_size
    assert done.extra == {
        "vocabulary_size": size,
        "padded_vocabulary_size": next(n for n in range(size, size + 128) if n % 128 == 0),
        "end_of_document": encoder.end_of_document,
        "tokens": {"train": counts["train_tokens"], "validation": counts["validation_tokens"]},
        "languages": dict(languages),
    }


def test_special_strings_in_text_stay_text(tmp_path, tokenizer):
    rows = [document(1, 0) | {"text": "".join(name for name, _ in ADDED_TOKENS)}]
    rows[0]["text_hash"] = text_hash(rows[0]["text"])
    tokenize(tmp_path, corpus(tmp_path, [rows], labels=False), tokenizer)
    (row,) = read_table(str(tmp_path / "out" / "tokens/00000.arrow")).to_pylist()
    encoder = Tokenizer.load(tokenizer)
    assert not set(row["tokens"]) & set(encoder.added_tokens.values())
    assert encoder.decode(row["tokens"]) == rows[0]["text"]


def test_without_labels_everything_is_training_text_of_no_language(tmp_path, tokenizer):
    done = tokenize(tmp_path, corpus(tmp_path, SHARDS, labels=False), tokenizer)
    rows = [row for entry in done.files for row in read_table(str(tmp_path / "out" / entry.path)).to_pylist()]
    assert [row["document_id"] for row in rows] == [row["document_id"] for shard in SHARDS for row in shard]
    labels = {(r["split"], r["cell"], r["language"], r["domain"], r["educational_score"]) for r in rows}
    assert labels == {("train", "other/other/0", "und", "other", 0.0)}
    assert done.counts["train"] == done.counts["documents"] == len(rows)


def test_a_shard_of_dropped_documents_gives_an_empty_file(tmp_path, tokenizer):
    rows = [document(9, i) for i in range(3)]
    inputs = corpus(tmp_path, [rows])
    labels = pa.Table.from_pylist([labels_of(row, 2)["split"] for row in rows], SPLIT)
    write_table(f"{tmp_path}/split", "split/00000.parquet", labels)
    done = tokenize(tmp_path, inputs, tokenizer)
    assert [(entry.rows, entry.tokens) for entry in done.files] == [(0, 0)]
    assert read_table(str(tmp_path / "out" / "tokens/00000.arrow")).schema.equals(TOKENS)
    assert done.counts == {
        "documents": 3,
        "dropped": 3,
        "train": 0,
        "validation": 0,
        "train_tokens": 0,
        "validation_tokens": 0,
    }


def test_labels_of_other_documents_are_an_error(tmp_path, tokenizer):
    inputs = corpus(tmp_path, SHARDS)
    rows = SHARDS[0][::-1]
    write_table(
        f"{tmp_path}/annotate",
        "domain/00000.parquet",
        pa.Table.from_pylist([labels_of(row, i)["domain"] for i, row in enumerate(rows)], DOMAIN),
    )
    with pytest.raises(DataError, match=r"domain/00000\.parquet: row 0 of the label sidecar is of another document"):
        tokenize(tmp_path, inputs, tokenizer)


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 60))
def test_bounded_slices_hold_all_rows_and_few_bytes(sizes, limit):
    batch = pa.record_batch({"text": pa.array(["x" * n for n in sizes], pa.large_string())})
    parts = [part["text"].to_pylist() for part in bounded(batch, limit)]
    assert [len(text) for part in parts for text in part] == sizes
    assert all(part and (len(part) == 1 or sum(map(len, part)) <= limit) for part in parts)
    assert all(sum(map(len, part)) + len(after[0]) > limit for part, after in pairwise(parts))


def test_large_shards_are_written_in_several_batches(tmp_path, tokenizer):
    rows = [document(0, 5) | {"text": "word " * 300_000, "locator": f"{i}"} for i in range(4)]
    rows = [
        row | {"document_id": document_id("here", "0", row["locator"]), "text_hash": text_hash(row["text"])}
        for row in rows
    ]
    tokenize(tmp_path, corpus(tmp_path, [rows], labels=False), tokenizer)
    with pa.memory_map(str(tmp_path / "out" / "tokens/00000.arrow")) as source:
        file = pa.ipc.open_file(source)
        batches = [file.get_batch(i) for i in range(file.num_record_batches)]
    assert sum(batch.num_rows for batch in batches) == 4
    assert all(np.sum(batch["text_bytes"].to_numpy()) <= 4 << 20 for batch in batches)
    assert len(batches) == 2


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(tmp_path, tokenizer):
    inputs = corpus(tmp_path, SHARDS)
    one = tokenize(tmp_path / "one", inputs, tokenizer)
    two = tokenize(
        tmp_path / "two", inputs, tokenizer, "--direct_running_mode=multi_processing", "--direct_num_workers=2"
    )
    assert one == two
    for entry in one.files:
        assert (
            Path(tmp_path / "one/out" / entry.path).read_bytes() == Path(tmp_path / "two/out" / entry.path).read_bytes()
        )
