"""Thresholds of quality statistics for each language, fitted from reference text against English.

Gopher's and FineWeb's numbers were chosen for English. For another language each is moved to where it cuts the
reference text of that language as it cuts English reference text of the same kind (FineWeb-2, Penedo et al. 2025):

- `median-ratio`: the English number times the median of the language over the median of English. Robust, and the same
  for short and long documents; for what is measured in units of a language, such as the length of words.
- `mean-sigma`: as many standard deviations from the mean of the language as the English number is from that of English.
- `quantile`: as large a share of the language's documents lies beyond as of English ones. It needs English documents
  that lie beyond; without LEAST_BEYOND of them the English number stays.
- `published`: the English number itself.

The least probability of a language label is max(.3, min(.9, median - sigma)) of the label's own documents, as in
FineWeb-2 (`median-minus-sigma`). A model is far surer of text that it was trained on (`seen`), so that most documents
in languages that are hard to tell apart would fall below: there .3 stays, and what was seen is only told.

Where lines end with a mark less than half as often as in English, marks are not what ends a sentence, and the bound
is 0.

A language of which there is too little gets no bounds and so those of its script, which are fitted from all documents
in that script, and are also those of text in a language that is none of the 119.

Single sentences are a special case (`unit="sentence"`). They say how long words are, how many of them have a letter
and how often lines end with a mark, and nothing about repetition, length or layout: only SENTENCE_COLUMNS are fitted.
SENTENCES of them are taken together as one document, since a share in one sentence is mostly 0 or 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError
from schemas.languages import LANGUAGES, script_of
from schemas.thresholds import SCRIPTS, Bound, Fitted, Method, Thresholds

ENGLISH = "eng_Latn"
LEAST_DOCUMENTS = 500  # of a language; with fewer it has the bounds of its script
LEAST_BEYOND = 10  # English documents
SENTENCES = 20  # in a document that is made of them
LANGUAGE_SCORE = "language_score"
MARKS = "punctuated_line_ratio"  # Thai, for one, ends its sentences without any, so few would have to mean something
LEAST_SCORE, MOST_SCORE = 0.3, 0.9


def _between(low: float | None = None, high: float | None = None) -> Bound:
    return Bound(min=low, max=high)


DEFAULT: dict[str, Bound] = {
    LANGUAGE_SCORE: _between(LEAST_SCORE),
    # Gopher quality (Rae et al. 2021, table A1)
    "words": _between(50, 100_000),
    "mean_word_length": _between(3, 10),
    "symbol_word_ratio": _between(high=0.1),
    "bullet_line_ratio": _between(high=0.9),
    "ellipsis_line_ratio": _between(high=0.3),
    "alpha_word_ratio": _between(0.8),
    "own_stop_words": _between(2),  # in the document's own language; of English Gopher's eight are asked on top
    # Gopher repetition without paragraphs, and FineWeb-2's number for repeated characters. FineWeb's own for English
    # web pages, 0.01, is less than the fences and rules of Markdown repeat.
    "duplicate_line_ratio": _between(high=0.3),
    "top_2gram_ratio": _between(high=0.2),
    "top_3gram_ratio": _between(high=0.18),
    "top_4gram_ratio": _between(high=0.16),
    **{f"duplicate_{n}gram_ratio": _between(high=(20 - n) / 100) for n in range(5, 11)},
    "duplicate_line_character_ratio": _between(high=0.1),
    # FineWeb (Penedo et al. 2024) without short lines, which FineWeb-2 does not ask for
    "punctuated_line_ratio": _between(0.12),
    "newline_word_ratio": _between(high=0.3),
}
"""The published bounds that hold for a language until others are fitted for it."""

ENGLISH_ONLY: dict[str, Bound] = {
    "stop_words": _between(2),
    "duplicate_paragraph_ratio": _between(high=0.3),
    "duplicate_paragraph_character_ratio": _between(high=0.2),
    "short_line_ratio": _between(high=0.67),
}
"""What Gopher and FineWeb ask of English on top of DEFAULT."""

METHODS: dict[str, Method] = {
    "mean_word_length": "median-ratio",
    "alpha_word_ratio": "median-ratio",
    "punctuated_line_ratio": "median-ratio",
    "newline_word_ratio": "median-ratio",
    "duplicate_line_ratio": "quantile",
    **{f"top_{n}gram_ratio": "quantile" for n in (2, 3, 4)},
    **{f"duplicate_{n}gram_ratio": "quantile" for n in range(5, 11)},
}
"""The columns that FineWeb-2 has numbers of each language for, and how they are fitted unless told otherwise."""

SENTENCE_COLUMNS: dict[str, str] = {
    "mean_word_length": "words",
    "alpha_word_ratio": "words",
    "symbol_word_ratio": "words",
    "punctuated_line_ratio": "lines",
}
"""What single sentences can tell, with the column that weighs a sentence among those it is taken together with."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Reference:
    """Reference text of one language or script: its documents, and the values of each column."""

    documents: int
    values: Mapping[str, Numbers]


