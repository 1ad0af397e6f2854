"""Identifiers and hashes. Everything is xxh3, never Python's salted `hash()`."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

ID_BYTES = 16
ID = pa.binary(ID_BYTES)


def document_id(source: str, path: str, locator: str) -> bytes:
    """16 bytes that name a document for good: where it came from, never what it says."""
    return xxhash.xxh3_128_digest("\x1f".join((source, path, locator)).encode())


def text_hash(text: str) -> bytes:
    """16 bytes of the exact text; a sidecar carries the hash of the text it judged."""
    return xxhash.xxh3_128_digest(text.encode())


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Hex digest of a JSON-like value."""
    return xxhash.xxh3_128_hexdigest(canonical_json(value).encode())


def uniform(keys: Iterable[bytes], *salt: object) -> np.ndarray:
    """Map each key to a float64 in [0, 1), the same on every machine; `salt` makes independent draws."""
    prefix = "\x1f".join(str(part) for part in salt).encode() + b"\x1f"
    numbers = np.fromiter((xxhash.xxh3_64_intdigest(prefix + key) for key in keys), dtype=np.uint64)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
