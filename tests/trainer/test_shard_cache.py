"""The cache against a model of it, against other processes, kills and damage; batches from it against local ones."""

import contextlib
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, DataError
from schemas.manifest import FileEntry
from trainer.data import Sequences, prefetch
from trainer.shard_cache import Full, ShardCache, StageFile
from trainer.shards import TokenShards

SIZES = (100, 200, 300, 400, 500)


def content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(SIZES[number])


def store(folder: Path, number: int) -> StageFile:
    """A file of a store that is no local folder to us, though it is one."""
    folder.mkdir(exist_ok=True)
    data = content(number)
    (folder / f"{number}.arrow").write_bytes(data)
    entry = FileEntry(path=f"{number}.arrow", rows=1, bytes=len(data), hash=xxhash.xxh3_128_hexdigest(data))
    return StageFile("tokenize", f"local://{folder}/{number}.arrow", entry)


@pytest.fixture
def files(tmp_path: Path) -> list[StageFile]:
    return [store(tmp_path / "store", number) for number in range(len(SIZES))]


def in_cache(folder: Path) -> dict[str, int]:
    """Size of each file, those left out that another thread removes meanwhile."""
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return {name: size for name, size in found.items() if name != ".lock"}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30))
def test_it_keeps_what_a_list_in_order_of_use_would_keep(
    tmp_path_factory: pytest.TempPathFactory, takes: list[tuple[int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    files = [store(folder / "store", number) for number in range(len(SIZES))]
    cache = ShardCache(folder / "cache", 1000)
    known: OrderedDict[int, Any] = OrderedDict()  # -> the lease, None if it is closed; least recently used first
    for number, keep in takes:
        missing = 0 if number in known else SIZES[number]
        going = [other for other, lease in known.items() if lease is None and other != number]
        while missing and sum(SIZES[other] for other in known) + missing > 1000 and going:
            del known[going.pop(0)]
        if missing and sum(SIZES[other] for other in known) + missing > 1000:
            with pytest.raises(Full):
                cache.take(files[number])
            continue
        lease = cache.take(files[number])
        assert lease.path.read_bytes() == content(number)
        held = known.pop(number, None)
        if held is not None and not keep:
            held.close()
        if not keep:
            lease.close()
        known[number] = lease if keep else None
        assert in_cache(cache.folder) == {f"{files[other].entry.hash}.arrow": SIZES[other] for other in known}


def test_what_an_earlier_run_left_serves_if_its_hash_fits(tmp_path: Path, files: list[StageFile]) -> None:
    folder = tmp_path / "cache"
    first = ShardCache(folder, 1000)
    for file in files[:2]:
        first.take(file).close()
    shutil.rmtree(tmp_path / "store")
    (path,) = (folder / f"{files[0].entry.hash}.arrow",)
    path.write_bytes(content(0)[:-1] + b"?")
    again = ShardCache(folder, 1000)
    assert again.take(files[1]).path.read_bytes() == content(1)
    with pytest.raises(DataError, match=r"0\.arrow: cannot be read"):  # damaged here, and gone there
        again.take(files[0])
    store(tmp_path / "store", 0)
    assert again.take(files[0]).path.read_bytes() == content(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-7], "it has 293 bytes, not 300"),
        (lambda data: data + b"more", "it has 304 bytes, not 300"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"it has hash [0-9a-f]{32}, not [0-9a-f]{32}"),
    ],
)
def test_damage_is_noticed_while_copying_and_leaves_nothing(
    tmp_path: Path, files: list[StageFile], change: Callable[[bytes], bytes], words: str
) -> None:
    cache = ShardCache(tmp_path / "cache", 1000)
    path = tmp_path / "store" / "2.arrow"
    path.write_bytes(change(content(2)))
    with pytest.raises(DataError, match=rf"store/2\.arrow: differs from its manifest: {words}; bring the file back"):
        cache.take(files[2])
    assert in_cache(cache.folder) == {}
    path.write_bytes(content(2))
    assert cache.take(files[2]).path.read_bytes() == content(2)


