import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.dedup import graph, kernels, survivors
from schemas.hashing import scramble


class UnionFind(dict[int, int]):
    def find(self, item: int) -> int:
        self.setdefault(item, item)
        while self[item] != item:
            self[item] = self[self[item]]
            item = self[item]
        return item

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.find(first), self.find(second)))
        self[second] = first


def bucket_edges(found: list[tuple[int, int, int]], pairs: bool = False, old: int = 1 << 40) -> np.ndarray:
    keys = np.array(found, kernels.KEY)
    keys = keys[np.lexsort((keys["document"], keys["low"], keys["high"]))]
    return graph.bucket_edges(keys, kernels.key_borders(keys), pairs, old)


def stars(edges: np.ndarray, workers: int) -> tuple[np.ndarray, int]:
    """What the rounds of the stage do, with the documents spread over some workers; and how many rounds it took."""

    def spread(pairs: np.ndarray) -> list[np.ndarray]:
        targets = scramble(pairs["first"]) % np.uint64(workers)
        return [pairs[targets == worker] for worker in range(workers)]

    for rounds in range(100):
        done = [graph.large_star(part) for part in spread(graph.both_ways(edges))]
        if not sum(unfinished for _, unfinished in done):
            return graph.downwards(edges), rounds
        between = graph.downwards(np.concatenate([found for found, _ in done]))
        edges = np.concatenate([graph.small_star(part) for part in spread(between)])
    raise AssertionError("the rounds do not end")


def as_labels(labels: np.ndarray) -> dict[int, int]:
    found = dict(labels.tolist())
    assert len(found) == len(np.unique(labels))
    return found


def pair_records(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array([tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]], graph.PAIR)


records = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 30)), max_size=60)


@settings(max_examples=60)
@given(records, st.randoms(use_true_random=False))
def test_components_of_buckets_are_those_of_union_find(found: list[tuple[int, int, int]], draw: random.Random) -> None:
    oracle = UnionFind()
    buckets: dict[tuple[int, int], int] = {}
    for high, low, document in found:
        oracle.join(buckets.setdefault((high, low), document), document)
    edges = bucket_edges(found)
    draw.shuffle(found)
    assert (bucket_edges(found) == edges).all()
    assert len({(first, second) for first, second, _ in edges.tolist()}) == len(edges)
    assert len(edges) <= sum(len({d for h, w, d in found if (h, w) == key}) - 1 for key in buckets)

    shuffled = np.concatenate([edges, edges])
    draw.shuffle(order := list(range(len(shuffled))))
    labels = graph.components(graph.unique_edges(shuffled[order]))
    clusters = {document: oracle.find(document) for document in oracle}
    sizes = np.bincount(list(clusters.values()), minlength=31)
    assert dict(labels.tolist()) == {d: c for d, c in clusters.items() if sizes[c] > 1}


@settings(max_examples=60)
@given(records)
def test_every_pair_of_a_small_bucket_is_a_candidate(found: list[tuple[int, int, int]]) -> None:
    edges = {(first, second): sure for first, second, sure in bucket_edges(found, pairs=True).tolist()}
    expected: dict[tuple[int, int], bool] = {}
    for key in {(high, low) for high, low, _ in found}:
        members = sorted({d for h, w, d in found if (h, w) == key})
        records_of_key = sum((h, w) == key for h, w, _ in found)
        centres = 1 if key[1] % 2 else len(members) if records_of_key <= graph.EVERY_PAIR else None
        if centres is None:
            continue
        for place, first in enumerate(members[:centres]):
            for second in members[place + 1 :]:
                expected[first, second] = expected.get((first, second), False) or bool(key[1] % 2)
    assert {pair: edges.get(pair) for pair in expected} == expected


def test_in_a_large_bucket_some_documents_are_compared_with_all() -> None:
    edges = bucket_edges([(0, 0, document) for document in range(100)], pairs=True)
    assert len(edges) == sum(99 - centre for centre in range(graph.CENTRES))
    assert set(edges["first"].tolist()) == set(range(graph.CENTRES))
    assert not edges["sure"].any()


@settings(max_examples=60)
@given(records, st.integers(0, 31), st.booleans())
def test_documents_of_earlier_runs_are_tied_to_new_ones_only(
    found: list[tuple[int, int, int]], old: int, pairs: bool
) -> None:
    edges = bucket_edges(found, pairs, old)
    assert (edges["first"] < old).all()
    met = {document for first, second, _ in edges.tolist() for document in (first, second)}
    for key in {(high, low) for high, low, _ in found}:
        members = {d for h, w, d in found if (h, w) == key}
        if len(members) > 1 and min(members) < old:
            assert members <= met


graphs = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=40)


@settings(max_examples=150)
@given(graphs, st.integers(1, 4))
def test_rounds_of_stars_find_what_union_find_finds(pairs: list[tuple[int, int]], workers: int) -> None:
    oracle = UnionFind()
    for first, second in pairs:
        if first != second:
            oracle.join(first, second)
    expected = {document: oracle.find(document) for document in oracle}
    edges = pair_records(pairs)
    found, _ = stars(edges, workers)
    assert as_labels(np.unique(graph.star_labels(found))) == expected
    assert as_labels(graph.components(edges)) == expected


