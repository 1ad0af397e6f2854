import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.split.kernels import assign
from schemas.documents import DECISIONS, DEDUP_DECISIONS, SPLIT
from schemas.errors import DataError


def key(number):
    return number.to_bytes(16, "big")


def decisions(keeps, clusters=None):
    rows = len(keeps)
    columns = [[key(i) for i in range(rows)], [None] * rows, [key(i) for i in range(rows)], keeps, [[]] * rows]
    schema = DECISIONS
    if clusters is not None:
        schema = DEDUP_DECISIONS
        columns += [[key(c) for c in clusters], [1] * rows, [key(c) for c in clusters], [None] * rows]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema)], schema=schema)


def keys(rows):
    return decisions([True] * rows).select(["document_id", "id", "text_hash"])


def test_without_decisions_nothing_is_dropped():
    assert set(assign(keys(200), {}, 0.2, 0)["split"].to_pylist()) == {"train", "validation"}


def test_the_first_stage_that_dropped_a_document_is_named():
    split = assign(
        keys(4),
        {
            "filter": decisions([True, False, False, True]),
            "dedup": decisions([True, True, False, False], [0, 1, 2, 3]),
            "decontaminate": decisions([True, True, True, True]),
        },
        validation=0,
        seed=0,
    )
    assert split.schema == SPLIT
    assert split["split"].to_pylist() == ["train", "dropped", "dropped", "dropped"]
    assert split["dropped_by"].to_pylist() == [None, "filter", "filter", "dedup"]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(0, 5))
def test_a_cluster_is_never_torn_apart(clusters, seed):
    split = assign(keys(len(clusters)), {"dedup": decisions([True] * len(clusters), clusters)}, 0.4, seed)
    sides = {}
    for cluster, side in zip(clusters, split["split"].to_pylist()):
        assert sides.setdefault(cluster, side) == side


def test_the_share_is_the_one_asked_for_and_depends_on_the_seed():
    count = 20_000
    one, two = (
        assign(keys(count), {"filter": decisions([True] * count)}, 0.05, seed)["split"].to_pylist() for seed in (1, 2)
    )
    assert abs(one.count("validation") / count - 0.05) < 0.005
    assert one != two


def test_decisions_on_other_documents_are_refused():
    with pytest.raises(DataError):
        assign(keys(2), {"filter": decisions([True, True]), "dedup": decisions([True], [0])}, 0.1, 0)