def test_a_folder_that_cannot_hold_copies_is_named(tmp_path: Path, files: list[StageFile]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file: cannot hold the copies .* pretrain\.cache_folder"):
        ShardCache(tmp_path / "file", 1000)
    other = tmp_path / "cache" / "notes.txt"
    other.parent.mkdir()
    other.write_text("n" * 5000)
    assert ShardCache(tmp_path / "cache", 500).take(files[4]).path.exists()  # what is not ours is left alone
    assert other.exists()


WORKER = textwrap.dedent("""
    import os, random, signal, sys, time
    from pathlib import Path
    from schemas import paths
    from schemas.manifest import FileEntry
    from trainer import shard_cache

    folder, limit, seed, *files = sys.argv[1:]
    entries = map(FileEntry.model_validate_json, files[1::2])
    files = [shard_cache.StageFile("tokenize", path, entry) for path, entry in zip(files[::2], entries)]
    chunks = shard_cache._chunks

    def slowly(path):
        for chunk in chunks(path):
            time.sleep(0.003)  # others wait for this copy
            if seed == "-1":
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    shard_cache._chunks = slowly
    cache = shard_cache.ShardCache(Path(folder), int(limit))
    draw = random.Random(int(seed))
    for _ in range(70):
        file = draw.choice(files)
        lease = cache.take(file)
        assert paths.file_hash(str(lease.path)) == file.entry.hash
        time.sleep(draw.random() / 1000)
        lease.close()
""")


def worker(folder: Path, limit: int, seed: int, files: list[StageFile]) -> subprocess.Popen[str]:
    arguments = [part for file in files for part in (file.path, file.entry.model_dump_json())]
    command = [sys.executable, "-c", WORKER, str(folder), str(limit), str(seed), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_processes_share_it_and_keep_its_bound(tmp_path: Path, files: list[StageFile]) -> None:
    """Each of three processes reads one file at a time; the bound leaves room for the three largest."""
    folder = tmp_path / "cache"
    folder.mkdir()
    processes = [worker(folder, 1200, seed, files) for seed in range(3)]
    most = 0
    while any(process.poll() is None for process in processes):
        sizes = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        most = max(most, sum(sizes))
    assert [process.wait() for process in processes] == [0, 0, 0], processes[0].communicate()[1]
    assert 800 < most <= 1200 + 500  # a file may go while those after it are counted
    assert sum(in_cache(folder).values()) <= 1200
    assert not list(folder.glob("*.part"))


def test_what_a_kill_left_goes_when_the_next_process_begins(tmp_path: Path, files: list[StageFile]) -> None:
    folder = tmp_path / "cache"
    killed = worker(folder, 1000, -1, files[:1])
    assert killed.wait() == -signal.SIGKILL
    assert in_cache(folder) == {f"{files[0].entry.hash}.part": 100}
    cache = ShardCache(folder, 1000)
    assert in_cache(folder) == {}
    assert cache.take(files[0]).path.read_bytes() == content(0)


# ---------------------------------------------------------------------------------------------------------------
# Shards and packs


@pytest.fixture
def remote(toy: Any) -> Iterator[Any]:
    """The toy's token shards and packs in fsspec's store in memory; `toy.local` are the inputs on disk."""
    fs = fsspec.filesystem("memory")
    toy.local = dict(toy.inputs)
    for name in ("tokenize", "pack"):
        fs.put(toy.inputs[name], f"/bucket/{name}", recursive=True)
        toy.inputs[name] = f"memory://bucket/{name}"
    toy.add_mix(cells={f"english/{domain}/{bin}": "*/*/*" for domain in ("code", "prose") for bin in range(2)})
    yield toy
    fs.rm("/bucket", recursive=True)


def sizes(folder: str) -> list[int]:
    return [path.stat().st_size for path in sorted(Path(folder).rglob("*.arrow"))]


def test_batches_from_a_small_cache_are_those_of_local_files(remote: Any, tmp_path: Path) -> None:
    packs, shards = sizes(remote.local["pack"]), sizes(remote.local["tokenize"])
    bound = sum(packs) + max(shards) + 100
    assert bound < sum(packs) + sum(shards)
    job = remote.job(cache_bytes=bound, cache_folder=str(tmp_path / "cache"))
    remote.inputs = remote.inputs | remote.local
    local = remote.job()
    here = Sequences(local, "s2", TokenShards(local))
    there = Sequences(job, "s2", TokenShards(job))
    rows = [[number, (7 * number) % there.count] for number in range(there.count)]
    for number, batch in enumerate(prefetch(lambda number: there.read(rows[number]), 0, len(rows))):
        expected = here.read(rows[number])
        assert batch.tokens_BT.equal(expected.tokens_BT) and batch.labels_BT.equal(expected.labels_BT)
        assert batch.group_BT.equal(expected.group_BT)
        assert sum(in_cache(tmp_path / "cache").values()) <= bound
    assert there.documents(range(there.count)) == here.documents(range(there.count))


def test_ranks_of_a_machine_share_out_a_cache(remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks that take turns both find room, though either alone would fill the cache."""
    packs, shards = sum(sizes(remote.local["pack"])), sizes(remote.local["tokenize"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    job = remote.job(cache_bytes=packs + 2 * max(shards), cache_folder=str(tmp_path / "cache"))
    ranks = [Sequences(job, "s1", TokenShards(job)) for _ in range(2)]
    for sequence in range(ranks[0].count):
        one, two = (rank.read([(sequence * (5 * number + 1)) % rank.count]) for number, rank in enumerate(ranks))
        assert one.tokens_BT.shape == two.tokens_BT.shape
    with pytest.raises(
        ConfigError, match=rf"cache_bytes: {packs + 100} is too little .* take {packs + 2 * max(shards)}"
    ):
        TokenShards(remote.job(cache_bytes=packs + 100, cache_folder=str(tmp_path / "cache")))


def test_other_runs_that_fill_a_cache_are_an_error_of_one_line(remote: Any, tmp_path: Path) -> None:
    bound = sum(sizes(remote.local["pack"])) + max(sizes(remote.local["tokenize"]))
    job = remote.job(cache_bytes=bound, cache_folder=str(tmp_path / "cache"))
    shards = TokenShards(job)
    packs = [Sequences(job, name, shards) for name in ("s1", "s2", "validation")]
    lease = ShardCache(tmp_path / "cache", 1 << 20).take(store(tmp_path / "store", 0))
    with pytest.raises(DataError, match=r"cache: other processes are reading .*; raise pretrain\.cache_bytes"):
        packs[0].read(range(packs[0].count))
    lease.close()
    assert len(packs[0].read(range(packs[0].count)).tokens_BT) == packs[0].count


def test_a_damaged_remote_shard_is_named_and_the_rest_goes_on(remote: Any, tmp_path: Path) -> None:
    job = remote.job(cache_folder=str(tmp_path / "cache"))
    shards = TokenShards(job)
    assert in_cache(tmp_path / "cache") == {}  # nothing is copied before it is needed
    sequences = Sequences(job, "s1", shards)
    assert len(in_cache(tmp_path / "cache")) == 1
    fs = fsspec.filesystem("memory")
    data = fs.cat("/bucket/tokenize/tokens/00001.arrow")
    fs.pipe("/bucket/tokenize/tokens/00001.arrow", data[:-1])
    with pytest.raises(DataError, match=r"^memory://bucket/tokenize/tokens/00001\.arrow: differs .* --from tokenize`"):
        sequences.read(range(sequences.count))
    fs.pipe("/bucket/tokenize/tokens/00001.arrow", data)
    assert len(sequences.read(range(sequences.count)).tokens_BT) == sequences.count
