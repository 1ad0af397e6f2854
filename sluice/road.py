"""The road: every stage, what it needs, and which part of the recipe it depends on.

A stage's key is made of its name and version, its part of the recipe and the manifests of its inputs. Raise the
version when the code of a stage changes what it writes.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas import paths
from schemas.errors import ConfigError
from schemas.hashing import canonical_json, digest
from schemas.manifest import Manifest
from schemas.recipe import (
    HOW_DEDUP_RUNS,
    HOW_EXTRACTION_RUNS,
    HOW_IT_RUNS,
    NO_THRESHOLDS,
    SHIPPED_THRESHOLDS,
    ModelFolder,
    Recipe,
    training_of,
)


@dataclass(frozen=True)
class Stage:
    """`needs` must be there; `uses` are taken where the run has them; `outside` hashes inputs from outside the run.

    `asks` names what else must be there because a recipe asks for it; other recipes' keys do not depend on it.
    """

    name: str
    version: int
    entry: str  # module:function, imported when the stage runs
    does: str
    config: Callable[[Recipe], dict[str, Any]]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    outside: Callable[[Recipe], dict[str, str]] = field(default=lambda recipe: {})
    asks: Callable[[Recipe], tuple[str, ...]] = field(default=lambda recipe: ())
    continues: bool = False  # takes over the files that an execution that was stopped has finished
    resumes: bool = False  # goes on from its own checkpoints; its old output is never thrown away

    @property
    def reads(self) -> tuple[str, ...]:
        return self.needs + self.uses


def _sources(recipe: Recipe) -> dict[str, Any]:
    import pipelines.extract

    sources = [source.model_dump(exclude={"path", "priority"}) for source in recipe.sources]
    extract = recipe.extract.model_dump(exclude=HOW_EXTRACTION_RUNS)
    extract["passwords"] = digest(recipe.extract.passwords)  # a manifest is shown around
    if recipe.extract.repair_encoding:
        from pipelines.extract.encoding import FIXER

        extract["repair_encoding"] = FIXER
    models = Path(pipelines.extract.__file__).with_name("models").glob("*.npz")
    return {
        "extract": extract,
        "models": {path.stem: paths.file_hash(str(path)) for path in sorted(models)},
        "sources": sorted(sources, key=lambda source: source["name"]),
    }


def _source_files(recipe: Recipe) -> dict[str, str]:
    from pipelines.extract.listing import list_sources, may_hold_pdf

    listings = list_sources(recipe, hashes=True)
    found = {f"source:{name}": digest(listing) for name, listing in listings.items()}
    named = {source.name for source in recipe.sources if source.kind == "files"}
    names = (str(file[0]) for name, listing in listings.items() if name in named for file in listing)
    if recipe.extract.ocr != "none" and any(map(may_hold_pdf, names)):
        from pipelines.extract.ocr import Missing, engine_of_process

        engine = engine_of_process(recipe.extract.ocr, tuple(recipe.extract.ocr_languages))
        found["ocr"] = "missing" if isinstance(engine, Missing) else engine.identity()
    return found


def _annotators(recipe: Recipe) -> dict[str, Any]:
    import annotators
    from annotators.table import annotator, with_needs

    files = Path(annotators.__file__).with_name("models").iterdir()
    models = {path.stem: path for path in files if path.suffix != ".md"}
    return {
        "labels": {
            name: [annotator(name).VERSION, *([paths.file_hash(str(models[name]))] if name in models else [])]
            for name in with_needs(recipe.annotate.labels)
        }
    }


def _require_labels(section: str, needed: set[str], recipe: Recipe) -> None:
    missing = sorted(needed - set(recipe.annotate.labels))
    if missing:
        raise ConfigError(
            f"`{section}` speaks of the label '{missing[0]}', which `annotate.labels` leaves out; "
            "name it there too, or give no --labels to `sluice annotate`"
        )


def _filter(recipe: Recipe) -> dict[str, Any]:
    from schemas.thresholds import shipped_thresholds

    value = recipe.filter.model_dump(exclude={"thresholds"})
    needed = recipe.filter.needs()
    if recipe.filter.thresholds == SHIPPED_THRESHOLDS:
        needed |= {"language", "quality"}  # more is judged where there are labels of it
        value["shipped"] = shipped_thresholds().hash
    _require_labels("filter", needed, recipe)
    return value


def _threshold_file(recipe: Recipe) -> dict[str, str]:
    from schemas.thresholds import find_thresholds, needs

    if recipe.filter.thresholds in (SHIPPED_THRESHOLDS, NO_THRESHOLDS):
        return {}
    found = find_thresholds(recipe.filter.thresholds)
    assert found is not None
    _require_labels("filter.thresholds", needs(found), recipe)
    return {"thresholds": found.hash}


def _dedup(recipe: Recipe) -> dict[str, Any]:
    priorities = {source.name: source.priority for source in recipe.sources}
    return {**recipe.dedup.model_dump(exclude=set(HOW_DEDUP_RUNS)), "priorities": priorities, "seed": recipe.seed}


def _earlier_runs(recipe: Recipe) -> dict[str, str]:
    if not recipe.dedup.against:
        return {}
    from pipelines.dedup.index import find_index

    found = [find_index(path, recipe.dedup, recipe.seed)[1].hash for path in recipe.dedup.against]
    return {f"index:{number}": key for number, key in enumerate(found)}


def _benchmark_files(recipe: Recipe) -> dict[str, str]:
    from pipelines.decontaminate.benchmarks import Fields, find_benchmarks, require_items

    config = recipe.decontaminate
    found = find_benchmarks(config.benchmarks)
    for path in found.values():
        require_items(path, Fields(config.question, config.choices, config.answer))
    return {f"benchmark:{name}": paths.content_key(path) for name, path in found.items()}


def _tokenizer_files(recipe: Recipe) -> dict[str, str]:
    path = recipe.tokenizer.path
    if not path:
        return {}
    file = path if path.endswith((".json", ".tiktoken")) else paths.join(path, "tokenizer.json")
    if not paths.exists(file):
        raise ConfigError(f"tokenizer.path: {file}: there is no such file")
    beside = paths.join(file.rpartition("/")[0], "tokenizer_config.json")
    return {f"file:{one.rpartition('/')[2]}": paths.content_key(one) for one in (file, beside) if paths.exists(one)}


def _tokenizer(recipe: Recipe) -> dict[str, Any]:
    if recipe.tokenizer.path:
        return {}
    return {**recipe.tokenizer.model_dump(exclude={"path"}), "seed": recipe.seed, **_mask(recipe)}


def _mask(recipe: Recipe) -> dict[str, Any]:
    if not recipe.mask.pii:
        return {}
    from pipelines.masking import REPLACEMENTS

    _require_labels("mask.pii", {"pii"}, recipe)
    return {"mask": {kind: REPLACEMENTS[kind] for kind in recipe.mask.pii}}


def _mix(recipe: Recipe) -> dict[str, Any]:
    stages = training_of(recipe).stages
    for stage in stages:
        _require_labels(f"pretrain.stages.{stage.name}.mixture", stage.mixture.needs(), recipe)
    plans = [stage.model_dump(mode="json", include={"name", "tokens", "mixture"}) for stage in stages]
    for plan in plans:
        if not plan["mixture"]["cluster_size"]:
            del plan["mixture"]["cluster_size"]  # plans made before there was the key are the same
    return {**recipe.mix.model_dump(exclude={"exclude"}), "plans": plans, "seed": recipe.seed}


def _clusters(recipe: Recipe) -> tuple[str, ...]:
    return ("dedup",) if any(stage.mixture.cluster_size for stage in training_of(recipe).stages) else ()


def _excluded_ids(recipe: Recipe) -> dict[str, str]:
    from pipelines.mix.exclude import read_ids

    return {"excluded ids": digest(read_ids(recipe.mix.exclude))} if recipe.mix.exclude else {}


def _pack(recipe: Recipe) -> dict[str, Any]:
    stages = [
        stage.model_dump(include={"name", "sequence_length", "packing"})
        | {"minimum": stage.mixture.lengths.minimum if stage.mixture.lengths else None}
        for stage in training_of(recipe).stages
    ]
    return {"stages": stages, "seed": recipe.seed}


def _pretrain(recipe: Recipe) -> dict[str, Any]:
    # Where the model lies that training starts from says nothing; `_start_files` has what it is.
    exclude: dict[str, Any] = {"stages": True, "model": {"path"}} | dict.fromkeys(HOW_IT_RUNS, True)
    value = training_of(recipe).model_dump(mode="json", exclude=exclude)
    stages = [stage.model_dump(exclude={"mixture", "packing"}) for stage in training_of(recipe).stages]
    return {**value, "stages": stages, "seed": recipe.seed}


def _start_files(recipe: Recipe) -> dict[str, str]:
    from trainer.model.published import content

    model = training_of(recipe).model
    if not isinstance(model, ModelFolder):
        return {}
    return {f"start:{name}": key for name, key in content(Path(model.path)).items()}


ROAD: tuple[Stage, ...] = (
    Stage(
        "extract",
        3,
        "pipelines.extract.stage:run",
        "text out of files",
        _sources,
        outside=_source_files,
        continues=True,
    ),
    Stage("annotate", 1, "pipelines.annotate.stage:run", "labels per document", _annotators, ("extract",)),
    Stage(
        "filter",
        2,
        "pipelines.filter.stage:run",
        "decisions from labels",
        _filter,
        ("extract", "annotate"),
        outside=_threshold_file,
    ),
    Stage(
        "dedup",
        2,
        "pipelines.dedup.stage:run",
        "exact and near-duplicates",
        _dedup,
        ("extract",),
        ("annotate", "filter"),
        _earlier_runs,
        continues=True,
    ),
    Stage(
        "decontaminate",
        2,
        "pipelines.decontaminate.stage:run",
        "overlap with benchmarks",
        lambda recipe: recipe.decontaminate.model_dump(exclude={"benchmarks"}),
        ("extract",),
        ("filter", "dedup"),
        _benchmark_files,
    ),
    Stage(
        "split",
        1,
        "pipelines.split.stage:run",
        "training and validation documents",
        lambda recipe: {**recipe.split.model_dump(), "seed": recipe.seed},
        ("extract",),
        ("filter", "dedup", "decontaminate"),
    ),
    Stage(
        "tokenizer",
        2,
        "pipelines.tokenizer_train.stage:run",
        "byte-level BPE",
        _tokenizer,
        ("extract",),
        ("annotate", "dedup", "decontaminate", "split"),
        _tokenizer_files,
    ),
    Stage(
        "tokenize",
        2,
        "pipelines.tokenize.stage:run",
        "token shards",
        _mask,
        ("extract", "tokenizer"),
        ("annotate", "dedup", "decontaminate", "split"),
    ),
    Stage(
        "mix",
        1,
        "pipelines.mix.stage:run",
        "a plan per stage of training",
        _mix,
        ("tokenize",),
        outside=_excluded_ids,
        asks=_clusters,
    ),
    Stage("pack", 1, "pipelines.pack.stage:run", "sequences", _pack, ("tokenize", "mix")),
    Stage(
        "pretrain",
        1,
        "trainer.stages:pretrain",
        "the stages of training",
        _pretrain,
        ("tokenizer", "tokenize", "mix", "pack"),
        outside=_start_files,
        resumes=True,
    ),
    Stage(
        "evaluate",
        1,
        "trainer.stages:evaluate",
        "bits per byte by language and domain",
        lambda recipe: recipe.evaluate.model_dump(),
        ("tokenizer", "tokenize", "pack", "pretrain"),
    ),
    Stage(
        "export",
        1,
        "trainer.stages:export",
        "a folder for transformers",
        lambda recipe: {**recipe.export.model_dump(), "seed": recipe.seed},
        ("tokenizer", "tokenize", "pretrain"),
    ),
)

STAGES = {stage.name: stage for stage in ROAD}
TRAINING = ("mix", "pack", "pretrain", "evaluate", "export")  # stages that need the section `pretrain`


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe runs, in order."""
    return tuple(stage for stage in ROAD if recipe.pretrain is not None or stage.name not in TRAINING)


