"""Sections of the report on extraction: how pages were read, what models used up, and what they repaired.

Paths, reasons, texts and answers of models are untrusted: here they are made printable, the template escapes them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from schemas import paths
from schemas.errors import ConfigError
from schemas.hashing import uniform
from schemas.manifest import Manifest
from schemas.recipe import Recipe, Server, check_recipe
from sluice import corpus, plots
from sluice.blocks import (
    LONG_TABLE,
    ROWS_SHOWN,
    Block,
    Difference,
    Differences,
    PageSample,
    PageSamples,
    Plot,
    Section,
    Stack,
    Table,
    count_by,
    first_shown,
    percent,
)
from sluice.differences import word_difference
from sluice.pictures import Picture, draw_pages
from sluice.run import RECIPE_FILE, read_executions
from sluice.summary import PAGE_ROUTES, UNREADABLE, last_execution
from sluice.text import printable, printable_lines

SOURCES_SHOWN, REASONS_SHOWN, LOWEST_SHOWN = 14, 30, 20
PAGE_SAMPLES, SAMPLES_PER_ROUTE, PAGE_CHARACTERS = 12, 4, 2000
CHANGES_PER_OUTCOME = 4  # samples of refined chunks
_SERIES = {"text_layer": 1, "ocr": 2, "vlm": 3, "blank": 5, UNREADABLE: 4}
_MODELS = {"vision": "reading pages", "refine": "repairing text"}  # section of the recipe -> what it does


def _place(*parts: str) -> str:
    return printable(" · ".join(part for part in parts if part), 160)


def _together(words: str) -> str:
    """Words that stay on one line of a cell."""
    return words.replace(" ", "\u00a0")


# ---------------------------------------------------------------------------------------------------------------
# Pages


def pages_section(folder: str, manifest: Manifest, table: corpus.Table, recipe: dict[str, Any]) -> Section:
    """How the pages of PDF files were read; `recipe` is the content of the run's recipe.yaml."""
    fate = pl.when(pl.col("error").is_null()).then(pl.col("route")).otherwise(pl.lit(UNREADABLE))
    frame = table.frame.with_columns(fate.alias("fate"))
    blocks: list[Block] = [_routes(frame, table.note), *_confidences(frame, table.note), _reasons(frame, table.note)]
    if errors := _errors(frame, table.note):
        blocks.append(errors)
    if lowest := _lowest(frame, table.note):
        blocks.append(lowest)
    blocks.append(_samples(folder, manifest, frame, _checked(folder, recipe)))
    note = "Every page takes one route: its text layer, character recognition (ocr), a vision model (vlm), or none "
    return Section("pages", "Pages", blocks, note + "because it is blank. A page that could not be read is a reject.")


def _routes(frame: pl.DataFrame, note: str) -> Stack:
    counted: dict[str, dict[str, int]] = {}
    for source, fate, number in frame.group_by("source", "fate").len().sort("source", "fate").iter_rows():
        counted.setdefault(source, {})[PAGE_ROUTES.get(fate, fate)] = number
    rows = dict(sorted(counted.items(), key=lambda item: (-sum(item[1].values()), item[0])))
    fates = [name for fate, name in PAGE_ROUTES.items() if any(name in row for row in rows.values())]
    shares = {f"{printable(name, 60)} ({sum(row.values()):,})": row for name, row in rows.items()}
    shown = dict(list(shares.items())[:SOURCES_SHOWN])
    colours = {PAGE_ROUTES[fate]: series for fate, series in _SERIES.items()}
    svg = plots.stacked_shares(shown, colours, "share of pages (%)", "Routes of the pages by source, in percent")
    total = {name: sum(row.get(name, 0) for row in rows.values()) for name in fates}
    body = [[printable(source, 60), sum(row.values()), *(row.get(name, 0) for name in fates)]
            for source, row in list(rows.items())[:ROWS_SHOWN]]  # fmt: skip
    if len(body) > 1:
        body.append(["all", sum(total.values()), *total.values()])
    body.append(["share", None, *(percent(number, frame.height) for number in total.values())])
    head = ["source", "pages", *fates]
    table = Table("By source, in pages", head, body, "l" + "r" * (len(head) - 1), first_shown(len(rows)))
    return Stack((Plot("Routes by source", svg, note), table))


