"""What was dropped as a duplicate of what: a section of the report.

Counts of the whole run are those of the manifests. What concerns single documents comes from their ids and sizes of
clusters; texts are read last and only of the few documents that are shown. Texts and paths are untrusted: here they
are made printable, the template escapes them.
"""

from collections.abc import Mapping

import polars as pl

from schemas import paths
from schemas.manifest import Manifest
from schemas.tables import read_table
from sluice import corpus, plots
from sluice.blocks import (
    Block,
    Difference,
    Differences,
    Plot,
    Section,
    Shaded,
    Table,
    count_by,
    most_first,
    percent,
)
from sluice.differences import CHARACTERS, first_pieces, word_difference
from sluice.text import printable

CLUSTERS_SHOWN, MEMBERS_SHOWN, SAMPLE_CHARACTERS = 8, 4, 400
SOURCES_SHOWN = 12  # rows and columns; the rest are summed up
EARLIER, UNREAD = "an earlier run", "not read"  # where a survivor is that is not among the documents read


# ---------------------------------------------------------------------------------------------------------------
# Duplicates


def duplicates_section(folder: str, manifests: Mapping[str, Manifest]) -> Section | None:
    """None before deduplication, and where it dropped nothing."""
    manifest = manifests.get("dedup")
    if manifest is None or not any(manifest.reasons.values()):
        return None
    table = read_clusters(folder, manifests)
    blocks: list[Block] = [_reasons(manifest)]
    if table is not None and table.frame.height:
        blocks.append(_sources(table))
        clusters = one_a_cluster(table)
        if clusters.height:
            blocks += _sizes(clusters, table)
        if shown := _largest(folder, manifests["extract"], table):
            blocks.append(shown)
    note = "Of a cluster one document stays. A document that was dropped stands under the first reason that held."
    return Section("duplicates", "Duplicates", blocks, note)


def read_clusters(folder: str, manifests: Mapping[str, Manifest]) -> corpus.Table | None:
    """The documents of the chosen shards that are in clusters of more than one; None where there is nothing to read.

    Columns: shard, row, document_id, source, keep, reason, cluster_id, cluster_size, survivor_id,
    survivor_run.
    """
    if "extract" not in manifests:
        return None
    shards, decisions = manifests["extract"].select("documents"), manifests["dedup"].select("decisions")
    if not shards or [entry.rows for entry in shards] != [entry.rows for entry in decisions]:
        return None
    chosen = corpus.choose_shards(shards)
    names = ["document_id", "keep", "reasons", "cluster_id", "cluster_size", "survivor_id", "survivor_run"]
    frames = []
    for index in chosen:
        table = read_table(paths.join(folder, "dedup", decisions[index].path), names)
        table = table.append_column(
            "source", read_table(paths.join(folder, "extract", shards[index].path), ["source"])["source"]
        )
        frame = corpus.as_frame(table).with_columns(
            pl.lit(index, pl.Int32).alias("shard"), pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
        )
        frame = frame.filter((pl.col("cluster_size") > 1) | ~pl.col("keep"))
        frames.append(frame.with_columns(pl.col("reasons").list.first().fill_null("").alias("reason")).drop("reasons"))
    return corpus.Table(pl.concat(frames), len(chosen), len(shards))


def one_a_cluster(table: corpus.Table) -> pl.DataFrame:
    """A row for each cluster; where not all shards were read, for each whose survivor was."""
    if table.shards < table.of:
        return table.frame.filter("keep")
    return table.frame.unique("cluster_id", keep="any", maintain_order=False).sort("cluster_id")


def _reasons(manifest: Manifest) -> Table:
    judged = manifest.counts.get("documents", 0) - manifest.counts.get("not_judged", 0)
    dropped = manifest.counts.get("dropped", 0)
    rows = [[reason, number, percent(number, judged)] for reason, number in most_first(manifest.reasons).items()]
    rows.append(["all dropped", dropped, percent(dropped, judged)])
    return Table(
        "By reason", ["reason", "documents", "share"], rows, "lrr", f"Of {judged:,} documents that were judged."
    )


