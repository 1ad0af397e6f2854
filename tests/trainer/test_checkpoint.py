"""Checkpoints: bytes, damage, other owners, full disks, and which of them stay."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from schemas.errors import DataError
from schemas.recipe import Optimizer
from trainer import checkpoint
from trainer.loop import make_optimizer
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import ModelConfig

CONFIG = ModelConfig(
    vocabulary_size=64, hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1, head_dim=8,
    tied_embeddings=True,
)  # fmt: skip


def trained(steps: int, seed: int = 0) -> tuple[Qwen3, torch.optim.AdamW]:
    model = build(CONFIG, seed)
    optimizer = make_optimizer(model, Optimizer())
    for step in range(steps):
        advance(model, optimizer, step)
    return model, optimizer


def advance(model: Qwen3, optimizer: torch.optim.AdamW, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    tokens = torch.arange(step, step + 8)[None] % 64
    model.logits(model(tokens)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def state(step: int, key: str = "k") -> dict[str, object]:
    return {"key": key, "step": step}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("steps", [0, 3])
def test_a_loaded_checkpoint_goes_on_bit_by_bit(tmp_path: Path, steps: int) -> None:
    model, optimizer = trained(steps)
    checkpoint.save(tmp_path, steps, model, optimizer, state(steps))
    found = checkpoint.newest(tmp_path, "k")
    assert found is not None
    assert found[1] == state(steps)
    other, other_optimizer = trained(0, seed=9)
    checkpoint.load_model(found[0], other)
    checkpoint.load_optimizer(found[0], other, other_optimizer)
    for step in (steps, steps + 1):
        advance(model, optimizer, step)
        advance(other, other_optimizer, step)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_the_same_training_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [checkpoint.save(tmp_path / name, 2, *trained(2), state(2)) for name in "ab"]
    assert content(folders[0]) == content(folders[1])
    assert set(content(folders[0])) == {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    with safe_open(folders[0] / "model.safetensors", framework="pt") as handle:
        assert len(handle.metadata()) <= 1


def test_saving_again_replaces(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, *trained(1), state(1, "old"))
    checkpoint.save(tmp_path, 1, *trained(1), state(1, "new"))
    assert checkpoint.newest(tmp_path, "new") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_checkpoint_is_skipped_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, *trained(step), state(step))
    path = tmp_path / "step-0000002" / name
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    if damage == "gone":
        path.unlink()
    found = checkpoint.newest(tmp_path, "k")
    assert found is not None
    assert found[1]["step"] == 1
    assert "step-0000002" in caplog.text
    assert "the checkpoint before it is used" in caplog.text


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, *trained(1), state(1))
    (tmp_path / "step-0000002.writing").mkdir()
    assert checkpoint.steps_in(tmp_path) == [1]
    checkpoint.prune(tmp_path, {1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]
    assert checkpoint.newest(tmp_path / "nothing here") is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, *trained(1), state(1, "theirs"))
    with pytest.raises(DataError, match=r"step-0000001: belongs to another model.*remove"):
        checkpoint.newest(tmp_path, "mine")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails as on a full disk (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    checkpoint.save(tmp_path, 1, model, optimizer, state(1))
    before = content(tmp_path / "step-0000001")
    with largest_file(2000), pytest.raises(DataError, match=r"could not be written \(.*go on from step 1"):
        checkpoint.save(tmp_path, 2, model, optimizer, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]
    assert content(tmp_path / "step-0000001") == before


@settings(max_examples=200)
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.sets(st.integers(1, 30), min_size=1, max_size=4),
    st.sets(st.integers(1, 30), max_size=5),
)
def test_interruptions_do_not_change_what_is_kept(every: int, last: int, ends: set[int], stops: set[int]) -> None:
    """A run that is stopped, and saves off the schedule, ends with the checkpoints of one that is not."""
    disk: set[int] = set()
    for step in range(max(ends) + 1):
        if step % every == 0 or step in ends or step in stops:
            disk = (disk | {step}) & {step, *checkpoint.kept(step, ends, every, last)}
        assert not disk or max(disk) <= step
    due = [step for step in range(max(ends) + 1) if step % every == 0 or step in ends]
    assert disk == {*due[-last:], *ends}


def test_state_is_canonical_json(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 0, *trained(0), {"step": 0, "key": "k", "a": [1.5, None]})
    text = (folder / "state.json").read_text()
    assert text == '{"a":[1.5,null],"key":"k","step":0}\n'
    assert json.loads((folder / "manifest.json").read_text()).keys() == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
