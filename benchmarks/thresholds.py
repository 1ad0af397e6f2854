"""What the shipped thresholds would drop of good text: held-out sentences of each language, ten of them a document.

    python -m benchmarks.thresholds

Nothing of this should be dropped, so every share is a mistake. Beside it what English numbers do to all languages: the
bounds of English with the least probability of .3. Only what sentences can tell is judged; see docs/quality.md.
"""

from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa

from annotators.table import annotate
from annotators.thresholds import ENGLISH, SENTENCE_COLUMNS
from pipelines.filter.kernels import decide
from schemas.documents import DOCUMENTS
from schemas.hashing import document_id, text_hash
from schemas.labels import ANNOTATORS
from schemas.recipe import Filter
from schemas.thresholds import Thresholds, shipped_thresholds

DATA = Path(__file__).parents[2] / "shared" / "data" / "languages" / "dev.parquet"
TOGETHER = 10  # sentences
COLUMNS = {*SENTENCE_COLUMNS, "language_score", "own_stop_words"} - {"symbol_word_ratio"}
LABELS = ("language", "quality", "stop_words")
WORST = 12  # languages that are shown


def documents() -> tuple[pa.RecordBatch, list[str]]:
    """The documents and the true language of each."""
    lines = pl.read_parquet(DATA, columns=["text", "label"])
    rows, truth = [], []
    for (label,), part in sorted(lines.group_by("label"), key=lambda pair: pair[0]):
        texts = part["text"].to_list()
        for begin in range(0, len(texts) - TOGETHER + 1, TOGETHER):
            text = "\n".join(texts[begin : begin + TOGETHER])
            row = {
                "document_id": document_id("dev", str(label), str(begin)),
                "text_hash": text_hash(text),
                "text": text,
            }
            rows.append(
                {**row, "source": "dev", "path": str(label), "locator": str(begin), "metadata": [], "pages": []}
            )
            truth.append(str(label))
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS), truth


def english_only(shipped: Thresholds) -> Thresholds:
    bounds = shipped.bounds(ENGLISH) | {"language_score": shipped.default["language_score"]}
    return shipped.model_copy(update={"default": bounds, "scripts": {}, "languages": {}})


def main() -> None:
    batch, truth = documents()
    made = annotate(batch, LABELS)
    labels = {name: pa.table(made[name]).select(ANNOTATORS[name].names) for name in LABELS}
    shipped = shipped_thresholds()
    off = dict.fromkeys(set(shipped.columns) - COLUMNS)
    found = {}
    for name, thresholds in (("shipped", shipped), ("English", english_only(shipped))):
        decisions = decide(labels, Filter(rules=off, code_rules={}), thresholds)
        found[name] = decisions["reasons"].to_pylist()
    of_language = Counter(truth)
    print(f"{len(truth):,} documents of {TOGETHER} sentences in {len(of_language)} languages; dropped, in percent\n")
    print(f"{'reason':28}{'shipped':>10}{'English':>10}")
    reasons = {name: Counter(reason for row in rows for reason in row) for name, rows in found.items()}
    for reason in sorted({reason for counted in reasons.values() for reason in counted}):
        print(f"{reason:28}" + "".join(f"{100 * reasons[name][reason] / len(truth):10.2f}" for name in found))
    print(f"{'any':28}" + "".join(f"{100 * sum(map(bool, rows)) / len(truth):10.2f}" for rows in found.values()))
    print(f"\n{'language':12}{'documents':>10}{'dropped':>10}   for")
    dropped = Counter(label for label, row in zip(truth, found["shipped"]) if row)
    ranked = sorted(dropped, key=lambda label: (-dropped[label] / of_language[label], label))
    for label in ranked[:WORST]:
        why = Counter(reason for one, row in zip(truth, found["shipped"]) if one == label for reason in row)
        told = ", ".join(f"{reason} {number}" for reason, number in why.most_common(3))
        print(f"{label:12}{of_language[label]:10}{100 * dropped[label] / of_language[label]:10.1f}   {told}")


if __name__ == "__main__":
    main()