def fit(
    labels: pa.Table, methods: Mapping[str, Method], unit: str, least: int = LEAST_DOCUMENTS, seen: bool = False
) -> Thresholds:
    """Thresholds from the labels of reference documents: `columns_needed`, one row a document, in any order.

    `methods` names the columns that are fitted; the others keep the English bounds. Rows of no language (`other` and
    `und`) count for nothing, as do probabilities that are null. Raises ConfigError without `least` English documents
    to compare with. `seen`: the identification of languages was trained on these documents.
    """
    labels = labels.take(pc.sort_indices(labels, [("language", "ascending"), ("document_id", "ascending")]))
    table = {name: labels[name].cast(pa.float64()).to_numpy() for name in _value_columns(methods)}
    names = sorted(LANGUAGES)
    rows = labels["language"].to_numpy().astype(str)
    found = {
        name: _reference({column: values[begin:end] for column, values in table.items()}, methods, unit)
        for name, begin, end in zip(names, np.searchsorted(rows, names), np.searchsorted(rows, names, side="right"))
        if end > begin
    }
    english = found.get(ENGLISH)
    if english is None or english.documents < least:
        number = english.documents if english else 0
        raise ConfigError(
            f"there are {number} English documents to compare with, and {least} are needed: add English reference text "
            "of the same kind, or ask for fewer with --least"
        )
    languages = {}
    for name, reference in found.items():
        bounds = _english(english, seen) if name == ENGLISH else {}
        if name != ENGLISH and reference.documents >= least:
            bounds = _fit(reference, english, methods, seen)
        languages[name] = Fitted(documents=reference.documents, bounds=bounds)
    scripts = {}
    for script in SCRIPTS:
        members = [found[name] for name in found if script_of(name) == script]
        pooled = _pool(members) if members else None
        if pooled and pooled.documents >= least:
            scripts[script] = Fitted(documents=pooled.documents, bounds=_fit(pooled, english, methods, seen))
    return Thresholds(
        format=1, unit=unit, documents=labels.num_rows, default=DEFAULT, scripts=scripts, languages=languages
    )


def columns_needed(methods: Mapping[str, Method]) -> list[str]:
    """The label columns that `fit` reads."""
    return ["document_id", "language", *_value_columns(methods)]


def methods_for(unit: str, changes: Mapping[str, Method]) -> dict[str, Method]:
    """METHODS with `changes`, and of these what text in such units can tell; ConfigError for what it cannot."""
    bounded = {**DEFAULT, **ENGLISH_ONLY}
    for column in changes:
        if column not in bounded or column == LANGUAGE_SCORE:
            known = ", ".join(sorted(set(bounded) - {LANGUAGE_SCORE}))
            raise ConfigError(f"there is no English bound of '{column}' to move; there are {known}")
        if unit == "sentence" and column not in SENTENCE_COLUMNS:
            raise ConfigError(
                f"single sentences say nothing about '{column}'; they do of {', '.join(SENTENCE_COLUMNS)}"
            )
    methods = {**METHODS, **changes}
    return {column: methods[column] for column in methods if unit != "sentence" or column in SENTENCE_COLUMNS}


def _value_columns(methods: Mapping[str, Method]) -> list[str]:
    return sorted({LANGUAGE_SCORE, *methods, *SENTENCE_COLUMNS.values()})


