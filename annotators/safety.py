"""Unsafe text and personal data.

`unsafe_score` comes from a packaged fastText model with the classes of CATEGORIES and `safe`; the score of a
window is 1 - p(safe), that of a document the maximum over its windows: the whole text in stretches of 500
characters up to 2,000, else four of them from the beginning to the end. `unsafe_category` is the likeliest
harm in that window, given from a score of 0.5 on. A text without words scores 0.

`pii_count` counts e-mail addresses, phone numbers and IP addresses (v4 and v6) in the first 100,000
characters, in one pass of a regular expression of linear time (RE2). Of those that overlap the first one is
counted, and of those that begin together an address before a number. A text without a digit or `@` has none.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators.classifier import distributions, packaged_model
from annotators.sidecar import sidecar
from annotators.text import tokens, windows
from schemas.labels import SAFETY

VERSION = "2"

WINDOW, WINDOWS = 500, 4
CATEGORIES = ("harm", "hate", "offensive", "spam")
SAFE = "safe"
MIN_CATEGORY_SCORE = 0.5
PII_CHARACTERS = 100_000

EMAIL = r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[a-zA-Z]{2,24}\b"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_GROUP = r"[0-9a-fA-F]{1,4}"
IP_ADDRESS = (
    rf"\b(?:{_BYTE}\.){{3}}{_BYTE}\b|\b(?:{_GROUP}:){{7}}{_GROUP}\b|\b(?:{_GROUP}:){{2,6}}(?::{_GROUP}){{1,5}}\b"
)
PHONE = (
    r"(?:\+|\b00)\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,5}\b"  # international
    r"|\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}\b"  # (area) number
    r"|\b\d{3}[.-]\d{3}[.-]\d{4}\b"  # 555-123-4567
    r"|\b0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,5}\b"  # 030/1234567
)

PII = f"{EMAIL}|{IP_ADDRESS}|{PHONE}"


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema SAFETY."""
    score, category = unsafe([windows(text.as_py(), WINDOW, WINDOWS) for text in batch["text"]])
    columns = {"unsafe_score": score, "unsafe_category": category, "pii_count": count_pii(batch["text"])}
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


def count_pii(text: pa.Array) -> list[int]:
    """Number of e-mail addresses, phone numbers and IP addresses in each text."""
    begin = pc.utf8_slice_codeunits(text, 0, PII_CHARACTERS)
    possible = pc.match_substring_regex(begin, "[0-9@]")
    total = np.zeros(len(text), dtype=np.int64)
    total[possible.to_numpy(zero_copy_only=False)] = pc.count_substring_regex(begin.filter(possible), PII).to_numpy()
    return total.tolist()