def _confidences(frame: pl.DataFrame, note: str) -> list[Block]:
    """One histogram a route: beside thousands of pages with a text layer a few others would not be seen."""
    blocks: list[Block] = []
    edges = np.linspace(0, 1, 41)
    for fate, name in PAGE_ROUTES.items():
        values = frame.filter(pl.col("fate") == fate)["confidence"].to_numpy()
        if not len(values) or fate in ("blank", UNREADABLE):
            continue
        heights = {name: np.histogram(np.clip(np.nan_to_num(values), 0, 1), edges)[0]}
        alt = f"Histogram of the confidence of {len(values):,} pages by {name}; their median is {np.median(values):.2f}"
        svg = plots.histogram(edges, heights, "confidence, 0 to 1", "pages", alt, series=_SERIES[fate])
        blocks.append(Plot(f"Confidence: {name}", svg, note))
    return blocks


def _reasons(frame: pl.DataFrame, note: str) -> Table:
    read = frame.filter(pl.col("error").is_null())
    counted = read.group_by("route", "reason").len().sort("len", "route", "reason", descending=[True, False, False])
    rows = [
        [_together(PAGE_ROUTES.get(route, route)), reason, number, percent(number, frame.height)]
        for route, reason, number in counted.head(REASONS_SHOWN).iter_rows()
    ]
    if counted.height > len(rows):
        rest = int(counted["len"].to_numpy()[len(rows) :].sum())
        rows.append([None, f"{counted.height - len(rows):,} other reasons", rest, percent(rest, frame.height)])
    return Table("Why a page took its route", ["route", "reason", "pages", "share"], rows, "llrr", note)


def _errors(frame: pl.DataFrame, note: str) -> Table | None:
    bad = frame.filter(pl.col("error").is_not_null())
    if not bad.height:
        return None
    rows = []
    for error, number in count_by(bad, "error").items():
        first = bad.filter(pl.col("error") == error).sort("document_id", "page").row(0, named=True)
        rows.append([error, number, percent(number, frame.height), first["reason"]])
    head = ["error", "pages", "share", "for example"]
    return Table("Pages that could not be read", head, rows[:ROWS_SHOWN], "lrrl", note)


def _lowest(frame: pl.DataFrame, note: str) -> Table | None:
    read = frame.filter(pl.col("error").is_null() & (pl.col("route") != "blank"))
    if read.height < 2:
        return None
    # A few words are seldom enough to be sure of: among equals those pages come first that have more text.
    order = [False, True, False, False]
    lowest = read.sort("confidence", "characters", "document_id", "page", descending=order).head(LOWEST_SHOWN)
    rows = [
        [row["confidence"], _place(row["source"], row["path"], row["locator"]), row["page"],
         _together(PAGE_ROUTES.get(row["route"], row["route"])), row["characters"], row["reason"]]
        for row in lowest.iter_rows(named=True)
    ]  # fmt: skip
    head = ["confidence", "file", "page", "route", "characters", "reason"]
    return Table("Pages of the lowest confidence", head, rows, "rlrlrl", note, folded=len(rows) > LONG_TABLE)


