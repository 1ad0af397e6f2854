"""Batches against sequences that are put together position by position, and the order against its promises."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.manifest import Manifest, read_manifest, write_manifest
from schemas.tables import read_table, write_table
from schemas.tokens import PACK, TOKENS
from trainer.data import Batch, Feed, Sequences, epoch_order, prefetch
from trainer.loss import IGNORE
from trainer.schedule import Batches
from trainer.shards import TokenShards


def expected(toy: Any, segments: list[tuple[int, int, int, int]], length: int, mask: bool) -> list[list[int]]:
    """Tokens, labels, positions, document numbers and cells' parities of a sequence, one position at a time."""
    places = []
    for number, (shard, row, begin, size) in enumerate(segments):
        stored = [*toy.shards[shard][row], toy.end_of_document]
        places += [(stored[begin + at], begin + at, number, shard, row) for at in range(size)]
    starts = [begin for _, _, begin, _ in segments]
    tokens, labels, positions, documents, where = [], [], [], [], []
    for at in range(length):
        here = places[at] if at < len(places) else None
        following = places[at + 1] if at + 1 < len(places) else None
        tokens.append(here[0] if here else toy.end_of_document)
        new = following is not None and here is not None and following[2] != here[2]
        seen = following is not None and not (new and (mask or following[1]))
        labels.append(following[0] if seen and following else IGNORE)
        positions.append(here[1] - starts[here[2]] if here and mask else at)
        documents.append(here[2] if here else len(segments))
        where.append(following[3:] if following else None)
    return [tokens, labels, positions, documents, where]


def compare(toy: Any, batch: Batch, sequences: Sequences, chosen: list[int], name: str) -> None:
    mask, shards = sequences.document_mask, sequences.shards
    for line, sequence in enumerate(chosen):
        tokens, labels, positions, documents, where = expected(toy, toy.packs[name][sequence], sequences.length, mask)
        assert batch.tokens_BT[line].tolist() == tokens
        assert batch.labels_BT[line].tolist() == labels
        assert batch.positions_BT[line].tolist() == positions
        found = batch.document_BT[line]
        assert (found - found[0]).tolist() == documents
        for at, label in enumerate(labels):
            if label != IGNORE:
                shard, row = where[at]
                cell = f"english/{'code' if row % 2 else 'prose'}/{shard % 2}"
                assert shards.groups[batch.group_BT[line, at]] == cell
                if mask:
                    assert batch.segments_N2[found[at]].tolist() == [shard, row]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_batches_equal_sequences_built_by_position(toy_factory: Callable[..., Any], mask: bool, packed: bool) -> None:
    toy = toy_factory(packed=packed)
    job = toy.job()
    sequences = Sequences(job, "s2", TokenShards(job), document_mask=mask)
    assert sequences.count == len(toy.packs["s2"]) > 6
    chosen = [*range(sequences.count), 0]
    batch = sequences.read(chosen)
    assert (batch.labels_BT == IGNORE).any() == (mask or packed)
    compare(toy, batch, sequences, chosen, "s2")
    part = batch.part(2, 4)
    assert part.tokens_BT.equal(batch.tokens_BT[2:4])
    assert part.group_BT.equal(batch.group_BT[2:4])


def test_concatenated_labels_cover_every_position_once(toy: Any) -> None:
    job = toy.job()
    sequences = Sequences(job, "s1", TokenShards(job), document_mask=False)
    labels = sequences.read(range(sequences.count)).labels_BT.flatten().tolist()
    stream = [token for shard in toy.shards for document in shard for token in [*document, 256]]
    assert labels == stream[1 : len(labels) + 1]


@pytest.mark.parametrize("mask", [True, False])
def test_cutting_documents_counts_no_label_twice_and_none_across_a_seam(
    toy_factory: Callable[..., Any], mask: bool
) -> None:
    toy = toy_factory(packed=True)
    job = toy.job()
    sequences = Sequences(job, "s2", TokenShards(job), document_mask=mask)
    assert any(begin > 0 for segments in toy.packs["s2"] for _, _, begin, _ in segments[1:])  # rests behind others
    labels = sequences.read(range(sequences.count)).labels_BT.tolist()
    counted: Counter[tuple[int, int, int]] = Counter()
    openings: set[tuple[int, int, int]] = set()
    for segments, line in zip(toy.packs["s2"], labels, strict=True):
        places = [(shard, row, begin + at) for shard, row, begin, size in segments for at in range(size)]
        for (before, here), label in zip(itertools.pairwise(places), line):
            if label != IGNORE:
                assert here[2] == 0 or before == (*here[:2], here[2] - 1)
                counted[here] += 1
        openings |= {(*segment[:2], 0) for segment in (segments[:1] if not mask else segments) if segment[2] == 0}
    positions = {
        (shard, row, at)
        for shard, documents in enumerate(toy.shards)
        for row, tokens in enumerate(documents)
        for at in range(len(tokens) + 1)
    }
    assert set(counted.values()) == {1}
    assert set(counted) == positions - openings


