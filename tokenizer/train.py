"""Byte-level BPE: text -> a table of pre-token counts -> merges -> `tokenizer.json`.

Training looks at every distinct pre-token once, however often it occurs, so the only thing that grows with
the corpus is a table `piece, count`. Tables of different parts of a corpus are added up (`merge_counts`), and
neither their order nor their number changes a byte of the result.

The merges are those of Hugging Face `tokenizers`' `BpeTrainer` (most frequent pair first, ties to the smaller
pair of ids), found with whole-array operations. A pair's count only ever falls after the merge that created it,
so the count at creation is an upper bound, and the true count is computed only for a pair that reaches the
top of the heap (the lazy greedy idea).
"""

import base64
import binascii
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from schemas.errors import ConfigError
from tokenizer.qwen import ADDED_TOKENS, BYTE_ORDER, to_nfc, write_tokenizer

# A longer pre-token (a base64 blob, a ruled line, a page without spaces) counts by its beginning alone:
# at most 256 bytes of UTF-8. It bounds the table and keeps such junk from buying tokens.
PIECE_CHARACTERS = 64
BATCH_CHARACTERS = 2 << 20
MERGE_ROWS = 1 << 20

# Qwen's pattern for an automaton, that is without look-ahead. `\s+(?!\S)` leaves the last white space of a run to
# the word behind it; the same boundary is drawn here by a mark in front of that character (never a newline:
# those end their run in every branch). The mark is a Unicode noncharacter, which valid text does not hold; where it
# occurs nonetheless it acts as a boundary.
_MARK = "\U0010ffff"
_MARKED_SPACE = r"([^\S\r\n][^\s])"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}\x{10FFFF}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}\x{10FFFF}]+[\r\n]*|\s*[\r\n]+|\s+"
)


def count_pre_tokens(texts: list[str]) -> pl.DataFrame:
    """Count the pre-tokens of NFC(text) -> columns `piece` (str, at most 64 characters) and `count` (int64)."""
    marked = pl.Series("piece", [to_nfc(text) for text in texts], dtype=pl.String)
    marked = marked.str.replace_all(_MARKED_SPACE, _MARK + "$1")
    pieces = marked.str.extract_all(_PATTERN).explode().drop_nulls()
    counts = pieces.value_counts().with_columns(pl.col("count").cast(pl.Int64))
    return counts.with_columns(pl.col("piece").str.head(PIECE_CHARACTERS))


