"""Reading evaluation sets: one item per JSON line or Parquet row."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.tables import read_batches

MAX_LINE = 16 << 20  # bytes; a longer line counts as unreadable
LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (*LINES, ".parquet", ".gz", ".zst")


NESTED = "qas"  # a field with a list of items, as in SQuAD; what stands beside it is common to them and left out
DEEPEST = 4  # lists in lists
NAMED = ("text", "value")  # of a dictionary that has one of these, only this is text: {"label": "A", "text": "Paris"}


@dataclass(frozen=True)
class Item:
    """What is asked, the answer, and what there is to choose from, as text; "" where there is none."""

    question: str
    answer: str = ""
    choices: str = ""

    def text(self) -> str:
        return "\n".join(part for part in (self.question, self.answer, self.choices) if part)


@dataclass(frozen=True)
class Fields:
    """Names of the fields of an item: those that are there are joined, in this order."""

    question: Sequence[str]
    choices: Sequence[str]
    answer: Sequence[str]

    @property
    def all(self) -> list[str]:
        return [*self.question, *self.choices, *self.answer]


@dataclass(frozen=True)
class Benchmark:
    """The items of one file; `unreadable` counts lines that hold no JSON object."""

    items: list[Item]
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


def read_benchmark(path: str, fields: Fields) -> Benchmark:
    """The items of a file, one a row or several in its field NESTED.

    An answer that names a choice, by its number or letter, is the text of that choice. Raises ConfigError if the file
    cannot be read or no item has any of the fields.
    """
    read = list(_items(path, fields))
    items = [item for item in read if item is not None]
    return Benchmark(items, len(read) - len(items))


def require_items(path: str, fields: Fields) -> None:
    """Raise ConfigError for a file that `read_benchmark` finds no item in; reads up to the first one."""
    next(item for item in _items(path, fields) if item is not None)


def _items(path: str, fields: Fields) -> Iterator[Item | None]:
    """Items of a file in their order, None for a row that cannot be read; ConfigError at the end if there are none."""
    empty = True
    try:
        for row in _rows(path, [*fields.all, NESTED]):
            if row is None:
                yield None
                continue
            nested = row.get(NESTED)
            for one in [one for one in nested if isinstance(one, dict)] if isinstance(nested, list) else [row]:
                if any(one.get(field) is not None for field in fields.all):
                    empty = False
                    yield _item(one, fields)
    except (OSError, EOFError, zlib.error, DataError) as error:
        raise ConfigError(f"decontaminate.benchmarks: {path}: cannot be read: {error}") from error
    if empty:
        raise ConfigError(
            f"decontaminate.benchmarks: {path}: no item has any of the fields {', '.join(fields.all)}; "
            "name its fields in decontaminate.question, choices and answer, one item per JSON line or Parquet row"
        )


def _item(row: dict[str, Any], fields: Fields) -> Item:
    choices = [text for field in fields.choices for text in _strings(row.get(field))]
    answers = [_chosen(row, fields, choices, row.get(field)) for field in fields.answer]
    parts = (
        [text for field in fields.question for text in _strings(row.get(field))],
        [text for texts in answers for text in texts],
        choices,
    )
    # JSON can spell half a surrogate pair.
    return Item(*("\n".join(part).encode("utf-8", "replace").decode() for part in parts))


def _chosen(row: dict[str, Any], fields: Fields, choices: list[str], answer: Any) -> list[str]:
    """The text of an answer; of the choice that it names."""
    number = -1
    if isinstance(answer, int) and not isinstance(answer, bool):
        number = answer
    elif isinstance(answer, str) and len(answer.strip()) == 1:
        labels = [row[field]["label"] for field in fields.choices if _labelled(row.get(field))]
        number = labels[0].index(answer.strip()) if labels and answer.strip() in labels[0] else _letter(answer.strip())
    return [choices[number]] if 0 <= number < len(choices) else _strings(answer)


def _labelled(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("label"), list)


def _letter(letter: str) -> int:
    return ord(letter) - ord("A") if "A" <= letter <= "Z" else -1


def _parts(path: str) -> list[str]:
    *folders, name = path.split("/")
    while name.endswith(ENDINGS):
        name = name.rpartition(".")[0]
    return [*folders, name]


def _strings(value: Any, depth: int = 0) -> list[str]:
    """The strings and numbers of a value, in their order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [str(int(value) if isinstance(value, float) and value.is_integer() else value)]
    if isinstance(value, dict):
        named = next((name for name in NAMED if value.get(name) is not None), None)
        value = [value[named]] if named else list(value.values())
    if not isinstance(value, list) or depth == DEEPEST:
        return []
    return [string for entry in value for string in _strings(entry, depth + 1)]


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
        # Unlike the readers of zstandard it tells a file that ends too early from one that is whole.
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(handle, mode="r"), "zstd"))
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
