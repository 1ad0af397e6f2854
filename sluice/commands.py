"""What the commands do: from arguments to a recipe, the stages to run, and the datasets that are already there."""

import re
from pathlib import Path
from typing import Any

import yaml

from schemas import paths
from schemas.errors import ConfigError
from schemas.manifest import read_manifest
from schemas.recipe import Columns, Recipe, apply_overrides, check_recipe, load_recipe
from sluice import road
from sluice.console import console
from sluice.run import RECIPE_FILE, find_given, run, run_folder

DECIDED = {"filter", "dedup", "decontaminate"}


def run_recipe(
    recipe: Recipe, output: str | None, redo_from: str | None, until: str | None, beam_options: tuple[str, ...]
) -> None:
    """`sluice run`: the whole road of a recipe, the report and a summary."""
    from sluice.report import write_report
    from sluice.summary import print_summary

    stages = road.stages_of(recipe)
    for name, option in ((redo_from, "--from"), (until, "--until")):
        if name is not None and name not in {stage.name for stage in stages}:
            known = ", ".join(stage.name for stage in stages)
            raise ConfigError(f"{option} {name}: this recipe has no such stage; it has {known}")
    if until is not None:
        stages = stages[: [stage.name for stage in stages].index(until) + 1]
    if redo_from is not None and redo_from not in {stage.name for stage in stages}:
        raise ConfigError(f"--from {redo_from}: comes after --until {until}")
    output = _folder(output or f"runs/{recipe.name}")
    run(recipe, output, stages, redo_from=redo_from, beam_options=beam_options)
    report = write_report(output)
    print_summary(output)
    console.print(f"report      {report}", markup=False)


def run_stage(
    name: str,
    source: str,
    output: str | None,
    recipe_file: str | None,
    settings: tuple[str, ...],
    columns: tuple[str, ...],
    beam_options: tuple[str, ...],
    more: tuple[str, ...] = (),
) -> None:
    """A stage as a command of its own, on documents, on a finished run or by a recipe; `more` are further documents."""
    _only_documents(source, more)
    if source.endswith((".yaml", ".yml")):
        _only_recipe(recipe_file, columns)
        recipe = load_recipe(source, settings)
        stages = road.stages_of(recipe)
        if name not in {stage.name for stage in stages}:
            raise ConfigError(f"{source}: '{name}' needs the section `pretrain`, which the recipe does not have")
        stages = stages[: [stage.name for stage in stages].index(name) + 1]
        folder = _folder(output or f"runs/{recipe.name}")
        run(recipe, folder, stages, beam_options=beam_options)
    else:
        if not output:
            raise ConfigError("give the folder to write to with --output")
        folder = _folder(output)
        before = [stage.name for stage in road.ROAD][: [stage.name for stage in road.ROAD].index(name)]
        found = find_given(source) if not any(character in source for character in "*?[") else {}
        if found and folder == _folder(run_folder(source)):
            raise ConfigError(f"--output {output}: is the input; use `sluice run` to go on in the same folder")
        recipe = _recipe_for(source, folder, recipe_file, settings, columns, bool(found), more)
        if recipe_file or any(setting.startswith("mix.exclude") for setting in settings):
            road.STAGES["mix"].outside(recipe)  # a list that is asked for now has to be there
        given = {stage: _folder(path) for stage, path in found.items() if stage in before}
        if found and not given and name != "extract":
            raise ConfigError(f"{source}: holds {', '.join(found)}, and '{name}' reads none of these")
        if found and "extract" not in given and name != "extract":
            raise ConfigError(
                f"{source}: has no documents ('extract'), which '{name}' needs; give the run that has them"
            )
        if name == "decontaminate" and not recipe.decontaminate.benchmarks:
            raise ConfigError("decontaminate compares with nothing: give --benchmarks, or decontaminate.benchmarks")
        stages = _stages_for(name, recipe, given)
        run(recipe, folder, stages, given=given, beam_options=beam_options)
    console.print(f"written to  {paths.join(folder, name)}", markup=False)


