"""Decontamination: what is found of planted items, what is taken for one wrongly, speed and the size of the index.

    python -m benchmarks.decontamination [--items 150] [--clean 1500]

Reads ../shared/data: the 13 evaluation sets, of which every fourth row is not indexed, and real texts. datatrove runs
beside it where it is installed: see benchmarks/_datatrove.py; SLUICE_DATATROVE_PYTHON names another Python.

Items of 13 words and more (26 characters in scripts without spaces) and shorter ones are planted apart, into pages of
../shared/data/web between two of their lines, in these forms; all go through `sluice decontaminate` in one run:

- same: question, choices and answer, a line each
- case: in capitals
- punct: without punctuation
- unicode: decomposed (NFD), every third word in full-width letters, soft hyphens in long words, no-break spaces
- wrapped: in lines of 50 characters, the last word of every third one divided
- framed: "Question:" and the like before it and between its parts, more after it
- changed: another word in the place of one, at random
- 2 changed, labels ("A.", "B.", ... before the choices), question (alone): beyond the goal

Nothing of these may be found; the numbers are documents, by what they were dropped for:

- clean: pages of ../shared/data/web and passages of ../shared/data/domains as they are
- formulas: the same with the phrases that questions and prompts are made of (FORMULAS)
- passages: paragraphs of Wikipedia, abstracts and exam texts, of the topics of indexed questions
- unseen: planted items of the rows that are not indexed, from sets that are. Not those that differ little from an
  indexed item of their set, of which the sets have many ("variants": difflib's ratio of their words is VARIANT or more)

Apart from these, sources: the very passages that indexed questions were made from, of which some are an item's words.
"""

import argparse
import difflib
import json
import random
import subprocess
import sys
import tempfile
import textwrap
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import regex
import zstandard
from scipy.sparse import csr_array

from benchmarks._measure import Spent, measure, peer_python
from pipelines.decontaminate import kernels
from pipelines.decontaminate.benchmarks import Fields, Item, read_benchmark
from schemas.recipe import Decontaminate
from schemas.tables import read_table

DATA = Path(__file__).parents[2] / "shared" / "data"
SLUICE = str(Path(sys.executable).with_name("sluice"))
PEER = Path(__file__).with_name("_datatrove_decontamination.py")
CONFIG = Decontaminate()
FIELDS = Fields(CONFIG.question, CONFIG.choices, CONFIG.answer)
HELD_OUT = 4  # every so many rows are not indexed
VARIANT = 0.6
FORMS = ("same", "case", "punct", "unicode", "wrapped", "framed", "changed")
MORE = ("2 changed", "labels", "question")
CLEAN = ("clean", "formulas", "passages", "unseen")
SOURCES = "sources"
PASSAGES = {"xquad": "context", "pubmedqa": "contexts", "agieval_part": "passage"}
FORMULAS = (
    "The following are multiple choice questions (with answers) about {0}.",
    "Which of the following statements about {0} and {1} is true?",
    "Which one of the following, if true, most seriously weakens the argument about {0}?",
    "Which one of the following can be properly inferred from the information above?",
    "Based on the passage above, which of the following best describes the {0}?",
    "Answer the question based on the context below. Keep the answer short and concise. Context: {0} {1}",
    "Let's think step by step. First, we need to find the number of {0} and the number of {1}.",
    "How many more {0} than {1} are there in total? Give your answer as a number.",
    "How much money, in dollars, does {0} have left after buying the {1}?",
    "If {0} has twice as many {1} as before, how many does {0} have now?",
    "Write a function to find the {0} of the given {1}.",
    "Write a Python function that takes a list of integers as an input and returns the {0} of the {1}.",
    'Is the following sentence plausible? "{0} and {1} went to the market."',
    "Options:\n(A) {0}\n(B) {1}\n(C) None of the above\n(D) All of the above",
    "A. I only B. II only C. I and II only D. I, II, and III",
    "(A) True (B) False (C) Uncertain\nAnswer: (B)",
    "Choose the best answer from the options below and explain why it is the best one.",
    "Statement 1 | Every {0} is a {1}. Statement 2 | Every {1} is a {0}. True, True False, False True, False",
    "According to the author of the passage, the {0} is primarily concerned with which of the following?",
    "What is the probability that a {0} chosen at random is also a {1}? Express your answer as a common fraction.",
    "Find the value of x. What is the area of the {0} in square centimeters?",
    "For each of the following, find the smallest positive integer n such that {0} is divisible by {1}.",
    "In what year did the {0} of the {1} take place?",
    "Who was the first {0} of the {1}?",
    "选择下列正确的一项。下列说法正确的是（ ）{0}",
    "def f(text):\n    for i in range(len(text)):\n        {0}\n    return text",
    ">>> f([1, 2, 3])\n[1, 2, 3]\nfrom typing import List\nimport math\n# {0}",
    "#### The answer is {0}. Therefore, the correct answer is option C.",
)


