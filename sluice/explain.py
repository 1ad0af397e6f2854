"""`sluice explain-batch`: the documents of a step of training, and the steps of a document."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.job import Job
from schemas.manifest import read_manifest, stage_key
from schemas.recipe import Recipe, check_recipe, training_of
from sluice.console import Quiet, console
from sluice.road import STAGES
from sluice.run import KEY_FILE, RECIPE_FILE, UNFINISHED, find_given, run_folder
from sluice.show import last_line
from sluice.summary import require_run
from sluice.text import aligned, printable
from trainer.schedule import span_at, spans

PRETRAIN = STAGES["pretrain"]
BAD_STEPS = "bad_steps.jsonl"  # of trainer.guard, which takes seconds to import


@dataclass(frozen=True)
class Training:
    """What a run's training has done: steps, and the ranges of steps whose updates the guard left out or undid."""

    job: Job
    steps: int
    left_out: list[range]

    def state(self, step: int) -> str:
        """`read`, `to come`, or `left out`: read without an effect on the model."""
        if step > self.steps:
            return "to come"
        return "left out" if any(step in steps for steps in self.left_out) else "read"


def explain_batch(folder: str, step: int | None, document: str | None, as_json: bool) -> None:
    """Print what a step reads, or when a document is read.

    Raises:
        ConfigError: the folder is no run with packed sequences, or there is no such step or document.
    """
    if (step is None) == (document is None):
        raise ConfigError("explain-batch: give either --step or --document")
    training = find_training(run_folder(folder))
    if step is not None:
        _explain_step(training, step, as_json)
    elif document is not None:
        _explain_document(training, document, as_json)


def find_training(run: str) -> Training:
    """The training of a run by the recipe and the datasets in it, whether it is finished, under way or to come."""
    require_run(run)
    given = find_given(run)
    missing = [name for name in PRETRAIN.needs if name not in given]
    if missing:
        raise ConfigError(f"{run}: has no '{missing[0]}' yet, so no batches; `sluice run RECIPE --until pack` makes it")
    recipe = _recipe(run)
    hashes = {name: manifest.hash for name in PRETRAIN.reads if (manifest := read_manifest(given[name])) is not None}
    key = stage_key(PRETRAIN.name, PRETRAIN.version, PRETRAIN.config(recipe), hashes)
    finished = read_manifest(paths.join(run, PRETRAIN.name))
    unfinished = paths.join(run, UNFINISHED, PRETRAIN.name)
    begun = paths.read_text(path) if paths.exists(path := paths.join(unfinished, KEY_FILE)) else None
    if key == begun:
        place = unfinished
    elif finished is not None and key == finished.key:
        place = paths.join(run, PRETRAIN.name)
    elif begun is None and finished is None:
        return Training(Job(recipe, given, run, Quiet()), 0, [])
    else:
        raise ConfigError(
            f"{run}: the recipe or the data have changed since its training, which read other batches; "
            f"`sluice status {run}` says what differs"
        )
    done = last_line(Path(place.removeprefix("file://"), "metrics.jsonl")).get("step", 0)
    return Training(Job(recipe, given, run, Quiet()), done, _left_out(Path(place.removeprefix("file://"))))


def _recipe(run: str) -> Recipe:
    path = paths.join(run, RECIPE_FILE)
    try:
        return check_recipe(yaml.safe_load(paths.read_text(path)), Path(run), path)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _left_out(training: Path) -> list[range]:
    path = training / BAD_STEPS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # without one that is still being written
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step, back = int(record["step"]), record["back_to_step"]
            found.append(range(step if back is None else int(back) + 1, step + 1))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: line {number} is no record of a bad step; repair or remove the line") from error
    return found


# ---------------------------------------------------------------------------------------------------------------
# What is printed


def _explain_step(training: Training, step: int, as_json: bool) -> None:
    from trainer.provenance import read_in_step

    segments = read_in_step(training.job, step)
    stage, state = span_at(spans(training_of(training.job.recipe)), step - 1).stage.name, training.state(step)
    if as_json:
        _print_json({"step": step, "stage": stage, "state": state, "segments": segments})
        return
    documents = len({segment["document_id"] for segment in segments})
    _heading(
        f"step {step:,} · stage {stage} · {_count(segments[-1]['sequence'] + 1, 'sequence')} · "
        f"{_count(len(segments), 'segment')} of {_count(documents, 'document')} · {state}"
    )
    _table(
        ["sequence", "begin", "length", "document", "id", "source", "licence", "cell", "shard", "row", "origin"],
        [
            [
                segment["sequence"],
                segment["begin"],
                segment["length"],
                *(segment[name] for name in ("document_id", "id", "source", "licence", "cell", "shard", "row")),
                _origin(segment),
            ]
            for segment in segments
        ],
        right=(0, 1, 2, 9),
    )


def _explain_document(training: Training, name: str, as_json: bool) -> None:
    from trainer.provenance import steps_of

    documents = steps_of(training.job, name)
    reads = [read for document in documents for stage in document["stages"] for read in stage["reads"]]
    for read in reads:
        read["state"] = training.state(read["step"])
    if as_json:
        _print_json({"documents": documents})
        return
    for document in documents:
        _heading(f"document {document['document_id']}" + (f" · id {document['id']}" if document["id"] else ""))
        facts = [document[name] for name in ("source", "licence", "cell") if document[name]]
        origin = _origin(document)
        _lines(
            [
                " · ".join([*facts, *([origin] if origin else [])]),
                f"{document['shard']}, row {document['row']} · {_count(document['tokens'], 'token')} · "
                f"{document['split']}",
            ]
        )
        for stage in document["stages"]:
            console.print()
            _heading(
                f"{stage['stage']} · steps {stage['first_step']:,} to {stage['last_step']:,} · "
                f"{stage['epochs']:g} epochs · " + (_count(len(stage["reads"]), "time") if stage["reads"] else "never")
            )
            if stage["reads"]:
                names = ["step", "sequence", "epoch", "begin", "length", "state"]
                _table(names, [[read[name] for name in names] for read in stage["reads"]], right=range(5))
        console.print()


def _origin(document: dict[str, Any]) -> str:
    """Where a document was read: file and place in it, and the address."""
    parts = (document.get("path"), document.get("locator"), document.get("url"))
    return " ".join(part for part in parts if part)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _heading(text: str) -> None:
    console.print(Text(printable(text), style="bold"), soft_wrap=True)


def _lines(lines: list[str]) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _table(names: list[str], rows: list[list[Any]], right: Any) -> None:
    """Lines longer than the screen run on, so that nothing of an id is lost."""
    cells = [["–" if cell is None else printable(str(cell), 1000) for cell in row] for row in rows]
    _lines(aligned([names, *cells], right=right))
