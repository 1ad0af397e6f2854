"""Small datasets for the stages: documents and sidecars written as the stages before would write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.documents import DECISIONS, DOCUMENTS
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.labels import DOMAIN, LANGUAGE, QUALITY
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import check_recipe
from schemas.tables import write_table

Document = dict[str, Any]  # text and, where wanted, source, path, date, language, quality, keep


SIDECARS = (  # field of a document, stage, folder, schema, column that the field fills
    ("language", "annotate", "language", LANGUAGE, "language"),
    ("quality", "annotate", "quality", QUALITY, "quality_score"),
    ("domain", "annotate", "domain", DOMAIN, "domain"),
    ("keep", "filter", "decisions", DECISIONS, "keep"),
)


class Silence:
    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass


def document_key(document: Document) -> bytes:
    return document_id(document.get("source", "test"), document["path"], "")


def _documents(shard: Sequence[Document]) -> pa.Table:
    rows = [
        {
            "document_id": document_key(document),
            "id": document.get("id"),
            "text_hash": text_hash(document["text"]),
            "text": document["text"],
            "source": document.get("source", "test"),
            "path": document["path"],
            "locator": "",
            "url": document.get("url"),
            "date": document.get("date"),
            "metadata": [],
            "pages": [],
        }
        for document in shard
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)


def _sidecar(shard: Sequence[Document], schema: pa.Schema, field: str, column: str) -> pa.Table:
    """Rows of `schema` in which only the keys and `column` say anything."""
    blank = {name: _blank(schema.field(name).type) for name in schema.names}
    keys = [{"document_id": document_key(document), "text_hash": text_hash(document["text"])} for document in shard]
    rows = [blank | key | {column: document.get(field, blank[column])} for key, document in zip(keys, shard)]
    return pa.Table.from_pylist(rows, schema=schema)


def _blank(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return ""
    return [] if pa.types.is_list(kind) else 1


def _dataset(folder: Path, stage: str, tables: dict[str, pa.Table]) -> str:
    files = [write_table(str(folder), path, table) for path, table in sorted(tables.items())]
    write_manifest(str(folder), Manifest(stage=stage, version=1, key="", config={}, inputs={}, files=files))
    return str(folder)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """make_job(shards, recipe sections, beam options): a job over documents given as dictionaries, by shard.

    Sidecars of language, quality and filter are written if any document has the field `language`, `quality`, `keep`.
    """
    made = 0

    def make(shards: Sequence[Sequence[Document]], sections: dict[str, Any], *beam_options: str) -> Job:
        nonlocal made
        made += 1
        root = tmp_path / f"run{made}"
        datasets: dict[str, dict[str, pa.Table]] = {"extract": {}}
        fields = {field for shard in shards for document in shard for field in document}
        for index, shard in enumerate(shards):
            datasets["extract"][f"documents/{index:05d}.parquet"] = _documents(shard)
            for field, stage, folder, schema, column in SIDECARS:
                if field in fields:
                    table = _sidecar(shard, schema, field, column)
                    datasets.setdefault(stage, {})[f"{folder}/{index:05d}.parquet"] = table
        inputs = {stage: _dataset(root / stage, stage, tables) for stage, tables in datasets.items()}
        output = root / "output"
        output.mkdir()
        recipe = check_recipe({"name": "test", "sources": [{"name": "test", "path": "."}], **sections}, Path("/"))
        return Job(recipe, inputs, str(output), Silence(), beam_options)

    return make
