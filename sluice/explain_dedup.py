"""`sluice dedup --explain`: a document, the cluster of duplicates that it is in, and what differs between them.

Decisions are read shard by shard, ids alone; texts only of the document, of the one that stays for it, and of some
others of the cluster, one at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.cells import cell_len
from rich.text import Text

from pipelines.dedup import kernels
from pipelines.mix.kernels import named
from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.hashing import ID
from schemas.manifest import FileEntry, Manifest, read_manifest
from schemas.recipe import Dedup
from schemas.tables import read_table
from sluice.blocks import most_first
from sluice.console import console
from sluice.corpus import as_frame, read_chosen
from sluice.differences import word_hunks
from sluice.run import RECIPE_FILE, find_given, run_folder
from sluice.text import aligned, printable

DOCUMENTS_SHOWN = 4  # that an id stands for: a user's own id may stand in several sources
COMPARED, SHOWN, TOLD_APART = 48, 8, 3  # other members: compared, shown, and shown with what differs in them
CHARACTERS = 300_000  # of each text in which differences are sought
HUNKS_SHOWN = 12
NOTHING = "–"
WIDE_SCREEN = 100  # characters; a narrower one has no room for two texts side by side
_COLUMNS = ["document_id", "id", "source", "path", "locator", "url", "date", "text"]


@dataclass(frozen=True)
class Corpus:
    """The documents of a run beside the decisions on them."""

    folder: str  # of the documents
    documents: list[FileEntry]
    decisions: list[str]
    filtered: list[str]  # decisions of the filter, where the run has them
    earlier: str = ""  # the run, where it is an earlier one


@dataclass(frozen=True)
class Member:
    """A document of a cluster, without its text. Similarities are None where a text was not compared."""

    document_id: str
    id: str | None
    keep: bool
    reasons: list[str]
    place: tuple[int, int]  # shard and row
    earlier: str = ""
    source: str = ""
    path: str = ""
    locator: str = ""
    url: str | None = None
    date: str | None = None
    characters: int | None = None
    to_document: float | None = None
    to_survivor: float | None = None


@dataclass(frozen=True)
class Compared:
    """What differs between the document that stays (`before`) and another (`after`)."""

    before: str
    after: str
    jaccard: float
    shared: int  # n-grams
    either: int
    hunks: list[list[tuple[str, str]]]
    whole: bool  # no text was too long to be compared whole


@dataclass(frozen=True)
class Read:
    """A member with its text, and the distinct n-grams of that."""

    member: Member
    text: str
    ngrams: np.ndarray


def explain_duplicates(source: str, name: str, as_json: bool) -> None:
    """Print the clusters of the documents that `name` stands for: a document id in hex, or a user's own id.

    Raises:
        ConfigError: `source` is no run with duplicates looked for, or has no such document.
    """
    corpus, manifest, earlier = find_corpora(source)
    found = list(_named(corpus, name))
    if not found:
        raise ConfigError(f"{source}: has no document '{name}'; give a document id in hex, or your own id")
    explained = [explain_document(corpus, manifest, earlier, row) for row in found[:DOCUMENTS_SHOWN]]
    if as_json:
        left_out = len(found) - len(explained)
        print(json.dumps({"documents": explained, "left_out": left_out}, ensure_ascii=False, indent=1))
        return
    for document in explained:
        _print(document)
    if len(found) > len(explained):
        console.print(Text(f"and {len(found) - len(explained):,} more documents of this id"))


def find_corpora(source: str) -> tuple[Corpus, Manifest, list[Corpus | None]]:
    """The run that `source` is or lies in, the manifest of its decisions, and the earlier runs of `dedup.against`.

    An earlier run is None where its documents are not there any more.
    """
    given = find_given(source)
    if not given:
        why = "there is no such folder" if not paths.exists(source) else "is no finished run"
        raise ConfigError(f"{source}: {why}; --explain reads a run or the output of `sluice dedup`")
    for stage in ("dedup", "extract"):
        if stage not in given:
            raise ConfigError(f"{source}: has no finished '{stage}', which --explain reads; `sluice dedup` makes it")
    corpus, manifest = _corpus(given)
    documents = read_manifest(given["extract"])
    if documents is None or manifest.inputs.get("extract") != documents.hash:
        raise ConfigError(f"{source}: its documents have changed since duplicates were looked for; run it again")
    return corpus, manifest, _earlier(source)


def _corpus(given: dict[str, str], earlier: str = "") -> tuple[Corpus, Manifest]:
    documents, decisions = read_manifest(given["extract"]), read_manifest(given["dedup"])
    assert documents is not None and decisions is not None
    files = [paths.join(given["dedup"], entry.path) for entry in decisions.select("decisions")]
    before = read_manifest(given["filter"]) if "filter" in given else None
    filtered = [paths.join(given["filter"], entry.path) for entry in before.select("decisions")] if before else []
    found = Corpus(given["extract"], documents.select("documents"), files, filtered, earlier)
    if len(files) != len(found.documents):
        raise DataError(f"{given['dedup']}: its decisions are for another number of shards than there are")
    return found, decisions


def _earlier(source: str) -> list[Corpus | None]:
    path = paths.join(run_folder(source), RECIPE_FILE)
    try:
        section = (yaml.safe_load(paths.read_text(path)) if paths.exists(path) else {}).get("dedup") or {}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
        return []
    found: list[Corpus | None] = []
    for folder in section.get("against") or []:
        place = folder if not paths.is_local(folder) else str(Path(run_folder(source), folder))
        given = find_given(place)
        found.append(_corpus(given, place)[0] if {"dedup", "extract"} <= set(given) else None)
    return found


# ---------------------------------------------------------------------------------------------------------------
# Reading


def _named(corpus: Corpus, name: str) -> Iterator[dict[str, Any]]:
    """The decisions on the documents that a name stands for, with `shard` and `row`."""
    for shard, path in enumerate(corpus.decisions):
        keys = read_table(path, ["document_id", "id"])
        chosen, _ = named(keys["document_id"].combine_chunks(), keys["id"].combine_chunks(), [name])
        yield from _rows(corpus, shard, np.flatnonzero(chosen).tolist())


def _rows(corpus: Corpus, shard: int, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The decisions in some rows of a shard, with `shard` and `row`."""
    if rows:
        table = read_table(corpus.decisions[shard]).take(pa.array(rows))
        for row, values in zip(rows, table.to_pylist()):
            yield values | {"shard": shard, "row": row}


