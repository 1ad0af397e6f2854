"""The main text of web pages: quality and speed of both modes beside the bare libraries, on the same pages in one run.

    python -m benchmarks.html [--data FOLDER] [--folds N]

Metrics, each over the plain text (Markdown marks are taken off first):

- article_benchmark and readability_pages: tokens are `\\w+`, case kept; a page's precision and recall are those of the
  multiset of its word 4-grams (a shorter text is one gram). F1 is that of the mean precision and the mean recall over
  the pages, as in the article-extraction-benchmark; pages without any prediction count for recall alone. "by page" is
  the mean of the pages' own F1 instead.
- segment_checks: with white space collapsed on both sides, a string that must be there is a true positive if it is a
  substring and a false negative if not; a string that must not be there is a false positive if it is one. Micro F1.
- mean: of the three.

Speed: documents per second of this process's CPU time. Every page goes through all extractors before the next page, so
a busy machine slows all of them alike; sluice's time includes the character encoding, the metadata and the Markdown.

The shipped weights were trained on these pages. What counts is therefore the rows "left out": N times, a network is
trained without one part of the pages and judged on that part alone.
"""

import argparse
import logging
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipelines.extract.html import read_html
from pipelines.extract.html_markdown import to_markdown
from pipelines.extract.html_model import choose, probabilities
from pipelines.extract.train_html import MODES, TABLES, fold_of, label, read_tables, train

SHARED = Path(__file__).parents[2] / "shared" / "data" / "html"
_WORD = re.compile(r"\w+")
_MARKS = re.compile(r"^(?:\s*>)*\s*(?:#{1,6} |- |\d+\. |```+[\w+#.-]*$|\|(?: --- \|)+$)", re.M)

Counts = tuple[int, int, int]  # true positives, false positives, false negatives


def plain(markdown: str) -> str:
    """Markdown without the marks of headings, lists, quotes, tables and code."""
    text = _MARKS.sub("", markdown)
    return re.sub(r"^\s*>+ ?|`|(?<!\\)\|", " ", text, flags=re.M).replace("\\|", "|")


def gram_counts(truth: str, text: str) -> Counts:
    def grams(text: str) -> Counter[tuple[str, ...]]:
        words = _WORD.findall(text)
        return Counter(tuple(words[begin : begin + 4]) for begin in range(max(1, len(words) - 3)) if words)

    wanted, found = grams(truth), grams(text)
    same = (wanted & found).total()
    return same, found.total() - same, wanted.total() - same


def segment_counts(wanted: Sequence[str], unwanted: Sequence[str], text: str) -> Counts:
    text = " ".join(text.split())
    right = sum(" ".join(segment.split()) in text for segment in wanted)
    return right, sum(" ".join(segment.split()) in text for segment in unwanted), len(wanted) - right


def f1(counts: Counts) -> float:
    right, extra, missing = counts
    return 2 * right / (2 * right + extra + missing) if any(counts) else 1.0


def f1_of_means(pages: Sequence[Counts]) -> float:
    precision = statistics.fmean(right / (right + extra) for right, extra, _ in pages if right + extra)
    recall = statistics.fmean(right / (right + missing) for right, _, missing in pages if right + missing)
    return 2 * precision * recall / (precision + recall)


def figures(rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> dict[str, float]:
    """F1 by table, `mean` of the three, and `by page`: the mean with the pages' own F1."""
    counts: dict[str, list[Counts]] = {table: [] for table in TABLES}
    for row, text in zip(rows, texts, strict=True):
        if row["table"] == "segment_checks":
            counts[row["table"]].append(segment_counts(row["must_contain"], row["must_not_contain"], text))
        else:
            counts[row["table"]].append(gram_counts(row["text"], text))
    articles, reader, segments = (counts[table] for table in TABLES)
    right, extra, missing = map(sum, zip(*segments))
    micro = f1((right, extra, missing))
    values = [f1_of_means(articles), f1_of_means(reader), micro]
    by_page = [statistics.fmean(map(f1, articles)), statistics.fmean(map(f1, reader)), micro]
    return dict(zip(TABLES, values)) | {"mean": statistics.fmean(values), "by page": statistics.fmean(by_page)}


def left_out(rows: Sequence[dict[str, Any]], folds: int) -> dict[str, list[str]]:
    """For each mode the texts of all pages, each by a network that has not seen it."""
    pages = [label(row) for row in rows]
    texts: dict[str, list[str]] = {mode: [""] * len(rows) for mode in MODES}
    for mode in MODES:
        for fold in range(folds):
            weights = train([page for page in pages if fold_of(page.row["id"], folds) != fold], mode)
            for index, page in enumerate(pages):
                if fold_of(page.row["id"], folds) == fold and page.page.blocks:
                    likely = probabilities(page.values[mode], mode, weights)
                    texts[mode][index] = plain(to_markdown(choose(page.page, likely)))
    return texts


def extractors() -> dict[str, Callable[[str, bytes], str | None]]:
    import trafilatura  # a peer alone; the metrics above need no more than sluice itself

    return {
        "trafilatura, default": lambda page, data: trafilatura.extract(page),
        "trafilatura, fast, no comments": lambda page, data: trafilatura.extract(
            page, fast=True, include_comments=False
        ),
        "resiliparse, no comments": lambda page, data: extract_plain_text(
            HTMLTree.parse(page), preserve_formatting=True, main_content=True, alt_texts=False, comments=False
        ),
        "sluice, fast": lambda page, data: read_html(data, "fast")["text"],
        "sluice, careful": lambda page, data: read_html(data, "careful")["text"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the three tables")
    parser.add_argument("--folds", type=int, default=5, help="parts of the cross-validation; 0 leaves it out")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # trafilatura reports every page that gives it nothing
    rows = read_tables(arguments.data)
    peers = extractors()
    for extract in peers.values():
        extract(rows[0]["html"], rows[0]["html"].encode())  # imports, weights, caches
    seconds = dict.fromkeys(peers, 0.0)
    texts: dict[str, list[str]] = {name: [] for name in peers}
    for row in rows:
        page, data = row["html"], row["html"].encode(errors="replace")
        for name, extract in peers.items():
            begin = time.process_time()
            text = extract(page, data) or ""
            seconds[name] += time.process_time() - begin
            texts[name].append(plain(text) if name.startswith("sluice") else text)
    slowest = seconds["trafilatura, default"]
    columns = (*TABLES, "mean", "by page")
    print(
        f"{len(rows)} pages\n{'':34}" + "".join(f"{name:>19}" for name in columns) + f"{'pages/CPU s':>13}{'ratio':>8}"
    )
    for name, found in texts.items():
        line = "".join(f"{value:>19.4f}" for value in figures(rows, found).values())
        print(f"{name:34}{line}{len(rows) / seconds[name]:>13.1f}{slowest / seconds[name]:>8.2f}")
    if arguments.folds:
        for mode, found in left_out(rows, arguments.folds).items():
            line = "".join(f"{value:>19.4f}" for value in figures(rows, found).values())
            print(f"{f'sluice, {mode}, pages left out':34}{line}")


if __name__ == "__main__":
    main()