def size_class(size: int) -> tuple[int, str]:
    """The least size of the class of a cluster, and the name of the class."""
    if size < 5:
        return size, str(size)
    least = 5 if size < 10 else 10 ** (len(str(size)) - 1)
    return least, f"{least:,} to {10 ** len(str(least)) - 1:,}"


def _sizes(clusters: pl.DataFrame, table: corpus.Table) -> list[Block]:
    """Clusters by size, and what was dropped by the size of its cluster; beside each other, with the same classes."""
    sizes = dict(clusters.group_by("cluster_size").len().sort("cluster_size").iter_rows())
    dropped = dict(table.frame.filter(~pl.col("keep")).group_by("cluster_size").len().iter_rows())
    names = dict(sorted({size_class(size) for size in (*sizes, *dropped)}))
    counted = dict.fromkeys(names.values(), (0, 0))
    for size in {*sizes, *dropped}:
        of, out = counted[size_class(size)[1]]
        counted[size_class(size)[1]] = (of + sizes.get(size, 0), out + dropped.get(size, 0))
    largest = max(sizes)
    told = ", ".join(f"{name}: {of:,}" for name, (of, _) in counted.items())
    one = plots.bars({name: of for name, (of, _) in counted.items()}, "clusters", f"Clusters by size: {told}")
    other = plots.bars(
        {name: out for name, (_, out) in counted.items()},
        "documents dropped",
        f"Documents dropped by the size of their cluster; the largest cluster has {largest:,}",
        series=3,
    )
    found = f"{sum(sizes.values()):,} clusters, the largest of {largest:,} documents. {table.note}".strip()
    return [Plot("Clusters by size", one, found), Plot("Documents dropped, by the size of their cluster", other)]


def _sources(table: corpus.Table) -> Table:
    """How many documents of a source (row) were dropped in favour of one of another (column)."""
    frame = table.frame
    survivors = frame.filter("keep").select(pl.col("document_id").alias("survivor_id"), pl.col("source").alias("for"))
    pairs = frame.filter(~pl.col("keep")).join(survivors, on="survivor_id", how="left")
    # A document of an earlier run may have the id of one of this run.
    place = pl.when(pl.col("survivor_run").is_not_null()).then(pl.lit(EARLIER)).otherwise(pl.lit(UNREAD))
    pairs = pairs.with_columns(
        pl.when(pl.col("survivor_run").is_null()).then(pl.col("for")).alias("for"), place.alias("elsewhere")
    )
    counted = pairs.group_by("source", "for", "elsewhere").len()
    here = counted.drop_nulls("for")
    rows = _first_names(dict(counted.group_by("source").agg(pl.col("len").sum()).iter_rows()))
    columns = _first_names(dict(here.group_by("for").agg(pl.col("len").sum()).iter_rows()))
    away = [name for name in (EARLIER, UNREAD) if ((counted["elsewhere"] == name) & counted["for"].is_null()).any()]
    cells: dict[tuple[str, str, bool], int] = {}
    for source, survivor, elsewhere, number in counted.iter_rows():
        name = elsewhere if survivor is None else survivor if survivor in columns else "others"
        key = (source if source in rows else "others", name, survivor is None)
        cells[key] = cells.get(key, 0) + number
    heads = [*((name, False) for name in columns), *((name, True) for name in away)]
    body = []
    for source in rows:
        mine = [cells.get((source, *head), 0) for head in heads]
        total = sum(mine)
        body.append([printable(source, 40), total, *(Shaded.of(number, total) for number in mine)])
    head = ["dropped of", "documents", *(printable(name, 24) for name, _ in heads)]
    note = f"Shares of the documents that a source lost, by the source of the one that stayed. {table.note}".strip()
    title = "Dropped in favour of, source by source"
    return Table(title, head, body, "l" + "r" * (len(head) - 1), note, tall=len(heads) > 4)


