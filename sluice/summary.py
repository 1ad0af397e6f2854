"""A run in a few numbers, read from its manifests alone; the data itself is not opened."""

import json
import re
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from schemas import paths
from schemas.documents import TRAIN, VALIDATION
from schemas.errors import ConfigError
from schemas.manifest import Manifest, read_manifest
from sluice.console import clock, console, size
from sluice.road import ROAD, STAGES
from sluice.run import RECIPE_FILE, RUN_FILE, UNFINISHED, read_executions
from sluice.text import aligned, count, printable

REPORT_FILE = "report.html"
UNREADABLE = "unreadable"
PAGE_ROUTES = {  # what became of a page -> what people read
    "text_layer": "text layer",
    "ocr": "ocr",
    "vlm": "vlm",
    "blank": "blank",
    UNREADABLE: "unreadable",
}
_SAMPLE_BYTES, _SAMPLE_CHARACTERS = 1 << 20, 120


@dataclass(frozen=True)
class Trained:
    """One stage of training. Losses are means of its first and last few steps, in nats per token."""

    name: str
    steps: int
    tokens: int
    first_loss: float | None
    last_loss: float | None
    validation_bits_per_byte: float | None


@dataclass(frozen=True)
class Cost:
    """What a stage left and what its last execution took; the times are None where run.json does not know them."""

    stage: str
    key: str
    files: int
    rows: int
    bytes: int
    started: str | None
    host: str | None
    seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Continuation:
    prompt: str
    greedy: str
    sampled: str


@dataclass(frozen=True)
class Summary:
    """Numbers are None where the stage that knows them has not finished.

    `documents` were extracted; a document counts as dropped by the first stage of the road that dropped it.
    """

    folder: str
    documents: int | None
    rejected: dict[str, int]  # error -> inputs that became no document
    pages: dict[str, int]  # a key of PAGE_ROUTES -> pages of PDF files
    filtered: int | None
    duplicates: int | None
    contaminated: int | None
    clusters: dict[str, int]  # reasons of deduplication, and `clusters`; empty where nothing was dropped
    benchmarks: dict[str, int]  # compared, found, items, documents; empty where there are none
    kept: int | None
    train_documents: int | None
    validation_documents: int | None
    train_tokens: int | None
    validation_tokens: int | None
    parameters: int | None
    training: tuple[Trained, ...]
    bits_per_byte: float | None
    unigram_bits_per_byte: float | None
    continuations: tuple[Continuation, ...]
    report: str | None
    model: str | None
    costs: tuple[Cost, ...]
    stale: dict[str, str]  # stage -> why its dataset no longer follows from its inputs


# ---------------------------------------------------------------------------------------------------------------
# Reading a run folder


def require_run(folder: str) -> dict[str, Manifest]:
    """Manifests of the finished datasets of a run folder. Raises ConfigError if the folder is no run."""
    manifests = {}
    for stage in ROAD:
        manifest = read_manifest(paths.join(folder, stage.name))
        if manifest is not None and manifest.stage == stage.name:
            manifests[stage.name] = manifest
    marks = (RECIPE_FILE, RUN_FILE, UNFINISHED)
    if not manifests and not any(paths.exists(paths.join(folder, mark)) for mark in marks):
        if not paths.exists(folder):
            raise ConfigError(f"{folder}: there is no such folder")
        if read_manifest(folder) is not None:
            raise ConfigError(f"{folder}: is one dataset and not a run; look at it with `sluice show {folder}`")
        raise ConfigError(f"{folder}: is no run folder: it holds no {RECIPE_FILE} and no finished dataset")
    return manifests