def _samples(folder: str, manifest: Manifest, frame: pl.DataFrame, recipe: Recipe | None) -> PageSamples:
    chosen = choose_pages(frame)
    keys = [(row["shard"], row["document_id"], row["page"]) for row in chosen]
    texts = corpus.read_page_texts(folder, manifest, keys, PAGE_CHARACTERS + 1)
    if recipe is None:
        pictures = [Picture("", "the recipe of this run cannot be read, which says where the file is")] * len(chosen)
    else:
        wanted = [(row["source"], row["path"], row["locator"], row["page"]) for row in chosen]
        pictures = draw_pages(recipe, wanted)
    groups: dict[str, list[PageSample]] = {}
    for row, key, picture in zip(chosen, keys, pictures):
        facts = [f"{row['characters']:,} characters", row["reason"]]
        facts.insert(0, row["error"] if row["error"] else f"confidence {row['confidence']:.2f}")
        sample = PageSample(
            where=_place(row["source"], row["path"], row["locator"], f"page {row['page']:,}"),
            facts=printable(" · ".join(facts), 300),
            text=printable_lines(texts.get(key, ""), PAGE_CHARACTERS),
            picture=picture.uri,
            note=printable(picture.note, 200),
        )
        groups.setdefault(PAGE_ROUTES.get(row["fate"], row["fate"]), []).append(sample)
    note = "Of every route some pages of the lowest confidence and some chosen by hash, beside the text taken from them"
    return PageSamples("Pages and their text", groups, f"{note}; at most {PAGE_CHARACTERS:,} characters of it.")


