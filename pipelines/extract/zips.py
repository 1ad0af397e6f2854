"""The members of a zip file, one after the other, in bounded memory; nothing is written to disk.

The standard library's reader builds an object for every entry before the first can be read, guesses the character
set of names, and cannot open a file that was cut. Here the table of contents is walked as a stream and names are
bytes; a file without a table, because its end is missing, is read from its beginning, member by member.
Format: APPNOTE.TXT of PKWARE, version 6.3.10, with ZIP64.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.extract.found import Rejected
from pipelines.extract.packed import CHUNK_BYTES, Budget, Unpacked
from pipelines.extract.tars import Member, Slice

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR, _MASKED = 0x1, 0x8, 0x2000  # bits of the flags
_METHODS = {0: "", 8: "deflate", 12: "bzip2", 93: "zstd", 95: "xz"}
_UNKNOWN32 = 0xFFFFFFFF
_FORMAT, _SYMBOLIC_LINK = 0o170000, 0o120000  # of a Unix mode
_UNIX = 3  # system that made the entry, in the high byte of its version


class _Checked(io.RawIOBase):
    """A member's bytes; Rejected at its end where size or checksum are not as declared."""

    def __init__(self, file: IO[bytes], size: int, checksum: int) -> None:
        self._file, self._size, self._checksum = file, size, checksum
        self._seen = self._sum = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), CHUNK_BYTES))
        self._seen += len(data)
        self._sum = zlib.crc32(data, self._sum)
        if self._seen > self._size or (not data and (self._seen, self._sum) != (self._size, self._checksum)):
            raise Rejected("broken_archive", "size or checksum of the member are not as declared")
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class _Entry:
    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int  # bytes
    unpacked: int
    begin: int  # of its own header in the file
    is_file: bool


def zip_members(file: IO[bytes], budget: Budget) -> Iterator[Member]:
    """The regular files of a zip, in the order of its table of contents; links and folders are left out.

    Raises Rejected where the table is damaged; where it is missing, after the members that are there.
    """
    if _table(file) is None:
        yield from _without_table(file, budget)
        return
    for entry in _entries(file):
        if entry.is_file:
            yield _member(file, entry, budget)


class NamedFiles:
    """The files of a small archive by name, as in a book or an Office document.

    Raises Rejected where the table of contents is damaged, missing or longer than `most`.
    """

    def __init__(self, file: IO[bytes], budget: Budget, most: int = 20_000) -> None:
        self._file, self._budget = file, budget
        self._entries: dict[str, _Entry] = {}
        for entry in _entries(file):
            if len(self._entries) >= most:
                raise Rejected("too_large", f"more than {most} files inside")
            self._entries.setdefault(entry.name.decode("utf-8", "backslashreplace"), entry)
        if not self._entries:
            raise Rejected("truncated", "the archive has no table of contents: its end is missing")

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, limit: int) -> bytes:
        """A file's bytes, b"" where there is none of that name. Rejected beyond `limit` bytes and for damage."""
        entry = self._entries.get(name)
        if entry is None:
            return b""
        member = _member(self._file, entry, self._budget)
        if member.error:
            raise Rejected(member.error, member.message)
        data = member.data.read(limit + 1)
        if len(data) > limit:
            raise Rejected("too_large", f"a part of more than {limit} bytes")
        return data


def read_named_files(path: str, budget: Budget, read: Callable[[NamedFiles], dict[str, str]]) -> dict[str, str]:
    """What `read` makes of the archive at `path`, or an `error` and a `message`."""
    try:
        with Path(path).open("rb") as file:
            return read(NamedFiles(file, budget))
    except Rejected as rejected:
        return {"error": rejected.error, "message": rejected.message}


def first_names(file: IO[bytes], count: int) -> set[bytes]:
    """The first names of the table of contents; none where it is missing or damaged."""
    try:
        return {entry.name for entry in itertools.islice(_entries(file), count)}
    except Rejected:
        return set()


def _entries(file: IO[bytes]) -> Iterator[_Entry]:
    """The table of contents; nothing where there is none."""
    found = _table(file)
    if found is None:
        return
    at, entries, shift = found
    size = file.seek(0, io.SEEK_END)
    claimed = 0
    for _ in range(entries):
        file.seek(at)
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or head[:4] != b"PK\x01\x02":
            raise Rejected("broken_archive", "the table of contents is damaged")
        _, made, _, flags, method, _, _, checksum, packed, unpacked, *lengths, _, _, mode, begin = _ENTRY.unpack(head)
        name, extra = file.read(lengths[0]), file.read(lengths[1])
        at += _ENTRY.size + sum(lengths)
        unpacked, packed, begin = _wide(extra, [unpacked, packed, begin])
        claimed += packed + _LOCAL.size + len(name)
        if claimed > size:
            raise Rejected("broken_archive", "members overlap, or are larger than the file")
        is_file = not name.endswith(b"/") and not (made >> 8 == _UNIX and mode >> 16 & _FORMAT == _SYMBOLIC_LINK)
        yield _Entry(name, flags, method, checksum, packed, unpacked, begin + shift, is_file)


