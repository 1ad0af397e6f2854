"""A small corpus with known duplicates, run through extraction and deduplication."""

import json
import random
from pathlib import Path
from typing import Any

from schemas.recipe import load_recipe
from sluice.road import closure
from sluice.run import run
from tests.sluice.made_runs import EVIL

RECIPE = """\
name: duplicates
sources:
  - {{name: web, path: "{folder}/web.jsonl"}}
  - {{name: books, path: "{folder}/books.jsonl", priority: 1}}
  - {{name: news, path: "{folder}/news.jsonl"}}
extract: {{shard_bytes: 12_000}}
"""
NEAR, COPIES = 5, 7


def words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choices("abcdefghij", k=draw.randint(3, 8))) for _ in range(count)]


def documents() -> dict[str, list[dict[str, Any]]]:
    """By source. Ids tell what a document is: single-*, copy-* (all equal), near-* (one word each differs), twin-*;
    `same` is the id of a document of every source."""
    draw = random.Random(11)
    found: dict[str, list[dict[str, Any]]] = {"web": [], "books": [], "news": []}

    def add(source: str, name: str, text: str) -> None:
        number = len(found[source])
        line = {
            "id": name,
            "text": text,
            "url": f"https://{source}.example/{number}",
            "date": f"2020-01-{number + 1:02}",
        }
        found[source].append(line)

    for number in range(24):
        add(draw.choice(["web", "books", "news"]), f"single-{number}", " ".join(words(draw, 120)))
    same = EVIL + " ".join(words(draw, 80))
    for number in range(COPIES):
        add("web" if number else "news", f"copy-{number}", same.replace(" ", "  ") if number == 3 else same)
    base = words(draw, 240)
    for number in range(NEAR):
        changed = list(base)
        changed[20 + 40 * number] = f"changed{number}"
        add("books" if number == 2 else "web", f"near-{number}", " ".join(changed))
    for source in found:
        add(source, "same", " ".join(words(draw, 50)))
    twin = " ".join(words(draw, 60))
    add("books", "twin-0", twin)
    add("news", "twin-1", twin)
    return found


def make_duplicates(folder: Path, until: str = "dedup") -> Path:
    """The folder of a run of `documents()`."""
    for name, lines in documents().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    recipe = folder / "duplicates.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    run(load_recipe(recipe), str(folder / "run"), closure(["extract", until]))
    return folder / "run"


FOUND_RECIPE = """\
name: found
sources: [{{name: web, path: "{folder}/docs"}}]
extract: {{shard_bytes: 3_000}}
dedup: {{lines: 2, substrings: cut, substring_words: 30}}
decontaminate: {{benchmarks: ["{folder}/<b>*.jsonl", "{folder}/other.jsonl"]}}
"""
LINE = f"All rights reserved {' '.join(EVIL.split())}"
HOLDERS = 6


def benchmark_items() -> list[str]:
    draw = random.Random(5)
    return [f"{' '.join(words(draw, 12))} {' '.join(EVIL.split())} {' '.join(words(draw, 20))}" for _ in range(4)]


def make_found(folder: Path) -> Path:
    """A run of documents that hold a line and a passage of one another, and items 0 (also in capitals) and 2 (changed).

    They are in two files, docs-0.jsonl and docs-1.jsonl.
    """
    draw = random.Random(7)
    items = benchmark_items()
    asked = "".join(json.dumps({"question": item}) + "\n" for item in items)
    (folder / "<b>asked.jsonl").write_text(asked, "utf-8")
    other = "".join(json.dumps({"question": " ".join(words(draw, 30))}) + "\n" for _ in range(3))
    (folder / "other.jsonl").write_text(other + "not json\n", "utf-8")
    changed = items[2].split()
    changed[20] = "something"
    held = {1: items[0].upper(), 4: items[0], 8: " ".join(changed)}
    passage = f"The passage. {' '.join(words(draw, 40)).capitalize()}. And more."
    lines = []
    for number in range(12):
        text = [" ".join(words(draw, 70)), held.get(number, " ".join(words(draw, 15)))]
        text += [LINE] if number < HOLDERS else []
        text += [passage] if number in (9, 10) else []
        lines.append({"id": f"d{number}", "text": "\n".join([*text, " ".join(words(draw, 30))])})
    (folder / "docs").mkdir()
    for number in range(2):
        part = "".join(json.dumps(line) + "\n" for line in lines[number::2])
        (folder / "docs" / f"docs-{number}.jsonl").write_text(part, "utf-8")
    recipe = folder / "found.yaml"
    recipe.write_text(FOUND_RECIPE.format(folder=folder))
    run(load_recipe(recipe), str(folder / "run"), closure(["extract", "dedup", "decontaminate"]))
    return folder / "run"
