"""Identifiers and hashes. Everything is xxh3, never Python's salted `hash()`."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

ID_BYTES = 16
ID = pa.binary(ID_BYTES)
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: odd, hence invertible modulo 2**64


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


def scramble(numbers: np.ndarray, salt: str = "") -> np.ndarray:
    """Map uint64 numbers to uint64 numbers one to one, so that every bit depends on every bit.

    It is the finaliser of splitmix64 (Steele, Lea and Flood 2014): the same in every version of every library, unlike
    the streams of a random generator. `salt` makes independent draws; without one 0 stays 0.
    """
    mixed = numbers.astype(np.uint64, copy=False)
    if salt:
        mixed = mixed * np.uint64(GOLDEN) + np.uint64(xxhash.xxh3_64_intdigest(salt.encode()))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def span_hashes(codes: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 hash of each span of `codes`, the same wherever the span stands.

    It is a polynomial in an odd base modulo 2**64, taken from one running sum for all spans.
    """
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.multiply(codes, powers(GOLDEN, len(codes)), out=sums[1:], dtype=np.uint64)
    np.cumsum(sums, out=sums)
    return scramble((sums[ends] - sums[begins]) * inverse_powers(GOLDEN, len(codes) + 1)[begins])


def powers(base: int, length: int) -> np.ndarray:
    """base**0, base**1, ... modulo 2**64, uint64 [length]; kept for the next call."""
    return _powers(base, 1 << max(18, (length - 1).bit_length()))[:length]


def inverse_powers(base: int, length: int) -> np.ndarray:
    """The powers of the inverse of an odd base."""
    return powers(pow(base, -1, 1 << 64), length)


@lru_cache(maxsize=4)
def _powers(base: int, size: int) -> np.ndarray:
    found = np.ones(size, np.uint64)
    for bit in range(size.bit_length() - 1):
        step = 1 << bit
        found[step : 2 * step] = found[:step] * np.uint64(pow(base, step, 1 << 64))
    return found


def uniform(keys: Iterable[bytes], *salt: object) -> np.ndarray:
    """Map each key to a float64 in [0, 1), the same on every machine; `salt` makes independent draws."""
    prefix = "\x1f".join(str(part) for part in salt).encode() + b"\x1f"
    numbers = np.fromiter((xxhash.xxh3_64_intdigest(prefix + key) for key in keys), dtype=np.uint64)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
