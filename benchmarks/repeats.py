"""Passages that documents share: which are found and cut, what else is, and what it costs.

    python -m benchmarks.repeats [--documents 2000] [--work FOLDER]

Passages of 30 to 400 words are planted, each into three documents, between two sentences. The second copy is wrapped
at 60 characters, the third is in capitals (not in `han`).

- web: ../shared/data/web, one page of each group, those in scripts with spaces; the passages are of other pages.
- made: `--documents` of 460 made-up words in sentences of 4 to 20.
- han: a fifth as many, of made-up sentences of Han characters, two for a word.

`gone` is the share of a passage that is removed, where one copy is to stay: of its word 5-grams, how many are missing
in the three documents together, over two copies of them. `listed` is how many of two copies are listed with 95 % of
their words. What is shorter than `dedup.substring_words` (50) is to stay. Only whole sentences are cut, so a passage
that begins or ends within one keeps that part. `wrong` are removed words that lie in no run of 50 words that another
document has as well, told by a table of all runs.

CPU seconds are those of all processes of `sluice dedup`, less those of one on a single document. The peer is
datatrove's sentence deduplication (C4), in an environment of its own that SLUICE_DATATROVE_PYTHON names; its unit is
three sentences in a row, as they stand but for case and punctuation, and its sentences are those of English. Programs
on suffix arrays (deduplicate-text-datasets, which datatrove and text-dedup call) have to be compiled from crates.io
and are not compared.
"""

import argparse
import json
import random
import sys
import tempfile
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import regex
import xxhash

from benchmarks._dedup_corpus import make_vocabulary
from benchmarks._measure import measure, peer_python
from pipelines.dedup import kernels, repeats
from schemas.cuts import apply_cuts
from schemas.tables import read_table

ROOT = Path(__file__).parents[1]
WEB = ROOT.parent / "shared" / "data" / "web" / "web_corpus.jsonl.zst"
PEERS = Path(__file__).with_name("_repeats_peers.py")
SLUICE = str(Path(sys.executable).with_name("sluice"))
LENGTHS = (30, 40, 49, 50, 60, 80, 100, 200, 400)
COPIES, NGRAM, SIZE = 3, 5, 50
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+|\p{Han}")
HAN = regex.compile(r"\p{Han}")


@dataclass(frozen=True)
class Plant:
    words: int
    text: str
    hosts: tuple[int, ...]


def words_of(text: str) -> list[str]:
    return HAN.findall(text) or WORD.findall(text.lower())


def web_texts() -> list[str]:
    """One page of each group, in scripts with spaces."""
    lines = pa.CompressedInputStream(pa.OSFile(str(WEB)), "zstd").read().splitlines()
    first = {row["group"] or row["id"]: row["text"] for row in map(json.loads, lines)}
    return [text for text in first.values() if not regex.search(r"[\p{Han}\p{Hiragana}\p{Thai}]", text)]


def made_texts(documents: int, draw: random.Random) -> list[str]:
    vocabulary = make_vocabulary(0).tolist()
    return [
        made_sentences(460, lambda size: " ".join(draw.choices(vocabulary, k=size)), " ", draw)
        for _ in range(documents)
    ]


def han_texts(documents: int, draw: random.Random) -> list[str]:
    characters = [chr(0x4E00 + number) for number in range(3000)]
    return [
        made_sentences(600, lambda size: "".join(draw.choices(characters, k=size)), "", draw) for _ in range(documents)
    ]


def made_sentences(words: int, some, space: str, draw: random.Random) -> str:
    parts = []
    while words > 0:
        size = draw.randint(4, 20)
        parts.append(some(size).capitalize() + ("。" if not space else ". " if draw.random() < 0.8 else ".\n"))
        words -= size
    return "".join(parts)


def cut_passage(text: str, words: int, draw: random.Random) -> str | None:
    """That many words in a row of a text, from the beginning of a sentence."""
    size = 2 * words if HAN.search(text) else words
    found = list((HAN if HAN.search(text) else WORD).finditer(text))
    starts = [match.end() for match in repeats.sentence_end().finditer(text)]
    draw.shuffle(starts)
    for start in starts[:20]:
        inside = [match for match in found if match.start() >= start][:size]
        if len(inside) == size:
            return text[inside[0].start() : inside[-1].end()] + ("。" if HAN.search(text) else ".")
    return None


