"""Extraction speed: pages and documents per second beside the bare libraries, on the same files in the same run.

    python -m benchmarks.extract [--rounds N]

Wall time, because PDF and HTML are read by a child process; one core at a time. Uses the shared data folder where it
is, else the built-in corpus.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pymupdf
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipelines.extract.found import Extracted
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "pdf" / "debian"
CORPUS = ROOT / "examples" / "quickstart" / "documents"


def ours(files: list[Path]) -> int:
    """Characters that the kernel extracts."""
    columns = Columns(text="body")
    return sum(
        len(found.text)
        for file in files
        for found in extract_file(file, file.name, Extract(), columns)
        if isinstance(found, Extracted)
    )


def bare_pdf(files: list[Path]) -> int:
    total = 0
    for file in files:
        with pymupdf.open(file) as document:
            total += sum(len(page.get_text()) for page in document)
    return total


def bare_html(files: list[Path]) -> int:
    trees = (HTMLTree.parse_from_bytes(file.read_bytes()) for file in files)
    return sum(len(extract_plain_text(tree, main_content=True, comments=False)) for tree in trees)


def median(work: Callable[[list[Path]], int], files: list[Path], rounds: int) -> tuple[float, int]:
    characters = work(files)  # starts the child, fills the caches
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work(files)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    pymupdf.TOOLS.mupdf_display_errors(False)
    pdfs = sorted(SHARED.glob("*.pdf"), key=lambda file: file.stat().st_size)[:8] or sorted(CORPUS.glob("pdf/*.pdf"))
    pages = 0
    for file in pdfs:
        with pymupdf.open(file) as document:
            pages += len(document)
    pages_html = sorted(CORPUS.glob("html/*.html")) * 20
    lines = sorted(CORPUS.glob("records/*.jsonl")) * 20
    print(f"{'input':12} {'reader':28} {'units/s':>10} {'characters':>12} {'median of':>10}")
    for kind, files, units, readers in (
        ("PDF pages", pdfs, pages, {"sluice": ours, "pymupdf get_text()": bare_pdf}),
        ("HTML pages", pages_html, len(pages_html), {"sluice": ours, "resiliparse": bare_html}),
        ("text files", sorted(CORPUS.glob("text/*")) * 20, len(list(CORPUS.glob("text/*"))) * 20, {"sluice": ours}),
        ("JSONL files", lines, len(lines), {"sluice": ours}),
    ):
        for name, reader in readers.items():
            seconds, characters = median(reader, files, rounds)
            print(f"{kind:12} {name:28} {units / seconds:>10,.0f} {characters:>12,} {rounds:>10}")


if __name__ == "__main__":
    main()
