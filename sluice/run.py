"""The recipe runner: runs what is missing, skips what is done, and leaves a folder that explains itself.

A run folder:
    recipe.yaml        the resolved recipe
    versions.json      Python, packages with their licences, versions of the stages
    given.json         datasets that a single stage took from elsewhere: stage -> folder
    run.json           times, hosts, memory, options of every execution; no comparison reads it
    <stage>/           the dataset of a stage with its manifest.json
    unfinished/        what a stage is writing now; a dataset moves out of here by one rename
    replaced/          trained models whose recipe has changed since; nothing here is read again
    answers/           what models answered, so that nothing is asked twice
    report.html
"""

import contextlib
import datetime
import fcntl
import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipelines.extract.isolate import close_children
from pipelines.extract.listing import local_root
from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.job import Job, Output
from schemas.manifest import MANIFEST, Manifest, read_manifest, stage_key, write_manifest
from schemas.recipe import ModelFolder, Recipe, training_of
from sluice.console import Quiet, StageProgress, clock, console, size
from sluice.road import ROAD, STAGES, Stage
from trainer.schedule import check_training

RUN_FILE, RECIPE_FILE, VERSIONS_FILE = "run.json", "recipe.yaml", "versions.json"
GIVEN_FILE = "given.json"
UNFINISHED, REPLACED, ANSWERS, KEY_FILE = "unfinished", "replaced", "answers", "key"


@dataclass(frozen=True)
class Step:
    """One stage of a run as it stands: `manifest` is the finished dataset if it is up to date, else None."""

    stage: Stage
    folder: str
    inputs: dict[str, str]  # stage -> folder
    hashes: dict[str, str]  # everything read -> hash
    key: str
    manifest: Manifest | None


def run(
    recipe: Recipe,
    output: str,
    stages: tuple[Stage, ...],
    *,
    given: dict[str, str] | None = None,
    redo_from: str | None = None,
    beam_options: tuple[str, ...] = (),
) -> list[Step]:
    """Run `stages` in `output`, skipping those whose dataset is up to date.

    `given` names datasets of stages that are taken from elsewhere. `redo_from` runs this stage and all after it again
    even where they are up to date. Returns the steps, all with their manifests. Raises ConfigError before any work
    where the configuration is at fault.
    """
    given = given or {}
    outside = check(recipe, stages, output)
    _check_asked(recipe, stages, given)
    _check_places(recipe, stages, output)
    if _rank() is not None:
        if redo_from is not None:
            raise ConfigError("--from: torchrun goes on with training and redoes nothing; redo in one process")
        _require_data(recipe, output, stages, given, outside)
    if _rank():
        return _follow(recipe, output, stages, given, outside)
    with _lock(output):
        _write_run_files(recipe, output)
        for leftover in ("*.writing", f"{UNFINISHED}/*.old"):
            for path in paths.glob(paths.join(output, leftover)):
                paths.remove(path)
        if given:
            paths.write_text(paths.join(output, GIVEN_FILE), json.dumps(given, indent=1, sort_keys=True) + "\n")
        done: dict[str, str] = dict(given)
        steps: list[Step] = []
        redo = False
        for stage in stages:
            step = inspect(recipe, output, stage, done, outside[stage.name])
            redo = redo or stage.name == redo_from
            if step.manifest is not None and not redo:
                console.print(f"[green]✓[/] {stage.name:14} up to date · {describe(step.manifest)}")
            else:
                manifest, seconds, peak = _execute(recipe, step, output, beam_options)
                step = Step(step.stage, step.folder, step.inputs, step.hashes, step.key, manifest)
                console.print(
                    f"[green]✓[/] {stage.name:14} {clock(seconds)} · peak {size(peak)} · {describe(manifest)}"
                )
            done[stage.name] = step.folder
            steps.append(step)
            if stage.name == "extract":
                _require_documents(step)
        return steps


