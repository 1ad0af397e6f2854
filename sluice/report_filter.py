"""What the filter dropped, by language and reason, and samples of it: a section of the report."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from schemas import paths
from schemas.manifest import Manifest
from schemas.recipe import NUMERIC_LABELS
from schemas.tables import read_table
from sluice import corpus
from sluice.blocks import Block, Sample, Samples, Section, Shaded, Table, language_name, most_first
from sluice.text import printable

LANGUAGES_SHOWN, REASONS_SHOWN = 40, 14  # rows and columns of the table; the rest are summed up
REASONS_SAMPLED, SAMPLES_PER_REASON, SAMPLE_CHARACTERS = 40, 3, 300
CODE = "code"


def filter_section(folder: str, manifests: Mapping[str, Manifest], documents: corpus.Table | None) -> Section | None:
    """None before the filter has run, and where it dropped nothing."""
    if documents is None or "filter" not in manifests or "filter_reasons" not in documents.frame.columns:
        return None
    reasons = list(most_first(manifests["filter"].reasons))
    frame = documents.frame.with_columns(_judged_as(documents.frame).alias("judged_as"))
    if not reasons or not frame.height:
        return None
    blocks: list[Block] = [_table(frame, reasons, documents.note)]
    if groups := _samples(folder, manifests, frame, reasons):
        told = f"The documents with the smallest ids, which are hashes; the first {SAMPLE_CHARACTERS} characters."
        blocks.append(Samples("Samples, by reason", groups, told))
    note = "Of the documents of a language the share that each reason hit; a document can have several reasons."
    return Section("filter", "Quality filter", blocks, note)


def _judged_as(frame: pl.DataFrame) -> pl.Expr:
    """The language whose bounds a document had; `code` for what is judged by rules of its own."""
    language = pl.col("language") if "language" in frame.columns else pl.lit("")
    if "domain" not in frame.columns:
        return language
    return pl.when(pl.col("domain") == CODE).then(pl.lit(CODE)).otherwise(language)


def _table(frame: pl.DataFrame, reasons: list[str], note: str) -> Table:
    """One row a language, largest first; one column a reason, commonest first."""
    shown = reasons if len(reasons) <= REASONS_SHOWN else reasons[: REASONS_SHOWN - 1]
    hits = [pl.col("filter_reasons").list.contains(reason).sum().alias(reason) for reason in shown]
    rest = f"{len(reasons) - len(shown)} others"
    if len(reasons) > len(shown):
        # A document counts once however many of the other reasons it has.
        hits.append((pl.col("filter_reasons").list.set_difference(shown).list.len() > 0).sum().alias(rest))
    counted = (
        frame.group_by("judged_as")
        .agg(pl.len().alias("documents"), (pl.col("outcome") == "filter").sum().alias("dropped"), *hits)
        .sort("documents", "judged_as", descending=[True, False])
    )
    rows = [[_name(row[0]), *row[1:]] for row in counted.iter_rows()]
    body = rows if len(rows) <= LANGUAGES_SHOWN else rows[: LANGUAGES_SHOWN - 1]
    others = rows[len(body) :]
    if others:
        body = [*body, [f"{len(others)} others", *_sum(others)]]
    if len(rows) > 1:
        body = [["all", *_sum(rows)], *body]
    head = ["language", *counted.columns[1:]]
    title = "Drop rates, by language and reason"
    return Table(title, head, [_shaded(row) for row in body], "l" + "r" * (len(head) - 1), note, tall=True)


def _sum(rows: list[list[Any]]) -> list[int]:
    return [sum(column) for column in list(zip(*rows))[1:]]


def _shaded(row: list[Any]) -> list[Any]:
    name, documents, *numbers = row
    return [name, documents, *(Shaded.of(number, documents) for number in numbers)]


def _name(judged_as: str) -> str:
    return "source code" if judged_as == CODE else language_name(judged_as) if judged_as else "all languages"


def _samples(
    folder: str, manifests: Mapping[str, Manifest], frame: pl.DataFrame, reasons: list[str]
) -> dict[str, list[Sample]]:
    dropped = frame.filter(pl.col("outcome") == "filter").sort("document_id")
    chosen: dict[str, list[tuple[int, int, str]]] = {}
    for reason in reasons[:REASONS_SAMPLED]:
        some = dropped.filter(pl.col("filter_reasons").list.contains(reason)).head(SAMPLES_PER_REASON)
        chosen[reason] = list(some.select("shard", "row", "judged_as").iter_rows())
    places = [(shard, row) for rows in chosen.values() for shard, row, _ in rows]
    texts = corpus.read_texts(folder, manifests["extract"], places, SAMPLE_CHARACTERS + 1)
    groups: dict[str, list[Sample]] = {}
    for reason, rows in chosen.items():
        found = []
        for shard, row, judged_as in rows:
            if text := texts.get((shard, row)):
                value = _value(folder, manifests, reason, shard, row)
                where = [text.source, text.path, text.locator, _name(judged_as), value]
                found.append(
                    Sample(
                        printable(" · ".join(part for part in where if part), 200),
                        printable(text.text, SAMPLE_CHARACTERS),
                    )
                )
        if found:
            groups[printable(reason, 80)] = found
    return groups


def _value(folder: str, manifests: Mapping[str, Manifest], reason: str, shard: int, row: int) -> str:
    """`words 12`: what the reason judged; empty where the labels are not in this run."""
    column = reason.rpartition(".")[0]
    annotator = NUMERIC_LABELS.get(column)
    entries = manifests["annotate"].select(annotator) if annotator and "annotate" in manifests else []
    if shard >= len(entries):
        return ""
    value = read_table(paths.join(folder, "annotate", entries[shard].path), [column])[column][row].as_py()
    return f"{column} {value:.4g}" if value is not None else ""
