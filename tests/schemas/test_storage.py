"""Paths, tables, manifests and hashes."""

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from schemas import paths
from schemas.cells import merge_small
from schemas.errors import ConfigError, DataError
from schemas.hashing import document_id, text_hash, uniform
from schemas.manifest import FileEntry, Manifest, read_manifest, require_manifest, stage_key, write_manifest
from schemas.tables import read_batches, read_table, table_writer, write_table
from schemas.tokens import embedding_rows

TABLE = pa.table({"a": list(range(1000)), "text": ["x" * (i % 50) for i in range(1000)]})


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_a_file_appears_whole_or_not_at_all(folder):
    target = paths.join(folder, "deep/er/file.txt")
    with pytest.raises(RuntimeError), paths.write_atomic(target) as handle:
        handle.write(b"half")
        raise RuntimeError
    assert not paths.exists(target)
    fs, inner = paths.filesystem(folder)
    assert not fs.find(inner)
    paths.write_text(target, "whole")
    assert paths.read_text(target) == "whole"


def test_publish_replaces_a_dataset(folder):
    for version in ("one", "two"):
        new, final = paths.join(folder, "new"), paths.join(folder, "final")
        paths.write_text(paths.join(new, "part/data.txt"), version)
        paths.write_text(paths.join(new, f"{version}.txt"), version)
        paths.write_text(paths.join(new, "manifest.json"), "{}")
        paths.publish(new, final, last="manifest.json")
        assert paths.read_text(paths.join(final, "part/data.txt")) == version
        assert not paths.exists(new)
    assert not paths.exists(paths.join(folder, "final/one.txt"))


def test_an_unknown_scheme_is_a_configuration_error():
    with pytest.raises(ConfigError, match="nowhere"):
        paths.exists("nowhere://bucket/file")


@pytest.mark.parametrize("name", ["a/t.parquet", "a/t.arrow"])
def test_tables_come_back_and_are_hashed_as_written(folder, name):
    entry = write_table(folder, name, TABLE)
    assert read_table(paths.join(folder, name)).equals(TABLE)
    assert read_table(paths.join(folder, name), ["text"]).column_names == ["text"]
    assert entry.rows == 1000
    assert entry.hash == paths.file_hash(paths.join(folder, name))
    with paths.open_read(paths.join(folder, name)) as handle:
        data = handle.read()
    assert entry.bytes == len(data) and entry.hash == xxhash.xxh3_128_hexdigest(data)
    assert write_table(folder, name, TABLE) == entry


def test_batches_are_bounded_and_complete(tmp_path):
    pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=300)
    batches = list(read_batches(str(tmp_path / "t.parquet"), batch_bytes=1000))
    assert len(batches) > 4
    assert pa.Table.from_batches(batches).equals(TABLE)


def test_an_empty_table_is_a_file(tmp_path):
    with table_writer(str(tmp_path), "t.parquet", TABLE.schema) as writer:
        pass
    assert writer.entry().rows == 0
    assert read_table(str(tmp_path / "t.parquet")).schema == TABLE.schema
    assert list(read_batches(str(tmp_path / "t.parquet"))) == []


def test_a_damaged_table_is_a_data_error(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1nothing")
    for read in (read_table, lambda path: list(read_batches(path))):
        with pytest.raises(DataError, match=r"t\.parquet"):
            read(str(tmp_path / "t.parquet"))


def make_manifest(**changes):
    value = {
        "stage": "filter",
        "version": 1,
        "key": "k",
        "config": {"b": 1, "a": [1.5]},
        "inputs": {},
        "files": [FileEntry(path="d/0.parquet", rows=1, bytes=2, hash="h")],
    }
    return Manifest(**{**value, **changes})


def test_manifests_are_byte_stable_and_change_with_what_they_say(folder):
    write_manifest(folder, make_manifest())
    first = paths.read_text(paths.join(folder, "manifest.json"))
    again = read_manifest(folder)
    assert again == make_manifest() and again.hash == make_manifest().hash and again.to_json() == first
    assert make_manifest(counts={"kept": 1}).hash != again.hash
    assert require_manifest(folder, "filter") == again
    with pytest.raises(DataError, match="'dedup' is needed"):
        require_manifest(folder, "dedup")


def test_a_damaged_manifest_is_a_data_error_and_a_missing_one_is_none(tmp_path):
    assert read_manifest(str(tmp_path)) is None
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="remove the folder"):
        read_manifest(str(tmp_path))


def test_keys_depend_on_everything_and_not_on_order():
    key = stage_key("a", 1, {"x": 1, "y": 2}, {"in": "h"})
    assert key == stage_key("a", 1, {"y": 2, "x": 1}, {"in": "h"})
    others = [("b", 1, {"x": 1, "y": 2}, {"in": "h"}), ("a", 2, {"x": 1, "y": 2}, {"in": "h"})]
    others += [("a", 1, {"x": 1, "y": 3}, {"in": "h"}), ("a", 1, {"x": 1, "y": 2}, {"in": "i"})]
    assert len({key, *(stage_key(*other) for other in others)}) == 5


def test_document_ids_depend_on_the_place_alone():
    assert document_id("s", "a/b", "") == document_id("s", "a/b", "")
    places = [("s", "a/b", ""), ("s", "a", "b"), ("s", "a", "b/"), ("sa", "", "b"), ("s", "ab", "")]
    assert len({document_id(*place) for place in places}) == 5
    assert len(document_id("s", "ü", "")) == len(text_hash("")) == 16


def test_uniform_draws_are_uniform_independent_and_the_same_in_any_order():
    keys = [str(i).encode() for i in range(20_000)]
    first, second = uniform(keys, 1, "a"), uniform(keys, 1, "b")
    assert ((first >= 0) & (first < 1)).all()
    assert np.abs(np.histogram(first, 10, (0, 1))[0] / 20_000 - 0.1).max() < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert (uniform(keys[::-1], 1, "a")[::-1] == first).all()


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.sampled_from("0123")).map("/".join),
        st.integers(0, 100),
        max_size=16,
    ),
    st.integers(0, 150),
)
def test_merged_cells_are_large_or_the_widest(tokens, minimum):
    merged = merge_small(tokens, minimum)
    assert set(merged) == set(tokens)
    sizes = {}
    for name, target in merged.items():
        assert all(part in ("*", own) for part, own in zip(target.split("/"), name.split("/")))
        sizes[target] = sizes.get(target, 0) + tokens[name]
    assert all(size >= minimum for target, size in sizes.items() if target != "*/*/*")


def test_qwens_vocabulary_gets_the_published_number_of_rows():
    assert embedding_rows(151_669) == 151_936
    assert [embedding_rows(size) for size in (512, 513, 4096)] == [512, 640, 4096]