def test_ranks_share_out_the_global_batch(toy: Any) -> None:
    job = toy.job()
    sequences = Sequences(job, "s1", TokenShards(job))
    batches = Batches.ramp(2, 6, 9)
    whole = Feed(sequences, "key", batches)
    parts = [Feed(sequences, "key", batches, rank, 3) for rank in range(3)]
    drawn = [whole.sequence_at(index) for index in range(batches.first(8))]
    assert [row for step in range(8) for row in whole.rows(step)] == drawn
    for step in (0, 1, 7):
        rows = whole.rows(step)
        assert [part.rows(step) for part in parts] == [rows[0::3], rows[1::3], rows[2::3]]
    assert Feed(sequences, "key", Batches.equal(2), 2, 3).batch(0).tokens_BT.shape == (0, 32)


def test_epochs_are_permutations_of_their_own(toy: Any) -> None:
    job = toy.job()
    feed = Feed(Sequences(job, "s1", TokenShards(job)), "key", Batches.equal(4))
    count = feed.sequences.count
    drawn = [feed.sequence_at(index) for index in range(3 * count)]
    epochs = [drawn[begin : begin + count] for begin in range(0, 3 * count, count)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert feed.rows(count // 4) == drawn[count // 4 * 4 : count // 4 * 4 + 4]  # across the border of two epochs


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 8), st.text(max_size=5))
def test_order_stays_inside_a_window_of_shards(first: list[int], window: int, key: str) -> None:
    shard = np.array(first)
    order = epoch_order(shard, key, 1, window)
    assert sorted(order.tolist()) == list(range(len(first)))
    assert (order == epoch_order(shard, key, 1, window)).all()
    visited: list[set[int]] = []
    for number in shard[order].tolist():
        if not visited or (number not in visited[-1] and len(visited[-1]) == window):
            visited.append(set())
        visited[-1].add(number)
    # Windows are disjoint: no shard is opened again after its window has passed.
    assert sum(map(len, visited)) == len(set(first))


