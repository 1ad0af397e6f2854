"""Records of web archives: pages and files of WARC, texts of WET; one pass, bounded memory, whatever the bytes say.

The framing is read here because damage has to stay where it is: a wrong Content-Length, endless headers or a record
that is cut become a reject, and reading goes on at the next line that begins a record. Bodies are decoded a piece at
a time, so that a bomb is given up at its limit and never unpacked further, not even to get past it.

Format: ISO 28500 (WARC 1.0 and 1.1); HTTP bodies: RFC 9112, section 7.1, and RFC 9110, section 8.4.
"""

import io
import itertools
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, Any

import brotli
import zstandard
from resiliparse.parse.encoding import map_encoding_to_html5

from pipelines.extract.found import Extracted, Found, Reject, Rejected, clip, make_document
from pipelines.extract.names import inside
from pipelines.extract.packed import CHUNK_BYTES, STEP_BYTES, WINDOW_BYTES, ZSTD_STEP_BYTES, Budget
from pipelines.extract.tars import Slice
from schemas.recipe import Extract

Read = Callable[[IO[bytes], str], Iterator[Found]]  # a file and its name -> what is in it

_HEADER_BYTES = 1 << 16  # of a record, and of HTTP
_IN_MEMORY = 1 << 23  # of a body; larger ones lie in a temporary file
_ENCODINGS = 3  # of one body, one inside the other
_REASONS = 40  # kinds of skipped records that are told apart

_ENDINGS = frozenset({"truncated", "broken_compression"})  # of the file, not of a record

_BEGIN = re.compile(rb"WARC/[01]\.[0-9]{1,3}\s*$")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\n]*)?\r?\n$")
_STATUS = re.compile(rb"HTTP/[0-9.]{1,5}[ \t]+([0-9]{3})\b")
_DATE = re.compile(r"[0-9]{4}(?:-[0-9]{2}){0,2}(?:T[0-9:.]{2,18}Z?)?")
_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}")
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.I)
_URL = re.compile(r"(?:https?|ftp|file):", re.I)

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_FILE_TYPES = {
    "application/pdf": "pdf",
    "application/epub+zip": "epub",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}
_TEXT_TYPES = frozenset({"text/plain", "text/markdown", "text/x-markdown"})
_ANY_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})


class _Skipped(Exception):
    """A sound record that is no document, with the reason; without one it is not even counted."""


# --- framing --------------------------------------------------------------------------------------------------


def extract_warc(file: IO[bytes], options: Extract, read: Read, budget: Budget) -> Iterator[Found]:
    """Documents of the responses, resources and conversions of a web archive, with locators `record=N`.

    Requests, metadata, revisits and the archive's own records are passed over. Responses other than 200, robots.txt
    and types that hold no text are counted, and one reject at the end says how many there were of each.
    """
    skipped: Counter[str] = Counter()
    number = 0
    try:
        line = _next_line(file)
        while line:
            number += 1
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
                name = media = ""
                problem: Rejected | None = None
                ending: Rejected | None = None
                try:
                    headers, length = _begin(line, file, options)
                except Rejected as rejected:
                    if rejected.error in _ENDINGS:
                        raise
                    yield Reject(f"record={number}", rejected.error, clip(rejected.message))
                    line = _next_record(file)
                    continue
                block = Slice(file, length)
                try:
                    name, media = _take(headers, io.BufferedReader(block, CHUNK_BYTES), body, options, budget)
                except _Skipped as reason:
                    if str(reason):
                        skipped[str(reason) if len(skipped) < _REASONS or str(reason) in skipped else "other"] += 1
                except Rejected as rejected:
                    if budget.left < 0:
                        raise
                    problem = rejected
                block.skip()  # here the file's own end or damage shows, whatever the record said before
                try:
                    line = file.readline(_HEADER_BYTES)
                    if line.strip() and not _BEGIN.match(line):
                        problem = Rejected("broken_record", "the record goes on where Content-Length says it ends")
                        line = _next_record(file)
                    elif not line.strip():
                        line = _next_line(file)
                except Rejected as rejected:  # the record came before the cut
                    line, ending = b"", rejected
                if problem:
                    yield Reject(f"record={number}", problem.error, clip(problem.message))
                elif name:
                    body.seek(0)
                    for found in _documents(headers, name, body, options, read):
                        yield _placed(found, f"record={number}", headers, media)
                if ending:
                    number += 1
                    raise ending
    except Rejected as rejected:
        yield Reject(f"record={number}", rejected.error, clip(rejected.message))
    if skipped:
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(skipped.items()))
        yield Reject("", "skipped_records", clip(f"{skipped.total()} records hold no page to read: {counts}"))


def _begin(line: bytes, file: IO[bytes], options: Extract) -> tuple[dict[str, str], int]:
    """Headers of the record that begins with `line`, and the bytes of its block."""
    if not _BEGIN.match(line):
        raise Rejected("broken_record", "not the beginning of a record")
    headers = _headers(file)
    length = headers.get("content-length", "")
    if not _LENGTH.fullmatch(length):
        raise Rejected("broken_record", f"Content-Length is {length!r}")
    if int(length) > options.max_file_bytes:
        raise Rejected("too_large", f"a record of {length} bytes; the limit is {options.max_file_bytes}")
    return headers, int(length)


