"""What lies on the disk and what a recipe would do, on the terminal: `sluice show`, `status` and `recipe explain`."""

import fcntl
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.cells import cell_len
from rich.text import Text

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.hashing import canonical_json
from schemas.manifest import Manifest, read_manifest
from schemas.recipe import Pretrain, Recipe, check_recipe
from sluice.console import clock, console, size
from sluice.plan import model_line, training_rows, vocabulary_rows
from sluice.road import ROAD, STAGES, Stage, stages_of
from sluice.run import KEY_FILE, RECIPE_FILE, UNFINISHED, describe, inspect, read_executions
from sluice.summary import find_stale, last_execution, require_run
from sluice.text import ELLIPSIS, aligned, printable, short
from trainer.model.sizes import ModelConfig, model_config
from trainer.planner import training_flops

TABLES = (".parquet", ".arrow", ".jsonl")
TEXT_LIMIT, LIST_LIMIT, DEPTH_LIMIT = 200, 8, 4
LINE_BYTES = 1 << 20  # of a line of JSONL; the rest of a longer one is not read
FILES_LISTED, DIFFERENCES_SHOWN = 20, 2
FOUND_SHOWN = ("benchmarks", "repeats")  # parts of `extra` that are tables: name -> what -> number
CLUSTERS = "clusters_of_"
WIDE_SCREEN = 100  # characters; below it there is no room for the date
BYTES_PER_TOKEN = 4  # of plain text, where nothing better is known

# Rough rates of one core of a laptop, in bytes of source text per second, for stages that never ran in this folder.
_BYTES_PER_SECOND = {
    "extract": 3e6,
    "annotate": 1e6,
    "filter": 50e6,
    "dedup": 2e6,
    "decontaminate": 5e6,
    "split": 50e6,
    "tokenizer": 2e6,
    "tokenize": 4e6,
    "mix": 100e6,
    "pack": 100e6,
}
# Floating-point operations per second of a training, as delivered and not as advertised.
_FLOPS = {"cpu": 3e10, "cuda": 1e14}
_FIXED_SECONDS = 2.0  # of any stage, for its pipeline to start


def _print(lines: Iterable[str], style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style=style))


def _heading(text: str) -> None:
    console.print(Text(text, style="bold"))


# ---------------------------------------------------------------------------------------------------------------
# sluice show


def show_dataset(path: str, rows: int) -> None:
    """Print what a dataset folder, or a single Parquet, Arrow or JSONL file, holds, and its first `rows` rows.

    Raises ConfigError if there is nothing of the kind, DataError if the file cannot be read.
    """
    if not paths.exists(path):
        raise ConfigError(f"{path}: there is no such file or folder")
    if path.endswith(TABLES):
        _show_file(path, rows)
        return
    manifest = read_manifest(path)
    if manifest is None:
        found = [stage.name for stage in ROAD if read_manifest(paths.join(path, stage.name))]
        if found:
            raise ConfigError(f"{path}: is a run; name one of its datasets, for example {paths.join(path, found[0])}")
        kinds = ", ".join(TABLES)
        raise ConfigError(f"{path}: is no dataset (it holds no manifest.json) and no file that ends in {kinds}")
    _show_manifest(path, manifest)
    for folder, entries in _groups(manifest).items():
        tables = [entry for entry in entries if entry.path.endswith(TABLES)]
        total = size(sum(entry.bytes for entry in entries))
        console.print()
        if not tables:
            _heading(f"{printable(folder)} · {_number(len(entries), 'file')} · {total}")
            listed = [[f"  {printable(entry.path)}", size(entry.bytes)] for entry in entries[:FILES_LISTED]]
            _print(aligned(listed, right=(1,)))
            if len(entries) > FILES_LISTED:
                _print([f"  {ELLIPSIS} and {len(entries) - FILES_LISTED} more"])
            continue
        sums = f"{_number(sum(entry.rows for entry in tables), 'row')} · {total}"
        _heading(f"{printable(folder)} · {_number(len(entries), 'file')} · {sums}")
        filled = next((entry for entry in tables if entry.rows), tables[0])
        _show_table(paths.join(path, filled.path), rows)


def _groups(manifest: Manifest) -> dict[str, list[Any]]:
    """Files by sub-folder; files of the dataset's own folder stand alone."""
    groups: dict[str, list[Any]] = {}
    for entry in manifest.files:
        folder, _, name = entry.path.rpartition("/")
        groups.setdefault(folder or name, []).append(entry)
    return groups


