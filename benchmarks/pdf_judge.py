"""How well text layers are judged: false alarms on real text, misses on text from fonts with wrong maps to Unicode.

    python -m benchmarks.pdf_judge [--model letters.npz] [--labels eng_Latn,hun_Latn]

Texts of about 60, 120, 400 and 1,500 characters are made of held-out lines of one label at a time; each is also sent
through every kind of wrong map (see `pipelines.extract.train_judge`), and both are judged as a page of one font. The
held-out source files are judged as pages too. With `--model` a model made by `train_judge --without LABELS` shows how
unknown languages do. Last come the pages of the shared PDF files, with the judge's CPU time beside that of
`page.get_text()`.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pymupdf

from pipelines.extract import letters
from pipelines.extract.judge import judge
from pipelines.extract.page import Line, PageContent, Unreadable
from pipelines.extract.pdf_pymupdf import open_pdf
from pipelines.extract.train_judge import FONTS, Lines, code_files, labelled_lines, misread

SHARED = Path(__file__).parents[2] / "shared" / "data"
SIZES = (60, 120, 400, 1500)
_TEXTS = 20  # of a label and size


def page(lines: Lines) -> PageContent:
    """Lines as a page of one font."""
    block = [Line(line, (72.0, 12.0 * at, 540.0, 12.0 * at + 10.0), 10.0) for at, line in enumerate(lines)]
    return PageContent(1, 612.0, 792.0, [block])


def suspected(lines: Lines) -> bool:
    return judge(page(lines)).route == "ocr"


def texts(lines: Lines, size: int) -> list[Lines]:
    """Neighbouring lines in groups of that many characters, the last line cut."""
    groups: list[Lines] = []
    group: Lines = []
    length = 0
    for line in lines:
        group.append(line[: size - length])
        length += len(group[-1])
        if length >= size:
            groups.append(group)
            group, length = [], 0
    return groups[:_TEXTS]


def by_size(labels: frozenset[str]) -> None:
    held_out = {label: lines for label, lines in labelled_lines(SHARED, "dev").items() if not labels or label in labels}
    print(f"{'share of texts taken for wrong':42}" + "".join(f"{size:>8}" for size in SIZES))
    alarms: dict[int, Counter[str]] = {}
    caught: dict[str, list[float]] = {}
    shares = []
    for size in SIZES:
        random = np.random.default_rng(2)
        alarms[size] = Counter()
        count = 0
        found: Counter[str] = Counter()
        tried: Counter[str] = Counter()
        for label, lines in held_out.items():
            for group in texts(lines, size):
                count += 1
                alarms[size][label] += suspected(group)
                for font in FONTS:
                    mapped = font(group, random)
                    wrong = [line.translate(mapped) for line in group]
                    if wrong != group:
                        tried[font.__name__] += 1
                        found[font.__name__] += suspected(wrong)
                if not label.endswith("Latn"):  # which stays readable but for its accents
                    wrong = misread(group, label[-4:], random)
                    tried["misread"] += 1
                    found["misread"] += suspected(wrong)
        shares.append(alarms[size].total() / count)
        for name, number in tried.items():
            caught.setdefault(name, []).append(found[name] / number)
    print(f"{'real text: false alarms':42}" + "".join(f"{100 * share:7.2f}%" for share in shares))
    for name, row in caught.items():
        print(f"{name.replace('_', ' ') + ': caught':42}" + "".join(f"{100 * share:7.1f}%" for share in row))
    for size in SIZES:
        print(
            f"labels with false alarms at {size}: {dict(alarms[size].most_common(6)) if alarms[size].total() else '-'}"
        )


def code() -> None:
    pages = [lines[at : at + 60] for lines in code_files(SHARED, held_out=True) for at in range(0, len(lines), 60)]
    print(f"held-out source code: {sum(map(suspected, pages))} of {len(pages)} pages taken for wrong")


def files() -> None:
    seconds: Counter[str] = Counter()
    routes: Counter[tuple[str, str, str]] = Counter()
    pages = 0
    for path in sorted((SHARED / "pdf").rglob("*.pdf")):
        try:
            document = open_pdf(str(path), [])
        except Unreadable:
            continue
        plain = pymupdf.open(path)
        for number in range(1, document.page_count + 1):
            try:
                content = document.read(number)
            except Unreadable:
                continue
            start = time.process_time()
            verdict = judge(content)
            seconds["judge"] += time.process_time() - start
            start = time.process_time()
            plain[number - 1].get_text()
            seconds["get_text"] += time.process_time() - start
            pages += 1
            if verdict.route == "ocr" and content.blocks:
                kind = "made wrong" if path.name.startswith("tounicode") else path.parent.name
                routes[kind, path.name, verdict.reason] += 1
        document.close()
    print(f"pages of PDF files with text, sent to recognition (of {pages}):")
    for (kind, name, reason), count in sorted(routes.items()):
        print(f"  {count} {kind}: {name}: {reason}")
    each = {name: 1000 * spent / pages for name, spent in seconds.items()}
    share = seconds["judge"] / seconds["get_text"]
    print(f"CPU a page: judge {each['judge']:.2f} ms, get_text {each['get_text']:.2f} ms, ratio {share:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pdf_judge")
    parser.add_argument("--model", type=Path, help="another model than the packaged one")
    parser.add_argument("--labels", default="", help="only these")
    arguments = parser.parse_args()
    if arguments.model:
        letters.MODEL = arguments.model
    letters.load()
    by_size(frozenset(filter(None, arguments.labels.split(","))))
    code()
    if not arguments.model:
        files()


if __name__ == "__main__":
    main()
