"""Checkpoints: whole or not at all, checked before use, written while the training goes on.

step-0000100/model.safetensors       parameters by name
             optimizer.safetensors   exp_avg.<name>, exp_avg_sq.<name>, step
             state.json              where the run stood, and the key of what it belongs to
             manifest.json           sizes and hashes of the three, written last

They go through torch's distributed checkpoint (DCP), whose own reader of safetensors loads the folder into the shards
of any number of ranks. The same training gives the same bytes. Nothing here is pickled.
"""

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import WriteResult

from schemas import paths
from schemas.errors import DataError
from schemas.hashing import canonical_json
from schemas.manifest import MANIFEST

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"  # the updates done, of all parameters the same
WRITING = ".writing"

log = logging.getLogger(__name__)


class Damaged(DataError):
    """Of a checkpoint that is not as it was written; any other error says nothing about the files."""


# Rank 0 writes for all, and DCP remarks on that each time.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def name_of(step: int) -> str:
    return f"step-{step:07}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def steps_in(root: Path) -> list[int]:
    """Steps that have a checkpoint, whole or damaged, in order. DataError if the folder cannot be read."""
    try:
        return sorted(step_of(folder) for folder in root.iterdir() if re.fullmatch(r"step-\d{7,}", folder.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(root, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path}: cannot be read: {reason}; nothing was removed, start again when it can")


# ---------------------------------------------------------------------------------------------------------------
# Writing


class Saver:
    """Writes the checkpoints of one folder in the background, one at a time.

    The state is copied before `save` returns, into buffers that all saves share; they take as much memory as the state
    itself, outside a GPU. What goes wrong in the background is raised by the next call of any method.

    Args:
        pinned: the state lies on a GPU, so the buffers are in pinned memory.
    """

    def __init__(self, root: Path, pinned: bool = False) -> None:
        self.root = root
        self._stager = DefaultStager(StagingOptions(pinned, False, False, pinned))
        self._under_way: tuple[int, Future[Metadata]] | None = None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        stays: Callable[[int], bool] = lambda step: True,
    ) -> None:
        """Start to write the checkpoint of a step, after the one under way if there is one; it appears by rename.

        Args:
            state: what is no tensor.
            stays: tells which checkpoints stay when this one is written.

        Raises:
            DataError: the checkpoint before could not be written.
        """
        self.wait()
        writer = _Writer(self.root, step, canonical_json(state) + "\n", stays)
        tensors = _tensors(model, optimizer)
        future = dcp.async_save(tensors, storage_writer=writer, async_stager=self._stager, no_dist=True)
        assert isinstance(future, Future)
        self._under_way = step, future

    def poll(self) -> None:
        """Notice a failure without waiting.

        Raises:
            DataError: the last checkpoint could not be written.
        """
        if self._under_way is not None and self._under_way[1].done():
            self.wait()

    def wait(self) -> None:
        """Return when no save is under way.

        Raises:
            DataError: the last checkpoint could not be written, for example because the disk is full. Nothing of it
                remains.
        """
        if self._under_way is None:
            return
        (step, future), self._under_way = self._under_way, None
        try:
            future.result()
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            if not isinstance(cause, OSError | SafetensorError):
                raise cause from None
            before = [known for known in steps_in(self.root) if known < step]
            rest = f"the run can go on from step {before[-1]}" if before else "there is none before it"
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
            raise DataError(
                f"{self.root / name_of(step)}: the checkpoint could not be written ({reason}); {rest}. "
                "Make room and start again"
            ) from cause

    def close(self) -> None:
        """Wait, and let go of the buffers."""
        try:
            self.wait()
        finally:
            self._stager.close()


class _Writer(dcp.StorageWriter):
    """What DCP writes one checkpoint with.

    Its own writer of safetensors gives other bytes each time, and holds the whole file in memory.
    """

    def __init__(self, root: Path, step: int, state: str, stays: Callable[[int], bool]) -> None:
        self.root, self.step, self.state, self.stays = root, step, state, stays
        self.writing = root / f"{name_of(step)}{WRITING}"

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass  # one rank writes

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        with self._nothing_half_written():
            paths.remove(str(self.writing))
            self.writing.mkdir(parents=True)
            parts: dict[str, dict[str, torch.Tensor]] = {MODEL: {}, OPTIMIZER: {}}
            for item in plan.items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor)
                parts[_file_of(item.index.fqn)][item.index.fqn] = tensor
            for file, tensors in parts.items():
                # One metadata key at most: safetensors writes several in random order.
                save_file(tensors, self.writing / file, metadata={"format": "pt"})
        done: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        done.set_result([])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        with self._nothing_half_written():
            (self.writing / STATE).write_text(self.state, "utf-8")
            hashes = {
                name: {"bytes": (self.writing / name).stat().st_size, "hash": paths.file_hash(str(self.writing / name))}
                for name in (MODEL, OPTIMIZER, STATE)
            }
            (self.writing / MANIFEST).write_text(canonical_json(hashes) + "\n", "utf-8")
            for path in (*sorted(self.writing.iterdir()), self.writing):
                _sync(path)
            folder = self.root / name_of(self.step)
            paths.remove(str(folder))
            os.replace(self.writing, folder)
            _sync(self.root)
        prune(self.root, self.stays)

    @contextlib.contextmanager
    def _nothing_half_written(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                paths.remove(str(self.writing))
            raise

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors[STEP] = torch.zeros(())  # before the first update there is nothing else of the optimizer
    for name, parameter in model.named_parameters():
        if state := optimizer.state.get(parameter):
            tensors[STEP] = state["step"]
            tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS}
    return tensors