def find_stale(manifests: dict[str, Manifest]) -> dict[str, str]:
    """Stage -> why, for datasets that do not follow from the datasets that are beside them now."""
    hashes = {name: manifest.hash for name, manifest in manifests.items()}
    stale: dict[str, str] = {}
    for stage in ROAD:
        manifest = manifests.get(stage.name)
        if manifest is None:
            continue
        changed = [name for name, known in manifest.inputs.items() if name in hashes and hashes[name] != known]
        behind = [name for name in manifest.inputs if name in stale]
        if manifest.version != stage.version:
            stale[stage.name] = f"written by version {manifest.version} of the stage, which is now {stage.version}"
        elif changed:
            stale[stage.name] = f"{changed[0]} has changed since"
        elif behind:
            stale[stage.name] = f"{behind[0]} is stale"
    return stale


def last_execution(executions: list[dict[str, Any]], manifest: Manifest) -> dict[str, Any]:
    """The newest execution that wrote this dataset; empty if run.json does not know it."""
    for execution in reversed(executions):
        if execution.get("stage") == manifest.stage and execution.get("key") == manifest.key:
            return execution
    return {}


def summarise(folder: str) -> Summary:
    """The numbers of a run, of whatever has finished. Raises ConfigError if the folder is no run."""
    everything = require_run(folder)
    return summarise_manifests(folder, everything)


def summarise_manifests(folder: str, everything: dict[str, Manifest]) -> Summary:
    stale = find_stale(everything)
    manifests = {name: manifest for name, manifest in everything.items() if name not in stale}
    extract = manifests.get("extract")
    documents = extract.counts.get("documents", 0) if extract else None
    filtered, duplicates, contaminated = (_dropped(manifests, name) for name in ("filter", "dedup", "decontaminate"))
    train, validation = _split_counts(manifests)
    if train is not None and validation is not None:
        kept: int | None = train + validation
    else:
        dropped = (filtered or 0) + (duplicates or 0) + (contaminated or 0)
        kept = documents - dropped if documents is not None else None
    train_tokens, validation_tokens = _tokens(manifests)
    pretrain, evaluate = manifests.get("pretrain"), manifests.get("evaluate")
    report = paths.join(folder, REPORT_FILE)
    executions = read_executions(folder)
    return Summary(
        folder=folder,
        documents=documents,
        rejected=_rejected(extract),
        pages=_pages(extract),
        filtered=filtered,
        duplicates=duplicates,
        contaminated=contaminated,
        clusters=_clusters(manifests.get("dedup")),
        benchmarks=_benchmarks(manifests.get("decontaminate")),
        kept=kept,
        train_documents=train,
        validation_documents=validation,
        train_tokens=train_tokens,
        validation_tokens=validation_tokens,
        parameters=pretrain.extra.get("parameters") if pretrain else None,
        training=_training(pretrain),
        bits_per_byte=_bits_per_byte(pretrain, evaluate),
        unigram_bits_per_byte=evaluate.extra.get("unigram_bits_per_byte") if evaluate else None,
        continuations=_continuations(folder, manifests.get("export")),
        report=report if paths.exists(report) else None,
        model=_model_folder(folder, manifests.get("export")),
        costs=tuple(_cost(everything[name], executions) for name in STAGES if name in everything),
        stale=stale,
    )


def _rejected(extract: Manifest | None) -> dict[str, int]:
    """Without rejected pages: the document that they are of is there, or is a reject itself."""
    reasons = sorted(extract.reasons.items()) if extract else []
    pages = extract.extra if extract else {}
    return {error: rest for error, number in reasons if (rest := number - pages.get(f"rejected_pages_{error}", 0))}


def _pages(extract: Manifest | None) -> dict[str, int]:
    counts = extract.extra if extract else {}
    return {route: number for route in PAGE_ROUTES if (number := counts.get(f"pages_{route}", 0))}


def _dropped(manifests: dict[str, Manifest], stage: str) -> int | None:
    if "split" in manifests:
        return manifests["split"].reasons.get(stage, 0)
    return manifests[stage].counts.get("dropped") if stage in manifests else None


