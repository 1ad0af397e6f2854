"""Quality statistics beside datatrove's filters: speed, how often both decide alike with the same thresholds, and
how words of scripts without spaces are found.

    python -m benchmarks.quality [--documents 500] [--examples 0] [--as-found]

datatrove runs in an environment of its own: see benchmarks/_datatrove.py; `SLUICE_DATATROVE_PYTHON` names another
interpreter that has it. ICU is asked as in annotators/segment_train.py.

Decisions: the English sample is ../shared/data (web pages, mail, manuals, articles; pages of HTML with all their menus)
and the descriptions of the installed Python packages. As many others are damaged on purpose:
lines and sentences that repeat, menus, symbols, numbers, lists, missing punctuation and spaces, in random doses, so
that many end up near a threshold. Space at the ends of lines is taken off first, as text extractors do; `--as-found`
leaves it. Speed is measured on documents of 2,000 to 4,500 characters; datatrove's filters follow one another, so that
a document that one drops costs no more.

Why decisions differ
- datatrove asks for a sentence mark at the very end of a line: a line that ends with a space has none (`--as-found`).
- spaCy has lists of abbreviations (Mr., Inc., vs.), of faces (`:)`, hence `):`), of units, and of words that it splits
  or keeps whole (can|not, and/or); a bullet that touches a word stays part of it. This moves the share of tokens with a
  letter by .001 to .01 where it matters at all.
- Gopher's lines are all lines to datatrove, here those that are not blank: bullets and ellipses between blank lines.
  Bullets are `•` and `-` to it; stop words must be in small letters.
- An n-gram that occurs once is the commonest of a text in which none occurs twice: only in texts of some 25 words.
- The share of repeated lines is one of the text with its line feeds here; FineWeb's is one without.

Words: documents of eight held-back lines of ../shared/data/languages with phrases that occur again at random places.
"""

import argparse
import importlib.metadata
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import regex
from resiliparse.extract.html2text import extract_plain_text

from annotators.quality import annotate
from annotators.segment_train import LOCALES, ask_icu
from annotators.words import SPACE, kinds_of_characters, runs, tokens
from benchmarks._measure import peer_python
from benchmarks.annotate import batch_of_texts
from schemas.recipe import Range

SHARED = Path(__file__).parents[2] / "shared" / "data"
PEER = Path(__file__).with_name("_datatrove.py")

RULES: dict[str, tuple[str, Range]] = {
    "gopher_short_doc": ("words", Range(min=50)),
    "gopher_long_doc": ("words", Range(max=100_000)),
    "gopher_below_avg_threshold": ("mean_word_length", Range(min=3)),
    "gopher_above_avg_threshold": ("mean_word_length", Range(max=10)),
    "gopher_too_many_hashes": ("symbol_word_ratio", Range(max=0.1)),
    "gopher_too_many_bullets": ("bullet_line_ratio", Range(max=0.9)),
    "gopher_too_many_end_ellipsis": ("ellipsis_line_ratio", Range(max=0.3)),
    "gopher_below_alpha_threshold": ("alpha_word_ratio", Range(min=0.8)),
    "gopher_enough_stop_words": ("stop_words", Range(min=2)),
    "dup_line_frac": ("duplicate_line_ratio", Range(max=0.3)),
    "dup_para_frac": ("duplicate_paragraph_ratio", Range(max=0.3)),
    "dup_line_char_frac": ("duplicate_line_character_ratio", Range(max=0.2)),
    "dup_para_char_frac": ("duplicate_paragraph_character_ratio", Range(max=0.2)),
    **{f"top_{n}_gram": (f"top_{n}gram_ratio", Range(max=limit)) for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))},
    **{f"duplicated_{n}_n_grams": (f"duplicate_{n}gram_ratio", Range(max=(20 - n) / 100)) for n in range(5, 11)},
    "line_punct_ratio": ("punctuated_line_ratio", Range(min=0.12)),
    "short_line_ratio": ("short_line_ratio", Range(max=0.67)),
    "char_dup_ratio": ("duplicate_line_character_ratio", Range(max=0.01)),
    "list_ratio": ("newline_word_ratio", Range(max=0.3)),
}
"""datatrove's reason -> our column and the same bound. Its two symbol reasons are one column here."""