def plant(texts: list[str], donors: list[str], count: int, draw: random.Random) -> list[Plant]:
    """Put passages of `donors` into `texts`, `count` of each length."""
    plants = []
    hosts = list(range(len(texts)))
    draw.shuffle(hosts)
    for number in range(count * len(LENGTHS)):
        words = LENGTHS[number % len(LENGTHS)]
        passage = next(filter(None, (cut_passage(draw.choice(donors), words, draw) for _ in range(50))), None)
        if passage is None or len(hosts) < COPIES:
            continue
        mine = tuple(hosts.pop() for _ in range(COPIES))
        for copy, host in enumerate(mine):
            places = [match.end() for match in repeats.sentence_end().finditer(texts[host])] or [len(texts[host])]
            place = draw.choice(places)
            shown = passage
            if copy == 1 and not HAN.search(passage):
                shown = "\n".join(textwrap.wrap(passage, 60, break_long_words=False, break_on_hyphens=False))
            elif copy == 2:
                shown = passage.upper()
            texts[host] = f"{texts[host][:place]}\n\n{shown}\n\n{texts[host][place:]}"
        plants.append(Plant(words, passage, mine))
    return plants


def shared_words(texts: list[str]) -> list[np.ndarray]:
    """bool [words] of each text: those in a run of SIZE words that another text holds as well; from a table of all."""
    split = kernels.split_words(texts)
    runs = repeats.passages(split, SIZE)
    keys = [
        xxhash.xxh3_128_digest(split.hashes[begin:end].tobytes())
        for begin, end in zip(runs.begins.tolist(), runs.ends.tolist())
    ]
    holders: dict[bytes, int] = {}
    several: set[bytes] = set()
    for key, text in zip(keys, runs.texts.tolist()):
        if holders.setdefault(key, text) != text:
            several.add(key)
    marks = np.zeros(len(split.hashes) + 1, np.int64)
    hit = np.array([key in several for key in keys], bool)
    np.add.at(marks, runs.begins[hit], 1)
    np.add.at(marks, runs.ends[hit], -1)
    return np.split(np.cumsum(marks[:-1]) > 0, split.offsets[1:-1])


def grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[begin : begin + NGRAM]) for begin in range(len(words) - NGRAM + 1)}


def gone(plants: list[Plant], texts: dict[int, str]) -> dict[int, float]:
    """See above, by length."""
    shares = defaultdict(list)
    for one in plants:
        wanted = grams(words_of(one.text))
        left = [len(wanted & grams(words_of(texts.get(host, "")))) / len(wanted) for host in one.hosts]
        shares[one.words].append(min(1.0, (COPIES - sum(left)) / (COPIES - 1)))
    return {words: sum(some) / len(some) for words, some in shares.items()}


def listed(plants: list[Plant], texts: list[str], rows: dict[int, list[tuple[int, int]]]) -> dict[int, float]:
    shares = defaultdict(list)
    for one in plants:
        wanted = words_of(one.text)
        whole = 0
        for host in one.hosts:
            data = texts[host].encode()
            spans = [words_of(data[begin:end].decode()) for begin, end in rows.get(host, [])]
            found = grams([word for span in spans for word in span])
            whole += len(grams(wanted) & found) >= 0.95 * len(grams(wanted))
        shares[one.words].append(min(1.0, whole / (COPIES - 1)))
    return {words: sum(some) / len(some) for words, some in shares.items()}


