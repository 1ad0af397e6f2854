"""Cuts: stretches of a document that the model never reads, or reads as something else.

Documents stay as they are. What is cut out of them lies beside them, as a list of spans for each document: begin, end
(UTF-8 bytes of its text), a reason, and what stands in its place ("" for nothing). Text that goes into training, to
tokens or to the counts of a tokenizer, passes through `apply_cuts` first. Several stages may cut; `merge_cuts` makes
one list of what each of them said.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError
from schemas.hashing import ID
from schemas.tables import struct_lists

CUT = pa.struct(
    [
        pa.field("begin", pa.int32(), nullable=False),  # UTF-8 bytes of the text
        pa.field("end", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
    ]
)

CUTS = pa.list_(pa.field("item", CUT, nullable=False))
"""The cuts of a document: sorted, not empty, not overlapping, and through no character."""

CUT_FILE = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("text_hash", ID, nullable=False),
        pa.field("cuts", CUTS, nullable=False),
    ]
)
"""The file `cuts/<shard>.parquet` of a stage that cuts: a sidecar, in the row order of the document shard."""


def apply_cuts(texts: pa.Array, cuts: pa.ListArray) -> pa.LargeStringArray:
    """The texts with what each of the `cuts` (type CUTS, one list a text) names replaced.

    No text is decoded: the pieces between the cuts are slices of one buffer. Raises DataError for cuts that are not as
    CUTS says.
    """
    texts = texts.cast(pa.large_string())
    spans = cuts.flatten()
    if not len(spans):
        return texts
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2], np.uint8)
    counts = pc.list_value_length(cuts).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.repeat(np.arange(len(texts)), counts)
    begins = spans.field("begin").to_numpy() + offsets[rows]
    ends = spans.field("end").to_numpy() + offsets[rows]
    _check(begins, ends, rows, offsets, data)

    # A text with n cuts is 2 n + 1 pieces: kept, cut, kept, ..., kept.
    firsts = np.concatenate([[0], np.cumsum(2 * counts + 1)])
    cut = 2 * np.arange(len(rows)) + rows + 1  # the piece that each cut is
    borders = np.empty(firsts[-1] + 1, np.int64)
    borders[firsts] = offsets
    borders[cut], borders[cut + 1] = begins, ends
    is_cut = np.zeros(firsts[-1], bool)
    is_cut[cut] = True
    pieces = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(is_cut), [None, pa.py_buffer(borders), texts.buffers()[2]]
    )
    replacements = spans.field("replacement").cast(pa.large_binary())
    replaced = pc.replace_with_mask(pieces, pa.array(is_cut), replacements)
    places = np.frombuffer(replaced.buffers()[1], np.int64)[replaced.offset :]
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(places[firsts]), replaced.buffers()[2])


def merge_cuts(*lists: pa.ListArray) -> pa.ListArray:
    """One list of cuts (type CUTS) a text from several `lists` of the same texts.

    Cuts that overlap become one, from where the first begins to where the last ends: no byte that any of them takes out
    is left. It removes if one of them does, with the reason of the first that does, so that a replacement which a
    removal touches is gone with it; else it replaces as the first of them. Removals that touch become one as well, with
    the reason of the first. Of cuts that begin together, that of the earlier list comes first.
    """
    spans = [part.flatten() for part in lists]
    texts = len(lists[0])
    flat = pa.concat_arrays(spans)
    if not len(flat):
        return lists[0]
    counts = [pc.list_value_length(part).to_numpy(zero_copy_only=False).astype(np.int64) for part in lists]
    rows = np.concatenate([np.repeat(np.arange(texts), count) for count in counts])
    begins = (rows << 32) + flat.field("begin").to_numpy()  # texts lie end to end, 2**32 bytes apart
    ends = (rows << 32) + flat.field("end").to_numpy()
    removes = pc.equal(flat.field("replacement"), "").to_numpy(zero_copy_only=False)
    first = np.argsort(begins, kind="stable")  # the cut that tells reason and replacement
    begins, ends, removes = begins[first], ends[first], removes[first]

    reach = np.maximum.accumulate(ends)
    opens = np.flatnonzero(np.append(True, begins[1:] >= reach[:-1]))
    begins, ends, first, removes = _joined(begins, reach, first, removes, opens)
    apart = ~((begins[1:] == ends[:-1]) & removes[1:] & removes[:-1])
    begins, ends, first, _ = _joined(begins, ends, first, removes, np.flatnonzero(np.append(True, apart)))
    chosen = flat.take(pa.array(first))
    low = np.int64(0xFFFFFFFF)
    columns = [pa.array((begins & low).astype(np.int32)), pa.array((ends & low).astype(np.int32))]
    columns += [chosen.field("reason"), chosen.field("replacement")]
    return struct_lists(CUTS, columns, np.bincount(begins >> 32, minlength=texts))


def _joined(
    begins: np.ndarray, ends: np.ndarray, first: np.ndarray, removes: np.ndarray, opens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The groups of cuts that begin at `opens`: begin, end, the cut that speaks for each, whether it removes."""
    if len(opens) == len(begins):
        return begins, ends, first, removes
    last = np.append(opens[1:], len(begins)) - 1
    places = np.where(removes, np.arange(len(begins)), len(begins))
    speaks = np.minimum.reduceat(places, opens)
    removed = speaks < len(begins)
    return begins[opens], ends[last], first[np.where(removed, speaks, opens)], removed


def _check(begins: np.ndarray, ends: np.ndarray, rows: np.ndarray, offsets: np.ndarray, data: np.ndarray) -> None:
    if (begins >= ends).any() or (begins < offsets[rows]).any() or (ends > offsets[rows + 1]).any():
        raise DataError("a cut is empty or reaches beyond its text; the documents are not those that it was made for")
    if (begins[1:] < ends[:-1]).any():
        raise DataError("two cuts of a text overlap, or are not in its order")
    edges = np.concatenate([begins, ends[ends < offsets[rows + 1]]])
    if (data[edges] & 0xC0 == 0x80).any():
        raise DataError("a cut goes through a character; the documents are not those that it was made for")