def _first_names(counted: dict[str, int]) -> list[str]:
    """The names with the most, and `others` if there are more."""
    ordered = [name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]
    return ordered if len(ordered) <= SOURCES_SHOWN else [*ordered[: SOURCES_SHOWN - 1], "others"]


def _largest(folder: str, extract: Manifest, table: corpus.Table) -> Differences | None:
    """The largest clusters: the document that stays, and others with what differs from it."""
    largest = table.frame.group_by("cluster_id").agg(pl.col("cluster_size").max()).sort(
        "cluster_size", "cluster_id", descending=[True, False]
    )  # fmt: skip
    chosen = largest.head(CLUSTERS_SHOWN)
    members = table.frame.join(chosen.select("cluster_id"), on="cluster_id")
    # Copies show nothing new, so they come after what only resembles.
    order = members.with_columns((pl.col("reason") == "exact_duplicate").alias("copy"))
    order = order.sort("keep", "copy", "document_id", descending=[True, False, False])
    shown = order.group_by("cluster_id", maintain_order=True).head(1 + MEMBERS_SHOWN)
    by_cluster = {cluster: shown.filter(pl.col("cluster_id") == cluster) for cluster in chosen["cluster_id"]}
    places = [place for rows in by_cluster.values() for place in rows.select("shard", "row").iter_rows()]
    texts = corpus.read_texts(folder, extract, places, CHARACTERS + 1)
    groups: dict[str, list[Difference]] = {}
    for cluster, size in chosen.iter_rows():
        found = _members(by_cluster[cluster], texts, table)
        about = members.filter(pl.col("cluster_id") == cluster)
        sources = _told(count_by(about, "source"), 4)
        reasons = _told(most_first(count_by(about.filter(~pl.col("keep")), "reason")), 4)
        title = " · ".join(part for part in (f"{size:,} documents", reasons, sources, cluster.hex()) if part)
        if found:
            groups[title] = found
    if not groups:
        return None
    note = (
        f"First the beginning of the document that stays, then of some others where their first {CHARACTERS:,} "
        "characters differ from it, white space aside, and nothing where they do not. Struck out: only in the one that "
        f"stays; underlined: only in the other. {table.note}"
    )
    return Differences("The largest clusters", groups, note.strip(), folded=True)


def _members(rows: pl.DataFrame, texts: Mapping[tuple[int, int], corpus.Text], table: corpus.Table) -> list[Difference]:
    found: list[Difference] = []
    first: str | None = None
    for row in rows.iter_rows(named=True):
        text = texts.get((row["shard"], row["row"]))
        if text is None:
            continue
        if first is None and not row["keep"]:
            away = UNREAD if row["survivor_run"] is None else EARLIER
            found.append(Difference(f"the one that stays is of {away}: {row['survivor_id'].hex()}", []))
        what = "stays" if row["keep"] else row["reason"]
        where = " · ".join(part for part in (what, text.source, text.path, text.locator) if part)
        folded = " ".join(text.text.split())  # as equality of texts is judged
        if first is None:
            first = folded
            pieces = [("same", printable(folded, SAMPLE_CHARACTERS))]
        else:
            pieces = first_pieces(word_difference(first, folded), SAMPLE_CHARACTERS)
            if all(kind == "same" for kind, _ in pieces):
                pieces = []
        found.append(Difference(printable(where, 240), pieces))
    return found


def _told(counted: Mapping[str, int], most: int) -> str:
    """`web 12, books 3`, and how many others there are."""
    shown = [f"{printable(name, 40)} {number:,}" for name, number in list(counted.items())[:most]]
    return ", ".join([*shown, *([f"{len(counted) - most:,} others"] if len(counted) > most else [])])
