"""datatrove's Gopher quality, Gopher repetition, FineWeb and C4 filters; runs in an environment of its own:

    python3 -m venv build/datatrove
    build/datatrove/bin/pip install "datatrove[processing,multilingual]==0.10.1"   # 9 GB
    build/datatrove/bin/python benchmarks/_datatrove.py decide TEXTS ANSWERS

`decide`: TEXTS has one JSON string a line; ANSWERS gets one JSON object a line: `drop` (what drops the document when
the three filters follow one another as in a pipeline, or null), `reasons` (every rule that fires when it is the only
one), `c4` (what C4's filter drops it for, or null), and at the end the CPU seconds of the pipeline.
`words`: TEXTS has one JSON pair of language code and text a line, ANSWERS gets the list of its words, and at the end
the CPU seconds.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_parts, split_into_words

_QUALITY = {
    "min_doc_words": 50,
    "max_doc_words": 100_000,
    "min_avg_word_length": 3,
    "max_avg_word_length": 10,
    "max_symbol_word_ratio": 0.1,
    "max_bullet_lines_ratio": 0.9,
    "max_ellipsis_lines_ratio": 0.3,
    "max_non_alpha_words_ratio": 0.8,
    "min_stop_words": 2,
}
_REPETITION = {
    "dup_line_frac": 0.3,
    "dup_para_frac": 0.3,
    "dup_line_char_frac": 0.2,
    "dup_para_char_frac": 0.2,
    "top_n_grams": ((2, 0.2), (3, 0.18), (4, 0.16)),
    "dup_n_grams": ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)),
}
_FINEWEB = {"line_punct_thr": 0.12, "short_line_thr": 0.67, "char_duplicates_ratio": 0.01, "new_line_ratio": 0.3}


def alone():
    """Every rule as a filter of its own."""
    for name, value in _QUALITY.items():
        yield GopherQualityFilter(**(dict.fromkeys(_QUALITY) | {name: value}))
    off = dict.fromkeys(_REPETITION) | {"top_n_grams": (), "dup_n_grams": ()}
    for name, value in _REPETITION.items():
        for part in value if isinstance(value, tuple) else [None]:
            yield GopherRepetitionFilter(**(off | {name: (part,) if part else value}))
    never = {"line_punct_thr": -1, "short_line_thr": 2, "char_duplicates_ratio": 2, "new_line_ratio": 1e9}
    for name, value in _FINEWEB.items():
        yield FineWebQualityFilter(**(never | {name: value}))


def answer(rule, text):
    """Reason for which `rule` drops the text, or None."""
    try:
        kept = rule.filter(Document(text=text, id=""))
    except ZeroDivisionError:
        return "empty"
    return kept[1] if isinstance(kept, tuple) else None


def words(pairs, file):
    for language in {language for language, _ in pairs}:
        split_into_words("x", language)  # loads the tokenizer
    begin = time.process_time()
    for language, text in pairs:
        file.write(json.dumps(split_into_words(text, language)) + "\n")
    file.write(f"{time.process_time() - begin}\n")


def decide(documents, file):
    pipeline = [GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()]
    rules = list(alone())
    c4 = C4QualityFilter()
    for rule in (*pipeline, *rules, c4):
        answer(rule, "It is a text of one line, which loads the tokenizer.")
    seconds = 0.0
    for text in documents:
        split_into_parts.cache_clear()
        begin = time.process_time()
        drop = next(filter(None, (answer(rule, text) for rule in pipeline)), None)
        seconds += time.process_time() - begin
        reasons = sorted({reason for rule in rules if (reason := answer(rule, text))})
        file.write(json.dumps({"drop": drop, "reasons": reasons, "c4": answer(c4, text)}) + "\n")
    file.write(f"{seconds}\n")


def main(task, texts, answers):
    with Path(texts).open(encoding="utf-8") as file:
        questions = [json.loads(line) for line in file]
    with Path(answers).open("w", encoding="utf-8") as file:
        {"decide": decide, "words": words}[task](questions, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
