"""Rebuild the model that finds words in scripts without spaces:

    python3 -m venv build/icu && build/icu/bin/pip install PyICU      # needs ICU's headers (libicu-dev)
    python -m annotators.segment_train TRAIN.parquet --output annotators/models/segment.npy

TRAIN.parquet has lines of text and their language labels (columns `text`, `label`). The words are those of ICU's
dictionaries, asked in an environment of its own; `SLUICE_ICU_PYTHON` names another interpreter that has PyICU. One line
in ten is held out; the command prints how well the beginnings of its words are found. The same lines and the same
version of ICU give the same file.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from annotators.segment import BITS, MODEL, Places, features
from annotators.words import Mask, Positions, places_between_letters, unspaced_characters
from schemas.hashing import uniform

LOCALES = {
    "zho_Hans": "zh",
    "zho_Hant": "zh",
    "yue_Hant": "zh",
    "jpn_Jpan": "ja",
    "tha_Thai": "th",
    "lao_Laoo": "lo",
    "khm_Khmr": "km",
    "mya_Mymr": "my",
}
HELD_OUT = 0.1
EPOCHS, BATCH, RATE = 5, 4096, 0.5
SCALE = 16  # weights are stored in sixteenths

_ASK = """\
import icu, json, sys
iterators = {}
for line in sys.stdin:
    locale, text = json.loads(line)
    words = iterators.setdefault(locale, icu.BreakIterator.createWordInstance(icu.Locale(locale)))
    words.setText(text)
    print(json.dumps(list(words)))
"""


def ask_icu(locales: list[str], texts: list[str]) -> list[list[int]]:
    """Where each text's words end, in UTF-16 units."""
    default = Path(__file__).parents[1] / "build" / "icu" / "bin" / "python"
    python = os.environ.get("SLUICE_ICU_PYTHON", str(default))
    questions = "".join(json.dumps(pair) + "\n" for pair in zip(locales, texts))
    done = subprocess.run([python, "-c", _ASK], input=questions, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def examples(lines: list[tuple[str, list[int]]]) -> tuple[tuple[Places, Places, Places], Mask]:
    """Features of all places between two letters, and whether a word begins there."""
    joined = "\n" + "\n".join([*(text for text, _ in lines), ""])
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    begins = np.zeros(len(codes) + 1, dtype=bool)
    begin = 1
    for text, ends in lines:
        begins[begin + np.array(ends, dtype=np.int64)] = True
        begin += len(text) + 1
    characters = unspaced_characters(codes)
    at = places_between_letters(codes)
    return features(characters, at), begins[at]


def train(rows: tuple[Places, Places, Places], begins: Mask) -> npt.NDArray[np.int8]:
    """Tables int8 [3, 2**BITS] by logistic regression (AdaGrad)."""
    draw = np.random.default_rng(0)
    tables = np.zeros((3, 1 << BITS))
    squares = np.full((3, 1 << BITS), 1e-2)
    for batch in _batches(draw, len(begins)):
        score = sum(table[row[batch]] for table, row in zip(tables, rows))
        error = 1 / (1 + np.exp(-score)) - begins[batch]
        for table, square, row in zip(tables, squares, rows):
            gradient = np.bincount(row[batch], error, minlength=1 << BITS)
            square += gradient**2
            table -= RATE * gradient / np.sqrt(square)
    return np.clip(np.round(tables * SCALE), -127, 127).astype(np.int8)


def _batches(draw: np.random.Generator, count: int) -> Iterator[Positions]:
    for _ in range(EPOCHS):
        order = draw.permutation(count)
        for begin in range(0, count, BATCH):
            yield order[begin : begin + BATCH]


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the model that finds words in scripts without spaces.")
    parser.add_argument("train", type=Path)
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args()
    table = pq.read_table(options.train, columns=["text", "label"], filters=[("label", "in", list(LOCALES))])
    texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
    chosen = [row for row, text in enumerate(texts) if max(map(ord, text)) < 0x10000]  # one UTF-16 unit a character
    texts, labels = [texts[row] for row in chosen], [labels[row] for row in chosen]
    ends = ask_icu([LOCALES[label] for label in labels], texts)
    held_out = uniform([text.encode() for text in texts], "segment") < HELD_OUT
    lines = list(zip(texts, ends))
    tables = train(*examples([line for line, held in zip(lines, held_out) if not held]))
    with options.output.open("wb") as file:
        np.save(file, tables)
    print(f"{'':10}{'places':>9}{'precision':>11}{'recall':>8}{'words found / words':>21}")
    for label in LOCALES:
        rows, begins = examples([lines[row] for row in np.flatnonzero(held_out) if labels[row] == label])
        found = sum(table[row].astype(np.int16) for table, row in zip(tables, rows)) > 0
        right = np.count_nonzero(found & begins)
        precision, recall = right / np.count_nonzero(found), right / np.count_nonzero(begins)
        print(f"{label:10}{len(begins):>9}{precision:>11.3f}{recall:>8.3f}{recall / precision:>21.3f}")


if __name__ == "__main__":
    main()