def _require_documents(step: Step) -> None:
    """Nothing to go on with is an error that names its likeliest cause."""
    manifest = step.manifest
    assert manifest is not None
    if manifest.counts.get("documents"):
        return
    reasons = sorted(manifest.reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    told = ", ".join(f"{name} {count:,}" for name, count in reasons) or "no input"
    hint = (
        "; name the column of the text (columns.text, or --column text=NAME)"
        if "no_text_column" in dict(reasons)
        else ""
    )
    raise DataError(f"{step.folder}: not one document was extracted ({told}){hint}; `sluice show` lists the rejects")


def check(recipe: Recipe, stages: tuple[Stage, ...], output: str | None = None) -> dict[str, dict[str, str]]:
    """Tell whatever the configuration gets wrong before any work; returns what each stage reads from outside the run.

    Raises ConfigError.
    """
    if any(stage.resumes for stage in stages):
        _check_start(recipe)
    outside: dict[str, dict[str, str]] = {}
    for stage in stages:
        stage.config(recipe)
        if stage.resumes:
            check_training(training_of(recipe))
            if output is not None and not paths.is_local(output):
                raise ConfigError(
                    f"--output {output}: training writes to a local folder; stop with `--until pack`, copy the run "
                    "and train there"
                )
        outside[stage.name] = stage.outside(recipe)
    return outside


def _check_asked(recipe: Recipe, stages: tuple[Stage, ...], given: dict[str, str]) -> None:
    there = {*given, *(stage.name for stage in stages)}
    for stage in stages:
        for name in stage.asks(recipe):
            if name not in there:
                raise ConfigError(
                    f"stage '{stage.name}' needs '{name}' by this recipe, and neither the input has it nor is it made "
                    f"here; give a run that has it, or `sluice run RECIPE --until {stage.name}`"
                )


def _check_start(recipe: Recipe) -> None:
    """A model to train on from must be there whole, with a tokenizer and a row for every token of it."""
    model, tokenizer = training_of(recipe).model, recipe.tokenizer.path
    if not isinstance(model, ModelFolder):
        return
    from pipelines.tokenizer_train.stage import TOKENIZER, take_over
    from trainer import hf

    config, _ = hf.check(model.path)
    if tokenizer is None:
        return
    if tokenizer == model.path and not Path(model.path, TOKENIZER).is_file():
        raise ConfigError(
            f"pretrain.model.path: {model.path} has no {TOKENIZER}; put it there, or name the model's tokenizer in "
            "tokenizer.path"
        )
    with tempfile.TemporaryDirectory() as folder:
        tokens = take_over(tokenizer, Path(folder))["vocabulary_size"]
    if tokens > config.vocabulary_size:
        raise ConfigError(
            f"tokenizer.path: {tokenizer} has {tokens} tokens but the model in {model.path} only "
            f"{config.vocabulary_size} rows; use the tokenizer that the model was trained with"
        )


def _check_places(recipe: Recipe, stages: tuple[Stage, ...], output: str) -> None:
    """Refuse to write over what is not ours, and to read what this run writes."""
    if not paths.is_local(output):
        return
    place = Path(output.removeprefix("file://")).resolve()
    if "extract" in {stage.name for stage in stages}:
        for source in recipe.sources:
            root = local_root(source)
            if root is not None and (place == root.resolve() or root.resolve() in place.parents):
                raise ConfigError(
                    f"--output {output}: lies inside source '{source.name}' ({root}), which would read what it writes; "
                    "choose a folder outside"
                )
    for earlier in recipe.dedup.against if "dedup" in {stage.name for stage in stages} else []:
        if paths.is_local(earlier) and place in (path := Path(earlier).resolve(), path.parent):
            raise ConfigError(f"dedup.against: {earlier}: is what this run writes; choose another --output")
    for stage in stages:
        folder = place / stage.name
        ours = not folder.exists() or (folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir())))
        if not ours:
            raise ConfigError(f"{folder}: is in the way and is no dataset of Sluice; choose another --output")


def _rank() -> int | None:
    """This process's rank under torchrun, where several ranks run the same command; None otherwise."""
    return int(os.environ["RANK"]) if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def _require_data(
    recipe: Recipe, output: str, stages: tuple[Stage, ...], given: dict[str, str], outside: dict[str, dict[str, str]]
) -> None:
    """Under torchrun every rank needs the data stages finished; nobody makes them while the others wait."""
    done = dict(given)
    for stage in stages:
        if stage.resumes:
            return
        step = inspect(recipe, output, stage, done, outside[stage.name])
        if step.manifest is None:
            raise ConfigError(
                f"{output}: stage '{stage.name}' is not up to date, and torchrun runs training only; first run the "
                "data stages in one process with `sluice run RECIPE --until pack`"
            )
        done[stage.name] = step.folder


def _follow(
    recipe: Recipe, output: str, stages: tuple[Stage, ...], given: dict[str, str], outside: dict[str, dict[str, str]]
) -> list[Step]:
    """A rank other than the first takes part in training and leaves the run folder to rank 0."""
    done = dict(given)
    for stage in stages:
        step = inspect(recipe, output, stage, done, outside[stage.name])
        if stage.resumes:
            if step.manifest is None:
                unfinished = paths.join(output, UNFINISHED, stage.name)
                _entry(stage)(Job(recipe, step.inputs, unfinished, Quiet()))
            break
        done[stage.name] = step.folder
    return []


