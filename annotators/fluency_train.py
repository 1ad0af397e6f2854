"""Rebuild the packaged fluency models from labelled lines:

    python -m annotators.fluency_train DATA --output annotators/models/fluency.npz

DATA is the folder with `languages/train.parquet`: columns text, label, source. A language's model is a logistic
regression on the n-grams of `annotators.fluency`: real lines against damaged copies of them (`annotators.damage`). It
is noise-contrastive estimation (Gutmann and Hyvärinen 2010) with the damage that filters look for as the noise; the
strongest n-grams are kept, fitted once more and rounded to four bits. A tenth of the lines is kept from the fit and
gives the mean and the variance of real text. One thread and fixed seeds: the same data gives the same bytes on the
same machine.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from annotators.damage import damage
from annotators.fluency import CELLS, Grams, Model, grams, pack
from schemas.hashing import uniform

COPIES, MOST_COPIES, ENOUGH = 1, 12, 12_000  # damaged ones of a line; more where a language has fewer than enough
JOINED = 0.15  # share of lines that get the next one of their source behind them: texts are longer than lines
HELD_OUT = 0.1
LINES = 256  # of a step of the fit
KEPT = 28_000  # n-grams of a language at most
LEVELS = 7  # weights are whole numbers up to this
WORD_LISTS = ("gatitos-wordlist",)  # sources whose words are in no order


@dataclass(frozen=True)
class Step:
    """Some lines: n-grams by column of the fit, whether a line is real, its weight, 1 / sqrt(its characters)."""

    grams: sparse.csr_matrix
    real: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]


def train(texts: Sequence[str], sources: Sequence[str], label: str) -> Model:
    """The model of the language `label` from lines and their sources."""
    random = np.random.default_rng(1)
    held_out = uniform((text.encode() for text in texts), "fluency") < HELD_OUT
    source = np.array(sources)
    lines = [text for text, out in zip(texts, held_out) if not out]
    real, weights, origin = _join(lines, source[~held_out], random)
    script = label.partition("_")[2]
    copies: list[str] = []
    each = min(max(COPIES, ENOUGH // len(real)), MOST_COPIES)
    copy_weights: list[float] = []
    for text, weight, name in zip(real, weights, origin):
        for _ in range(each):
            copy = damage(text, script, name not in WORD_LISTS, random)
            # A list of words in another order is a list of words.
            if copy != text:
                copies.append(copy)
                copy_weights.append(weight)
    truth = np.r_[np.ones(len(real), np.float32), np.zeros(len(copies), np.float32)]
    weight = np.r_[np.array(weights) * (len(copies) / len(real)), copy_weights].astype(np.float32)
    order = random.permutation(len(truth))
    everything = [*real, *copies]
    batches = [order[begin : begin + LINES] for begin in range(0, len(order), LINES)]
    found = [grams([everything[row] for row in batch]) for batch in batches]
    columns = _columns(found, [truth[batch] for batch in batches])
    steps = [_step(part, columns, truth[batch], weight[batch]) for part, batch in zip(found, batches)]
    fitted = _fit(steps, np.zeros(int(columns.max()) + 1, np.float32), 3, 0.15, random)

    counts = sum(np.bincount(step.grams.indices, minlength=len(fitted)) for step in steps)
    strength = np.abs(fitted) * np.sqrt(counts)
    strength[0] = np.inf  # column 0 holds the characters
    best = np.sort(np.argsort(-strength, kind="stable")[: KEPT + 1])
    steps = [Step(step.grams[:, best], step.real, step.weight, step.scale) for step in steps]
    fitted = _fit(steps, fitted[best], 2, 0.08, random)
    size = np.quantile(np.abs(fitted[1:]), 0.995) / LEVELS
    rounded = np.clip(np.rint(fitted / size), -LEVELS, LEVELS).astype(np.int8)
    rounded[0] = 0  # kept as it is
    table = np.zeros(int(columns.max()) + 2, np.int8)  # the last one is what column -1 finds
    table[best] = rounded
    reference = [text for text, out in zip(texts, held_out) if out]
    damaged = [damage(text, script, name not in WORD_LISTS, random) for text, name in zip(reference, source[held_out])]
    return _calibrated(table[columns], float(fitted[0] / size), reference, damaged)


def _join(
    lines: list[str], sources: npt.NDArray[np.str_], random: np.random.Generator
) -> tuple[list[str], list[float], list[str]]:
    """Lines, some with the next of their source behind them; the weight of each, and its source.

    A source counts as the square root of its lines, so that the largest does not decide what the language is.
    """
    texts: list[str] = []
    weights: list[float] = []
    origin: list[str] = []
    for name in np.unique(sources).tolist():
        rows = np.flatnonzero(sources == name).tolist()
        for row, following, chance in zip(rows, [*rows[1:], rows[0]], random.random(len(rows))):
            between = "\n" if chance < JOINED / 3 else " "
            texts.append(f"{lines[row]}{between}{lines[following]}" if chance < JOINED else lines[row])
            weights.append(len(rows) ** -0.5)
            origin.append(name)
    mean = sum(weights) / len(weights)
    return texts, [weight / mean for weight in weights], origin


def _columns(found: list[Grams], truth: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.int32]:
    """Cell -> column of the fit, -1 for n-grams that are too rare; column 0 is for the number of characters."""
    counts = np.zeros(2 * CELLS, np.int64)
    for begin in range(0, len(found), 16):  # the counts are too large to be gone through for every step
        kinds = []
        for part, real in zip(found[begin : begin + 16], truth[begin : begin + 16]):
            of_text = np.repeat(real.astype(np.int64) * CELLS, np.diff(part.starts))
            kinds += [cells + of_text[positions] for cells, positions in part.parts()]
        counts += np.bincount(np.concatenate(kinds), minlength=len(counts))
    used = (counts[CELLS:] >= 2) | (counts[:CELLS] >= 4)
    columns = np.full(CELLS + 1, -1, np.int32)
    columns[:CELLS][used] = np.arange(1, int(used.sum()) + 1)
    return columns


def _step(
    found: Grams, columns: npt.NDArray[np.int32], real: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> Step:
    parts = list(found.parts())
    places = np.concatenate([columns[cells] for cells, _ in parts])
    positions = np.concatenate([positions for _, positions in parts])
    texts = len(found.starts) - 1
    of_text = np.repeat(np.arange(texts), np.diff(found.starts))
    known = places >= 0
    lengths = found.lengths
    rows = np.r_[np.arange(texts), of_text[positions[known]]].astype(np.uint16)  # so short that they sort in one pass
    order = np.argsort(rows, kind="stable")
    begins = np.r_[0, np.cumsum(np.bincount(rows, minlength=texts))]
    values = np.r_[lengths, np.ones(int(known.sum()))].astype(np.float32)[order]
    indices = np.r_[np.zeros(texts, np.int32), places[known]][order]
    matrix = sparse.csr_matrix((values, indices, begins), (texts, int(columns.max()) + 1))
    return Step(matrix, real, weight, (1 / np.sqrt(np.maximum(lengths, 1))).astype(np.float32))


def _fit(
    steps: list[Step], weights: npt.NDArray[np.float32], epochs: int, rate: float, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Logistic regression with AdaGrad (Duchi et al. 2011); the last epoch takes smaller steps.

    The log-odds of a line are the sum of its weights over the square root of its characters: evidence adds up, but
    neighbouring n-grams are not independent.
    """
    weights = weights.copy()
    squares = np.full(len(weights), 1e-2, np.float32)
    bias, bias_square = np.float32(0), np.float32(1e-2)
    for epoch in range(epochs):
        step_size = np.float32(rate * (0.3 if epoch == epochs - 1 else 1))
        for number in random.permutation(len(steps)):
            step = steps[number]
            odds = (step.grams @ weights) * step.scale + bias
            error = (1 / (1 + np.exp(-np.clip(odds, -30, 30))) - step.real) * step.weight
            slope = step.grams.T @ (error * step.scale)
            squares += slope * slope
            weights -= step_size * slope / np.sqrt(squares)
            bias_slope = error.sum()
            bias_square += bias_slope * bias_slope
            bias -= step_size * bias_slope / np.sqrt(bias_square)
    return weights