def _show_manifest(path: str, manifest: Manifest) -> None:
    total = sum(entry.bytes for entry in manifest.files)
    _heading(f"{printable(manifest.stage)} · {path}")
    facts = [
        ["version", str(manifest.version)],
        ["key", manifest.key],
        ["files", f"{len(manifest.files):,}, {size(total)}"],
    ]
    facts += [["input" if number == 0 else "", f"{printable(name)}  {value}"] for number, (name, value) in
              enumerate(sorted(manifest.inputs.items()))]  # fmt: skip
    _print(aligned(facts))
    clusters = {name.removeprefix(CLUSTERS): n for name, n in manifest.extra.items() if name.startswith(CLUSTERS)}
    for title, values in (("counts", manifest.counts), ("reasons", manifest.reasons), ("clusters, by size", clusters)):
        if values:
            console.print()
            _heading(title)
            ordered = sorted(values.items(), key=lambda item: -item[1]) if title == "reasons" else values.items()
            _print(aligned([[f"  {printable(name)}", f"{value:,}"] for name, value in ordered], right=(1,)))
    for name in FOUND_SHOWN:
        if found := manifest.extra.get(name):
            console.print()
            _heading(name)
            kinds = list(dict.fromkeys(kind for its in found.values() for kind in its))
            rows = [[f"  {printable(one)}", *(f"{its.get(kind, 0):,}" for kind in kinds)] for one, its in found.items()]
            head = ["", *(kind.replace("_", " ") for kind in kinds)]
            _print(aligned([head, *rows], right=range(1, len(head))))


def _show_file(path: str, rows: int) -> None:
    fs, inner = paths.filesystem(path)
    _heading(f"{path} · {size(fs.size(inner))}")
    _show_table(path, rows)


def _show_table(path: str, rows: int) -> None:
    if path.endswith(".jsonl"):
        for number, record in enumerate(_json_lines(path, rows)):
            _show_row(number, record)
        return
    schema, total, head = _head(path, rows)
    if total is not None:
        _print([_number(total, "row")])
    _print(
        aligned([[f"  {printable(field.name)}", _type(field), printable(_description(field), 90)] for field in schema])
    )
    for number in range(head.num_rows):
        _show_row(number, {name: head[column][number] for column, name in enumerate(schema.names)})


def _head(path: str, rows: int) -> tuple[pa.Schema, int | None, pa.Table]:
    """Schema, number of rows (None for a remote Arrow file, which does not know it) and the first few rows."""
    try:
        with paths.open_read(path) as handle:
            if path.endswith(".arrow"):
                local = paths.is_local(path)
                file = pa.ipc.open_file(pa.memory_map(path.removeprefix("file://")) if local else handle)
                every = (file.get_batch(index) for index in range(file.num_record_batches))
                batches = list(every if local else _take(every, rows))  # mapped, a batch costs nothing
                total = sum(batch.num_rows for batch in batches) if local else None
                return file.schema, total, pa.Table.from_batches(batches, file.schema).slice(0, rows)
            parquet = pq.ParquetFile(handle)
            first = list(_take(parquet.iter_batches(batch_size=max(1, rows)), rows))
            head = pa.Table.from_batches(first, parquet.schema_arrow).slice(0, rows)
            return parquet.schema_arrow, parquet.metadata.num_rows, head
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {printable(str(error))}") from error


def _take(batches: Iterable[pa.RecordBatch], rows: int) -> Iterable[pa.RecordBatch]:
    for batch in batches:
        if rows <= 0:
            return
        yield batch
        rows -= batch.num_rows


def _json_lines(path: str, rows: int) -> Iterable[dict[str, Any]]:
    with paths.open_read(path) as handle:
        for _ in range(rows):
            line = handle.readline(LINE_BYTES)
            if not line:
                return
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = line.decode("utf-8", "replace")
            yield value if isinstance(value, dict) else {"": value}


def _type(field: pa.Field) -> str:
    text = printable(str(field.type), 70)
    return text if field.nullable else f"{text}, not null"


def _description(field: pa.Field) -> str:
    return (field.metadata or {}).get(b"description", b"").decode("utf-8", "replace")


def _show_row(number: int, row: dict[str, Any]) -> None:
    console.print()
    _print([f"row {number}"], "dim")
    _print(aligned([[f"  {printable(name)}", format_value(value)] for name, value in row.items()]))