@dataclass(frozen=True)
class Document:
    text: str
    kind: str  # a form or a kind of clean text
    benchmark: str  # that it holds an item of, or of which the item is that is not indexed; "" for none
    short: bool = False


def rows_of(name: str) -> list[dict]:
    data = zstandard.ZstdDecompressor().stream_reader((DATA / "benchmarks" / f"{name}.jsonl.zst").open("rb")).read()
    return [json.loads(line) for line in data.splitlines()]


def split_sets(folder: Path) -> tuple[dict[str, list[Item]], dict[str, list[Item]]]:
    """Items of each set: indexed ones, whose rows are written to `folder`, and the others."""
    indexed, unseen = {}, {}
    for path in sorted((DATA / "benchmarks").glob("*.jsonl.zst")):
        name = path.name.partition(".")[0]
        rows = rows_of(name)
        parts = [row for number, row in enumerate(rows) if number % HELD_OUT], rows[::HELD_OUT]
        for part, into, place in zip(parts, (indexed, unseen), (folder / name, folder / f"unseen/{name}")):
            file = place.with_suffix(".jsonl")
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
            into[name] = read_benchmark(str(file), FIELDS).items
    return indexed, unseen


def is_long(item: Item) -> bool:
    found = kernels.split_words([item.text()])
    return len(found.hashes) >= CONFIG.ngram * (1 + int(2 * found.spaceless.sum() > len(found.hashes)))


def words(text: str) -> list[str]:
    return regex.findall(r"\p{Han}|\w+", text.lower())


def without_variants(items: Sequence[Item], indexed: Sequence[Item]) -> list[Item]:
    """The items of which none that is indexed differs little; compared are the ones that share most words."""
    vocabulary: dict[str, int] = {}

    def counts(texts: Sequence[Item]) -> csr_array:
        pairs = [
            (row, vocabulary.setdefault(word, len(vocabulary)))
            for row, item in enumerate(texts)
            for word in set(words(item.text()))
        ]
        rows, columns = np.array(pairs).T
        return csr_array((np.ones(len(rows)), (rows, columns)), (len(texts), 1 << 20))

    ours, theirs = counts(items), counts(indexed)
    sizes = theirs.sum(axis=1)
    kept = []
    for row, item in enumerate(items):
        shared = (theirs @ ours[[row]].T).toarray()[:, 0]
        near = np.argsort(-shared / (sizes + len(set(words(item.text()))) - shared))[:5]
        pairs = [(item.text(), indexed[one].text()) for one in near]
        pairs += [(item.question, indexed[one].question) for one in near]
        ratios = (difflib.SequenceMatcher(None, words(a), words(b), autojunk=False).ratio() for a, b in pairs if a)
        if max(ratios) < VARIANT:
            kept.append(item)
    return kept


def laid_out(item: Item, labels: bool = False) -> str:
    if not labels:
        return "\n".join(part for part in (item.question, item.choices, item.answer) if part)
    choices = [f"{letter}. {choice}" for letter, choice in zip("ABCDEFGHIJKLMN", item.choices.split("\n")) if choice]
    return "\n".join([f"Question: {item.question}", *choices, f"Answer: {item.answer}"])


