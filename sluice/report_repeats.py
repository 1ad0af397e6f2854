"""What kept documents repeat of one another, and what of it is cut: a section of the report.

Spans are read shard by shard without texts, and no more is kept of a shard than could be shown; then the texts of the
few that are. They are untrusted: here they are made printable, the template escapes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas import paths
from schemas.hashing import ID
from schemas.manifest import FileEntry, Manifest
from schemas.tables import read_table
from sluice import corpus
from sluice.blocks import Block, Sample, Samples, Section, Table
from sluice.console import size
from sluice.text import count, printable

SHOWN, SAMPLE_CHARACTERS = 8, 400  # of each kind
KINDS = {"line": "Lines", "paragraph": "Paragraphs", "substring": "Passages"}


def repeats_section(folder: str, manifests: Mapping[str, Manifest]) -> Section | None:
    """None where no repeats were looked for, or none found."""
    manifest = manifests.get("dedup")
    found = manifest.extra.get("repeats") if manifest else None
    if manifest is None or not found:
        return None
    rows = []
    for kind, its in sorted(found.items()):
        cut = size(its["cut_bytes"]) if its.get("cut_bytes") else None
        rows.append([KINDS.get(kind, kind), its.get("spans"), its.get("documents"), size(its.get("bytes", 0)), cut])
    head = ["", "repeated", "documents", "size", "cut"]
    note = "Of kept documents, but for the one where it stays. Cut: what training does not read."
    blocks: list[Block] = [Table("By kind", head, rows, "lrrrr", note)]
    if shown := _samples(folder, manifests):
        blocks.append(shown)
    return Section("repeats", "Repeated text", blocks)


def read_repeats(folder: str, manifests: Mapping[str, Manifest]) -> corpus.Table | None:
    """Of each kind, of the chosen shards, what the most documents hold, each text once; None where there is nothing.

    Columns: shard, document_id, kind, begin, end, hash, documents, cut.
    """
    shards = manifests["extract"].select("documents") if "extract" in manifests else []
    files = manifests["dedup"].select("repeats")
    if not shards or len(files) != len(shards):
        return None
    chosen = corpus.choose_shards(shards)
    frames = []
    for index in chosen:
        names = ["document_id", "kind", "begin", "end", "hash", "documents", "kept_id", "cut"]
        frame = corpus.as_frame(read_table(paths.join(folder, "dedup", files[index].path), names))
        frames.append(_first(frame.with_columns(pl.lit(index, pl.Int32).alias("shard"))))
    return corpus.Table(_first(pl.concat(frames)), len(chosen), len(shards))


def _first(frame: pl.DataFrame) -> pl.DataFrame:
    """Of each kind the SHOWN that stand in the most documents, the longest of these, each line or passage once."""
    order = ["documents", pl.col("end") - pl.col("begin"), "document_id", "begin"]
    ordered = frame.sort(order, descending=[True, True, False, False])
    once = ordered.unique(["kind", "hash", "kept_id"], keep="first", maintain_order=True)
    return once.group_by("kind", maintain_order=True).head(SHOWN)


def _samples(folder: str, manifests: Mapping[str, Manifest]) -> Samples | None:
    table = read_repeats(folder, manifests)
    if table is None or not table.frame.height:
        return None
    rows = table.frame.to_dicts()
    texts = _texts(folder, manifests["extract"].select("documents"), rows)
    groups: dict[str, list[Sample]] = {}
    for kind, title in KINDS.items():
        for row in (row for row in rows if row["kind"] == kind):
            if (found := texts.get((row["shard"], row["document_id"], row["begin"], row["end"]))) is not None:
                where = f"in {count(row['documents'])} documents · {'cut' if row['cut'] else 'not cut'} · {found[0]}"
                groups.setdefault(title, []).append(
                    Sample(printable(where, 240), printable(found[1], SAMPLE_CHARACTERS))
                )
    note = f"What stands in the most documents, with a document that has it. {table.note}"
    return Samples("What is repeated", groups, note.strip()) if groups else None


def _texts(
    folder: str, shards: Sequence[FileEntry], rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[int, bytes, int, int], tuple[str, str]]:
    """Place and beginning of spans (shard, document, begin, end)."""
    dataset = paths.join(folder, "extract")
    by_place: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for shard in sorted({row["shard"] for row in rows}):
        mine = [row for row in rows if row["shard"] == shard]
        ids = read_table(paths.join(dataset, shards[shard].path), ["document_id"])["document_id"]
        places = pc.index_in(pa.array([row["document_id"] for row in mine], ID), value_set=ids.combine_chunks())
        for row, place in zip(mine, places.to_pylist()):
            if place is not None:
                by_place.setdefault((shard, place), []).append(row)
    found = {}
    columns = ["source", "path", "locator", "text"]
    for shard, place, values in corpus.read_chosen(dataset, shards, by_place, columns):
        where = " · ".join(part for part in (str(values[name]) for name in columns[:3]) if part)
        data = values["text"].as_buffer()
        for row in by_place[shard, place]:
            end = min(row["end"], row["begin"] + 4 * SAMPLE_CHARACTERS + 4)  # no character has more bytes
            shown = data.slice(row["begin"], end - row["begin"]).to_pybytes().decode(errors="ignore")
            found[shard, row["document_id"], row["begin"], row["end"]] = (where, shown)
    return found
