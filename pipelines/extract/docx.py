"""A Word document (DOCX) as Markdown: headings, lists, tables, code, footnotes; and what it says of itself.

Runs in the child process (see `isolate`). Deleted and hidden text, field codes, comments, headers and footers are left
out. Format: ECMA-376, part 1, chapters 17 (WordprocessingML) and 15.2 (parts of a package).
"""

import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field

from lxml import etree

from pipelines.extract.epub import parse_xml
from pipelines.extract.found import Rejected
from pipelines.extract.packed import Budget
from pipelines.extract.zips import NamedFiles, read_named_files

_PART_BYTES = 128 << 20
_UNPACKED_BYTES = 1 << 30
_DEPTH = 40  # of blocks in one another
_STYLES = 20  # based on one another

_HEADING = re.compile(r"heading ?([1-9])")
_DEEPER_LIST = re.compile(r"list (?:bullet|number|continue|paragraph) ([2-5])")
_CODE = re.compile(r"\b(?:code|preformatted|listing|verbatim|source)\b")
_DELETED = frozenset({"del", "moveFrom", "pPr", "rPr", "instrText", "delText", "delInstrText", "commentReference"})
_BLOCKS = frozenset({"sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag"})


@dataclass
class _Style:
    name: str = ""
    based_on: str = ""
    level: int | None = None  # of a heading, from 0
    list_id: str = ""
    list_level: int | None = None


@dataclass
class _Block:
    """A paragraph or table; `kind` is text, code or list with its id, and decides what stands before the next one."""

    kind: str
    text: str


