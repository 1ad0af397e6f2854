"""PDF text layers to Markdown: likeness to the truth by class of file, and pages per CPU second, beside bare libraries.

    python -m benchmarks.pdf [--only FOLDER] [--files] [--no-speed]

Two figures a class, both on characters with white space and Markdown marks removed from either side by the same
function, and characters brought to Unicode's form NFKC:

    5-gram   F1 of the multisets of character 5-grams: what is there, wherever it stands
    order    normalised Indel similarity, 2 * longest common subsequence / (length + length): what is there, in order;
             of the first 100,000 characters of the truth and the same share of the other text

`columns, typeset` and `books, typeset` are set here from shared texts, with running headers and page numbers, by code
that knows the order: their truth is exact. The truth of `debian/` is the same manual wrapped by another program, so a
perfect reader scores about .95; that of `docling/` is the checked output of another converter. Where the truth is TeX
or HTML source, the figures are the recall of its words and the likeness of their order. Pages without a text layer are
no part of this. The last line counts the checks of `olmocr/` that ask for text or for order.
"""

import argparse
import html
import importlib
import json
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pymupdf
import pypdfium2
from rapidfuzz.distance import Indel

from pipelines.extract.assemble import assemble
from pipelines.extract.judge import judge
from pipelines.extract.layout import lay_out
from pipelines.extract.page import Box, Page
from pipelines.extract.tables import find_tables

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pdf"
_ORDERED = 100_000  # characters of which the order is compared: the time grows with the square
_WRITTEN_IN_SQUARES = {"ja", "ko", "zh-cn", "zh-Hant", "zh_CN"}

# --- readers ---


def sluice(path: Path, backend: str) -> str:
    document = importlib.import_module(f"pipelines.extract.pdf_{backend}").open_pdf(str(path), [])
    pages = []
    for number in range(1, document.page_count + 1):
        content = document.read(number)
        blocks = lay_out(content, find_tables(content, document))
        pages.append(Page(number, "text_layer", "", 1.0, content.width, content.height, blocks))
    document.close()
    return assemble(pages)[0]


def bare_pymupdf(path: Path, sort: bool = False) -> str:
    with pymupdf.open(path) as document:
        return "\n".join(page.get_text(sort=sort) for page in document)


def bare_pdfium(path: Path) -> str:
    document = pypdfium2.PdfDocument(path)
    text = "\n".join(page.get_textpage().get_text_range() for page in document)
    document.close()
    return text.replace("\r", "").replace("\ufffe", "-\n")


READERS: dict[str, Callable[[Path], str]] = {
    "sluice": lambda path: sluice(path, "pymupdf"),
    "sluice pdfium": lambda path: sluice(path, "pypdfium2"),
    "get_text": bare_pymupdf,
    "sort=True": lambda path: bare_pymupdf(path, sort=True),
    "pypdfium2": bare_pdfium,
}

# --- likeness ---

_MARKS = re.compile(r"^\s*(?:#{1,6}\s|[-*+•‣◦∙●○■□▪–\uf0b7]\s+|>\s|```\w*|<!--.*-->)", re.MULTILINE)
_RULES = re.compile(r"^[\s|:=*_~^+#━═─-]+$", re.MULTILINE)
_INLINE = re.compile(r"\*\*|`|\||[•‣◦●▪\uf0b7]|<br\s*/?>|\\(?=[_*#|])")
_LEADERS = re.compile(r"(?:[.·…_]\s?){4,}")  # to the page numbers of a table of contents


def bare_characters(text: str) -> str:
    """Text without Markdown, bullets, leaders and white space."""
    text = html.unescape(unicodedata.normalize("NFKC", text))
    for marks in (_MARKS, _RULES, _INLINE, _LEADERS):
        text = marks.sub("", text)
    return "".join(text.split())


def f1(got: Counter[str], wanted: Counter[str]) -> float:
    common = (got & wanted).total()
    return 2 * common / max(1, got.total() + wanted.total())


def grams(text: str) -> Counter[str]:
    return Counter(text[i : i + 5] for i in range(max(1, len(text) - 4)))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).replace("\u0640", ""))


