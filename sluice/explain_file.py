"""`sluice extract --explain`: how files are read, page by page, and why. Nothing is written."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from pipelines.extract.found import Extracted, Found, PageFact, Rejected, Repair
from pipelines.extract.inputs import read_input, with_rejects
from pipelines.extract.listing import InputFile, list_source
from pipelines.extract.names import PAGE_LOCATOR
from pipelines.extract.packed import COMPRESSED_SUFFIXES, HEAD_BYTES, Unpacked, compression
from pipelines.extract.reader import sniff_kind
from schemas import paths
from schemas.recipe import Recipe
from sluice.console import console, size
from sluice.summary import PAGE_ROUTES, UNREADABLE
from sluice.text import aligned, printable

WORDS, REASON = 80, 90  # characters of a page's text and of a reason
LEAST_WORDS = 15  # columns of a terminal; fewer are not worth showing
SHOWN, RECORDS_SHOWN = 50, 3  # of one file: documents, as many rejects, but only a few lines or rows of a table
_STYLES = {"text_layer": "", "ocr": "yellow", "vlm": "cyan", "blank": "dim", UNREADABLE: "red"}
_HEAD = ["page", "route", "confidence", "characters", "why", "text"]
_RIGHT = (0, 2, 3)
# The last piece of a locator, where it names a place in a document or a record of a table.
_INNERMOST = re.compile(r"(?:^|!/)(?:page|part|line|row)=\d+$")
_RECORD = re.compile(r"(?:^|!/)(?:line|row)=\d+$")


@dataclass
class _Tally:
    files: int = 0
    documents: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)


def explain_files(recipe: Recipe) -> None:
    """Print how every file of the recipe's sources is read.

    A file that cannot be read is told as such and is no error. Raises ConfigError if a source has no file at all or a
    model's server is not as the recipe says, DataError if that server gives out.
    """
    found = [(source, list_source(source, recipe.seed)) for source in recipe.sources]
    total = _Tally()
    for source, files in found:
        for file in files:
            if total.files:
                console.print()
            read = with_rejects(read_input(file, source, recipe.extract), file)
            _File(file, recipe.extract.max_file_bytes, total).explain(read)
    if total.files > 1:
        console.print()
        console.print(Text(f"{total.files:,} files · {_sums(total)}", style="bold"), soft_wrap=True)


class _File:
    """One file: what was found so far in the innermost file that has pages, and what was told already."""

    def __init__(self, file: InputFile, limit: int, total: _Tally) -> None:
        self.file = file
        self.limit = limit  # bytes that it may unpack to
        self.total = total
        self.tally = _Tally()
        self.kind = ""
        self.home = ""
        self.facts: list[PageFact] = []
        self.words: dict[int, str] = {}
        self.bad_pages: Counter[str] = Counter()
        self.lines: list[list[str]] = []
        self.told: Counter[str] = Counter()
        self.left_out = False

    def explain(self, found: Iterator[Found]) -> None:
        self.kind, told = _kind(self.file, self.limit)
        parts = [self.file.path, size(self.file.size), *([told] if told else [])]
        console.print(Text(printable(" · ".join(parts), 400), style="bold"), soft_wrap=True)
        with console.status("reading") if console.is_terminal else _Still():
            for one in found:
                home = _INNERMOST.sub("", one.locator)
                if home != self.home:
                    self._tell()
                    self.home = home
                if isinstance(one, Repair):
                    accepted = sum(chunk.accepted for chunk in one.refined.chunks)
                    self._add("repaired", f"{accepted} of {len(one.refined.chunks)} pieces, by {one.model}")
                elif isinstance(one, PageFact):
                    self.facts.append(one)
                    self.tally.pages[_fate(one)] += 1
                elif isinstance(one, Extracted):
                    self._document(one)
                elif self.facts and re.search(PAGE_LOCATOR, one.locator):
                    self.tally.rejects[one.error] += 1
                    self.bad_pages[one.error] += 1  # the table of pages says the rest
                else:
                    self.tally.rejects[one.error] += 1
                    if self._may_tell("reject", SHOWN):
                        self._add("reject", " · ".join(part for part in (one.locator, one.error, one.message) if part))
        self._tell()
        if self.left_out:
            console.print(Text(f"  … and more; in all {_sums(self.tally)}", style="dim"), soft_wrap=True)
        self.total.files += 1
        self.total.documents += self.tally.documents
        self.total.pages += self.tally.pages
        self.total.rejects += self.tally.rejects

    def _document(self, found: Extracted) -> None:
        self.tally.documents += 1
        for page, begin, end in found.pages:
            self.words[page] = found.text[begin : min(end, begin + 2 * WORDS)]
        known = {"id": found.id, "url": found.url, "date": found.date, "licence": found.licence, **found.metadata}
        if known.get("kind") == self.kind:
            del known["kind"]
        parts = [*([found.locator] if found.locator else []), f"{len(found.text):,} characters"]
        parts += [f"{name.replace('_', ' ')}: {value}" for name, value in known.items() if value]
        if _RECORD.search(found.locator):
            told = self._may_tell("record", RECORDS_SHOWN)
        else:
            told = self._may_tell("document", SHOWN)
        if told:
            self._add("document", " · ".join(parts))
            if not found.pages:
                self._add("", " ".join(found.text[: 2 * WORDS].split())[:WORDS])

    def _may_tell(self, what: str, limit: int) -> bool:
        self.told[what] += 1
        self.left_out = self.left_out or self.told[what] > limit
        return self.told[what] <= limit

    def _add(self, what: str, text: str) -> None:
        self.lines.append([f"  {what:8}", printable(text, 600)])

    def _tell(self) -> None:
        """Print the pages, documents and rejects of one place, and forget them."""
        if self.facts and self._may_tell("table of pages", SHOWN):
            if self.home:
                console.print(Text(f"  {printable(self.home, 300)}"), soft_wrap=True)
            _show_pages(self.facts, self.words)
        for error, number in self.bad_pages.most_common():
            self._add("reject", f"{number:,} page{'s' * (number != 1)} · {error}")
        for what, text in self.lines:
            style = "red" if what.strip() == "reject" else "" if what.strip() else "dim"
            console.print(Text(f"{what}  {text}", style=style), soft_wrap=True)
        self.facts, self.words, self.lines = [], {}, []
        self.bad_pages.clear()


class _Still:
    """Shows nothing while a file is read."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _kind(file: InputFile, limit: int) -> tuple[str, str]:
    """What a file is, and all of it in words, such as `gzip of html, by its first bytes`; empty where that fails."""
    name, packed = file.path.rpartition("/")[2], ""
    try:
        with paths.open_read(file.location) as handle:
            head = handle.read(HEAD_BYTES)
            if packing := compression(head):
                handle.seek(0)
                head, packed = Unpacked(handle, packing, limit).read(HEAD_BYTES), f"{packing} of "
                name = name.rpartition(".")[0] if name.lower().endswith(tuple(COMPRESSED_SUFFIXES)) else name
    except (OSError, Rejected):
        return "", ""
    if not head:
        return "", f"{packed}nothing"
    kind = sniff_kind(head, name)
    if kind == "text":
        why = "having no signature and no other extension"
    elif kind == sniff_kind(head, ""):
        why = "its zero bytes" if kind == "binary" else "its first bytes"
    else:
        why = "its extension" if "." in name.lstrip(".") else "its name"
    return kind, f"{packed}{kind}, by {why}"


