"""Checkpoints: bytes, damage, other owners, full disks, kills, and which of them stay."""

import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, zeros

from schemas import paths
from schemas.errors import DataError, Interrupted
from schemas.hashing import canonical_json
from schemas.paths import file_hash
from schemas.recipe import Optimizer
from tests.trainer.test_loop import outcome
from trainer import checkpoint
from trainer.checkpoint import MODEL, MOMENTS, OPTIMIZER, STATE
from trainer.loop import make_optimizer
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import ModelConfig
from trainer.prompt import load_model
from trainer.stages import pretrain

CONFIG = ModelConfig(
    vocabulary_size=64, hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1, head_dim=8,
    tied_embeddings=True,
)  # fmt: skip
MANIFEST = "manifest.json"
FORK = multiprocessing.get_context("fork")  # a process of its own at once, without imports


def trained(steps: int, seed: int = 0, config: ModelConfig = CONFIG) -> tuple[Qwen3, torch.optim.AdamW]:
    model = build(config, seed)
    optimizer = make_optimizer(model, Optimizer())
    for step in range(steps):
        advance(model, optimizer, step)
    return model, optimizer


def advance(model: Qwen3, optimizer: torch.optim.AdamW, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    tokens = torch.arange(step, step + 8)[None] % 64
    loss = model.logits(model(tokens)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def state(step: int, key: str = "k") -> dict[str, object]:
    return {"key": key, "step": step}


def save(root: Path, step: int, model: Qwen3, optimizer: torch.optim.AdamW, state: dict[str, Any]) -> Path:
    """Save and wait."""
    with closing(checkpoint.Saver(root)) as saver:
        saver.save(step, model, optimizer, state)
    return root / checkpoint.name_of(step)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# ---------------------------------------------------------------------------------------------------------------
# Save and load


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("before", [0, 2])
def test_a_loaded_checkpoint_goes_on_bit_by_bit(tmp_path: Path, steps: int, before: int) -> None:
    """Loaded into a new model and, as when a run rolls back, into one in the middle of its training."""
    model, optimizer = trained(steps)
    save(tmp_path, steps, model, optimizer, state(steps))
    other, other_optimizer = trained(before, seed=9)
    assert checkpoint.load_newest(tmp_path, other, other_optimizer, "k") == state(steps)
    for step in range(steps, steps + 20):
        assert advance(model, optimizer, step) == advance(other, other_optimizer, step)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
    alone = build(CONFIG, 9)
    checkpoint.load(tmp_path / checkpoint.name_of(steps), alone)
    assert torch.equal(alone.get_parameter("norm.weight"), trained(steps)[0].get_parameter("norm.weight"))


def test_the_same_training_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [save(tmp_path / name, 2, *trained(2), state(2)) for name in "ab"]
    assert content(folders[0]) == content(folders[1])
    assert set(content(folders[0])) == {MANIFEST, MODEL, OPTIMIZER, STATE}
    with safe_open(folders[0] / MODEL, framework="pt") as handle:
        assert len(handle.metadata()) <= 1


def test_the_files_hold_the_tensors_by_name(tmp_path: Path) -> None:
    model, optimizer = trained(2)
    folder = save(tmp_path, 2, model, optimizer, state(2))
    parameters = dict(model.named_parameters())
    stored = load_file(folder / MODEL)
    assert stored.keys() == parameters.keys()
    assert all(torch.equal(stored[name], parameter) for name, parameter in parameters.items())
    moments = load_file(folder / OPTIMIZER)
    assert moments.pop("step") == 2
    assert moments.keys() == {f"{moment}.{name}" for name in parameters for moment in MOMENTS}
    assert all(
        torch.equal(moments[f"{moment}.{name}"], optimizer.state[parameter][moment])
        for name, parameter in parameters.items()
        for moment in MOMENTS
    )


def test_state_is_canonical_json(tmp_path: Path) -> None:
    folder = save(tmp_path, 0, *trained(0), {"step": 0, "key": "k", "a": [1.5, None]})
    assert (folder / STATE).read_text() == '{"a":[1.5,null],"key":"k","step":0}\n'
    assert json.loads((folder / MANIFEST).read_text()).keys() == {MODEL, OPTIMIZER, STATE}


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, 1, *trained(1), state(1, "old"))
    save(tmp_path, 1, *trained(1), state(1, "new"))
    assert checkpoint.newest(tmp_path, "new") is not None
    assert names(tmp_path) == ["step-0000001"]


def load_half(rank: int, meet: Path, folder: Path, count: int) -> None:
    """One rank of two, with half of the rows of every matrix."""
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole = load_file(folder / MODEL) | load_file(folder / OPTIMIZER)
    rows = {name: tensor for name, tensor in whole.items() if tensor.ndim}
    halves = {name: zeros(*tensor.shape, device_mesh=mesh, placements=[Shard(0)]) for name, tensor in rows.items()}
    dcp.load(halves, storage_reader=dcp.HuggingFaceStorageReader(str(folder)))
    assert len(halves) == count
    for name, half in halves.items():
        assert torch.equal(half.to_local(), rows[name].chunk(2)[rank]), name
    dist.destroy_process_group()


def test_other_numbers_of_ranks_load_it_with_torch_alone(tmp_path: Path) -> None:
    model, optimizer = trained(2)
    folder = save(tmp_path, 2, model, optimizer, state(2))
    count = 3 * len(list(model.parameters()))
    ranks = [FORK.Process(target=load_half, args=(rank, tmp_path / "meet", folder, count)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0


# ---------------------------------------------------------------------------------------------------------------
# In the background


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written when the event is set."""
    event = threading.Event()

    def write(*arguments: Any, **options: Any) -> None:
        assert event.wait(60)
        save_file(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_file", write)
    return event


def test_training_goes_on_while_the_files_are_written(tmp_path: Path, slow_disk: threading.Event) -> None:
    """They hold what was when the save began, though the optimizer writes over its tensors."""
    model, optimizer = trained(3)
    with closing(checkpoint.Saver(tmp_path)) as saver:
        saver.save(3, model, optimizer, state(3))
        for step in range(3, 6):
            advance(model, optimizer, step)
        saver.poll()
        assert checkpoint.steps_in(tmp_path) == []
        slow_disk.set()
    assert content(tmp_path / "step-0000003") == content(save(tmp_path / "other", 3, *trained(3), state(3)))


def test_one_save_is_under_way_at_a_time(tmp_path: Path, slow_disk: threading.Event) -> None:
    model, optimizer = trained(1)
    with closing(checkpoint.Saver(tmp_path)) as saver:
        saver.save(1, model, optimizer, state(1))
        threading.Timer(0.2, slow_disk.set).start()
        saver.save(2, model, optimizer, state(2))
        assert 1 in checkpoint.steps_in(tmp_path)
        saver.wait()
        assert checkpoint.steps_in(tmp_path) == [1, 2]


def test_saves_share_their_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[set[int]] = []

    def write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if path.name == MODEL:
            places.append({tensor.data_ptr() for tensor in tensors.values()})
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", write)
    model, optimizer = trained(1)
    with closing(checkpoint.Saver(tmp_path)) as saver:
        for step in range(3):
            saver.save(step, model, optimizer, state(step))
    assert places[0] == places[1] == places[2]
    assert not places[0] & {parameter.data_ptr() for parameter in model.parameters()}


# ---------------------------------------------------------------------------------------------------------------
# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sign(folder: Path) -> None:
    """Write a manifest that fits the files."""
    entries = {
        name: {"bytes": (folder / name).stat().st_size, "hash": file_hash(str(folder / name))}
        for name in (MODEL, OPTIMIZER, STATE)
    }
    (folder / MANIFEST).write_text(canonical_json(entries))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def no_tensors(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"none")
    sign(folder)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / MODEL)
    change(tensors)
    save_file(tensors, folder / MODEL)
    sign(folder)


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{
        f"{damage.__name__} {name}": functools.partial(lambda damage, name, folder: damage(folder / name), damage, name)
        for damage in (flip, cut, Path.unlink)
        for name in (MODEL, OPTIMIZER, STATE, MANIFEST)
    },
    "no files": empty,
    "empty manifest": lambda folder: (folder / MANIFEST).write_text("{}"),
    "list as manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
    "foreign file": lambda folder: save_file({"more": torch.zeros(2)}, folder / "more.safetensors"),
    "foreign shape": lambda folder: change_tensors(folder, lambda t: t.update({"norm.weight": torch.zeros(17)})),
    "foreign type": lambda folder: change_tensors(folder, lambda t: t.update({"norm.weight": torch.zeros(16).half()})),
    "missing tensor": lambda folder: change_tensors(folder, lambda t: t.pop("norm.weight")),
    "foreign tensor": lambda folder: change_tensors(folder, lambda t: t.update({"more": torch.zeros(1)})),
    "no tensors": no_tensors,
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        save(root, step, *trained(step), state(step))
    return root


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    for folder in two.iterdir():
        (tmp_path / folder.name).mkdir()
        for name, data in content(folder).items():
            (tmp_path / folder.name / name).write_bytes(data)
    DAMAGES[damage](tmp_path / "step-0000002")
    model, optimizer = trained(0, seed=5)
    assert checkpoint.load_newest(tmp_path, model, optimizer, "k") == state(1)
    (said,) = (record.getMessage() for record in caplog.records if record.name == "trainer.checkpoint")
    assert "step-0000002" in said
    assert said.endswith("the checkpoint before it is used")
    expected = trained(1)[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name))


def test_tensors_of_another_model_are_refused_and_change_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, *trained(1), state(1))
    wider = ModelConfig(**{**CONFIG.__dict__, "intermediate_size": 48})
    model, optimizer = trained(1, 3, wider)
    with pytest.raises(
        DataError, match=r"step-0000001: tensor '.*' is \(.*\) torch.float32 there and \(.*\) .* another model"
    ):
        checkpoint.load(folder, model, optimizer)
    untouched = trained(1, 3, wider)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched[0].parameters()))
    assert advance(model, optimizer, 1) == advance(*untouched, 1)


def test_newest_at_or_before_a_step(two: Path) -> None:
    found = [checkpoint.load_newest(two, *trained(0), "k", at_most) for at_most in (0, 1, 2, 9)]
    assert [one and one["step"] for one in found] == [None, 1, 2, 2]


@pytest.mark.parametrize("damage", ["flip model.safetensors", "missing tensor"])
def test_where_no_checkpoint_is_whole_nothing_is_trained_or_removed(toy: Any, damage: str) -> None:
    job = toy.job(stages=toy.recipe["pretrain"]["stages"][:1])
    pretrain(job)
    root = Path(job.output) / "checkpoints"
    steps = checkpoint.steps_in(root)
    for step in steps:
        DAMAGES[damage](root / checkpoint.name_of(step))
    files = {path: path.stat().st_mtime_ns for path in Path(job.output).rglob("*")}
    with pytest.raises(DataError, match=rf"none of the {len(steps)} checkpoints is whole.*remove {root} to") as error:
        pretrain(job)
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in Path(job.output).rglob("*")} == files
    shutil.rmtree(root)
    pretrain(job)
    assert checkpoint.steps_in(root) == steps


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open nothing that it has not opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_checkpoint_that_cannot_be_read_is_no_damaged_one(two: Path, tmp_path: Path) -> None:
    """The one before it would cost steps that are whole on the disk."""
    root = tmp_path / "root"
    shutil.copytree(two, root)
    for read in (checkpoint.check, checkpoint.load_newest):
        with no_more_files(), pytest.raises(DataError, match="cannot be read: Too many open files") as error:
            read(root / "step-0000002") if read is checkpoint.check else read(root, *trained(0), "k")
        assert not isinstance(error.value, checkpoint.Damaged)
    path = root / "step-0000002" / OPTIMIZER
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match="step-0000002: cannot be read: Too many levels of symbolic links"):
        checkpoint.load_newest(root, *trained(0), "k")


def test_what_cannot_be_removed_stays_and_the_save_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained(1)
    save(tmp_path, 1, model, optimizer, state(1))
    remove = paths.remove

    def refuse(path: str) -> None:  # a disk that can only be read would also refuse the save
        if path.endswith("step-0000001"):
            raise PermissionError(13, "Permission denied")
        remove(path)

    monkeypatch.setattr(paths, "remove", refuse)
    with closing(checkpoint.Saver(tmp_path)) as saver:
        saver.save(2, model, optimizer, state(2), lambda step: step == 2)
        saver.wait()
        assert "step-0000001: cannot be removed" in caplog.text
        assert checkpoint.steps_in(tmp_path) == [1, 2]
        monkeypatch.undo()
        saver.save(3, model, optimizer, state(3), lambda step: step == 3)
    assert checkpoint.steps_in(tmp_path) == [3]


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1, *trained(1), state(1))
    (tmp_path / "step-0000002.writing").mkdir()
    assert checkpoint.steps_in(tmp_path) == [1]
    checkpoint.prune(tmp_path, lambda step: True)
    assert names(tmp_path) == ["step-0000001"]
    assert checkpoint.newest(tmp_path / "nothing here") is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, *trained(1), state(1, "theirs"))
    with pytest.raises(DataError, match=r"step-0000001: belongs to another model.*remove"):
        checkpoint.load_newest(tmp_path, *trained(0), "mine")


def test_text_is_generated_from_the_newest_whole_checkpoint(toy: Any) -> None:
    job = toy.job("out", stages=toy.recipe["pretrain"]["stages"][:1])
    pretrain(job)
    root = Path(job.output) / "checkpoints"
    cut(root / "step-0000007" / MODEL)
    model, _ = load_model(job.output)
    stored = load_file(root / "step-0000006" / MODEL)
    assert all(torch.equal(stored[name], parameter) for name, parameter in model.named_parameters())


# ---------------------------------------------------------------------------------------------------------------
# A full disk


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails as on a full disk (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("surface", ["poll", "wait", "save", "close"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, surface: str) -> None:
    model, optimizer = trained(1)
    saver = checkpoint.Saver(tmp_path)
    saver.save(1, model, optimizer, state(1))
    saver.wait()
    before = content(tmp_path / "step-0000001")
    with largest_file(2000):
        saver.save(2, model, optimizer, state(2), lambda step: step == 2)
        deadline = time.monotonic() + 30
        with pytest.raises(DataError, match=r"step-0000002: .* not be written \(.*go on from step 1\. Make room"):
            if surface == "save":
                saver.save(3, model, optimizer, state(3))
            while time.monotonic() < deadline:
                getattr(saver, surface)()
                time.sleep(0.001)
    assert names(tmp_path) == ["step-0000001"]
    assert content(tmp_path / "step-0000001") == before
    if surface != "close":
        saver.save(4, model, optimizer, state(4))  # room was made
        saver.close()
        assert checkpoint.steps_in(tmp_path) == [1, 4]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A file system of `size` bytes at a folder; answers with what makes it larger."""
    folder.mkdir(parents=True)

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0

    if not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        pytest.skip("only root mounts a file system")
    try:
        yield lambda size: assert_true(mount("-o", f"remount,size={size}"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def assert_true(value: bool) -> None:
    assert value


@pytest.mark.parametrize("room", [2, 5])
def test_a_training_that_filled_the_disk_goes_on_when_there_is_room(toy: Any, room: int) -> None:
    """In the middle and at the last step, of checkpoints at 0 (a third of the size), 3, 6, 7, 9 and 12."""
    whole = toy.job("whole", keep_every=3)
    pretrain(whole)
    size = sum(path.stat().st_size for path in Path(whole.output).glob("checkpoints/step-0000012/*"))
    job = toy.job("parts", keep_every=3)
    root = Path(job.output) / "checkpoints"
    before = {2: [0, 3], 5: [0, 3, 6, 7, 9]}[room]
    with small_disk(root, room * size // 4096 * 4096) as enlarge:
        message = rf"not be written \(.*No space left .*go on from step {before[-1]}\. Make room"
        with pytest.raises(DataError, match=message):
            pretrain(job)
        assert names(root) == [checkpoint.name_of(step) for step in before]
        enlarge(10 * size)
        pretrain(job)
        assert outcome(Path(job.output)) == outcome(Path(whole.output))


# ---------------------------------------------------------------------------------------------------------------
# Kills


def train(job: Any) -> None:
    try:
        pretrain(job)
    except Interrupted as stop:
        (Path(job.output) / "stopped").write_text(str(stop))


def send(number: int, job: Any, when: Callable[[], bool]) -> bool:
    """Train in a process of its own and send it a signal; False if it was done before."""
    process = FORK.Process(target=train, args=(job,))
    process.start()
    while process.is_alive() and not when():
        time.sleep(0.0005)
    alive = process.is_alive()
    if alive and process.pid:
        os.kill(process.pid, number)
    process.join()
    assert process.exitcode in (0, -number)
    return alive and not (number == signal.SIGKILL and process.exitcode == 0)


def check_kills(toy: Any, kills: int, seed: int) -> None:
    """At random moments, and in the middle of every other save: the same bytes and lines as without."""
    whole = toy.job("whole", checkpoint_every=1)
    began = time.monotonic()
    pretrain(whole)
    seconds = time.monotonic() - began
    job = toy.job("killed", checkpoint_every=1)
    root = Path(job.output) / "checkpoints"
    chance = random.Random(seed)
    done = halves = 0
    while done < kills:
        when = in_save(root, chance) if done % 2 else after(chance.uniform(0.1, 0.9) * seconds)
        if send(signal.SIGKILL, job, when):
            done += 1
            halves += any(root.glob("*.writing"))
        else:
            shutil.rmtree(root)  # it was done too soon
    assert halves
    pretrain(job)
    assert outcome(Path(job.output)) == outcome(Path(whole.output))


def after(seconds: float) -> Callable[[], bool]:
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


def in_save(root: Path, chance: random.Random) -> Callable[[], bool]:
    """When some file of some checkpoint is there and the checkpoint is not."""
    step, file = chance.randrange(10), chance.choice([".", MODEL, OPTIMIZER, STATE, MANIFEST])
    return lambda: any((folder / file).exists() for folder in root.glob(f"*{step}.writing"))


def test_killed_at_any_moment_and_started_again_the_run_is_the_same(toy: Any) -> None:
    check_kills(toy, 4, seed=1)


@pytest.mark.slow
def test_killed_many_times_the_run_is_the_same(toy: Any) -> None:
    check_kills(toy, 60, seed=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_save_saves_and_ends(toy: Any, number: signal.Signals) -> None:
    job = toy.job(checkpoint_every=1)
    root = Path(job.output) / "checkpoints"
    assert send(number, job, lambda: any(root.glob("*[2-6].writing")))
    found = checkpoint.newest(root)
    assert found is not None
    stopped = (Path(job.output) / "stopped").read_text()
    assert stopped == f"stopped at step {found[1]['step']} of 12; start again to go on"
    assert not list(root.glob("*.writing"))


# ---------------------------------------------------------------------------------------------------------------
# Which stay


@settings(max_examples=200)
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.none() | st.integers(1, 3),
    st.sets(st.integers(1, 30), min_size=1, max_size=4),
    st.sets(st.integers(1, 30), max_size=5),
)
def test_interruptions_do_not_change_what_is_kept(
    every: int, last: int, times: int | None, ends: set[int], stops: set[int]
) -> None:
    """A run that is stopped, and saves off the schedule, ends with the checkpoints of one that is not."""
    for_good = None if times is None else times * every
    disk: set[int] = set()
    for step in range(max(ends) + 1):
        if step % every == 0 or step in ends or step in stops:
            stays = checkpoint.kept(step, ends, every, last, for_good)
            assert stays(step)
            disk = {one for one in disk | {step} if stays(one)}
    due = [step for step in range(max(ends) + 1) if step % every == 0 or step in ends]
    assert disk == {*due[-last:], *ends, *(step for step in due if for_good and step % for_good == 0)}


def test_checkpoints_at_multiples_of_keep_every_are_kept_for_good(toy: Any) -> None:
    job = toy.job(checkpoint_every=2, keep_checkpoints=1, keep_every=4)
    pretrain(job)
    assert checkpoint.steps_in(Path(job.output) / "checkpoints") == [0, 4, 7, 8, 12]
    with pytest.raises(ValueError, match=r"keep_every \(5\) must be a multiple of checkpoint_every \(2\)"):
        toy.job(checkpoint_every=2, keep_every=5)
