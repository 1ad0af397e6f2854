"""A page as a list of blocks: paragraphs, headings, list items, code, tables; each with the boxes it stands in.

The walk keeps a stack of its own and touches every element once, so its time grows with the page and with nothing
else. It judges nothing: what a visitor would not see is left out, everything else is there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml.etree import _Element

_SKIPPED = frozenset(
    "script style noscript template svg iframe object embed canvas audio video map select datalist button input "
    "textarea head title meta link dialog frame param source track area progress meter rp rt".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer "
    "form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup p pre search section "
    "summary table tbody td tfoot th thead tr ul".split()
)
_ROW_GROUPS = frozenset({"table", "tbody", "thead", "tfoot"})
_LISTS = frozenset({"ul", "menu", "dir"})
_NAMING = ("id", "role", "itemprop")  # with the class, what a box is called
_NEVER_HIDDEN = frozenset({"html", "body"})  # scripts that show a page once it has loaded begin by hiding it
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


def _is_hidden(element: _Element) -> bool:
    if element.get("hidden") is not None:
        return True
    style = element.get("style")
    return style is not None and _HIDDEN_STYLE.search(style[:1000]) is not None


def _squeeze(text: str) -> str:
    if _BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)


def _tex(element: _Element) -> str:
    """The TeX source of a formula, if the page carries it."""
    for annotation in element.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "").lower():
            return " ".join((annotation.text or "").split())
    return " ".join((element.get("alttext") or "").split())


# --- tables ---------------------------------------------------------------------------------------------------


def _cell_text(cell: _Element) -> tuple[str, int]:
    """The text of a cell on one line, and how many of its characters lie in links."""
    parts: list[str] = []
    links = 0
    stack: list[tuple[Iterator[_Element], str | None, bool]] = [(iter(cell), None, False)]
    if cell.text:
        parts.append(cell.text)
    while stack:
        children, tail, linked = stack[-1]
        for child in children:
            tag = child.tag
            if tag in _SKIPPED or _is_hidden(child) or _UNSEEN_CLASS.search(child.get("class") or ""):
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


def _span(cell: _Element, name: str) -> int:
    value = cell.get(name) or "1"
    return min(max(int(value), 1), _MAX_COLUMNS) if value.isascii() and value.isdigit() and len(value) < 6 else 1


def _read_table(table: _Element) -> tuple[str, int] | None:
    """A table of data as Markdown and its characters in links; None if it only arranges parts of the page."""
    rows: list[_Element] = []
    cells = blocks = 0
    # Stopping at the first table inside keeps nested ones from being read once per level.
    for element in table.iterdescendants():
        tag = element.tag
        if tag == "table":
            return None
        if tag == "tr":
            parent = element.getparent()
            if parent is None or parent.tag not in _ROW_GROUPS:
                return None
            rows.append(element)
        elif tag in {"td", "th"}:
            cells += 1
        elif tag in {"h1", "h2", "h3", "h4", "form", "pre", "article", "section"}:
            return None
        elif tag in {"p", "div", "li"}:
            blocks += 1
    if len(rows) < 2 or 2 * cells < 3 * len(rows) or blocks > 2 * cells:
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


def _read_code(pre: _Element) -> tuple[str, str]:
    """The text of a `<pre>` as it stands, and the language that its classes name."""
    parts: list[str] = []
    language = _CODE_LANGUAGE.search(pre.get("class") or "")
    stack: list[tuple[Iterator[_Element], str | None]] = [(iter(pre), None)]
    if pre.text:
        parts.append(pre.text)
    while stack:
        children, tail = stack[-1]
        for child in children:
            tag = child.tag
            if tag not in _SKIPPED:
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
        if text and (self.parts or not text.isspace()):
            self.parts.append(text)
            if link:
                self.linked += len(text)

    def line_break(self) -> None:
        """One starts a line; a second one, with nothing between them, starts a paragraph."""
        if self.heading or not self.parts:
            self.parts.append(" ")
            return
        for part in reversed(self.parts):
            if part == _BREAK:
                self.flush()
                return
            if not part.isspace():
                break
        self.parts.append(_BREAK)


def _mark(item: _Element, counters: list[int | None]) -> str:
    """`-`, or the number of a list item, which this also counts on."""
    if not counters or counters[-1] is None:
        return "-"
    value = item.get("value") or ""
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 7 else counters[-1] + 1
    counters[-1] = number
    return f"{number}."


def read_blocks(root: _Element) -> HtmlPage:
    """Every visible block of a page, in the order of its markup."""
    walk = _Walk()
    boxes, parts = walk.page.boxes, walk.parts
    link = 0  # depth of links
    counters: list[int | None] = []  # of the lists around; None for those without numbers
    code_starts: list[int] = []
    unseen: dict[str, bool] = {}  # class attribute -> what its names say
    identity = elements = depth = 0
    # (children, tag, tail, whether it opened a box): the tag is what to undo at the end.
    stack: list[tuple[Iterator[_Element], str, str | None, bool]] = [(iter((root,)), "", None, False)]
    while stack:
        children, tag, tail, boxed = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
        else:
            tag, tail = child.tag, child.tail
            if ":" in tag:
                tag = tag.rpartition(":")[2]
            elements += 1
            if tag in _SKIPPED:
                if tag == "script" and child.text and _TEX_SCRIPT.search(child.get("type") or ""):
                    parts.append(f"${' '.join(child.text.split())}$")
                walk.text(tail, link)
                continue
            if tag == "br":
                walk.line_break()
                walk.text(tail, link)
                continue
            classes, hidden = "", False
            if attributes := child.keys():
                if "class" in attributes and (classes := child.get("class") or ""):
                    known = unseen.get(classes)
                    if known is None:
                        known = unseen[classes] = _UNSEEN_CLASS.search(classes) is not None
                    hidden = known
                if "style" in attributes and _HIDDEN_STYLE.search((child.get("style") or "")[:1000]):
                    hidden = True
                if (hidden or "hidden" in attributes) and tag not in _NEVER_HIDDEN:
                    walk.text(tail, link)
                    continue
            boxed = tag in _BLOCKS and not walk.heading
            if boxed:
                if parts:
                    walk.flush()
                name = classes
                for attribute in _NAMING:
                    if attribute in attributes:
                        name += " " + (child.get(attribute) or "")
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
                elif tag in _LISTS:
                    counters.append(None)
                elif tag == "blockquote":
                    walk.quotes += 1
                elif tag in _HEADINGS and next(child.iterdescendants(*_INSIDE_NO_HEADING), None) is None:
                    walk.heading = _HEADINGS[tag]
            elif tag == "a":
                if child.get("href") is None:
                    tag = "span"
                else:
                    link += 1
            elif tag in _CODE:
                if code_starts:
                    tag = "span"
                else:
                    code_starts.append(len(parts))
                    parts.append("")
                    tag = "code"
            elif tag == "math" or tag == "annotation":
                tex = _tex(child) if tag == "math" else ""
                if tex or tag == "annotation":
                    parts.append(tex and f"${tex}$")
                    walk.text(tail, link)
                    continue
            elif tag in _BLOCKS:
                parts.append(" ")
            text = child.text
            if text and (parts or not text.isspace()):
                parts.append(text)
                if link:
                    walk.linked += len(text)
            if len(child):
                stack.append((iter(child), tag, tail, boxed))
                if len(stack) > depth:
                    depth = len(stack)
                continue
        # The end of an element.
        if boxed:
            if parts:
                walk.flush()
            walk.boxes.pop()
            if tag == "li":
                walk.items.pop()
            elif tag == "ol" or tag in _LISTS:
                counters.pop()
            elif tag == "blockquote":
                walk.quotes -= 1
            elif tag in _HEADINGS:
                walk.heading = 0
        elif tag == "a":
            link -= 1
        elif tag == "code":
            begin = code_starts.pop()
            raw = "".join(parts[begin:])
            code = " ".join(raw.split())
            # A block inside has begun a new paragraph, and then this is no inline code.
            if code and begin < len(parts) and parts[begin] == "" and "`" not in code:
                parts[begin:] = [" " * raw[0].isspace() + f"`{code}`" + " " * raw[-1].isspace()]
        elif tag in _BLOCKS:
            parts.append(" ")
        if tail and (parts or not tail.isspace()):
            parts.append(tail)
            if link:
                walk.linked += len(tail)
    walk.flush()
    walk.page.elements, walk.page.depth = elements, depth
    return walk.page