def disguised(item: Item, form: str, draw: random.Random, other: Sequence[str]) -> str:
    text = laid_out(item)
    if form == "case":
        return text.upper()
    if form == "punct":
        return regex.sub(r"[\p{P}\p{S}]+", " ", text)
    if form == "unicode":
        return _in_other_forms(text)
    if form == "wrapped":
        return "\n".join(_wrapped(text))
    if form == "framed":
        parts = [f"Options:\n{item.choices}"] if item.choices else []
        return "\n".join([f"Exercise 7. Question: {item.question}", *parts, f"Answer: {item.answer} Next exercise:"])
    if form == "labels":
        return laid_out(item, labels=True)
    if form == "question":
        return item.question
    for _ in range({"changed": 1, "2 changed": 2}.get(form, 0)):
        places = [
            match.span()
            for match in regex.finditer(r"[\p{Han}\p{Thai}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}]+", text)
        ]
        begin, end = draw.choice(places)
        text = text[:begin] + draw.choice(other) + text[end:]
    return text


def _in_other_forms(text: str) -> str:
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    parts = regex.split(r"(\s+)", unicodedata.normalize("NFD", text))
    for number in range(0, len(parts), 2):
        if number % 6 == 0:
            parts[number] = parts[number].translate(wide)
        elif len(parts[number]) > 7 and parts[number].isascii() and parts[number].isalpha():
            parts[number] = parts[number][:4] + "\u00ad" + parts[number][4:]
    return "".join(part.replace(" ", "\u00a0") for part in parts)


def _wrapped(text: str) -> Iterator[str]:
    for number, line in enumerate(textwrap.wrap(text, 50, replace_whitespace=True)):
        last = regex.search(r"(?<=\s\p{L}{3})\p{Ll}{3,}$", line)
        if number % 3 == 0 and last and line.isascii():
            yield line[: last.start()] + "-"
            yield last.group()
        else:
            yield line


def clean_texts(draw: random.Random, count: int) -> list[str]:
    data = zstandard.ZstdDecompressor().stream_reader((DATA / "web" / "web_corpus.jsonl.zst").open("rb")).read()
    pages = [json.loads(line)["text"] for line in data.splitlines()]
    pages = [page[:3000] for page in pages if len(page) > 1000]
    table = pq.read_table(DATA / "domains" / "domain_passages.parquet", columns=["text", "domain", "source"])
    table = table.filter(pc.invert(pc.match_substring_regex(table["source"], "(?i)pubmed|xquad|squad|agieval|mmlu")))
    passages: dict[str, list[str]] = {}
    for text, domain in zip(*(table[name].to_pylist() for name in ("text", "domain"))):
        passages.setdefault(domain, []).append(text)
    for texts in passages.values():
        draw.shuffle(texts)
        pages += ["\n\n".join(texts[begin : begin + 4]) for begin in range(0, len(texts), 4)]
    draw.shuffle(pages)
    return pages[:count]


def planted(text: str, pages: Sequence[str], draw: random.Random) -> str:
    lines = draw.choice(pages).split("\n")
    place = draw.randrange(len(lines) + 1)
    return "\n".join([*lines[:place], text, *lines[place:]])


