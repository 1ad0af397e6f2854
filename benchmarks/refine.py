"""What the guard of refinement lets through, beside a bound on the edit distance alone, and what a real model does.

    python -m benchmarks.refine [--pieces 40] [--model]

Paragraphs of real documents in nine languages are damaged as extraction from PDF damages text. An answer is the clean
paragraph (a good repair) or a copy of it with one thing wrong. `--model` lets a real, very small model repair the
English ones (see benchmarks/_llama_server.py). Needs ../shared/data.
"""

import argparse
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from annotators.served_model import ServedModel
from benchmarks._llama_server import MODEL, llama_server, model_file
from pipelines.extract.refine import addresses, guard, numbers, refine_texts
from schemas.recipe import Refine

TRUTH = Path(__file__).parents[2] / "shared" / "data" / "pdf" / "truth"
FILES = {
    "de": "project-history.de",
    "en": "project-history.en",
    "es": "maint-guide.es",
    "fr": "project-history.fr",
    "ja": "maint-guide.ja",
    "ko": "project-history.ko",
    "ru": "project-history.ru",
    "vi": "install.vi",
    "zh": "install.zh_CN",
}
OPTIONS = Refine(url="http://localhost:1/v1", model="none")
MISREAD = {"rn": "m", "l": "I", "e": "c", "cl": "d", "ii": "ü", "日": "曰", "人": "入", "и": "н"}


def paragraphs(language: str, limit: int) -> list[str]:
    text = (TRUTH / f"{FILES[language]}.txt").read_text(encoding="utf-8", errors="replace")
    space = "" if language in ("ja", "zh") else " "
    found = [space.join(line.strip() for line in part.splitlines()) for part in re.split(r"\n\s*\n", text)]
    found = [part for part in found if 250 <= len(part) * (2.5 if space == "" else 1) <= 2500 and "  " not in part]
    return random.Random(language).sample(found, min(limit, len(found)))


def damage(text: str, dice: random.Random) -> str:
    """Torn and joined words, hyphens at the ends of lines, misread letters; no digit and no address is touched."""
    words = []
    width = 0
    for word in text.split(" "):
        plain = word.isalpha() and len(word) > 4
        if plain and dice.random() < 0.04:
            middle = dice.randrange(2, len(word) - 2)
            word = word[:middle] + dice.choice([" ", "- ", "-\n"]) + word[middle:]
        elif plain and dice.random() < 0.03:
            for old, new in MISREAD.items():
                if old in word:
                    word = word.replace(old, new, 1)
                    break
        width += len(word) + 1
        glue = "" if plain and dice.random() < 0.02 else " "
        if width > 80:
            glue, width = "\n", 0
        words.append(word + glue)
    return "".join(words).strip()


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", text) if part]


def change_digit(text: str, other: str, dice: random.Random) -> str | None:
    places = [index for index, sign in enumerate(text) if sign.isdecimal()]
    if not places:
        return None
    place = dice.choice(places)
    return text[:place] + str((int(text[place]) + dice.randrange(1, 10)) % 10) + text[place + 1 :]


def drop_number(text: str, other: str, dice: random.Random) -> str | None:
    found = list(re.finditer(r"\d+", text))
    return None if not found else text[: (match := dice.choice(found)).start()] + text[match.end() :]


def swap_numbers(text: str, other: str, dice: random.Random) -> str | None:
    found = list(re.finditer(r"\d+", text))
    for first, second in pairwise(found):
        if first[0] != second[0]:
            middle = text[first.end() : second.start()]
            return text[: first.start()] + second[0] + middle + first[0] + text[second.end() :]
    return None


def change_address(text: str, other: str, dice: random.Random) -> str | None:
    found = addresses(text)
    if not found:
        return None
    address = found[0]
    place = dice.choice([index for index, sign in enumerate(address) if sign.isalpha()])
    return text.replace(address, address[:place] + ("x" if address[place] != "x" else "y") + address[place + 1 :], 1)


def drop_sentence(text: str, other: str, dice: random.Random) -> str | None:
    parts = sentences(text)
    return text.replace(max(parts, key=len), "", 1).strip() or None if len(parts) > 1 else None


def invent_sentence(text: str, other: str, dice: random.Random) -> str | None:
    extra = next((part for part in sentences(other) if len(part) > 0.2 * len(text)), None)
    return f"{text} {extra}" if extra else None


def paraphrase(text: str, other: str, dice: random.Random, every: int) -> str:
    words, others = text.split(" "), other.split(" ")
    if len(words) < 10:
        words, others = list(text), list(other)
    for index in range(0, len(words), every):
        if not numbers(words[index]) and not addresses(words[index]):
            words[index] = dice.choice(others)
    return ("" if words[0] == text[0] else " ").join(words)