def _file_of(name: str) -> str:
    return OPTIMIZER if name == STEP or name.startswith(tuple(f"{moment}." for moment in MOMENTS)) else MODEL


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------------------------
# Reading


def check(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all as they were written.

    Raises:
        Damaged: they are not, or one is missing.
        DataError: they cannot be read.
    """
    try:
        hashes = json.loads((folder / MANIFEST).read_text("utf-8"))
        # DCP reads every file of the kind that it finds.
        if foreign := {path.name for path in folder.glob("*.safetensors")} - {MODEL, OPTIMIZER}:
            raise Damaged(f"{folder}: {min(foreign)} is no file of a checkpoint")
        for name in (MODEL, OPTIMIZER, STATE):
            path, written = folder / name, hashes[name]
            if path.stat().st_size != written["bytes"] or paths.file_hash(str(path)) != written["hash"]:
                raise Damaged(f"{folder}: {name} is not as it was written")
        state: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder}: is not a whole checkpoint ({error})") from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    return state


def newest(root: Path, key: str | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint and its state, None where there is no checkpoint at all.

    Damaged ones are skipped with a line in the log. A save under way is none yet: `Saver.wait` comes first.

    Args:
        key: what the checkpoint must belong to; any if absent.

    Raises:
        DataError: there are checkpoints and none is whole, one cannot be read, or the last whole one belongs to another
            model or other data.
    """
    return _newest(root, key, lambda folder: None)


def load_newest(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, key: str | None = None, at_most: int | None = None
) -> dict[str, Any] | None:
    """Load the last checkpoint of `newest` whose tensors are those of the model; returns its state.

    With `at_most` the last one of that step or before.

    None says that there is no checkpoint at all, and that the model is unchanged. After a DataError it may be half
    loaded.
    """
    found = _newest(root, key, lambda folder: load(folder, model, optimizer), at_most)
    return None if found is None else found[1]


def _newest(
    root: Path, key: str | None, use: Callable[[Path], None], at_most: int | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint that is whole for `check` and for `use`."""
    steps = [step for step in steps_in(root) if at_most is None or step <= at_most]
    for step in reversed(steps):
        folder = root / name_of(step)
        try:
            state = check(folder)
            if key is not None and state.get("key") != key:
                raise DataError(
                    f"{folder}: belongs to another model, other data or another schedule (key {state.get('key')}, not "
                    f"{key}); remove {root} to train anew, or go back to the recipe it was made with"
                )
            use(folder)
        except Damaged as error:
            log.warning("%s%s", error, "; the checkpoint before it is used" if step > steps[0] else "")
            continue
        return folder, state
    if steps:
        raise DataError(
            f"{root}: none of the {len(steps)} checkpoints is whole, so the run cannot go on; bring one back, or "
            f"remove {root} to train anew"
        )
    return None


@torch.no_grad()
def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Overwrite the parameters, and the state of the optimizer if one is given, by those of a checkpoint.

    It may be called in the middle of a training. The files are not compared with their hashes: see `check`.

    Raises:
        Damaged: the files hold no tensors or other ones than the model, which is unchanged.
        DataError: the files cannot be read; the model may be half overwritten.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        written = reader.read_metadata().state_dict_metadata
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder}: cannot be read: {error}") from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    wanted: dict[str, torch.Tensor] = dict(model.named_parameters())
    updated = any(name.startswith(MOMENTS) for name in written)
    if optimizer is None:
        written = {name: written[name] for name in written if _file_of(name) == MODEL}
    else:
        wanted[STEP] = torch.zeros(())
        for name, parameter in model.named_parameters() if updated else ():
            state = optimizer.state.get(parameter)
            wanted |= {
                f"{moment}.{name}": state[moment] if state else torch.empty_like(parameter) for moment in MOMENTS
            }
    _must_be_alike(folder, written, wanted)
    try:
        dcp.load(dict(wanted), storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if not isinstance(cause, Exception):
            raise cause from None
        raise _unreadable(folder, cause) from error
    if optimizer is not None:
        _put_state(model, optimizer, wanted if updated else None)


def _must_be_alike(folder: Path, written: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    for name in sorted(wanted.keys() | written.keys()):
        if name not in written or name not in wanted:
            has = "has no" if name in wanted else "has a"
            raise Damaged(f"{folder}: {has} tensor '{name}'; it belongs to another model")
        there = (tuple(written[name].size), written[name].properties.dtype)
        if there != (tuple(wanted[name].shape), wanted[name].dtype):
            raise Damaged(
                f"{folder}: tensor '{name}' is {there[0]} {there[1]} there and {tuple(wanted[name].shape)} "
                f"{wanted[name].dtype} here; it belongs to another model"
            )


def _put_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor] | None) -> None:
    """Give an optimizer the state it had, or none."""
    optimizer.state.clear()
    if tensors is None:
        return
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # A fused optimizer on a GPU keeps its step counts there.
            place = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
            moments = {moment: tensors[f"{moment}.{names[parameter]}"] for moment in MOMENTS}
            optimizer.state[parameter] = {"step": tensors[STEP].to(place, copy=True), **moments}


# ---------------------------------------------------------------------------------------------------------------
# Which stay


def kept(step: int, ends: Collection[int], every: int, last: int, for_good: int | None = None) -> Callable[[int], bool]:
    """Tells of other steps whether their checkpoints stay when that of `step` has been written.

    Checkpoints are due at 0, every so many steps and at the ends of stages. The last few due stay; ends of stages and
    multiples of `for_good` always do. The schedule decides and not what is on the disk, so an interruption leaves no
    trace: a checkpoint off the schedule, of `step` alone, stays until the next one.
    """
    first = max(0, step // every - last) * every  # from here on, at least `last` are due
    due = sorted({*range(first, step + 1, every), *(end for end in ends if end <= step)})
    stay = {step, *due[-last:], *(end for end in ends if end <= step)}
    return lambda other: other in stay or (for_good is not None and other <= step and other % for_good == 0)


def prune(root: Path, stays: Callable[[int], bool]) -> None:
    """Remove the checkpoints of other steps and what an interrupted writing left.

    What cannot be removed stays, with a line in the log: the checkpoint that it makes room for is whole all the same.
    """
    try:
        names = {name_of(step) for step in steps_in(root) if stays(step)}
        folders = sorted(root.glob("step-*"))
    except (OSError, DataError) as error:
        log.warning("%s", error)
        return
    for folder in folders:
        if folder.name not in names:
            try:
                paths.remove(str(folder))
            except OSError as error:
                log.warning("%s: cannot be removed (%s); it goes with the next checkpoint", folder, error)
