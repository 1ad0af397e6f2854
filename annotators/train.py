"""Rebuild the packaged fastText models from labelled text:

    python -m annotators.train domain DATA --output annotators/models/domain.ftz

DATA is the folder of the labelled tables: `domains/`, `educational/`, `safety/` and `web/` lie in it.
The command trains, shrinks the model (product quantisation of the strongest features), and prints how it does
on text that was held out by document. One thread and a fixed seed: the same data gives the same model on the
same machine.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from annotators.classifier import PREFIX, distributions, predict
from annotators.educational import TIERS
from annotators.safety import CATEGORIES, SAFE
from annotators.text import tokens
from schemas.hashing import uniform

HELD_OUT = 0.2  # share of documents
MANUALS = ("Debian package manpages", "npm package npm 10.9.2")  # sources of software manuals

DOMAIN_OF_FIELD = {
    "advertising and spam": "advertising-spam",
    "biology and medicine": "biology-medicine",
    "computer science and code": "computer-science",
    "engineering": "engineering",
    "entertainment and arts": "entertainment-arts",
    "finance and business": "finance-business",
    "history and geography": "history-geography",
    "law and government": "law-government",
    "literature and books": "literature",
    "mathematics": "mathematics",
    "news and politics": "news-politics",
    "religion and philosophy": "religion-philosophy",
    "social life and how-to": "how-to",
    "sports": "sports",
}


@dataclass(frozen=True)
class Examples:
    """Labelled text; `held_out` marks the rows that are not trained on, whole documents at a time."""

    texts: list[str]
    labels: list[str]
    sources: list[str]
    languages: list[str]
    held_out: npt.NDArray[np.bool_]

    def part(self, mask: npt.NDArray[np.bool_]) -> "Examples":
        rows = np.flatnonzero(mask)

        def pick(values: list[str]) -> list[str]:
            return [values[row] for row in rows]

        return Examples(
            pick(self.texts), pick(self.labels), pick(self.sources), pick(self.languages), self.held_out[rows]
        )


@dataclass(frozen=True)
class Recipe:
    """How one model is made: what it reads, in which form, fastText's settings, and how it is judged."""

    read: Callable[[Path], Examples]
    form: Callable[[list[str]], list[str]]
    train: dict[str, Any]
    quantize: dict[str, Any]
    judge: Callable[[Any, Examples, list[str]], dict[str, float]]


def domain_examples(data: Path) -> Examples:
    """Passages with a field, and manuals of software in five languages.

    Files of source code are left out, because a rule decides them. Without the manuals, German would mean law and
    Japanese sports: outside English the passages cover few fields.
    """
    rows = [
        row for row in _rows(data / "domains" / "domain_passages.parquet") if row["label_from"] != "source code file"
    ]
    # A book given as one document has no name here: its passages lie on both sides, or its field has no figure.
    groups = [f"{row['source']} {row['doc'] or row['id']}" for row in rows]
    labels = [DOMAIN_OF_FIELD[row["domain"]] for row in rows]
    with pa.input_stream(data / "web" / "web_corpus.jsonl.zst", compression="zstd") as stream:
        for line in stream.read().splitlines():
            row = json.loads(line)
            if row["source"].startswith(MANUALS):
                rows.append({**row, "text": row["text"][:3000]})
                labels.append("computer-science")
                groups.append(row["group"] or row["id"])
    return _examples(rows, labels, groups)


def educational_examples(data: Path) -> Examples:
    """Passages with a tier; navigation text whose rights lie with the sites' publishers is left out."""
    rows = [
        row
        for row in _rows(data / "educational" / "tiers_by_source.parquet")
        if "belongs to its publisher" not in row["licence"]
    ]
    document = {row["id"]: row["doc"] for row in _rows(data / "domains" / "domain_passages.parquet")}
    groups = []
    for row in rows:
        kind, _, rest = row["id"].partition("-")
        name = document.get(rest) if kind == "d" else rest.rpartition("-")[0] if kind == "ox" else None
        groups.append(f"{row['source']} {name or row['id']}")
    return _examples(rows, [str(row["tier"]) for row in rows], groups)


def safety_examples(data: Path) -> Examples:
    """Texts with a kind of harm or `safe`; passages of books, manuals and encyclopaedias are added as safe."""
    rows = _rows(data / "safety" / "safety_labels.parquet")
    labels = [_harm(row["category"]) if row["unsafe"] else SAFE for row in rows]
    groups = [row["id"] for row in rows]
    for row in _rows(data / "domains" / "domain_passages.parquet"):
        if row["domain"] != "advertising and spam":
            rows.append({**row, "text": row["text"][:500]})
            labels.append(SAFE)
            groups.append(f"{row['source']} {row['doc'] or row['id']}")
    return _examples(rows, labels, groups)


