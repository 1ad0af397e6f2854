"""The bytes of files that may be compressed, in bounded memory, as a stream or as a local file."""

import contextlib
import io
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

import zstandard

from pipelines.extract.found import Rejected
from schemas.recipe import Extract

CHUNK_BYTES = 1 << 16


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip or zstd file, in bounded memory.

    Raises Rejected for damage, for a file that ends early and beyond `limit` bytes.
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
                raise Rejected("too_large", f"unpacks to more than {self._limit} bytes")
            if not self._packed:
                # One zstd block of a few bytes can unpack to 128 kB, so zstd is fed a little at a time.
                self._packed = self._file.read(1024 if self._zstd else CHUNK_BYTES)
                if not self._packed:
                    if self._decoder is not None:
                        raise Rejected("broken_compression", "the compressed file ends early")
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
            raise Rejected("broken_compression", f"the compressed file is damaged: {error}") from None
        if self._decoder.eof:
            self._packed = self._decoder.unused_data
            self._decoder = None
        return bytes(data)


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