def inspect(
    recipe: Recipe, output: str, stage: Stage, done: dict[str, str], outside: dict[str, str] | None = None
) -> Step:
    """How a stage stands: its key, and its manifest if the dataset on disk has that key.

    `done` maps the stages before it to their folders; `outside` is `stage.outside(recipe)` where it is known already.
    """
    asked = stage.asks(recipe)
    missing = [need for need in (*stage.needs, *asked) if need not in done]
    if missing:
        raise ConfigError(f"stage '{stage.name}' needs '{missing[0]}', which this run does not have")
    inputs = {name: done[name] for name in (*stage.reads, *asked) if name in done}
    hashes = dict(stage.outside(recipe) if outside is None else outside)
    for name, folder in inputs.items():
        manifest = read_manifest(folder)
        if manifest is None:
            raise DataError(f"{folder}: no finished '{name}' dataset is here, and '{stage.name}' needs it")
        hashes[name] = manifest.hash
    key = stage_key(stage.name, stage.version, stage.config(recipe), hashes)
    folder = paths.join(output, stage.name)
    existing = read_manifest(folder)
    if existing is None or existing.key != key:
        return Step(stage, folder, inputs, hashes, key, None)
    damaged = _damaged(folder, existing)
    if damaged and stage.resumes:
        raise DataError(
            f"{damaged}: is missing or has another size than when it was written; bring it back, or train again with "
            f"`--from {stage.name}`"
        )
    return Step(stage, folder, inputs, hashes, key, None if damaged else existing)


def _damaged(folder: str, manifest: Manifest) -> str | None:
    """The first file of a local dataset that is missing or has another size than its manifest says."""
    if not paths.is_local(folder):
        return None
    for entry in manifest.files:
        path = Path(folder.removeprefix("file://"), entry.path)
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return str(path)
    return None


def _execute(recipe: Recipe, step: Step, output: str, beam_options: tuple[str, ...]) -> tuple[Manifest, float, int]:
    stage = step.stage
    unfinished = paths.join(output, UNFINISHED, stage.name)
    finished = read_manifest(unfinished)
    if finished is not None and finished.key == step.key:  # stopped just before its last rename
        _publish(unfinished, step.folder)
        return finished, 0.0, 0
    _prepare(step, output, unfinished)
    entry = _entry(stage)
    started, clock_start, cpu_start = time.time(), time.monotonic(), _cpu_seconds()
    with StageProgress(stage.name) as progress, _peak_memory() as peak:
        result = entry(Job(_with_answers(recipe, output), step.inputs, unfinished, progress, beam_options))
    manifest = Manifest(
        stage=stage.name,
        version=stage.version,
        key=step.key,
        config=stage.config(recipe),
        inputs=dict(sorted(step.hashes.items())),
        files=sorted(result.files, key=lambda entry: entry.path),
        counts=result.counts,
        reasons=result.reasons,
        extra=result.extra,
    )
    write_manifest(unfinished, manifest)
    _publish(unfinished, step.folder)
    seconds = time.monotonic() - clock_start
    close_children()  # only a process that has ended counts its CPU seconds
    _record(
        output,
        {
            "stage": stage.name,
            "key": step.key,
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(_cpu_seconds() - cpu_start, 2),
            "peak_memory_bytes": peak[0],
            "host": platform.node(),
            "beam_options": list(beam_options),
            **({"spent": result.spent} if result.spent else {}),
        },
    )
    return manifest, seconds, peak[0]


def _with_answers(recipe: Recipe, output: str) -> Recipe:
    """The recipe with the place where models' answers are kept."""
    if recipe.extract.answers is not None:
        return recipe
    extract = recipe.extract.model_copy(update={"answers": paths.join(output, ANSWERS)})
    return recipe.model_copy(update={"extract": extract})


def _publish(unfinished: str, folder: str) -> None:
    paths.remove(paths.join(unfinished, KEY_FILE))
    paths.publish(unfinished, folder, last=MANIFEST)


def _entry(stage: Stage) -> Callable[[Job], Output]:
    module, _, function = stage.entry.partition(":")
    entry: Callable[[Job], Output] = getattr(importlib.import_module(module), function)
    return entry


def _prepare(step: Step, output: str, unfinished: str) -> None:
    """Clear the place that a stage writes to; one that goes on from its own unfinished work keeps it."""
    key_file = paths.join(unfinished, KEY_FILE)
    same = paths.exists(key_file) and paths.read_text(key_file) == step.key
    if step.stage.continues and same:
        fs, inner = paths.filesystem(unfinished)
        for name in fs.find(inner):
            if name.endswith(".writing"):  # cut in mid-write
                fs.rm(name)
        return
    if step.stage.resumes:
        if same:
            return
        for folder in (unfinished, step.folder):
            _set_aside(folder, output, step.stage.name)
    paths.remove(unfinished)
    paths.write_text(key_file, step.key)