def _fate(fact: PageFact) -> str:
    return UNREADABLE if fact.error else fact.route


def _show_pages(facts: list[PageFact], words: dict[int, str]) -> None:
    rows = []
    for fact in facts:
        fate = _fate(fact)
        why = f"{fact.error}: {fact.reason}" if fact.error else fact.reason
        text = " ".join(words.get(fact.page, "").split())
        confidence = "–" if fact.error else f"{fact.confidence:.2f}"
        shown = (printable(why, REASON), printable(text, WORDS))
        route = printable(PAGE_ROUTES.get(fate, fate), 20)
        rows.append([f"{fact.page:,}", route, confidence, f"{fact.characters:,}", *shown])
    table = [_HEAD, *rows]
    if console.is_terminal:
        table = _fitted(table, console.width)
    styles = ["dim", *(_STYLES.get(_fate(fact), "") for fact in facts)]
    for line, style in zip(aligned([["", *row] for row in table], right=[1 + column for column in _RIGHT]), styles):
        console.print(Text(line, style=style), soft_wrap=True)


def _fitted(table: list[list[str]], width: int) -> list[list[str]]:
    """Rows that fit into a line of the terminal: the words of the page go where there is no room for them."""
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(_HEAD))]
    gap = 2
    room = width - sum(gap + one for one in widths[:-2]) - gap
    why = widths[-2] if room - widths[-2] - gap >= LEAST_WORDS else room
    words = room - why - gap
    return [[*row[:-2], _cut(row[-2], why), *([_cut(row[-1], words)] if words > 0 else [])] for row in table]


def _cut(text: str, cells: int) -> str:
    cut = Text(text)
    cut.truncate(max(1, cells), overflow="ellipsis")
    return cut.plain


def _sums(tally: _Tally) -> str:
    parts = [f"{tally.documents:,} document{'s' * (tally.documents != 1)}"]
    if tally.pages:
        routes = ", ".join(
            f"{tally.pages[route]:,} {name}" for route, name in PAGE_ROUTES.items() if tally.pages[route]
        )
        parts.append(f"{tally.pages.total():,} page{'s' * (tally.pages.total() != 1)} ({routes})")
    if tally.rejects:
        errors = ", ".join(f"{error} {number:,}" for error, number in tally.rejects.most_common())
        parts.append(f"{tally.rejects.total():,} reject{'s' * (tally.rejects.total() != 1)} ({printable(errors)})")
    return " · ".join(parts)
