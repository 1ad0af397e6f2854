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
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.extract.isolate import read_isolated
from schemas.code import code_language
from schemas.hashing import text_hash
from schemas.recipe import Columns, Extract


@dataclass(frozen=True)
class Extracted:
    """One document.

    `locator` names its place inside the file: "" (all of it), "line=7" or "row=3" (both from 1).
    `pages` holds (page number from 1, begin, end) in characters of `text`; it is empty for all but PDF.
    """

    locator: str
    text: str
    id: str | None = None
    url: str | None = None
    date: str | None = None
    licence: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    pages: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Reject:
    """Something that became no document: a file, a line, a row or a page, with a short class and a sentence.

    `id` is the user's own, where a row has one.
    """

    locator: str
    error: str
    message: str
    id: str | None = None


class _Rejected(Exception):
    """The rest of a file cannot be read; carries what the reject says."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


_HEAD_BYTES = 8192  # looked at to tell what a file is
_CHUNK_BYTES = 1 << 16
_ROWS = 64  # of Parquet in memory at a time
_PARQUET_RATIO = 100  # characters of text per byte of file; no real text repeats itself more
_METADATA_FIELDS, _METADATA_KEY, _METADATA_VALUE = 32, 100, 1000  # bounds on what a row may bring along
_MESSAGE = 300

_HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
_JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})
_COMPRESSED_SUFFIXES = frozenset({".gz", ".zst", ".zstd"})
_HTML_BEGIN = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]*>|<!--.*?-->)*(?:<!doctype\s+html|<html[\s>])", re.I | re.S
)


# --- clean text -----------------------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Text with `\\n` as its only line end and `\\t` as its only other control character.

    Lone surrogates become U+FFFD; blank lines and byte order marks at both ends go. It is idempotent, and leaves
    Unicode normalisation to the tokenizer.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
    return text.strip("\n\ufeff")


def _clip(text: str, size: int = _MESSAGE) -> str:
    text = " ".join(clean_text(text).split())
    return text if len(text) <= size else text[: size - 1] + "…"


def _document(
    locator: str, raw: str, options: Extract, metadata: dict[str, str], fields: Mapping[str, str] | None = None
) -> Extracted | Reject:
    known = fields or {}
    if len(raw) > options.max_characters:
        message = f"{len(raw)} characters; the limit is {options.max_characters}"
        return Reject(locator, "too_large", message, known.get("id"))
    text = clean_text(raw)
    if not text.strip():
        return Reject(locator, "empty_text", "no text is left after removing white space", known.get("id"))
    return Extracted(
        locator, text, known.get("id"), known.get("url"), known.get("date"), known.get("licence"), metadata
    )


# --- bytes ----------------------------------------------------------------------------------------------------


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip or zstd file, in bounded memory.

    Raises _Rejected for damage, for a file that ends early and beyond `limit` bytes.
    """

    def __init__(self, file: IO[bytes], zstd: bool, limit: int) -> None:
        self._file, self._zstd, self._limit = file, zstd, limit
        self._decoder: Any = None  # of the current member or frame; None between two
        self._packed = b""
        self._ready = memoryview(b"")
        self._remaining = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer)
        while not self._ready:
            if self._remaining < 0:
                raise _Rejected("too_large", f"unpacks to more than {self._limit} bytes")
            if not self._packed:
                # One zstd block of a few bytes can unpack to 128 kB, so zstd is fed a little at a time.
                self._packed = self._file.read(1024 if self._zstd else _CHUNK_BYTES)
                if not self._packed:
                    if self._decoder is not None:
                        raise _Rejected("broken_compression", "the compressed file ends early")
                    return 0
            unpacked = memoryview(self._unpack())
            self._ready = unpacked[: self._remaining]
            self._remaining -= len(unpacked)
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self) -> bytes:
        try:
            if self._decoder is None:
                if self._zstd:
                    self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
                elif not self._packed.strip(b"\0"):  # tape padding after the last member
                    self._packed = b""
                    return b""
                else:
                    self._decoder = zlib.decompressobj(wbits=31)
            if self._zstd:
                data = self._decoder.decompress(self._packed)
                self._packed = b""
            else:
                data = self._decoder.decompress(self._packed, 1 << 20)
                self._packed = self._decoder.unconsumed_tail
        except (zlib.error, zstandard.ZstdError) as error:
            raise _Rejected("broken_compression", f"the compressed file is damaged: {error}") from None
        if self._decoder.eof:
            self._packed = self._decoder.unused_data
            self._decoder = None
        return bytes(data)