def choose_pages(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """At most PAGE_SAMPLES rows in order of route: of each the lowest confidence and the smallest hash by turns.

    The same pages for the same table, from as many files as there are.
    """
    drawn: dict[str, list[dict[str, Any]]] = {}
    for fate in PAGE_ROUTES:
        some = frame.filter(pl.col("fate") == fate)
        if not some.height:
            continue
        keys = (
            document + page.to_bytes(4, "little") for document, page in some.select("document_id", "page").iter_rows()
        )
        some = some.with_columns(pl.Series("draw", uniform(keys, "report"))).sort("draw")
        by_hash = _one_a_file(some)
        ordered = some.sort("confidence", "characters", "draw", descending=[False, True, False])
        lowest = _one_a_file(ordered) if fate not in ("blank", UNREADABLE) else []
        mixed = [row for pair in zip(lowest, by_hash) for row in pair] or by_hash
        seen: dict[tuple[bytes, int], dict[str, Any]] = {}
        for row in mixed:
            seen.setdefault((row["document_id"], row["page"]), row)
        drawn[fate] = list(seen.values())[: 1 if fate == "blank" else SAMPLES_PER_ROUTE]
    turns = [(turn, fate) for fate, rows in drawn.items() for turn in range(len(rows))]
    order = list(PAGE_ROUTES)
    kept = sorted(turns, key=lambda pair: (pair[0], order.index(pair[1])))[:PAGE_SAMPLES]
    return [drawn[fate][turn] for turn, fate in sorted(kept, key=lambda pair: (order.index(pair[1]), pair[0]))]


def _one_a_file(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The first few rows, those of files that have not had their turn yet before the others."""
    turn = pl.int_range(pl.len()).over("source", "path")
    return list(
        rows.with_columns(turn.alias("turn")).sort("turn", maintain_order=True).head(SAMPLES_PER_ROUTE).to_dicts()
    )


def _checked(folder: str, recipe: dict[str, Any]) -> Recipe | None:
    try:
        return check_recipe(recipe, Path(folder), paths.join(folder, RECIPE_FILE))
    except ConfigError:  # of another version
        return None


# ---------------------------------------------------------------------------------------------------------------
# Models


def models_section(folder: str, manifests: Mapping[str, Manifest], recipe: dict[str, Any]) -> Section | None:
    """What the models behind servers used up in the execution that wrote the documents; None without any."""
    manifest = manifests.get("extract")
    spent = last_execution(read_executions(folder), manifest).get("spent") if manifest else None
    if not isinstance(spent, dict) or not spent:
        return None
    checked = _checked(folder, recipe)
    rows = []
    for name, does in _MODELS.items():
        counts = {key.removeprefix(f"{name}_"): int(n) for key, n in spent.items() if key.startswith(f"{name}_")}
        if not counts:
            continue
        server = getattr(checked.extract, name) if checked else None
        sent, answered = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
        rows.append(
            [
                _together(does),
                server.model if server else None,
                counts.get("requests", 0),
                counts.get("retries", 0),
                counts.get("kept_answers", 0),
                counts.get("unanswered", 0),
                sent,
                answered,
                _cost(counts, server),
            ]
        )
    if not rows:
        return None
    head = ["for", "model", "requests", "retries", "kept answers", "unanswered", "tokens sent", "tokens answered"]
    note = "Of the execution that wrote the documents. Retries are requests too; an answer kept from an earlier "
    note += "execution costs nothing."
    return Section("models", "Models", [Table("", [*head, "cost"], rows, "llrrrrrrr", note)])


def _cost(counts: dict[str, int], server: Server | None) -> str | None:
    """By the prices of the recipe; None where it names none."""
    from annotators.served_model import cost

    return f"{cost(counts, server):,.2f}" if server and (server.input_price or server.output_price) else None


# ---------------------------------------------------------------------------------------------------------------
# Refinement


def refinement_section(folder: str, manifests: Mapping[str, Manifest], pages: corpus.Table | None) -> Section | None:
    """Which repairs of a model were taken, and what they look like; None where none was asked for."""
    table = corpus.read_refinements(folder, manifests)
    if table is None:
        return None
    frame = table.frame
    classes = frame.with_columns(pl.col("reason").str.split(":").list.first())
    counted = classes.group_by("accepted", "reason").len()
    counted = counted.sort("accepted", "len", "reason", descending=[True, True, False])
    rows = [
        ["accepted" if accepted else "rejected", reason or None, number, percent(number, frame.height)]
        for accepted, reason, number in counted.head(ROWS_SHOWN).iter_rows()
    ]
    models = ", ".join(printable(str(name), 80) for name in frame["model"].unique().sort())
    blocks: list[Block] = [
        Table("Chunks by outcome", ["outcome", "reason", "chunks", "share"], rows, "llrr", table.note)
    ]
    groups = {}
    for accepted, title in ((True, "accepted"), (False, "rejected")):
        some = frame.filter(pl.col("accepted") == accepted)
        if some.height:
            groups[title] = _changes(folder, manifests["extract"], some, pages)
    note = "Chosen by hash, of the answers that change something. Struck out: before; underlined: after."
    if groups := {title: found for title, found in groups.items() if found}:
        blocks.append(Differences("Before and after", groups, note))
    return Section("refinement", "Repaired text", blocks, f"By {models}. Of a chunk that was rejected the text stays.")


def _changes(folder: str, manifest: Manifest, frame: pl.DataFrame, pages: corpus.Table | None) -> list[Difference]:
    ids = (
        document + chunk.to_bytes(4, "little") for document, chunk in frame.select("document_id", "chunk").iter_rows()
    )
    drawn = frame.with_columns(pl.Series("draw", uniform(ids, "report"))).sort("draw")
    places = [(shard, row) for shard, row in drawn.head(10 * CHANGES_PER_OUTCOME).select("shard", "row").iter_rows()]
    columns = ["chunk", "document_id", "before", "after", "reason"]
    read = {
        (shard, row): {name: value.as_py() for name, value in values.items()}
        for shard, row, values in corpus.read_chosen(
            paths.join(folder, "extract"), manifest.select("refinements"), places, columns
        )
    }
    found = []
    for place in places:
        row = read.get(place)
        if row is None or row["after"] in ("", row["before"]):
            continue
        where = _place(*_names(row["document_id"], pages), f"chunk {row['chunk']}", row["reason"])
        found.append(Difference(where, word_difference(row["before"], row["after"])))
        if len(found) == CHANGES_PER_OUTCOME:
            break
    return found


def _names(document: bytes, pages: corpus.Table | None) -> tuple[str, ...]:
    """Source, path and locator of a document, from its pages; its id where these are not known."""
    mine = pages.frame.filter(pl.col("document_id") == document) if pages is not None else None
    if mine is None or not mine.height:
        return (document.hex(),)
    names: tuple[str, ...] = mine.select("source", "path", "locator").row(0)
    return names
