"""One file in, its documents and its rejects out, as a stream.

What a file is:

1. Its content decides when it carries a signature: PDF, Parquet, WARC, tar, zip (with EPUB and DOCX in it), gzip,
   zstd, bzip2, xz, or the beginning of an HTML page. An HTML page called `report.pdf` is read as HTML, and
   `metadata["declared"] = "pdf"` keeps what it claimed.
2. Otherwise its extension decides: HTML, JSON lines, Markdown, source code (see `schemas.code`), PDF, Parquet.
3. Anything else without zero bytes is source code if it looks like it, and plain text in UTF-8 if not.

A compressed file is what it holds, under its name without `.gz` or the like. JSON lines, Parquet, web archives and
archives are streamed: none is ever in memory as a whole, and no limit on the file's size applies to them. A file in
an archive is read like any other, and so is an archive in an archive, but none inside that one. Every other file is
one document.
"""

import codecs
import contextlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.extract.archives import extract_members
from pipelines.extract.found import Extracted, Found, Reject, Rejected, clip, make_document
from pipelines.extract.isolate import read_isolated
from pipelines.extract.licences import stated_licence
from pipelines.extract.packed import (
    COMPRESSED_SUFFIXES,
    HEAD_BYTES,
    Budget,
    Unpacked,
    as_local_path,
    compression,
    peek,
    read_whole,
)
from pipelines.extract.pdf_file import extract_pdf
from pipelines.extract.records import extract_json_lines, extract_parquet, give_up_on_fruitless
from pipelines.extract.source_code import code_flags
from pipelines.extract.tars import is_tar, tar_members
from pipelines.extract.warc import extract_warc
from pipelines.extract.zips import first_names, zip_members
from schemas.code import code_language
from schemas.recipe import Columns, Extract

_HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
_JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})
_TAR_SUFFIXES = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar"}
_STREAMED = frozenset({"warc", "tar"})  # however much they unpack to, little of it is in memory
_BOOKS = frozenset({"docx", "epub"})
_UNREAD = frozenset({"opendocument", "pptx", "xlsx"})
_ZIP_NAMES = 2_000  # of the files in a zip, that tell what it is
_ZIP_KINDS = (
    (b"META-INF/container.xml", "epub"),
    (b"word/document.xml", "docx"),
    (b"xl/workbook.xml", "xlsx"),
    (b"ppt/presentation.xml", "pptx"),
    (b"META-INF/manifest.xml", "opendocument"),
)
_CONTAINERS = frozenset({"warc", "tar", "zip"})
_DEPTH = 2  # archives, one inside the other
_REJECTS = 10_000  # of one file that are told one by one
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
    """What a file is by its first bytes and its name: pdf, parquet, warc, tar, zip (or what is kept in one), html,
    jsonl, markdown, code, text or binary."""
    suffix = _suffix(path)
    if head.lstrip().startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head):
        return "pdf"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"WARC/1.", b"WARC/0.")):
        return "warc"
    if is_tar(head):
        return "tar"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if suffix in _HTML_SUFFIXES or (_HTML_BEGIN.match(head) and not code_language(path)):
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
    return "code" if code_language(path, head.decode("utf-8", "replace")) else "text"


def is_pdf(local: str, path: str) -> bool:
    """Whether a local file, known to its source as `path`, is read as a PDF. Raises OSError."""
    with Path(local).open("rb") as file:
        head = file.read(HEAD_BYTES)
    return compression(head) is None and sniff_kind(head, path) == "pdf"


_DECLARED_KINDS = {
    ".docx": "docx",
    ".epub": "epub",
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
) -> Iterator[Found]:
    """Read the documents of one file, in the order in which the file holds them.

    Args:
        data: the bytes, the path of a local file, or an open binary file that can seek.
        path: the name by which the source knows the file; its extension counts where the content is silent.
        options: limits; what exceeds them becomes a reject.
        columns: where JSON lines and Parquet keep the text and the facts about it.

    Yields:
        Documents, and rejects for what became none. Bad content raises nothing. A file of rejects tells the first
        10,000 one by one, and the others as a sum.
    """
    more: Counter[str] = Counter()
    rejects = 0
    for found in _extract(data, path, options, columns, 0, None):
        if isinstance(found, Reject):
            rejects += 1
            if rejects > _REJECTS:
                more[found.error] += 1
                continue
        yield found
    if more:
        counts = ", ".join(f"{error}: {count}" for error, count in sorted(more.items()))
        yield Reject("", "more_rejects", clip(f"{more.total()} more rejects in this file: {counts}"))


