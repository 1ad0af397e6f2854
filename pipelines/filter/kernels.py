"""Filter decisions from label columns: which documents are kept, and every reason that fired."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.documents import DECISIONS
from schemas.labels import check_sidecar
from schemas.recipe import Filter, Range

CODE = "code"


def decide(labels: dict[str, pa.Table], config: Filter) -> pa.Table:
    """DECISIONS of one shard.

    `labels` maps an annotator's name to its sidecar, all in the same row order. A document of domain `code` is judged
    by `code_rules`, everything else by `rules` and the language rules. Reasons are `<column>.min`, `<column>.max` and
    `language`, in alphabetical order. A missing value fires no rule.
    """
    first = next(iter(labels.values()))
    for table in labels.values():
        check_sidecar(first, table)
    columns = {name: table[name] for table in labels.values() for name in table.column_names}
    rows = first.num_rows
    code = _equals(columns["domain"], CODE) if "domain" in columns else np.zeros(rows, dtype=bool)

    fired: dict[str, np.ndarray] = {}
    for rules, applies in ((config.rules, ~code), (config.code_rules, code)):
        for column, bounds in rules.items():
            _apply(fired, column, columns[column], bounds, applies)
    if "language" in columns:
        _apply(fired, "language_score", columns["language_score"], Range(min=config.language_score), ~code)
        if config.languages is not None:
            allowed = pc.is_in(columns["language"], pa.array(config.languages, pa.string()))
            fired["language"] = ~_numpy(allowed).astype(bool) & ~code
    return _decisions(first, fired)


def _apply(
    fired: dict[str, np.ndarray], column: str, values: pa.ChunkedArray, bounds: Range, applies: np.ndarray
) -> None:
    numbers = _numpy(values.cast(pa.float64()))
    with np.errstate(invalid="ignore"):  # a null is NaN here, and NaN is below and above nothing
        if bounds.min is not None:
            name = f"{column}.min"
            fired[name] = fired.get(name, np.zeros(len(numbers), bool)) | ((numbers < bounds.min) & applies)
        if bounds.max is not None:
            name = f"{column}.max"
            fired[name] = fired.get(name, np.zeros(len(numbers), bool)) | ((numbers > bounds.max) & applies)


def _decisions(keys: pa.Table, fired: dict[str, np.ndarray]) -> pa.Table:
    names = sorted(fired)
    matrix = np.stack([fired[name] for name in names], axis=1) if names else np.zeros((keys.num_rows, 0), bool)
    _, which = np.nonzero(matrix)
    offsets = np.concatenate([[0], np.cumsum(matrix.sum(axis=1))]).astype(np.int32)
    reasons = pa.ListArray.from_arrays(pa.array(offsets), pa.array(names, pa.string()).take(pa.array(which)))
    keep = pa.array(~matrix.any(axis=1))
    return pa.table([keys["document_id"], keys["id"], keys["text_hash"], keep, reasons], schema=DECISIONS)


def _equals(values: pa.ChunkedArray, value: str) -> np.ndarray:
    return _numpy(pc.fill_null(pc.equal(values, value), False)).astype(bool)


def _numpy(values: pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy()
