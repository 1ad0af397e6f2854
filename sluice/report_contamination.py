"""What documents hold of benchmarks: a section of the report.

Items and documents are counted by the stage. Of what was found only numbers are read, and then the texts of the few
matches that are shown. Texts of both sides and names of benchmarks are untrusted: here they are made printable, the
template escapes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas import paths
from schemas.hashing import ID
from schemas.manifest import FileEntry, Manifest
from schemas.tables import read_table
from sluice import corpus, plots
from sluice.blocks import ROWS_SHOWN, Block, Pair, Pairs, Plot, Section, Shaded, Table, first_shown
from sluice.differences import common_words
from sluice.text import printable

BENCHMARKS_SHOWN, MATCHES_SHOWN = 20, 3  # with matches, and of each
ACTIONS = {
    "drop": "Documents that hold an item are dropped.",
    "cut": "The words of the items are cut out of what is trained on; the documents stay.",
    "report": "Nothing is dropped or cut.",
}
_PLACE = ["document_id", "source", "path", "locator"]
_TEXTS = ["document_id", "benchmark", "item", "part", "words", "matched", "times", "document_text", "item_text"]


def contamination_section(folder: str, manifests: Mapping[str, Manifest]) -> Section | None:
    """None where documents were compared with no benchmark."""
    manifest = manifests.get("decontaminate")
    found = manifest.extra.get("benchmarks") if manifest else None
    if manifest is None or not found:
        return None
    blocks: list[Block] = [_benchmarks(found)]
    table = read_matches(folder, manifests)
    if table is not None and table.frame.height:
        blocks.append(_ratios(table))
        if shown := _pairs(folder, manifests, table):
            blocks.append(shown)
    note = ACTIONS.get(str(manifest.config.get("action")), "")
    return Section("contamination", "Contamination", blocks, note)


def read_matches(folder: str, manifests: Mapping[str, Manifest]) -> corpus.Table | None:
    """What was found in the chosen shards, without the texts; None where the stage wrote no matches.

    Columns: shard, row, document_id, benchmark, item, matched, ratio.
    """
    shards = manifests["extract"].select("documents") if "extract" in manifests else []
    matches = manifests["decontaminate"].select("matches")
    if not shards or len(matches) != len(shards):
        return None
    chosen = corpus.choose_shards(shards)
    frames = []
    for index in chosen:
        names = ["document_id", "benchmark", "item", "matched", "ratio"]
        frame = corpus.as_frame(read_table(paths.join(folder, "decontaminate", matches[index].path), names))
        about = {"shard": pl.lit(index, pl.Int32), "row": pl.int_range(pl.len(), dtype=pl.Int64)}
        frames.append(frame.with_columns(**about))
    return corpus.Table(pl.concat(frames), len(chosen), len(shards))


def _benchmarks(found: Mapping[str, Mapping[str, int]]) -> Table:
    """Every benchmark, those with the most items found first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1].get("found", 0), item[0]))
    rows: list[list[Any]] = []
    for name, counts in ordered[:ROWS_SHOWN]:
        compared = counts.get("short", 0) + counts.get("long", 0)
        left_out = {"too short": counts.get("too_short", 0), "formulaic": counts.get("formulaic", 0)}
        left_out["repeated"] = counts.get("items", 0) - compared - sum(left_out.values())
        left_out["unreadable lines"] = counts.get("unreadable", 0)
        told = ", ".join(f"{what} {number:,}" for what, number in left_out.items() if number > 0)
        items = Shaded.of(counts.get("found", 0), compared)
        rows.append([printable(name, 60), counts.get("items"), compared, items, counts.get("documents"), told or None])
    head = ["benchmark", "items", "compared", "found", "documents", "not compared"]
    note = f"Found: items of which some document holds enough. {first_shown(len(found))}".strip()
    return Table("By benchmark", head, rows, "lrrrrl", note)


def _ratios(table: corpus.Table) -> Plot:
    ratios = table.frame["ratio"].to_numpy()
    edges = np.linspace(0, 1, 21)
    heights = {"matches": np.histogram(np.clip(np.nan_to_num(ratios), 0, 1), edges)[0]}
    alt = f"Histogram of the share of an item's words that a document holds; {(ratios >= 1).sum():,} hold all of it"
    svg = plots.histogram(edges, heights, "share of the words of an item", "matches", alt, series=4)
    documents = table.frame["document_id"].n_unique()
    told = f"{table.frame.height:,} matches in {documents:,} documents. {table.note}"
    return Plot("How much of an item was found", svg, told.strip())


def _pairs(folder: str, manifests: Mapping[str, Manifest], table: corpus.Table) -> Pairs | None:
    """Of each benchmark the matches with the most words, of as many items as there are."""
    order = ["matched", "ratio", "document_id", "item"]
    best = table.frame.sort(order, descending=[True, True, False, False]).unique(
        ["benchmark", "item"], keep="first", maintain_order=True
    )  # fmt: skip
    names = table.frame.group_by("benchmark").len().sort("len", "benchmark", descending=[True, False])
    wanted = names["benchmark"].head(BENCHMARKS_SHOWN).to_list()
    by_name = (best.filter(pl.col("benchmark") == name).head(MATCHES_SHOWN) for name in wanted)
    chosen = [place for rows in by_name for place in rows.select("shard", "row").iter_rows()]
    matches = manifests["decontaminate"].select("matches")
    read = {
        (shard, row): {name: value.as_py() for name, value in values.items()}
        for shard, row, values in corpus.read_chosen(paths.join(folder, "decontaminate"), matches, chosen, _TEXTS)
    }
    where = _places(folder, manifests["extract"].select("documents"), read)
    groups: dict[str, list[Pair]] = {}
    for place in chosen:
        if (row := read.get(place)) is not None:
            groups.setdefault(printable(row["benchmark"], 80), []).append(_pair(row, where))
    if not groups:
        return None
    note = (
        "Of each benchmark the matches with the most words, and of a long text its beginning. Marked: what both have "
    )
    note += f"in the same order. {table.note}"
    return Pairs("Found beside the item", ("document", "benchmark"), groups, note.strip(), folded=False)


def _pair(row: Mapping[str, Any], where: Mapping[bytes, str]) -> Pair:
    facts = [
        f"item {row['item']:,}",
        f"{row['part']}: {row['matched']:,} of {row['words']:,} words",
        *([f"{row['times']:,} times"] if row["times"] > 1 else []),
        where.get(row["document_id"], ""),
        row["document_id"].hex(),
    ]
    left, right = common_words(row["document_text"], row["item_text"])
    return Pair(printable(" · ".join(fact for fact in facts if fact), 300), left, right)


def _places(
    folder: str, shards: Sequence[FileEntry], read: Mapping[tuple[int, int], Mapping[str, Any]]
) -> dict[bytes, str]:
    """Where some documents are from, by their ids."""
    by_shard: dict[int, list[bytes]] = {}
    for (shard, _), row in read.items():
        by_shard.setdefault(shard, []).append(row["document_id"])
    found = {}
    for shard, ids in by_shard.items():
        table = read_table(paths.join(folder, "extract", shards[shard].path), _PLACE)
        for row in table.filter(pc.is_in(table["document_id"], value_set=pa.array(ids, ID))).to_pylist():
            found[row["document_id"]] = " · ".join(
                part for part in (row["source"], row["path"], row["locator"]) if part
            )
    return found