def _read_whole(file: IO[bytes], options: Extract) -> bytes:
    """All bytes of a file that is one document of text; no UTF-8 character has more than four."""
    limit = min(options.max_file_bytes, 4 * options.max_characters)
    data = file.read(limit + 1)
    if len(data) > limit:
        raise _Rejected("too_large", f"more than {limit} bytes for one document of text")
    return data


def _as_local_path(file: IO[bytes], local: Path | None, options: Extract, stack: contextlib.ExitStack) -> str:
    """The path of a local file with the bytes of `file`, for readers that seek; a copy only where needed."""
    if local is not None:
        size = local.stat().st_size
        path = str(local.resolve())
    else:
        copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="sluice-"))  # noqa: SIM115
        size = 0
        while size <= options.max_file_bytes and (chunk := file.read(_CHUNK_BYTES)):
            copy.write(chunk)
            size += len(chunk)
        copy.flush()
        path = copy.name
    if size > options.max_file_bytes:
        raise _Rejected("too_large", f"more than {options.max_file_bytes} bytes")
    return path


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
                unpacked = _Unpacked(file, zstd=packed[1], limit=options.max_file_bytes)
                buffered = io.BufferedReader(unpacked, _CHUNK_BYTES)
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
                yield from _extract_pdf(_as_local_path(file, local, options, stack), options, metadata)
            elif kind == "parquet":
                yield from _extract_parquet(_as_local_path(file, local, options, stack), options, columns)
            elif kind == "jsonl":
                yield from _extract_json_lines(file, options, columns)
            elif kind == "html":
                yield _extract_html(_read_whole(file, options), options, metadata)
            elif kind == "binary":
                yield Reject("", "not_text", "the file holds zero bytes and is of no known kind")
            else:
                if code := code_language(path) if kind == "code" else None:
                    metadata["code"] = code
                yield _extract_text(_read_whole(file, options), options, metadata)
        except _Rejected as rejected:
            yield Reject("", rejected.error, _clip(rejected.message))
        except OSError as error:
            yield Reject("", "unreadable", _clip(f"the file could not be read: {error.strerror or error}"))


# --- one document a file --------------------------------------------------------------------------------------


