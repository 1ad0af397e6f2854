"""Checkpoints: whole or not at all, checked before use, and the same bytes for the same training.

step-0000100/model.safetensors       parameters by name
             optimizer.safetensors   exp_avg.<name>, exp_avg_sq.<name>, step
             state.json              where the run stood, and the key of what it belongs to
             manifest.json           sizes and hashes of the three, written last
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from schemas import paths
from schemas.errors import DataError
from schemas.hashing import canonical_json
from schemas.manifest import MANIFEST

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
WRITING = ".writing"

log = logging.getLogger(__name__)


def name_of(step: int) -> str:
    return f"step-{step:07}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def steps_in(root: Path) -> list[int]:
    """Steps that have a checkpoint, whole or damaged, in order."""
    if not root.is_dir():
        return []
    return sorted(step_of(folder) for folder in root.iterdir() if re.fullmatch(r"step-\d{7,}", folder.name))


def save(root: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step; it appears by rename.

    Raises:
        DataError: it could not be written, for example because the disk is full. Nothing of it remains.
    """
    folder = root / name_of(step)
    writing = root / f"{name_of(step)}{WRITING}"
    try:
        paths.remove(str(writing))
        writing.mkdir(parents=True)
        # One metadata key at most: safetensors writes several in random order.
        save_file(dict(model.named_parameters()), writing / MODEL, metadata={"format": "pt"})
        save_file(_optimizer_tensors(model, optimizer), writing / OPTIMIZER, metadata={"format": "pt"})
        (writing / STATE).write_text(canonical_json(state) + "\n", "utf-8")
        hashes = {
            name: {"bytes": (writing / name).stat().st_size, "hash": paths.file_hash(str(writing / name))}
            for name in (MODEL, OPTIMIZER, STATE)
        }
        (writing / MANIFEST).write_text(canonical_json(hashes) + "\n", "utf-8")
        for path in (*sorted(writing.iterdir()), writing):
            _sync(path)
        paths.remove(str(folder))
        os.replace(writing, folder)
        _sync(root)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            paths.remove(str(writing))
        before = [known for known in steps_in(root) if known < step]
        rest = f"the run can go on from step {before[-1]}" if before else "there is none before it"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{folder}: the checkpoint could not be written ({reason}); {rest}. Make room and start again"
        ) from error
    return folder


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {"step": torch.zeros(())}  # before the first update there is nothing else
    for name, parameter in model.named_parameters():
        if state := optimizer.state.get(parameter):
            tensors["step"] = state["step"].cpu()  # of all parameters the same
            tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS}
    return tensors


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all as they were written.

    Raises:
        DataError: they are not.
    """
    try:
        hashes = json.loads((folder / MANIFEST).read_text("utf-8"))
        for name in (MODEL, OPTIMIZER, STATE):
            path, written = folder / name, hashes[name]
            if path.stat().st_size != written["bytes"] or paths.file_hash(str(path)) != written["hash"]:
                raise DataError(f"{folder}: {name} is not as it was written")
        state: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: is not a whole checkpoint ({error})") from error
    return state


def newest(root: Path, key: str | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The last good checkpoint and its state; damaged ones are skipped with a line in the log.

    Args:
        key: what the checkpoint must belong to; any if absent.

    Raises:
        DataError: the last good checkpoint belongs to another model or other data.
    """
    for step in reversed(steps_in(root)):
        folder = root / name_of(step)
        try:
            state = check(folder)
        except DataError as error:
            log.warning("%s; the checkpoint before it is used", error)
            continue
        if key is not None and state.get("key") != key:
            raise DataError(
                f"{folder}: belongs to another model, other data or another schedule (key {state.get('key')}, not "
                f"{key}); remove {root} to train anew, or go back to the recipe it was made with"
            )
        return folder, state
    return None


@torch.no_grad()
def load_model(folder: Path, model: nn.Module) -> None:
    tensors = _read(folder / MODEL)
    for name, parameter in model.named_parameters():
        parameter.copy_(_take(tensors, name, folder))


@torch.no_grad()
def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = _read(folder / OPTIMIZER)
    step = _take(tensors, "step", folder)
    if step == 0:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # A fused optimizer on a GPU keeps its step counts there.
            place = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
            optimizer.state[parameter] = {"step": step.to(place, copy=True)}
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            optimizer.state[parameter][moment] = _take(tensors, f"{moment}.{name}", folder).to(parameter.device)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _take(tensors: dict[str, torch.Tensor], name: str, folder: Path) -> torch.Tensor:
    if name not in tensors:
        raise DataError(f"{folder}: has no tensor '{name}'; it belongs to another model")
    return tensors[name]


def scheduled(ends: Collection[int], every: int, total: int) -> Iterator[int]:
    """Steps that get a checkpoint: 0, every so many, and the ends of stages."""
    return (step for step in range(total + 1) if step % every == 0 or step in ends)


def kept(step: int, ends: Collection[int], every: int, last: int) -> set[int]:
    """Steps whose checkpoints stay when that of `step` has been written: the last few scheduled, and ends of stages.

    It looks at the schedule and not at the disk, so that an interruption leaves no trace.
    """
    due = list(scheduled(ends, every, step))
    return {*due[-last:], *(end for end in ends if end <= step)}


def prune(root: Path, keep: Iterable[int]) -> None:
    """Remove all other checkpoints and what an interrupted writing left."""
    names = {name_of(step) for step in keep}
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith("step-") and folder.name not in names:
            paths.remove(str(folder))
