"""A page as a list of blocks: paragraphs, headings, list items, code, tables; each with the boxes it stands in.

The walk keeps a stack of its own and touches every element once, so its time grows with the page and with nothing
else. It judges nothing: what a visitor would not see is left out, everything else is there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml.html import HtmlElement

_SKIPPED = frozenset(
    "script style noscript template svg iframe object embed canvas audio video map select datalist button input "
    "textarea head title meta link dialog frame noframes param source track area progress meter rp rt".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer "
    "form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup p pre search section "
    "summary table tbody td tfoot th thead tr ul".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INSIDE_NO_HEADING = ("p", "ul", "ol", "dl", "table", "pre", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6")
_CODE = frozenset({"code", "kbd", "samp", "tt"})
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
# What only assistive software or an editor of the page would read out.
_UNSEEN_CLASS = re.compile(
    r"(?:^|\s)(?:sr-only|screen-reader(?:-text)?|visually-?hidden|mw-editsection|headerlink|anchorjs-link|"
    r"MathJax(?:_\w+)?|MJX_Assistive_MathML|katex-html)(?:\s|$)"
)
_CODE_LANGUAGE = re.compile(r"(?:^|[\s;])(?:lang(?:uage)?-|highlight-(?:source-)?|brush:\s*)([\w+#.-]{1,20})")
_LINE_NUMBERS = re.compile(r"[\d\s]*")
_BREAK = "\x0b"  # of a line; the parser lets no such character through
_MAX_COLUMNS = 50
_MAX_CELL = 600  # characters; longer ones are prose in a layout table
_TEX_SCRIPT = re.compile(r"math/tex", re.I)


@dataclass(slots=True)
class Block:
    """A piece of a page in Markdown, without the marks of the lists and quotes around it."""

    kind: str  # p, h1 to h6, pre, table
    text: str
    box: int  # index into Page.boxes
    links: int  # characters that lie in links
    quotes: int  # depth of quotations
    items: tuple[tuple[int, str], ...]  # the list items around it, outermost first: (identity, mark)
    language: str = ""  # of code


@dataclass(slots=True)
class Box:
    """A block-level element."""

    parent: int  # index of the box around it, -1 for the root
    tag: str
    name: str  # its class, id, role and itemprop


@dataclass(slots=True)
class HtmlPage:
    blocks: list[Block] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    elements: int = 0
    depth: int = 0  # of the deepest element


def _is_unseen(element: HtmlElement, tag: str, classes: str) -> bool:
    if tag in {"html", "body"}:  # scripts that show the page once it has loaded begin by hiding it
        return False
    if element.get("hidden") is not None or (classes and _UNSEEN_CLASS.search(classes)):
        return True
    style = element.get("style")
    return bool(style and _HIDDEN_STYLE.search(style[:1000]))


def _squeeze(text: str) -> str:
    if _BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)


def _tex(element: HtmlElement) -> str:
    """The TeX source of a formula, if the page carries it."""
    for annotation in element.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "").lower():
            return " ".join((annotation.text or "").split())
    return " ".join((element.get("alttext") or "").split())


# --- tables ---------------------------------------------------------------------------------------------------


def _cell_text(cell: HtmlElement) -> tuple[str, int]:
    """The text of a cell on one line, and how many of its characters lie in links."""
    parts: list[str] = []
    links = 0
    stack: list[tuple[Iterator[HtmlElement], str | None, bool]] = [(iter(cell), None, False)]
    if cell.text:
        parts.append(cell.text)
    while stack:
        children, tail, linked = stack[-1]
        for child in children:
            tag = child.tag
            if not isinstance(tag, str) or tag in _SKIPPED or _is_unseen(child, tag, child.get("class") or ""):
                if child.tail:
                    parts.append(child.tail)
                continue
            if tag == "br" or tag in _BLOCKS:
                parts.append(" ")
            inside = linked or tag == "a"
            if text := child.text:
                parts.append(text)
                if inside:
                    links += len(text)
            stack.append((iter(child), child.tail, inside))
            break
        else:
            stack.pop()
            if tail:
                parts.append(tail)
                if stack and stack[-1][2]:
                    links += len(tail)
    text = " ".join("".join(parts).split())
    return text, min(links, len(text))


def _span(cell: HtmlElement, name: str) -> int:
    value = cell.get(name) or "1"
    return min(max(int(value), 1), _MAX_COLUMNS) if value.isascii() and value.isdigit() and len(value) < 6 else 1


def _read_table(table: HtmlElement) -> tuple[str, int] | None:
    """A table of data as Markdown and its characters in links; None if it only arranges parts of the page."""
    rows: list[HtmlElement] = []
    cells = blocks = 0
    # Stopping at the first table inside keeps nested ones from being read once per level.
    for element in table.iterdescendants():
        tag = element.tag
        if tag == "table":
            return None
        if tag == "tr":
            rows.append(element)
        elif tag in {"td", "th"}:
            cells += 1
        elif tag in {"h1", "h2", "h3", "h4", "form", "pre", "article", "section"}:
            return None
        elif tag in {"p", "div", "li"}:
            blocks += 1
    if len(rows) < 2 or cells < 2 * len(rows) - 1 or blocks > 2 * cells:
        return None
    lines: list[list[str]] = []
    links = 0
    carried: dict[int, int] = {}  # column -> rows that a cell from above still fills
    for row in rows:
        line: list[str] = []
        for cell in row.iterchildren("td", "th"):
            while carried.get(len(line), 0):
                carried[len(line)] -= 1
                line.append("")
            text, linked = _cell_text(cell)
            if len(text) > _MAX_CELL:
                return None
            links += linked
            height = _span(cell, "rowspan") - 1
            for column in range(_span(cell, "colspan")):
                if height:
                    carried[len(line)] = height
                line.append("" if column else text.replace("|", "\\|"))
            if len(line) > _MAX_COLUMNS:
                return None
        while carried.get(len(line), 0):
            carried[len(line)] -= 1
            line.append("")
        if any(line):
            lines.append(line)
    width = max(map(len, lines), default=0)
    # Columns that are empty everywhere only make room.
    used = [column for column in range(width) if any(column < len(line) and line[column] for line in lines)]
    if len(used) < 2 or len(lines) < 2:
        return None
    table_rows = [[line[column] if column < len(line) else "" for column in used] for line in lines]
    table_rows.insert(1, ["---"] * len(used))
    return "\n".join("| " + " | ".join(line) + " |" for line in table_rows), links


# --- the walk -------------------------------------------------------------------------------------------------


def _read_code(pre: HtmlElement) -> tuple[str, str]:
    """The text of a `<pre>` as it stands, and the language that its classes name."""
    parts: list[str] = []
    language = _CODE_LANGUAGE.search(pre.get("class") or "")
    stack: list[tuple[Iterator[HtmlElement], str | None]] = [(iter(pre), None)]
    if pre.text:
        parts.append(pre.text)
    while stack:
        children, tail = stack[-1]
        for child in children:
            tag = child.tag
            if isinstance(tag, str) and tag not in _SKIPPED:
                if tag == "code" and not language:
                    language = _CODE_LANGUAGE.search(child.get("class") or "")
                if (tag == "br" or tag in {"div", "p", "li", "tr"}) and parts and not parts[-1].endswith("\n"):
                    parts.append("\n")
                if child.text:
                    parts.append(child.text)
                stack.append((iter(child), child.tail))
                break
            if child.tail:
                parts.append(child.tail)
        else:
            stack.pop()
            if tail:
                parts.append(tail)
    code = "".join(parts).replace(_BREAK, "\n").replace("\r\n", "\n").replace("\xa0", " ")
    lines = [line.rstrip() for line in code.expandtabs(4).split("\n")]
    return "\n".join(lines).strip("\n"), language[1].lower() if language else ""


class _Walk:
    """The blocks of a page so far, and the paragraph that is being collected."""

    def __init__(self) -> None:
        self.page = HtmlPage()
        self.parts: list[str] = []
        self.linked = 0  # characters of the parts that lie in links
        self.boxes = [-1]
        self.items: list[tuple[int, str]] = []
        self.quotes = 0
        self.heading = 0

    def flush(self) -> None:
        if not self.parts:
            return
        text = _squeeze("".join(self.parts))
        self.parts.clear()
        links, self.linked = min(self.linked, len(text)), 0
        if text:
            kind = f"h{self.heading}" if self.heading else "p"
            if self.heading:
                text = text.replace("\n", " ")
            self.add(kind, text, links)

    def add(self, kind: str, text: str, links: int, language: str = "") -> None:
        block = Block(kind, text, self.boxes[-1], links, self.quotes, tuple(self.items[-8:]), language)
        self.page.blocks.append(block)

    def text(self, text: str | None, link: int) -> None:
        if text:
            self.parts.append(text)
            if link:
                self.linked += len(text)

    def line_break(self) -> None:
        """One starts a line; a second one, with nothing between them, starts a paragraph."""
        for part in reversed(self.parts):
            if part == _BREAK:
                self.flush()
                return
            if not part.isspace():
                break
        if self.parts and not self.heading:
            self.parts.append(_BREAK)
        else:
            self.parts.append(" ")


def _mark(item: HtmlElement, counters: list[int | None]) -> str:
    """`-`, or the number of a list item, which this also counts on."""
    if not counters or counters[-1] is None:
        return "-"
    value = item.get("value") or ""
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 7 else counters[-1] + 1
    counters[-1] = number
    return f"{number}."


def read_blocks(root: HtmlElement) -> HtmlPage:
    """Every visible block of a page, in the order of its markup."""
    walk = _Walk()
    boxes = walk.page.boxes
    link = 0  # depth of links
    counters: list[int | None] = []  # of the lists around; None for those without numbers
    code_starts: list[int] = []
    identity = elements = depth = 0
    # (children, tag, tail, whether it opened a box); `tag` is what to undo at the end.
    stack: list[tuple[Iterator[HtmlElement], str, str | None, bool]] = [(iter((root,)), "", None, False)]
    while stack:
        children, tag, tail, boxed = stack[-1]
        child = next(children, None)
        if child is not None:
            tag = child.tag
            if not isinstance(tag, str):
                walk.text(child.tail, link)
                continue
            if ":" in tag:
                tag = tag.rpartition(":")[2]
            tail = child.tail
            if tag in _SKIPPED:
                if tag == "script" and _TEX_SCRIPT.search(child.get("type") or "") and child.text:
                    walk.parts.append(f" ${' '.join(child.text.split())}$ ")
                walk.text(tail, link)
                continue
            classes = child.get("class") or ""
            if tag == "br":
                walk.line_break()
                walk.text(tail, link)
                continue
            if _is_unseen(child, tag, classes):
                walk.text(tail, link)
                continue
            if tag == "math":
                if tex := _tex(child):
                    walk.parts.append(f"${tex}$")
                    walk.text(tail, link)
                    continue
            elif tag == "annotation":
                walk.text(tail, link)
                continue
            boxed = tag in _BLOCKS and not walk.heading
            if boxed:
                walk.flush()
                name = " ".join(filter(None, (classes, child.get("id"), child.get("role"), child.get("itemprop"))))
                boxes.append(Box(walk.boxes[-1], tag, name[:300]))
                walk.boxes.append(len(boxes) - 1)
                if tag == "pre":
                    code, language = _read_code(child)
                    if code.strip() and not _LINE_NUMBERS.fullmatch(code):
                        walk.add("pre", code, 0, language)
                    walk.boxes.pop()
                    walk.text(tail, link)
                    continue
                if tag == "table" and (table := _read_table(child)) is not None:
                    walk.add("table", table[0], len(table[0]) if link else table[1])
                    walk.boxes.pop()
                    walk.text(tail, link)
                    continue
                if tag == "li":
                    identity += 1
                    walk.items.append((identity, _mark(child, counters)))
                elif tag == "ol":
                    start = child.get("start") or ""
                    counters.append(int(start) - 1 if start.isascii() and start.isdigit() and len(start) < 7 else 0)
                elif tag in {"ul", "menu", "dir"}:
                    counters.append(None)
                elif tag == "blockquote":
                    walk.quotes += 1
                elif tag in _HEADINGS and next(child.iterdescendants(*_INSIDE_NO_HEADING), None) is None:
                    walk.heading = _HEADINGS[tag]
            elif tag == "a":
                link += child.get("href") is not None
                tag = "a" if child.get("href") is not None else "span"
            elif tag in _CODE and not walk.heading:
                code_starts.append(len(walk.parts))
                walk.parts.append("")
                tag = "code"
            elif tag in _BLOCKS:
                walk.parts.append(" ")
            walk.text(child.text, link)
            stack.append((iter(child), tag, tail, boxed))
            elements += 1
            if len(stack) > depth:
                depth = len(stack)
            continue
        stack.pop()
        if boxed:
            walk.flush()
            walk.boxes.pop()
            if tag == "li":
                walk.items.pop()
            elif tag in {"ol", "ul", "menu", "dir"}:
                counters.pop()
            elif tag == "blockquote":
                walk.quotes -= 1
            elif tag in _HEADINGS:
                walk.heading = 0
        elif tag == "a":
            link -= 1
        elif tag == "code":
            begin = code_starts.pop()
            code = " ".join("".join(walk.parts[begin:]).split())
            # A block inside has begun a new paragraph, and then this is no inline code.
            if code and begin < len(walk.parts) and walk.parts[begin] == "" and "`" not in code:
                walk.parts[begin:] = [f"`{code}`"]
        elif tag in _BLOCKS:
            walk.parts.append(" ")
        walk.text(tail, link)
    walk.flush()
    walk.page.elements, walk.page.depth = elements, depth
    return walk.page
