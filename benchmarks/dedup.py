"""Near-duplicates: what is found, what it costs, and both beside other programs.

    python -m benchmarks.dedup [PART ...] [--documents 10000] [--repeats 1] [--work FOLDER]

The parts, in this order. `--documents` is the number of documents of all but the first; the made ones come from
benchmarks/_dedup_corpus.py. CPU seconds are those of all processes of a command, memory the sum of their resident
sizes. Peers run in environments of their own, named by SLUICE_TEXT_DEDUP_PYTHON, SLUICE_DATATROVE_PYTHON and
SLUICE_RENSA_PYTHON (benchmarks/_dedup_peers.py says how to make them).

- web: ../shared/data/web. Recall of the pairs with a Jaccard index of .8 and more inside the groups, where all pairs
  are known; how many members of the clusters found have an index of .6 and more with some other member; and exact
  copies. The index is that of sets of word 5-grams, a word being `\\w+` of the lower-cased text. Sluice takes letters,
  marks and digits as words (`_` separates), and 10 characters where most are of a script without spaces, so on Japanese
  pages the two differ most. `labelled` is with the labels of `sluice annotate`, as in a recipe.
- speed: the whole stage on documents of 460 words (3.1 kB) beside text-dedup and datatrove, 5-grams, 14 bands of 8 rows
  for all, and recall by kind of pair. `expected` is 1 - (1 - J^8)^14, averaged over the true J of the pairs: what
  signatures without a fault find; `s.e.` is its standard error for as many pairs. Under a peer stands what sluice finds
  more than it, in standard errors of a difference: as both draw signatures at random from the same chances, values
  from -2 to 2 say that they find as much. A wrong cluster holds documents that have at most a header and a footer in
  common. `imports` of sluice is a run on one document; reading is `sluice
  extract`, which the peers do not have to do. datatrove, whose words are spaCy's, gets the first 20,000 documents only.
- kernel: signatures of the same documents beside datasketch and rensa: from texts; from the n-grams as bytes; from
  64-bit hashes of the n-grams.
- scale: a hundredth, a tenth and all of the documents, of 50 words, in a run less the cost of a run on one document;
  the least of five runs in turns, of `--repeats` for the largest.
- workers: two worker processes beside one, in turns, on documents of 460 words. Wall times say something on an idle
  machine only.
- hostile: input that has gone wrong elsewhere.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import regex
from datasketch import MinHash

from benchmarks._dedup_corpus import FAMILIES, KINDS, make_vocabulary, write_corpus
from benchmarks._measure import Spent, measure
from pipelines.dedup import kernels
from schemas.hashing import digest
from schemas.manifest import require_manifest

ROOT = Path(__file__).parents[1]
WEB = ROOT.parent / "shared" / "data" / "web"
PEERS = Path(__file__).with_name("_dedup_peers.py")
SLUICE = str(Path(sys.executable).with_name("sluice"))
LARGE = ("--set", "extract.max_characters=100000000")
TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
WORDS, SHORT, NGRAM, BANDS, ROWS = 460, 50, 5, 14, 8
KERNEL_DOCUMENTS = 2_000
SLOW_FILES = 2  # of 10,000 documents
FEW = 5  # runs of what is short
SEED = 0


def extract(documents: Path, folder: Path) -> Spent:
    return measure([SLUICE, "extract", str(documents), "--output", str(folder), *LARGE])


def deduplicate(run: Path, output: Path, settings: dict[str, Any], beam: Sequence[str] = ()) -> Spent:
    """`sluice dedup` of a finished run with settings of the section `dedup`."""
    changes = [word for key, value in settings.items() for word in ("--set", f"dedup.{key}={json.dumps(value)}")]
    return measure([SLUICE, "dedup", str(run), "--output", str(output), *changes, *(["--", *beam] if beam else [])])


def one_document(work: Path) -> Path:
    """A run to take the fixed cost of: extracted, one document."""
    pq.write_table(pa.table({"text": ["one document of a few words"]}), work / "one.parquet")
    extract(work / "one.parquet", work / "one")
    return work / "one"


def least(work: Path, runs: Sequence[Path], times: int) -> list[Spent]:
    """`deduplicate` each of the runs so many times, in turns: the time of each with the fewest CPU seconds.

    Other work on the machine only ever adds to CPU seconds, by half at worst.
    """
    taken: list[list[Spent]] = [[] for _ in runs]
    for _ in range(times):
        for run, found in zip(runs, taken):
            with tempfile.TemporaryDirectory(dir=work) as folder:
                found.append(deduplicate(run, Path(folder, "out"), {"bands": BANDS, "rows": ROWS}))
    return [min(found, key=lambda spent: spent.cpu) for found in taken]


def decisions(output: Path) -> pl.DataFrame:
    return pl.read_parquet(output / "dedup" / "decisions" / "*.parquet").with_columns(cluster="cluster_id")


# ------------------------------------------------------------------------------------------------------------- web


def web(work: Path) -> None:
    if not WEB.is_dir():
        print(f"skipped: no {WEB}")
        return
    with pa.input_stream(WEB / "web_corpus.jsonl.zst", compression="zstd") as stream:
        pages = pl.DataFrame([json.loads(line) for line in stream.read().splitlines()])
    pairs = pl.read_parquet(WEB / "web_corpus_pairs.parquet")
    pages.select("id", "text").write_parquet(work / "web.parquet")
    extract(work / "web.parquet", work / "plain")
    labelled = [SLUICE, "annotate", str(work / "web.parquet"), "--output", str(work / "labelled")]
    measure([*labelled, "--set", "annotate.labels=[language]"])
    grams = dict(zip(pages["id"], map(word_grams, pages["text"])))
    print(
        f"{'':30}{'recall':>8}{'found':>7}{'of':>6}{'members':>9}{'>= .6':>7}{'clusters':>9}{'largest':>8}{'copies':>8}"
    )
    for bands in (20, 14):
        for run in ("plain", "labelled"):
            for name, verify in (("verified at .65", 0.65), ("not verified", None)):
                output = work / f"web-{bands}-{run}-{verify}"
                deduplicate(work / run, output, {"bands": bands, "rows": ROWS, "verify": verify})
                found = dict(decisions(output).select("id", "cluster").iter_rows())
                print(f"{bands} x {ROWS}, {run}, {name:16}".ljust(34) + web_row(pages, pairs, grams, found))


def word_grams(text: str) -> frozenset[tuple[str, ...]]:
    words = regex.findall(r"\w+", text.lower())
    return frozenset(tuple(words[place : place + NGRAM]) for place in range(max(1, len(words) - NGRAM + 1)))


def jaccard(first: frozenset[Any], second: frozenset[Any]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def web_row(pages: pl.DataFrame, pairs: pl.DataFrame, grams: dict[str, frozenset[Any]], found: dict[str, bytes]) -> str:
    group = {name: group for name, group in zip(pages["id"], pages["group"]) if group}
    inside = [
        found[a] == found[b]
        for a, b, index in pairs.select("id_a", "id_b", "jaccard_w5").iter_rows()
        if index >= 0.8 and a in group and group[a] == group.get(b)
    ]
    members: dict[bytes, list[str]] = {}
    for name, cluster in found.items():
        members.setdefault(cluster, []).append(name)
    clusters = [names for names in members.values() if len(names) > 1]
    near = []
    for names in clusters:
        best = dict.fromkeys(names, 0.0)
        for a, b in combinations(names, 2):
            if min(best[a], best[b]) < 0.6:
                index = jaccard(grams[a], grams[b])
                best[a], best[b] = max(best[a], index), max(best[b], index)
        near += [index >= 0.6 for index in best.values()]
    copies: dict[str, list[str]] = {}
    for name, text in zip(pages["id"], pages["text"]):
        copies.setdefault(text, []).append(name)
    together = [found[names[0]] == found[name] for names in copies.values() for name in names[1:]]
    return (
        f"{np.mean(inside):>8.4f}{sum(inside):>7}{len(inside):>6}{len(near):>9}{np.mean(near):>7.3f}{len(clusters):>9}"
        f"{max(map(len, clusters)):>8}{np.mean(together):>8.1%}"
    )


# ----------------------------------------------------------------------------------------------------------- speed


def speed(work: Path, documents: int) -> None:
    corpus = work / "corpus"
    truth = write_corpus(corpus, documents, WORDS, SEED)
    reading = extract(corpus, work / "run")
    (fixed,) = least(work, [one_document(work)], FEW)
    chance = 1 - (1 - pl.col("jaccard") ** ROWS) ** BANDS
    by_kind = truth.group_by("kind").agg(
        pl.len(), pl.mean("jaccard"), expected=chance.mean(), error=(chance * (1 - chance)).sum().sqrt() / pl.len()
    )
    print(f"{'':24}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name, digits in (("len", 0), ("jaccard", 3), ("expected", 4), ("error", 4)):
        values = dict(by_kind.select("kind", name).iter_rows())
        shown = {"len": "pairs", "jaccard": "mean Jaccard index", "error": "s.e."}.get(name, name)
        print(f"{shown:24}" + "".join(f"{values[kind]:>10.{digits}f}" for kind in KINDS))
    errors = dict(by_kind.select("kind", "error").iter_rows())
    rows: list[tuple[str, Spent, float, int]] = []
    own: dict[str, float] = {}
    for name, verify in (("sluice", None), ("sluice, verified at .65", 0.65)):
        output = work / f"out-{verify}"
        spent = deduplicate(work / "run", output, {"bands": BANDS, "rows": ROWS, "verify": verify})
        rows.append((name, spent, fixed.cpu, documents))
        if not verify:
            rows.append(
                (f"{name}, with reading", Spent(spent.cpu + reading.cpu, 0, 0, 0, ""), 2 * fixed.cpu, documents)
            )
        recall = print_recall(name, truth, decisions(output).select("id", "cluster"))
        own = recall if verify is None else own
    part = work / "part"
    part.mkdir()
    for file in sorted(corpus.iterdir())[:SLOW_FILES]:
        (part / file.name).symlink_to(file)
    for peer, variable, folder in (
        ("text-dedup", "SLUICE_TEXT_DEDUP_PYTHON", corpus),
        ("text-dedup-fast", "SLUICE_TEXT_DEDUP_PYTHON", corpus),
        ("datatrove", "SLUICE_DATATROVE_PYTHON", part),
    ):
        asked = ask(peer, variable, folder, work)
        if asked:
            spent, answer = asked
            ids = pl.read_parquet(folder / "*.parquet", columns=["id"])["id"]
            rows.append((peer, spent, answer["seconds"]["imports"], len(ids)))
            recall = print_recall(peer, truth, pl.DataFrame({"id": ids, "cluster": answer["clusters"]}))
            if folder == corpus:
                more = ((own[kind] - recall[kind]) / (2**0.5 * max(errors[kind], 1e-9)) for kind in KINDS)
                print(f"{'  sluice less this, s.e.':24}" + "".join(f"{value:>10.1f}" for value in more))
    print(f"\n{'':28}{'documents':>10}{'CPU s':>9}{'imports':>9}{'a CPU s':>9}{'without imports':>17}{'peak MiB':>10}")
    for name, spent, imports, count in rows:
        rate, warm = count / spent.cpu, count / (spent.cpu - imports)
        memory = f"{spent.peak / 2**20:>10.0f}" if spent.peak else ""
        print(f"{name:28}{count:>10}{spent.cpu:>9.1f}{imports:>9.1f}{rate:>9.0f}{warm:>17.0f}{memory}")


def ask(peer: str, variable: str, documents: Path, work: Path) -> tuple[Spent, dict[str, Any]] | None:
    """What a peer spends and answers; None, with a line that says so, where it is not there."""
    python = os.environ.get(variable)
    if not python:
        print(f"{peer}: skipped, {variable} is not set")
        return None
    with tempfile.TemporaryDirectory(dir=work) as folder:
        answers = Path(folder, "answers.json")
        (Path(folder) / "work").mkdir()
        spent = measure([python, "-P", str(PEERS), peer, str(documents), f"{folder}/work", str(answers)])
        return spent, json.loads(answers.read_text())


def print_recall(name: str, truth: pl.DataFrame, found: pl.DataFrame) -> dict[str, float]:
    """Recall by kind. `found`: `id` (pair:side) and `cluster` of every document."""
    recall, wrong = judge(truth, found)
    print(f"{name:24}" + "".join(f"{recall[kind]:>10.4f}" for kind in KINDS) + f"   wrong clusters {wrong}")
    return recall


def judge(truth: pl.DataFrame, found: pl.DataFrame) -> tuple[dict[str, float], int]:
    """Share of pairs that are in one cluster, by kind; how many clusters hold documents of several families."""
    parts = pl.col("id").str.split(":").list
    sides = found.with_columns(pair=parts.get(0).cast(pl.Int64), side=parts.get(1)).join(truth, "pair")
    joined = sides.group_by("pair", "kind").agg(one=(pl.n_unique("cluster") == 1) & (pl.len() == 2))
    recall = dict(joined.group_by("kind").agg(pl.mean("one")).iter_rows())
    alone = ~pl.col("kind").is_in(FAMILIES)
    family = pl.when(alone).then(pl.col("id")).otherwise(pl.col("pair").cast(pl.String))
    wrong = (
        sides.with_columns(family=family).group_by("cluster").agg(pl.n_unique("family")).filter(pl.col("family") > 1)
    )
    return recall, wrong.height


# ---------------------------------------------------------------------------------------------------------- kernel


def kernel(work: Path, documents: int, repeats: int) -> None:
    corpus = work / "few"
    documents = min(documents, KERNEL_DOCUMENTS)
    write_corpus(corpus, documents, WORDS, SEED)
    texts = pl.read_parquet(corpus / "*.parquet")["text"].to_list()
    maps = kernels.permutations(SEED, BANDS * ROWS)
    hashes, counts = kernels.shingles(kernels.split_words(texts), NGRAM)
    whole = np.split(hashes >> np.uint64(32), np.cumsum(counts)[:-1])
    numbers = [part.tolist() for part in whole]
    grams = byte_grams(texts)

    def from_texts() -> None:
        for begin in range(0, len(texts), 320):  # about the batch of the stage
            kernels.signatures(*kernels.shingles(kernels.split_words(texts[begin : begin + 320]), NGRAM), maps)

    ways: dict[str, dict[str, Callable[[], object]]] = {
        "sluice": {"texts": from_texts, "hashes": lambda: kernels.signatures(hashes, counts, maps)},
        "datasketch bulk": {
            "texts": lambda: MinHash.bulk(byte_grams(texts), num_perm=BANDS * ROWS),
            "n-grams": lambda: MinHash.bulk(grams, num_perm=BANDS * ROWS),
            "hashes": lambda: MinHash.bulk(numbers, num_perm=BANDS * ROWS, hashfunc=int),
        },
    }
    taken: dict[str, dict[str, list[float]]] = {peer: {way: [] for way in calls} for peer, calls in ways.items()}
    from_texts()  # tables are made once
    taken["rensa"] = {}
    for _ in range(max(3, repeats)):  # in turns, since other work on the machine comes and goes
        for peer, calls in ways.items():
            for way, call in calls.items():
                begin = time.process_time()
                call()
                taken[peer][way].append(time.process_time() - begin)
        asked = ask("rensa", "SLUICE_RENSA_PYTHON", corpus, work)
        for way, seconds in asked[1]["seconds"].items() if asked else ():
            taken["rensa"].setdefault(way, []).append(seconds)
    print(f"documents per CPU second\n{'':20}" + "".join(f"{way:>10}" for way in ("texts", "n-grams", "hashes")))
    for peer, found in taken.items():
        rates = {way: documents / statistics.median(seconds) for way, seconds in found.items()}
        shown = (f"{rates[way]:>10.0f}" if way in rates else f"{'':10}" for way in ("texts", "n-grams", "hashes"))
        print(f"{peer:20}" + "".join(shown))


def byte_grams(texts: Iterable[str]) -> list[list[bytes]]:
    found = []
    for text in texts:
        words = regex.findall(r"\w+", text.lower())
        found.append([" ".join(words[place : place + NGRAM]).encode() for place in range(len(words) - NGRAM + 1)])
    return found


# ----------------------------------------------------------------------------------------------- scale and workers


def scale(work: Path, documents: int, repeats: int) -> None:
    counts = (documents // 100, documents // 10, documents)
    runs = [one_document(work)]
    for count in counts:
        write_corpus(work / str(count), count, SHORT, SEED)
        runs.append(work / f"run-{count}")
        extract(work / str(count), runs[-1])
    fixed, *few = least(work, runs[:-1], FEW)
    whole = least(work, runs[-1:], repeats)
    print(f"a run on one document: {fixed.cpu:.1f} CPU s, {fixed.peak / 2**20:.0f} MiB")
    print(f"{'documents':>10}{'CPU s':>9}{'us a document':>15}{'to the second':>15}{'peak MiB':>10}")
    each = [(spent.cpu - fixed.cpu) / count * 1e6 for count, spent in zip(counts, few + whole)]
    for count, spent, cost in zip(counts, few + whole, each):
        print(f"{count:>10}{spent.cpu:>9.1f}{cost:>15.0f}{cost / each[1]:>15.2f}{spent.peak / 2**20:>10.0f}")


def workers(work: Path, documents: int, repeats: int) -> None:
    write_corpus(work / "corpus", documents, WORDS, SEED)
    extract(work / "corpus", work / "run")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    runs: dict[str, list[Spent]] = {"one": [], "two": []}
    bytes_of: dict[str, str] = {}
    for turn in range(repeats):
        for name, beam in (("one", ()), ("two", TWO_WORKERS)):
            output = work / f"out-{name}-{turn}"
            runs[name].append(deduplicate(work / "run", output, {"bands": BANDS, "rows": ROWS}, beam))
            bytes_of[name] = digest(
                [entry.model_dump() for entry in require_manifest(str(output / "dedup"), "dedup").files]
            )
    print(f"{'workers':10}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}   medians of {repeats}")
    for name, spent in runs.items():
        wall, cpu = (statistics.median(getattr(run, field) for run in spent) for field in ("wall", "cpu"))
        print(f"{name:10}{wall:>9.1f}{cpu:>9.1f}{max(run.peak for run in spent) / 2**20:>10.0f}")
    faster = statistics.median(one.wall / two.wall for one, two in zip(runs["one"], runs["two"]))
    print(f"two beside one: {faster:.2f} times; the same bytes: {'yes' if len(set(bytes_of.values())) == 1 else 'no'}")


# --------------------------------------------------------------------------------------------------------- hostile


def hostile(work: Path, documents: int) -> None:
    draw = np.random.default_rng(SEED)
    long = " ".join(make_vocabulary(SEED)[draw.integers(0, 20_000, 3_000_000)])[:20_000_000]
    marks = ["".join(row) for row in draw.choice(list(".,;:!?-()…"), (min(documents, 1_000), 20))]
    numbers = np.arange(documents)
    cases: dict[str, pa.Table] = {
        "no words": pa.table({"text": [marks[number % len(marks)] for number in range(documents)]}),
        "20 MB of words": pa.table({"text": [long, long, "a few other words"]}),
        "20 MB of one letter": pa.table({"text": ["a" * 20_000_000, "b" * 20_000_000]}),
        "20 MB without spaces": pa.table({"text": ["漢字仮名" * (20_000_000 // 12)]}),
        "the same document": pa.table({"text": pa.array(["the same words in every document"] * documents)}),
        "one word each": pa.table({"text": [f"word{number}" for number in numbers.tolist()]}),
        "one id for all": pa.table(
            {"id": ["same"] * documents, "text": [f"text number {n}" for n in numbers.tolist()]}
        ),
    }
    print(
        f"{'':22}{'rows':>9}{'rejected':>9}{'kept':>9}{'dropped':>9}{'clusters':>9}{'largest':>9}{'CPU s':>8}"
        f"{'peak MiB':>10}"
    )
    for number, (name, table) in enumerate(cases.items()):
        file, run, output = work / f"{number}.parquet", work / f"run-{number}", work / f"out-{number}"
        pq.write_table(table, file, row_group_size=10_000)
        extract(file, run)
        spent = deduplicate(run, output, {"bands": BANDS, "rows": ROWS})
        found = decisions(output)
        kept, largest = int(found["keep"].sum()), int(found["cluster_size"].to_numpy().max())
        print(
            f"{name:22}{table.num_rows:>9}{table.num_rows - found.height:>9}{kept:>9}{found.height - kept:>9}"
            f"{found['cluster'].n_unique():>9}{largest:>9}{spent.cpu:>8.1f}{spent.peak / 2**20:>10.0f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all, where none is named")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=1, help="of `kernel`, `workers` and the largest of `scale`")
    parser.add_argument("--work", type=Path, help="folder for what is written; a temporary one if none is named")
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[Path], None]] = {
        "web": web,
        "speed": lambda work: speed(work, options.documents),
        "kernel": lambda work: kernel(work, options.documents, options.repeats),
        "scale": lambda work: scale(work, options.documents, options.repeats),
        "workers": lambda work: workers(work, options.documents, options.repeats),
        "hostile": lambda work: hostile(work, options.documents),
    }
    unknown = sorted(set(options.parts) - set(parts))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    for name, part in parts.items():
        if not options.parts or name in options.parts:
            print(f"\n{name}")
            with tempfile.TemporaryDirectory(dir=options.work, prefix=f"dedup-{name}-") as folder:
                part(Path(folder))


if __name__ == "__main__":
    main()
