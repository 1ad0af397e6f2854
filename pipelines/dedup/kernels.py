"""Near-duplicates by MinHash-LSH (Broder 1997; Indyk and Motwani 1998), as arrays.

Text becomes shingles, shingles a signature, the signature one key per band; documents that share a key are candidates
and, as everywhere in the field, count as duplicates without a second look. A document is named by a reference
`shard << 32 | row`, 8 bytes, until its decision is written. A 128-bit hash or id is two uint64, high half first, so
that order and equality are those of its bytes.
"""

from collections.abc import Sequence

import numpy as np
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines import words
from pipelines.words import Words
from schemas.hashing import GOLDEN, scramble

MINHASH_BLOCK = 1 << 16  # shingles per block: two working arrays of 256 KiB, whatever the document's size
NO_DATE = b"\xff"  # sorts after every date

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u8")])
EDGE = np.dtype([("first", "<u8"), ("second", "<u8")])  # first < second
LABEL = np.dtype([("document", "<u8"), ("component", "<u8")])
MEMBER = np.dtype(
    [
        ("component", "<u8"),
        ("document", "<u8"),
        ("id", "<u8", 2),
        ("exact", "<u8", 2),
        ("priority", "<i8"),
        ("quality", "<f8"),
        ("length", "<i8"),  # characters
        ("date", "S32"),
    ]
)
OUTCOME = np.dtype(
    [("document", "<u8"), ("cluster", "<u8", 2), ("survivor", "<u8", 2), ("size", "<i4"), ("exact", "?")]
)


def exact_keys(texts: Sequence[str]) -> np.ndarray:
    """xxh3-128 of each text in NFC with runs of white space folded to one space; uint64 [texts, 2]."""
    digests = [
        xxhash.xxh3_128_digest(
            " ".join("".join([words.normal("NFC", piece) for piece in words.pieces(text)]).split()).encode()
        )
        for text in texts
    ]
    return _halves(b"".join(digests))


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


def pack_keys(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """KEY records of `keys` uint64 [documents, keys per document, 2]."""
    packed = np.empty(keys.shape[:2], KEY)
    packed["high"], packed["low"] = keys[..., 0], keys[..., 1]
    packed["document"] = documents[:, None]
    return packed.reshape(-1)


def star_edges(keys: np.ndarray) -> np.ndarray:
    """EDGE records from the smallest document of every bucket to each of the others, none twice.

    A bucket of n documents gives n - 1 edges, never n * n, so a bucket of any size costs no more than its sorting.
    """
    keys = keys[np.lexsort((keys["document"], keys["low"], keys["high"]))]
    opens = np.ones(len(keys), bool)
    opens[1:] = (keys["high"][1:] != keys["high"][:-1]) | (keys["low"][1:] != keys["low"][:-1])
    centre = keys["document"][opens][np.cumsum(opens) - 1]
    others = keys["document"] != centre
    edges = np.empty(int(others.sum()), EDGE)
    edges["first"], edges["second"] = centre[others], keys["document"][others]
    return unique_edges(edges)


def unique_edges(edges: np.ndarray) -> np.ndarray:
    """The edges sorted, each once."""
    edges = edges[np.lexsort((edges["second"], edges["first"]))]
    fresh = np.ones(len(edges), bool)
    fresh[1:] = (edges["first"][1:] != edges["first"][:-1]) | (edges["second"][1:] != edges["second"][:-1])
    return edges[fresh]


def components(edges: np.ndarray) -> np.ndarray:
    """LABEL records, sorted by document: the component of every document that has an edge, named by its smallest."""
    if not len(edges):
        return np.empty(0, LABEL)
    documents, ends = np.unique(np.concatenate([edges["first"], edges["second"]]), return_inverse=True)
    first, second = ends[: len(edges)], ends[len(edges) :]
    graph = coo_array((np.ones(len(edges), np.int8), (first, second)), shape=(len(documents), len(documents)))
    _, labels = connected_components(graph, directed=False)
    _, smallest = np.unique(labels, return_index=True)
    found = np.empty(len(documents), LABEL)
    found["document"], found["component"] = documents, documents[smallest][labels]
    return found


def survivors(members: np.ndarray) -> np.ndarray:
    """OUTCOME records of whole components, given as MEMBER records in any order.

    The best document of a component survives: highest source priority, then highest quality, then most characters,
    then the earliest date (NO_DATE comes last), then the smallest document id. `exact` says that a document is an
    exact copy of its survivor; it is true of the survivor itself.
    """
    rank = (
        members["id"][:, 1],
        members["id"][:, 0],
        members["date"],
        -members["length"],
        -members["quality"],
        -members["priority"],
        members["component"],
    )
    members = members[np.lexsort(rank)]
    opens = np.ones(len(members), bool)
    opens[1:] = members["component"][1:] != members["component"][:-1]
    begins = np.flatnonzero(opens)
    cluster = np.cumsum(opens) - 1
    by_id = np.lexsort((members["id"][:, 1], members["id"][:, 0], members["component"]))
    survivor = members[begins][cluster]
    outcome = np.empty(len(members), OUTCOME)
    outcome["document"] = members["document"]
    outcome["cluster"] = members["id"][by_id][begins][cluster]
    outcome["survivor"] = survivor["id"]
    outcome["size"] = np.diff(begins, append=len(members))[cluster]
    outcome["exact"] = (members["exact"] == survivor["exact"]).all(axis=1)
    return outcome


def _halves(digests: bytes) -> np.ndarray:
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