def _extract_text(data: bytes, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    charset = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        return Reject("", "invalid_utf8", f"not {charset.upper()}: byte {error.start} cannot be decoded")
    return _document("", text, options, metadata)


def _extract_html(data: bytes, options: Extract, metadata: dict[str, str]) -> Extracted | Reject:
    page = read_isolated("html", {}, data, options.pdf_seconds)
    if "error" in page:
        error = "broken_html" if page["error"] == "crashed" else page["error"]
        return Reject("", error, _clip(page["message"]))
    described = {"title": page["title"], "declared_language": page["language"], "charset": page["charset"]}
    metadata |= {name: _clip(value) for name, value in described.items() if value}
    return _document("", page["text"], options, metadata)


def _extract_pdf(path: str, options: Extract, metadata: dict[str, str]) -> Iterator[Extracted | Reject]:
    limits = {"max_pages": options.max_pages, "max_characters": options.max_characters}
    answer = read_isolated("pdf", {"path": path, **limits}, b"", options.pdf_seconds)
    if "error" in answer:
        error = "broken_pdf" if answer["error"] == "crashed" else answer["error"]
        yield Reject("", error, _clip(answer["message"]))
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
        yield Reject("", error, _clip(f"none of {answer['page_count']} pages has readable text: {message}"))
        return
    metadata |= {"page_count": str(answer["page_count"])}
    if answer["title"]:
        metadata["title"] = _clip(answer["title"])
    document = _document("", "\n\n".join(parts), options, metadata)
    if isinstance(document, Extracted):
        document.pages.extend(spans)
    yield document
    for number, error, message in bad_pages:
        yield Reject(f"page={number}", error, _clip(message))


# --- many documents a file ------------------------------------------------------------------------------------


def _scalar(value: Any) -> str | None:
    """A scalar as text: true and false as in JSON, dates as in ISO 8601; None for anything nested or absent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return None


def _field(row: Mapping[str, Any], name: str) -> str | None:
    value = _scalar(row.get(name))
    return None if value is None else _clip(value, _METADATA_VALUE)


def _user_id(value: Any) -> str | None:
    """The user's id as it is, so that different ids stay different; a long one ends in its hash. "" is none."""
    text = _scalar(value)
    if not text:
        return None
    text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates
    return text if len(text) <= _METADATA_VALUE else f"{text[:900]}…{text_hash(text).hex()}"


def _record(locator: str, row: Mapping[str, Any], kind: str, options: Extract, columns: Columns) -> Extracted | Reject:
    names = {"id": columns.id, "url": columns.url, "date": columns.date, "licence": columns.licence}
    fields = {field: value for field, name in names.items() if (value := _field(row, name)) is not None}
    if identity := _user_id(row.get(columns.id)):
        fields["id"] = identity
    else:
        fields.pop("id", None)
    if columns.text not in row:
        present = ", ".join(sorted(map(str, row))[:10]) or "none"
        message = _clip(f"no field {columns.text!r}; there are: {present}")
        return Reject(locator, "no_text_column", message, fields.get("id"))
    raw = row[columns.text]
    if not isinstance(raw, str):
        message = f"field {columns.text!r} is {type(raw).__name__}, not text"
        return Reject(locator, "text_not_string", message, fields.get("id"))
    mapped = {columns.text, *names.values()}
    metadata = {"kind": kind}
    for name, value in row.items():
        if len(metadata) > _METADATA_FIELDS:
            break
        text = None if name in mapped else _scalar(value)
        if text is not None and len(name) <= _METADATA_KEY and len(text) <= _METADATA_VALUE:
            # A field of the user's called "kind" does not overrule ours.
            metadata.setdefault(clean_text(name), clean_text(text))
    return _document(locator, raw, options, metadata, fields)


def _lines(file: IO[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their end; None for a line of more than `limit` bytes, which is skipped."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) <= limit or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_CHUNK_BYTES)
        yield number, None


def _extract_json_lines(file: IO[bytes], options: Extract, columns: Columns) -> Iterator[Extracted | Reject]:
    # Escapes such as \u4e2d take six bytes a character.
    limit = 6 * options.max_characters + _CHUNK_BYTES
    for number, line in _lines(file, limit):
        locator = f"line={number}"
        if line is None:
            yield Reject(locator, "too_large", f"the line has more than {limit} bytes")
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            row = json.loads(text)
        except UnicodeDecodeError as error:
            message = f"not UTF-8: byte {error.start} of the line cannot be decoded"
            yield Reject(locator, "invalid_utf8", message)
        except (ValueError, RecursionError) as error:
            yield Reject(locator, "invalid_json", _clip(f"not JSON: {error}"))
        else:
            if isinstance(row, dict):
                yield _record(locator, row, "jsonl", options, columns)
            else:
                yield Reject(locator, "invalid_json", f"a JSON {type(row).__name__}, not an object")


def _is_scalar(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_string(kind) or (pa.types.is_primitive(kind) and not pa.types.is_duration(kind))


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError, KeyError):  # not UTF-8, a time that Python cannot hold, an unknown zone
        return None


def _extract_parquet(path: str, options: Extract, columns: Columns) -> Iterator[Extracted | Reject]:
    try:
        with pq.ParquetFile(path) as plain:
            schema = plain.schema_arrow
        if columns.text not in schema.names:
            present = ", ".join(schema.names[:10]) or "none"
            yield Reject("", "no_text_column", _clip(f"no column {columns.text!r}; there are: {present}"))
            return
        if not _is_string(schema.field(columns.text).type):
            kind = schema.field(columns.text).type
            yield Reject("", "text_not_string", _clip(f"column {columns.text!r} is {kind}, not text"))
            return
        names = list(dict.fromkeys(field.name for field in schema if _is_scalar(field.type)))
        # Read as dictionaries, strings repeated by the million stay as small in memory as they are on disk.
        strings = [name for name in names if _is_string(schema.field(name).type)]
        row_number = characters = 0
        limit = max(options.max_file_bytes, _PARQUET_RATIO * Path(path).stat().st_size)
        with pq.ParquetFile(path, read_dictionary=strings) as table:
            for batch in table.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
                values = dict(zip(batch.schema.names, batch.columns))
                texts = values[columns.text]
                for index in range(batch.num_rows):
                    row_number += 1
                    locator = f"row={row_number}"
                    row = {name: _python_value(column[index]) for name, column in values.items()}
                    if row[columns.text] is None and texts[index].is_valid:
                        message = f"column {columns.text!r} is not UTF-8"
                        yield Reject(locator, "invalid_utf8", message, _field(row, columns.id))
                        continue
                    characters += len(row[columns.text] or "")
                    if characters > limit:
                        message = f"unpacks to more than {limit} characters, reached in row {row_number}"
                        raise _Rejected("too_large", message)
                    yield _record(locator, row, "parquet", options, columns)
    except (pa.ArrowException, OSError, MemoryError) as error:
        yield Reject("", "broken_parquet", _clip(f"not readable as Parquet: {error}"))