def _set_aside(folder: str, output: str, name: str) -> None:
    if not paths.exists(folder):
        return
    manifest = read_manifest(folder)
    key_file = paths.join(folder, KEY_FILE)
    key = manifest.key if manifest else paths.read_text(key_file) if paths.exists(key_file) else "unknown"
    target = first = paths.join(output, REPLACED, f"{name}-{key[:12]}")
    number = 1
    while paths.exists(target):
        number += 1
        target = f"{first}-{number}"
    paths.rename(folder, target)
    console.print(f"  {folder} makes room for a new training; it is kept as {target}", markup=False)


# ---------------------------------------------------------------------------------------------------------------
# What the run folder says of itself


def _write_run_files(recipe: Recipe, output: str) -> None:
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    paths.write_text(paths.join(output, RECIPE_FILE), text)
    versions = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "stages": {stage.name: stage.version for stage in ROAD},
        "packages": packages(),
    }
    paths.write_text(paths.join(output, VERSIONS_FILE), json.dumps(versions, indent=1, sort_keys=True) + "\n")


def packages() -> dict[str, dict[str, str]]:
    """Installed distributions with version and licence."""
    found: dict[str, dict[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        meta: Any = distribution.metadata
        name = meta["Name"]
        if name:
            licence = meta["License-Expression"] or _classifier(meta) or meta["License"] or "unknown"
            found[name.lower()] = {"version": distribution.version, "licence": licence.strip().splitlines()[0][:80]}
    return found


def _classifier(meta: Any) -> str | None:
    licences = [c.rsplit(" :: ", 1)[1] for c in meta.get_all("Classifier") or [] if c.startswith("License :: ")]
    return ", ".join(licences) or None


def read_executions(output: str) -> list[dict[str, Any]]:
    """What run.json says of the executions so far, oldest first."""
    path = paths.join(output, RUN_FILE)
    if not paths.exists(path):
        return []
    try:
        return list(json.loads(paths.read_text(path))["executions"])
    except (ValueError, KeyError):  # only times are lost
        return []


def _record(output: str, execution: dict[str, Any]) -> None:
    executions = [*read_executions(output), execution]
    paths.write_text(paths.join(output, RUN_FILE), json.dumps({"executions": executions}, indent=1) + "\n")


def describe(manifest: Manifest) -> str:
    """The counts of a dataset in one line."""
    shown = [f"{name.replace('_', ' ')} {count:,}" for name, count in manifest.counts.items()][:5]
    if shown:
        return ", ".join(shown)
    files = len(manifest.files)
    return f"{files:,} file{'s' * (files != 1)}, {size(sum(entry.bytes for entry in manifest.files))}"


def run_folder(folder: str) -> str:
    """The run that a dataset lies in, or the folder itself."""
    if read_manifest(folder) is None:
        return folder
    parent = folder.rstrip("/").rpartition("/")[0]
    return parent if parent and paths.exists(paths.join(parent, RECIPE_FILE)) else folder


def find_given(folder: str) -> dict[str, str]:
    """Finished datasets of a run folder, and those that it was made from; a dataset stands for its run."""
    folder = run_folder(folder)
    manifest = read_manifest(folder)
    if manifest is not None:
        return {manifest.stage: folder}
    found: dict[str, str] = {}
    given = paths.join(folder, GIVEN_FILE)
    if paths.exists(given):
        found = {name: path for name, path in json.loads(paths.read_text(given)).items() if read_manifest(path)}
    return found | {name: paths.join(folder, name) for name in STAGES if read_manifest(paths.join(folder, name))}


# ---------------------------------------------------------------------------------------------------------------
# Measuring


@contextlib.contextmanager
def _lock(output: str) -> Iterator[None]:
    """Two runs in one local folder would undo each other; the second stops at once."""
    if not paths.is_local(output):
        yield
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        handle = (Path(output) / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot write there: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{output}: another run is working in this folder") from None
        yield


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextlib.contextmanager
def _peak_memory(interval: float = 0.2) -> Iterator[list[int]]:
    """Largest resident memory of this process and its children, sampled, in bytes."""
    peak = [0]
    stop = threading.Event()
    process = psutil.Process()

    def sample() -> None:
        total = 0
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        peak[0] = max(peak[0], total)

    def watch() -> None:
        while not stop.wait(interval):
            sample()

    sample()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        sample()