def format_value(value: Any, depth: int = 0) -> str:
    """One value of a table for a terminal; an Arrow scalar is converted only as far as it is shown."""
    if isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar | pa.MapScalar):
        items = value.values
        if items is None:
            return "null"
        shown = items[:LIST_LIMIT].to_pylist()
        if isinstance(value, pa.MapScalar):
            return _format_map([(item["key"], item["value"]) for item in shown], len(items), depth)
        return _format_list(shown, len(items), depth)
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return value[:32].hex() + (f"{ELLIPSIS} ({len(value)} bytes)" if len(value) > 32 else "")
    if isinstance(value, str):
        return printable(value, TEXT_LIMIT)
    if isinstance(value, float):
        return f"{value:.5g}"
    if depth >= DEPTH_LIMIT and isinstance(value, dict | list):
        return ELLIPSIS
    if isinstance(value, dict):
        return _format_map(list(value.items())[:LIST_LIMIT], len(value), depth)
    if isinstance(value, list | tuple):
        return _format_list(list(value[:LIST_LIMIT]), len(value), depth)
    return printable(str(value), TEXT_LIMIT)


def _format_list(shown: list[Any], total: int, depth: int) -> str:
    text = ", ".join(format_value(item, depth + 1) for item in shown)
    return f"[{text}, {ELLIPSIS}] ({total:,} values)" if total > len(shown) else f"[{text}]"


def _format_map(shown: list[tuple[Any, Any]], total: int, depth: int) -> str:
    text = ", ".join(f"{format_value(key, depth + 1)}: {format_value(item, depth + 1)}" for key, item in shown)
    return f"{{{text}, {ELLIPSIS}}} ({total:,} keys)" if total > len(shown) else f"{{{text}}}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


# ---------------------------------------------------------------------------------------------------------------
# sluice status


@dataclass(frozen=True)
class State:
    """How a stage stands: done, stale, unfinished or missing, and why."""

    stage: str
    state: str
    why: str = ""


_STYLES = {"done": "green", "stale": "yellow", "unfinished": "cyan", "missing": "dim"}


def show_status(run_folder: str) -> None:
    """Print what is done, stale, under way and missing. Raises ConfigError if the folder is no run."""
    manifests = require_run(run_folder)
    executions = read_executions(run_folder)
    recipe = _stored_recipe(run_folder)
    _heading(f"{recipe.name + ' · ' if recipe else ''}{run_folder}")
    rows, notes, styles = [["stage", "state", "size", "wall", "started (UTC)"]], ["contents"], ["dim"]
    for state in states(run_folder, manifests, recipe):
        manifest = manifests.get(state.stage)
        cells = ["", "", ""]
        if manifest is not None:
            execution = last_execution(executions, manifest)
            wall = clock(execution["seconds"]) if "seconds" in execution else ""
            started = str(execution.get("started", ""))[:16].replace("T", " ")
            cells = [size(sum(entry.bytes for entry in manifest.files)), wall, started]
        rows.append([state.stage, state.state, *cells])
        notes.append(state.why or (describe(manifest) if manifest else ""))
        styles.append(_STYLES[state.state])
    if console.width < WIDE_SCREEN:
        rows = [row[:-1] for row in rows]
    columns = aligned([[*row, "|"] for row in rows], right=(2, 3))  # the bar keeps the spaces before a note
    for line, note, style in zip(columns, notes, styles):
        start = line.removesuffix("|")
        shown = _fitting(note, console.width - cell_len(start)) if style != _STYLES["stale"] else printable(note, 90)
        console.print(Text(f"{start}{shown}".rstrip(), style=style))
    _print(_under_way(run_folder))


def _fitting(note: str, room: int) -> str:
    """As many of the counts, parted by a comma and a space, as there is room for; at least one."""
    parts = printable(note).split(", ")
    for shown in range(len(parts), 0, -1):
        text = ", ".join([*parts[:shown], ELLIPSIS] if shown < len(parts) else parts)
        if cell_len(text) <= room:
            return text
    return parts[0]


def states(run_folder: str, manifests: dict[str, Manifest], recipe: Recipe | None) -> list[State]:
    """The state of every stage of the recipe, or of the whole road where the recipe is not known."""
    found: list[State] = []
    stale = find_stale(manifests)
    unfinished = set(_unfinished(run_folder))
    for stage in stages_of(recipe) if recipe else ROAD:
        manifest = manifests.get(stage.name)
        if manifest is None:
            found.append(State(stage.name, "unfinished" if stage.name in unfinished else "missing"))
            continue
        why = stale.get(stage.name, "")
        if not why and recipe is not None:
            changed = changed_settings(stage, manifest, recipe)
            why = f"recipe.yaml says otherwise: {', '.join(changed)}" if changed else ""
        # What is read here decides even if only the stage before has another recipe.
        behind = [state.stage for state in found if state.state == "stale" and state.stage in stage.reads]
        if not why and behind:
            why = f"{behind[0]} is stale"
        found.append(State(stage.name, "stale" if why else "done", why))
    return found