def _member(file: IO[bytes], entry: _Entry, budget: Budget) -> Member:
    if problem := _problem(entry.flags, entry.method):
        return Member(entry.name, entry.unpacked, io.BytesIO(), *problem)
    file.seek(entry.begin)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
        return Member(
            entry.name, entry.unpacked, io.BytesIO(), "broken_archive", "the member is not where the table says"
        )
    *_, name_bytes, extra_bytes = _LOCAL.unpack(local)
    file.seek(name_bytes + extra_bytes, io.SEEK_CUR)
    data = _open(file, entry.method, entry.packed, entry.unpacked, entry.checksum, budget)
    return Member(entry.name, entry.unpacked, data)


def _open(file: IO[bytes], method: int, packed: int, unpacked: int, checksum: int, budget: Budget) -> IO[bytes]:
    data: IO[bytes] = io.BufferedReader(Slice(file, packed), CHUNK_BYTES)
    if _METHODS[method]:
        data = io.BufferedReader(Unpacked(data, _METHODS[method], unpacked, budget), CHUNK_BYTES)
    return io.BufferedReader(_Checked(data, unpacked, checksum), CHUNK_BYTES)


def _problem(flags: int, method: int) -> tuple[str, str] | None:
    if flags & (_ENCRYPTED | _MASKED):
        return "encrypted", "the member needs a password"
    if method not in _METHODS:
        return "not_supported", f"compressed by method {method}, which is not known"
    return None


def _table(file: IO[bytes]) -> tuple[int, int, int] | None:
    """Where the table of contents begins, its number of entries, and what all offsets are short of."""
    size = file.seek(0, io.SEEK_END)
    tail_bytes = min(size, _END.size + 0xFFFF)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return None
    _, _, _, _, entries, table_bytes, begin, _ = _END.unpack_from(tail, at)
    end = size - tail_bytes + at
    if at >= _LOCATOR64.size and tail[at - _LOCATOR64.size :].startswith(b"PK\x06\x07"):
        _, _, where, _ = _LOCATOR64.unpack_from(tail, at - _LOCATOR64.size)
        for place in (where, end - _LOCATOR64.size - _END64.size):  # the second one where something was put in front
            file.seek(min(place, size))
            wide = file.read(_END64.size)
            if len(wide) == _END64.size and wide[:4] == b"PK\x06\x06":
                *_, entries, table_bytes, begin = _END64.unpack(wide)
                end = place
                break
    shift = end - table_bytes - begin
    if shift < 0:
        raise Rejected("broken_archive", "the table of contents lies outside the file")
    return begin + shift, entries, shift


def _wide(extra: bytes, fields: list[int]) -> list[int]:
    """Sizes and offset with those that did not fit into 32 bits taken from the ZIP64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = extra[at + 4 : at + 4 + length]
            for index, field in enumerate(fields):
                if field == _UNKNOWN32 and len(values) >= 8:
                    fields[index], values = int.from_bytes(values[:8], "little"), values[8:]
            break
        at += 4 + length
    return fields


def _without_table(file: IO[bytes], budget: Budget) -> Iterator[Member]:
    at = 0
    while True:
        file.seek(at)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            break
        _, _, flags, method, _, _, checksum, packed, unpacked, name_bytes, extra_bytes = _LOCAL.unpack(head)
        name, extra = file.read(name_bytes), file.read(extra_bytes)
        if len(name) + len(extra) < name_bytes + extra_bytes:
            break
        unpacked, packed = _wide(extra, [unpacked, packed])
        begin = at + _LOCAL.size + name_bytes + extra_bytes
        open_ended = bool(flags & _DESCRIPTOR) and packed == 0
        if flags & (_ENCRYPTED | _MASKED) or (open_ended and method != 8):
            raise Rejected("truncated", "the archive has no table of contents, and a member without a size")
        if open_ended:
            inner = Unpacked(file, "deflate", budget.limit, budget)
            yield Member(name, unpacked, io.BufferedReader(inner, CHUNK_BYTES))
            while inner.read(CHUNK_BYTES):
                pass
            at = _after_descriptor(file, file.tell() - inner.unused)
            continue
        if not name.endswith(b"/"):
            if problem := _problem(flags, method):
                yield Member(name, unpacked, io.BytesIO(), *problem)
            else:
                yield Member(name, unpacked, _open(file, method, packed, unpacked, checksum, budget))
        at = begin + packed
    raise Rejected("truncated", "the archive has no table of contents: its end is missing")


def _after_descriptor(file: IO[bytes], at: int) -> int:
    """Where the next header begins: behind the sizes and the checksum, which may be of 12, 16, 20 or 24 bytes."""
    file.seek(at)
    window = file.read(28)
    for length in (12, 16, 20, 24):
        if window[length : length + 4] in (b"PK\x03\x04", b"PK\x01\x02"):
            return at + length
    return at