def test_order_depends_on_key_and_epoch_alone() -> None:
    shard = np.zeros(8, np.int64)
    assert epoch_order(shard, "a", 0).tolist() == [7, 5, 6, 0, 3, 4, 1, 2]  # pinned: a change breaks every resume
    orders = [epoch_order(np.zeros(500, np.int64), key, epoch).tolist() for key in "ab" for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_order_mixes_evenly() -> None:
    """The mean place of each sequence over many epochs is the middle, within five standard errors."""
    places = np.stack([np.argsort(epoch_order(np.arange(40) // 4, "k", epoch, 3)) for epoch in range(600)])
    assert np.abs(places.mean(0) - 19.5).max() < 5 * np.sqrt(40**2 / 12 / 600)


# ---------------------------------------------------------------------------------------------------------------
# Groups


def test_groups_are_the_cells_as_the_mix_merged_them(toy: Any) -> None:
    merged = {f"english/{domain}/{bin}": f"english/{domain}/*" for domain in ("code", "prose") for bin in range(2)}
    raw = TokenShards(toy.job())
    toy.add_mix(cells=merged)
    shards = TokenShards(toy.job())
    assert raw.groups == sorted(merged)
    assert shards.groups == ["english/code/*", "english/prose/*"]
    for shard, documents in enumerate(toy.shards):
        for row in range(len(documents)):
            before, after = raw.shard(shard).group[row], shards.shard(shard).group[row]
            assert shards.groups[after] == merged[raw.groups[before]]
    assert TokenShards(toy.job(), ("language",)).groups == ["deu_Latn", "eng_Latn"]


def test_a_mix_that_does_not_say_its_cells_is_refused(toy: Any) -> None:
    toy.add_mix()
    with pytest.raises(DataError, match="mix: the manifest does not say its cells; make the mix stage again"):
        TokenShards(toy.job())


# ---------------------------------------------------------------------------------------------------------------
# Damage


def rewrite(folder: str, path: str, table: pa.Table) -> None:
    """Replace a file of a dataset and make the manifest agree."""
    manifest = read_manifest(folder)
    assert manifest is not None
    entry = write_table(folder, path, table)
    files = [entry if known.path == path else known for known in manifest.files]
    write_manifest(folder, Manifest(**{**manifest.model_dump(), "files": files}))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_changed_shard_is_named_when_it_is_first_read(toy: Any) -> None:
    job = toy.job()
    flip(Path(job.inputs["tokenize"]) / "tokens/00001.arrow")
    shards = TokenShards(job)
    assert shards.shard(0).values[0][: len(toy.shards[0][0])].tolist() == toy.shards[0][0]
    sequences = Sequences(job, "s1", shards)
    for read in (
        lambda: sequences.read(range(sequences.count)),
        lambda: shards.describe(np.array([[1, 0]])),
        lambda: list(shards.scan()),
    ):
        with pytest.raises(DataError, match=r"00001\.arrow: differs .* bring the file back .* --from tokenize`"):
            read()


def test_a_missing_or_shortened_shard_is_named_at_once(toy: Any) -> None:
    job = toy.job()
    path = Path(job.inputs["tokenize"]) / "tokens/00001.arrow"
    size = path.stat().st_size
    os.truncate(path, size - 8)
    with pytest.raises(DataError, match=rf"00001\.arrow: differs .* it has {size - 8} bytes, not {size}; bring"):
        TokenShards(job)
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.arrow: cannot be read: No such file"):
        TokenShards(job)


def test_a_shard_shorter_than_its_manifest_says_is_named(toy: Any) -> None:
    job = toy.job()
    folder, path = job.inputs["tokenize"], "tokens/00001.arrow"
    rows = read_table(f"{folder}/{path}").num_rows
    rewrite(folder, path, read_table(f"{folder}/{path}").slice(0, 2).combine_chunks())
    manifest = read_manifest(folder)
    assert manifest is not None
    files = [entry.model_copy(update={"rows": rows}) if entry.path == path else entry for entry in manifest.files]
    write_manifest(folder, manifest.model_copy(update={"files": files}))
    with pytest.raises(DataError, match=rf"00001\.arrow: differs from its manifest: it has 2 rows, not {rows}"):
        TokenShards(job)


def test_a_pack_of_other_shards_is_refused(toy: Any) -> None:
    job = toy.job()
    folder, path = job.inputs["tokenize"], "tokens/00001.arrow"
    rewrite(folder, path, read_table(f"{folder}/{path}").slice(0, 2).combine_chunks())
    sequences = Sequences(job, "s1", TokenShards(job))
    with pytest.raises(DataError, match=r"pack\.arrow: sequence \d+: .*00001\.arrow: there is no row 2"):
        sequences.read(range(sequences.count))


def test_a_segment_beyond_its_document_is_refused(toy: Any) -> None:
    job = toy.job()
    folder, path = job.inputs["pack"], "s1/pack.arrow"
    table = read_table(f"{folder}/{path}")
    rows = table.to_pylist()
    rows[3]["segments"][0]["begin"] += 1000
    rewrite(folder, path, pa.Table.from_pylist(rows, schema=table.schema))
    sequences = Sequences(job, "s1", TokenShards(job))
    with pytest.raises(DataError, match=r"sequence 3 takes .*/tokens/0000\d\.arrow, row \d+"):
        sequences.read([2, 3])


def test_a_token_outside_the_vocabulary_is_named(toy: Any) -> None:
    job = toy.job()
    folder, path = job.inputs["tokenize"], "tokens/00002.arrow"
    table = read_table(f"{folder}/{path}")
    rows = table.to_pylist()
    rows[4]["tokens"][1] = 282
    rewrite(folder, path, pa.Table.from_pylist(rows, schema=table.schema))
    sequences = Sequences(job, "s1", TokenShards(job))
    with pytest.raises(DataError, match=r"00002\.arrow, row 4: token 282 is not below the vocabulary size 282"):
        sequences.read(range(sequences.count))


# ---------------------------------------------------------------------------------------------------------------
# Prefetch


def test_prefetch_keeps_order_and_bounds_what_waits() -> None:
    read: list[int] = []

    def slow_consumer(number: int) -> int:
        read.append(number)
        return number * number

    batches = prefetch(slow_consumer, 3, 40, depth=2)
    assert next(batches) == 9
    time.sleep(0.2)
    assert len(read) <= 5  # one taken, two waiting, one in hand
    assert list(batches) == [number * number for number in range(4, 40)]


def test_prefetch_raises_the_readers_error_in_its_turn_and_ends_its_thread() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise DataError("row 2 is bad")
        return number

    seen = []
    with pytest.raises(DataError, match="row 2 is bad"):
        for number in prefetch(read, 0, 10):
            seen.append(number)  # noqa: PERF402
    assert seen == [0, 1]
    batches = prefetch(lambda number: number, 0, 10**9)
    assert list(itertools.islice(batches, 3)) == [0, 1, 2]
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_empty_shards_and_packs_are_fine_where_nothing_is_read(toy: Any) -> None:
    job = toy.job()
    rewrite(job.inputs["tokenize"], "tokens/00001.arrow", TOKENS.empty_table())
    rewrite(job.inputs["pack"], "validation/pack.arrow", PACK.empty_table())
    manifest = read_manifest(job.inputs["pack"])
    assert manifest is not None
    extra = manifest.extra | {"validation": {"sequence_length": 32, "sequences": 0}}
    write_manifest(job.inputs["pack"], manifest.model_copy(update={"extra": extra}))
    sequences = Sequences(job, "validation", TokenShards(job))
    assert sequences.read([]).tokens_BT.shape == (0, 32)
    with pytest.raises(DataError, match=r"validation/pack\.arrow: holds no sequence"):
        Feed(sequences, "key", Batches.equal(4))