def _stored_recipe(run_folder: str) -> Recipe | None:
    path = paths.join(run_folder, RECIPE_FILE)
    if not paths.exists(path):
        return None
    try:
        return check_recipe(yaml.safe_load(paths.read_text(path)), Path(run_folder), path)
    except (ConfigError, yaml.YAMLError, UnicodeDecodeError):  # of another version; the manifests still tell much
        return None


def _unfinished(run_folder: str) -> list[str]:
    return [stage.name for stage in ROAD if paths.exists(paths.join(run_folder, UNFINISHED, stage.name, KEY_FILE))]


def _under_way(run_folder: str) -> list[str]:
    lines = []
    for name in _unfinished(run_folder):
        what = "is running now" if _is_running(run_folder) else "was interrupted; `sluice run` goes on from here"
        lines += ["", f"{name} {what}"]
        folder = Path(paths.join(run_folder, UNFINISHED, name).removeprefix("file://"))
        if name != "pretrain" or not paths.is_local(run_folder):
            continue
        if line := last_line(folder / "metrics.jsonl"):
            loss = f", loss {line['loss']:.3f}" if isinstance(line.get("loss"), float) else ""
            stage = printable(str(line.get("stage", "")))
            lines.append(f"  at step {line.get('step', 0):,}, {short(line.get('tokens', 0))} tokens, {stage}{loss}")
        steps = [path.name for path in sorted(folder.glob("checkpoints/step-*")) if (path / "manifest.json").exists()]
        lines.append(f"  checkpoints: {', '.join(steps) or 'none yet'}")
    return lines


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a JSONL file that may be being written, from its last megabyte."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - LINE_BYTES))
            lines = handle.read().split(b"\n")[:-1]
        value = json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_running(run_folder: str) -> bool:
    """Whether a process holds the run's lock; on a remote store there is none."""
    if not paths.is_local(run_folder):
        return False
    try:
        with (Path(run_folder.removeprefix("file://")) / ".lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# ---------------------------------------------------------------------------------------------------------------
# sluice recipe explain


@dataclass(frozen=True)
class Planned:
    """What `sluice run` would do about a stage, and why."""

    stage: Stage
    runs: bool
    why: str


def explain(recipe: Recipe, output: str | None) -> None:
    """Print per stage whether it will run and why, with the tokens and the time it will take, roughly.

    `output` is the folder of the run, runs/<name> if None. Nothing is written.
    """
    folder = output or f"runs/{recipe.name}"
    plan = plan_run(recipe, folder)
    tokens, counted = estimate_tokens(recipe, folder, plan)
    seconds = {stage.stage.name: estimate_seconds(stage.stage, recipe, folder, tokens) for stage in plan if stage.runs}
    _heading(f"{recipe.name} · {folder}")
    rows, styles = [["stage", "", "", "about"]], ["dim"]
    for planned in plan:
        name = planned.stage.name
        state, about = ("will run", _about(seconds[name])) if planned.runs else ("up to date", "")
        rows.append([name, state, printable(planned.why, 160), about])
        styles.append("" if planned.runs else "green")
    for line, style in zip(aligned(rows, right=(3,)), styles):
        console.print(Text(line, style=style))
    console.print()
    how = "counted by the last run" if counted else f"estimated: bytes of the sources / {BYTES_PER_TOKEN}"
    facts = [["tokens", f"{short(tokens)} in all documents ({how})"]]
    if recipe.pretrain is not None:
        config = model_config(recipe.pretrain, vocabulary_rows(recipe, folder)[0])
        facts += [["model", model_line(recipe.pretrain, config)], *training_rows(recipe.pretrain)]
    if seconds:
        total = _about(sum(seconds.values()))
        facts.append(["time", f"{total} for {_number(len(seconds), 'stage')}; rough where a stage never ran"])
    _print(aligned(facts))


def plan_run(recipe: Recipe, folder: str) -> list[Planned]:
    """What `sluice run` would do in `folder`, in order; whatever follows a stage that runs is taken to run too."""
    done: dict[str, str] = {}
    plan: list[Planned] = []
    for stage in stages_of(recipe):
        running = {planned.stage.name for planned in plan if planned.runs}
        behind = [name for name in stage.reads if name in running]
        if behind:
            plan.append(Planned(stage, True, f"after {behind[-1]}"))
            continue
        step = inspect(recipe, folder, stage, done)
        existing = read_manifest(step.folder)
        if step.manifest is not None:
            plan.append(Planned(stage, False, describe(step.manifest)))
            done[stage.name] = step.folder
        elif existing is None:
            plan.append(Planned(stage, True, "has not run yet"))
        else:
            plan.append(Planned(stage, True, "; ".join(_differences(step.hashes, existing, recipe))))
    return plan


def _differences(hashes: dict[str, str], existing: Manifest, recipe: Recipe) -> list[str]:
    """Why the key of a stage is not that of the dataset on disk."""
    stage = STAGES[existing.stage]
    found = []
    if existing.version != stage.version:
        found.append(f"the stage has version {stage.version} and not {existing.version}")
    changed = changed_settings(stage, existing, recipe)
    found += changed[:DIFFERENCES_SHOWN]
    if len(changed) > DIFFERENCES_SHOWN:
        found.append(f"and {_number(len(changed) - DIFFERENCES_SHOWN, 'more setting')}")
    for name in sorted({*hashes, *existing.inputs}):
        if hashes.get(name) != existing.inputs.get(name):
            verb = "new" if name not in existing.inputs else "gone" if name not in hashes else "changed"
            found.append(f"{verb} input: {name}")
    return found or ["its key has changed"]


def changed_settings(stage: Stage, manifest: Manifest, recipe: Recipe) -> list[str]:
    """Dotted keys in which a stage's part of the recipe differs from the configuration of its dataset."""
    # A manifest has been through JSON, where keys are strings and tuples are lists.
    now = json.loads(canonical_json(stage.config(recipe)))
    return _changed(manifest.config, now)


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [found for key in keys for found in _changed(old.get(key), new.get(key), f"{prefix}.{key}")]
    if old == new:
        return []
    if _are_named(old) and _are_named(new):
        return _changed({item["name"]: item for item in old}, {item["name"]: item for item in new}, prefix)
    return [f"{prefix.lstrip('.')} {_value(old)} → {_value(new)}"]


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value)