def source_words(text: str) -> list[str]:
    """Words that a reader sees of TeX or HTML source."""
    if "<html" in text or "<body" in text:
        return words(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<head>.*?</head>", " ", text)))
    body = text.split("\\begin{document}", 1)[-1].split("\\end{document}", 1)[0]
    body = re.sub(
        r"(?<!\\)%.*|\\(?:begin|end|usepackage|label|ref|cite|input|include\w*|lipsum|blindtext)\b(?:\[.*?\])?"
        r"(?:\{.*?\})*(?:\[.*?\])?",
        " ",
        body,
    )
    body = re.sub(r"\\textsu(?:per|b)script\{([^{}]*)\}", r"\1", body)
    return words(re.sub(r"\\[a-zA-Z]+\*?(?:\[[^\]]*\])?|[{}$&~\\]", " ", body))


def likeness(got: str, truth: str, source: bool) -> tuple[float, float]:
    if source:
        wanted, found = source_words(truth), words(got)
        recall = (Counter(found) & Counter(wanted)).total() / max(1, len(wanted))
        kept = [word for word in found if word in set(wanted)]
        return recall, Indel.normalized_similarity(kept, wanted)
    a, b = bare_characters(got), bare_characters(truth)
    share = min(1.0, _ORDERED / max(1, len(b)))
    return f1(grams(a), grams(b)), Indel.normalized_similarity(a[: round(share * len(a))], b[:_ORDERED])


# --- files ---


@dataclass(frozen=True)
class Case:
    group: str
    path: Path
    truth: str
    source: bool = False


def group_of(row: dict[str, str]) -> str:
    what = row["exercises"].lower()
    rules = (
        ("column", "columns"),
        ("right-to-left", "right to left"),
        ("arabic", "right to left"),
        ("form", "code, formulas, forms"),
        ("paper page with tables", "tables"),
        ("korean", "tables"),
    )
    for word, group in rules:
        if word in what and not (word == "form" and "formula" not in what and what != "form"):
            return group
    if row["file"].startswith("debian/"):
        return "books, CJK" if row["language"] in _WRITTEN_IN_SQUARES else "books"
    return "one column"


def shared_cases() -> Iterator[Case]:
    for line in (SHARED / "MANIFEST.jsonl").read_text().splitlines():
        row = json.loads(line)
        truth = row.get("ground_truth", "")
        readable = row.get("text_layer_chars") and "unreliable" not in row.get("exercises", "")
        if not truth or not readable or truth.endswith(".jsonl") or "lost nearly all glyphs" in row["exercises"]:
            continue
        source = truth.endswith((".tex", ".html"))
        yield Case(group_of(row), SHARED / row["file"], (SHARED / truth).read_text(), source)


def typeset_cases(folder: Path) -> Iterator[Case]:
    """Books set from shared texts, in one to three columns, drawn column by column or line by line across them."""
    for name, columns, across in (
        ("project-history.en", 1, False),
        ("project-history.de", 2, False),
        ("project-history.fr", 2, True),
        ("project-history.pt", 3, False),
    ):
        paragraphs = (SHARED / "truth" / f"{name}.txt").read_text().split("\n\n")
        paragraphs = [" ".join(paragraph.split()) for paragraph in paragraphs if len(paragraph) > 150][:60]
        path = folder / f"{name}-{columns}-{across}.pdf"
        typeset(paragraphs, columns, across, path)
        yield Case("books, typeset" if columns == 1 else "columns, typeset", path, "\n\n".join(paragraphs))


def typeset(paragraphs: list[str], columns: int, across: bool, path: Path) -> None:
    """Wrapped lines with broken words in columns, under a running header and over a page number."""
    size, leading, width, gutter = 10.0, 12.5, 500.0, 20.0
    column = (width - gutter * (columns - 1)) / columns
    font = pymupdf.Font("tiro")
    lines: list[tuple[str, bool]] = []
    for paragraph in paragraphs:
        lines.extend(_wrap(paragraph, font, size, column))
        lines[-1] = (lines[-1][0], True)
    document = pymupdf.open()
    per_column = 48
    for number, begin in enumerate(range(0, len(lines), per_column * columns), 1):
        page = document.new_page()
        writer = pymupdf.TextWriter(page.rect)
        header = f"{number}   A HISTORY" if number % 2 == 0 else f"{path.stem.split('.')[0].upper()}   {number}"
        writer.append((50, 40), header, font, 8)
        writer.write_text(page)
        part = lines[begin : begin + per_column * columns]
        places = [(index // per_column, index % per_column, text) for index, (text, _) in enumerate(part)]
        if across:
            places.sort(key=lambda place: place[1])
        for x, y, text in places:
            writer = pymupdf.TextWriter(page.rect)  # one for each line: the file's order is the order of writing
            writer.append((50 + x * (column + gutter), 80 + y * leading), text, font, size)
            writer.write_text(page)
        writer = pymupdf.TextWriter(page.rect)
        writer.append((290, 760), f"– {number} –", font, 8)
        writer.write_text(page)
    document.save(path)


def _wrap(paragraph: str, font: pymupdf.Font, size: float, width: float) -> Iterator[tuple[str, bool]]:
    line = "    "
    for word in paragraph.split():
        while font.text_length(f"{line}{word}", size) > width:
            room = next(
                (
                    cut
                    for cut in range(len(word) - 3, 2, -1)
                    if word[: cut + 1].isalpha() and font.text_length(f"{line}{word[:cut]}-", size) <= width
                ),
                0,
            )
            if room and word[room].islower():
                yield f"{line}{word[:room]}-", False
                line, word = "", word[room:]
            elif line.strip():
                yield line.rstrip(), False
                line = ""
            else:
                break
        line += word + " "
    yield line.rstrip(), True


def checks() -> Iterator[tuple[str, int]]:
    """For each reader, the checks of olmocr/ passed that ask for text or for order."""
    for name, reader in READERS.items():
        passed = 0
        for truth in sorted((SHARED / "truth").glob("olmocr-*.checks.jsonl")):
            path = SHARED / "olmocr" / (truth.name.removeprefix("olmocr-").removesuffix(".checks.jsonl") + ".pdf")
            text = bare_characters(reader(path)).casefold()
            for line in truth.read_text().splitlines():
                check = json.loads(line)
                if check["type"] == "present":
                    passed += bare_characters(check["text"]).casefold() in text
                elif check["type"] == "order":
                    first = text.find(bare_characters(check["before"]).casefold())
                    passed += 0 <= first < text.find(bare_characters(check["after"]).casefold())
        yield name, passed


# --- speed ---


class _Watched:
    """A document that tells whether a page was taken for a table candidate: then its rulings are asked for."""

    def __init__(self, document: object) -> None:
        self.document = document
        self.asked = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.document, name)

    def rulings(self, number: int) -> list[Box]:
        self.asked = True
        return self.document.rulings(number)  # type: ignore[attr-defined]


def speed(backend: str, paths: list[Path], step: int) -> None:
    """Pages per CPU second of the whole road, JSON included, beside the bare library on the same pages."""
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    pages: Counter[bool] = Counter()
    for path in paths:
        bare = pymupdf.open(path)
        opened = importlib.import_module(f"pipelines.extract.pdf_{backend}").open_pdf(str(path), [])
        watched = _Watched(opened)
        kept: dict[bool, list[Page]] = {False: [], True: []}
        for number in range(1, opened.page_count + 1, step):
            begin = time.process_time()
            bare[number - 1].get_text()
            middle = time.process_time()
            watched.asked = False
            content = opened.read(number)
            verdict = judge(content)
            blocks = lay_out(content, find_tables(content, watched))  # type: ignore[arg-type]
            page = Page(number, verdict.route, verdict.reason, 1.0, content.width, content.height, blocks)
            page = Page.from_json(json.loads(json.dumps(page.to_json()).encode()))
            end = time.process_time()
            seconds["bare", watched.asked] += middle - begin
            seconds["ours", watched.asked] += end - middle
            pages[watched.asked] += 1
            kept[watched.asked].append(page)
        for asked, read in kept.items():
            begin = time.process_time()
            assemble(read)
            seconds["ours", asked] += time.process_time() - begin
        opened.close()
        bare.close()
    for asked, name in ((False, "plain pages"), (True, "table candidates")):
        if pages[asked]:
            ours, bare_seconds = seconds["ours", asked], seconds["bare", asked]
            print(
                f"{backend:10} {name:18} {pages[asked]:6} {pages[asked] / ours:9.0f} {pages[asked] / bare_seconds:9.0f}"
                f" {bare_seconds / ours:7.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names of the files to read")
    parser.add_argument("--files", action="store_true", help="a line for each file too")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--step", type=int, default=2, help="every which page the speed is measured on")
    options = parser.parse_args()
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    scores: dict[str, list[dict[str, tuple[float, float]]]] = defaultdict(list)
    print(f"{'5-gram / order':34}" + "".join(f"{name:>16}" for name in READERS))
    with TemporaryDirectory() as folder:
        for case in [*shared_cases(), *typeset_cases(Path(folder))]:
            if options.only not in str(case.path):
                continue
            score = {name: likeness(reader(case.path), case.truth, case.source) for name, reader in READERS.items()}
            group = case.group + (" (words of source)" if case.source else "")
            scores[group].append(score)
            if options.files:
                print(
                    f"  {case.path.stem[:31]:32}" + "".join(f"{a:>9.3f} {b:.3f} " for a, b in score.values()),
                    flush=True,
                )
    for group, files in sorted(scores.items()):
        means = [tuple(sum(file[name][i] for file in files) / len(files) for i in (0, 1)) for name in READERS]
        print(f"{f'{group} [{len(files)}]':34}" + "".join(f"{a:>9.3f} {b:.3f} " for a, b in means))
    if not options.only:
        print(f"{'checks of olmocr/ passed':34}" + "".join(f"{passed:>16}" for _, passed in checks()))
    if not options.no_speed:
        print(f"\n{'backend':10} {'pages':18} {'count':>6} {'ours/s':>9} {'bare/s':>9} {'ratio':>7}")
        paths = sorted((SHARED / "debian").glob("*.pdf")) + sorted((SHARED / "plumber").glob("*.pdf"))
        for backend in ("pymupdf", "pypdfium2"):
            speed(backend, [path for path in paths if options.only in str(path)], options.step)


if __name__ == "__main__":
    main()
