"""Educational value of a document on a scale from 0 (none) to 5 (textbook), by a packaged fastText model.

The model gives a probability for each of the six tiers; the score is their expected value. It reads the whole
text up to 3,000 characters, else three windows of 1,000 at the beginning, middle and end. A text without
words scores 0. The tiers were assigned by the kind of source, mostly in English (models/educational.md), so
the score orders documents; a single value means little.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotators.classifier import distributions, packaged_model
from annotators.sidecar import sidecar
from annotators.text import sample, tokens
from schemas.labels import EDUCATIONAL

VERSION = "1"

WINDOW, WINDOWS = 1000, 3
TIERS = ("0", "1", "2", "3", "4", "5")
BIN_EDGES = (1.0, 2.0, 3.0)  # lower bounds of bins 1, 2 and 3


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema EDUCATIONAL."""
    scores = educational_scores([sample(text.as_py(), WINDOW, WINDOWS) for text in batch["text"]])
    # Binned as stored, so that a reader who bins the column again agrees.
    bins = np.digitize(scores.astype(np.float32), BIN_EDGES)
    return sidecar(batch, EDUCATIONAL, VERSION, {"educational_score": scores, "educational_bin": bins})


def educational_scores(texts: list[str]) -> npt.NDArray[np.float64]:
    """Expected tier of each text, which is read whole."""
    probabilities = distributions(packaged_model("educational"), tokens(texts), list(TIERS))
    total = probabilities.sum(axis=1)
    return probabilities @ np.arange(len(TIERS)) / np.where(total > 0, total, 1.0)
