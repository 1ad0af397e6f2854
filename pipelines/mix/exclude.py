"""Reading exclusion lists: ids of documents that no plan may use, one a line or row."""

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import paths
from schemas.errors import ConfigError

COLUMNS = ("document_id", "id")
ENDINGS = (".txt", ".jsonl", ".parquet")


def read_ids(files: Iterable[str]) -> list[str]:
    """The ids of some files, sorted, each once: document ids in hex, or users' own ids.

    A .txt file holds an id a line. Of JSON lines and Parquet `document_id` is read where it is there, `id` otherwise.

    Raises:
        ConfigError: a file is missing, cannot be read or holds something else.
    """
    return sorted({one for file in files for one in _read(file)})


def _read(file: str) -> list[str]:
    where = f"mix.exclude: {file}"
    if not file.endswith(ENDINGS):
        raise ConfigError(f"{where}: must be a file that ends in {', '.join(ENDINGS)}")
    try:
        if file.endswith(".parquet"):
            with paths.open_read(file) as handle:
                return _of_table(pq.ParquetFile(handle), where)
        text = paths.read_text(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not text in UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)]
    if file.endswith(".txt"):
        return [line for _, line in lines if line]
    return [_of_json(line, f"{where}, line {number}") for number, line in lines if line]


def _of_json(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: is no JSON object")
    value = next((row[name] for name in COLUMNS if row.get(name) is not None), None)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(f"{where}: needs a text in '{COLUMNS[0]}' or '{COLUMNS[1]}'")
    return str(value)


def _of_table(file: pq.ParquetFile, where: str) -> list[str]:
    name = next((name for name in COLUMNS if name in file.schema_arrow.names), None)
    if name is None:
        raise ConfigError(f"{where}: has no column '{COLUMNS[0]}' or '{COLUMNS[1]}'")
    column = file.read([name]).column(name)
    if column.null_count:
        raise ConfigError(f"{where}: column '{name}' has {column.null_count} rows without an id")
    kind = column.type
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return [value.hex() for value in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return [str(value) for value in column.to_pylist()]
    raise ConfigError(f"{where}: column '{name}' holds {kind}, not ids")
