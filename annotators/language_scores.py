"""How well a model of language identification does on labelled lines."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from annotators.language import NAMES, label
from annotators.language_model import LanguageModel
from annotators.language_train import Lines
from schemas.languages import LANGUAGES, OTHER

LENGTHS = (20, 40, 60, 100, 200, 400)
"""Where the bands of line length begin, in characters; the last one has no end."""


@dataclass(frozen=True)
class Score:
    """One label: lines that have it, lines that were given it, and how far the two agree."""

    label: str
    lines: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """What a model gave to labelled lines; a label outside the 119 counts as `other`."""

    scores: tuple[Score, ...]  # of every label that occurs, the worst first
    macro_f1: float  # of the 119 labels that occur
    accuracy: float
    accepted: float | None  # share of the lines of `other` that were given one of the 119; None without such lines
    confusions: tuple[tuple[str, str, int], ...]  # label, label given instead, lines; the commonest first
    by_source: dict[str, tuple[int, float]]  # lines and accuracy
    by_length: dict[str, tuple[int, float]]


def evaluate(model: LanguageModel, lines: Lines) -> Evaluation:
    """Label every line as a document of its own."""
    truth = np.array([name if name in LANGUAGES else OTHER for name in lines.labels.tolist()])
    given = NAMES[np.concatenate([part.documents.label for part in label(model, lines.texts)])]
    right = truth == given
    scores = sorted((_score(name, truth, given) for name in set(truth.tolist())), key=lambda one: (one.f1, one.label))
    covered = [one.f1 for one in scores if one.label != OTHER]
    other = truth == OTHER
    wrong = Counter(zip(truth[~right].tolist(), given[~right].tolist()))
    sizes = np.array([len(text) for text in lines.texts])
    band = np.searchsorted(LENGTHS, sizes, side="right")
    names = [f"under {LENGTHS[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]} and more"]
    return Evaluation(
        tuple(scores),
        float(np.mean(covered)) if covered else 0.0,
        float(right.mean()),
        float((given[other] != OTHER).mean()) if other.any() else None,
        tuple((a, b, count) for (a, b), count in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))),
        {name: _accuracy(right, lines.sources == name) for name in sorted(set(lines.sources.tolist()))},
        {names[number]: _accuracy(right, band == number) for number in sorted(set(band.tolist()))},
    )


def _score(name: str, truth: npt.NDArray[np.str_], given: npt.NDArray[np.str_]) -> Score:
    hits, have, got = np.sum((truth == name) & (given == name)), np.sum(truth == name), np.sum(given == name)
    return Score(name, int(have), float(hits / max(got, 1)), float(hits / have), float(2 * hits / (have + got)))


def _accuracy(right: npt.NDArray[np.bool_], chosen: npt.NDArray[np.bool_]) -> tuple[int, float]:
    return int(chosen.sum()), float(right[chosen].mean())
