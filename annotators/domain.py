"""Domain (field) of a document: source code by path or look, everything else by a packaged fastText model.

The model reads the whole text up to 3,000 characters, else three windows of 1,000 at the beginning, middle
and end. Its classes are the fields of DOMAINS without `code` (a rule decides), `physics-chemistry` (no
labelled text yet) and `other`, which is the answer where the best class has a probability below MIN_SCORE or
the text has no words.
"""

import pyarrow as pa

from annotators.classifier import packaged_model, predict
from annotators.code import code_rows
from annotators.sidecar import sidecar
from annotators.text import sample, tokens
from schemas.labels import DOMAIN

VERSION = "1"

WINDOW, WINDOWS = 1000, 3
MIN_SCORE = 0.3
MIN_CHARACTERS = 20


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema DOMAIN."""
    codes = code_rows(batch)
    samples = (sample(text.as_py(), WINDOW, WINDOWS) for text in batch["text"])
    texts = ["" if code else text for text, code in zip(samples, codes)]
    domains, scores = [], []
    lines = [line if len(line) >= MIN_CHARACTERS else "" for line in tokens(texts)]
    for code, answer in zip(codes, predict(packaged_model("domain"), lines, 1)):
        domain, score = ("code", 1.0) if code else answer[0] if answer else ("other", 0.0)
        domains.append(domain if score >= MIN_SCORE else "other")
        scores.append(score)
    return sidecar(batch, DOMAIN, VERSION, {"domain": domains, "domain_score": scores})
