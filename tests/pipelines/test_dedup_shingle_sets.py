from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup import graph, shingle_sets
from pipelines.dedup.shingle_sets import similar, writer
from schemas.errors import DataError
from schemas.hashing import scramble

documents = st.lists(st.lists(st.integers(0, 12), max_size=15), min_size=1, max_size=8)


def write(folder: str, shards: list[list[list[int]]], batch: int) -> Callable[[int], str]:
    shingle_sets.tail.cache_clear()

    def place(shard: int) -> str:
        return f"{folder}/{shard}.bin"

    for shard, texts in enumerate(shards):
        with writer(place(shard), np.zeros(len(texts) + 1, np.uint64)) as sets:  # the last row takes no part
            for begin in range(0, len(texts), batch):
                part = texts[begin : begin + batch]
                hashes = scramble(np.array([number for text in part for number in text], np.uint64) + np.uint64(7))
                rows = np.arange(begin, begin + len(part))
                sets.add(rows, hashes, np.array([len(text) for text in part]))
    return place


@pytest.mark.parametrize("scheme", ["", "memory://"])
@settings(max_examples=60)
@given(
    shards=st.lists(documents, min_size=1, max_size=3),
    least=st.sampled_from([0.2, 0.5, 0.65, 1.0]),
    batch=st.integers(1, 4),
)
def test_similarity_is_that_of_the_sets(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, shards: list[list[list[int]]], least: float, batch: int
) -> None:
    place = write(f"{scheme}{tmp_path_factory.mktemp('sets')}", shards, batch)
    everyone = [(shard << 32 | row, set(text)) for shard, texts in enumerate(shards) for row, text in enumerate(texts)]
    pairs = [(one, other) for number, one in enumerate(everyone) for other in everyone[number + 1 :]]
    edges = np.array([(one[0], other[0], False) for one, other in pairs], graph.EDGE)
    expected = [
        bool(one[1] and other[1]) and len(one[1] & other[1]) >= least * len(one[1] | other[1]) for one, other in pairs
    ]
    assert similar(edges, place, least).tolist() == expected


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    texts = [draw.choice(60, 40, replace=False).tolist() for _ in range(60)]
    place = write(str(tmp_path), [texts[:20], texts[20:]], 7)
    names = [(number >= 20) << 32 | number % 20 if number < 40 else 1 << 32 | number - 20 for number in range(60)]
    edges = np.array([(a, b, False) for i, a in enumerate(names) for b in names[i + 1 :]], graph.EDGE)
    whole = similar(edges, place, 0.5)
    monkeypatch.setattr(shingle_sets, "BATCH", 100)
    assert 0 < whole.sum() < len(whole)
    assert (similar(edges, place, 0.5) == whole).all()


def test_copies_are_settled_without_their_shingles(tmp_path: Path) -> None:
    place = write(str(tmp_path), [[[1, 2, 3], [3, 2, 1, 1], [4, 5, 6]]], 2)
    Path(place(0)).write_bytes(bytes(9 * 4) + Path(place(0)).read_bytes()[9 * 4 :])
    shingle_sets.tail.cache_clear()
    edges = np.array([(0, 1, False)], graph.EDGE)
    assert similar(edges, place, 1.0).tolist() == [True]


def test_two_languages_are_never_similar(tmp_path: Path) -> None:
    shingle_sets.tail.cache_clear()
    with writer(f"{tmp_path}/0.bin", np.array([1, 2, 0, 1], np.uint64)) as sets:
        sets.add(np.arange(4), np.tile(scramble(np.arange(1, 6, dtype=np.uint64)), 4), np.full(4, 5))
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    edges = np.array([(*pair, False) for pair in pairs], graph.EDGE)
    assert similar(edges, lambda shard: f"{tmp_path}/{shard}.bin", 0.5).tolist() == [
        False,
        True,
        True,
        True,
        False,
        True,
    ]


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    place = write(str(tmp_path), [[[1], [2]]], 2)
    data = Path(place(0)).read_bytes()
    for size in range(len(data)):
        Path(place(0)).write_bytes(data[:size])
        shingle_sets.tail.cache_clear()
        with pytest.raises(DataError, match=r"0\.bin: is cut off"):
            similar(np.array([(0, 1, False)], graph.EDGE), place, 0.5)


def test_no_edges_read_nothing() -> None:
    def place(shard: int) -> str:
        raise AssertionError(shard)

    assert similar(np.empty(0, graph.EDGE), place, 0.5).tolist() == []
