"""Keys that duplicates share: of equal text, of one address, of MinHash bands (Broder 1997; Indyk and Motwani 1998).

Text becomes shingles, shingles a signature, the signature one key per band; documents that share a key are candidates.
A document is named by a reference `shard << 32 | row`, 8 bytes, until its decision is written. A 128-bit hash or id is
two uint64, high half first, so that order and equality are those of its bytes.
"""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np
import xxhash

from pipelines import words
from pipelines.dedup.graph import EDGE
from pipelines.groups import borders
from pipelines.words import Words
from schemas.hashing import GOLDEN, scramble
from schemas.recipe import Dedup

MINHASH_BLOCK = 1 << 16  # shingles per block: two working arrays of 256 KiB, whatever the document's size
HOT = 32  # documents of one bucket that a batch hands on; the others are tied to the first of them on the spot

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u8")])
"""A key and a document that has it. The last bit of `low` is set for keys that settle the matter: equal text, equal
address. Documents that share any other key are candidates."""


def bands_and_rows(config: Dedup) -> tuple[int, int]:
    """As the recipe gives them, or chosen for its threshold."""
    if config.threshold is None:
        return config.bands, config.rows
    return banding(config.threshold, config.permutations)


@lru_cache(maxsize=8)
def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows of at most `permutations` maps that are wrong least often about pairs around `threshold`.

    The probability that a pair of similarity s shares a bucket is 1 - (1 - s**rows)**bands. What is made smallest is
    its integral below the threshold plus that of its complement above: the rule of datasketch's `MinHashLSH`.
    """
    step = 0.001
    low = np.arange(0, threshold, step) + step / 2
    high = np.arange(threshold, 1, step) + step / 2
    choices = [(bands, rows) for bands in range(1, permutations + 1) for rows in range(1, permutations // bands + 1)]

    def wrong(choice: tuple[int, int]) -> float:
        bands, rows = choice
        return float((1 - (1 - low**rows) ** bands).sum() + ((1 - high**rows) ** bands).sum())

    return min(choices, key=wrong)


def exact_keys(texts: Sequence[str]) -> np.ndarray:
    """xxh3-128 of each text in NFC with runs of white space folded to one space; uint64 [texts, 2]."""
    digests = [
        xxhash.xxh3_128_digest(
            " ".join("".join([words.normal("NFC", piece) for piece in words.pieces(text)]).split()).encode()
        )
        for text in texts
    ]
    return _halves(b"".join(digests))


def address_keys(urls: Sequence[str | None]) -> np.ndarray:
    """xxh3-128 of each address, uint64 [urls, 2]; two zeros for none.

    Scheme and host are lower-cased, http counts as https, and the fragment, a port that goes without saying and a
    slash at the end of the path are left out.
    """
    digests = [xxhash.xxh3_128_digest(_address(url).encode()) if url else bytes(16) for url in urls]
    return _halves(b"".join(digests))


def _address(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:  # no address; it is still equal to itself
        return url.strip()
    scheme = parts.scheme.lower()
    shown = "" if port is None or (scheme, port) in (("http", 80), ("https", 443)) else f":{port}"
    scheme = "https" if scheme == "http" else scheme
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{(parts.hostname or '').lower()}{shown}{parts.path.rstrip('/')}{query}"


def salted(keys: np.ndarray, salts: Sequence[str]) -> np.ndarray:
    """The keys, uint64 [texts, 2], made different for texts of unequal `salts`."""
    if not any(salts):
        return keys
    salt = _halves(b"".join(_salt(salt) for salt in salts))
    return scramble(keys.reshape(-1) ^ salt.reshape(-1)).reshape(-1, 2)


@lru_cache(maxsize=1 << 12)
def _salt(salt: str) -> bytes:
    return xxhash.xxh3_128_digest(salt.encode())


def split_words(texts: Sequence[str]) -> Words:
    """The lower-cased words of each text."""
    return words.split(texts, lambda piece: words.normal("NFC", piece).lower())


def shingles(found: Words, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the word n-grams of each text: uint64 [all shingles], int64 [texts] how many each text has.

    A text mostly in scripts without spaces is cut into 2 * `ngram` characters. A text shorter than that gives one
    shingle of what there is; a text without words gives none. Repeated shingles are repeated.
    """
    spaceless = 2 * found.spaceless_counts() > found.lengths
    return words.ngrams(found, np.minimum(np.where(spaceless, 2 * ngram, ngram), found.lengths))