def _harm(category: str) -> str:
    """One of CATEGORIES for the category that a source gave to an unsafe text."""
    if category == "spam":
        return "spam"
    if category.startswith("contrast_"):  # requests for help with doing harm
        return "harm"
    if category in ("INSULT", "PROFANITY") or category.startswith("offensive"):
        return "offensive"
    return "hate"  # hate:*, ABUSE of groups, and the numbered kinds of sexism


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table whose licence lets a model made from them be passed on."""
    return [row for row in pq.read_table(path).to_pylist() if "-NC" not in row["licence"]]


def _examples(rows: list[dict[str, Any]], labels: list[str], groups: list[str]) -> Examples:
    return Examples(
        [row["text"] for row in rows],
        labels,
        [row["source"] for row in rows],
        [row.get("language", "") for row in rows],
        uniform((group.encode() for group in groups), "held out") < HELD_OUT,
    )


def judge_classes(model: Any, examples: Examples, lines: list[str]) -> dict[str, float]:
    """Accuracy, macro-F1, and F1 of each class, on lines of which the likeliest class counts."""
    found = [answer[0][0] if answer else "" for answer in predict(model, lines, 1)]
    return class_figures(examples.labels, found)


def class_figures(expected: list[str], found: list[str]) -> dict[str, float]:
    """Accuracy, macro-F1 and the F1 of every label that is expected somewhere."""
    truth, guess = np.array(expected), np.array(found)
    figures = {"accuracy": float(np.mean(truth == guess))}
    by_class = {}
    for label in sorted(set(expected)):
        hits = np.sum((truth == label) & (guess == label))
        by_class[label] = float(2 * hits / (np.sum(truth == label) + np.sum(guess == label)))
    figures["macro_f1"] = float(np.mean(list(by_class.values())))
    return figures | {f"f1 {label}": value for label, value in by_class.items()}


def judge_educational(model: Any, examples: Examples, lines: list[str]) -> dict[str, float]:
    """Area under the ROC curve of tiers 3 to 5 against 0 to 2, and the rank correlation with the tier."""
    from scipy.stats import spearmanr

    tier = np.array([int(label) for label in examples.labels])
    score = distributions(model, lines, list(TIERS)) @ np.arange(len(TIERS))
    long = np.array([len(text) > 200 for text in examples.texts])
    return {
        "auc": area_under_curve(tier >= 3, score),
        "auc over 200 characters": area_under_curve(tier[long] >= 3, score[long]),
        "spearman": float(spearmanr(tier, score)[0]),
        "spearman over 200 characters": float(spearmanr(tier[long], score[long])[0]),
    }


def judge_safety(model: Any, examples: Examples, lines: list[str]) -> dict[str, float]:
    """Area under the ROC curve of unsafe against safe, whole and for each source that has both."""
    score = 1 - distributions(model, lines, [*CATEGORIES, SAFE])[:, -1]
    truth = np.array([label != SAFE for label in examples.labels])
    source = np.array(examples.sources)
    figures = {"auc": area_under_curve(truth, score)}
    for name in sorted(set(examples.sources)):
        mask = source == name
        if truth[mask].any() and not truth[mask].all():
            figures[f"auc {name}"] = area_under_curve(truth[mask], score[mask])
        else:
            figures[f"share called unsafe {name}"] = float(np.mean(score[mask] >= 0.5))
    return figures


def area_under_curve(truth: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """Probability that a true item scores above a false one, ties half (Mann-Whitney)."""
    from scipy.stats import rankdata

    positives = int(np.sum(truth))
    ranks = rankdata(score)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


# Words and pairs of words; parts of words dilute the average that fastText takes, and did worse on all three.
_TOPIC = {"dim": 16, "epoch": 20, "lr": 0.5, "wordNgrams": 2, "minn": 0, "maxn": 0, "bucket": 200_000, "minCount": 2}
_SMALL = {"qnorm": True, "dsub": 2, "cutoff": 60_000, "retrain": True, "epoch": 10}

RECIPES = {
    "domain": Recipe(domain_examples, tokens, _TOPIC, _SMALL, judge_classes),
    "educational": Recipe(educational_examples, tokens, _TOPIC, _SMALL, judge_educational),
    "safety": Recipe(safety_examples, tokens, _TOPIC, _SMALL, judge_safety),
}


def train(name: str, data: Path, output: Path) -> dict[str, float]:
    """Train the model `name`, write it to `output`, and return its figures on the held-out text."""
    import fasttext

    recipe = RECIPES[name]
    examples = recipe.read(data)
    lines = recipe.form(examples.texts)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "train.txt"
        with corpus.open("w", encoding="utf-8") as file:
            for label, line, held_out in zip(examples.labels, lines, examples.held_out):
                if line and not held_out:
                    file.write(f"{PREFIX}{label} {line}\n")
        model = fasttext.train_supervised(
            str(corpus), loss="softmax", thread=1, seed=1, verbose=0, minCountLabel=1, **recipe.train
        )
        model.quantize(str(corpus), thread=1, verbose=0, **recipe.quantize)
    output.parent.mkdir(parents=True, exist_ok=True)
    model.save_model(str(output))
    kept = [line for line, held_out in zip(lines, examples.held_out) if held_out]
    return recipe.judge(model, examples.part(examples.held_out), kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m annotators.train", description="Rebuild a packaged model.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("data", type=Path, help="folder with domains/, educational/, safety/ and web/")
    parser.add_argument("--output", type=Path, required=True, help="e.g. annotators/models/domain.ftz")
    arguments = parser.parse_args()
    started = time.perf_counter()
    figures = train(arguments.name, arguments.data, arguments.output)
    figures |= {"megabytes": arguments.output.stat().st_size / 1e6, "seconds": time.perf_counter() - started}
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