def _reference(values: Mapping[str, Numbers], methods: Mapping[str, Method], unit: str) -> _Reference:
    """The documents of a language, sentences taken together where that is what they are."""
    documents = len(values[LANGUAGE_SCORE])
    scores = values[LANGUAGE_SCORE][np.isfinite(values[LANGUAGE_SCORE])]
    if unit != "sentence":
        return _Reference(documents, {LANGUAGE_SCORE: scores, **{column: values[column] for column in methods}})
    rows = documents // SENTENCES * SENTENCES
    joined = {}
    for column in methods:
        weights = values[SENTENCE_COLUMNS[column]][:rows].reshape(-1, SENTENCES)
        parts = values[column][:rows].reshape(-1, SENTENCES) * weights
        joined[column] = parts.sum(axis=1) / np.maximum(1, weights.sum(axis=1))
    return _Reference(documents, {LANGUAGE_SCORE: scores, **joined})


def _pool(parts: Sequence[_Reference]) -> _Reference:
    columns = parts[0].values
    values = {column: np.concatenate([part.values[column] for part in parts]) for column in columns}
    return _Reference(sum(part.documents for part in parts), values)


def _english(reference: _Reference, seen: bool) -> dict[str, Bound]:
    """English keeps the published bounds, with what was seen of it as evidence."""
    bounds = {**ENGLISH_ONLY}
    for column, values in reference.values.items():
        published = {**DEFAULT, **ENGLISH_ONLY}[column]
        bounds[column] = _language_score(values, seen) if column == LANGUAGE_SCORE else _bound(published, values)
    return dict(sorted(bounds.items()))


def _fit(reference: _Reference, english: _Reference, methods: Mapping[str, Method], seen: bool) -> dict[str, Bound]:
    bounds = {LANGUAGE_SCORE: _language_score(reference.values[LANGUAGE_SCORE], seen)}
    for column, method in methods.items():
        values, against = reference.values[column], english.values[column]
        published = {**DEFAULT, **ENGLISH_ONLY}[column]
        low, high = (_move(limit, side, values, against, method) for side, limit in _sides(published))
        if column == MARKS and low is not None and published.min is not None and low < published.min / 2:
            low = 0.0
        fitted = (low, high) != (published.min, published.max)
        bounds[column] = _bound(Bound(min=low, max=high, method=method if fitted else "published"), values)
    return dict(sorted(bounds.items()))


def _sides(bound: Bound) -> tuple[tuple[str, float | None], tuple[str, float | None]]:
    return ("min", bound.min), ("max", bound.max)


def _move(limit: float | None, side: str, values: Numbers, english: Numbers, method: Method) -> float | None:
    """Where the English `limit` lies among the values of another language; itself where the method cannot say."""
    if limit is None or method == "published" or not len(values) or not len(english):
        return limit
    moved = {"median-ratio": _by_median, "mean-sigma": _by_sigma, "quantile": _by_quantile}[method]
    found = moved(limit, side, values, english)
    return limit if found is None or not np.isfinite(found) else _round(max(0.0, found))


def _by_median(limit: float, side: str, values: Numbers, english: Numbers) -> float | None:
    ours, theirs = float(np.median(values)), float(np.median(english))
    if theirs == 0 or (ours == 0 and side == "max"):  # an upper bound of nothing would drop everything
        return None
    return limit * ours / theirs


def _by_sigma(limit: float, side: str, values: Numbers, english: Numbers) -> float | None:
    if not english.std():
        return None
    return float(values.mean() + (limit - english.mean()) / english.std() * values.std())


def _by_quantile(limit: float, side: str, values: Numbers, english: Numbers) -> float | None:
    beyond = english < limit if side == "min" else english > limit
    if beyond.sum() < LEAST_BEYOND:
        return None
    share = float(beyond.mean())
    if side == "min":
        return float(np.quantile(values, share, method="lower"))
    return float(np.quantile(values, 1 - share, method="higher"))


def _language_score(scores: Numbers, seen: bool) -> Bound:
    if not len(scores):
        return DEFAULT[LANGUAGE_SCORE]
    if seen:
        return _bound(DEFAULT[LANGUAGE_SCORE], scores)
    least = _round(float(np.clip(np.median(scores) - scores.std(), LEAST_SCORE, MOST_SCORE)))
    return _bound(Bound(min=least, method="median-minus-sigma"), scores)


def _bound(bound: Bound, values: Numbers) -> Bound:
    """The bound with its evidence."""
    if not len(values):
        return bound
    evidence = {"mean": values.mean(), "sigma": values.std(), "median": np.median(values)}
    return bound.model_copy(update={name: _round(float(value)) for name, value in evidence.items()})


def _round(value: float) -> float:
    """Four digits: more than a threshold is worth, and the same on every machine."""
    return float(f"{value:.4g}")
