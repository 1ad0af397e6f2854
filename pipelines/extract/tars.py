"""The members of a tar file as a stream: one pass, bounded memory, nothing written to disk.

The standard library's reader keeps every header in memory, reads headers of any declared size whole and takes a file
that was cut for one that ended; here a cut or damaged file gives what came before, and then Rejected.
Formats: POSIX.1-2001 (pax), GNU, ustar and the tar of Version 7.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pipelines.extract.found import Rejected
from pipelines.extract.packed import CHUNK_BYTES

_BLOCK = 512
_HEADER_BYTES = 1 << 20  # largest extended header; the longest path of a file system has 4 KiB
_EXTENDED = 1 << 10  # most extended headers before one member
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ")
_OCTAL = re.compile(rb"[0-7]+")
_FILES = b"0\x007"
_SPARSE = b"S"
_WITHOUT_DATA = b"123456"  # links, devices, folders and pipes, whatever size they declare


@dataclass(frozen=True)
class Member:
    """A regular file in an archive; `error` and `message` say why it cannot be read, where it cannot.

    `data` is only good until the next member is asked for.
    """

    name: bytes
    size: int  # bytes as declared
    data: IO[bytes]
    error: str = ""
    message: str = ""


class Slice(io.RawIOBase):
    """The next `size` bytes of a file; Rejected where the file ends earlier."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(self.left, len(buffer)))
        if not data and self.left and len(buffer):
            raise Rejected("truncated", f"the file ends {self.left} bytes too early")
        self.left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def skip(self) -> None:
        while self.left:
            self.read(CHUNK_BYTES)


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar member: its checksum is right."""
    return len(head) >= _BLOCK and any(head[:100]) and _checksum_is_right(head[:_BLOCK])


def _checksum_is_right(block: bytes) -> bool:
    try:
        told = int(block[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return told == sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, for what is too large for octal digits
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0")[0].strip() or b"0"
    if not _OCTAL.fullmatch(digits):
        raise Rejected("broken_archive", "the header of a member is damaged")
    return int(digits, 8)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: decimal length, space, key, "=", value, newline."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and (length := _PAX_RECORD.match(data, at)):
        end = at + int(length[1])
        if end <= length.end() or end > len(data):
            break
        key, _, value = data[length.end() : end - 1].partition(b"=")
        found[key] = value
        at = end
    return found


def tar_members(file: IO[bytes]) -> Iterator[Member]:
    """The regular files of a tar, in its order; links, devices and folders are left out.

    Raises Rejected where the file is damaged or ends early.
    """
    name, pax, shared, extended = b"", {}, {}, 0  # type: ignore[var-annotated]
    while True:
        block = file.read(_BLOCK)
        if not any(block) and len(block) in (0, _BLOCK):  # the end; files without the two empty blocks are common
            if extended:
                raise Rejected("truncated", "the file ends after the extended header of a member")
            return
        if len(block) < _BLOCK:
            raise Rejected("truncated", "the file ends in the header of a member")
        if not _checksum_is_right(block):
            raise Rejected("broken_archive", "the header of a member is damaged")
        kind, size = block[156:157], _number(block[124:136])
        if kind in b"xgLKX" and kind:
            extended += 1
            if size > _HEADER_BYTES or extended > _EXTENDED:
                raise Rejected("broken_archive", f"an extended header of {size} bytes, number {extended}")
            data = Slice(file, -size % _BLOCK + size)
            value = io.BufferedReader(data).read(size)
            data.skip()
            if kind == b"L":
                name = value.rstrip(b"\0")
            elif kind in b"xX":
                pax = _pax(value)
            elif kind == b"g":
                shared |= _pax(value)
            continue
        known = shared | pax
        if b"size" in known:
            if not known[b"size"].isdigit() or len(known[b"size"]) > 19:
                raise Rejected("broken_archive", "the size of a member is no number")
            size = int(known[b"size"])
        name = known.get(b"path") or name or _short_name(block)
        while kind == _SPARSE and block[482 if block[257:262] == b"ustar" else 504]:  # its map goes on
            block = file.read(_BLOCK)
            if len(block) < _BLOCK:
                raise Rejected("truncated", "the file ends in the header of a member")
        data = Slice(file, 0 if kind in _WITHOUT_DATA else size)
        padding = Slice(file, -data.left % _BLOCK)
        if kind == _SPARSE or any(key.startswith(b"GNU.sparse") for key in known):
            yield Member(name, size, io.BytesIO(), "not_supported", "a sparse file")
        elif kind in _FILES and not name.endswith(b"/"):
            yield Member(name, size, io.BufferedReader(data, CHUNK_BYTES))
        data.skip()
        padding.skip()
        name, pax, extended = b"", {}, 0


def _short_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
