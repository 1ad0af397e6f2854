"""Near-duplicates: speed of the signatures and of the whole stage, and recall by the share of edited words.

    python benchmarks/dedup.py [--documents 4000] [--shards 4]

The corpus is made from a seed: documents of 460 words (about 3,000 characters) whose words follow Zipf's law; half of
them are copies of the other half with 1, 2, 3, 5 or 10 % of the words replaced, inserted or deleted. datasketch
computes the same signatures from the same n-grams in the same process. All figures are per CPU second.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import regex
from datasketch import MinHash

from pipelines.dedup import kernels
from pipelines.dedup.stage import run
from schemas.documents import DOCUMENTS
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import check_recipe
from schemas.tables import read_table, write_table

WORDS = 460
EDITS = (0.01, 0.02, 0.03, 0.05, 0.10)
BANDS, ROWS, NGRAM = 14, 8, 5


class Silence:
    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass


def corpus(documents: int, seed: int) -> list[tuple[str, str]]:
    """(path, text) of every document: `base/7`, and `0.02/7`, which is that text with 2 % of its words edited."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    vocabulary = np.array(["".join(draw.choice(letters, size)) for size in draw.integers(2, 11, 50_000)], object)

    def words(count: int) -> np.ndarray:
        return vocabulary[np.exp(draw.random(count) * np.log(len(vocabulary))).astype(int)]  # of rank r: as 1 / r

    found = []
    for number in range(documents // 2):
        base = words(WORDS)
        share = EDITS[number % len(EDITS)]
        edited = base.copy()
        for place in draw.choice(WORDS, round(share * WORDS), replace=False):
            kind = draw.integers(3)
            new = words(1)[0]
            edited[place] = new if kind == 0 else f"{edited[place]} {new}" if kind == 1 else ""
        found += [(f"base/{number}", " ".join(base)), (f"{share}/{number}", " ".join(edited))]
    return found


def make_job(documents: list[tuple[str, str]], shards: int, root: Path) -> Job:
    files = []
    for shard in range(shards):
        rows = [
            {
                "document_id": document_id("made", path, ""),
                "text_hash": text_hash(text),
                "text": text,
                "source": "made",
                "path": path,
                "locator": "",
                "metadata": [],
                "pages": [],
            }
            for path, text in documents[shard::shards]
        ]
        table = pa.Table.from_pylist(rows, schema=DOCUMENTS)
        files.append(write_table(str(root / "extract"), f"documents/{shard:05d}.parquet", table))
    manifest = Manifest(stage="extract", version=1, key="", config={}, inputs={}, files=files)
    write_manifest(str(root / "extract"), manifest)
    (root / "output").mkdir()
    recipe = check_recipe({"name": "benchmark", "sources": [{"name": "made", "path": "."}]}, root)
    return Job(recipe, {"extract": str(root / "extract")}, str(root / "output"), Silence())


def ours(texts: list[str]) -> None:
    maps = kernels.permutations(0, BANDS * ROWS)
    for begin in range(0, len(texts), 320):  # about the stage's batch
        part = texts[begin : begin + 320]
        signature = kernels.signatures(*kernels.shingles(kernels.split_words(part), NGRAM), maps)
        kernels.band_keys(signature, BANDS, [""] * len(part))


def theirs(texts: list[str]) -> None:
    grams = []
    for text in texts:
        words = regex.findall(r"\w+", text.lower())
        grams.append([" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)])
    MinHash.bulk(grams, num_perm=BANDS * ROWS)


def rate(documents: int, work: object, *arguments: object) -> float:
    begin = time.process_time()
    work(*arguments)  # type: ignore[operator]
    return documents / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    documents = corpus(options.documents, 0)
    texts = [text for _, text in documents]
    print(f"{len(texts)} documents, {sum(map(len, texts)) / len(texts):.0f} characters each")

    ours(texts[:10])  # tables are made once
    few = texts[: max(100, len(texts) // 10)]
    # Turns about, best of three: other work on the machine slows single measurements down.
    speed = max(rate(len(texts), ours, texts) for _ in range(3))
    peer = max(rate(len(few), theirs, few) for _ in range(3))
    print(f"signatures and band keys: {speed:7.0f} documents per CPU second")
    print(f"datasketch MinHash.bulk:  {peer:7.0f} documents per CPU second ({speed / peer:.1f} times slower)")

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(documents, options.shards, Path(folder))
        begin = time.process_time()
        output = run(job)
        seconds = time.process_time() - begin
        print(
            f"whole stage:              {len(texts) / seconds:7.0f} documents per CPU second ({seconds:.1f} s in all)"
        )
        names = {document_id("made", path, ""): path for path, _ in documents}
        rows = [row for entry in output.files for row in read_table(f"{job.output}/{entry.path}").to_pylist()]
    cluster = {names[row["document_id"]]: row["cluster_id"] for row in rows}
    found: Counter[float] = Counter()
    total: Counter[float] = Counter()
    for path, _ in documents:
        share, number = path.split("/")
        if share != "base":
            total[float(share)] += 1
            found[float(share)] += cluster[path] == cluster[f"base/{number}"]
    members: dict[bytes, set[str]] = {}
    for path, name in cluster.items():
        members.setdefault(name, set()).add(path.split("/")[1])
    wrong = sum(len(numbers) > 1 for numbers in members.values())
    print("recall by edited words:   " + "  ".join(f"{share:.0%} {found[share] / total[share]:.3f}" for share in EDITS))
    print(f"clusters of unrelated documents: {wrong}")


if __name__ == "__main__":
    main()
