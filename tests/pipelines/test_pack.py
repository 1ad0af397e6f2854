"""Packing against streams built from Python lists, and best-fit against the textbook loop."""

import bisect
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.pack import kernels
from pipelines.pack.kernels import best_fit, concatenate, cut, pack_whole, parts
from pipelines.pack.stage import run
from schemas.errors import DataError
from schemas.job import Job, Output
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import read_table, write_table
from schemas.tokens import PACK, PLAN

LENGTHS = st.lists(st.integers(1, 40), max_size=40)


class Silent:
    def update(self, done, total, unit, note=""):
        assert 0 <= done <= total


def stage(name="s1", **changes):
    base = {"tokens": 1000, "sequence_length": 16, "batch_size": 2, "learning_rate": {"peak": 0.1, "end": 0.0}}
    return {"name": name, **base, **changes}


def recipe(*stages, seed=3):
    model = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 4}
    return Recipe.model_validate(
        {
            "name": "test",
            "seed": seed,
            "sources": [{"name": "here", "path": "."}],
            "pretrain": {"model": model, "stages": list(stages)},
        }
    )


def dataset(folder, name, files):
    files = sorted(files, key=lambda entry: entry.path)
    write_manifest(str(folder), Manifest(stage=name, version=1, key="k", config={}, inputs={}, files=files))
    return str(folder)


def plan(documents):
    """`documents`: (shard, row, positions, copies)."""
    rows = [
        {
            "document_id": f"{shard:08d}{row:08d}".encode(),
            "id": None,
            "shard": shard,
            "row": row,
            "cell": "*/*/*",
            "tokens": positions,
            "expected_copies": float(copies),
            "copies": copies,
        }
        for shard, row, positions, copies in documents
    ]
    return pa.Table.from_pylist(rows, PLAN)


def pack(folder, plans, *stages, seed=3) -> tuple[Output, dict[str, list]]:
    mix = folder / "mix"
    files = [write_table(str(mix), f"plans/{name}.parquet", plan(rows)) for name, rows in plans.items()]
    inputs = {"mix": dataset(mix, "mix", files)}
    done = run(Job(recipe(*stages, seed=seed), inputs, str(folder / "pack"), Silent()))
    sequences = {}
    for entry in done.files:
        table = read_table(str(folder / "pack" / entry.path))
        assert table.schema.equals(PACK)
        assert table.num_rows == entry.rows
        sequences[entry.path.split("/")[0]] = [
            [(s["shard"], s["row"], s["begin"], s["length"]) for s in row] for row in table["segments"].to_pylist()
        ]
    return done, sequences


def positions_of(packing, k):
    """The (document, position) pairs of sequence k, one by one."""
    pieces = range(packing.offsets[k], packing.offsets[k + 1])
    return [
        (int(packing.document[i]), int(packing.begin[i]) + j) for i in pieces for j in range(int(packing.length[i]))
    ]


@given(LENGTHS, st.integers(1, 50), st.integers(1, 9))
def test_concatenate_is_the_stream_cut_every_t(lengths, length, limit):
    stream = concatenate(np.array(lengths, np.int64), length)
    expected = [(document, position) for document, n in enumerate(lengths) for position in range(n)]
    count = max(0, (len(expected) - 1) // length)
    assert stream.sequences == count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.split_evenly, "__defaults__", (limit,))
        got = [positions_of(packing, k) for packing in stream.packings() for k in range(len(packing.offsets) - 1)]
    assert got == [expected[k * length : k * length + length + 1] for k in range(count)]
    whole = {d for sequence in got for d, n in Counter(d for d, _ in sequence).items() if n == lengths[d]}
    assert stream.cut_documents == len({d for sequence in got for d, _ in sequence} - whole)


@given(LENGTHS, st.integers(1, 12), st.integers(1, 8))
def test_cut_keeps_every_label_once(lengths, length, minimum):
    def labels(pieces):
        return [(d, p) for d, begin, n in zip(*pieces) for p in range(begin + 1, begin + n)]

    pieces = [column.tolist() for column in cut(np.array(lengths, np.int64), length)]
    assert labels(pieces) == [(d, p) for d, n in enumerate(lengths) for p in range(1, n)]
    assert all(2 <= n <= length + 1 for n in pieces[2])
    fewer = [column.tolist() for column in cut(np.array(lengths, np.int64), length, minimum)]
    assert list(zip(*fewer)) == [piece for piece in zip(*pieces) if piece[2] >= minimum]


