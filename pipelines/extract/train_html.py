"""Rebuild the network that tells the main text of web pages from their frame:

    python -m pipelines.extract.train_html DATA --output pipelines/extract/models/html.npz

DATA is a folder with three tables of pages: `article_benchmark.parquet` and `readability_pages.parquet` (columns id,
html, text: the main text) and `segment_checks.parquet` (id, html, must_contain, must_not_contain). One thread and a
fixed seed: the same data gives the same weights.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.extract.html import block_features
from pipelines.extract.html_blocks import HtmlPage, read_blocks
from pipelines.extract.html_features import Matrix
from pipelines.extract.html_meta import describe
from pipelines.extract.html_model import CLIP
from pipelines.extract.html_tree import parse_html

TABLES = ("article_benchmark", "readability_pages", "segment_checks")
MODES = ("fast", "careful")
_HIDDEN = 24
_NETWORKS = 2  # whose answers are averaged, before the last step
_EPOCHS = 12
_BATCH = 512
_RATE = 5e-3
_DECAY = 1e-3
_DROP_INPUT, _DROP_HIDDEN = 0.1, 0.2
_SEGMENT_WEIGHT = 1 / 6  # of a page of segments, where a page of text has 1
_WORD = re.compile(r"\w+")


@dataclass
class LabelledPage:
    """A page with the features of its blocks by mode, and of each block how much of it is main text and its weight."""

    row: dict[str, Any]
    page: HtmlPage
    values: dict[str, Matrix]
    kept: np.ndarray
    weight: np.ndarray


def read_tables(folder: Path) -> list[dict[str, Any]]:
    """The rows of all tables; `table` says which one a row is from."""
    return [{**row, "table": name} for name in TABLES for row in pq.read_table(folder / f"{name}.parquet").to_pylist()]


def fold_of(identity: str, folds: int) -> int:
    """A page belongs to the same part in every run, whatever other pages there are."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big") % folds


