"""A small run folder, written with the contracts of `schemas` alone, for tests of what reads runs.

The texts and names hold what must not reach a page or a terminal: markup, scripts, control characters.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from schemas.documents import DECISIONS, DECONTAMINATION_DECISIONS, DEDUP_DECISIONS, DOCUMENTS, REJECTS, SPLIT
from schemas.hashing import document_id, text_hash
from schemas.labels import ANNOTATORS
from schemas.manifest import FileEntry, Manifest, write_manifest
from schemas.recipe import Recipe, check_recipe
from schemas.tables import write_table
from schemas.tokens import TOKENS
from sluice.road import STAGES

EVIL = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202eback [bold]rich[/bold] $x$ & ]]> line\nline "
RECIPE: dict[str, Any] = {
    "name": "made",
    "sources": [{"name": "web", "path": "docs"}, {"name": "python", "kind": "python-environment"}],
    "pretrain": {
        "model": {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32},
        "stages": [
            {
                "name": "s1",
                "tokens": 4096,
                "sequence_length": 64,
                "batch_size": 4,
                "learning_rate": {"peak": 1e-3, "end": 1e-4},
            },
            {"name": "s2", "tokens": 2048, "sequence_length": 64, "batch_size": 4, "learning_rate": {"end": 0}},
        ],
    },
}
LANGUAGES = ("eng_Latn", "deu_Latn", "zho_Hans", "other")
DOMAINS = ("code", "mathematics", "how-to")
CELLS = [f"{group}/{domain}/1" for group in ("english", "european") for domain in DOMAINS]


def recipe(**changes: Any) -> Recipe:
    return check_recipe({**RECIPE, **changes}, Path("/nowhere"))


def make_run(folder: Path, until: str = "export", documents: int = 60, shards: int = 2) -> Path:
    """Finished datasets of every stage up to `until`, with decisions that follow a fixed pattern by row:
    of 10 documents 2 are filtered, 1 is a near-duplicate, 1 is contaminated, 1 is validation and 5 are training.
    """
    makers = {
        "extract": _extract,
        "annotate": _annotate,
        "filter": _filter,
        "dedup": _dedup,
        "decontaminate": _decontaminate,
        "split": _split,
        "tokenizer": _tokenizer,
        "tokenize": _tokenize,
        "mix": _mix,
        "pack": _pack,
        "pretrain": _pretrain,
        "evaluate": _evaluate,
        "export": _export,
    }
    made = recipe()
    manifests: dict[str, Manifest] = {}
    executions = []
    for number, (name, make) in enumerate(makers.items()):
        stage = STAGES[name]
        files, counts, reasons, extra = make(folder / name, documents, shards)
        manifest = Manifest(
            stage=name,
            version=stage.version,
            key=f"{number:032x}",
            config=json.loads(json.dumps(stage.config(made))),
            inputs={need: manifests[need].hash for need in stage.reads if need in manifests},
            files=sorted(files, key=lambda entry: entry.path),
            counts=counts,
            reasons=reasons,
            extra=extra,
        )
        write_manifest(str(folder / name), manifest)
        manifests[name] = manifest
        executions.append(
            {
                "stage": name,
                "key": manifest.key,
                "started": f"2026-01-02T03:{number:02}:00+00:00",
                "seconds": 10.0 + number,
                "cpu_seconds": 9.0,
                "peak_memory_bytes": 1 << 28,
                "host": "machine",
            }
        )
        if name == until:
            break
    (folder / "run.json").write_text(json.dumps({"executions": executions}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    versions = {"python": "3.12.1", "platform": "Linux", "stages": {}}
    packages = {"pyarrow": {"version": "20.0.0", "licence": "Apache-2.0"}}
    (folder / "versions.json").write_text(json.dumps(versions | {"packages": packages}))
    return folder


def _texts(documents: int, shard: int) -> list[str]:
    return [f"{EVIL} document {shard}-{row} " + "word " * (20 + 7 * row) for row in range(documents)]


def _keys(documents: int, shard: int) -> dict[str, list[Any]]:
    return {
        "document_id": [document_id("web", f"{shard}.jsonl", f"line={row}") for row in range(documents)],
        "id": [None] * documents,
        "text_hash": [text_hash(text) for text in _texts(documents, shard)],
    }


def _table(schema: pa.Schema, columns: dict[str, list[Any]]) -> pa.Table:
    return pa.table([pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema)


Made = tuple[list[FileEntry], dict[str, int], dict[str, int], dict[str, Any]]


def _extract(folder: Path, documents: int, shards: int) -> Made:
    files = []
    for shard in range(shards):
        source = "python" if shard == shards - 1 else "web"
        about = [("package", "numpy"), ("version", "2.1.0")] if source == "python" else [("kind", "page")]
        columns = _keys(documents, shard) | {
            "text": _texts(documents, shard),
            "source": [source] * documents,
            "path": [f"<b>{shard}</b>.jsonl"] * documents,
            "locator": [f"line={row}" for row in range(documents)],
            "url": [None] * documents,
            "date": [None] * documents,
            "licence": ["MIT" if row % 3 else None for row in range(documents)],
            "metadata": [about] * documents,
            "pages": [[]] * documents,
        }
        files.append(write_table(str(folder), f"documents/{shard:05d}.parquet", _table(DOCUMENTS, columns)))
        rejects = {
            "document_id": [document_id("web", "broken.pdf", str(shard))],
            "id": [None],
            "source": [source],
            "path": ["broken.pdf"],
            "locator": [""],
            "stage": ["extract"],
            "error": ["encrypted"],
            "message": [f"needs a password {EVIL}"],
        }
        files.append(write_table(str(folder), f"rejects/{shard:05d}.parquet", _table(REJECTS, rejects)))
    counts = {"documents": documents * shards, "files": shards, "rejects": shards}
    return files, counts, {"encrypted": shards}, {}


def _annotate(folder: Path, documents: int, shards: int) -> Made:
    files = []
    numbers = np.linspace(0, 1, documents)
    for shard in range(shards):
        for name, schema in ANNOTATORS.items():
            columns = _keys(documents, shard) | {"annotator": [f"{name}/1"] * documents}
            for field in schema:
                if field.name in columns:
                    continue
                if field.name == "language":
                    columns[field.name] = [LANGUAGES[row % 4] for row in range(documents)]
                elif field.name == "domain":
                    columns[field.name] = [DOMAINS[row % 3] for row in range(documents)]
                elif pa.types.is_string(field.type):
                    columns[field.name] = ["x"] * documents
                elif pa.types.is_list(field.type):
                    columns[field.name] = [[]] * documents
                elif pa.types.is_floating(field.type):
                    columns[field.name] = numbers.tolist()
                else:
                    columns[field.name] = [row % 4 for row in range(documents)]
            files.append(write_table(str(folder), f"{name}/{shard:05d}.parquet", _table(schema, columns)))
    languages = {name: shards * len(range(number, documents, 4)) for number, name in enumerate(LANGUAGES)}
    return files, {"documents": documents * shards}, {}, {"annotators": {}, "languages": languages}


def _decide(
    folder: Path, documents: int, shards: int, schema: pa.Schema, rest: dict[str, Any], drops: dict[int, str]
) -> Made:
    """`drops` maps the last digit of a row to the reason that drops it; `rest` are the values of other columns."""
    files = []
    for shard in range(shards):
        columns = _keys(documents, shard)
        columns |= {
            "keep": [row % 10 not in drops for row in range(documents)],
            "reasons": [[drops[row % 10]] if row % 10 in drops else [] for row in range(documents)],
            **{name: [value] * documents for name, value in rest.items()},
        }
        for name in ("cluster_id", "survivor_id"):
            if name in schema.names:
                columns[name] = columns["document_id"]
        files.append(write_table(str(folder), f"decisions/{shard:05d}.parquet", _table(schema, columns)))
    total = documents * shards
    reasons = dict.fromkeys(drops.values(), 0)
    for digit, reason in drops.items():
        reasons[reason] += shards * len(range(digit, documents, 10))
    dropped = sum(reasons.values())
    return files, {"documents": total, "kept": total - dropped, "dropped": dropped}, reasons, {}


def _filter(folder: Path, documents: int, shards: int) -> Made:
    return _decide(folder, documents, shards, DECISIONS, {}, {0: "words.min", 1: "language_score.min"})


def _dedup(folder: Path, documents: int, shards: int) -> Made:
    return _decide(
        folder, documents, shards, DEDUP_DECISIONS, {"cluster_size": 2, "survivor_run": None}, {2: "near_duplicate"}
    )


def _decontaminate(folder: Path, documents: int, shards: int) -> Made:
    rest = {"benchmark": "gsm8k", "overlap": 0.7}
    return _decide(folder, documents, shards, DECONTAMINATION_DECISIONS, rest, {3: "benchmark.gsm8k"})


_DROPPED_BY = {0: "filter", 1: "filter", 2: "dedup", 3: "decontaminate"}


def _split(folder: Path, documents: int, shards: int) -> Made:
    files = []
    names = ["dropped"] * 4 + ["validation"] + ["train"] * 5
    for shard in range(shards):
        columns = _keys(documents, shard) | {
            "split": [names[row % 10] for row in range(documents)],
            "dropped_by": [_DROPPED_BY.get(row % 10) for row in range(documents)],
        }
        files.append(write_table(str(folder), f"split/{shard:05d}.parquet", _table(SPLIT, columns)))
    tenth = documents * shards // 10
    counts = {"dropped": 4 * tenth, "train": 5 * tenth, "validation": tenth}
    return files, counts, {"filter": 2 * tenth, "dedup": tenth, "decontaminate": tenth}, {}


def _write(folder: Path, name: str, text: str) -> FileEntry:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return FileEntry(path=name, rows=1, bytes=len(text), hash="0" * 32)


def _tokenizer(folder: Path, documents: int, shards: int) -> Made:
    return [_write(folder, "tokenizer.json", "{}")], {}, {}, {"vocabulary_size": 4096, "text_bytes": 123_456}


def _tokenize(folder: Path, documents: int, shards: int) -> Made:
    files = []
    sums = {"train": 0, "validation": 0}
    for shard in range(shards):
        rows = [row for row in range(documents) if row % 10 >= 4]
        splits = ["validation" if row % 10 == 4 else "train" for row in rows]
        lengths = [5 + 11 * row for row in rows]
        keys = _keys(documents, shard)
        columns = {
            "document_id": [keys["document_id"][row] for row in rows],
            "id": [None] * len(rows),
            "split": splits,
            "source": ["web"] * len(rows),
            "licence": ["MIT" if row % 3 else None for row in rows],
            "cell": [CELLS[row % len(CELLS)] for row in rows],
            "language": [LANGUAGES[row % 4] for row in rows],
            "domain": [DOMAINS[row % 3] for row in rows],
            "educational_score": [1.5] * len(rows),
            "text_bytes": [4 * length for length in lengths],
            "tokens": [list(range(length)) for length in lengths],
        }
        entry = write_table(str(folder), f"tokens/{shard:05d}.arrow", _table(TOKENS, columns))
        files.append(entry.model_copy(update={"tokens": sum(lengths) + len(lengths)}))
        for split, length in zip(splits, lengths):
            sums[split] += length + 1
    return files, {f"{split}_tokens": total for split, total in sums.items()}, {}, {}


def _mix(folder: Path, documents: int, shards: int) -> Made:
    plan = {
        "documents": 30,
        "tokens": 4100,
        "budget": 4096,
        "missing": 0,
        "cells": {cell: {"before": 1 / 6, "after": (1 + number) / 21} for number, cell in enumerate(CELLS)},
        "lengths": {"64": {"before": 0.4, "after": 0.5}, "2048": {"before": 0.6, "after": 0.5}},
        "clusters": {
            "1": {"before": 0.9, "after": 0.8, "tokens": 3280},
            "5": {"before": 0.1, "after": 0.2, "tokens": 820},
        },
    }
    return [], {"documents": 36, "train": 30, "validation": 6}, {}, {"stages": {"s1": plan, "s2": plan}}


def _pack(folder: Path, documents: int, shards: int) -> Made:
    pack = {"sequence_length": 64, "sequences": 63, "positions": 4095, "padding": 0.0125, "cut_documents": 7}
    return [], {"s1": 63, "s2": 63, "validation": 9}, {}, {"stages": {"s1": pack, "s2": pack}}


def metrics(steps: int = 24) -> str:
    lines: list[dict[str, Any]] = [{"step": 0, "stage": "s1", "tokens": 0, "validation_bits_per_byte": 4.0}]
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "stage": "s1" if step <= 16 else "s2",
            "tokens": 256 * step,
            "loss": 8.0 / step**0.3,
            "learning_rate": 1e-3 / step,
            "grad_norm": 1.0 + 1 / step,
            "tokens_per_second": 1000.0,
            "cells": {cell: [100.0 / step, 40, 130] for cell in CELLS},
            "bits_per_byte": 3.0 / step**0.3,
            "balance": 1 + 1 / step,
            "router_entropy": 0.9,
            "expert_load_max": 1.5,
        }
        if step == 5:
            line["fault"] = "the norm of the gradient is <nan>"
        if step % 8 == 0:
            line["expert_load"] = [[0.0, 1.0, 2.0 - step / 24, 1.0 + step / 24]] * 3
            line["validation_bits_per_byte"] = 4.0 - step / 12
        lines.append(line)
    return "".join(json.dumps(line) + "\n" for line in lines)


def _pretrain(folder: Path, documents: int, shards: int) -> Made:
    _write(folder, "metrics.jsonl", metrics())
    stages = {
        "s1": {"steps": 16, "tokens": 4096, "first_loss": 7.5, "last_loss": 3.6, "validation_bits_per_byte": 2.7},
        "s2": {"steps": 8, "tokens": 2048, "first_loss": 3.5, "last_loss": 3.1, "validation_bits_per_byte": 2.0},
    }
    extra = {"key": "k", "parameters": 123_456, "steps": 24, "stages": stages}
    return [_write(folder, "checkpoints/step-0000024/state.json", "{}")], {"tokens": 6144}, {}, extra


def _evaluate(folder: Path, documents: int, shards: int) -> Made:
    rows = [
        ("total", "all", 2.0),
        ("language", "eng_Latn", 1.9),
        ("language", "deu_Latn", 2.4),
        ("domain", "code", 1.5),
    ]
    table = pa.table(
        {
            "kind": [kind for kind, _, _ in rows],
            "name": [name for _, name, _ in rows],
            "bytes": [1000, 700, 300, 400],
            "tokens": [300, 200, 100, 90],
            "nll": [900.0, 600.0, 300.0, 200.0],
            "bits_per_byte": [score for _, _, score in rows],
            "unigram_nll": [1900.0, 1600.0, 1300.0, 1200.0],
            "unigram_bits_per_byte": [3.0, 3.0, 3.5, 2.5],
        }
    )
    extra = {"step": 24, "bits_per_byte": 2.0, "unigram_bits_per_byte": 3.0}
    return [write_table(str(folder), "bits_per_byte.parquet", table)], {"tokens": 300, "bytes": 1000}, {}, extra


def _export(folder: Path, documents: int, shards: int) -> Made:
    samples = [
        {"prompt": "The function", "greedy": f" returns {EVIL}", "sampled": f" \ud800 odd  {EVIL}", "temperature": 0.8}
    ]
    files = [_write(folder, "model/config.json", "{}"), _write(folder, "samples.json", json.dumps(samples))]
    return files, {}, {}, {"step": 24}
