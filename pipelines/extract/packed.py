"""The bytes of files that may be compressed, in bounded memory, as a stream or as a local file."""

import bz2
import contextlib
import io
import lzma
import re
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

import zstandard

from pipelines.extract.found import Rejected
from schemas.recipe import Extract

HEAD_BYTES = 8192  # looked at to tell what a file is
CHUNK_BYTES = 1 << 16
STEP_BYTES = 1 << 20  # most unpacked at a time
ZSTD_STEP_BYTES = 1 << 10  # one zstd block of a few bytes can unpack to 128 kB, so zstd is fed a little at a time
WINDOW_BYTES = 1 << 27  # of memory that compressed bytes may ask for to be unpacked
COMPRESSED_SUFFIXES = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz"})
_UNPACKED_RATIO = 100  # bytes that a byte of a file may unpack to, all it holds together
_GZIP_READ = 1 << 14  # what is left of it is copied at the end of every member, and members may be tiny
_DICTIONARY = 1 << 24  # largest zstd dictionary
_DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18"

_MAGICS = (
    ("gzip", re.compile(rb"\x1f\x8b")),
    ("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")),  # a frame, or one to be skipped
    ("bzip2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")),
    ("xz", re.compile(rb"\xfd7zXZ\0")),
)


def compression(head: bytes) -> str | None:
    """How a file that begins with `head` is compressed: gzip, zstd, bzip2, xz or not at all."""
    return next((name for name, magic in _MAGICS if magic.match(head)), None)


