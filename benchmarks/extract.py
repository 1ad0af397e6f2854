"""What extraction costs as a run pays it: the parent, the child process that reads PDF, and the pipe between them.

    python -m benchmarks.extract [--rounds N]

CPU seconds of this process and of all its children, which are ended before the clock is read, beside the bare library
on the same files in the same run. The child is started once a measurement, as in a run, and what that takes is part of
the figure; the line `start of a child` says how much it is. `benchmarks.pdf` and `benchmarks.html` measure the readers
without the processes.

The last table are the damaged, encrypted, fuzzed and enormous PDF files of the shared data, all together, each in a
child with its limits and without recognition: what they take, which takes longest, and what becomes of them.
"""

import argparse
import json
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymupdf

from pipelines.extract.found import Extracted, Found, Reject
from pipelines.extract.isolate import close_children, read_isolated
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "pdf"
CORPUS = ROOT / "examples" / "quickstart" / "documents"
HOSTILE = re.compile(
    r"encrypted|protected|fuzzed|crasher|xref|circular|cycle|bomb|very large|header then EOF|truncated|corrupted|junk"
    r"|empty file|no page|bad scan|JavaScript|without contents|odd numbers|invalid"
)
"""What the shared manifest says of a hostile file, in `exercises`."""


@dataclass
class Spent:
    """Seconds of a block: CPU of this process and its children, and by the clock."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def measured() -> Iterator[Spent]:
    """No child is there before the block, and those that it starts are ended with it, so that they count."""

    def cpu() -> float:
        close_children()
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    spent = Spent()
    before, began = cpu(), time.perf_counter()
    yield spent
    spent.wall = time.perf_counter() - began
    spent.cpu = cpu() - before


def extracted(file: Path, **options: str) -> list[Found]:
    return list(extract_file(file, file.name, Extract(ocr="none", **options), Columns(text="body")))


def ours(files: list[Path]) -> int:
    """Characters of the documents."""
    return sum(len(found.text) for file in files for found in extracted(file) if isinstance(found, Extracted))


def bare_pdf(files: list[Path]) -> int:
    total = 0
    for file in files:
        with pymupdf.open(file) as document:
            total += sum(len(page.get_text()) for page in document)
    return total


def bare_text(files: list[Path]) -> int:
    return sum(len(file.read_text()) for file in files)


def bare_lines(files: list[Path]) -> int:
    return sum(len(json.loads(line)["body"]) for file in files for line in file.read_text().splitlines())


def page_count(files: list[Path]) -> int:
    count = 0
    for file in files:
        with pymupdf.open(file) as document:
            count += len(document)
    return count


def speed(rounds: int) -> None:
    debian = sorted((SHARED / "debian").glob("*.pdf"), key=lambda file: file.stat().st_size)[:12]
    pdfs = [*debian, *sorted((SHARED / "plumber").glob("*.pdf"))] or sorted(CORPUS.glob("pdf/*.pdf"))
    texts, records = sorted(CORPUS.glob("text/*")) * 20, sorted(CORPUS.glob("records/*.jsonl")) * 20
    lines = sum(len(file.read_text().splitlines()) for file in records)
    rows: list[tuple[str, list[Path], int, str, Callable[[list[Path]], int]]] = [
        ("PDF pages", pdfs, page_count(pdfs), "get_text", bare_pdf),
        ("text files", texts, len(texts), "read_text", bare_text),
        ("JSON lines", records, lines, "json.loads", bare_lines),
    ]
    print(
        f"{'each CPU second':16}{'count':>7}{'sluice':>9}{'bare':>9}{'ratio':>7}{'characters':>12}{'bare':>12}  bare is"
    )
    for name, files, count, peer, bare in rows:
        bare(files)  # fills the caches
        with measured() as sluice:
            characters = sum(ours(files) for _ in range(rounds)) // rounds
        with measured() as alone:
            bare_characters = sum(bare(files) for _ in range(rounds)) // rounds
        speeds = "".join(f"{count * rounds / spent.cpu:>9,.0f}" for spent in (sluice, alone))
        ratio = alone.cpu / sluice.cpu
        print(f"{name:16}{count:>7,}{speeds}{ratio:>7.2f}{characters:>12,}{bare_characters:>12,}  {peer}")
    with measured() as start:
        read_isolated("pdf_open", {"path": str(pdfs[0]), "backend": "pymupdf", "passwords": []}, b"", 60.0)
    print(f"start of a child: {start.cpu:.2f} CPU seconds")


def hostile() -> None:
    manifest = [json.loads(line) for line in (SHARED / "MANIFEST.jsonl").read_text().splitlines()]
    files = [SHARED / row["file"] for row in manifest if HOSTILE.search(row.get("exercises", ""))]
    head = f"{len(files)} hostile PDF files"
    print(f"\n{head:24}{'CPU s':>7}{'wall s':>8}  slowest, and what became of them")
    for backend in ("pymupdf", "pypdfium2"):
        outcomes: Counter[str] = Counter()
        slowest = 0.0, ""
        with measured() as spent:
            for file in files:
                began = time.perf_counter()
                found = extracted(file, pdf_backend=backend)
                slowest = max(slowest, (time.perf_counter() - began, file.name))
                whole = [one.error for one in found if isinstance(one, Reject) and not one.locator]
                outcomes.update(whole or ["documents"])
        told = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
        print(f"{backend:24}{spent.cpu:>7.1f}{spent.wall:>8.1f}  {slowest[1]} {slowest[0]:.1f} s; {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    pymupdf.TOOLS.mupdf_display_errors(False)
    speed(rounds)
    if SHARED.is_dir():
        hostile()


if __name__ == "__main__":
    main()
