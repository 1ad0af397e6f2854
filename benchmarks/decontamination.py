"""Decontamination: speed of the search, size of the index, and what is found of planted items.

    python benchmarks/decontamination.py [--documents 2000] [--items 20000]

Reads the evaluation sets of ../shared/data where they are present, else makes items from a seed. Documents are 460
made-up words; every tenth holds an item in upper case without punctuation, wrapped at 60 characters.
"""

import argparse
import random
import textwrap
import time
from pathlib import Path

import regex

from pipelines.decontaminate import kernels
from pipelines.decontaminate.benchmarks import find_benchmarks, read_benchmark
from schemas.recipe import Decontaminate

SETS = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
FIELDS = [*Decontaminate().fields, "input", "Body", "Question", "context", "code", "target"]
WORDS = 460
BATCH = 320  # documents, about the stage's batch


def benchmarks(items: int, draw: random.Random, vocabulary: list[str]) -> dict[str, list[str]]:
    if SETS.is_dir():
        paths = find_benchmarks([str(SETS / "*.jsonl.zst")])
        return {name: read_benchmark(path, FIELDS).items for name, path in paths.items()}
    return {"made": [" ".join(draw.choices(vocabulary, k=60)) for _ in range(items)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--items", type=int, default=20_000)
    options = parser.parse_args()
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("etaoinshrdlucmfwypvbgk", k=draw.randint(2, 10))) for _ in range(50_000)]
    sets = benchmarks(options.items, draw, vocabulary)

    begin = time.process_time()
    index, report = kernels.build_index(sets, Decontaminate().ngram)
    seconds = time.process_time() - begin
    used = sum(counts["used"] for counts in report.values())
    print(f"{len(sets)} benchmarks, {used} items, {len(index.keys)} n-grams: index built in {seconds:.1f} CPU s")
    print(f"index: {index.nbytes / 1e6:.1f} MB, {index.nbytes / max(1, len(index.keys)):.1f} bytes per n-gram")

    plants = [item for name in sorted(sets) for item in sets[name] if len(item.split()) >= 30]
    texts, planted = [], set()
    for number in range(options.documents):
        text = " ".join(draw.choices(vocabulary, k=WORDS))
        if number % 10 == 0:
            item = regex.sub(r"[^\p{L}\p{M}\p{N}\s]", " ", draw.choice(plants)).upper()
            text += "\n" + "\n".join(textwrap.wrap(item, 60))
            planted.add(number)
        texts.append(text)
    speeds = []
    for _ in range(3):  # best of three: other work on the machine slows single measurements down
        found: set[int] = set()
        begin = time.process_time()
        for first in range(0, len(texts), BATCH):
            overlap = kernels.overlap(index, texts[first : first + BATCH])
            found.update((first + overlap.texts[overlap.shares >= Decontaminate().overlap]).tolist())
        speeds.append(len(texts) / (time.process_time() - begin))
    size = sum(map(len, texts)) / len(texts)
    print(f"search: {max(speeds):.0f} documents of {size:.0f} characters per CPU second")
    print(f"planted {len(planted)}, found {len(found & planted)}, wrongly dropped {len(found - planted)}")


if __name__ == "__main__":
    main()