@dataclass
class _Reader:
    styles: dict[str, _Style]
    ordered: dict[tuple[str, int], bool]  # (list, level) -> whether it is numbered
    max_characters: int
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # ids in the order of their references
    characters: int = 0

    # --- inside a paragraph ---

    def text(self, element: etree._Element, boxes: list[etree._Element], depth: int = 0) -> str:
        """The text of a paragraph or of anything in one; text boxes found on the way are kept for later."""
        parts: list[str] = []
        for child in element:
            name = _name(child)
            if name in _DELETED or depth > _DEPTH:
                continue
            if name == "t":
                parts.append(child.text or "")
            elif name == "tab":
                parts.append("\t")
            elif name in ("br", "cr"):
                parts.append("\n" if child.get(_w("type")) not in ("page", "column") else "")
            elif name == "noBreakHyphen":
                parts.append("-")
            elif name == "footnoteReference" or name == "endnoteReference":
                parts.append(self.note(name[:-9], child.get(_w("id"), "")))
            elif name == "txbxContent":
                boxes.append(child)
            elif name == "AlternateContent":  # the same drawing several times, for readers of several ages
                parts.append(self.text(child[0], boxes, depth + 1) if len(child) else "")
            elif name == "oMath":
                formula = "".join(one.text or "" for one in child.iter() if _name(one) == "t").strip()
                parts.append(f"${formula}$" if formula else "")
            elif name == "r" and _is_hidden(child):
                continue
            else:
                parts.append(self.text(child, boxes, depth + 1))
        return "".join(parts)

    def note(self, kind: str, number: str) -> str:
        key = f"{kind} {number}"
        if key not in self.notes:
            self.notes.append(key)
        return f"[^{self.notes.index(key) + 1}]"

    # --- blocks ---

    def blocks(self, parent: etree._Element, depth: int = 0) -> list[_Block]:
        found: list[_Block] = []
        if depth > _DEPTH:
            return found
        for child in parent:
            name = _name(child)
            if name == "p":
                boxes: list[etree._Element] = []
                if block := self.paragraph(child, boxes):
                    found.append(block)
                for box in boxes:
                    found += self.blocks(box, depth + 1)
            elif name == "tbl":
                found += self.table(child, depth + 1)
            elif name in _BLOCKS:
                found += self.blocks(child, depth + 1)
            elif name == "AlternateContent" and len(child):
                found += self.blocks(child[0], depth + 1)
        return found

    def paragraph(self, element: etree._Element, boxes: list[etree._Element]) -> _Block | None:
        text = self.text(element, boxes).strip("\n")
        self.characters += len(text)
        if self.characters > self.max_characters:
            raise Rejected("too_large", f"more than {self.max_characters} characters")
        if not text.strip():
            return None
        properties = element.find(_w("pPr"))
        style = self.style(_value(properties, "pStyle"))
        if _CODE.search(style.name):
            return _Block("code", text)
        text = "\n".join(" ".join(line.split()) for line in text.split("\n"))
        level = _number(_value(properties, "outlineLvl"), style.level)
        if style.name == "title":
            level = 0
        if level is not None and 0 <= level < 9:
            return _Block("text", "#" * min(level + 1, 6) + " " + text.replace("\n", " "))
        numbering = properties.find(_w("numPr")) if properties is not None else None
        list_id = _value(numbering, "numId") or style.list_id
        if list_id and list_id != "0":
            level = _number(_value(numbering, "ilvl"), style.list_level) or 0
            if level == 0 and (deeper := _DEEPER_LIST.fullmatch(style.name)):
                level = int(deeper[1]) - 1
            return _Block(f"list {list_id}", self.item(text, list_id, level))
        return _Block("text", text.replace("\n", "  \n"))

    def item(self, text: str, list_id: str, level: int) -> str:
        level = min(max(level, 0), 8)
        for deeper in range(level + 1, 9):
            self.counts.pop((list_id, deeper), None)
        self.counts[list_id, level] += 1
        mark = f"{self.counts[list_id, level]}. " if self.ordered.get((list_id, level)) else "- "
        indent = "  " * level
        return indent + mark + text.replace("\n", "\n" + indent + " " * len(mark))

    def style(self, identity: str) -> _Style:
        """A paragraph's style with what it takes from those that it is based on."""
        result = _Style()
        for _ in range(_STYLES):
            style = self.styles.get(identity)
            if style is None:
                break
            result.name = result.name or style.name
            result.level = style.level if result.level is None else result.level
            result.list_id = result.list_id or style.list_id
            result.list_level = style.list_level if result.list_level is None else result.list_level
            if result.level is None and (found := _HEADING.fullmatch(style.name)):
                result.level = int(found[1]) - 1
            identity = style.based_on
        return result

    def table(self, element: etree._Element, depth: int) -> list[_Block]:
        """A Markdown table; one of a single column is a frame around paragraphs and gives those."""
        rows: list[list[list[_Block]]] = []
        for row in _within(element, "tr"):
            cells: list[list[_Block]] = []
            for cell in _within(row, "tc"):
                properties = cell.find(_w("tcPr"))
                merged = properties is not None and properties.find(_w("vMerge")) is not None
                begins = merged and _value(properties, "vMerge") == "restart"
                cells.append([] if merged and not begins else self.blocks(cell, depth))
                span = _number(_value(properties, "gridSpan"), 1) or 1
                cells += [[] for _ in range(min(span, 100) - 1)]
            rows.append(cells)
        rows = [row for row in rows if any(row)]
        width = max(map(len, rows), default=0)
        if width <= 1:
            return [block for row in rows for cell in row for block in cell]
        lines = []
        for number, row in enumerate(rows):
            texts = [" ".join(block.text for block in cell) for cell in row]
            texts = [" ".join(text.split()).replace("|", "\\|") for text in texts] + [""] * (width - len(row))
            lines.append("| " + " | ".join(texts) + " |")
            if number == 0:
                lines.append("|" + " --- |" * width)
        return [_Block("text", "\n".join(lines))]


