"""Unsafe text.

`unsafe_score` comes from a packaged fastText model with the classes of CATEGORIES and `safe`; the score of a
window is 1 - p(safe), that of a document the maximum over its windows: the whole text in stretches of 500
characters up to 2,000, else four of them from the beginning to the end. `unsafe_category` is the likeliest
harm in that window, given from a score of 0.5 on. A text without words scores 0.
"""

import numpy as np
import pyarrow as pa

from annotators.classifier import distributions, packaged_model
from annotators.sidecar import sidecar
from annotators.text import tokens, windows
from schemas.labels import SAFETY

VERSION = "3"

WINDOW, WINDOWS = 500, 4
CATEGORIES = ("harm", "hate", "offensive", "spam")
SAFE = "safe"
MIN_CATEGORY_SCORE = 0.5


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema SAFETY."""
    score, category = unsafe([windows(text.as_py(), WINDOW, WINDOWS) for text in batch["text"]])
    columns = {"unsafe_score": score, "unsafe_category": category}
    return sidecar(batch, SAFETY, VERSION, columns)


def unsafe(documents: list[list[str]]) -> tuple[list[float], list[str | None]]:
    """Score and category of each document, given as its windows."""
    lines = tokens([window for document in documents for window in document])
    table = distributions(packaged_model("safety"), lines, [*CATEGORIES, SAFE])
    # A row of zeros is a window without words.
    window_scores = np.where(table.any(axis=1), np.clip(1 - table[:, -1], 0, 1), 0.0)
    scores: list[float] = []
    categories: list[str | None] = []
    begin = 0
    for document in documents:
        end = begin + len(document)
        worst = begin + int(np.argmax(window_scores[begin:end])) if document else -1
        score = float(window_scores[worst]) if document else 0.0
        scores.append(score)
        likeliest = CATEGORIES[int(np.argmax(table[worst, :-1]))] if document else None
        categories.append(likeliest if score >= MIN_CATEGORY_SCORE else None)
        begin = end
    return scores, categories