Maker = Callable[[str, str, random.Random], str | None]
GOOD: dict[str, Maker] = {
    "repaired": lambda text, other, dice: text,
    "repaired, other line ends": lambda text, other, dice: re.sub(r"(\S{1,60}) ", r"\1\n", text),
}
BAD: dict[str, Maker] = {
    "a digit changed": change_digit,
    "a number dropped": drop_number,
    "two numbers swapped": swap_numbers,
    "a date invented": lambda text, other, dice: f"{text[:-1]} (12.5.2019){text[-1]}",
    "an address changed": change_address,
    "the longest sentence dropped": drop_sentence,
    "a sentence invented": invent_sentence,
    "cut off at 80 %": lambda text, other, dice: text[: int(len(text) * 0.8)],
    "half of the words replaced": lambda text, other, dice: paraphrase(text, other, dice, 2),
    "one word in ten replaced": lambda text, other, dice: paraphrase(text, other, dice, 10),
    "another text": lambda text, other, dice: other,
    "a preface": lambda text, other, dice: f"Here is the corrected text:\n\n{text}",
    "a note at the end": lambda text, other, dice: f"{text}\n\nNote: I joined the lines.",
    "a heading added": lambda text, other, dice: f"# Text\n\n{text}",
}


def distance_alone(before: str, after: str) -> bool:
    """The peer: taken if the edit distance is within the bound."""
    old, new = " ".join(before.split()), " ".join(after.split())
    return Levenshtein.distance(old, new) <= OPTIONS.max_edit_distance * len(old)


def table(pieces: list[tuple[str, str, str]]) -> None:
    seconds = count = 0.0
    print(f"{'answer':30} {'pieces':>6} {'taken by the guard':>19} {'by edit distance alone':>23}")
    for title, makers in (("should be taken", GOOD), ("should not", BAD)):
        print(f"-- {title}")
        for name, make in makers.items():
            cases = [(before, make(clean, other, random.Random(before))) for before, clean, other in pieces]
            cases = [(before, after) for before, after in cases if after and after != before]
            start = time.process_time()
            taken = sum(not guard(before, after, OPTIONS) for before, after in cases)
            seconds += time.process_time() - start
            count += len(cases)
            peer = sum(distance_alone(before, after) for before, after in cases)
            print(f"{name:30} {len(cases):6} {taken / len(cases):19.1%} {peer / len(cases):23.1%}")
    size = sum(len(before) for before, _, _ in pieces) // len(pieces)
    print(f"guard: {1e3 * seconds / count:.2f} CPU ms a piece of {size} characters")


def with_model(pieces: list[tuple[str, str, str]], file: str) -> None:
    """A handful of pieces: on a CPU this takes minutes."""
    with llama_server(file) as url:
        small = {"max_tokens": 250, "temperatures": [0.0], "concurrency": 1}
        options = OPTIONS.model_copy(update={"url": url, "model": MODEL} | small)
        with ServedModel(options) as model:
            start = time.perf_counter()
            done = list(refine_texts((before for before, _, _ in pieces), model, options))
            seconds = time.perf_counter() - start
            counts = model.take_counts()
    chunks = [(chunk, clean) for refined, (_, clean, _) in zip(done, pieces) for chunk in refined.chunks]
    outcomes = Counter(chunk.reason.split(":")[0] or "taken" for chunk, _ in chunks)
    print(f"{MODEL}: {len(chunks)} pieces, {seconds:.0f} s, {counts}")
    for outcome, times in outcomes.most_common():
        print(f"  {outcome:14} {times:4}")
    for chunk, clean in chunks:
        if chunk.accepted:
            was, now = (Levenshtein.distance(" ".join(text.split()), clean) for text in (chunk.before, chunk.after))
            print(f"  taken: distance to the clean text {was} -> {now}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=40, help="of each language")
    parser.add_argument("--model", action="store_true", help="also let a real, very small model repair")
    options = parser.parse_args()
    if not TRUTH.is_dir():
        print("needs ../shared/data beside the checkout")
        return
    clean = {language: paragraphs(language, options.pieces) for language in FILES}
    pieces = []
    for texts in clean.values():
        for index, text in enumerate(texts):
            others = sorted(texts, key=lambda other: abs(len(other) - len(text)))
            other = next(other for other in [*others, texts[index - 1]] if other != text)
            pieces.append((damage(text, random.Random(text)), text, other))
    table(pieces)
    if options.model:
        if file := model_file():
            english = [piece for piece in pieces if piece[1] in clean["en"]][:6]
            with_model(english, file)
        else:
            print("no real model: see benchmarks/_llama_server.py for what to install")


if __name__ == "__main__":
    main()