def _labels_by_text(page: HtmlPage, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The share of each block's word 4-grams (shorter ones where it is shorter) that the main text holds."""
    words = _WORD.findall(text)
    grams = {size: Counter(zip(*(words[step:] for step in range(size)))) for size in (1, 2, 3, 4)}
    kept, weight = [], []
    for block in page.blocks:
        found = _WORD.findall(block.text)
        size = min(4, len(found))
        share = 0.0
        if size:
            own = Counter(zip(*(found[step:] for step in range(size))))
            share = sum((own & grams[size]).values()) / own.total()
            if size == 4:
                grams[4] -= own  # a text that the page repeats is main text as often as the main text has it
        kept.append(share)
        weight.append(len(found) if size == 4 else len(found) / 2)
    return np.array(kept), np.array(weight) / max(1.0, sum(weight))


def _labels_by_segments(page: HtmlPage, wanted: list[str], unwanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
    texts = [" ".join(block.text.split()) for block in page.blocks]
    kept, weight = np.zeros(len(texts)), np.zeros(len(texts))
    for segment in wanted:
        hits = [index for index, text in enumerate(texts) if " ".join(segment.split()) in text]
        for index in hits:
            kept[index], weight[index] = 1.0, 1 / len(hits)
    for segment in unwanted:
        for index, text in enumerate(texts):
            if " ".join(segment.split()) in text and not kept[index]:
                weight[index] = 1.0
    return kept, weight * _SEGMENT_WEIGHT


def label(row: dict[str, Any]) -> LabelledPage:
    root = parse_html(row["html"])
    if root is None:
        raise ValueError(f"{row['id']} has no markup")
    page = read_blocks(root)
    title = describe(root)["title"]
    values = {mode: block_features(root, page, title, mode) for mode in MODES}
    if row["table"] == "segment_checks":
        labels = _labels_by_segments(page, row["must_contain"], row["must_not_contain"])
    else:
        labels = _labels_by_text(page, row["text"])
    return LabelledPage(row, page, values, *labels)


def _train_network(
    inputs: Matrix, targets: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """One hidden layer, weighted cross entropy, AdamW, a rate that rises for a third of the steps and falls to zero."""
    random = np.random.default_rng(seed)
    rows, width = inputs.shape
    bound = 1 / np.sqrt(width)
    parameters = [
        random.uniform(-bound, bound, (width, _HIDDEN)).astype(np.float32),
        np.zeros(_HIDDEN, np.float32),
        random.uniform(-1, 1, _HIDDEN).astype(np.float32) / np.float32(np.sqrt(_HIDDEN)),
        np.zeros(1, np.float32),
    ]
    first_moments = [np.zeros_like(value) for value in parameters]
    second_moments = [np.zeros_like(value) for value in parameters]
    batches = rows // _BATCH
    steps = _EPOCHS * batches
    for step in range(steps):
        if step % batches == 0:
            order = random.permutation(rows)
        chosen = order[step % batches * _BATCH :][:_BATCH]
        first, bias, last, offset = parameters
        seen = inputs[chosen] * (
            (random.random((_BATCH, width), np.float32) > _DROP_INPUT) / np.float32(1 - _DROP_INPUT)
        )
        before = seen @ first + bias
        mask = (random.random((_BATCH, _HIDDEN), np.float32) > _DROP_HIDDEN) / np.float32(1 - _DROP_HIDDEN)
        hidden = np.maximum(before, 0) * mask
        answer = 1 / (1 + np.exp(-(hidden @ last + offset)))
        error = (answer - targets[chosen]) * weights[chosen] / _BATCH
        back = error[:, None] * last * mask * (before > 0)
        gradients = [seen.T @ back, back.sum(0), hidden.T @ error, error.sum(keepdims=True)]
        rise = 0.3 * steps
        rate = _RATE * (step / rise if step < rise else 0.5 + 0.5 * np.cos(np.pi * (step - rise) / (steps - rise)))
        for value, gradient, mean, square in zip(parameters, gradients, first_moments, second_moments):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient * gradient - square)
            unbiased = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            value -= rate * (mean / (1 - 0.9 ** (step + 1)) / unbiased + _DECAY * value)
    return parameters[0], parameters[1], parameters[2], float(parameters[3][0])


def train(pages: Sequence[LabelledPage], mode: str) -> dict[str, np.ndarray]:
    """The arrays that `html_model` reads, for one mode: several networks side by side, as one."""
    values = np.concatenate([page.values[mode] for page in pages])
    targets = np.concatenate([page.kept for page in pages]).astype(np.float32)
    weights = np.concatenate([page.weight for page in pages]).astype(np.float32)
    known = weights > 0
    values, targets, weights = values[known], targets[known], weights[known]
    mean, scale = values.mean(0), values.std(0) + 1e-3
    inputs = np.clip((values - mean) / scale, -CLIP, CLIP).astype(np.float32)
    weights = np.minimum(weights / weights.mean(), 20)
    networks = [_train_network(inputs, targets, weights, seed) for seed in range(_NETWORKS)]
    return {
        f"{mode}_mean": mean.astype(np.float32),
        f"{mode}_scale": scale.astype(np.float32),
        f"{mode}_first": np.concatenate([network[0] for network in networks], axis=1).astype(np.float16),
        f"{mode}_bias": np.concatenate([network[1] for network in networks]).astype(np.float16),
        f"{mode}_last": (np.concatenate([network[2] for network in networks]) / _NETWORKS).astype(np.float16),
        f"{mode}_offset": np.array(sum(network[3] for network in networks) / _NETWORKS, np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the three tables")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    pages = [label(row) for row in read_tables(arguments.data)]
    arrays = {name: array for mode in MODES for name, array in train(pages, mode).items()}
    np.savez(arguments.output, allow_pickle=False, **arrays)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes from {len(pages)} pages")


if __name__ == "__main__":
    main()