def textbook_best_fit(sizes, capacity):
    """Free space of every bin, ascending: one piece after the other into the fullest bin that has room."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        at = bisect.bisect_left(free, size)
        bisect.insort(free, (free.pop(at) if at < len(free) else capacity) - size)
    return free


@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=120))))
def test_best_fit_is_best_fit_decreasing(case):
    capacity, sizes = case
    placed, count = best_fit(np.array(sizes, np.int64), capacity)
    assert set(placed.tolist()) == set(range(count))
    used = np.bincount(placed, weights=sizes, minlength=count).astype(int)
    assert sorted((capacity - used).tolist()) == textbook_best_fit(sizes, capacity)


@given(LENGTHS, st.integers(1, 30), st.integers(1, 6), st.integers(1, 9))
def test_pack_whole_holds_every_piece_once_and_in_stream_order(lengths, length, minimum, limit):
    packing = pack_whole(np.array(lengths, np.int64), length, minimum)
    pieces = list(zip(*(column.tolist() for column in (packing.document, packing.begin, packing.length))))
    wanted = list(zip(*(column.tolist() for column in cut(np.array(lengths, np.int64), length, minimum))))
    assert sorted(pieces) == wanted
    groups = [pieces[a:b] for a, b in zip(packing.offsets, packing.offsets[1:])]
    assert all(group and group == sorted(group) and sum(n for *_, n in group) <= length + 1 for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.split_evenly, "__defaults__", (limit,))
        joined = [positions_of(part, k) for part in parts(packing) for k in range(len(part.offsets) - 1)]
    assert joined == [positions_of(packing, k) for k in range(len(groups))]


DOCUMENTS = [(shard, row, 2 + (7 * shard + 5 * row) % 37, (shard + row) % 4) for shard in range(3) for row in range(25)]
VALIDATION = [(shard, row, 11 + row, 1) for shard in range(2) for row in (30, 31, 35)]


def test_stage_concatenates_copies_shard_by_shard(tmp_path):
    done, sequences = pack(tmp_path, {"s1": DOCUMENTS, "validation": VALIDATION}, stage())
    positions = [(s, r, b + i) for sequence in sequences["s1"] for s, r, b, n in sequence for i in range(n)]
    for k in range(len(sequences["s1"]) - 1):  # one position of overlap
        assert positions[17 * k + 16] == positions[17 * k + 17]
    stream = [p for i, p in enumerate(positions) if i == 0 or i % 17]
    total = sum(n * copies for _, _, n, copies in DOCUMENTS)
    assert len(sequences["s1"]) == (total - 1) // 16
    assert [p[0] for p in stream] == sorted(p[0] for p in stream)  # shard after shard
    runs = [(s, r) for s, r, position in stream if position == 0]
    assert runs != sorted(runs), "rows inside a shard are shuffled"
    counts = Counter(runs)
    asked = {(s, r): copies for s, r, _, copies in DOCUMENTS if copies}
    dropped = total - len(stream)
    assert dropped < 16
    assert all(counts[key] <= copies for key, copies in asked.items())
    assert sum(asked.values()) - counts.total() <= dropped
    for i, (s, r, position) in enumerate(stream[:-1]):  # a document runs on to its end-of-document token
        size = next(n for a, b, n, _ in DOCUMENTS if (a, b) == (s, r))
        assert stream[i + 1] == (s, r, position + 1) if position + 1 < size else stream[i + 1][2] == 0
    summary = done.extra["stages"]["s1"]
    assert summary["sequence_length"] == 16
    assert summary["positions"] == 17 * summary["sequences"] == 17 * len(sequences["s1"])
    assert summary["padding"] == 0

    flat = [(s, r, p) for s, r, n, _ in VALIDATION for p in range(n)]
    found = [[(s, r, b + i) for s, r, b, n in sequence for i in range(n)] for sequence in sequences["validation"]]
    assert found == [flat[16 * k : 16 * k + 17] for k in range((len(flat) - 1) // 16)]
    assert done.extra["validation"] == {"sequence_length": 16, "sequences": len(found)}


def test_stage_best_fit_keeps_documents_whole_and_drops_short_rests(tmp_path):
    lengths = {"boundary": 20, "minimum": 10, "share": 0.5}
    documents = [(0, row, n, 1) for row, n in enumerate([17, 33, 40, 12, 12, 10, 10, 24, 30, 18])]
    second = stage("s3", sequence_length=32, packing="best-fit", mixture={"lengths": lengths})
    plans = {"s1": DOCUMENTS, "s3": documents, "validation": VALIDATION}
    done, sequences = pack(tmp_path, plans, stage(), second)
    pieces = sorted(segment for sequence in sequences["s3"] for segment in sequence)
    # 40 positions are 33 and a rest of 8 with the overlap, which is below the minimum.
    assert pieces == [(0, row, 0, min(n, 33)) for row, (_, _, n, _) in enumerate(documents)]
    fill = [sum(n for *_, n in sequence) for sequence in sequences["s3"]]
    assert all(n <= 33 for n in fill)
    summary = done.extra["stages"]["s3"]
    assert summary["cut_documents"] == 1
    assert summary["positions"] == sum(fill)
    assert summary["padding"] == round(1 - sum(fill) / (33 * len(fill)), 6)
    assert done.extra["validation"]["sequence_length"] == 16, "validation follows the first stage"


def test_order_depends_on_seed_and_stage_alone(tmp_path):
    plans = {"s1": DOCUMENTS, "s2": DOCUMENTS, "validation": VALIDATION}
    first, sequences = pack(tmp_path / "a", plans, stage(), stage("s2"))
    again, _ = pack(tmp_path / "b", plans, stage(), stage("s2"))
    other, changed = pack(tmp_path / "c", plans, stage(), stage("s2"), seed=4)
    assert first == again
    assert first.files != other.files
    assert changed["s1"] != sequences["s1"] != sequences["s2"]


def test_a_stage_without_sequences_is_an_error_and_empty_validation_is_not(tmp_path):
    done, sequences = pack(tmp_path / "a", {"s1": DOCUMENTS, "validation": []}, stage())
    assert sequences["validation"] == []
    assert done.extra["validation"]["sequences"] == 0
    with pytest.raises(DataError, match=r"stage 's1': its 9 tokens fill no sequence of 16; lower pretrain\.stages\.s1"):
        pack(tmp_path / "b", {"s1": [(0, 0, 9, 1)], "validation": []}, stage())
    with pytest.raises(DataError, match="fill no sequence"):
        pack(tmp_path / "c", {"s1": [], "validation": []}, stage(packing="best-fit"))