def run_sluice(folder: Path, texts: list[str], plants: list[Plant], base: float) -> None:
    output = folder / "sluice"
    options = ("dedup.exact=false", "dedup.near=false", "dedup.substrings=cut", f"dedup.substring_words={SIZE}")
    sets = [part for option in options for part in ("--set", option)]
    measure([SLUICE, "extract", str(folder / "documents"), "--output", str(folder / "extracted")])
    spent = measure([SLUICE, "dedup", str(folder / "extracted"), *sets, "--output", str(output)])
    left: dict[int, str] = {}
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    wrong = removed = 0
    shared = shared_words(texts)
    for path in sorted((folder / "extracted" / "extract" / "documents").iterdir()):
        documents = read_table(str(path))
        numbers = {
            key: int(name) for key, name in zip(documents["document_id"].to_pylist(), documents["id"].to_pylist())
        }
        cuts = read_table(str(output / "dedup" / "cuts" / path.name))["cuts"].combine_chunks()
        after = apply_cuts(documents["text"].combine_chunks(), cuts)
        left |= dict(zip(numbers.values(), after.to_pylist()))
        for row in read_table(str(output / "dedup" / "repeats" / path.name)).to_pylist():
            rows[numbers[row["document_id"]]].append((row["begin"], row["end"]))
        for number, text, some in zip(numbers.values(), documents["text"].to_pylist(), cuts.to_pylist()):
            begins, _ = repeats.word_places(text)
            places = np.cumsum([0, *(len(character.encode()) for character in text)])[begins]
            for cut in some:
                inside = (places >= cut["begin"]) & (places < cut["end"])
                removed += int(inside.sum())
                wrong += int((inside & ~shared[number]).sum())
    show("sluice", gone(plants, left), listed(plants, texts, rows))
    seconds = spent.cpu - base
    size = sum(len(text.encode()) for text in texts) / 1e6
    words = sum(map(len, shared))
    print(f"  removed {removed:,} of {words:,} words, wrong {wrong:,}; peak {spent.peak >> 20} MiB")
    print(f"  {seconds:.1f} CPU s: {len(texts) / seconds:.0f} documents, {size / seconds:.1f} MB a CPU second")


def run_datatrove(folder: Path, texts: list[str], plants: list[Plant]) -> None:
    python = peer_python("datatrove")
    if python is None:
        print("  datatrove is not installed: see benchmarks/_dedup_peers.py")
        return
    work = folder / "datatrove"
    work.mkdir()
    answers = folder / "datatrove.json"
    measure([python, str(PEERS), str(folder / "documents"), str(work), str(answers)])
    told = json.loads(answers.read_text())
    left = {int(name): text for name, text in told["texts"].items()}
    show("datatrove", gone(plants, left), None)
    before, after = (sum(len(words_of(text)) for text in some) for some in (texts, left.values()))
    seconds = told["seconds"]["deduplication"]
    print(f"  removed {before - after:,} of {before:,} words")
    print(f"  {seconds:.1f} CPU s without imports: {len(texts) / seconds:.0f} documents a CPU second")


def show(name: str, shares: dict[int, float], whole: dict[int, float] | None) -> None:
    print(f"  {name:10} gone    " + "  ".join(f"{words}: {shares[words]:.3f}" for words in sorted(shares)))
    if whole is not None:
        print(f"  {name:10} listed  " + "  ".join(f"{words}: {whole[words]:.3f}" for words in sorted(whole)))


def write(folder: Path, texts: list[str]) -> None:
    (folder / "documents").mkdir(parents=True)
    table = pa.table({"id": [str(number) for number in range(len(texts))], "text": pa.array(texts, pa.large_string())})
    pq.write_table(table, folder / "documents" / "00000.parquet", compression="zstd", row_group_size=1_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        work = options.work or Path(made)
        one = work / "one"
        write(one, ["One document. It has two sentences."])
        sets = ("--set", "dedup.exact=false", "--set", "dedup.near=false", "--set", "dedup.substrings=cut")
        measure([SLUICE, "extract", str(one / "documents"), "--output", str(one / "extracted")])
        begun = [
            measure([SLUICE, "dedup", str(one / "extracted"), *sets, "--output", str(one / f"sluice{run}")]).cpu
            for run in range(3)
        ]
        corpora = {
            "web": web_texts if WEB.exists() else None,
            "made": lambda: made_texts(options.documents, random.Random(1)),
            "han": lambda: han_texts(options.documents // 5, random.Random(2)),
        }
        for name, make in corpora.items():
            if make is None:
                continue
            texts, draw = make(), random.Random(0)
            donors = texts[-len(texts) // 10 :]
            texts = texts[: -len(texts) // 10]
            plants = plant(texts, donors, max(4, len(texts) // (2 * COPIES * len(LENGTHS))), draw)
            folder = work / name
            write(folder, texts)
            size = sum(len(text.encode()) for text in texts)
            print(f"{name}: {len(texts):,} documents, {size / 1e6:.1f} MB, {len(plants)} passages in {COPIES} each")
            run_sluice(folder, texts, plants, min(begun))
            if name != "han":
                run_datatrove(folder, texts, plants)


if __name__ == "__main__":
    main()
