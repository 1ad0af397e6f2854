"""Reading evaluation sets: one item per JSON line or Parquet row."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import zstandard

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.tables import read_batches

MAX_LINE = 16 << 20  # bytes; a longer line counts as unreadable
LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (*LINES, ".parquet", ".gz", ".zst")


@dataclass(frozen=True)
class Benchmark:
    """The items of one file; `unreadable` counts lines that hold no JSON object."""

    items: list[str]
    unreadable: int


def find_benchmarks(patterns: Iterable[str]) -> dict[str, str]:
    """Name -> path of every file that the paths and globs name; ConfigError if one names nothing.

    A benchmark is called as its file without endings, with as many folders before it as make it unique.
    """
    parts: dict[str, list[str]] = {}
    for pattern in patterns:
        matches = paths.glob(pattern)
        if not matches:
            raise ConfigError(f"decontaminate.benchmarks: {pattern}: there is no such file")
        parts |= {path: _parts(path) for path in matches}
    names: dict[str, str] = {}
    for path, own in sorted(parts.items()):
        others = [other for match, other in parts.items() if match != path]
        depth = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), None)
        names["/".join(own[-depth:]) if depth else path] = path
    return names


def read_benchmark(path: str, fields: list[str]) -> Benchmark:
    """The text of every item: its `fields`, where it has them, joined in order; lists of strings are joined too.

    Values that are neither strings nor lists of strings are left out. Raises ConfigError if the file cannot be read
    or no item has any of the fields.
    """
    items: list[str] = []
    unreadable = 0
    try:
        for row in _rows(path, fields):
            if row is None:
                unreadable += 1
            elif any(row.get(field) is not None for field in fields):
                text = "\n".join(string for field in fields for string in _strings(row.get(field)))
                items.append(text.encode("utf-8", "replace").decode())  # JSON can spell half a surrogate pair
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, DataError) as error:
        raise ConfigError(f"decontaminate.benchmarks: {path}: cannot be read: {error}") from error
    if not items:
        raise ConfigError(
            f"decontaminate.benchmarks: {path}: no item has any of the fields {', '.join(fields)}; "
            "name its fields in decontaminate.fields, one item per JSON line or Parquet row"
        )
    return Benchmark(items, unreadable)


def _parts(path: str) -> list[str]:
    *folders, name = path.split("/")
    while name.endswith(ENDINGS):
        name = name.rpartition(".")[0]
    return [*folders, name]


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _rows(path: str, fields: list[str]) -> Iterator[dict[str, Any] | None]:
    """Every row as a dictionary, None for one that cannot be read."""
    if path.endswith(".parquet"):
        for batch in read_batches(path):
            yield from batch.select([name for name in fields if name in batch.schema.names]).to_pylist()
        return
    if not path.removesuffix(".gz").removesuffix(".zst").endswith(LINES):
        raise ConfigError(f"decontaminate.benchmarks: {path}: neither JSON lines (.jsonl, .gz, .zst) nor Parquet")
    with paths.open_read(path) as handle:
        for line in _lines(_decompressed(path, handle)):
            try:
                value = json.loads(line) if line is not None else None
            except (ValueError, RecursionError):
                value = None
            yield value if isinstance(value, dict) else None


def _decompressed(path: str, handle: IO[bytes]) -> IO[bytes] | io.BufferedIOBase:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=handle)
    if path.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(handle, read_across_frames=True))
    return handle


def _lines(handle: IO[bytes] | io.BufferedIOBase) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one longer than MAX_LINE."""
    while line := handle.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = handle.readline(MAX_LINE)
            yield None
        elif line.strip():
            yield line