def _extract(
    data: bytes | os.PathLike[str] | IO[bytes],
    path: str,
    options: Extract,
    columns: Columns,
    depth: int,
    budget: Budget | None,
) -> Iterator[Found]:
    """`depth` is the number of archives around the file, `budget` what all in the outermost one may unpack to."""
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
            if budget is None:
                budget = Budget.of(file, options)
            head, file = peek(file)
            if not head:
                yield Reject("", "empty_file", "the file has no bytes")
                return
            if packing := compression(head):
                unpacked = Unpacked(file, packing, options.max_file_bytes, budget)
                head, file = peek(unpacked)
                local = None
                path = _without_compression(path)
                if not head:
                    yield Reject("", "empty_file", "the file has no bytes once unpacked")
                    return
            kind = sniff_kind(head, path)
            if packing and kind in _STREAMED:
                unpacked.limit = budget.limit
            metadata = {"kind": kind}
            if (declared := _DECLARED_KINDS.get(_suffix(path), kind)) != kind:
                metadata["declared"] = declared
            if kind == "zip" and not file.seekable():
                local = Path(as_local_path(file, local, options, stack))
                file = stack.enter_context(local.open("rb"))
            if kind == "zip":
                kind = metadata["kind"] = _zip_kind(file, declared)
            if declared == kind:
                metadata.pop("declared", None)
            if kind in _CONTAINERS:
                if depth >= _DEPTH:
                    raise Rejected("nested_archive", f"an archive inside {_DEPTH} others is not read")
                yield from _extract_container(kind, file, options, columns, depth, budget)
            elif kind == "pdf":
                yield from extract_pdf(as_local_path(file, local, options, stack), options, metadata)
            elif kind in _BOOKS:
                yield _extract_book(as_local_path(file, local, options, stack), options, metadata)
            elif kind in _UNREAD:
                yield Reject("", "not_supported", f"documents of the kind {kind} are not read")
            elif kind == "parquet":
                path = as_local_path(file, local, options, stack)
                yield from give_up_on_fruitless(extract_parquet(path, options, columns))
            elif kind == "jsonl":
                yield from give_up_on_fruitless(extract_json_lines(file, options, columns))
            elif kind == "html":
                yield _extract_html(read_whole(file, options), options, metadata)
            elif kind == "binary":
                file.read(len(head) + 1)  # if it is damaged from here on, that is what is wrong with it
                yield Reject("", "not_text", "the file holds zero bytes and is of no known kind")
            else:
                yield _extract_text(read_whole(file, options), path, options, metadata)
        except Rejected as rejected:
            yield Reject("", rejected.error, clip(rejected.message))
        except OSError as error:
            yield Reject("", "unreadable", clip(f"the file could not be read: {error.strerror or error}"))


def _zip_kind(file: IO[bytes], declared: str) -> str:
    """What a zip is by the names in it: epub, docx, another format that is kept in a zip, or just zip.

    Without a table of contents it is the book that its own name says: the parts of one are no documents.
    """
    names = first_names(file, _ZIP_NAMES)
    file.seek(0)
    if not names and declared in _BOOKS:
        return declared
    for name, kind in _ZIP_KINDS:
        if name in names:
            return kind
    return "zip"


def _without_compression(path: str) -> str:
    suffix = _suffix(path)
    if suffix in COMPRESSED_SUFFIXES or suffix in _TAR_SUFFIXES:
        return path[: -len(suffix)] + _TAR_SUFFIXES.get(suffix, "")
    return path


def _extract_container(
    kind: str, file: IO[bytes], options: Extract, columns: Columns, depth: int, budget: Budget
) -> Iterator[Found]:
    def read(member: IO[bytes], name: str) -> Iterator[Found]:
        yield from _extract(member, name, options, columns, depth + 1, budget)

    if kind == "warc":
        yield from extract_warc(file, options, read, budget)
    elif kind == "tar":
        yield from extract_members(tar_members(file), read)
    else:
        yield from extract_members(zip_members(file, budget), read)


# --- one document a file --------------------------------------------------------------------------------------


def _extract_text(data: bytes, path: str, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    charset = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        return Reject("", "invalid_utf8", f"not {charset.upper()}: byte {error.start} cannot be decoded")
    document = make_document("", text, options, metadata)
    if metadata["kind"] != "code" or isinstance(document, Reject):
        return document
    language = code_language(path, document.text)
    if language:
        metadata["code"] = language
    if flags := code_flags(path, document.text, language):
        metadata["code_flags"] = ",".join(flags)
    return replace(document, licence=stated_licence(document.text))


def _extract_html(data: bytes, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    page = read_isolated("html", {"mode": options.html}, data, options.file_seconds)
    if "error" in page:
        error = "broken_html" if page["error"] == "crashed" else page["error"]
        return Reject("", error, clip(page["message"]))
    described = {"declared_language": page["language"], **{name: page[name] for name in ("title", "author", "charset")}}
    metadata |= {name: clip(value) for name, value in described.items() if value}
    facts = {name: page[name] for name in ("url", "date") if page[name]}
    return make_document("", page["text"], options, metadata, facts)


def _extract_book(path: str, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    kind = metadata["kind"]
    request = {"path": path, "max_characters": options.max_characters}
    book = read_isolated(kind, request, b"", options.file_seconds)
    if "error" in book:
        error = f"broken_{kind}" if book["error"] in {"crashed", "broken_archive"} else book["error"]
        return Reject("", error, clip(book["message"]))
    described = {"title": book["title"], "author": book["author"], "declared_language": book["language"]}
    metadata |= {name: clip(value) for name, value in described.items() if value}
    return make_document(
        "", book["text"], options, metadata, {"date": clip(book["date"], 40)} if book["date"] else None
    )
