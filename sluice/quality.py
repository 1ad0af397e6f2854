"""`sluice quality fit`: reference documents are labelled as any others, and thresholds fitted from their labels."""

import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators.thresholds import SENTENCES, columns_needed, fit, methods_for
from schemas import paths
from schemas.errors import ConfigError
from schemas.labels import ANNOTATORS, check_sidecar
from schemas.languages import LANGUAGES
from schemas.manifest import require_manifest
from schemas.tables import read_table
from schemas.thresholds import Method, Thresholds, write_thresholds
from sluice.commands import run_stage
from sluice.console import console
from sluice.corpus import choose_shards
from sluice.run import find_given

LABELS = ("language", "quality")
MAX_ROWS = 2_000_000  # documents whose labels are read; of more a choice of shards by hash
FITTED: tuple[Method, ...] = tuple(method for method in get_args(Method) if method != "median-minus-sigma")

HEAD_WIDTH = 117
_HEAD = """\
Thresholds of quality filters for each language, as `sluice quality fit` writes them; docs/quality.md explains them.
A document takes the bounds of its language; for a column that is not there those of its script, then the default.

`documents` is how many were seen; mean, sigma and median are of their values. `method` is how the English bound was
moved; `published` is the English one as it stands in the papers (Gopher, FineWeb, FineWeb-2).
"""
_SENTENCES = (
    f"The reference text was single sentences. They calibrate {{fitted}} ({SENTENCES} sentences are taken together as "
    "one document) and, unless the model has seen them, the least probability of a language (each sentence alone). "
    "They cannot tell how long documents are, how they are laid out or how much they repeat, so the published bounds "
    "hold for words, bullets, ellipses, line feeds, n-grams, and repeated or short lines."
)
_SEEN = (
    "The model of languages was trained on this text and is far surer of it than of other text, so the published least "
    "probability, 0.3, holds for all languages; what was seen of it is told beside."
)


def fit_quality(
    source: str,
    output: str,
    methods: Sequence[str],
    sentences: bool,
    label: str | None,
    seen: bool,
    least: int,
    recipe: str | None,
    settings: tuple[str, ...],
    columns: tuple[str, ...],
    beam_options: tuple[str, ...],
) -> None:
    """Write thresholds to the file `output`; `methods` are COLUMN=METHOD, `label` a field with the true language.

    `seen`: the model of languages was trained on these documents.
    """
    unit = "sentence" if sentences else "document"
    chosen = methods_for(unit, _methods(methods))
    found = {} if any(character in source for character in "*?[") else find_given(source)
    if {"extract", "annotate"} <= set(found) and _has_labels(found["annotate"]):
        thresholds = fit(_read(found, columns_needed(chosen), label), chosen, unit, least, seen)
    else:
        with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
            wanted = f"annotate.labels=[{','.join(LABELS)}]"
            run_stage("annotate", source, folder, recipe, (*settings, wanted), columns, beam_options)
            made = find_given(folder)
            thresholds = fit(_read({**found, **made}, columns_needed(chosen), label), chosen, unit, least, seen)
    write_thresholds(output, thresholds, _head(chosen, sentences, seen))
    _say(thresholds, least, output)


def _head(methods: Mapping[str, Method], sentences: bool, seen: bool) -> str:
    fitted = ", ".join(column for column, method in methods.items() if method != "published")
    more = [_SENTENCES.format(fitted=fitted)] * sentences + [_SEEN] * seen
    return _HEAD + "".join(f"\n{textwrap.fill(part, HEAD_WIDTH)}\n" for part in more)


def _methods(given: Sequence[str]) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    for one in given:
        column, equals, method = one.partition("=")
        if not equals or method not in FITTED:
            raise ConfigError(f"--method {one}: write COLUMN=METHOD with METHOD of {', '.join(FITTED)}")
        methods[column] = method
    return methods


def _has_labels(annotate: str) -> bool:
    manifest = require_manifest(annotate, "annotate")
    return all(manifest.select(name) for name in LABELS)


def _read(found: Mapping[str, str], columns: Sequence[str], label: str | None) -> pa.Table:
    """The label columns of the reference documents, and `label` in place of the language that was identified."""
    documents = require_manifest(found["extract"], "extract").select("documents")
    manifest = require_manifest(found["annotate"], "annotate")
    sidecars = {name: manifest.select(name) for name in LABELS}
    tables = []
    for index in choose_shards(documents, MAX_ROWS):
        keys = ["document_id", "text_hash"]
        path = paths.join(found["extract"], documents[index].path)
        shard = read_table(path, [*keys, "metadata"] if label else keys)
        parts = {"document_id": shard["document_id"]}
        for name, entries in sidecars.items():
            mine = [column for column in columns if column in ANNOTATORS[name].names and column != "document_id"]
            labels = read_table(paths.join(found["annotate"], entries[index].path), [*keys, *mine])
            check_sidecar(shard, labels)
            parts |= {column: labels[column] for column in mine}
        if label:
            parts = _with_truth(parts, _field(shard["metadata"].combine_chunks(), label))
        tables.append(pa.table(parts).select(columns))
    table = pa.concat_tables(tables)
    if label and not pc.any(pc.is_in(table["language"], pa.array(LANGUAGES))).as_py():
        raise ConfigError(f"--label {label}: no document has a field of this name with one of the 119 labels")
    return table


def _with_truth(parts: Mapping[str, pa.ChunkedArray], truth: pa.Array) -> dict[str, pa.ChunkedArray]:
    """The true languages, and the probabilities only where they are of the true language."""
    scores = pc.if_else(pc.equal(parts["language"], truth), parts["language_score"], None)
    return {**parts, "language": pa.chunked_array([truth]), "language_score": scores}


def _field(metadata: pa.MapArray, name: str) -> pa.Array:
    """The value of one field of each row, "" where a row does not have it."""
    owner = np.repeat(np.arange(len(metadata)), np.diff(metadata.offsets.to_numpy()))
    mask = pc.equal(metadata.keys, name).to_numpy(zero_copy_only=False)
    values = np.full(len(metadata), "", object)
    values[owner[mask]] = metadata.items.filter(pa.array(mask)).to_pylist()
    return pa.array(values, pa.string())


def _say(thresholds: Thresholds, least: int, output: str) -> None:
    fitted = [name for name, one in thresholds.languages.items() if one.bounds]
    thin = [name for name, one in thresholds.languages.items() if not one.bounds]
    console.print(f"languages   {len(fitted)} fitted from {thresholds.documents:,} documents", markup=False)
    if thin:
        console.print(f"by script   {', '.join(thin)}: fewer than {least:,} documents", markup=False)
    console.print(f"written to  {output}", markup=False)