def closure(names: Iterable[str], given: Collection[str] = ()) -> tuple[Stage, ...]:
    """Some stages and everything they need that is not given, in order."""
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [need for need in STAGES[name].needs if need not in given and need not in wanted]
    return tuple(stage for stage in ROAD if stage.name in wanted)


def still_valid(recipe: Recipe, manifests: dict[str, Manifest]) -> set[str]:
    """Of finished datasets those that the recipe would make again as they are.

    Documents are taken as they are, wherever they came from; any other dataset is out of date when its part of the
    recipe, its version or a file that the recipe names differs, or when something that it was made from is out of date.
    """
    valid: set[str] = set()
    for stage in ROAD:
        manifest = manifests.get(stage.name)
        if manifest is None:
            continue
        same = stage.name == "extract" or (
            manifest.version == stage.version
            and canonical_json(manifest.config) == canonical_json(stage.config(recipe))
            and _same_outside(stage, recipe, manifest)
            and all(name in valid for name in manifest.inputs if name in STAGES and name in manifests)
        )
        if same:
            valid.add(stage.name)
    return valid


def _same_outside(stage: Stage, recipe: Recipe, manifest: Manifest) -> bool:
    before = {name: value for name, value in manifest.inputs.items() if name not in STAGES}
    try:
        return stage.outside(recipe) == before
    except ConfigError:
        if not before:
            raise
        return True  # a finished run may have been moved away from the files that it was made from
