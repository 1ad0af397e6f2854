"""The report of a run: one HTML page that needs nothing else, at any point of the run.

What is exact comes from the manifests; what concerns single documents comes from columns of their labels. Every
string of a document is untrusted: it is made printable, escaped by the template, and the page forbids all scripts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from schemas import paths
from schemas.documents import TRAIN, VALIDATION
from schemas.manifest import Manifest
from schemas.tables import read_table
from sluice import corpus, plots
from sluice.blocks import (
    LONG_TABLE,
    ROWS_SHOWN,
    Block,
    Plot,
    Sample,
    Samples,
    Section,
    Stack,
    Table,
    count_by,
    first_shown,
    language_name,
    most_first,
    percent,
)
from sluice.console import clock, size
from sluice.report_contamination import contamination_section
from sluice.report_dedup import duplicates_section
from sluice.report_extraction import models_section, pages_section, refinement_section
from sluice.report_filter import filter_section
from sluice.report_repeats import repeats_section
from sluice.run import RECIPE_FILE, UNFINISHED, VERSIONS_FILE, read_executions
from sluice.summary import REPORT_FILE, Summary, find_stale, require_run, summarise_manifests
from sluice.text import count, printable, short

TEMPLATES = Path(__file__).parent / "templates"
SAMPLE_CHARACTERS = 300
SAMPLES_PER_REASON, REASONS_SHOWN, ERRORS_SHOWN = 3, 24, 20
NAMES_SHOWN, MIXTURE_CELLS = 14, 12  # bars of a plot; the rest are summed up
PAIRS_SHOWN = 40  # rows of a table
SOURCES_SHOWN, LANGUAGES_HIT = 6, 3  # per reason
METRICS_BYTES = 32 << 20  # of metrics.jsonl that are parsed; of a longer file every n-th line
CURVE_POINTS, CELL_POINTS, CELLS_SHOWN, FAULTS_SHOWN = 500, 60, 8, 30
LEAST_CELL = 0.01  # share of the tokens below which a cell's curve is nothing but noise

_OUTCOMES = {  # value of the column `outcome` -> name and series; in the order of the road
    "filter": ("filtered", 2),
    "dedup": ("duplicates", 3),
    "decontaminate": ("contaminated", 4),
    "kept": ("kept", 1),
    TRAIN: ("train", 1),
    VALIDATION: ("validation", 6),
}
_REJECTED = ("rejected", 8)


@dataclass(frozen=True)
class _Metrics:
    """What a training wrote down: all lines, those of steps, and the tokens at which one stage gave way to the next."""

    lines: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    stages: list[str]
    ends: list[int]
    finished: bool


@dataclass(frozen=True)
class _Run:
    """What the sections draw on."""

    folder: str
    manifests: dict[str, Manifest]  # of datasets that belong together
    everything: dict[str, Manifest]
    summary: Summary
    documents: corpus.Table | None
    tokens: corpus.Table | None
    rejects: corpus.Table | None
    pages: corpus.Table | None
    metrics: _Metrics | None
    recipe: dict[str, Any]


def write_report(run_folder: str) -> str:
    """Write RUN/report.html about whatever has finished, and return its path.

    Raises ConfigError if the folder is no run, DataError if a dataset cannot be read.
    """
    everything = require_run(run_folder)
    stale = find_stale(everything)
    manifests = {name: manifest for name, manifest in everything.items() if name not in stale}
    recipe = _read_yaml(paths.join(run_folder, RECIPE_FILE))
    environments = [s.get("name", "") for s in recipe.get("sources", []) if s.get("kind") == "python-environment"]
    run = _Run(
        folder=run_folder,
        manifests=manifests,
        everything=everything,
        summary=summarise_manifests(run_folder, everything),
        documents=corpus.read_documents(run_folder, manifests, environments),
        tokens=corpus.read_tokens(run_folder, manifests),
        rejects=corpus.read_rejects(run_folder, manifests),
        pages=corpus.read_pages(run_folder, manifests),
        metrics=_read_training(run_folder, manifests),
        recipe=recipe,
    )
    of_files = (_funnel, _quality, _duplicates, _repeats, _contamination, _pages, _models, _refinement)
    of_data = (*of_files, _languages, _scores, _sizes, _tokenizer, _mixture)
    of_model = (_training_details, _evaluation, _continuations)
    makers = (_training, *of_data, *of_model, _stages, _origins, _software)  # what is looked at first comes first
    sections = [section for make in makers if (section := make(run)) is not None]
    page = (
        _environment()
        .get_template("report.html")
        .render(
            long_table=LONG_TABLE,
            name=printable(str(recipe.get("name", Path(run_folder).name)), 80),
            folder=printable(run_folder, 300),
            facts=_facts(run_folder),
            tiles=_tiles(run),
            stale=[(name, printable(why)) for name, why in stale.items()],
            sections=sections,
        )
    )
    path = paths.join(run_folder, REPORT_FILE)
    paths.write_text(path, page.encode("utf-8", "replace").decode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = format_cell
    return environment


def format_cell(value: Any) -> str:
    """A value of a table: numbers with separators and few digits, text made printable."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.3g}"
    return printable(str(value), 240)


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    if not paths.exists(path):
        return {}
    try:
        value = yaml.safe_load(paths.read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_json(path: str) -> Any:
    if not paths.exists(path):
        return None
    try:
        return json.loads(paths.read_text(path))
    except (ValueError, RecursionError):
        return None


# ---------------------------------------------------------------------------------------------------------------
# Head


def _facts(folder: str) -> list[str]:
    executions = read_executions(folder)
    if not executions:
        return []
    started = sorted(str(execution.get("started", "")) for execution in executions)
    hosts = sorted({str(execution.get("host", "")) for execution in executions} - {""})
    first, last = (printable(text[:16].replace("T", " ")) for text in (started[0], started[-1]))
    when = f"{first} UTC" if first == last else f"{first} to {last} UTC"
    return [when, f"on {printable(', '.join(hosts), 120)}"] if hosts else [when]


def _tiles(run: _Run) -> list[tuple[str, str, str]]:
    """Number, what it is, and a word more."""
    s = run.summary
    tiles: list[tuple[str, str, str]] = []
    if s.documents is not None:
        rejected = sum(s.rejected.values())
        read = s.documents + rejected
        tiles.append((f"{read:,}", "documents in", f"{s.documents:,} extracted"))
        dropped = [
            (rejected, "rejected"),
            (s.filtered, "filtered"),
            (s.duplicates, "duplicates"),
            (s.contaminated, "contaminated"),
        ]
        tiles += [(f"{n:,}", what, percent(n, read)) for n, what in dropped if n is not None]
        if s.contaminated == 0 and (found := s.benchmarks.get("documents", 0)):  # the recipe cuts, or only reports
            tiles[-1] = (f"{found:,}", "contaminated", "none of them dropped")
        tiles.append((count(s.kept), "kept", percent(s.kept or 0, read)))
    if s.train_tokens is not None:
        tiles.append((short(s.train_tokens), "training tokens", f"{count(s.train_documents)} documents"))
    if s.validation_tokens is not None:
        tiles.append((short(s.validation_tokens), "validation tokens", f"{count(s.validation_documents)} documents"))
    if s.parameters is not None:
        tiles.append((short(s.parameters), "parameters", f"{s.parameters:,}"))
    if s.training and s.training[-1].last_loss is not None:
        first = s.training[0].first_loss
        tiles.append(
            (f"{s.training[-1].last_loss:.3f}", "nats per token", f"final loss, from {first:.2f}" if first else "loss")
        )
    if s.bits_per_byte is not None:
        against = s.unigram_bits_per_byte
        tiles.append((f"{s.bits_per_byte:.3f}", "bits per byte", f"unigram {against:.3f}" if against else "validation"))
    return tiles


# ---------------------------------------------------------------------------------------------------------------
# Documents


def _funnel(run: _Run) -> Section | None:
    if run.documents is None:
        return None
    frame, note = run.documents.frame, run.documents.note
    sources = _outcomes(frame, "source")
    for name, number in (count_by(run.rejects.frame, "source") if run.rejects is not None else {}).items():
        sources[name] = {_REJECTED[0]: number, **sources.get(name, {})}
    sources = _largest_first(sources, "source")
    table = _outcome_table("By source, in documents", sources, folded=len(sources) > LONG_TABLE)
    blocks: list[Block] = [Stack((_shares("By source", sources, note), table))]  # each above its own numbers
    if "language" in frame.columns:
        languages = _largest_first(_outcomes(frame, "language"), "language")
        table = _outcome_table("By language, in documents", languages, folded=len(languages) > LONG_TABLE)
        blocks.append(Stack((_shares("By language", languages, note), table)))
        blocks.append(_by_source_and_language(run.documents, run.manifests))
    blocks += _reasons(run)
    blocks += _reject_samples(run)
    return Section("funnel", "Documents", blocks, "A document counts for the first stage that dropped it.")


def _shares(title: str, rows: dict[str, dict[str, int]], note: str) -> Plot:
    shown = {f"{name} ({sum(row.values()):,})": row for name, row in _first_rows(rows).items()}
    alt = f"What became of the documents, {title.lower()}, in percent; the table has the numbers"
    return Plot(
        title, plots.stacked_shares(shown, dict([_REJECTED, *_OUTCOMES.values()]), "share of documents (%)", alt), note
    )


def _largest_first(rows: dict[str, dict[str, int]], column: str) -> dict[str, dict[str, int]]:
    ordered = sorted(rows.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return {_name_of(column, name): outcomes for name, outcomes in ordered}


def _by_source_and_language(documents: corpus.Table, manifests: Mapping[str, Manifest]) -> Table:
    """What became of the documents of each pair; the smallest pairs are summed up in the last row."""
    outcomes = [stage for stage in corpus.DROPPING if stage in manifests]
    outcomes += [TRAIN, VALIDATION] if "split" in manifests else ["kept"]
    counted = (
        documents.frame.group_by("source", "language")
        .agg(
            pl.len().alias("extracted"), *((pl.col("outcome") == outcome).sum().alias(outcome) for outcome in outcomes)
        )
        .sort("extracted", "source", "language", descending=[True, False, False])
    )
    rows = [list(row) for row in counted.iter_rows()]
    body = [
        [printable(source, 60), _name_of("language", language), *numbers]
        for source, language, *numbers in rows[:PAIRS_SHOWN]
    ]
    if rest := rows[PAIRS_SHOWN:]:
        body.append([f"{len(rest):,} others", "", *(sum(column) for column in list(zip(*rest))[2:])])
    head = ["source", "language", "extracted", *(_OUTCOMES[outcome][0] for outcome in outcomes)]
    folded = len(body) > LONG_TABLE
    return Table("By source and language", head, body, "ll" + "r" * (len(head) - 2), documents.note, folded)


def _outcomes(frame: pl.DataFrame, column: str) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for name, outcome, number in frame.group_by(column, "outcome").len().sort(column, "outcome").iter_rows():
        row = rows.setdefault(str(name), {})
        title = _OUTCOMES[outcome][0]
        row[title] = row.get(title, 0) + number
    return rows


def _first_rows(rows: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The first few, and the rest in one."""
    if len(rows) <= NAMES_SHOWN:
        return rows
    names = list(rows)
    rest: dict[str, int] = {}
    for name in names[NAMES_SHOWN - 1 :]:
        for outcome, number in rows[name].items():
            rest[outcome] = rest.get(outcome, 0) + number
    return {name: rows[name] for name in names[: NAMES_SHOWN - 1]} | {f"{len(names) - NAMES_SHOWN + 1} others": rest}


def _outcome_table(title: str, rows: dict[str, dict[str, int]], folded: bool) -> Table:
    present = [name for name, _ in (_REJECTED, *_OUTCOMES.values()) if any(name in row for row in rows.values())]
    present = list(dict.fromkeys(present))
    body = [
        [name, sum(row.values()), *(row.get(outcome, 0) for outcome in present)]
        for name, row in list(rows.items())[:ROWS_SHOWN]
    ]
    return Table(title, ["", "all", *present], body, "l" + "r" * (len(present) + 1), first_shown(len(rows)), folded)


def _name_of(column: str, value: str) -> str:
    return language_name(value) if column == "language" else printable(value, 60)


def _reasons(run: _Run) -> list[Block]:
    """Of every stage the reasons with their documents, by source, and by the languages that they hit most."""
    assert run.documents is not None
    frame = run.documents.frame
    sources = list(count_by(frame, "source"))
    if run.rejects is not None:
        sources += [name for name in count_by(run.rejects.frame, "source") if name not in sources]
    shown = sources if len(sources) <= SOURCES_SHOWN else sources[: SOURCES_SHOWN - 1]
    rows: list[list[Any]] = []

    def add(stage: str, reasons: dict[str, int], judged: int, frame: pl.DataFrame, column: str) -> None:
        by_source = _count_pairs(frame, column, "source")
        by_language = _count_pairs(frame, column, "language")
        for reason, number in reasons.items():
            mine = by_source.get(reason, {})
            rest = [sum(mine.values()) - sum(mine.get(name, 0) for name in shown)] * (len(sources) > len(shown))
            most = list(by_language.get(reason, {}).items())[:LANGUAGES_HIT]
            languages = ", ".join(f"{_name_of('language', name)} {count:,}" for name, count in most)
            by = [mine.get(name, 0) for name in shown]
            rows.append([stage, reason, number, percent(number, judged), *by, *rest, languages or None])

    rejected = most_first(run.summary.rejected)
    if rejected and run.rejects is not None:
        read = (run.summary.documents or 0) + sum(rejected.values())
        add("extract", rejected, read, run.rejects.frame, "error")
    wanted: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for stage in corpus.DROPPING:
        manifest = run.manifests.get(stage)
        if manifest is None:
            continue
        reasons = most_first(manifest.reasons)
        judged = manifest.counts.get("documents", 0) - manifest.counts.get("not_judged", 0)
        add(stage, reasons, judged, frame, f"{stage}_reasons")
        for reason in reasons if stage != "filter" else []:  # which has a section of its own
            if len(wanted) < REASONS_SHOWN and (chosen := _choose(run.documents, stage, reason)):
                wanted[stage, reason] = chosen
    if not rows:
        return []
    named = [printable(name, 24) for name in shown]
    named += [f"{len(sources) - len(shown)} others"] * (len(sources) > len(shown))
    head = ["stage", "reason", "documents", "share", *named, "languages most hit"]
    note = "A document can have several reasons. Shares are of the documents that the stage judged."
    if run.documents.note:
        note += f" By source and language: {run.documents.note[0].lower()}{run.documents.note[1:]}"
    align = "llrr" + "r" * len(named) + "l"
    blocks: list[Block] = [Table("Reasons, by stage and source", head, rows[:ROWS_SHOWN], align, note)]
    texts = corpus.read_texts(
        run.folder,
        run.manifests["extract"],
        (place for places in wanted.values() for place in places),
        SAMPLE_CHARACTERS + 1,
    )
    groups: dict[str, list[Sample]] = {}
    for (stage, reason), places in wanted.items():
        found = [_sample(texts[place]) for place in places if place in texts]
        if found:
            groups[f"{stage} · {printable(reason, 80)}"] = found
    if groups:
        told = f"The documents with the smallest ids, which are hashes; the first {SAMPLE_CHARACTERS} characters."
        blocks.append(Samples("What was dropped, by reason", groups, told))
    return blocks


def _count_pairs(frame: pl.DataFrame, column: str, by: str) -> dict[str, dict[str, int]]:
    """Reason -> source or language -> documents, most first; `column` holds one reason or a list of them."""
    if column not in frame.columns or by not in frame.columns:
        return {}
    pairs = frame.select(column, by)
    if isinstance(pairs.schema[column], pl.List):
        pairs = pairs.explode(column).drop_nulls(column)
    counted: dict[str, dict[str, int]] = {}
    ordered = pairs.group_by(column, by).len().sort("len", by, descending=[True, False])
    for reason, name, number in ordered.iter_rows():
        counted.setdefault(reason, {})[name] = number
    return counted


def _choose(documents: corpus.Table | None, stage: str, reason: str) -> list[tuple[int, int]]:
    column = f"{stage}_reasons"
    if documents is None or column not in documents.frame.columns:
        return []
    dropped = documents.frame.filter((pl.col("outcome") == stage) & pl.col(column).list.contains(reason))
    return list(dropped.sort("document_id").head(SAMPLES_PER_REASON).select("shard", "row").iter_rows())


def _sample(text: corpus.Text) -> Sample:
    where = " · ".join(part for part in (text.source, text.path, text.locator) if part)
    return Sample(printable(where, 160), printable(text.text, SAMPLE_CHARACTERS))


def _reject_samples(run: _Run) -> list[Block]:
    if run.rejects is None:
        return []
    groups = {}
    for error in list(most_first(run.summary.rejected))[:ERRORS_SHOWN]:
        some = run.rejects.frame.filter(pl.col("error") == error).sort("document_id").head(SAMPLES_PER_REASON)
        groups[printable(error, 80)] = [
            Sample(
                printable(" · ".join(part for part in (row["source"], row["path"], row["locator"]) if part), 160),
                printable(row["message"], SAMPLE_CHARACTERS),
            )
            for row in some.iter_rows(named=True)
        ]
    groups = {error: found for error, found in groups.items() if found}
    return [Samples("What could not be extracted, by error", groups, run.rejects.note)] if groups else []


def _quality(run: _Run) -> Section | None:
    return filter_section(run.folder, run.manifests, run.documents)


def _duplicates(run: _Run) -> Section | None:
    return duplicates_section(run.folder, run.manifests)


def _repeats(run: _Run) -> Section | None:
    return repeats_section(run.folder, run.manifests)


def _contamination(run: _Run) -> Section | None:
    return contamination_section(run.folder, run.manifests)


def _pages(run: _Run) -> Section | None:
    return pages_section(run.folder, run.manifests["extract"], run.pages, run.recipe) if run.pages else None


def _models(run: _Run) -> Section | None:
    return models_section(run.folder, run.manifests, run.recipe)


def _refinement(run: _Run) -> Section | None:
    return refinement_section(run.folder, run.manifests, run.pages)


def _languages(run: _Run) -> Section | None:
    annotate = run.manifests.get("annotate")
    counted = annotate.extra.get("languages", {}) if annotate else {}
    if not counted:
        return None
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    bars = {_name_of("language", name): number for name, number in ordered[: NAMES_SHOWN - 1]}
    if len(ordered) >= NAMES_SHOWN:
        bars[f"{len(ordered) - len(bars)} others"] = sum(number for _, number in ordered[NAMES_SHOWN - 1 :])
    domains: dict[str, float] = {}
    if run.documents is not None and "domain" in run.documents.frame.columns:
        domains = dict(count_by(run.documents.frame, "domain"))
    room = max(len(bars), len(domains))
    alt = f"Documents by language: {', '.join(f'{name} {number:,}' for name, number in list(bars.items())[:5])}"
    blocks: list[Block] = [Plot("Documents by language", plots.bars(bars, "documents", alt, room=room))]
    if domains and run.documents is not None:
        alt = f"Documents by domain: {', '.join(f'{name} {number:,.0f}' for name, number in list(domains.items())[:5])}"
        svg = plots.bars(domains, "documents", alt, room=room)
        blocks.append(Plot("Documents by domain", svg, run.documents.note))
    total = sum(counted.values())
    rows = [[_name_of("language", name), name, number, percent(number, total)] for name, number in ordered]
    head = ["language", "label", "documents", "share"]
    blocks.append(Table("All languages", head, rows[:130], "llrr", folded=True))
    return Section("languages", "Languages and domains", blocks, "As extracted, before anything is dropped.")


_SCORES = {
    "language_score": ("language score", "probability of the language label", 1.0),
    "quality_score": ("quality score", "quality, 0 to 1", 1.0),
    "educational_score": ("educational score", "expected tier, 0 to 5", 5.0),
    "unsafe_score": ("unsafe score", "probability that the worst part is unsafe", 1.0),
}


def _scores(run: _Run) -> Section | None:
    if run.documents is None:
        return None
    frame = run.documents.frame
    kept = ~frame["outcome"].is_in(corpus.DROPPING).to_numpy()
    blocks: list[Block] = []
    for column, (title, label, top) in _SCORES.items():
        if column not in frame.columns:
            continue
        values = frame[column].to_numpy()
        edges = np.linspace(0, top, 41)
        heights = {
            name: np.histogram(np.clip(values[mask & np.isfinite(values)], 0, top), edges)[0]
            for name, mask in (("kept", kept), ("dropped", ~kept))
            if mask.any()
        }
        median = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
        alt = f"Histogram of the {title}; its median is {median:.2f}"
        blocks.append(Plot(title.capitalize(), plots.histogram(edges, heights, label, "documents", alt)))
    return Section("scores", "Scores", blocks, run.documents.note) if blocks else None


def _sizes(run: _Run) -> Section | None:
    if run.tokens is None or not run.tokens.frame.height:
        return None
    frame = run.tokens.frame.with_columns(
        pl.col("tokens").cast(pl.Float64).log(2).floor().cast(pl.Int64).alias("class")
    )
    first, last = int(frame["class"].to_numpy().min()), int(frame["class"].to_numpy().max())
    classes = range(first, last + 1)
    counted: dict[str, dict[str, float]] = {}
    tokens: dict[str, float] = {_length(exponent): 0.0 for exponent in classes}
    for split in (TRAIN, VALIDATION):
        part = dict(frame.filter(pl.col("split") == split).group_by("class").len().iter_rows())
        if part:
            counted[split] = {_length(exponent): part.get(exponent, 0) for exponent in classes}
    for exponent, number in frame.group_by("class").agg(pl.col("tokens").sum()).iter_rows():
        tokens[_length(exponent)] = number
    label = "tokens per document, at least"
    median = float(np.median(frame["tokens"].to_numpy()))
    alt = f"Documents by length in tokens; the median is {median:,.0f}"
    blocks: list[Block] = [
        Plot("Documents by length", plots.columns(counted, label, "documents", alt), run.tokens.note),
        Plot(
            "Tokens by length of their document",
            plots.columns({"tokens": tokens}, label, "tokens", "Tokens by the length of the document they are in"),
            run.tokens.note,
        ),
    ]
    return Section("lengths", "Lengths", blocks)


def _length(exponent: int) -> str:
    return str(2**exponent) if exponent < 10 else f"{2 ** (exponent - 10)}Ki" if exponent < 20 else f"2^{exponent}"


# ---------------------------------------------------------------------------------------------------------------
# Training


def _mixture(run: _Run) -> Section | None:
    mix = run.manifests.get("mix")
    if mix is None:
        return None
    packs = run.manifests["pack"].extra.get("stages", {}) if "pack" in run.manifests else {}
    blocks: list[Block] = []
    rows: list[list[Any]] = []
    for name, plan in mix.extra.get("stages", {}).items():
        pack = packs.get(name, {})
        padding = pack.get("padding")
        rows.append(
            [
                name,
                plan.get("documents"),
                plan.get("tokens"),
                plan.get("budget"),
                plan.get("missing"),
                pack.get("sequence_length"),
                pack.get("sequences"),
                None if padding is None else f"{100 * (1 - padding):.2f} %",
                pack.get("cut_documents"),
            ]
        )
        cells = _largest_cells(plan.get("cells", {}))
        lengths = {
            _length(int(key).bit_length() - 1): (100 * shares["before"], 100 * shares["after"])
            for key, shares in sorted(plan.get("lengths", {}).items(), key=lambda item: int(item[0]))
        }
        clusters = {
            f"{int(key):,}": (100 * shares["before"], 100 * shares["after"])
            for key, shares in sorted(plan.get("clusters", {}).items(), key=lambda item: int(item[0]))
        }
        room = max(len(cells), len(lengths))
        for values, title, alt in (
            (cells, "cells", f"Share of tokens per cell in all training text and in stage {name}"),
            (lengths, "length of documents (tokens, at least)", f"Share of tokens by length in stage {name}"),
            (clusters, "duplicates that a document stands for (at least)", f"Share by size of cluster in stage {name}"),
        ):
            if values:
                beside = ("all training text", "this stage")
                svg = plots.before_after(values, beside, "share of tokens (%)", alt, room)
                blocks.append(Plot(f"{name}: {title}", svg))
    head = ["stage", "documents", "planned tokens", "asked for", "missing", "sequence", "sequences", "filled", "cut"]
    note = "Filled: share of the positions that are not padding. Cut: documents that lie in more than one sequence. "
    note += "Missing tokens come from another epoch. A cell is language group / domain / educational bin; "
    note += "an asterisk joins those that were too small to stand alone."
    return Section("mixture", "Mixture and packing", [Table("", head, rows, "lrrrrrrrr", note), *blocks])


def _largest_cells(cells: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Cell -> percent of the tokens before and after mixing: those with the largest shares, and the others in one."""
    ordered = sorted(cells.items(), key=lambda item: (-max(item[1]["before"], item[1]["after"]), item[0]))
    shares = [(printable(cell, 50), 100 * its["before"], 100 * its["after"]) for cell, its in ordered]
    found = {cell: (before, after) for cell, before, after in shares[:MIXTURE_CELLS]}
    if rest := shares[MIXTURE_CELLS:]:
        found[f"{len(rest):,} others"] = (sum(before for _, before, _ in rest), sum(after for _, _, after in rest))
    return found


def _read_training(folder: str, manifests: Mapping[str, Manifest]) -> _Metrics | None:
    """metrics.jsonl of the training under way, or else of the finished one; None before the first step."""
    path, finished = paths.join(folder, UNFINISHED, "pretrain", "metrics.jsonl"), False
    if not paths.exists(path):
        path, finished = paths.join(folder, "pretrain", "metrics.jsonl"), True
        if "pretrain" not in manifests or not paths.exists(path):
            return None
    lines = list(read_metrics(path))
    steps = [line for line in lines if isinstance(line.get("loss"), int | float)]
    if not steps:
        return None
    stages = list(dict.fromkeys(str(line.get("stage", "")) for line in steps))
    ends = [max(line["tokens"] for line in steps if line.get("stage") == stage) for stage in stages[:-1]]
    return _Metrics(lines, steps, stages, ends, finished)


def read_metrics(path: str, limit: int = METRICS_BYTES) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl; of a file above `limit` bytes every n-th and those with a validation."""
    fs, inner = paths.filesystem(path)
    stride = 1 + int(fs.size(inner)) // limit
    with paths.open_read(path) as handle:
        for number, line in enumerate(handle):
            if number % stride and b'"validation_bits_per_byte"' not in line:
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # the last line may be in the writing
                continue
            if isinstance(value, dict) and isinstance(value.get("tokens"), int):
                yield value


_TRAINING_AXIS = "training tokens"


def _training(run: _Run) -> Section | None:
    """The two curves that everybody looks for: the loss and the validation."""
    if run.metrics is None:
        return None
    steps, ends = run.metrics.steps, run.metrics.ends
    losses = {stage: _curve([x for x in steps if x.get("stage") == stage], "loss") for stage in run.metrics.stages}
    width = max(1, len(steps) // 30)
    smooth = {printable(stage, 40): (x, _smooth(y, width)) for stage, (x, y) in losses.items()}
    final = float(list(smooth.values())[-1][1][-1])
    scores = _curve(run.metrics.lines, "validation_bits_per_byte")
    wide = not len(scores[0])
    svg = plots.curves(
        {name: _thin(*xy) for name, xy in smooth.items()},
        _TRAINING_AXIS,
        "nats per token",
        f"Training loss over tokens; it ends at {final:.3f} nats per token",
        faint={printable(stage, 40): _thin(*xy) for stage, xy in losses.items()},
        boundaries=ends,
        width=plots.WIDE if wide else plots.NARROW,
    )
    note = "Smoothed; pale: every step." + " Dotted lines: a new stage of training." * bool(ends)
    blocks: list[Block] = [Plot("Training loss", svg, note, wide)]
    if not wide:
        alt = f"Validation bits per byte over tokens; the last is {scores[1][-1]:.3f}"
        svg = plots.curves({"validation": scores}, _TRAINING_AXIS, "bits per byte", alt, boundaries=ends, points=True)
        blocks.append(
            Plot(
                "Validation",
                svg,
                "On the validation split, or on a sample of a large one; lower is better.",
            )
        )
    note = "" if run.metrics.finished else "The training is not finished; this is what it has written so far."
    return Section("training", "Training", blocks, note)


def _training_details(run: _Run) -> Section | None:
    if run.metrics is None:
        return None
    steps, ends = run.metrics.steps, run.metrics.ends
    blocks: list[Block] = [_training_table(run)] if run.summary.training else []
    cells = _cell_curves(steps)
    if cells:
        alt = f"Training loss over tokens of the largest cells: {', '.join(cells)}"
        svg = plots.curves(cells, _TRAINING_AXIS, "nats per token", alt, boundaries=ends)
        blocks.append(Plot("Loss per cell", svg, "The cells with the most tokens, each averaged over several steps."))
    for key, title, unit, logarithmic in (
        ("learning_rate", "Learning rate", "learning rate", False),
        ("grad_norm", "Norm of the gradient", "norm before clipping", True),
        ("bits_per_byte", "Loss in bits", "bits per byte of training text", False),
        ("tokens_per_second", "Speed", "tokens per second", False),
        ("mfu", "Model FLOPs utilisation", "share of the bf16 peak", False),
        ("balance", "Balancing loss", "mean of the layers; 1 is balanced", False),
        ("expert_load_max", "Busiest expert", "tokens beside an equal share", False),
        ("router_entropy", "Entropy of the routers", "share of the largest possible", False),
    ):
        x, y = _curve(steps, key)
        if len(x):
            alt = f"{title} over tokens, from {y[0]:.3g} to {y[-1]:.3g}; at most {y.max():.3g}"
            logarithmic = logarithmic and bool((y > 0).all())
            svg = plots.curves(
                {title: _thin(x, y)}, _TRAINING_AXIS, unit, alt, boundaries=ends, logarithmic=logarithmic
            )
            blocks.append(Plot(title, svg))
    blocks += _expert_load(run.metrics.lines)
    if faults := [line for line in run.metrics.lines if line.get("fault")]:
        rows = [[line.get("step"), line.get("stage", ""), printable(str(line["fault"]), 200)] for line in faults]
        note = "Their updates were not applied; pretrain/bad_steps.jsonl has their documents and gradients per layer."
        title = f"Bad steps ({len(faults):,})"
        blocks.append(Table(title, ["step", "stage", "what was wrong"], rows[-FAULTS_SHOWN:], "rll", note))
    return Section("training-details", "Training in detail", blocks)


def _expert_load(lines: Sequence[dict[str, Any]]) -> list[Block]:
    """Which experts the last measured step used, layer by layer."""
    line = next((line for line in reversed(lines) if isinstance(line.get("expert_load"), list)), None)
    if line is None:
        return []
    load = np.array(line["expert_load"], float)
    idle = int((load == 0).sum())
    alt = (
        f"Load of {load.shape[1]} experts in {load.shape[0]} layers at step {line['step']}, beside an equal share: "
        f"from {load.min():.2f} to {load.max():.2f}; {idle} got no token"
    )
    note = f"{alt}. Blue: less than an equal share; orange: more; full colour at none and at twice the share."
    return [Plot("Load of the experts", plots.heat_map(load, "expert", "layer", alt), note, True)]


def _training_table(run: _Run) -> Table:
    rows = [
        [t.name, t.steps, t.tokens, t.first_loss, t.last_loss, t.validation_bits_per_byte] for t in run.summary.training
    ]
    head = ["stage", "steps", "tokens", "first loss", "last loss", "validation bits per byte"]
    return Table("Stages of training", head, rows, "lrrrrr", "Losses are means of the first and last few steps.")


def _curve(lines: Iterable[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["tokens"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    x, y = np.array(points, float).reshape(-1, 2).T
    return x, y


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over about `width` values; nothing is padded in at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    low, high = np.maximum(0, places - width // 2), np.minimum(len(values), places + width // 2 + 1)
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= CURVE_POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return x[chosen], y[chosen]


def _cell_curves(steps: list[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loss of the largest cells, summed over parts of the training with about equal numbers of steps."""
    parts = np.array_split(np.arange(len(steps)), min(CELL_POINTS, max(1, len(steps) // 4)))
    sums: dict[str, np.ndarray] = {}
    for number, part in enumerate(parts):
        for index in part:
            for cell, (nll, labels, *_) in (steps[index].get("cells") or {}).items():
                sums.setdefault(cell, np.zeros((2, len(parts))))[:, number] += (nll, labels)
    enough = LEAST_CELL * sum(labels.sum() for _, labels in sums.values())
    ordered = sorted(sums, key=lambda cell: (-sums[cell][1].sum(), cell))
    largest = [cell for cell in ordered[:CELLS_SHOWN] if sums[cell][1].sum() >= enough]
    x = np.array([steps[part[-1]]["tokens"] for part in parts], float)
    curves = {}
    for cell in largest:
        nll, labels = sums[cell]
        seen = labels > 0
        curves[printable(cell, 50)] = (x[seen], nll[seen] / labels[seen])
    return curves


def _evaluation(run: _Run) -> Section | None:
    evaluate = run.manifests.get("evaluate")
    entry = next((entry for entry in evaluate.files if entry.path.endswith(".parquet")), None) if evaluate else None
    if entry is None:
        return None
    scores = read_table(paths.join(run.folder, "evaluate", entry.path)).to_pylist()
    blocks: list[Block] = []
    found: dict[str, dict[str, float]] = {}
    for row in sorted(scores, key=lambda row: (-row["bytes"], row["name"])):
        if row["kind"] != "total" and row["bits_per_byte"] is not None:
            found.setdefault(row["kind"], {})[_name_of(row["kind"], row["name"])] = row["bits_per_byte"]
    shown = {kind: dict(list(values.items())[:NAMES_SHOWN]) for kind, values in sorted(found.items())}
    room = max(map(len, shown.values()), default=0)
    for kind, values in shown.items():
        alt = f"Bits per byte by {kind}: {', '.join(f'{name} {value:.2f}' for name, value in values.items())}"
        note = "Those with the most text, the largest first." if len(values) > 1 else ""
        svg = plots.bars(values, "bits per byte", alt, series=6, room=room)
        blocks.append(Plot(f"Bits per byte by {kind}", svg, note))
    rows = [
        [
            row["kind"],
            _name_of(row["kind"], row["name"]),
            row["bytes"],
            row["tokens"],
            row["bits_per_byte"],
            row["unigram_bits_per_byte"],
        ]
        for row in scores
    ]
    head = ["", "", "bytes", "tokens", "bits per byte", "unigram model"]
    blocks.append(Table("Validation", head, rows[:130], "llrrrr"))
    return Section("evaluation", "Evaluation", blocks, "On the validation split; lower is better.")


def _tokenizer(run: _Run) -> Section | None:
    manifest = run.manifests.get("tokenizer")
    if manifest is None:
        return None
    facts = [
        [key.replace("_", " "), value] for key, value in manifest.extra.items() if not isinstance(value, dict | list)
    ]
    blocks: list[Block] = []
    if run.tokens is not None and run.tokens.frame.height:
        sums = (
            run.tokens.frame.group_by("language")
            .agg(pl.len().alias("documents"), pl.col("text_bytes").sum(), (pl.col("tokens") - 1).sum().alias("tokens"))
            .filter(pl.col("tokens") > 0)
            .sort("text_bytes", "language", descending=[True, False])
        )
        rates = {
            _name_of("language", row["language"]): row["text_bytes"] / row["tokens"]
            for row in sums.head(NAMES_SHOWN).iter_rows(named=True)
        }
        if rates:
            alt = f"Bytes per token by language: {', '.join(f'{name} {rate:.2f}' for name, rate in rates.items())}"
            note = run.tokens.note or "The languages with the most text, the largest first."
            svg = plots.bars(rates, "UTF-8 bytes per token", alt, series=3)
            blocks.append(Plot("Bytes per token by language", svg, note))
        rows = [
            [_name_of("language", language), documents, size_, tokens, size_ / tokens]
            for language, documents, size_, tokens in sums.iter_rows()
        ]
        head = ["language", "documents", "bytes", "tokens", "bytes per token"]
        blocks.append(Table("All languages", head, rows[:130], "lrrrr", folded=True))
    if facts:
        blocks.insert(min(1, len(blocks)), Table("Vocabulary", ["", ""], facts, "lr"))
    return Section("tokenizer", "Tokenizer", blocks) if blocks else None


def _continuations(run: _Run) -> Section | None:
    groups = {}
    for sample in run.summary.continuations[:20]:
        found = [Sample("greedy", printable(sample.greedy, 600))]
        if sample.sampled:
            found.append(Sample("sampled", printable(sample.sampled, 600)))
        groups[printable(sample.prompt, 300) or "(no prompt)"] = found
    if not groups:
        return None
    return Section("samples", "What the model writes", [Samples("Continuations of prompts", groups, folded=False)])


# ---------------------------------------------------------------------------------------------------------------
# The run itself


def _stages(run: _Run) -> Section | None:
    rows = [
        [
            cost.stage + (" (stale)" if cost.stage in run.summary.stale else ""),
            None if cost.seconds is None else clock(cost.seconds),
            None if cost.cpu_seconds is None else clock(cost.cpu_seconds),
            None if cost.peak_memory_bytes is None else size(cost.peak_memory_bytes),
            cost.rows,
            cost.files,
            size(cost.bytes),
            cost.key[:16],
        ]
        for cost in run.summary.costs
    ]
    if not rows:
        return None
    head = ["stage", "wall", "CPU", "peak memory", "rows", "files", "size", "key"]
    return Section(
        "stages", "Stages", [Table("", head, rows, "lrrrrrrl", "Times of the execution that wrote the data.")]
    )


def _origins(run: _Run) -> Section | None:
    if run.documents is None:
        return None
    blocks: list[Block] = []
    kept = run.documents.frame.filter(~pl.col("outcome").is_in(corpus.DROPPING))
    documents = count_by(kept, "licence")
    by_licence: dict[str, int] = {}
    if run.tokens is not None:
        by_licence = dict(run.tokens.frame.group_by("licence").agg(pl.col("tokens").sum()).iter_rows())
    total = sum(by_licence.values())
    rows = [
        [licence, number, by_licence.get(licence), percent(by_licence.get(licence, 0), total)]
        for licence, number in documents.items()
    ]
    head = ["licence", "documents", "tokens", "share of tokens"]
    note = " ".join(part for part in (run.documents.note, first_shown(len(rows))) if part)
    blocks.append(Table("Licences of the documents kept", head, rows[:ROWS_SHOWN], "lrrr", note))
    packages = kept.filter(pl.col("package").is_not_null())
    if packages.height:
        counted = (
            packages.group_by("package", "licence")
            .len()
            .sort("len", "package", "licence", descending=[True, False, False])
        )
        body = [list(row) for row in counted.iter_rows()]
        shown = body[: 4 * ROWS_SHOWN]
        more = f"The first {len(shown)} of {len(body)}." if len(body) > len(shown) else ""
        blocks.append(
            Table("Packages of the documents kept", ["package", "licence", "documents"], shown, "llr", more, True)
        )
    return Section("origins", "What went in", blocks)


def _software(run: _Run) -> Section | None:
    versions = _read_json(paths.join(run.folder, VERSIONS_FILE))
    if not isinstance(versions, dict):
        return None
    facts = [[key, versions[key]] for key in ("python", "platform") if key in versions]
    blocks: list[Block] = [Table("", ["", ""], facts, "ll")] if facts else []
    packages = versions.get("packages")
    if isinstance(packages, dict):
        rows = [
            [name, about.get("version"), about.get("licence")]
            for name, about in sorted(packages.items())
            if isinstance(about, dict)
        ]
        blocks.append(Table(f"{len(rows)} packages", ["package", "version", "licence"], rows[:600], "lll", folded=True))
    return Section("software", "Software", blocks) if blocks else None
