"""Extraction on Beam: bad files become rejects, ids stay unique, and nothing depends on the grouping."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.extract.listing import list_source
from pipelines.extract.progress import BytesDone, range_name
from pipelines.extract.reader import extract_file
from pipelines.extract.stage import DropRepeatedIds, plan_tasks, run
from pipelines.runner import ShardResult
from schemas.documents import DOCUMENTS, REJECTS
from schemas.errors import ConfigError
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.recipe import Source, check_recipe
from schemas.tables import read_table
from tests.pipelines.conftest import Silence

PROSE = "A lighthouse keeper counts ships, and writes their names into a book every evening before the lamp is lit."


def make_recipe(sections):
    return check_recipe({"name": "test", **sections}, Path("/"))


def extract(folder, output, beam_options=(), **source):
    recipe = make_recipe({"sources": [{"name": "in", "path": str(folder), **source}], "extract": {"shard_bytes": 400}})
    return recipe, run(Job(recipe, {}, str(output), Silence(), tuple(beam_options)))


def rows(output, kind):
    return [row for path in sorted((output / kind).glob("*.parquet")) for row in read_table(str(path)).to_pylist()]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_bad_files_become_rejects_and_nothing_else_is_lost(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.txt").write_text(PROSE)
    (docs / "empty.pdf").write_bytes(b"")
    (docs / "truncated.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<<")
    (docs / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (docs / "page.pdf").write_text(f"<!doctype html><html><body><p>{PROSE}</p></body></html>")
    (docs / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": PROSE}).encode() + b"\n" * 9999)[:-9])
    (docs / "empty.parquet").write_bytes(b"")
    write_jsonl(docs / "lines.jsonl", [{"text": PROSE}, {"id": 7, "body": "no text"}, {"text": PROSE + " Again."}])
    (docs / "link").symlink_to(tmp_path / "nothing")
    _, output = extract(docs, tmp_path / "out")
    documents, rejects = rows(tmp_path / "out", "documents"), rows(tmp_path / "out", "rejects")
    assert {(row["path"], row["locator"]) for row in documents} >= {
        ("good.txt", ""),
        ("page.pdf", ""),
        ("lines.jsonl", "line=1"),
        ("lines.jsonl", "line=3"),
    }
    errors = {(row["path"], row["error"]) for row in rejects}
    assert errors >= {
        ("empty.pdf", "empty_file"),
        ("truncated.pdf", "broken_pdf"),
        ("latin.txt", "invalid_utf8"),
        ("cut.jsonl.gz", "broken_compression"),
        ("empty.parquet", "empty_file"),
        ("lines.jsonl", "no_text_column"),
    }
    assert [row["id"] for row in rejects if row["path"] == "lines.jsonl"] == ["7"]
    for row in documents:
        assert row["document_id"] == document_id("in", row["path"], row["locator"])
        assert row["text_hash"] == text_hash(row["text"])
    assert output.counts["documents"] == len(documents) and output.counts["rejects"] == len(rejects)
    assert sum(output.reasons.values()) == len(rejects)


@pytest.mark.parametrize("workers", [1, 2])
def test_of_repeated_ids_the_first_stays_and_the_others_are_rejects(tmp_path, workers):
    docs = tmp_path / "docs"
    docs.mkdir()
    write_jsonl(docs / "a.jsonl", [{"id": i, "text": f"{PROSE} {i}"} for i in (1, 2, 2, 3)])
    write_jsonl(docs / "b.jsonl", [{"id": i, "text": f"{PROSE} b{i}"} for i in (3, 4)])
    write_jsonl(docs / "c.jsonl", [{"text": PROSE}, {"text": PROSE}])  # no id: never repeated
    options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"] if workers == 2 else []
    _, output = extract(docs, tmp_path / "out", options)
    kept = [(row["path"], row["locator"], row["id"]) for row in rows(tmp_path / "out", "documents")]
    assert kept == [
        ("a.jsonl", "line=1", "1"),
        ("a.jsonl", "line=2", "2"),
        ("a.jsonl", "line=4", "3"),
        ("b.jsonl", "line=2", "4"),
        ("c.jsonl", "line=1", None),
        ("c.jsonl", "line=2", None),
    ]
    refused = [(row["path"], row["locator"], row["id"], row["error"]) for row in rows(tmp_path / "out", "rejects")]
    assert refused == [("a.jsonl", "line=3", "2", "duplicate_id"), ("b.jsonl", "line=1", "3", "duplicate_id")]
    assert output.counts == {"files": 3, "documents": 6, "pages": 0, "rejects": 2}
    assert output.reasons == {"duplicate_id": 2}
    for entry in output.files:
        assert read_table(str(tmp_path / "out" / entry.path)).num_rows == entry.rows


def write_shard(folder):
    """A shard as extraction leaves it, and what must happen to it: the documents of its line 2 and 4 are repeated."""
    docs = folder / "docs"
    docs.mkdir()
    write_jsonl(docs / "a.jsonl", [{"id": n, "text": f"{PROSE} {n}"} for n in range(6)] + [{"id": 7, "text": 5}])
    _, output = extract(docs, folder / "out")
    drop = b"".join(document_id("in", "a.jsonl", f"line={line}") for line in (2, 4))
    return {"written": [ShardResult(output.files, output.counts, output.reasons)], "repeated": [drop]}


def drop_repeated(folder, groups):
    (result,) = DropRepeatedIds(str(folder / "out")).process((0, groups))
    return result, {entry.path: (folder / "out" / entry.path).read_bytes() for entry in result.files}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("failures", [{1}, {2}, {1, 2}, {1, 3}, {2, 3}, {1, 2, 3}])
def test_dropping_repeated_ids_may_die_at_any_write_and_run_again(tmp_path, monkeypatch, when, failures):
    (tmp_path / "calm").mkdir()
    (tmp_path / "stormy").mkdir()
    expected = drop_repeated(tmp_path / "calm", write_shard(tmp_path / "calm"))
    assert expected[0].counts == {"files": 1, "documents": 4, "pages": 0, "rejects": 3}
    assert expected[0].reasons == {"duplicate_id": 2, "text_not_string": 1}
    groups = write_shard(tmp_path / "stormy")
    rename, writes = os.replace, 0

    def fail(old, new):
        """The file appears or does not, and then the worker is gone."""
        nonlocal writes
        writes += 1
        if writes not in failures or when == "after":
            rename(old, new)
        if writes in failures:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    deaths = 0
    while True:
        try:
            drop_repeated(tmp_path / "stormy", groups)
            break
        except KeyboardInterrupt:
            deaths += 1
            ids = [row["id"] for kind in ("documents", "rejects") for row in rows(tmp_path / "stormy" / "out", kind)]
            assert set(ids) == {"0", "1", "2", "3", "4", "5", "7"}  # whenever it dies, nothing is lost
    assert 1 <= deaths <= len(failures)
    assert drop_repeated(tmp_path / "stormy", groups) == expected
    assert [row["id"] for row in rows(tmp_path / "stormy" / "out", "rejects")] == ["7", "1", "3"]
    assert not list(tmp_path.rglob("*.writing"))


def test_different_ids_stay_different(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    ids = ["a  b", "a b", "x" * 1500 + "1", "x" * 1500 + "2", "", "", "\ud800", "\ud801"]
    write_jsonl(docs / "a.jsonl", [{"id": one, "text": PROSE} for one in ids])
    _, output = extract(docs, tmp_path / "out")
    assert output.counts == {"files": 1, "documents": 8, "pages": 0, "rejects": 0}


def test_columns_have_names_of_their_own(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    pq.write_table(
        pa.table(
            {"body": [PROSE], "key": [7], "at": ["https://a.example/x"], "when": ["2024-05-01"], "terms": ["CC0"]}
        ),
        docs / "t.parquet",
    )
    columns = {"text": "body", "id": "key", "url": "at", "date": "when", "licence": "terms"}
    extract(docs, tmp_path / "out", columns=columns, licence="MIT")
    (row,) = rows(tmp_path / "out", "documents")
    assert (row["id"], row["url"], row["date"], row["licence"]) == ("7", "https://a.example/x", "2024-05-01", "CC0")
    assert read_table(str(tmp_path / "out/documents/00000.parquet")).schema.equals(DOCUMENTS)
    assert read_table(str(tmp_path / "out/rejects/00000.parquet")).schema.equals(REJECTS)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=30), st.integers(1, 1000))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tasks_hold_every_file_once_in_order_and_are_bounded(tmp_path_factory, sizes, bound):
    folder = tmp_path_factory.mktemp("docs")
    for number, size in enumerate(sizes):
        (folder / f"{number:03}.txt").write_text("x" * size)
    recipe = make_recipe({"sources": [{"name": "in", "path": str(folder)}], "extract": {"shard_bytes": bound}})
    tasks = plan_tasks(recipe, "out")
    assert [file.path for task in tasks for file in task.files] == [f"{n:03}.txt" for n in range(len(sizes))]
    for task in tasks:
        assert len(task.files) == 1 or sum(file.size for file in task.files) <= bound


def test_places_that_hold_nothing_are_configuration_errors(tmp_path):
    (tmp_path / ".hidden").write_text("x")
    for path in (tmp_path, tmp_path / "none", f"{tmp_path}/*.txt", f"{tmp_path}/no/*/way"):
        with pytest.raises(ConfigError):
            list_source(Source(name="in", path=str(path)), seed=0)


def test_globs_and_single_files_name_documents_from_their_root(tmp_path):
    for name in ("a/x.txt", "a/y.md", "b/x.txt", "b/c/x.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")

    def listed(path):
        return [file.path for file in list_source(Source(name="in", path=str(path)), seed=0)]

    assert listed(tmp_path) == ["a/x.txt", "a/y.md", "b/c/x.txt", "b/x.txt"]
    assert listed(f"{tmp_path}/**/*.txt") == ["a/x.txt", "b/c/x.txt", "b/x.txt"]
    assert listed(f"{tmp_path}/[!b]/*") == ["a/x.txt", "a/y.md"]
    assert listed(tmp_path / "b/c/x.txt") == ["x.txt"]


def test_a_source_may_lie_behind_a_url(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/docs/a.txt", PROSE.encode())
    fs.pipe("/bucket/docs/deep/b.jsonl", json.dumps({"text": PROSE + " b"}).encode())
    extract("memory://bucket/docs", tmp_path / "out")
    assert [row["path"] for row in rows(Path(tmp_path / "out"), "documents")] == ["a.txt", "deep/b.jsonl"]


@pytest.mark.parametrize("left", [("documents", "rejects", "pages"), ("rejects", "pages"), ("pages",)])
def test_shards_that_a_stopped_execution_wrote_are_taken_over(tmp_path, monkeypatch, left):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in "abc":
        records = [{"id": f"{name}{n}", "text": f"{PROSE} {name} {n}"} for n in range(4)]
        write_jsonl(docs / f"{name}.jsonl", [*records, {"id": "a1", "text": PROSE}, {"id": 7}])
    _, whole = extract(docs, tmp_path / "whole")
    extract(docs, tmp_path / "cut")
    for kind in ("documents", "rejects", "pages"):
        (tmp_path / "cut" / kind / "00002.parquet").unlink()
        if kind not in left:
            (tmp_path / "cut" / kind / "00001.parquet").unlink()
    read = []
    monkeypatch.setattr(
        "pipelines.extract.inputs.extract_file",
        lambda file, path, *more: read.append(path) or extract_file(file, path, *more),
    )
    _, again = extract(docs, tmp_path / "cut")
    assert again == whole
    assert read == (["c.jsonl"] if "documents" in left else ["b.jsonl", "c.jsonl"])
    for entry in whole.files:
        assert (tmp_path / "cut" / entry.path).read_bytes() == (tmp_path / "whole" / entry.path).read_bytes()


def test_progress_counts_the_files_and_ranges_of_shards_that_are_not_written_yet(tmp_path):
    done = BytesDone(str(tmp_path), "documents", ".ranges", {"00000": [5, 7], "00001": [100, 300, 1000], "00002": [2]})
    assert (done(), done.total) == (0, 1414)
    for file in ("documents/00002.parquet", "documents/00000.parquet.0f.writing", ".progress/00001"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("1")
    assert done() == 2 + 100
    (tmp_path / ".ranges").mkdir()
    for shard, position in (("00001", 1), ("00001", 0), ("00002", 0)):  # the last two belong to what is done already
        for first, last in ((1, 64), (65, 120)):
            (tmp_path / ".ranges" / range_name(shard, position, first, last, 150)).touch()
    assert done() == 2 + 100 + 300 * 120 / 150
    (tmp_path / "documents/00001.parquet").touch()
    assert done() == 2 + 1400


def test_progress_moves_within_a_shard(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in "abc":
        (docs / f"{name}.txt").write_text(PROSE)
    recipe = make_recipe({"sources": [{"name": "in", "path": str(docs)}]})
    (task,) = plan_tasks(recipe, str(tmp_path / "out"))
    done = BytesDone(task.output, "documents", ".ranges", {task.name: [file.size for file in task.files]})
    seen = []
    monkeypatch.setattr("pipelines.extract.progress._SECONDS", 0)
    monkeypatch.setattr(
        "pipelines.extract.inputs.extract_file", lambda *given: seen.append(done()) or extract_file(*given)
    )
    run(Job(recipe, {}, task.output, Silence()))
    assert seen == [0, len(PROSE), 2 * len(PROSE)]
    assert done() == done.total == 3 * len(PROSE)
    assert not list((tmp_path / "out").glob(".*"))
