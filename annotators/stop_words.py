"""Stop words: how many of the commonest words of its own language a text has.

Gopher asks an English text for two of eight words, FineWeb-2 any text for two of those that are frequent in its
language. Text without them is no running text of that language but a list, a table of names, or another language.

The words of each language are in `models/stop_words.txt`; annotators.stop_words_train tells how they were chosen. In
scripts without spaces letters stand for words: single ones in Chinese and Japanese, elsewhere pairs, wherever they
begin.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa

from annotators.code import code_rows
from annotators.sidecar import sidecar
from annotators.text import letters_only, sample
from schemas.labels import STOP_WORDS
from schemas.languages import LANGUAGES

VERSION = "1"
NEEDS = ("language",)

WINDOW, WINDOWS = 1000, 3  # what is read of a text, as by the identification of its language
FILE = Path(__file__).parent / "models" / "stop_words.txt"
LETTERS = {"Hans": 1, "Hant": 1, "Jpan": 1, "Thai": 2, "Laoo": 2, "Khmr": 2, "Mymr": 2}
"""How many letters stand for a word in the scripts without spaces (schemas.languages.UNSPACED_SCRIPTS)."""


def annotate(batch: pa.RecordBatch, language: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS), of which `language` is the sidecar of that annotator.

    Rows follow schema STOP_WORDS.
    """
    pairs = zip(language["language"].to_pylist(), code_rows(batch), strict=True)
    labels = [None if code else label for label, code in pairs]
    judged = [label in stop_words() for label in labels]
    texts = [sample(text.as_py(), WINDOW, WINDOWS) if judge else "" for text, judge in zip(batch["text"], judged)]
    return sidecar(batch, STOP_WORDS, VERSION, {"own_stop_words": count(letters_only(texts), labels)})


@cache
def stop_words() -> dict[str, tuple[str, ...]]:
    """The words of each label, commonest first."""
    lines = FILE.read_text("utf-8").splitlines()
    rows = (line.split(" ") for line in lines if not line.startswith("#"))
    return {label: tuple(words) for label, *words in rows}


@cache
def _sets() -> dict[str, frozenset[str]]:
    return {label: frozenset(words) for label, words in stop_words().items()}


def count(lines: Sequence[str], labels: Iterable[str | None]) -> list[int | None]:
    """How many different stop words of its label each line has; None for a label that is none of the 119.

    The lines are in the form of `annotators.text.letters_only`.
    """
    found: list[int | None] = []
    for line, label in zip(lines, labels, strict=True):
        words = _sets().get(label) if label else None
        if label is None or words is None:
            found.append(None)
        elif LANGUAGES[label].script in LETTERS:
            found.append(sum(word in line for word in words))
        else:
            found.append(len(words.intersection(line.split(" "))))
    return found