def _headers(file: IO[bytes]) -> dict[str, str]:
    """Lines up to an empty one, names in lower case; of a repeated name the first value."""
    found: dict[str, str] = {}
    name, size = "", 0
    while line := file.readline(_HEADER_BYTES + 1):
        size += len(line)
        if size > _HEADER_BYTES:
            raise Rejected("broken_record", f"headers of more than {_HEADER_BYTES} bytes")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return found
        if text[0] in " \t":  # a value that goes on
            if name:
                found[name] += " " + text.strip()
            continue
        key, _, value = text.partition(":")
        name = key.strip().lower()
        if name in found:
            name = ""
        else:
            found[name] = value.strip()
    raise Rejected("truncated", "the file ends in the headers of a record")


def _next_line(file: IO[bytes]) -> bytes:
    """The next line that is not blank, or its first bytes; b"" at the end of the file."""
    while (line := file.readline(_HEADER_BYTES)) and not line.strip():
        pass
    return line


def _next_record(file: IO[bytes]) -> bytes:
    """The line that begins the next record, b"" where none does."""
    whole = False
    while line := file.readline(_HEADER_BYTES):
        if whole and _BEGIN.match(line):
            return line
        whole = line.endswith(b"\n")
    return b""


# --- records --------------------------------------------------------------------------------------------------


def _take(
    headers: dict[str, str], block: IO[bytes], body: IO[bytes], options: Extract, budget: Budget
) -> tuple[str, str]:
    """Fill `body` with a record's document; give the name to read it under, and its media type.

    Raises _Skipped for what is no document, Rejected for a damaged body.
    """
    kind = headers.get("warc-type", "").lower()
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "conversion":
        if media != "text/plain":
            raise _Skipped(_shown(media))
        _copy(_pieces(block), body, _text_limit(options), budget)
        return "text", media
    url = _url(headers)
    if kind not in {"response", "resource"} or (url and not _URL.match(url)):
        raise _Skipped
    pieces = _pieces(block)
    charset, cut = "", "warc-truncated" in headers
    if kind == "response":
        if media != "application/http":
            raise _Skipped(_shown(media))
        status = _STATUS.match(block.readline(_HEADER_BYTES))
        if not status:
            raise Rejected("broken_record", "no HTTP status where one has to be")
        if status[1] != b"200":
            raise _Skipped(f"status {status[1].decode()}")
        try:
            http = _headers(block)
        except Rejected as rejected:
            raise Rejected("broken_record", f"HTTP: {rejected.message}") from None
        media = http.get("content-type", "").partition(";")[0].strip().lower()
        charset = found[1] if (found := _CHARSET.search(http.get("content-type", ""))) else ""
        pieces = _decoded(block, http, cut)
    media = media or headers.get("warc-identified-payload-type", "").lower()
    if url.partition("?")[0].lower().endswith("/robots.txt"):
        raise _Skipped("robots.txt")
    name = _name(media, url)
    _copy(pieces, body, options.max_file_bytes if media in _FILE_TYPES else _text_limit(options), budget)
    if charset and not name.endswith(tuple(_FILE_TYPES.values())):
        _to_utf8(body, charset)
    return name, media


def _url(headers: dict[str, str]) -> str:
    return headers.get("warc-target-uri", "").removeprefix("<").removesuffix(">")  # wget's WARC 1.0 has brackets


def _shown(media: str) -> str:
    return media if _TYPE.fullmatch(media) else "a type without a proper name"


def _name(media: str, url: str) -> str:
    if media in _HTML_TYPES:
        return "page.html"
    if media in _FILE_TYPES:
        return f"page.{_FILE_TYPES[media]}"
    if media in _TEXT_TYPES or media in _ANY_TYPES:
        return url.partition("?")[0].partition("#")[0].rpartition("/")[2][-100:] or "page.txt"
    raise _Skipped(_shown(media))


def _text_limit(options: Extract) -> int:
    return min(options.max_file_bytes, 4 * options.max_characters)


def _documents(headers: dict[str, str], name: str, body: IO[bytes], options: Extract, read: Read) -> Iterator[Found]:
    if headers.get("warc-type", "").lower() != "conversion":
        yield from read(body, name)
        return
    try:
        yield make_document("", body.read().decode("utf-8-sig"), options, {"kind": "text"})
    except UnicodeDecodeError as error:
        yield Reject("", "invalid_utf8", f"not UTF-8: byte {error.start} cannot be decoded")