def _calibrated(weights: npt.NDArray[np.int8], base: float, real: list[str], damaged: list[str]) -> Model:
    """The model with the distribution of the mean weight of real text, and what odds a sum of weights stands for."""
    model = Model(weights, base, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
    found, changed = grams(real), grams([copy for copy, text in zip(damaged, real) if copy != text])
    size = found.lengths
    sums = model.evidence(found)
    design = np.stack((np.ones(len(size)), 1 / size), axis=1)
    mean, edge = np.linalg.lstsq(design, sums / size, rcond=None)[0]
    squares = (sums / size - design @ (mean, edge)) ** 2
    # Three standard deviations at most: a line in another language says nothing about the spread of this one.
    variance, noise = _spread(np.minimum(squares, 9 * np.median(squares * size) / 0.455 / size), size)
    evidence = np.r_[sums / np.sqrt(size), model.evidence(changed) / np.sqrt(np.maximum(changed.lengths, 1))]
    offset, slope = _odds(evidence, np.arange(len(evidence)) < len(sums))
    return Model(weights, base, float(mean), float(edge), variance, noise, offset, slope)


def _spread(squares: npt.NDArray[np.float64], size: npt.NDArray[np.intp]) -> tuple[float, float]:
    """variance and noise, neither negative, with variance + noise / size near `squares`; long and short count alike."""
    from scipy.optimize import nnls

    level = float(np.mean(squares * size))  # as if all were noise
    (variance, noise), _ = nnls(np.stack((size, np.ones(len(size))), axis=1) / level, squares * size / level)
    # Texts of one language differ beyond chance even where a few lines do not show it.
    return float(max(variance, 0.0005 * level)), float(max(noise, 0.1 * level))


def _odds(evidence: npt.NDArray[np.float64], real: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Offset and slope of the log-odds of being real, both kinds counting half (Platt 1999)."""
    scale = float(np.std(evidence))
    design = np.stack((np.ones(len(evidence)), evidence / scale), axis=1)
    weight = np.where(real, 0.5 / real.sum(), 0.5 / (~real).sum())
    solution = np.zeros(2)
    for _ in range(30):  # Newton's method; the small ridge keeps a clean separation finite
        chance = 1 / (1 + np.exp(-np.clip(design @ solution, -30, 30)))
        slope = design.T @ (weight * (real - chance)) - 1e-3 * solution
        curve = (design * (weight * chance * (1 - chance))[:, None]).T @ design + 1e-3 * np.eye(2)
        solution += np.linalg.solve(curve, slope)
    return float(solution[0]), float(solution[1] / scale)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m annotators.fluency_train", description=__doc__.partition(":")[0])
    parser.add_argument("data", type=Path, help="folder with languages/train.parquet")
    parser.add_argument("--output", type=Path, required=True, help="e.g. annotators/models/fluency.npz")
    arguments = parser.parse_args()
    started = time.process_time()
    table = pq.read_table(arguments.data / "languages" / "train.parquet", columns=["text", "label", "source"])
    models = []
    for label in sorted(set(table["label"].to_pylist())):
        lines = table.filter(pc.equal(table["label"], label))
        models.append(pack(label, train(lines["text"].to_pylist(), lines["source"].to_pylist(), label)))
        print(f"{label}  {lines.num_rows} lines  {time.process_time() - started:.0f} s", flush=True)
    arrays: dict[str, Any] = reduce(lambda left, right: left | right, models)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, **arrays)
    figures = {"megabytes": arguments.output.stat().st_size / 1e6, "seconds": time.process_time() - started}
    print(json.dumps({key: round(value, 2) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
