"""What the child process does with a PDF: opens it, reads a page, renders a page. See `isolate` and `pdf_file`.

Every request names the file, so that a new child can go on where one died; the last file stays open between requests.
"""

import importlib
from pathlib import Path
from typing import Any

from pipelines.extract.judge import judge
from pipelines.extract.layout import lay_out
from pipelines.extract.page import Document, Page, Unreadable
from pipelines.extract.tables import find_tables

_MOST_CHARACTERS = 200_000  # of a page; a newspaper's has a tenth of that
_open: tuple[tuple[Any, ...], Document] | None = None


def _document(path: str, backend: str, passwords: list[str]) -> Document:
    global _open
    state = Path(path).stat()  # the path of a temporary file may come back with another file behind it
    key = (path, state.st_ino, state.st_size, state.st_mtime_ns, backend, tuple(passwords))
    if _open is None or _open[0] != key:
        close_document()
        module = importlib.import_module(f"pipelines.extract.pdf_{backend}")
        _open = key, module.open_pdf(path, passwords)
    return _open[1]


def close_document() -> None:
    """Let go of the open file."""
    global _open
    if _open is not None:
        document, _open = _open[1], None
        document.close()


def open_document(payload: bytes, path: str, backend: str, passwords: list[str]) -> dict[str, Any]:
    """`page_count` and `title` of a file, or an `error` and a `message`."""
    try:
        document = _document(path, backend, passwords)
    except Unreadable as unreadable:
        return {"error": unreadable.error, "message": unreadable.message}
    return {"page_count": document.page_count, "title": document.title}


def read_page(payload: bytes, path: str, backend: str, passwords: list[str], number: int) -> dict[str, Any]:
    """A `Page` as values that JSON can carry; its route is `ocr` where the text layer will not do."""
    try:
        document = _document(path, backend, passwords)
        content = document.read(number)
    except Unreadable as unreadable:
        return {"error": unreadable.error, "message": unreadable.message}
    characters = sum(len(line.text) for block in content.blocks for line in block)
    if characters > _MOST_CHARACTERS:
        return {"error": "too_large", "message": f"{characters} characters on one page"}
    verdict = judge(content)
    page = Page(number, verdict.route, verdict.reason, verdict.confidence, content.width, content.height)
    if verdict.route == "text_layer":
        page.blocks = lay_out(content, find_tables(content, document))
    return page.to_json()


def render_page(
    payload: bytes, path: str, backend: str, passwords: list[str], number: int, **picture: Any
) -> tuple[dict[str, Any], bytes]:
    """A page as PNG; see `Document.render`."""
    try:
        return {}, _document(path, backend, passwords).render(number, **picture)
    except Unreadable as unreadable:
        return {"error": unreadable.error, "message": unreadable.message}, b""
