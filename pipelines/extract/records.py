"""Files that hold many documents as records: JSON lines and Parquet, streamed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.extract.found import Extracted, Reject, Rejected, clean_text, clip, make_document
from pipelines.extract.packed import CHUNK_BYTES
from schemas.hashing import text_hash
from schemas.recipe import Columns, Extract

_ROWS = 64  # of Parquet in memory at a time
_PARQUET_RATIO = 100  # characters of text per byte of file; no real text repeats itself more
_FRUITLESS = 1_000_000  # records in a row without a document, after which a file is given up
_METADATA_FIELDS, _METADATA_KEY, _METADATA_VALUE = 32, 100, 1000  # bounds on what a row may bring along


def give_up_on_fruitless(found: Iterator[Extracted | Reject]) -> Iterator[Extracted | Reject]:
    """What was found, as long as there is a document now and then: a few bytes can be millions of bad records."""
    in_vain = 0
    for one in found:
        yield one
        in_vain = in_vain + 1 if isinstance(one, Reject) else 0
        if in_vain >= _FRUITLESS:
            raise Rejected("too_many_rejects", f"{_FRUITLESS} records in a row give no document; the rest is not read")


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
    return None if value is None else clip(value, _METADATA_VALUE)


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
        message = clip(f"no field {columns.text!r}; there are: {present}")
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
    return make_document(locator, raw, options, metadata, fields)


def _lines(file: IO[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their end; None for a line of more than `limit` bytes, which is skipped."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) <= limit or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(CHUNK_BYTES)
        yield number, None


def extract_json_lines(file: IO[bytes], options: Extract, columns: Columns) -> Iterator[Extracted | Reject]:
    # Escapes such as \u4e2d take six bytes a character.
    limit = 6 * options.max_characters + CHUNK_BYTES
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
            yield Reject(locator, "invalid_json", clip(f"not JSON: {error}"))
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


def extract_parquet(path: str, options: Extract, columns: Columns) -> Iterator[Extracted | Reject]:
    try:
        with pq.ParquetFile(path) as plain:
            schema = plain.schema_arrow
        if columns.text not in schema.names:
            present = ", ".join(schema.names[:10]) or "none"
            yield Reject("", "no_text_column", clip(f"no column {columns.text!r}; there are: {present}"))
            return
        if not _is_string(schema.field(columns.text).type):
            kind = schema.field(columns.text).type
            yield Reject("", "text_not_string", clip(f"column {columns.text!r} is {kind}, not text"))
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
                        raise Rejected("too_large", message)
                    yield _record(locator, row, "parquet", options, columns)
    except (pa.ArrowException, OSError, MemoryError) as error:
        yield Reject("", "broken_parquet", clip(f"not readable as Parquet: {error}"))
