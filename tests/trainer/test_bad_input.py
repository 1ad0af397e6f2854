"""Trainings that meet bad data on their way: one message, whole checkpoints, and the same end after a repair."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from schemas.errors import DataError
from schemas.job import Job
from schemas.tables import read_table
from tests.trainer.conftest import Toy, write_packs
from tests.trainer.test_data import flip, rewrite
from tests.trainer.test_loop import outcome
from trainer import checkpoint
from trainer.loop import CHECKPOINTS
from trainer.stages import pretrain


class During:
    """Does something when the training has done so many tokens."""

    def __init__(self, tokens: int, change: Callable[[], object]) -> None:
        self.tokens, self.change = tokens, change

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        if done == self.tokens:
            self.change()


def late(toy: Toy) -> Toy:
    """The toy with a first stage that reads nothing of the last shard."""
    packs = dict(toy.packs)
    packs["s1"] = [sequence for sequence in packs["s1"] if all(shard < 2 for shard, *_ in sequence)]
    write_packs(toy.root / "pack", packs, {"s1": 32, "s2": 64, "validation": 32})
    toy.add_mix(cells={f"english/{domain}/{bin}": "*/*/*" for domain in ("code", "prose") for bin in range(2)})
    return toy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 8), r"has \d+ bytes, not \d+"),
        (flip, r"has hash [0-9a-f]{32}, not [0-9a-f]{32}"),
    ],
)
def test_a_shard_damaged_in_mid_run_ends_it_until_it_is_repaired(
    toy_factory: Callable[..., Toy], damage: Callable[[Path], object], words: str
) -> None:
    toy = late(toy_factory(validation=False))
    whole = toy.job("whole")
    pretrain(whole)
    job = toy.job("damaged")
    path = Path(job.inputs["tokenize"]) / "tokens/00002.arrow"
    data = path.read_bytes()
    broken = Job(job.recipe, job.inputs, job.output, During(5 * 4 * 32, lambda: damage(path)))
    with pytest.raises(DataError, match=rf"^{path}: .*{words}") as error:
        pretrain(broken)
    assert "\n" not in str(error.value)
    found = checkpoint.newest(Path(job.output) / CHECKPOINTS)
    assert found is not None and found[1]["step"] == 7  # the whole first stage
    assert not list(Path(job.output).rglob("*.writing"))
    path.write_bytes(data)
    pretrain(job)
    assert outcome(Path(job.output))[0] == outcome(Path(whole.output))[0]


def test_bad_data_is_refused_before_anything_is_written(toy: Toy) -> None:
    stages = [dict(stage) for stage in toy.recipe["pretrain"]["stages"]]
    stages[1] |= {"sequence_length": 128}
    job = toy.job("length", stages=stages)
    with pytest.raises(DataError, match=r"s2/pack\.arrow: packed for 64 tokens a sequence, stage s2 asks for 128"):
        pretrain(job)
    assert not list(Path(job.output).iterdir())

    path = Path(job.inputs["tokenize"]) / "tokens/00002.arrow"
    data = path.read_bytes()
    os.truncate(path, len(data) // 2)
    job = toy.job("short")
    with pytest.raises(DataError, match=rf"00002\.arrow: .* has {len(data) // 2} bytes, not {len(data)}; bring"):
        pretrain(job)
    assert not list(Path(job.output).iterdir())
    path.write_bytes(data)
    flip(Path(job.inputs["pack"]) / "s2/pack.arrow")
    with pytest.raises(DataError, match=r"s2/pack\.arrow: differs .* --from pack`"):
        pretrain(job)
    assert not list(Path(job.output).iterdir())


def test_a_token_outside_the_vocabulary_ends_a_training_with_its_checkpoints_whole(
    toy_factory: Callable[..., Toy],
) -> None:
    toy = late(toy_factory(validation=False))
    table = read_table(f"{toy.inputs['tokenize']}/tokens/00002.arrow")
    rows = table.to_pylist()
    for row in rows:
        row["tokens"][-1] = 282
    rewrite(toy.inputs["tokenize"], "tokens/00002.arrow", pa.Table.from_pylist(rows, schema=table.schema))
    job = toy.job()
    with pytest.raises(DataError, match=r"00002\.arrow, row \d+: token 282 is not below the vocabulary size 282; make"):
        pretrain(job)
    found = checkpoint.newest(Path(job.output) / CHECKPOINTS)
    assert found is not None and found[1]["step"] >= 7


def test_a_training_on_remote_files_is_that_on_local_ones(toy: Toy, tmp_path: Path) -> None:
    toy.add_mix(cells={f"english/{domain}/{bin}": "*/*/*" for domain in ("code", "prose") for bin in range(2)})
    local = toy.job("local")
    pretrain(local)
    fs = fsspec.filesystem("memory")
    shards = [path.stat().st_size for path in Path(toy.inputs["tokenize"]).rglob("*.arrow")]
    packs = [path.stat().st_size for path in Path(toy.inputs["pack"]).rglob("*.arrow")]
    for name in ("tokenizer", "tokenize", "pack", "mix"):
        fs.put(toy.inputs[name], f"/training/{name}", recursive=True)
        toy.inputs[name] = f"memory://training/{name}"
    bound = sum(packs) + max(shards)
    remote = toy.job("remote", cache_bytes=bound, cache_folder=str(tmp_path / "cache"))
    try:
        pretrain(remote)
    finally:
        fs.rm("/training", recursive=True)
    assert outcome(Path(remote.output))[0] == outcome(Path(local.output))[0]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= bound