def make_documents(
    indexed: dict[str, list[Item]], unseen: dict[str, list[Item]], items: int, clean: int
) -> list[Document]:
    draw = random.Random(0)
    pages = clean_texts(draw, 2 * clean)
    other = [word for page in pages[:200] for word in regex.findall(r"\b[a-z]{3,9}\b", page)]
    found = []
    for name, its in indexed.items():
        for short, forms in ((False, (*FORMS, *MORE)), (True, FORMS[:5])):
            fitting = [item for item in its if is_long(item) is not short]
            for item in draw.sample(fitting, min(items, len(fitting))):
                found += [
                    Document(planted(disguised(item, form, draw, other), pages, draw), form, name, short)
                    for form in forms
                ]
        others = draw.sample(unseen[name], min(items, len(unseen[name])))
        left = without_variants(others, its)
        print(f"{name}: {len(left)} of {len(others)} items that are not indexed are no variants", flush=True)
        found += [Document(planted(laid_out(item), pages, draw), "unseen", name) for item in left if is_long(item)]
    found += [Document(page, "clean", "") for page in pages[:clean]]
    for page in pages[clean:]:
        filled = [formula.format(*draw.sample(other, 2)) for formula in draw.sample(FORMULAS, 3)]
        found.append(Document(planted("\n".join(filled), [page], draw), "formulas", ""))
    for name, field in PASSAGES.items():
        rows = rows_of(name)
        asked = {_passage(row, field) for number, row in enumerate(rows) if number % HELD_OUT}
        texts = {SOURCES: asked, "passages": {_passage(row, field) for row in rows} - asked}
        for kind, those in texts.items():
            some = sorted(text for text in those if text)
            found += [Document(text, kind, "") for text in draw.sample(some, min(clean // 3, len(some)))]
    draw.shuffle(found)
    return found


def _passage(row: dict, field: str) -> str:
    return " ".join(row[field]) if isinstance(row[field], list) else row[field]


def ours(documents: Sequence[Document], folder: Path) -> tuple[list[set[str]], Spent]:
    """Benchmarks that each document is dropped for, and what the command cost."""
    file = folder / "documents.jsonl"
    rows = ({"text": document.text, "id": str(number)} for number, document in enumerate(documents))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = str(folder / "sets" / "*.jsonl")
    spent = measure([SLUICE, "decontaminate", str(file), "--benchmarks", sets, "--output", str(folder / "out")])
    dropped: list[set[str]] = [set() for _ in documents]
    for path in sorted((folder / "out" / "decontaminate" / "decisions").iterdir()):
        table = read_table(str(path), ["id", "reasons"])
        for number, reasons in zip(*(table[name].to_pylist() for name in ("id", "reasons"))):
            dropped[int(number)] = {reason.partition(".")[2] for reason in reasons}
    return dropped, spent


def peer(
    indexed: dict[str, list[Item]], documents: Sequence[Document], folder: Path
) -> tuple[list[set[str]], float, float] | None:
    """The same of datatrove, and CPU seconds of building and of searching; None where it is not installed."""
    python = peer_python("datatrove")
    if python is None:
        print("datatrove is not installed: see benchmarks/_datatrove.py")
        return None
    items, texts, answers, index = (folder / name for name in ("items", "texts", "answers", "index"))
    index.mkdir()
    answer = "\n".join
    rows = [
        (name, item.question, answer(part for part in (item.choices, item.answer) if part))
        for name, its in indexed.items()
        for item in its
    ]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts.write_text("".join(json.dumps(document.text) + "\n" for document in documents), encoding="utf-8")
    command = [python, "-P", str(PEER), *map(str, (items, texts, answers, CONFIG.ngram, index))]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    *found, (built, searched) = map(json.loads, answers.read_text("utf-8").splitlines())
    return [{name} if name else set() for name in found], built, searched


def print_found(title: str, documents: Sequence[Document], dropped: Sequence[set[str]], names: Sequence[str]) -> None:
    planted_there: Counter = Counter()
    found: Counter = Counter()
    wrong: Counter = Counter()
    for document, reasons in zip(documents, dropped):
        if document.kind == SOURCES:
            found[SOURCES] += bool(reasons)
            planted_there[SOURCES] += 1
        elif document.kind in CLEAN:
            found[document.kind] += bool(reasons if document.kind != "unseen" else reasons & {document.benchmark})
            planted_there[document.kind] += 1
            wrong.update(reasons if document.kind != "unseen" else reasons & {document.benchmark})
        else:
            planted_there[document.benchmark, document.short, document.kind] += 1
            found[document.benchmark, document.short, document.kind] += bool(
                reasons
            )  # the peer names one set of several

    def share(name: str, short: bool, form: str) -> str:
        count = planted_there[name, short, form]
        return f"{found[name, short, form] / count:9.3f}" if count else f"{'-':>9}"

    print(f"\n{title}: recall by form; precision of one form and all clean texts")
    print(
        f"{'':14}{'items':>7}"
        + "".join(f"{form:>9}" for form in FORMS)
        + f"{'wrong':>7}{'precis.':>9}"
        + "".join(f"{form:>10}" for form in MORE)
    )
    for name in names:
        right = sum(found[name, False, form] for form in FORMS) / len(FORMS)
        line = "".join(share(name, False, form) for form in FORMS)
        precision = right / (right + wrong[name]) if right else 0
        line += f"{wrong[name]:7}{precision:9.3f}" + "".join(f" {share(name, False, form)}" for form in MORE)
        print(f"{name:14}{planted_there[name, False, 'same']:7}{line}")
    all_right = sum(found[name, False, form] for name in names for form in FORMS) / len(FORMS)
    all_wrong = sum(wrong.values())
    print(
        f"all: precision {all_right / (all_right + all_wrong):.3f}; dropped of "
        + ", ".join(f"{kind}: {found[kind]} of {planted_there[kind]}" for kind in (*CLEAN, SOURCES))
    )
    print(f"items under 13 words\n{'':14}{'items':>7}" + "".join(f"{form:>9}" for form in FORMS[:5]))
    for name in names:
        if count := planted_there[name, True, "same"]:
            print(f"{name:14}{count:7}" + "".join(share(name, True, form) for form in FORMS[:5]))


def print_speed(indexed: dict[str, list[Item]], documents: Sequence[Document]) -> tuple[float, float]:
    begin = time.process_time()
    index, _ = kernels.build_index(indexed, CONFIG.ngram)
    built = time.process_time()
    texts = [document.text for document in documents]
    size = sum(map(len, texts))
    for first in range(0, len(texts), 320):  # about the stage's batch
        found = kernels.find(index, texts[first : first + 320])
        kernels.partial(index, found, kernels.judge(index, index.own, found, CONFIG.overlap))
    searched = time.process_time()
    print(f"\n{sum(map(len, indexed.values()))} items, {len(texts)} documents of {size / len(texts):.0f} characters")
    print(f"{'CPU seconds':20}{'index':>8}{'search':>8}{'documents/s':>13}{'MB/s':>7}")
    print_rate("sluice", built - begin, searched - built, len(texts), size)
    return built - begin, searched - built


def print_rate(name: str, built: float, searched: float, count: int, size: int) -> None:
    print(f"{name:20}{built:8.1f}{searched:8.1f}{count / searched:13.0f}{size / 1e6 / searched:7.1f}")


def print_index(sets: dict[str, list[Item]], count: int = 100_000) -> None:
    """An index of so many items: those of the sets, and again with other words."""
    items = [item for its in sets.values() for item in its]
    again = [
        Item(*(regex.sub(r"\b(?=\w)", "x", part) for part in (item.question, item.answer, item.choices)))
        for item in items[: count - len(items)]
    ]
    index, report = kernels.build_index({"sets": items, "again": again}, CONFIG.ngram)
    used = sum(found["short"] + found["long"] for found in report.values())
    print(
        f"\nindex of {len(items) + len(again)} items, {used} of them different, {len(index.words)} words: "
        f"{index.nbytes / 1e6:.0f} MB ({index.nbytes / used * 1e5 / 1e6:.0f} MB per 100,000 different items)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=150, help="planted of each set")
    parser.add_argument("--clean", type=int, default=1500, help="documents of each kind")
    parser.add_argument("--show", action="store_true", help="what is found where nothing may be")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sets").mkdir()
        indexed, unseen = split_sets(folder / "sets")
        documents = make_documents(indexed, unseen, options.items, options.clean)
        dropped, spent = ours(documents, folder)
        for path in sorted((folder / "out" / "decontaminate" / "matches").iterdir()) if options.show else []:
            for match in read_table(str(path)).to_pylist():
                document = documents[int(match["id"])]
                if document.kind in CLEAN and (document.kind != "unseen" or document.benchmark == match["benchmark"]):
                    print(document.kind, *(match[name] for name in ("benchmark", "part", "matched", "words")))
                    print("   ", repr(match["document_text"][:300]), "\n   ", repr(match["item_text"][:300]))
        print_found("sluice", documents, dropped, list(indexed))
        beside = peer(indexed, documents, folder)
        if beside:
            print_found(f"datatrove, {CONFIG.ngram}-grams", documents, beside[0], list(indexed))
        print_speed(indexed, documents)
        if beside:
            print_rate("datatrove", *beside[1:], len(documents), sum(len(document.text) for document in documents))
        print(
            f"the whole command, documents read and written: {spent.cpu:.1f} CPU s, {spent.peak / 1e6:.0f} MB at most"
        )
        print_index({name: indexed[name] + unseen[name] for name in indexed})


if __name__ == "__main__":
    main()