def print_training(
    source: str, output: str | None, recipe_file: str | None, settings: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    """`sluice pretrain --dry-run`: what the training of a recipe, a run or documents would do and cost."""
    from sluice.plan import plan_training

    if source.endswith((".yaml", ".yml")):
        _only_recipe(recipe_file, columns)
        recipe = load_recipe(source, settings)
        plan_training(recipe, output or f"runs/{recipe.name}")
    else:
        made = bool(find_given(source))
        recipe = _recipe_for(source, output or "run", recipe_file, settings, columns, made)
        plan_training(recipe, run_folder(source) if made else output or "run")


def _only_documents(source: str, more: tuple[str, ...]) -> None:
    """A run or a recipe says itself where its documents are, so it stands alone."""
    for path in (source, *more) if more else ():
        wild = any(character in path for character in "*?[")
        if path.endswith((".yaml", ".yml")) or (not wild and find_given(path)):
            raise ConfigError(f"{path}: a recipe or a run stands alone; give only documents, or only this")


def check_pair(option: str, url: str | None, model: str | None) -> None:
    """`--vlm-url` and `--vlm-model`, or `--refine-url` and `--refine-model`: both or neither."""
    if (url is None) != (model is None):
        raise ConfigError(f"{option}-url and {option}-model belong together; give both")


def explain_inputs(
    inputs: list[str],
    output: str | None,
    recipe_file: str | None,
    settings: tuple[str, ...],
    columns: tuple[str, ...],
    beam_options: tuple[str, ...],
) -> None:
    """`sluice extract --explain`: how each file would be read, and why."""
    from sluice.explain_file import explain_files

    if output or beam_options:
        ignored = "--output has" if output else "options of Beam have"
        raise ConfigError(f"--explain writes nothing and runs without Beam, so {ignored} nothing to say")
    if len(inputs) == 1 and inputs[0].endswith((".yaml", ".yml")):
        _only_recipe(recipe_file, columns)
        explain_files(load_recipe(inputs[0], settings))
        return
    for path in inputs:
        _only_documents(path, ("",))
    recipe = _recipe_for(inputs[0], "explained", recipe_file, settings, columns, False, tuple(inputs[1:]))
    explain_files(recipe)


def _only_recipe(recipe_file: str | None, columns: tuple[str, ...]) -> None:
    if recipe_file or columns:
        raise ConfigError("INPUT is a recipe, so --recipe and --column have nothing to say")


def _stages_for(name: str, recipe: Recipe, given: dict[str, str]) -> tuple[road.Stage, ...]:
    """What has to run for a stage; what is given but was made with other settings is made anew."""
    manifests = {stage: manifest for stage, path in given.items() if (manifest := read_manifest(path))}
    outdated = sorted(set(manifests) - road.still_valid(recipe, manifests))
    for stage in outdated:
        console.print(f"  {given.pop(stage)}: was made with other settings; '{stage}' is made anew", markup=False)
    # Whoever reads the split means to leave out what decisions dropped, so decisions without a split get one.
    joined = [] if "split" in given or "split" not in road.STAGES[name].reads or not DECIDED & set(given) else ["split"]
    if recipe.mask.pii and "annotate" not in given and {"tokenizer", "tokenize"} & {name, *outdated}:
        joined.append("annotate")
    return road.closure([name, *outdated, *joined], given)


def _recipe_for(
    source: str,
    output: str,
    recipe_file: str | None,
    settings: tuple[str, ...],
    columns: tuple[str, ...],
    made: bool,
    more: tuple[str, ...] = (),
) -> Recipe:
    """The settings of a single stage: of a recipe file, of the run that the input is, or the defaults."""
    mapping = _columns(columns)
    if made and mapping:
        raise ConfigError(f"{source}: holds finished datasets, so --column has nothing to say")
    name = re.sub(r"[^a-z0-9_-]+", "-", Path(output).name.lower()).strip("-_")[:60] or "run"
    value: dict[str, Any] = {}
    run_recipe_file = paths.join(run_folder(source), RECIPE_FILE)
    if recipe_file:
        value = load_recipe(recipe_file).model_dump(mode="json")
    elif made and paths.exists(run_recipe_file):
        value = yaml.safe_load(paths.read_text(run_recipe_file))
    if not made:
        sources = [
            {"name": "input" if number == 1 else f"input-{number}", "path": _folder(path), "columns": mapping}
            for number, path in enumerate((source, *more), 1)
        ]
        value = {**value, "sources": sources}
    value = {"name": name, "sources": [{"name": "input", "path": source}], **value}
    return check_recipe(apply_overrides(value, settings), Path.cwd(), "settings")


def _columns(columns: tuple[str, ...]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for column in columns:
        name, equals, target = column.partition("=")
        if not equals or name not in Columns.model_fields:
            raise ConfigError(f"--column {column}: write NAME=COLUMN with NAME of {', '.join(Columns.model_fields)}")
        mapping[name] = target
    return mapping


def _folder(path: str) -> str:
    return str(Path(path).absolute()) if paths.is_local(path) else path.rstrip("/")


def generate_text(
    prompt: str, model: str, tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    """`sluice generate`: prints the prompt and what the model makes of it."""
    from trainer.prompt import continue_text, load_model

    loaded, tokenizer = load_model(model)
    console.print(
        continue_text(loaded, tokenizer, prompt, tokens, temperature, top_k, top_p, seed), markup=False, style=None
    )