SAME = {"gopher_too_many_ellipsis": "gopher_too_many_hashes"}
FILTERS = {
    "Gopher quality": [reason for reason in RULES if reason.startswith("gopher")],
    "Gopher repetition": [reason for reason in RULES if reason.startswith(("dup", "top"))],
    "FineWeb": ["line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio"],
}
C4 = {"sentences": Range(min=5), "lorem_ipsum": Range(max=0), "curly_brackets": Range(max=0)}


def english() -> list[str]:
    """Documents as they are, each once."""
    texts: list[str] = []
    if SHARED.is_dir():
        with pa.input_stream(SHARED / "web" / "web_corpus.jsonl.zst", compression="zstd") as stream:
            rows = [json.loads(line) for line in stream.read().splitlines()]
        texts += [row["text"] for row in rows if row["language"] == "en"]
        tables = ("domains/domain_passages", "educational/onestop_english", "educational/tiers_by_source")
        for name in (*tables, "long/long_documents"):
            table = pl.read_parquet(SHARED / f"{name}.parquet")
            if "language" in table.columns:
                table = table.filter(pl.col("language") == "en")
            texts += table["text"].str.slice(0, 50_000).to_list()
        for name in ("article_benchmark", "readability_pages", "segment_checks"):
            table = pl.read_parquet(SHARED / "html" / f"{name}.parquet")
            texts += table["text"].to_list() if "text" in table.columns else []
            texts += [extract_plain_text(page) for page in table["html"]]
    for package in sorted(importlib.metadata.distributions(), key=lambda found: found.name):
        texts.append((package.read_text("METADATA") or "").partition("\n\n")[2])  # the description
    return [text for text in dict.fromkeys(texts) if text and text.strip()]


def damaged(text: str, draw: np.random.Generator) -> str:
    """The text with one or two kinds of damage in a random dose."""
    for kind in draw.choice(12, draw.integers(1, 3), replace=False):
        dose = draw.random() ** 2
        lines = text.split("\n")
        words = text.split(" ")
        some = [place for place in range(len(words)) if draw.random() < dose]
        few = draw.integers(0, len(lines) + 1, int(dose * len(lines)) + 1)
        match kind:
            case 0:  # the same line again and again
                for place in few:
                    lines.insert(int(place), lines[int(few[0]) - 1])
                text = "\n".join(lines)
            case 1:  # a sentence of the text, copied elsewhere
                begin = int(draw.integers(0, len(words)))
                copy = words[begin : begin + int(draw.integers(3, 15))]
                for place in sorted(draw.integers(0, len(words) + 1, int(dose * 20) + 1).tolist(), reverse=True):
                    words[place:place] = copy
                text = " ".join(words)
            case 2:  # a menu between the lines
                menu = ["Home", "About us", "Contact", "Terms of use", "Next >", "Share", "Log in", "Read more..."]
                for place in few:
                    lines[int(place) : int(place)] = draw.choice(menu, int(draw.integers(1, 6))).tolist()
                text = "\n".join(lines)
            case 3:
                text = " ".join("#" + word if place in set(some) else word for place, word in enumerate(words))
            case 4:
                for place in some:
                    words[place] = str(draw.integers(0, 10_000))
                text = " ".join(words)
            case 5:  # lines become a list
                text = "\n".join("- " + line if draw.random() < 1 - dose / 4 else line for line in lines)
            case 6:  # teasers
                text = "\n".join(line[:200] + "..." if draw.random() < dose else line for line in lines)
            case 7:  # no sentence ends
                text = "\n".join(line.rstrip(".!?") if draw.random() > dose / 4 else line for line in lines)
            case 8:  # a line for every few words
                step = int(2 + 20 * dose)
                text = "\n".join(" ".join(words[at : at + step]) for at in range(0, len(words), step))
            case 9:  # lost spaces
                text = "".join(word + ("" if place in set(some) else " ") for place, word in enumerate(words))
            case 10:  # cut short
                text = " ".join(words[: int(draw.integers(30, 90))])
            case 11:  # the text twice, or a part of it
                text = text + "\n\n" + text[: int(len(text) * dose)]
    return text