def _value(value: Any) -> str:
    return "absent" if value is None else printable(json.dumps(value, ensure_ascii=False), 40)


def estimate_tokens(recipe: Recipe, folder: str, plan: Sequence[Planned]) -> tuple[int, bool]:
    """Tokens of the documents, and whether they were counted, by a run on the documents that are there already."""
    last = read_manifest(paths.join(folder, "tokenize"))
    if last is not None and not any(planned.runs for planned in plan if planned.stage.name == "extract"):
        return sum(entry.tokens or 0 for entry in last.files), True
    from pipelines.extract.listing import list_sources

    sizes = (int(size) for listing in list_sources(recipe).values() for _, size, _ in listing)
    return sum(sizes) // BYTES_PER_TOKEN, False


def estimate_seconds(stage: Stage, recipe: Recipe, folder: str, tokens: int) -> float:
    """As long as last time, a training in proportion to its operations; by rough rates for what never ran."""
    existing = read_manifest(paths.join(folder, stage.name))
    executions = reversed(read_executions(folder))
    last: dict[str, Any] = next((e for e in executions if e.get("stage") == stage.name and "seconds" in e), {})
    if stage.name == "pretrain" and recipe.pretrain is not None:
        work = _operations(recipe.pretrain, model_config(recipe.pretrain, vocabulary_rows(recipe, folder)[0]))
        before = _work_of(existing) if existing is not None and existing.key == last.get("key") else 0.0
        if before:
            return float(last["seconds"]) * work / before
        return _FIXED_SECONDS + work / _FLOPS["cuda" if recipe.pretrain.device == "cuda" else "cpu"]
    if last:
        return float(last["seconds"])
    rate = _BYTES_PER_SECOND.get(stage.name)
    return _FIXED_SECONDS + (tokens * BYTES_PER_TOKEN / rate if rate else 0.0)


def _work_of(manifest: Manifest) -> float:
    """Operations of a finished training; 0 if it was written by another version."""
    try:
        section = {key: value for key, value in manifest.config.items() if key != "seed"}
        section["model"] = section["model"] or {"path": "."}  # of a model in a folder the place is not recorded
        return _operations(Pretrain.model_validate(section), ModelConfig(**manifest.extra["model"]))
    except (ConfigError, ValueError, KeyError, TypeError):
        return 0.0


def _operations(pretrain: Pretrain, config: ModelConfig) -> float:
    """Of a whole training, with those that are done twice."""
    return float(sum(training_flops(pretrain, config)))


def _about(seconds: float) -> str:
    """A duration with no more digits than an estimate deserves."""
    if seconds < 100:
        return clock(max(1, float(f"{seconds:.1g}")))
    if seconds < 2 * 86_400:
        return clock(60 * round(seconds / 60)) if seconds < 3600 else clock(600 * round(seconds / 600))
    return f"{seconds / 86_400:,.0f} days"