def _clusters(dedup: Manifest | None) -> dict[str, int]:
    reasons = {reason: number for reason, number in sorted(dedup.reasons.items()) if number} if dedup else {}
    if dedup is None or not reasons:
        return {}
    return reasons | {"clusters": sum(n for name, n in dedup.extra.items() if name.startswith("clusters_of_"))}


def _benchmarks(decontaminate: Manifest | None) -> dict[str, int]:
    compared = decontaminate.extra.get("benchmarks") if decontaminate else None
    if decontaminate is None or not compared:
        return {}
    found = [its.get("found", 0) for its in compared.values()]
    documents = decontaminate.counts.get("contaminated", 0)
    return {"compared": len(compared), "found": sum(map(bool, found)), "items": sum(found), "documents": documents}


def _split_counts(manifests: dict[str, Manifest]) -> tuple[int | None, int | None]:
    for name in ("split", "mix"):
        if name in manifests:
            counts = manifests[name].counts
            return counts.get(TRAIN, 0), counts.get(VALIDATION, 0)
    return None, None


def _tokens(manifests: dict[str, Manifest]) -> tuple[int | None, int | None]:
    if "tokenize" not in manifests:
        return None, None
    counts = manifests["tokenize"].counts
    return counts.get(f"{TRAIN}_tokens", counts.get("tokens")), counts.get(f"{VALIDATION}_tokens")


def _training(pretrain: Manifest | None) -> tuple[Trained, ...]:
    stages = pretrain.extra.get("stages", {}) if pretrain else {}
    # A manifest keeps the order of training, which is not that of the names.
    return tuple(
        Trained(
            name,
            stage.get("steps", 0),
            stage.get("tokens", 0),
            stage.get("first_loss"),
            stage.get("last_loss"),
            stage.get("validation_bits_per_byte"),
        )
        for name, stage in stages.items()
    )


def _bits_per_byte(pretrain: Manifest | None, evaluate: Manifest | None) -> float | None:
    """Of the evaluation, or of the last validation of the training."""
    if evaluate is not None and evaluate.extra.get("bits_per_byte") is not None:
        return float(evaluate.extra["bits_per_byte"])
    scores = [stage.validation_bits_per_byte for stage in _training(pretrain)]
    return next((score for score in reversed(scores) if score is not None), None)


def _continuations(folder: str, export: Manifest | None) -> tuple[Continuation, ...]:
    entry = next((entry for entry in export.files if entry.path == "samples.json"), None) if export else None
    if entry is None or entry.bytes > _SAMPLE_BYTES:
        return ()
    try:
        samples = json.loads(paths.read_text(paths.join(folder, "export", entry.path)))
        return tuple(
            Continuation(str(item["prompt"]), str(item["greedy"]), str(item.get("sampled", ""))) for item in samples
        )
    except (OSError, ValueError, KeyError, TypeError):  # a report does not fail for the want of a sample
        return ()


def _model_folder(folder: str, export: Manifest | None) -> str | None:
    return paths.join(folder, "export", "model") if export is not None and export.select("model") else None


def _cost(manifest: Manifest, executions: list[dict[str, Any]]) -> Cost:
    execution = last_execution(executions, manifest)
    return Cost(
        stage=manifest.stage,
        key=manifest.key,
        files=len(manifest.files),
        rows=sum(entry.rows for entry in manifest.files),
        bytes=sum(entry.bytes for entry in manifest.files),
        started=execution.get("started"),
        host=execution.get("host"),
        seconds=execution.get("seconds"),
        cpu_seconds=execution.get("cpu_seconds"),
        peak_memory_bytes=execution.get("peak_memory_bytes"),
    )


# ---------------------------------------------------------------------------------------------------------------
# Printing


def print_summary(folder: str) -> None:
    """The end of a run on the terminal."""
    for line in summary_lines(summarise(folder)):
        console.print(Text(line))


