"""The packaged fastText models: loading once a process, and predicting for many lines."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MODELS = Path(__file__).parent / "models"
PREFIX = "__label__"


@cache
def packaged_model(name: str) -> Any:
    """The model `annotators/models/<name>.ftz`, loaded at the first call in a process."""
    import fasttext

    return fasttext.load_model(str(MODELS / f"{name}.ftz"))


def predict(model: Any, lines: list[str], count: int) -> list[list[tuple[str, float]]]:
    """The `count` likeliest (label, probability) of each line, best first; none for a line without words.

    A line must hold no line feed. Probabilities are clipped to 1, which fastText exceeds by rounding.
    """
    spoken = [line for line in lines if line]
    # A list, never a string: fastText's path for single strings fails with NumPy 2.
    labels, scores = model.predict(spoken, k=count) if spoken else ([], [])
    answers = iter(
        [(label.removeprefix(PREFIX), min(1.0, float(score))) for label, score in zip(*answer)]
        for answer in zip(labels, scores)
    )
    return [next(answers) if line else [] for line in lines]


def distributions(model: Any, lines: list[str], labels: list[str]) -> npt.NDArray[np.float64]:
    """Probability of every label for each line, shape (lines, labels).

    A line without words gives a row of zeros.
    """
    column = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(lines), len(labels)))
    for row, answer in enumerate(predict(model, lines, len(labels))):
        for label, score in answer:
            table[row, column[label]] = score
    return table
