"""Is a document source code, and how much of it is comments?

The extension of the path says so; a path without one that we know (or a table of texts without paths) is
judged by the lines of the text. Source code keeps a natural-language label, that of its comments, so language
and domain are labelled independently.
"""

import re
import weakref
from collections.abc import Callable

import pyarrow as pa

from schemas.code import DATA, code_language, name_and_suffix

PROSE_EXTENSIONS = frozenset(("txt", "md", "rst", "html", "htm", "pdf", "tex", "docx", "epub"))

_LINES = 100  # lines of a text that are looked at
_CHARACTERS = 20_000
_CODE_SHARE = 0.4  # share of lines that must look like code; prose with code samples stays below

_CODE_BEGINNINGS = frozenset("#@})]acdefilnpstuvwr")  # first characters of what the next pattern begins with
_CODE_BEGINNING = re.compile(
    r"(?:#!\s*/|#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b"
    r"|(?:from\s+[\w.]+\s+)?import\s+[\w.{*\"'(]|using\s+[\w.]+;|package\s+[\w.]+;?$"
    r"|(?:(?:public|private|protected|static|export|async|pub|inline|const)\s+)*"
    r"(?:def|class|func|fn|function|struct|interface|impl|enum|namespace)\s+\w"
    r"|(?:let|const|var|val)\s+[\w{\[(][^.]{0,80}="
    r"|(?:if|for|while|switch|elif|else if)\b.{0,200}[:{]$|(?:else|try|finally|do)\s*[:{]$"
    r"|return\b.{0,200};?$(?<![.!?])|@\w+(?:\(.{0,200})?$|[})\]]+[;,)]*$)"
)
_ASSIGNMENT = re.compile(r"[\w.\[\]>-]{1,80}\s*[-+*/|&:]?=[^=].{0,200}[\w)\]}\"']$")
_CALL = re.compile(r"[\w.:>-]{1,80}\(.{0,200}\)[;:]?$")


_PATH_KEYS = ("path", "file_path", "filename")  # of the metadata, where a table holds many files
_LANGUAGE_KEYS = ("code", "programming_language")
_PROSE_KINDS = ("docstrings", "docx", "epub", "html", "pdf")  # by extraction, whatever the file is called


_last: tuple[Callable[[], pa.RecordBatch | None], tuple[bool, ...]] = (lambda: None, ())


def code_rows(batch: pa.RecordBatch) -> tuple[bool, ...]:
    """For each document of `batch` (columns text, path, metadata), whether it is source code.

    Several annotators ask about a batch one after the other, so the last answer is kept, as one value: batches may be
    asked about in several threads.
    """
    global _last
    known, answer = _last
    if known() is not batch:
        rows = zip(*(batch[column].to_pylist() for column in ("path", "metadata", "text")))
        answer = tuple(_is_code_row(path, dict(metadata) if metadata else {}, text) for path, metadata, text in rows)
        _last = (weakref.ref(batch), answer)
    return answer


def _is_code_row(path: str, metadata: dict[str, str], text: str) -> bool:
    if not metadata:
        return is_code(path, text)
    if metadata.get("kind") in _PROSE_KINDS:
        return False
    language = next((metadata[key] for key in _LANGUAGE_KEYS if metadata.get(key)), None)
    if language is not None:
        return language not in DATA
    return is_code(next((metadata[key] for key in _PATH_KEYS if metadata.get(key)), path), text)


def is_code(path: str, text: str) -> bool:
    """Whether a document is source code, by its path and, where that tells nothing, by its first 100 lines."""
    language = code_language(path, text)
    if language is not None:
        return language not in DATA
    if name_and_suffix(path)[1][1:] in PROSE_EXTENSIONS:
        return False
    return looks_like_code(text)


def looks_like_code(text: str) -> bool:
    """Whether at least 40 % of the first lines (blank ones aside, at least three) have the shape of code."""
    if text.count("\n", 0, _CHARACTERS) < 2:
        return False
    lines = [line.strip()[:400] for line in text[:_CHARACTERS].split("\n", _LINES)[:_LINES]]
    lines = [line for line in lines if line]
    if len(lines) < 3:
        return False
    return sum(map(_is_code_line, lines)) >= _CODE_SHARE * len(lines)


def _is_code_line(line: str) -> bool:
    """By its beginning, its end, or an assignment or call; most lines of prose have no mark that these need."""
    return (
        line[-1] in ";{"
        or (line[0] in _CODE_BEGINNINGS and _CODE_BEGINNING.match(line) is not None)
        or ("=" in line and _ASSIGNMENT.match(line) is not None)
        or ("(" in line and _CALL.match(line) is not None)
    )


_COMMENT = re.compile(
    r"/\*(.{0,2000}?)\*/|\"\"\"(.{0,2000}?)\"\"\"|(?://+|#+!?|--|;;+|%+)[ \t]+([^\n]{1,2000})", re.DOTALL
)


def comments(text: str) -> str:
    """Text of the comments and documentation strings of source code, by the marks most languages use.

    Reads the first 20,000 characters; gives "" where there are no comments.
    """
    found = _COMMENT.findall(text[:_CHARACTERS])
    return "\n".join(part for parts in found for part in parts if part)