@pytest.mark.parametrize("shape", ["chain", "shuffled chain", "star", "bucket of a million", "tree"])
def test_rounds_of_stars_are_few_on_hard_graphs(shape: str) -> None:
    draw = np.random.default_rng(0)
    size = 1_000_000 if shape == "bucket of a million" else 20_000
    edges = np.empty(size - 1, graph.PAIR)
    if "chain" in shape:
        names = draw.permutation(size) if shape == "shuffled chain" else np.arange(size)
        ends = np.sort(np.stack([names[:-1], names[1:]], axis=1), axis=1)
        edges["first"], edges["second"] = ends.T
    elif shape == "tree":
        edges["second"] = np.arange(1, size)
        edges["first"] = (draw.random(size - 1) * np.arange(1, size)).astype(np.int64)
    elif shape == "star":
        edges["first"], edges["second"] = np.arange(size - 1), size - 1  # its centre is its last document
    else:
        keys = np.zeros(size, kernels.KEY)
        keys["document"] = np.arange(size)
        edges = graph.bucket_edges(keys, kernels.key_borders(keys), False, 1 << 40)
        assert len(edges) == size - 1
        edges = edges[["first", "second"]].astype(graph.PAIR)
    found, rounds = stars(edges, 3)
    assert rounds <= np.log2(size) + 2
    labels = graph.star_labels(found)
    assert (labels["component"] == 0).all() and len(np.unique(labels["document"])) == size
    assert (graph.components(edges)["component"] == 0).all()


def test_rounds_and_scipy_agree_on_a_large_random_graph() -> None:
    draw = np.random.default_rng(1)
    ends = np.sort(draw.integers(0, 60_000, (45_000, 2)), axis=1)
    ends = ends[ends[:, 0] != ends[:, 1]]
    edges = np.empty(len(ends), graph.PAIR)
    edges["first"], edges["second"] = ends.T
    found, _ = stars(edges, 5)
    labels = np.unique(graph.star_labels(found))
    ones = np.ones(len(ends))
    count, numbers = connected_components(coo_array((ones, tuple(ends.T)), shape=(60_000, 60_000)), directed=False)
    alone = 60_000 - len(np.unique(ends))
    assert len(np.unique(labels["component"])) == count - alone
    assert (numbers[labels["document"]] == numbers[labels["component"]]).all()
    assert (labels == graph.components(edges)).all()


# ------------------------------------------------------------------------------------------------------- survivors

members = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.5]),
        st.integers(1, 2),
        st.sampled_from(["2020", "2021-05", None]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=100)
@given(members, st.randoms(use_true_random=False))
def test_the_survivor_is_the_best_by_the_total_order(found: list[tuple], draw: random.Random) -> None:
    table = np.zeros(len(found), survivors.SUMMARY)
    draw.shuffle(lows := list(range(len(found))))
    ids = [(draw.randrange(3), low) for low in lows]
    for row, (component, priority, quality, length, date, shard) in enumerate(found):
        stamp = date.encode() if date else survivors.NO_DATE
        key = (priority, quality, length, stamp)
        table[row] = (component, shard, 0, *key, ids[row], (7, row), (0, 0), ids[row], 1)
    draw.shuffle(order := list(range(len(table))))
    parts = [survivors.best(table[table["shard"] == shard]) for shard in range(4)]
    summaries = np.concatenate(parts)
    chosen = {int(choice["component"]): choice for choice in survivors.choices(summaries)}
    assert (survivors.best(table[order]) == survivors.best(table)).all()
    for component in {row[0] for row in found}:
        same = [other for other, member in enumerate(found) if member[0] == component]
        best = min(
            same, key=lambda r: (-found[r][1], -found[r][2], -found[r][3], found[r][4] is None, found[r][4], ids[r])
        )
        choice = chosen[component]
        assert tuple(choice["survivor"].tolist()) == ids[best]
        assert tuple(choice["exact"].tolist()) == (7, best)
        assert tuple(choice["cluster"].tolist()) == min(ids[other] for other in same)
        assert choice["size"] == len(same)


def test_what_an_earlier_run_kept_is_better_than_anything_new() -> None:
    table = np.zeros(4, survivors.SUMMARY)
    table["priority"], table["size"] = [9, 0, 0, 9], [1, 5, 7, 1]
    table["run"] = [0, 1, 1, 0]
    table["id"] = table["cluster"] = [(0, 1), (0, 3), (0, 2), (0, 0)]
    table["cluster"][1:3] = [(5, 5), (6, 6)]
    (choice, *_) = survivors.choices(survivors.best(table))
    assert tuple(choice["survivor"].tolist()) == (0, 2)
    assert tuple(choice["cluster"].tolist()) == (6, 6)
    assert (choice["size"], choice["run"]) == (7 + 2, 1)