class Budget:
    """The bytes that everything inside one file may unpack to; Rejected once they are spent.

    One budget goes along into archives in archives, so that no nesting multiplies it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    @classmethod
    def of(cls, file: IO[bytes], options: Extract) -> "Budget":
        """That of a file, which is then at its beginning: a hundred times its size, or the limit on files if more."""
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return cls(max(options.max_file_bytes, _UNPACKED_RATIO * size))

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Rejected("too_large", f"unpacks to more than {self.limit} bytes")


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed file, in bounded memory; of all its members or frames, one after the other.

    A zstd file may begin with the dictionary of its frames, as files of web archives do. A bare `deflate` stream, as
    in zip, is one member without a header; `unused` is what has been read beyond its end.

    Raises Rejected for damage, for a file that ends early, beyond `limit` bytes and beyond the budget.
    """

    def __init__(self, file: IO[bytes], kind: str, limit: int, budget: Budget | None = None) -> None:
        self._file, self._kind, self.limit, self._budget = file, kind, limit, budget
        self._decoder: Any = None  # of the current member or frame; None between two
        self._dictionary: Any = None
        self._packed = b""
        self._ready = memoryview(b"")
        self._given = 0  # bytes so far, of `limit`
        self._begun = self._ended = False
        self._problem: Rejected | None = None

    def readable(self) -> bool:
        return True

    @property
    def unused(self) -> int:
        return len(self._packed)

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as there are bytes; those before damage come first, and then Rejected."""
        target = memoryview(buffer)
        filled = 0
        while filled < len(target):
            if self._ready and self._given < self.limit:
                size = min(len(target) - filled, len(self._ready), self.limit - self._given)
                target[filled : filled + size] = self._ready[:size]
                self._ready = self._ready[size:]
                filled += size
                self._given += size
            elif self._problem:
                if not filled:
                    raise self._problem
                break
            else:
                try:
                    if not self._more():
                        break
                except Rejected as rejected:
                    self._problem = rejected
        return filled

    def _more(self) -> bool:
        """Unpack some bytes, or none; False at the end."""
        if self._ready:
            raise Rejected("too_large", f"unpacks to more than {self.limit} bytes")
        if self._ended:
            return False
        if not self._packed and getattr(self._decoder, "needs_input", True):
            self._packed = self._read()
            if not self._packed:
                if self._decoder is not None:
                    raise Rejected("broken_compression", "the compressed file ends early")
                return False
        self._ready = memoryview(self._unpack())
        if self._budget:
            self._budget.spend(len(self._ready))
        return True

    def _read(self) -> bytes:
        if self._kind != "zstd":
            return self._file.read(_GZIP_READ)
        data = self._file.read(ZSTD_STEP_BYTES)
        if not self._begun and data.startswith(_DICTIONARY_MAGIC) and len(data) >= 8:
            size = int.from_bytes(data[4:8], "little")
            if size > _DICTIONARY:
                raise Rejected("too_large", f"a zstd dictionary of {size} bytes; the limit is {_DICTIONARY}")
            data += self._file.read(max(0, 8 + size - len(data)))
            self._dictionary = _zstd_dictionary(data[8 : 8 + size])
            data = data[8 + size :] or self._file.read(ZSTD_STEP_BYTES)
        self._begun = True
        return data

    def _start(self) -> None:
        if self._kind != "zstd":
            self._packed = self._packed.lstrip(b"\0")  # tape padding after the last member
        if not self._packed:
            return
        if self._kind == "zstd":
            opened = zstandard.ZstdDecompressor(dict_data=self._dictionary, max_window_size=WINDOW_BYTES)
            self._decoder = opened.decompressobj()
        elif self._kind == "gzip":
            self._decoder = zlib.decompressobj(wbits=31)
        elif self._kind == "deflate":
            self._decoder = zlib.decompressobj(wbits=-15)
        elif self._kind == "bzip2":
            self._decoder = bz2.BZ2Decompressor()
        else:
            self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW_BYTES)

    def _unpack(self) -> bytes:
        try:
            if self._decoder is None:
                self._start()
            if self._decoder is None:  # nothing but padding was left
                return b""
            if self._kind == "zstd":
                data = self._decoder.decompress(self._packed)
                self._packed = b""
            else:
                data = self._decoder.decompress(self._packed, STEP_BYTES)
                self._packed = getattr(self._decoder, "unconsumed_tail", b"")
        except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError) as error:
            raise Rejected("broken_compression", f"the compressed file is damaged: {error}") from None
        if self._decoder.eof:
            self._packed = self._decoder.unused_data
            self._decoder = None
            self._ended = self._kind == "deflate"
        return bytes(data)


def _zstd_dictionary(data: bytes) -> Any:
    if compression(data) == "zstd":  # dictionaries may be compressed themselves
        try:
            with zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).stream_reader(data) as reader:
                data = reader.read(_DICTIONARY + 1)
        except zstandard.ZstdError as error:
            raise Rejected("broken_compression", f"the zstd dictionary is damaged: {error}") from None
        if not data:
            raise Rejected("broken_compression", "the zstd dictionary ends early")
        if len(data) > _DICTIONARY:
            raise Rejected("too_large", f"a zstd dictionary of more than {_DICTIONARY} bytes")
    return zstandard.ZstdCompressionDict(data)


def peek(file: Any) -> tuple[bytes, IO[bytes]]:
    """The first bytes of a file, and the file before them."""
    if file.seekable():
        head = file.read(HEAD_BYTES)
        file.seek(0)
        return head, file
    buffered = io.BufferedReader(file, CHUNK_BYTES)
    return buffered.peek(HEAD_BYTES)[:HEAD_BYTES], buffered


def read_whole(file: IO[bytes], options: Extract) -> bytes:
    """All bytes of a file that is one document of text; no UTF-8 character has more than four."""
    limit = min(options.max_file_bytes, 4 * options.max_characters)
    data = file.read(limit + 1)
    if len(data) > limit:
        raise Rejected("too_large", f"more than {limit} bytes for one document of text")
    return data


def as_local_path(file: IO[bytes], local: Path | None, options: Extract, stack: contextlib.ExitStack) -> str:
    """The path of a local file with the bytes of `file`, for readers that seek; a copy only where needed."""
    if local is not None:
        size = local.stat().st_size
        path = str(local.resolve())
    else:
        copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="sluice-"))  # noqa: SIM115
        size = 0
        while size <= options.max_file_bytes and (chunk := file.read(CHUNK_BYTES)):
            copy.write(chunk)
            size += len(chunk)
        copy.flush()
        path = copy.name
    if size > options.max_file_bytes:
        raise Rejected("too_large", f"more than {options.max_file_bytes} bytes")
    return path
