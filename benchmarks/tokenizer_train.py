"""BPE training beside Hugging Face `tokenizers`: CPU seconds and peak memory on the same text.

    python -m benchmarks.tokenizer_train --texts FILE.parquet [--megabytes 20] [--size 32000] [--rounds 1]

Each training runs in a process of its own, which also holds the text; the memory of a process that only reads
the text is the first row. "same" counts the tokens that both vocabularies share.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.encode import read_documents

TRAINERS = ("read", "sluice", "tokenizers")


def train_here(trainer: str, texts: Path, megabytes: float, size: int, folder: Path) -> None:
    """Run one trainer and print its cost as JSON."""
    documents = read_documents(texts, megabytes)
    begin = time.process_time()
    if trainer == "sluice":
        from tokenizer.train import train

        train(documents, size, folder)
    elif trainer == "tokenizers":
        train_reference(documents, size, folder)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    read = sum(len(text.encode()) for text in documents) / 1e6
    print(json.dumps({"seconds": seconds, "peak": peak, "megabytes": read}))


def train_reference(documents: list[str], size: int, folder: Path) -> None:
    """The plain way: `train_from_iterator` with Qwen's pre-tokenizer."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    from tokenizer.qwen import ADDED_TOKENS, PATTERN

    reference = tokenizers.Tokenizer(models.BPE())
    reference.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(ADDED_TOKENS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(documents, trainer)
    reference.save(str(folder / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        train_here(arguments.only, arguments.texts, arguments.megabytes, arguments.size, arguments.folder)
        return

    costs: dict[str, list[dict[str, float]]] = {trainer: [] for trainer in TRAINERS}
    vocabularies: dict[str, set[str]] = {}
    for _ in range(arguments.rounds):
        for trainer in TRAINERS:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks.tokenizer_train", *sys.argv[1:]]
                command += ["--only", trainer, "--folder", folder]
                run = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
                costs[trainer].append(json.loads(run.stdout))
                if trainer != "read":
                    written = json.loads((Path(folder) / "tokenizer.json").read_bytes())
                    vocabularies[trainer] = set(written["model"]["vocab"])

    same = len(vocabularies["sluice"] & vocabularies["tokenizers"])
    print(f"{costs['read'][0]['megabytes']:.1f} MB -> {arguments.size} tokens\n")
    print("| trainer | CPU seconds | peak MB | same |\n|---|---|---|---|")
    for trainer, runs in costs.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        peak = statistics.median(run["peak"] for run in runs)
        shared = f"{same} of {len(vocabularies[trainer])}" if trainer in vocabularies else ""
        print(f"| {trainer} | {seconds:.1f} | {peak:.0f} | {shared} |")


if __name__ == "__main__":
    main()