@lru_cache(maxsize=8)
def permutations(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers (odd) and increments of `count` maps x -> a x + b modulo 2**32; two uint32 [count]."""
    start = np.uint64(xxhash.xxh3_64_intdigest(f"minhash\x1f{seed}".encode()))
    draws = scramble(np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + start)
    numbers = (draws >> np.uint64(32)).astype(np.uint32)
    return numbers[:count] | np.uint32(1), numbers[count:]


def signatures(hashes: np.ndarray, counts: np.ndarray, maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """MinHash signatures, uint32 [texts, maps], of texts that have `counts` > 0 shingles each, end to end in `hashes`.

    The upper halves of the shingle hashes are permuted. Shingles are taken in blocks that stay in the processor's
    cache; a text that lies across blocks gets the minimum of its parts.
    """
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    begins = np.cumsum(counts) - counts
    result = np.full((len(maps[0]), len(counts)), np.iinfo(np.uint32).max, np.uint32)
    workspace = np.empty(min(MINHASH_BLOCK, len(values)), np.uint32)
    for low in range(0, len(values), MINHASH_BLOCK):
        block = values[low : low + MINHASH_BLOCK]
        permuted = workspace[: len(block)]
        first, last = np.searchsorted(begins, [low, low + len(block)], side="right") - 1
        if last > first and begins[last] == low + len(block):
            last -= 1
        segments = np.maximum(begins[first : last + 1] - low, 0)
        for minima, multiplier, increment in zip(result[:, first : last + 1], *maps):
            np.multiply(block, multiplier, out=permuted)
            np.add(permuted, increment, out=permuted)
            np.minimum(minima, np.minimum.reduceat(permuted, segments), out=minima)
    return np.ascontiguousarray(result.T)


def lone_shingles(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """uint64 [texts]: the hash of the shingle that a text consists of, 0 for a text of several different ones.

    A signature keeps 32 bits of each of its shingles. One shingle is too few for them to tell millions of texts apart.
    """
    begins = np.cumsum(counts) - counts
    smallest = np.minimum.reduceat(hashes, begins) if len(counts) else np.empty(0, np.uint64)
    largest = np.maximum.reduceat(hashes, begins) if len(counts) else np.empty(0, np.uint64)
    return np.where(smallest == largest, smallest, np.uint64(0))


def band_keys(signature: np.ndarray, bands: int, salts: Sequence[str]) -> np.ndarray:
    """One 128-bit key per text and band, uint64 [texts, bands, 2]; texts of unequal `salts` share none."""
    texts, maps = signature.shape
    width = 4 * (maps // bands)
    rows = signature.astype("<u4").tobytes()
    digests = []
    for text, salt in enumerate(salts):
        prefix = salt.encode() + b"\x1f"
        begin = text * 4 * maps
        digests += [
            # The band's number is the seed; 0 is left to the keys of exact copies.
            xxhash.xxh3_128_digest(prefix + rows[begin + band * width : begin + (band + 1) * width], seed=band + 1)
            for band in range(bands)
        ]
    return _halves(b"".join(digests)).reshape(texts, bands, 2)


def references(shard: int, rows: np.ndarray) -> np.ndarray:
    """uint64 [rows]: how the documents in some rows of a shard are named."""
    return np.uint64(shard << 32) + rows.astype(np.uint64)


def shards_of(documents: np.ndarray) -> np.ndarray:
    """The shard of each reference, uint64."""
    return documents >> np.uint64(32)


def rows_of(documents: np.ndarray) -> np.ndarray:
    """The row of each reference in its shard, int64."""
    return (documents & np.uint64(0xFFFFFFFF)).astype(np.int64)


def pack_keys(keys: np.ndarray, documents: np.ndarray, sure: bool) -> np.ndarray:
    """KEY records of `keys` uint64 [documents, keys per document, 2]."""
    packed = np.empty(keys.shape[:2], KEY)
    packed["high"], packed["low"] = keys[..., 0], keys[..., 1] & ~np.uint64(1) | np.uint64(sure)
    packed["document"] = documents[:, None]
    return packed.reshape(-1)


def thin(keys: np.ndarray, most: int = HOT) -> tuple[np.ndarray, np.ndarray]:
    """Bound what one batch adds to a bucket: at most `most` KEY records of each key, and EDGE records for the rest.

    What is left out is tied to the smallest document of its bucket, so a bucket of a million copies reaches the worker
    that sorts it as a few records of each batch.
    """
    keys = sorted_keys(keys)
    opens = key_borders(keys)
    begins = np.flatnonzero(opens)
    bucket = np.cumsum(opens) - 1
    rest = np.arange(len(keys)) - begins[bucket] >= most
    edges = np.empty(int(rest.sum()), EDGE)
    edges["first"], edges["second"] = keys["document"][begins[bucket[rest]]], keys["document"][rest]
    edges["sure"] = keys["low"][rest] & np.uint64(1)
    return keys[~rest], edges


def sorted_keys(keys: np.ndarray) -> np.ndarray:
    """KEY records by key, those of one key by document."""
    return keys[np.lexsort((keys["document"], keys["low"], keys["high"]))]


def key_borders(keys: np.ndarray) -> np.ndarray:
    """bool: where another key begins than that of the record before, in sorted KEY records."""
    return borders(keys["high"], keys["low"])


def partition(keys: np.ndarray, partitions: int) -> np.ndarray:
    """Which of at most 2**32 partitions a key belongs to; they are ranges of `high`, so those of an index fit."""
    return ((keys["high"] >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)


def _halves(digests: bytes) -> np.ndarray:
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