def _name(element: etree._Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"


def _w(name: str) -> str:
    return _WORD + name


def _value(parent: etree._Element | None, name: str) -> str:
    child = parent.find(_w(name)) if parent is not None else None
    return child.get(_w("val"), "") if child is not None else ""


def _number(text: str, default: int | None) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 6 else default


def _is_hidden(run: etree._Element) -> bool:
    properties = run.find(_w("rPr"))
    hidden = properties.find(_w("vanish")) if properties is not None else None
    return hidden is not None and hidden.get(_w("val"), "1") not in ("0", "false", "off")


def _within(parent: etree._Element, wanted: str, depth: int = 0) -> list[etree._Element]:
    """Rows or cells, also those in content controls and in insertions."""
    found = []
    for child in parent:
        name = _name(child)
        if name == wanted:
            found.append(child)
        elif name in _BLOCKS and depth < _DEPTH:
            found += _within(child, wanted, depth + 1)
    return found


def _part(files: NamedFiles, name: str) -> etree._Element | None:
    data = files.read(name, _PART_BYTES)
    # The strict form of the format has the same elements under another name.
    return parse_xml(data.replace(_STRICT[1:-1].encode(), _WORD[1:-1].encode())) if data else None


def _main_part(files: NamedFiles) -> str:
    relations = _part(files, "_rels/.rels")
    for relation in relations if relations is not None else ():
        target = relation.get("Target", "").lstrip("/")
        if relation.get("Type", "").endswith("/officeDocument") and target in files:
            return target
    return "word/document.xml"


def _read_styles(root: etree._Element | None) -> dict[str, _Style]:
    styles = {}
    for style in root.iterfind(_w("style")) if root is not None else ():
        properties = style.find(_w("pPr"))
        numbering = properties.find(_w("numPr")) if properties is not None else None
        styles[style.get(_w("styleId"), "")] = _Style(
            _value(style, "name").lower(),
            _value(style, "basedOn"),
            _number(_value(properties, "outlineLvl"), None),
            _value(numbering, "numId"),
            _number(_value(numbering, "ilvl"), None),
        )
    return styles


def _read_numbering(root: etree._Element | None) -> dict[tuple[str, int], bool]:
    if root is None:
        return {}
    kinds = {}
    for abstract in root.iterfind(_w("abstractNum")):
        for level in abstract.iterfind(_w("lvl")):
            key = abstract.get(_w("abstractNumId"), ""), _number(level.get(_w("ilvl"), ""), 0) or 0
            kinds[key] = _value(level, "numFmt") not in ("bullet", "none", "")
    lists = {number.get(_w("numId"), ""): _value(number, "abstractNumId") for number in root.iterfind(_w("num"))}
    return {
        (name, level): kinds.get((abstract, level), False) for name, abstract in lists.items() for level in range(9)
    }


def _joined(blocks: list[_Block]) -> str:
    parts: list[str] = []
    previous = ""
    for block in blocks:
        if block.kind == "code":
            fence = "```"
            if previous == "code":
                parts[-1] = parts[-1][: -len(fence)] + block.text + "\n" + fence
            else:
                parts.append(f"{fence}\n{block.text}\n{fence}")
        elif previous.startswith("list") and (block.kind == previous or block.text.startswith("  ")):
            parts[-1] += "\n" + block.text
        else:
            parts.append(block.text)
        previous = block.kind
    return "\n\n".join(parts)


def read_docx(payload: bytes, path: str, max_characters: int) -> dict[str, str]:
    """`text`, `title`, `author`, `language` and `date` of the document at `path`, or an `error` and a `message`."""
    return read_named_files(path, Budget(_UNPACKED_BYTES), lambda files: _read(files, max_characters))


def _read(files: NamedFiles, max_characters: int) -> dict[str, str]:
    main = _main_part(files)
    root = _part(files, main)
    if root is None:
        raise Rejected("broken_archive", "the document has no main part")
    folder = posixpath.dirname(main)
    styles = _part(files, posixpath.join(folder, "styles.xml"))
    reader = _Reader(
        _read_styles(styles), _read_numbering(_part(files, posixpath.join(folder, "numbering.xml"))), max_characters
    )
    body = root.find(_w("body"))
    if body is None:
        raise Rejected("broken_archive", "the main part of the document has no body")
    blocks = reader.blocks(body)
    notes = {}
    for kind in ("footnote", "endnote") if reader.notes else ():
        part = _part(files, posixpath.join(folder, f"{kind}s.xml"))
        for note in part.iterfind(_w(kind)) if part is not None else ():
            notes[f"{kind} {note.get(_w('id'), '')}"] = note
    for number, key in enumerate(list(reader.notes), 1):
        if key in notes and (text := " ".join(block.text for block in reader.blocks(notes[key]))):
            blocks.append(_Block("text", f"[^{number}]: {' '.join(text.split())}"))
    return {"text": _joined(blocks), **_described(files)}


def _described(files: NamedFiles) -> dict[str, str]:
    root = _part(files, "docProps/core.xml")

    def value(name: str) -> str:
        return " ".join((root.findtext(f".//{{*}}{name}") or "").split()) if root is not None else ""

    return {
        "title": value("title"),
        "author": value("creator"),
        "language": value("language"),
        "date": value("created") or value("modified"),
    }