def summary_lines(summary: Summary) -> list[str]:
    rows: list[list[str]] = []
    if summary.documents is not None:
        rows.append(["documents", _documents_line(summary)])
    if summary.pages:
        shown = (f"{number:,} {PAGE_ROUTES[route]}" for route, number in summary.pages.items())
        rows.append(["pages", " · ".join(shown)])
    if summary.clusters:
        shown = (f"{number:,} {what.replace('_', ' ')}" for what, number in summary.clusters.items())
        rows.append(["duplicates", " · ".join(shown)])
    if found := summary.benchmarks:
        told = f"{found['items']:,} items of {found['found']:,} in {found['documents']:,} documents"
        rows.append(["benchmarks", f"{found['compared']:,} compared · {told}"])
    if summary.train_documents is not None:
        rows.append(["split", _split_line(summary)])
    if summary.parameters is not None:
        rows.append(["model", f"{summary.parameters:,} parameters"])
    for number, stage in enumerate(_training_table(summary)):
        rows.append(["training" if number == 0 else "", stage])
    if summary.bits_per_byte is not None:
        against = summary.unigram_bits_per_byte
        beside = f" (a unigram model: {against:.3f})" if against is not None else ""
        rows.append(["evaluation", f"{summary.bits_per_byte:.3f} bits per byte on the validation split{beside}"])
    if summary.continuations:
        rows.append(["sample", _sample_line(summary.continuations[0])])
    if time := _time_line(summary):
        rows.append(["time", time])
    rows += [["stale", f"{stage}: {why}"] for stage, why in summary.stale.items()]
    if summary.model:
        rows.append(["written to", summary.model])
    return aligned(rows)


def _documents_line(summary: Summary) -> str:
    rejected = sum(summary.rejected.values())
    parts = [
        f"{number:,} {what}"
        for number, what in (
            (rejected, "rejected"),
            (summary.filtered, "filtered"),
            (summary.duplicates, "duplicates"),
            (summary.contaminated, "contaminated"),
        )
        if number is not None
    ]
    read = (summary.documents or 0) + rejected
    return f"{read:,} in · {' · '.join(parts)} · {count(summary.kept)} kept"


def _split_line(summary: Summary) -> str:
    def part(name: str, documents: int | None, tokens: int | None) -> str:
        return f"{name} {count(documents)} documents" + (f" ({tokens:,} tokens)" if tokens is not None else "")

    return " · ".join(
        (
            part("training", summary.train_documents, summary.train_tokens),
            part("validation", summary.validation_documents, summary.validation_tokens),
        )
    )


def _training_table(summary: Summary) -> list[str]:
    def validation(score: float | None) -> str:
        return "" if score is None else f"validation {score:.3f} bits per byte"

    rows = [
        [
            stage.name,
            f"{stage.steps:,} steps",
            f"{stage.tokens:,} tokens",
            f"loss {_loss(stage.first_loss)} → {_loss(stage.last_loss)}",
            validation(stage.validation_bits_per_byte),
        ]
        for stage in summary.training
    ]
    return aligned(rows, right=(1, 2, 3, 4))


def _sample_line(sample: Continuation) -> str:
    """The sampled text, since a small model that always takes the likeliest token repeats itself."""
    text = sample.sampled or sample.greedy
    return f"{printable(sample.prompt, 60)} ▸{printable(re.sub(' {2,}', ' ', text), _SAMPLE_CHARACTERS)}"


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _time_line(summary: Summary) -> str:
    timed = [(cost.seconds, cost.stage) for cost in summary.costs if cost.seconds is not None]
    if not timed:
        return ""
    slowest = ", ".join(f"{stage} {clock(seconds)}" for seconds, stage in sorted(timed, reverse=True)[:3])
    peak = max(cost.peak_memory_bytes or 0 for cost in summary.costs)
    return f"{clock(sum(seconds for seconds, _ in timed))} ({slowest}) · peak {size(peak)}"