def ours(texts: list[str]) -> tuple[list[set[str]], list[bool], pa.RecordBatch, float]:
    """Reasons for each text, what C4 drops, the labels, and the CPU seconds these took."""
    batch = batch_of_texts(texts)
    annotate(batch.slice(0, 10))  # makes the tables
    begin = time.process_time()
    labels = annotate(batch)
    seconds = time.process_time() - begin
    reasons: list[set[str]] = [set() for _ in texts]
    for reason, (column, bound) in RULES.items():
        for row in np.flatnonzero(fires(labels, column, bound)):
            reasons[row].add(reason)
    c4 = np.any([fires(labels, column, bound) for column, bound in C4.items()], axis=0)
    return reasons, c4.tolist(), labels, seconds


def fires(labels: pa.RecordBatch, column: str, bound: Range) -> np.ndarray:
    values = labels[column].to_numpy()
    return values < bound.min if bound.min is not None else values > bound.max


def ask_datatrove(task: str, questions: list[Any]) -> tuple[list[Any], float] | None:
    """datatrove's answers and CPU seconds; None where it is not installed."""
    python = peer_python("datatrove")
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, answers = Path(folder, "questions"), Path(folder, "answers")
        file.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")
        subprocess.run([python, "-P", str(PEER), task, str(file), str(answers)], check=True, stderr=subprocess.DEVNULL)
        *rows, seconds = map(json.loads, answers.read_text("utf-8").splitlines())
    return rows, seconds


def print_speed(texts: list[str]) -> None:
    seconds = min(ours(texts)[3] for _ in range(3))
    size = sum(map(len, texts)) / len(texts)
    print(f"{len(texts)} documents of {size:,.0f} characters on average")
    print(f"sluice, all columns:   {len(texts) / seconds:8.1f} documents per CPU second")
    peer = ask_datatrove("decide", texts)
    if peer:
        rate = len(texts) / peer[1]
        print(f"datatrove, 3 filters:  {rate:8.1f} documents per CPU second; ratio {peer[1] / seconds:.1f}\n")


def print_agreement(title: str, texts: list[str], examples: int) -> None:
    peer = ask_datatrove("decide", texts)
    if not peer:
        print("datatrove is not installed: see benchmarks/_datatrove.py")
        return
    reasons, c4, labels, _ = ours(texts)
    theirs = [{SAME.get(reason, reason) for reason in row["reasons"]} for row in peer[0]]
    dropped = [row["drop"] is not None for row in peer[0]]
    differ = [row for row in range(len(texts)) if bool(reasons[row]) != dropped[row]]
    kept = [row for row in range(len(texts)) if not (reasons[row] and dropped[row])]
    both = len(kept) - len(differ)
    print(
        f"{title}: {len(texts)} documents, datatrove keeps {len(texts) - sum(dropped)}, sluice {reasons.count(set())}"
    )
    print(
        f"  the same decision {1 - len(differ) / len(texts):.4f}; of what either keeps both keep {both / len(kept):.3f}"
    )
    for name, members in FILTERS.items():
        same = sum(bool(a & set(members)) == bool(b & set(members)) for a, b in zip(reasons, theirs))
        print(f"  {name}: {same / len(texts):.4f}")
    same = sum(a == (row["c4"] is not None) for a, row in zip(c4, peer[0]))
    print(f"  C4: {same / len(texts):.4f}")
    print(f"  {'reason':30}{'both':>7}{'sluice only':>13}{'datatrove only':>16}{'the same':>10}")
    for reason in RULES:
        pairs = [(reason in a, reason in b) for a, b in zip(reasons, theirs)]
        both, only, other = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
        print(f"  {reason:30}{both:>7}{only:>13}{other:>16}{1 - (only + other) / len(texts):>10.4f}")
    for row in differ[:examples]:
        values = {reason: round(labels[RULES[reason][0]][row].as_py(), 4) for reason in reasons[row] ^ theirs[row]}
        print(f"  sluice {sorted(reasons[row])} datatrove {sorted(theirs[row])} values {values}\n{texts[row][:600]}\n")
    print()