def merge_counts(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """Add up tables of `count_pre_tokens`; rows sorted by `piece`, so equal text gives equal tables."""
    return pl.concat(tables).group_by("piece").agg(pl.col("count").sum()).sort("piece")


@dataclass(frozen=True)
class _Run:
    """The pairs one merge created, most frequent first: pair i occurs at `positions[starts[i]:stops[i]]`."""

    left: np.ndarray
    right: np.ndarray
    bounds: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    positions: np.ndarray


# (-count, left, right) orders the heap; a pair is in it once, so what follows is never compared.
_Entry = tuple[int, int, int, np.ndarray, _Run | None, int]


def find_merges(counts: pl.DataFrame, wanted: int, min_count: int = 2) -> list[tuple[int, int]]:
    """The first `wanted` BPE merges of a table of counts, as pairs of ids; merge i makes the id 256 + i.

    Ids 0-255 are the bytes in `BYTE_ORDER`. Fewer merges come back when no pair occurs `min_count` times any more.
    Memory: 20 bytes a byte of distinct pre-tokens, and 4 a remembered occurrence. Source of the rule: Sennrich
    et al. 2016 (arXiv:1508.07909).
    """
    words = counts.filter(pl.col("piece").str.len_bytes() > 1)
    if words.is_empty() or wanted <= 0:
        return []
    table = words["piece"].cast(pl.Binary).to_arrow()
    lengths = words["piece"].str.len_bytes().to_numpy()
    ids_of_bytes = np.empty(256, np.int32)
    ids_of_bytes[np.frombuffer(BYTE_ORDER, np.uint8)] = np.arange(256, dtype=np.int32)

    # Every byte of every word is a position in a doubly linked list; `n` is a dummy before and after each word.
    _, offsets, data = table.buffers()
    begin, end = (int(x) for x in np.frombuffer(offsets, np.int64)[[table.offset, table.offset + len(table)]])
    raw = np.frombuffer(data, np.uint8)[begin:end]
    n = len(raw)
    index = np.int32 if n < 2**31 - 1 else np.int64
    symbols = np.append(ids_of_bytes[raw], np.int32(-1))
    following: np.ndarray = np.arange(1, n + 2, dtype=index)
    previous: np.ndarray = np.arange(-1, n, dtype=index)
    last = np.cumsum(lengths) - 1
    following[last] = n
    previous[last + 1 - lengths] = n
    weights: np.ndarray = np.repeat(words["count"].to_numpy(), lengths)

    heap: list[_Entry] = []

    def remember(keys: np.ndarray, positions: np.ndarray, merged: int | None) -> None:
        """Group occurrences by pair and put the most frequent pair on the heap; the rest wait behind it.

        A key is `256 * left + right` for bytes (no `merged`), otherwise `left` for the pair (left, merged) and
        `merged + right` for (merged, right): short integers in the order of the pairs.
        """
        if not len(positions):
            return
        order = np.argsort(keys, kind="stable")
        keys, positions = keys[order], positions[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        bounds = np.add.reduceat(weights[positions], starts)
        stops = np.append(starts[1:], len(keys))
        rank = np.argsort(-bounds, kind="stable")  # keys are sorted, so ties stay in the order of the pair
        rank = rank[bounds[rank] >= min_count]
        if not len(rank):
            return
        starts, stops = starts[rank], stops[rank]
        keys = keys[starts].astype(np.int64)
        if merged is None:
            left, right = np.divmod(keys, 256)
        else:
            left, right = np.minimum(keys, merged), np.where(keys < merged, merged, keys - merged)
        run = _Run(left, right, bounds[rank], starts, stops, positions)
        heapq.heappush(heap, head(run, 0))

    def head(run: _Run, i: int) -> _Entry:
        positions = run.positions[run.starts[i] : run.stops[i]]
        return -int(run.bounds[i]), int(run.left[i]), int(run.right[i]), positions, run, i

    pairs = np.flatnonzero(following[:n] < n).astype(index)
    remember((symbols[pairs] * 256 + symbols[pairs + 1]).astype(np.uint16), pairs, None)
    del pairs

    merges: list[tuple[int, int]] = []
    while heap and len(merges) < wanted:
        bound, a, b, positions, run, i = heap[0]
        if run is not None and i + 1 < len(run.bounds):
            heapq.heapreplace(heap, head(run, i + 1))
        else:
            heapq.heappop(heap)
        positions = positions[symbols[positions] == a]
        positions = positions[symbols[following[positions]] == b]
        count = int(weights[positions].sum())
        if count < -bound:  # earlier merges used up some occurrences: back into the queue with the true count
            if count >= min_count:
                heapq.heappush(heap, (-count, a, b, positions, None, 0))
            continue

        if a == b:
            positions = _leftmost(np.sort(positions), following)
        merged = 256 + len(merges)
        merges.append((a, b))
        second = following[positions]
        after = following[second]
        symbols[positions] = merged
        symbols[second] = -1
        following[positions] = after
        previous[after] = positions
        before = previous[positions]
        left, right = symbols[before], symbols[after]
        has_right = right >= 0
        has_left = (left >= 0) & (left != merged)  # two new tokens side by side: counted once, as a right neighbour
        remember(
            np.concatenate((left[has_left], right[has_right] + merged)),
            np.concatenate((before[has_left], positions[has_right])),
            merged,
        )
    return merges


def _leftmost(positions: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Of overlapping occurrences of a pair (a, a), in ascending order, those a scan from the left takes."""
    chained = np.concatenate(([False], positions[1:] == following[positions[:-1]]))
    step = np.arange(len(positions))
    run_begin = np.maximum.accumulate(np.where(chained, 0, step))
    return positions[(step - run_begin) % 2 == 0]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_all(texts: Iterable[str]) -> pl.DataFrame:
    """`count_pre_tokens` over any amount of text, in batches; memory is the table plus one batch."""
    tables: list[pl.DataFrame] = []
    rows = 0
    for batch in _batches(texts):
        tables.append(count_pre_tokens(batch))
        rows += tables[-1].height
        if rows > MERGE_ROWS and len(tables) > 1:
            tables = [merge_counts(tables)]
            rows = 0  # counts what came since, so a table larger than the limit is not merged at every batch
    return merge_counts(tables or [count_pre_tokens([])])


def train(texts: Iterable[str], vocabulary_size: int, folder: Path | str) -> dict[str, Any]:
    """Train on texts and write `tokenizer.json` and `tokenizer_config.json` into `folder`; returns a summary.

    `vocabulary_size` includes the 26 added tokens. The same texts in any order give the same bytes. Text that
    supports fewer merges gives a smaller vocabulary, which the summary states. Raises ConfigError when the size has
    no room for 256 bytes and the added tokens.
    """
    return train_from_counts(count_all(texts), vocabulary_size, folder)


def train_from_counts(counts: pl.DataFrame, vocabulary_size: int, folder: Path | str) -> dict[str, Any]:
    """`train` from a table of counts (`count_pre_tokens`, `merge_counts`)."""
    smallest = 256 + len(ADDED_TOKENS)
    if vocabulary_size < smallest:
        raise ConfigError(
            f"vocabulary_size is {vocabulary_size}, but 256 bytes and {len(ADDED_TOKENS)} added tokens "
            f"need at least {smallest}"
        )
    merges = find_merges(counts, vocabulary_size - smallest)
    tokens = [bytes([b]) for b in BYTE_ORDER]
    for a, b in merges:
        tokens.append(tokens[a] + tokens[b])
    write_tokenizer(folder, tokens, merges)
    size = smallest + len(merges)
    return {
        "vocabulary_size": size,
        "requested_vocabulary_size": vocabulary_size,
        "merges": len(merges),
        "short_of_request": vocabulary_size - size,
        "pre_tokens": int(counts["count"].sum()),
        "distinct_pre_tokens": counts.height,
        "longest_token_bytes": max(map(len, tokens)),
    }


def from_tiktoken_ranks(path: Path | str, folder: Path | str) -> dict[str, Any]:
    """Write the tokenizer of a `.tiktoken` rank file (lines of base64 token and rank) into `folder`.

    Ranks carry no merges; the two halves of a token are what BPE with the smaller ranks alone leaves of it. Raises
    ConfigError when ranks are not 0..n-1, the first 256 are not the bytes in Qwen's order, or a token has no halves.
    """
    tokens = _read_ranks(Path(path))
    if tokens[:256] != [bytes([b]) for b in BYTE_ORDER]:
        raise ConfigError(f"{path}: the first 256 ranks are not the 256 bytes in the order Qwen and GPT-2 use")
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens):
        raise ConfigError(f"{path}: a token occurs under two ranks")
    merges: list[tuple[int, int]] = []
    for rank, token in enumerate(tokens[256:], 256):
        parts = _split_below(token, ranks, rank)
        if len(parts) != 2:
            raise ConfigError(f"{path}: rank {rank} ({token!r}) is not a merge of two tokens of smaller rank")
        merges.append((ranks[parts[0]], ranks[parts[1]]))
    write_tokenizer(folder, tokens, merges)
    return {"vocabulary_size": len(tokens) + len(ADDED_TOKENS), "merges": len(merges)}


def _read_ranks(path: Path) -> list[bytes]:
    tokens: list[bytes] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            tokens.append(base64.b64decode(token, validate=True))
            in_order = int(rank) == len(tokens) - 1
        except (ValueError, binascii.Error) as error:
            raise ConfigError(f"{path}:{number}: expected a base64 token and its rank") from error
        if not in_order:
            raise ConfigError(f"{path}:{number}: rank {int(rank)} where {len(tokens) - 1} was expected")
    return tokens


def _split_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """BPE of `token` with the tokens of rank < `limit`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        candidates = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(candidates)
        if best >= limit:
            break
        at = candidates.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
