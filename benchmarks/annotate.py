"""Speed of the annotators: documents per CPU second on one thread.

    python benchmarks/annotate.py [--documents 1000]

Reads the web corpus of ../shared/data where it is present, else the documentation strings and sources of this Python
installation, and cuts or joins the texts to documents of about 3,000 characters, so that figures compare.
"""

import argparse
import json
import sysconfig
import time
from pathlib import Path

import pyarrow as pa

from annotators.table import annotate, annotator, needs
from schemas.documents import DOCUMENTS
from schemas.hashing import document_id, text_hash
from schemas.labels import ANNOTATORS

CORPUS = Path(__file__).parents[2] / "shared" / "data" / "web" / "web_corpus.jsonl.zst"
CHARACTERS = 3000


def texts() -> tuple[str, str]:
    """Name of the text set, and its whole text."""
    if CORPUS.is_file():
        with pa.input_stream(CORPUS, compression="zstd") as stream:
            lines = stream.read().splitlines()
        return "web corpus", "\n\n".join(json.loads(line)["text"] for line in lines)
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(library.glob("*.py")) + sorted(library.glob("pydoc_data/*.py"))
    return "Python library", "\n\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def batch_of(text: str, count: int) -> pa.RecordBatch:
    """At most `count` documents of 3,000 characters, evenly spaced over `text`."""
    pieces = [text[begin : begin + CHARACTERS] for begin in range(0, len(text), CHARACTERS)]
    return batch_of_texts(pieces[:: max(1, len(pieces) // count)][:count])


def batch_of_texts(texts: list[str]) -> pa.RecordBatch:
    """A document of each text."""
    rows = [
        {
            "document_id": document_id("benchmark", "", str(number)),
            "text_hash": text_hash(text),
            "text": text,
            "source": "benchmark",
            "path": "",
            "locator": str(number),
            "metadata": [],
            "pages": [],
        }
        for number, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Documents per CPU second of every annotator.")
    parser.add_argument("--documents", type=int, default=1000)
    name, text = texts()
    batch = batch_of(text, parser.parse_args().documents)
    megabytes = batch["text"].nbytes / 1e6
    print(f"{name}: {batch.num_rows} documents, {megabytes:.1f} MB\n")
    print(f"{'annotator':<14}{'documents/s':>12}{'MB/s':>8}")
    total = 0.0
    for label in ANNOTATORS:
        given = annotate(batch, needs(label))
        module, needed = annotator(label), [given[name] for name in needs(label)]
        module.annotate(batch.slice(0, 10), *(labels.slice(0, 10) for labels in needed))  # loads the model
        started = time.process_time()
        module.annotate(batch, *needed)
        seconds = time.process_time() - started
        total += seconds
        print(f"{label:<14}{batch.num_rows / seconds:>12.0f}{megabytes / seconds:>8.1f}")
    print(f"{'all':<14}{batch.num_rows / total:>12.0f}{megabytes / total:>8.1f}")


if __name__ == "__main__":
    main()