def _placed(found: Found, locator: str, headers: dict[str, str], media: str) -> Found:
    """What was found in a record, with what the archive knows: its place, its address and when it was fetched."""
    locator = inside(locator, found.locator)
    if not isinstance(found, Extracted):
        return replace(found, locator=locator)
    date = headers.get("warc-date", "")
    known = {
        "warc_record_id": headers.get("warc-record-id", ""),
        "content_type": media,
        "truncated": headers.get("warc-truncated", ""),
        # What the page says of itself stays beside what the archive says.
        "canonical_url": found.url or "",
        "published": found.date or "",
    }
    metadata = found.metadata | {key: clip(value) for key, value in known.items() if value}
    url = clip(_url(headers), 2000) or None
    return replace(found, locator=locator, url=url, date=date if _DATE.fullmatch(date) else None, metadata=metadata)


# --- bodies ---------------------------------------------------------------------------------------------------


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _copy(pieces: Iterator[bytes], body: IO[bytes], limit: int, budget: Budget) -> None:
    size = 0
    for piece in pieces:
        size += len(piece)
        budget.spend(len(piece))
        if size > limit:
            raise Rejected("too_large", f"a body of more than {limit} bytes")
        body.write(piece)


def _to_utf8(body: IO[bytes], charset: str) -> None:
    """The character set that the server named holds unless the bytes are UTF-8 or no text in it."""
    body.seek(0)
    data = body.read()
    if data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        name = map_encoding_to_html5(charset, fallback_utf8=False)
        if not name:
            return
        try:
            text = data.decode(name).encode("utf-8")
        except (UnicodeError, LookupError):
            return
        body.seek(0)
        body.truncate()
        body.write(text)


def _decoded(block: IO[bytes], http: dict[str, str], cut: bool) -> Iterator[bytes]:
    """The body of an HTTP response without its transfer and content encodings.

    Many crawlers decode a body and keep the header that says it is encoded: a body that is not is taken as it is.
    """
    pieces = _pieces(block)
    if http.get("transfer-encoding", "").lower().rstrip().endswith("chunked"):
        pieces = _unchunked(block, cut)
    names = [name.strip() for name in http.get("content-encoding", "").lower().split(",")]
    names = [name for name in names if name not in {"", "identity", "none", "utf-8"}]
    if len(names) > _ENCODINGS:
        raise Rejected("broken_record", "more content encodings than any server applies")
    for name in reversed(names):
        if name not in _DECODERS:
            raise Rejected("not_supported", clip(f"content encoding {name!r}", 80))
        pieces = _unpacked(pieces, _DECODERS[name], cut)
    return pieces


def _unchunked(block: IO[bytes], cut: bool) -> Iterator[bytes]:
    line = block.readline(_HEADER_BYTES)
    if not _CHUNK.match(line):
        yield line
        yield from _pieces(block)
        return
    while head := _CHUNK.match(line):
        left = int(head[1], 16)
        if not left:
            return
        while left and (piece := block.read(min(left, CHUNK_BYTES))):
            left -= len(piece)
            yield piece
        block.readline(3)
        line = block.readline(_HEADER_BYTES)
    if line and not cut:
        raise Rejected("broken_record", "the chunks of the body are damaged")
    if not cut:
        raise Rejected("broken_record", "the body ends before its last chunk")


def _unpacked(pieces: Iterator[bytes], decoder: Callable[[bytes], Any], cut: bool) -> Iterator[bytes]:
    first = next(pieces, b"")
    if not first:
        return
    begun = False
    try:
        decode = decoder(first)
        for piece in itertools.chain([first], pieces):
            for data in decode.feed(piece):
                begun = True
                yield data
            if decode.ended:
                return
    except (zlib.error, zstandard.ZstdError, brotli.error) as error:
        if begun:
            raise Rejected("broken_record", f"the encoded body is damaged: {error}") from None
    if not begun:  # it never was encoded
        yield first
        yield from pieces
    elif not cut:
        raise Rejected("broken_record", "the encoded body ends early")


class _Zlib:
    def __init__(self, first: bytes) -> None:
        raw = first[0] & 0x0F != 8 and not first.startswith(b"\x1f\x8b")  # "deflate" without the header it should have
        self._decoder = zlib.decompressobj(wbits=-15 if raw else 47)
        self.ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while piece and not self._decoder.eof:
            if data := self._decoder.decompress(piece, STEP_BYTES):
                yield data
            piece = self._decoder.unconsumed_tail
        self.ended = self._decoder.eof


class _Zstd:
    def __init__(self, first: bytes) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
        self.ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for begin in range(0, len(piece), ZSTD_STEP_BYTES):
            if data := self._decoder.decompress(piece[begin : begin + ZSTD_STEP_BYTES]):
                yield data
            if self._decoder.eof:
                break
        self.ended = self._decoder.eof


class _Brotli:
    def __init__(self, first: bytes) -> None:
        self._decoder = brotli.Decompressor()
        self.ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while not self.ended:
            data = self._decoder.process(piece, output_buffer_limit=CHUNK_BYTES)
            if data:
                yield data
            self.ended = self._decoder.is_finished()
            piece = b""
            if not data and self._decoder.can_accept_more_data():
                return


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "gzip": _Zlib,
    "x-gzip": _Zlib,
    "deflate": _Zlib,
    "br": _Brotli,
    "zstd": _Zstd,
}
