"""One file in, its documents and its rejects out, as a stream.

What a file is:

1. Its content decides when it carries a signature: PDF, Parquet, gzip, zstd, or the beginning of an HTML page.
   An HTML page called `report.pdf` is read as HTML, and `metadata["declared"] = "pdf"` keeps what it claimed.
2. Otherwise its extension decides: HTML, JSON lines, Markdown, source code (see `schemas.code`), PDF, Parquet.
3. Anything else without zero bytes is plain text in UTF-8.

A compressed file is what it holds, under its name without `.gz` or `.zst`. JSON lines and Parquet are streamed:
neither is ever in memory as a whole, and no limit on the file's size applies to them. Every other file is one
document.
"""

import codecs
import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.extract.found import Extracted, Reject, Rejected, clean_text, clip, make_document
from pipelines.extract.isolate import read_isolated
from pipelines.extract.packed import CHUNK_BYTES, Unpacked, as_local_path, read_whole
from pipelines.extract.records import extract_json_lines, extract_parquet
from schemas.code import code_language
from schemas.recipe import Columns, Extract

_HEAD_BYTES = 8192  # looked at to tell what a file is

_HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
_JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})
_COMPRESSED_SUFFIXES = frozenset({".gz", ".zst", ".zstd"})
_HTML_BEGIN = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]*>|<!--.*?-->)*(?:<!doctype\s+html|<html[\s>])", re.I | re.S
)


# --- kinds ----------------------------------------------------------------------------------------------------


def _suffix(path: str) -> str:
    return PurePosixPath(path.lower()).suffix


def _begins_with_json_object(head: bytes) -> bool:
    """Whether the first line is a whole JSON object, as in JSON lines, or looks like the start of a longer one."""
    line, end, _ = head.partition(b"\n")
    if not end:
        return line.startswith(b'{"')
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def sniff_kind(head: bytes, path: str) -> str:
    """What a file is by its first bytes and its name: pdf, parquet, html, jsonl, markdown, code, text or binary."""
    suffix = _suffix(path)
    if head.lstrip().startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head):
        return "pdf"
    if head.startswith(b"PAR1"):
        return "parquet"
    code = code_language(path)
    if suffix in _HTML_SUFFIXES or (_HTML_BEGIN.match(head) and not code):
        return "html"
    if suffix in {".pdf", ".parquet"}:
        return suffix[1:]
    # UTF-16 is full of zero bytes, and says so with a byte order mark.
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "binary"
    if suffix in _JSON_LINES_SUFFIXES or (suffix == ".json" and _begins_with_json_object(head)):
        return "jsonl"
    if suffix in _MARKDOWN_SUFFIXES:
        return "markdown"
    return "code" if code else "text"


_DECLARED_KINDS = {
    ".pdf": "pdf",
    ".parquet": "parquet",
    ".txt": "text",
    **dict.fromkeys(_HTML_SUFFIXES, "html"),
    **dict.fromkeys(_JSON_LINES_SUFFIXES, "jsonl"),
    **dict.fromkeys(_MARKDOWN_SUFFIXES, "markdown"),
}