def _member(row: dict[str, Any], earlier: str = "") -> Member:
    return Member(row["document_id"].hex(), row["id"], row["keep"], row["reasons"], (row["shard"], row["row"]), earlier)


def _read(corpus: Corpus, members: Sequence[Member], ngram: int) -> Iterator[Read]:
    """The members with where they are from and their texts, one at a time."""
    by_place = {member.place: member for member in members}
    for shard, row, values in read_chosen(corpus.folder, corpus.documents, by_place, _COLUMNS):
        about = {name: values[name].as_py() for name in _COLUMNS}
        member = by_place[shard, row]
        if about["document_id"].hex() != member.document_id:
            raise DataError(f"{corpus.documents[shard].path}: its documents are not those that were decided on")
        text = about.pop("text")
        del about["document_id"], about["id"]
        yield Read(replace(member, **about, characters=len(text)), text, _ngrams(text, ngram))


def _ngrams(text: str, ngram: int) -> np.ndarray:
    """The distinct n-grams of a text, sorted."""
    return np.unique(kernels.shingles(kernels.split_words([text]), ngram)[0])


def _jaccard(one: np.ndarray, other: np.ndarray) -> tuple[float, int, int]:
    """Similarity, n-grams of both, n-grams of either; texts without any are not similar."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    either = len(one) + len(other) - shared
    return (shared / either if either else 0.0), shared, either


# ---------------------------------------------------------------------------------------------------------------
# Explaining


def explain_document(
    corpus: Corpus, manifest: Manifest, earlier: Sequence[Corpus | None], row: dict[str, Any]
) -> dict[str, Any]:
    """What is shown of a document, as JSON has it."""
    settings = Dedup.model_validate({key: value for key, value in manifest.config.items() if key in Dedup.model_fields})
    bands, rows = kernels.bands_and_rows(settings)
    ngram = settings.ngram
    others, counts = _others(corpus, row) if row["cluster_size"] > 1 else ([], {"kept": 1})
    asked = next(_read(corpus, [_member(row)], ngram))
    stays = asked if row["keep"] else None
    if not row["keep"] and (found := _survivor(corpus, earlier, row)):
        stays = next(_read(found[1], [found[0]], ngram))
    first = [asked] if stays is None or stays is asked else [stays, asked]
    shown = [_similarities(one, asked, stays) for one in first]
    known = {one.member.document_id for one in first if not one.member.earlier}
    rest = _read(corpus, [member for member in others if member.document_id not in known], ngram)
    compared = [_similarities(one, asked, stays) for one in rest]
    compared.sort(key=lambda member: (-(member.to_document or 0.0), member.document_id))
    differences = []
    if stays is not None and not row["keep"]:
        differences.append(_difference(stays, asked))
    elif stays is not None:  # the document stays: what is dropped for it, the least similar first
        far = sorted(compared, key=lambda member: (member.to_document or 0.0, member.document_id))[:TOLD_APART]
        differences = [_difference(stays, one) for one in _read(corpus, far, ngram)]
        differences.sort(key=lambda one: (one.jaccard, one.after))
    return {
        "document_id": asked.member.document_id,
        "id": asked.member.id,
        "keep": row["keep"],
        "reasons": row["reasons"],
        "judged": _judged(corpus, row),
        "settings": {"ngram": ngram, "bands": bands, "rows": rows, "verify": settings.verify},
        "cluster": {
            "cluster_id": row["cluster_id"].hex(),
            "size": row["cluster_size"],
            "survivor_id": row["survivor_id"].hex(),
            "survivor": _survivor_told(row, stays.member if stays else None),
            "in_this_run": sum(counts.values()),
            "outcomes": counts,
            "compared": len(compared) + len(shown),
        },
        "members": [_told(member) for member in [*shown, *compared[:SHOWN]]],
        "differences": [
            {
                "survivor": one.before,
                "document": one.after,
                "jaccard": round(one.jaccard, 4),
                "shared_ngrams": one.shared,
                "all_ngrams": one.either,
                "probability_of_a_shared_band": round(1 - (1 - one.jaccard**rows) ** bands, 4),
                "hunks": [[list(piece) for piece in hunk] for hunk in one.hunks[:HUNKS_SHOWN]],
                "hunks_left_out": max(0, len(one.hunks) - HUNKS_SHOWN),
                "compared_whole": one.whole,
            }
            for one in differences
        ],
    }


def _similarities(one: Read, asked: Read, stays: Read | None) -> Member:
    to_survivor = _jaccard(stays.ngrams, one.ngrams)[0] if stays else None
    return replace(one.member, to_document=_jaccard(asked.ngrams, one.ngrams)[0], to_survivor=to_survivor)


def _others(corpus: Corpus, row: dict[str, Any]) -> tuple[list[Member], dict[str, int]]:
    """Some of the other documents of a cluster, and how many of all there are by what became of them.

    Of a cluster that is too large, the document that stays, then those that only resemble it, by their ids.
    """
    counts: Counter[str] = Counter()
    found: list[tuple[bool, bool, bytes, int, int]] = []
    for shard, path in enumerate(corpus.decisions):
        table = read_table(path, ["document_id", "keep", "reasons", "cluster_id"])
        rows = np.flatnonzero(pc.equal(table["cluster_id"], pa.scalar(row["cluster_id"], ID)).to_numpy())
        if not len(rows):
            continue
        frame = as_frame(table.take(pa.array(rows)).append_column("row", pa.array(rows)))
        outcome = pl.when("keep").then(pl.lit("kept")).otherwise(pl.col("reasons").list.first().fill_null("dropped"))
        frame = frame.select("document_id", "row", ~pl.col("keep").alias("drop"), outcome.alias("outcome"))
        counts.update(dict(frame["outcome"].value_counts().iter_rows()))
        frame = frame.with_columns((pl.col("outcome") == "exact_duplicate").alias("copy"))
        first = frame.sort("drop", "copy", "document_id").head(COMPARED + 1)
        found += [(*values, shard, number) for *values, number in
                  first.select("drop", "copy", "document_id", "row").iter_rows()]  # fmt: skip
        found = sorted(found)[: COMPARED + 1]
    by_shard: dict[int, list[int]] = {}
    for *_, shard, number in found:
        if (shard, number) != (row["shard"], row["row"]):
            by_shard.setdefault(shard, []).append(number)
    others = [one for shard, numbers in sorted(by_shard.items()) for one in _rows(corpus, shard, numbers)]
    return [_member(one) for one in others], most_first(counts)


def _judged(corpus: Corpus, row: dict[str, Any]) -> bool:
    """False for a document that the filter dropped, which was compared with nothing."""
    if row["shard"] >= len(corpus.filtered):
        return True
    return bool(read_table(corpus.filtered[row["shard"]], ["keep"])["keep"][row["row"]].as_py())


def _survivor(corpus: Corpus, earlier: Sequence[Corpus | None], row: dict[str, Any]) -> tuple[Member, Corpus] | None:
    """The document that stays and the run that it is of; None where that run or its documents are not there."""
    run = row.get("survivor_run")
    home = corpus if run is None else earlier[run - 1] if run <= len(earlier) else None
    if home is None:
        return None
    rows = (one for one in _named(home, row["survivor_id"].hex()) if one["document_id"] == row["survivor_id"])
    found = next(rows, None)
    return None if found is None else (_member(found, home.earlier), home)


def _difference(before: Read, after: Read) -> Compared:
    jaccard, shared, either = _jaccard(before.ngrams, after.ngrams)
    old, new = (" ".join(one.text.split()) for one in (before, after))  # as equality of texts is judged
    hunks = word_hunks(old, new, CHARACTERS)
    whole = max(len(old), len(new)) <= CHARACTERS
    return Compared(before.member.document_id, after.member.document_id, jaccard, shared, either, hunks, whole)


def _survivor_told(row: dict[str, Any], survivor: Member | None) -> str:
    if row.get("survivor_run") is None:
        return "a document of this run"
    if survivor is None:
        return "a document of an earlier run, which is not here"
    return f"a document of the earlier run {survivor.earlier}"


def _told(member: Member) -> dict[str, Any]:
    about = {name: value for name, value in vars(member).items() if name not in ("place", "earlier")}
    for name in ("to_document", "to_survivor"):
        about[f"jaccard_{name}"] = None if (value := about.pop(name)) is None else round(value, 4)
    return about | ({"earlier_run": member.earlier} if member.earlier else {})


# ---------------------------------------------------------------------------------------------------------------
# What is printed


def _print(document: dict[str, Any]) -> None:
    cluster, settings = document["cluster"], document["settings"]
    name = f" · id {document['id']}" if document["id"] else ""
    outcome = "stays" if document["keep"] else f"dropped: {', '.join(document['reasons'])}"
    _heading(f"document {document['document_id']}{name} · {outcome}")
    verify = f" · verified at {settings['verify']:g}" if settings["verify"] else ""
    banding = f"{settings['ngram']}-grams · {settings['bands']} bands of {settings['rows']} rows{verify}"
    if cluster["size"] == 1:
        why = "no duplicate of it was found" if document["judged"] else "the filter dropped it, so it was not compared"
        _lines([f"{why} · {banding}", ""])
        return
    outcomes = ", ".join(f"{reason} {number:,}" for reason, number in cluster["outcomes"].items())
    _lines([f"cluster {cluster['cluster_id']} · {cluster['size']:,} documents: {outcomes} · {banding}"])
    if cluster["survivor"] != "a document of this run":
        _lines([f"its survivor {cluster['survivor_id']} is {cluster['survivor']}"])
    console.print()
    head = ["", "jaccard to this", "to survivor", "characters", "document", "id", "where", "url", "date"]
    rows = [[_mark(document, member), *_facts(member)] for member in document["members"]]
    columns = [column for column in zip(head, *rows) if set(column[1:]) != {NOTHING}]
    _lines(aligned(list(zip(*columns)), right=(1, 2, 3)))
    if (left := cluster["in_this_run"] - sum("earlier_run" not in one for one in document["members"])) > 0:
        _lines([f"and {left:,} more"])
    for difference in document["differences"]:
        _print_difference(difference)
    console.print()


def _mark(document: dict[str, Any], member: dict[str, Any]) -> str:
    stays = "survivor" if member["keep"] else ", ".join(member["reasons"])
    return f"{stays} (this)" if member["document_id"] == document["document_id"] else stays


def _facts(member: dict[str, Any]) -> list[str]:
    where = " ".join(part for part in (member["source"], member["path"], member["locator"]) if part)
    numbers = [member["jaccard_to_document"], member["jaccard_to_survivor"]]
    shown = [NOTHING if number is None else f"{number:.3f}" for number in numbers]
    texts = (member["document_id"], member["id"], where, member["url"], member["date"])
    return [
        *shown,
        f"{member['characters']:,}",
        *(NOTHING if one is None else printable(str(one), 200) for one in texts),
    ]


def _print_difference(difference: dict[str, Any]) -> None:
    console.print()
    shared, either = difference["shared_ngrams"], difference["all_ngrams"]
    chance = f"such a pair shares a band with probability {difference['probability_of_a_shared_band']:.2f}"
    like = f"Jaccard {difference['jaccard']:.3f}: {shared:,} of {either:,} n-grams · {chance}"
    like = like if either else "neither has a word"
    _heading(f"{difference['survivor']} beside {difference['document']} · {like}")
    hunks, part = (
        difference["hunks"],
        "" if difference["compared_whole"] else f" in the first {CHARACTERS:,} characters",
    )
    if not hunks:
        _lines([f"no difference{part}, white space aside"])
    wide = console.is_terminal and console.width >= WIDE_SCREEN
    for hunk in hunks:
        if wide:
            _side_by_side(hunk, (console.width - 3) // 2)
        else:
            console.print(_marked(hunk, ("out", "in")), soft_wrap=True)
    if difference["hunks_left_out"]:
        _lines([f"and {difference['hunks_left_out']:,} more differences{part}"])
    elif hunks and part:
        _lines([f"all differences{part}"])


_STYLES = {"same": "", "out": "red strike", "in": "green underline"}


def _marked(hunk: Sequence[Sequence[str]], kinds: tuple[str, ...]) -> Text:
    """The pieces of the `kinds` beside what is the same; plain text has signs where a terminal has colours."""
    line = Text("… ")
    for kind, text in hunk:
        if kind == "same":
            line.append(text)
        elif kind in kinds and console.is_terminal:
            line.append(text, style=_STYLES[kind])
        elif kind in kinds:
            left, right = ("[-", "-]") if kind == "out" else ("{+", "+}")
            space = text[len(text.rstrip()) :]
            line.append(f"{left}{text.rstrip()}{right}{space}")
    line.append(" …")
    return line


def _side_by_side(hunk: Sequence[Sequence[str]], width: int) -> None:
    """The text that stays on the left, the other on the right."""
    left, right = (list(_marked(hunk, (kind,)).wrap(console, width)) for kind in ("out", "in"))
    for number in range(max(len(left), len(right))):
        one, other = (side[number] if number < len(side) else Text() for side in (left, right))
        line = one.copy()
        line.append(" " * (width - cell_len(one.plain)) + " │ ")
        line.append_text(other)
        console.print(line, soft_wrap=True)
    console.print(Text("─" * width + "─┼─" + "─" * width, style="dim"), soft_wrap=True)


def _heading(text: str) -> None:
    console.print(Text(printable(text, 2000), style="bold"), soft_wrap=True)


def _lines(lines: Sequence[str]) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=True)