def our_words(text: str) -> list[str]:
    joined = text + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    kinds = kinds_of_characters()[codes]
    begins, ends = tokens(codes, kinds, *runs((kinds & SPACE) != 0))
    return [joined[begin:end] for begin, end in zip(begins, ends)]


def pairs(text: str) -> list[str]:
    """Two letters at a time, marks with the letter before them: what needs no model."""
    return regex.findall(r"(?:\p{L}\p{M}*){1,2}|\p{N}+|[^\s\p{L}\p{N}]", text)


def icu_words(texts: list[str], label: str) -> list[list[str]]:
    ends = ask_icu([LOCALES[label]] * len(texts), texts)
    found = []
    for text, stops in zip(texts, ends):
        pieces = (text[begin:end] for begin, end in zip([0, *stops], stops))
        found.append([piece for piece in pieces if piece.strip()])
    return found


def figures(words: list[str]) -> tuple[float, float, float]:
    """Words, their mean length, and the share of their characters in 5-grams that occurred before."""
    real = [word for word in words if any(character.isalnum() for character in word)]
    seen: set[tuple[str, ...]] = set()
    repeated = place = 0
    while place <= len(words) - 5:
        gram = tuple(words[place : place + 5])
        repeated += (gram in seen) * len("".join(gram))
        place += 5 if gram in seen else 1
        seen.add(gram)
    return len(real), len("".join(real)) / len(real), repeated / len("".join(words))


def print_words() -> None:
    draw = np.random.default_rng(0)
    table = pl.read_parquet(SHARED / "languages" / "dev.parquet")
    print(
        "scripts without spaces, to the words of ICU and of datatrove's splitters: number of words, their mean length,"
    )
    print("and how far the share of characters in repeated 5-grams is off (mean)")
    print(f"{'':10}{'':14}" + "".join(f"{name:>10}" for name in ("words", "length", "off") * 2))
    for label in LOCALES:
        lines = [line for line in table.filter(pl.col("label") == label)["text"] if max(map(ord, line)) < 0x10000]
        texts = []
        for begin in range(0, len(lines), 8):
            text = "\n".join(lines[begin : begin + 8])
            size = int(draw.integers(15, 60))
            start = int(draw.integers(0, max(1, len(text) - size)))
            for place in sorted(draw.integers(0, len(text), int(draw.integers(1, 5))).tolist(), reverse=True):
                text = text[:place] + text[start : start + size] + text[place:]
            texts.append(text)
        try:
            references = [icu_words(texts, label)]
        except FileNotFoundError:
            print("ICU is not installed: see annotators/segment_train.py")
            return
        code = {"zh": "cmn_Hani"}.get(LOCALES[label], LOCALES[label])  # to datatrove zh has no splitter
        peer = ask_datatrove("words", [(code, text) for text in texts])
        references += [peer[0]] if peer else []
        for name, split in (("sluice", our_words), ("two letters", pairs)):
            mine = np.array([figures(split(text)) for text in texts])
            line = ""
            for reference in references:
                theirs = np.array([figures(words) for words in reference])
                ratio = mine[:, :2].sum(axis=0) / theirs[:, :2].sum(axis=0)
                line += f"{ratio[0]:>10.2f}{ratio[1]:>10.2f}{np.abs(mine[:, 2] - theirs[:, 2]).mean():>10.3f}"
            print(f"{label:10}{name:14}{line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500, help="as they are, and as many damaged ones")
    parser.add_argument("--examples", type=int, default=0, help="documents to show on which the decisions differ")
    parser.add_argument("--as-found", action="store_true", help="leave space at the ends of lines")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    texts = english()
    if not options.as_found:
        texts = [regex.sub(r"[^\S\n]+(?=\n|$)", "", text) for text in texts]
    print_speed([text for text in texts if 2000 <= len(text) <= 4500][:400])
    texts = [texts[row] for row in draw.permutation(len(texts)) if 300 <= len(texts[row]) <= 20_000]
    print_agreement("as they are", texts[: options.documents], options.examples)
    harmed = [damaged(text, draw) for text in texts[options.documents : 2 * options.documents]]
    print_agreement("damaged on purpose", [text for text in harmed if text.strip()], options.examples)
    if SHARED.is_dir():
        print_words()


if __name__ == "__main__":
    main()
