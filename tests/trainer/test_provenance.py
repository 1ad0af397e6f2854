"""Steps and documents: what is printed about a batch against the batch, and the way back against all ways there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from schemas.documents import DOCUMENTS
from schemas.errors import ConfigError, DataError
from schemas.hashing import document_id
from schemas.manifest import Manifest, write_manifest
from schemas.tables import write_table
from schemas.tokens import TOKENS
from tests.trainer.test_data import rewrite
from trainer.data import stage_feed
from trainer.provenance import _remote_ids, read_in_step, steps_of
from trainer.schedule import spans
from trainer.shard_cache import StageFile
from trainer.shards import TokenShards


def ramped(toy: Any) -> Any:
    """The toy with a batch ramp in its first stage and several epochs in both."""
    stages = [dict(stage) for stage in toy.recipe["pretrain"]["stages"]]
    stages[0] |= {"tokens": 60 * 32, "batch_ramp": {"start": 1, "share": 0.5}}
    stages[1] |= {"tokens": 44 * 64}
    return toy.job(stages=stages)


def test_a_step_names_what_its_batch_is_made_of(toy_factory: Callable[..., Any]) -> None:
    toy = toy_factory(packed=True)
    job = ramped(toy)
    shards = TokenShards(job)
    for span in spans(job.recipe.pretrain):
        feed = stage_feed(job, span.stage, shards)
        for step in (0, 3, span.steps - 1):
            batch = feed.batch(step)
            found: dict[int, list[int]] = {}
            for entry in read_in_step(job, span.begin + 1 + step):
                shard, row = int(entry["shard"][-11:-6]), entry["row"]
                assert entry["document_id"] == bytes([shard] * 8 + [row] * 8).hex()
                assert entry["cell"] == f"english/{'code' if row % 2 else 'prose'}/{shard % 2}"
                stored = [*toy.shards[shard][row], toy.end_of_document]
                found.setdefault(entry["sequence"], []).extend(stored[entry["begin"] :][: entry["length"]])
            for line, tokens in enumerate(batch.tokens_BT.tolist()):
                expected = found[line] + [toy.end_of_document] * (feed.sequences.length + 1 - len(found[line]))
                assert tokens == expected[:-1]
            assert len(found) == len(batch.tokens_BT)
    last = spans(job.recipe.pretrain)[-1].end
    for step in (0, last + 1):
        with pytest.raises(ConfigError, match=f"step {step}: the training has steps 1 to {last}"):
            read_in_step(job, step)


def test_a_document_is_found_in_every_step_that_reads_it(toy: Any) -> None:
    job = ramped(toy)
    plan = spans(job.recipe.pretrain)
    every = [
        (step, entry["sequence"], entry["begin"], entry["length"], entry["document_id"])
        for step in range(1, plan[-1].end + 1)
        for entry in read_in_step(job, step)
    ]
    for shard, row in ((0, 0), (1, 3), (2, 7)):
        name = bytes([shard] * 8 + [row] * 8).hex()
        (found,) = steps_of(job, name.upper())
        assert (found["shard"], found["row"], found["document_id"]) == (f"tokens/{shard:05}.arrow", row, name)
        assert found["tokens"] == len(toy.shards[shard][row])
        assert found["split"] == ("train" if row else "validation")
        reads = [
            (read["step"], read["sequence"], read["begin"], read["length"], name)
            for stage in found["stages"]
            for read in stage["reads"]
        ]
        assert reads == [one for one in every if one[4] == name]
        for stage, span in zip(found["stages"], plan, strict=True):
            assert stage["stage"] == span.stage.name
            assert all(span.begin < read["step"] <= span.end for read in stage["reads"])
            assert stage["epochs"] > 1.2
            assert 0 in {read["epoch"] for read in stage["reads"]}


def test_users_ids_and_origins(toy: Any) -> None:
    """Two documents of one id; the extract dataset knows more documents than were tokenized."""
    folder = toy.inputs["tokenize"]
    for shard in range(3):
        rows = [
            {
                "document_id": document_id("toy", f"{shard}.jsonl", f"line={row}"),
                "id": "twice" if (shard, row) in {(0, 1), (2, 2)} else None,
                "split": "train",
                "source": "toy",
                "licence": "CC0-1.0",
                "cell": "english/prose/0",
                "language": "eng_Latn",
                "domain": "prose",
                "educational_score": 1.0,
                "text_bytes": 9,
                "tokens": tokens,
            }
            for row, tokens in enumerate(toy.shards[shard])
        ]
        rewrite(folder, f"tokens/{shard:05}.arrow", pa.Table.from_pylist(rows, schema=TOKENS))
    entries = []
    for shard in range(3):
        documents = [
            {
                "document_id": document_id("toy", f"{shard}.jsonl", f"line={row}"),
                "id": None,
                "text_hash": bytes(16),
                "text": "a text",
                "source": "toy",
                "path": f"{shard}.jsonl",
                "locator": f"line={row}",
                "url": f"https://example.org/{row}" if row == 2 else None,
                "date": None,
                "licence": "CC0-1.0",
                "metadata": [],
                "pages": [],
            }
            for row in range(-3, len(toy.shards[shard]))
        ]
        table = pa.Table.from_pylist(documents, schema=DOCUMENTS)
        entries.append(write_table(str(toy.root / "extract"), f"documents/{shard:05}.parquet", table))
    toy.inputs["extract"] = str(toy.root / "extract")
    manifest = Manifest(stage="extract", version=1, key="k", config={}, inputs={}, files=entries)
    write_manifest(toy.inputs["extract"], manifest)

    job = toy.job()
    found = steps_of(job, "twice")
    assert [(one["shard"], one["row"]) for one in found] == [("tokens/00000.arrow", 1), ("tokens/00002.arrow", 2)]
    assert [(one["path"], one["locator"], one["url"]) for one in found] == [
        ("0.jsonl", "line=1", None),
        ("2.jsonl", "line=2", "https://example.org/2"),
    ]
    for entry in read_in_step(job, 2):
        assert (entry["path"], entry["locator"]) == (f"{int(entry['shard'][-11:-6])}.jsonl", f"line={entry['row']}")
    with pytest.raises(ConfigError, match="document thrice: no tokenized document has this id"):
        steps_of(job, "thrice")


def test_of_remote_shards_only_the_ids_are_searched(toy: Any, tmp_path: Path) -> None:
    toy.add_mix(cells={f"english/{domain}/{bin}": "*/*/*" for domain in ("code", "prose") for bin in range(2)})
    name = bytes([1] * 8 + [3] * 8).hex()
    expected = steps_of(toy.job(), name)
    fs = fsspec.filesystem("memory")
    cache = tmp_path / "cache"
    try:
        for stage in ("tokenize", "mix", "pack"):
            fs.put(toy.inputs[stage], f"/ids/{stage}", recursive=True)
            toy.inputs[stage] = f"memory://ids/{stage}"
        job = toy.job(cache_bytes=1 << 20, cache_folder=str(cache))
        with pytest.raises(ConfigError, match="no tokenized document has this id"):
            steps_of(job, "misspelt")
        assert not list(cache.rglob("*.arrow"))
        assert steps_of(job, name) == expected
        shards = {entry.path: entry.hash for entry in job.manifest("tokenize").select("tokens")}
        copied = {path.stem for path in cache.rglob("*.arrow")} & set(shards.values())
        assert copied >= {shards["tokens/00001.arrow"]}
        fs.pipe("/ids/tokenize/tokens/00002.arrow", b"no table")
        with pytest.raises(
            DataError, match=r"^memory://ids/tokenize/tokens/00002\.arrow: cannot be read: ArrowInvalid"
        ):
            steps_of(job, "misspelt")
    finally:
        fs.rm("/ids", recursive=True)


def test_little_of_a_remote_shard_is_read_for_its_ids(tmp_path: Path) -> None:
    """Counted by the requests for bytes that a store gets."""
    row = dict.fromkeys(TOKENS.names, "") | {
        "document_id": bytes(16), "id": "one", "tokens": list(range(5000)), "text_bytes": 9, "educational_score": 1.0
    }  # fmt: skip
    entry = write_table(str(tmp_path), "tokens.arrow", pa.Table.from_pylist([row] * 50, schema=TOKENS))

    class Store(MemoryFileSystem):  # type: ignore[misc]
        protocol, store, read = "counted", {"/tokens.arrow": None}, 0

        def _open(self, path: str, *_: Any, cache_type: str = "readahead", **options: Any) -> Any:
            return Requests(self, path, cache_type=cache_type, size=entry.bytes)

    class Requests(AbstractBufferedFile):  # type: ignore[misc]
        def _fetch_range(self, begin: int, end: int) -> bytes:
            data = (tmp_path / "tokens.arrow").read_bytes()[begin:end]
            Store.read += len(data)
            return data

    fsspec.register_implementation("counted", Store)
    table = _remote_ids(StageFile("tokenize", "counted://tokens.arrow", entry))
    assert table.column_names == ["document_id", "id"] and table["id"].to_pylist() == ["one"] * 50
    assert 0 < Store.read < entry.bytes / 50


def test_a_pack_of_another_length_is_refused(toy: Any) -> None:
    stages = [dict(stage) for stage in toy.recipe["pretrain"]["stages"]]
    stages[1]["sequence_length"] = 128
    job = toy.job(stages=stages)
    with pytest.raises(
        DataError, match=r"s2/pack\.arrow: packed for 64 tokens a sequence, stage s2 asks for 128; make"
    ):
        steps_of(job, bytes(16).hex())
