"""Encoding speed beside Hugging Face `tokenizers`: MB of UTF-8 per CPU second, same input, same ids, one run.

    python -m benchmarks.encode --tokenizer FOLDER --texts FILE.parquet [--megabytes 10] [--rounds 5]

FOLDER holds a `tokenizer.json`; the file has a `text` column. Lines are joined to documents of about 2,000 characters.
The rounds of the two encoders alternate, and the median is shown, so that a busy machine slows both alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import tokenizers

from tokenizer.qwen import Tokenizer


def read_documents(path: Path, megabytes: float, characters: int = 2000) -> list[str]:
    """About `megabytes` MB of documents from the `text` column of a Parquet file."""
    documents: list[str] = []
    lines: list[str] = []
    size = total = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
        for line in batch.column(0).to_pylist():
            lines.append(line)
            size += len(line)
            if size >= characters:
                documents.append("\n".join(lines))
                total += len(documents[-1].encode())
                lines, size = [], 0
                if total >= megabytes * 1e6:
                    return documents
    return [*documents, "\n".join(lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    documents = read_documents(arguments.texts, arguments.megabytes)
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    ours = Tokenizer.load(arguments.tokenizer)
    reference = tokenizers.Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    encoders: dict[str, Callable[[], list[list[int]]]] = {
        "sluice": lambda: [ids.tolist() for ids in ours.encode_batch(documents)],
        "tokenizers": lambda: [encoding.ids for encoding in reference.encode_batch_fast(documents)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    results: dict[str, list[list[int]]] = {}
    for _ in range(arguments.rounds):
        for name, encode in encoders.items():
            begin = time.process_time()
            results[name] = encode()
            seconds[name].append(time.process_time() - begin)

    differing = sum(a != b for a, b in zip(results["sluice"], results["tokenizers"]))
    tokens = sum(map(len, results["sluice"]))
    print(f"{megabytes:.1f} MB, {len(documents)} documents, {tokens} tokens, {differing} documents differ\n")
    print("| encoder | MB per CPU second | slowest | fastest |\n|---|---|---|---|")
    for name, values in seconds.items():
        speeds = [megabytes / value for value in values]
        print(f"| {name} | {statistics.median(speeds):.2f} | {min(speeds):.2f} | {max(speeds):.2f} |")


if __name__ == "__main__":
    main()
