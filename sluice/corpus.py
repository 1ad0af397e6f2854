"""What the report knows of single documents: columns of the sidecars side by side, and the text of a chosen few.

The sidecars of a shard have its row order, so they are put side by side and nothing is joined. Of a large corpus some
shards are read, chosen by hash; the text only of the documents that are shown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.extract.names import PAGE_LOCATOR
from schemas import paths
from schemas.documents import PAGES
from schemas.errors import DataError
from schemas.hashing import ID, uniform
from schemas.manifest import FileEntry, Manifest
from schemas.tables import read_table

MAX_ROWS = 1_000_000  # of documents whose labels are read
MAX_TEXT_GROUPS = 90  # row groups of text that are read; one holds a few megabytes
DROPPING = ("filter", "dedup", "decontaminate")
UNKNOWN = "unknown"

_LABELS = {
    "language": ("language", "language_score"),
    "quality": ("quality_score",),
    "educational": ("educational_score",),
    "domain": ("domain",),
    "safety": ("unsafe_score",),
}


@dataclass(frozen=True)
class Table:
    """Rows of some of the shards of a dataset; `of` counts them all."""

    frame: pl.DataFrame
    shards: int
    of: int
    unit: str = "documents"

    @property
    def note(self) -> str:
        """What a reader has to know of the sample; empty if there is none."""
        if self.shards == self.of:
            return ""
        return f"Counted in {self.shards:,} of {self.of:,} shards, chosen by hash: {self.frame.height:,} {self.unit}."


def choose_shards(entries: Sequence[FileEntry], rows: int = MAX_ROWS) -> list[int]:
    """Indices of shards with about `rows` rows together, at least one, chosen by the hash of their names."""
    draws = uniform((entry.path.encode() for entry in entries), "report")
    chosen: list[int] = []
    total = 0
    for index in np.argsort(draws, kind="stable").tolist():
        if chosen and total + entries[index].rows > rows:
            break
        chosen.append(index)
        total += entries[index].rows
    return sorted(chosen)


# ---------------------------------------------------------------------------------------------------------------
# Documents and their labels


def read_documents(folder: str, manifests: Mapping[str, Manifest], environments: Iterable[str] = ()) -> Table | None:
    """One row per document of the chosen shards; None before anything was extracted.

    Columns: shard, row, document_id, source, licence, package (of documents of the sources in `environments`),
    the labels that the run has, `outcome` (train, validation, kept, or the stage that dropped it first) and for each
    stage of DROPPING that ran `<stage>_reasons`.
    """
    if "extract" not in manifests:
        return None
    shards = manifests["extract"].select("documents")
    if not shards:
        return None
    chosen = choose_shards(shards)
    wanted = frozenset(environments)
    frames = [_read_shard(folder, manifests, index, shards[index], wanted) for index in chosen]
    return Table(pl.concat(frames, how="diagonal"), len(chosen), len(shards))


def _read_shard(
    folder: str, manifests: Mapping[str, Manifest], index: int, entry: FileEntry, environments: frozenset[str]
) -> pl.DataFrame:
    path = paths.join(folder, "extract", entry.path)
    table = read_table(path, ["document_id", "source", "licence"])
    columns: dict[str, Any] = {
        "shard": pa.array(np.full(table.num_rows, index, np.int32)),
        "row": pa.array(np.arange(table.num_rows, dtype=np.int64)),
        "document_id": table["document_id"].cast(pa.binary()),
        "source": table["source"],
        "licence": pc.fill_null(table["licence"], UNKNOWN),
        "package": _packages(path, table, environments),
    }
    for annotator, names in _LABELS.items():
        labels = _sidecar(folder, manifests, "annotate", annotator, index, table.num_rows, names)
        if labels is not None:
            columns |= {name: labels[name] for name in names}
    outcome = np.full(table.num_rows, "kept", object)
    for stage in reversed(DROPPING):  # the first stage has the last word
        decisions = _sidecar(folder, manifests, stage, "decisions", index, table.num_rows, ("keep", "reasons"))
        if decisions is not None:
            columns[f"{stage}_reasons"] = decisions["reasons"]
            outcome[~pc.fill_null(decisions["keep"], True).to_numpy()] = stage
    split = _sidecar(folder, manifests, "split", "split", index, table.num_rows, ("split",))
    if split is not None:
        outcome = np.where(outcome == "kept", split["split"].to_numpy(), outcome)
    columns["outcome"] = pa.array(outcome.tolist(), pa.string())
    frame = pl.from_arrow(pa.table(columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _sidecar(
    folder: str,
    manifests: Mapping[str, Manifest],
    stage: str,
    part: str,
    index: int,
    rows: int,
    names: Sequence[str],
) -> pa.Table | None:
    entries = manifests[stage].select(part) if stage in manifests else []
    if index >= len(entries) or entries[index].rows != rows:
        return None
    return read_table(paths.join(folder, stage, entries[index].path), list(names))


def _packages(path: str, table: pa.Table, environments: frozenset[str]) -> pa.Array:
    """`<package> <version>` from the metadata, read only for shards of a source that has packages."""
    if not environments.intersection(table["source"].unique().to_pylist()):
        return pa.nulls(table.num_rows, pa.string())
    metadata = read_table(path, ["metadata"])["metadata"].combine_chunks()
    keys, items = metadata.keys, metadata.items
    owner = np.repeat(np.arange(len(metadata)), np.diff(metadata.offsets.to_numpy()))
    found = [np.full(len(metadata), "", object) for _ in range(2)]
    for values, key in zip(found, ("package", "version")):
        mask = pc.equal(keys, key).to_numpy(zero_copy_only=False)
        values[owner[mask]] = items.filter(pa.array(mask)).to_pylist()
    return pa.array([f"{name} {version}" if name else None for name, version in zip(*found)], pa.string())


# ---------------------------------------------------------------------------------------------------------------
# Tokens


def read_tokens(folder: str, manifests: Mapping[str, Manifest]) -> Table | None:
    """One row per tokenized document: split, source, licence, language, domain, tokens, text_bytes.

    Local shards are mapped into memory and only the offsets of their tokens are touched. None where there are none,
    or where they are remote and would have to be fetched whole.
    """
    if "tokenize" not in manifests or not paths.is_local(folder):
        return None
    shards = manifests["tokenize"].select("tokens")
    if not shards:
        return None
    chosen = choose_shards(shards)
    names = ["split", "source", "licence", "language", "domain", "text_bytes"]
    tables = []
    for index in chosen:
        table = read_table(paths.join(folder, "tokenize", shards[index].path))
        lengths = pc.add(pc.list_value_length(table["tokens"]).cast(pa.int64()), 1)  # and the end of document
        tables.append(table.select(names).append_column("tokens", lengths))
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return Table(frame.with_columns(pl.col("licence").fill_null(UNKNOWN)), len(chosen), len(shards))


# ---------------------------------------------------------------------------------------------------------------
# Rejects and texts


def read_rejects(folder: str, manifests: Mapping[str, Manifest]) -> Table | None:
    """Rejects of the chosen shards but those of single pages, which are no documents; None before any extraction."""
    shards = manifests["extract"].select("rejects") if "extract" in manifests else []
    if not shards:
        return None
    chosen = choose_shards(shards)
    names = ["document_id", "source", "path", "locator", "error", "message"]
    tables = [read_table(paths.join(folder, "extract", shards[index].path), names) for index in chosen]
    frame = as_frame(pa.concat_tables(tables)).filter(~pl.col("locator").str.contains(PAGE_LOCATOR))
    return Table(frame, len(chosen), len(shards))


def as_frame(table: pa.Table) -> pl.DataFrame:
    """The table with its ids as plain bytes, which is how polars has them."""
    for number, field in enumerate(table.schema):
        if field.type == ID:
            table = table.set_column(number, field.name, table[field.name].cast(pa.binary()))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True)
class Text:
    """The beginning of one document, and where it is from."""

    source: str
    path: str
    locator: str
    text: str


def read_texts(
    folder: str, manifest: Manifest, wanted: Iterable[tuple[int, int]], characters: int
) -> dict[tuple[int, int], Text]:
    """The beginnings of documents by (shard, row); each row group is read once, and no more than MAX_TEXT_GROUPS."""
    found: dict[tuple[int, int], Text] = {}
    columns = ["source", "path", "locator", "text"]
    dataset = paths.join(folder, "extract")
    for shard, row, values in read_chosen(dataset, manifest.select("documents"), wanted, columns):
        # Of a long text no more is copied than the few characters that are shown.
        text = pc.utf8_slice_codeunits(values["text"], 0, characters).as_py()
        source, path, locator = (str(values[name]) for name in columns[:3])
        found[shard, row] = Text(source, path, locator, text)
    return found


# ---------------------------------------------------------------------------------------------------------------
# Pages and refinements


def read_pages(folder: str, manifests: Mapping[str, Manifest]) -> Table | None:
    """The page table of the chosen shards with the column `shard`; None where no file had pages."""
    return _read_rows(folder, manifests, "pages", "pages", [*PAGES.names])


def read_refinements(folder: str, manifests: Mapping[str, Manifest]) -> Table | None:
    """What became of each refined chunk, without the texts, with the columns `shard` and `row`; None without any."""
    names = ["document_id", "chunk", "accepted", "reason", "model"]
    return _read_rows(folder, manifests, "refinements", "chunks", names)


def _read_rows(folder: str, manifests: Mapping[str, Manifest], part: str, unit: str, names: list[str]) -> Table | None:
    """Columns of `extract/<part>`, ids as plain bytes, with the number of the shard and of the row in it."""
    shards = manifests["extract"].select(part) if "extract" in manifests else []
    if not any(entry.rows for entry in shards):
        return None
    chosen = choose_shards(shards)
    tables = []
    for index in chosen:
        table = read_table(paths.join(folder, "extract", shards[index].path), names)
        table = table.append_column("shard", pa.array(np.full(table.num_rows, index, np.int32)))
        tables.append(table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.int64))))
    return Table(as_frame(pa.concat_tables(tables)), len(chosen), len(shards), unit)


def read_page_texts(
    folder: str, manifest: Manifest, wanted: Iterable[tuple[int, bytes, int]], characters: int
) -> dict[tuple[int, bytes, int], str]:
    """The beginnings of pages by (shard, document id, page number); a page without text is left out."""
    shards = manifest.select("documents")
    by_shard: dict[int, dict[bytes, set[int]]] = {}
    for shard, document, page in wanted:
        by_shard.setdefault(shard, {}).setdefault(document, set()).add(page)
    places: list[tuple[int, int]] = []
    for shard, documents in by_shard.items():
        ids = read_table(paths.join(folder, "extract", shards[shard].path), ["document_id"])["document_id"]
        mask = pc.is_in(ids.cast(pa.binary()), pa.array(list(documents), pa.binary()))
        places += [(shard, row) for row in np.flatnonzero(mask.to_numpy()).tolist()]
    found: dict[tuple[int, bytes, int], str] = {}
    dataset = paths.join(folder, "extract")
    for shard, _, values in read_chosen(dataset, shards, places, ["document_id", "pages", "text"]):
        document = values["document_id"].as_py()
        for span in values["pages"].as_py():
            if span["page"] in by_shard[shard][document]:
                end = min(span["end"], span["begin"] + characters)
                text = pc.utf8_slice_codeunits(values["text"], span["begin"], end).as_py()
                found[shard, document, span["page"]] = text
    return found


def read_chosen(
    dataset: str, shards: Sequence[FileEntry], wanted: Iterable[tuple[int, int]], columns: list[str]
) -> Iterator[tuple[int, int, dict[str, pa.Scalar]]]:
    """Rows of the files of a dataset by (shard, row); each row group is read once, and no more than MAX_TEXT_GROUPS.

    A value is converted only as far as it is asked for, so a long text costs no copy.
    """
    by_shard: dict[int, list[int]] = {}
    for shard, row in sorted(set(wanted)):
        by_shard.setdefault(shard, []).append(row)
    groups = 0
    for shard, rows in by_shard.items():
        path = paths.join(dataset, shards[shard].path)
        try:
            with paths.open_read(path) as handle:
                file = pq.ParquetFile(handle)
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                ends = np.cumsum(sizes)
                which = np.searchsorted(ends, rows, side="right")
                for group in sorted(set(which.tolist())):
                    if groups == MAX_TEXT_GROUPS:
                        return
                    groups += 1
                    begin = int(ends[group]) - sizes[group]
                    table = file.read_row_group(group, columns=columns)
                    for row in (row for row, its in zip(rows, which.tolist()) if its == group):
                        yield shard, row, {name: table[name][row - begin] for name in columns}
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
