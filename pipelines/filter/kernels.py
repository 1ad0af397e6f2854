"""Filter decisions from label columns: which documents are kept, and every reason that fired."""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.documents import DECISIONS
from schemas.labels import check_sidecar
from schemas.languages import OTHER, UNDETERMINED
from schemas.recipe import Filter, Range
from schemas.thresholds import Thresholds

CODE = "code"
LANGUAGE_SCORE = 0.3  # the least probability of a language label where neither recipe nor thresholds say

Mask = npt.NDArray[np.bool_]
Bounds = Mapping[str, Range | None]  # by column


def decide(labels: dict[str, pa.Table], config: Filter, thresholds: Thresholds | None) -> pa.Table:
    """DECISIONS of one shard.

    `labels` maps an annotator's name to its sidecar, all in the same row order. A document of domain `code` is judged
    by `code_rules`. Everything else is judged by the `thresholds` of its language, of its script where it is in none
    of the 119 languages, and by the `rules`, which replace the bounds that thresholds have for the same column. What
    the thresholds say of columns that were not labelled is left out.
    Reasons are `<column>.min`, `<column>.max` and `language`, in alphabetical order. A missing value fires no rule.
    """
    first = next(iter(labels.values()))
    for table in labels.values():
        check_sidecar(first, table)
    columns = {name: table[name] for table in labels.values() for name in table.column_names}
    code = _equals(columns["domain"], CODE) if "domain" in columns else np.zeros(first.num_rows, dtype=bool)

    fired: dict[str, Mask] = {}
    keys, key_of_row = _keys(columns)
    bounds = [_bounds(key, config, thresholds, columns) for key in keys]
    _apply(fired, columns, bounds, key_of_row, ~code)
    _apply(fired, columns, [config.code_rules], np.zeros(first.num_rows, dtype=np.int64), code)
    if config.languages is not None:
        allowed = pc.is_in(columns["language"], pa.array(config.languages, pa.string()))
        fired["language"] = ~allowed.to_numpy().astype(bool) & ~code
    return _decisions(first, fired)


def _keys(columns: Mapping[str, pa.ChunkedArray]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """What chooses the bounds: the labels and scripts that occur, and for each row the number of its own."""
    rows = len(columns["document_id"])
    if "language" not in columns:
        return [""], np.zeros(rows, dtype=np.int64)
    language = columns["language"]
    no_language = pc.is_in(language, pa.array([OTHER, UNDETERMINED]))
    encoded = pc.if_else(no_language, columns["script"], language).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _bounds(key: str, config: Filter, thresholds: Thresholds | None, columns: Collection[str]) -> Bounds:
    """The bounds of the documents of one key, None where a column is to have none; `columns` are those there are."""
    bounds: dict[str, Range | None] = {"language_score": Range(min=LANGUAGE_SCORE)} if "language" in columns else {}
    if thresholds is not None:
        bounds |= {column: bound for column, bound in thresholds.bounds(key).items() if column in columns}
    bounds |= config.rules
    if "language" in columns and config.language_score is not None:
        bounds["language_score"] = Range(min=config.language_score)
    return bounds


def _apply(
    fired: dict[str, Mask],
    columns: Mapping[str, pa.ChunkedArray],
    bounds: list[Bounds],
    key_of_row: npt.NDArray[np.int64],
    applies: Mask,
) -> None:
    """Add what fires: `bounds` by the number of a key, `key_of_row` says which of them a row is judged by."""
    for column in sorted({column for one in bounds for column in one}):
        values = columns[column].cast(pa.float64()).to_numpy()
        ranges = [one.get(column) for one in bounds]
        with np.errstate(invalid="ignore"):  # a null is NaN here, as is a bound that is not there: both fire nothing
            for side, below in (("min", True), ("max", False)):
                limits = np.array([_limit(one, side) for one in ranges])[key_of_row]
                hit = (values < limits if below else values > limits) & applies
                name = f"{column}.{side}"
                if np.isfinite(limits).any():
                    fired[name] = fired[name] | hit if name in fired else hit


def _limit(bounds: Range | None, side: str) -> float:
    value = getattr(bounds, side, None)
    return np.nan if value is None else value


def _decisions(keys: pa.Table, fired: dict[str, Mask]) -> pa.Table:
    names = sorted(fired)
    matrix = np.stack([fired[name] for name in names], axis=1) if names else np.zeros((keys.num_rows, 0), bool)
    _, which = np.nonzero(matrix)
    offsets = np.concatenate([[0], np.cumsum(matrix.sum(axis=1))]).astype(np.int32)
    reasons = pa.ListArray.from_arrays(pa.array(offsets), pa.array(names, pa.string()).take(pa.array(which)))
    keep = pa.array(~matrix.any(axis=1))
    return pa.table([keys["document_id"], keys["id"], keys["text_hash"], keep, reasons], schema=DECISIONS)


def _equals(values: pa.ChunkedArray, value: str) -> Mask:
    return pc.fill_null(pc.equal(values, value), False).to_numpy().astype(bool)