def extract_file(
    data: bytes | os.PathLike[str] | IO[bytes],
    path: str,
    options: Extract,
    columns: Columns,
) -> Iterator[Extracted | Reject]:
    """Read the documents of one file, in the order in which the file holds them.

    Args:
        data: the bytes, the path of a local file, or an open binary file that can seek.
        path: the name by which the source knows the file; its extension counts where the content is silent.
        options: limits; what exceeds them becomes a reject.
        columns: where JSON lines and Parquet keep the text and the facts about it.

    Yields:
        Documents, and rejects for what became none. Bad content raises nothing.
    """
    with contextlib.ExitStack() as stack:
        local: Path | None = None
        try:
            if isinstance(data, (bytes, bytearray, memoryview)):
                file: IO[bytes] = io.BytesIO(data)
            elif isinstance(data, os.PathLike):
                local = Path(data)
                file = stack.enter_context(local.open("rb"))
            else:
                file = data
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            if not head:
                yield Reject("", "empty_file", "the file has no bytes")
                return
            packed = (head.startswith(b"\x1f\x8b"), head.startswith(b"\x28\xb5\x2f\xfd"))
            if any(packed):
                unpacked = Unpacked(file, zstd=packed[1], limit=options.max_file_bytes)
                buffered = io.BufferedReader(unpacked, CHUNK_BYTES)
                head, file, local = buffered.peek(_HEAD_BYTES)[:_HEAD_BYTES], buffered, None
                if _suffix(path) in _COMPRESSED_SUFFIXES:
                    path = path[: path.rindex(".")]
                if not head:
                    yield Reject("", "empty_file", "the file has no bytes once unpacked")
                    return
            kind = sniff_kind(head, path)
            metadata = {"kind": kind}
            if (declared := _DECLARED_KINDS.get(_suffix(path), kind)) != kind:
                metadata["declared"] = declared
            if kind == "pdf":
                yield from _extract_pdf(as_local_path(file, local, options, stack), options, metadata)
            elif kind == "parquet":
                yield from extract_parquet(as_local_path(file, local, options, stack), options, columns)
            elif kind == "jsonl":
                yield from extract_json_lines(file, options, columns)
            elif kind == "html":
                yield _extract_html(read_whole(file, options), options, metadata)
            elif kind == "binary":
                yield Reject("", "not_text", "the file holds zero bytes and is of no known kind")
            else:
                if code := code_language(path) if kind == "code" else None:
                    metadata["code"] = code
                yield _extract_text(read_whole(file, options), options, metadata)
        except Rejected as rejected:
            yield Reject("", rejected.error, clip(rejected.message))
        except OSError as error:
            yield Reject("", "unreadable", clip(f"the file could not be read: {error.strerror or error}"))


# --- one document a file --------------------------------------------------------------------------------------


def _extract_text(data: bytes, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    charset = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        return Reject("", "invalid_utf8", f"not {charset.upper()}: byte {error.start} cannot be decoded")
    return make_document("", text, options, metadata)


def _extract_html(data: bytes, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    page = read_isolated("html", {}, data, options.file_seconds)
    if "error" in page:
        error = "broken_html" if page["error"] == "crashed" else page["error"]
        return Reject("", error, clip(page["message"]))
    described = {"title": page["title"], "declared_language": page["language"], "charset": page["charset"]}
    metadata |= {name: clip(value) for name, value in described.items() if value}
    return make_document("", page["text"], options, metadata)


def _extract_pdf(path: str, options: Extract, metadata: dict[str, str]) -> Iterator[Extracted | Reject]:
    limits = {"max_pages": options.max_pages, "max_characters": options.max_characters}
    answer = read_isolated("pdf", {"path": path, **limits}, b"", options.file_seconds)
    if "error" in answer:
        error = "broken_pdf" if answer["error"] == "crashed" else answer["error"]
        yield Reject("", error, clip(answer["message"]))
        return
    parts: list[str] = []
    spans: list[tuple[int, int, int]] = []
    begin = 0
    for number, raw in answer["pages"]:
        if text := clean_text(raw).strip():
            parts.append(text)
            spans.append((number, begin, begin + len(text)))
            begin += len(text) + 2
    bad_pages = answer["bad_pages"]
    if not parts and bad_pages:
        # One reject stands for the file, with the reason that most of its pages share.
        errors = [error for _, error, _ in bad_pages]
        error = max(sorted(set(errors)), key=errors.count)
        message = next(text for _, kind, text in bad_pages if kind == error)
        yield Reject("", error, clip(f"none of {answer['page_count']} pages has readable text: {message}"))
        return
    metadata |= {"page_count": str(answer["page_count"])}
    if answer["title"]:
        metadata["title"] = clip(answer["title"])
    document = make_document("", "\n\n".join(parts), options, metadata)
    if isinstance(document, Extracted):
        document.pages.extend(spans)
    yield document
    for number, error, message in bad_pages:
        yield Reject(f"page={number}", error, clip(message))
