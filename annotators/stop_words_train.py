"""Chooses the stop words of each language from labelled lines:

    python -m annotators.stop_words_train TRAIN.parquet > annotators/models/stop_words.txt

They are its commonest words, as many as make up COVERAGE of it: so two of them are as much to ask of a language with
many endings as of English. What counts is the median share over the sources of the lines, which leaves out what is
common in one alone, such as `page` in interface messages.
"""

import sys
from collections.abc import Sequence

import numpy as np
import polars as pl
import regex

from annotators.stop_words import LETTERS
from annotators.text import letters_only
from schemas.languages import LANGUAGES, UNSPACED_SCRIPTS

COVERAGE = 0.15  # of the words of a text; Gopher's eight make up about as much of English
LEAST, MOST = 8, 100  # stop words of a language
LEAST_LINES = 100  # of a source, to be asked

_SCRIPTS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
_LETTER = rf"[{_SCRIPTS}]\p{{M}}*"


def choose(texts: Sequence[str], label: str, sources: Sequence[str]) -> list[str]:
    """The stop words of a language from lines of text and the source of each, commonest first; ties by spelling."""
    letters = LETTERS.get(LANGUAGES[label].script)
    lines = pl.DataFrame({"source": sources, "line": letters_only(list(texts))})
    large = [part for part in lines.partition_by("source") if part.height >= LEAST_LINES] or [lines]
    counted = []
    for part in large:
        words = part["line"].str.split(" ").explode() if letters is None else _letters(part["line"], letters)
        named = words.rename("word").value_counts(name="count").filter(pl.col("word") != "")
        counted.append(named.select("word", share=pl.col("count") / len(words)))
    shares = pl.concat(counted).group_by("word").agg("share")
    in_half = shares.filter(pl.col("share").list.len() * 2 >= len(large))  # the median of all others is 0
    medians = [float(np.median([*found, *[0.0] * (len(large) - len(found))])) for found in in_half["share"]]
    ranked = sorted(zip(medians, in_half["word"]), key=lambda pair: (-pair[0], pair[1]))
    enough = int(np.searchsorted(np.cumsum([share for share, _ in ranked]), COVERAGE)) + 1
    return [word for _, word in ranked[: min(MOST, max(LEAST, enough))]]


def _letters(lines: pl.Series, count: int) -> pl.Series:
    """All runs of `count` letters of a script without spaces, each letter with its marks."""
    found = (
        "".join(letters[begin : begin + count])
        for line in lines
        for run in line.split(" ")
        for letters in [regex.findall(_LETTER, run)]
        for begin in range(len(letters) - count + 1)
    )
    return pl.Series("word", list(found), pl.String)


def _rebuild(path: str) -> None:
    table = pl.read_parquet(path, columns=["text", "label", "source"])
    print("# The commonest words of each language, made by annotators.stop_words_train from the lines that language.md")
    print("# names; annotators.stop_words counts them.")
    for label in sorted(LANGUAGES):
        part = table.filter(pl.col("label") == label)
        print(label, *choose(part["text"].to_list(), label, part["source"].to_list()))


if __name__ == "__main__":
    _rebuild(sys.argv[1])
