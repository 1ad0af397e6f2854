"""Cuts: stretches of a document that the model never reads, or reads as something else.

Documents stay as they are. What is cut out of them lies beside them, as a list of spans for each document: begin, end
(UTF-8 bytes of its text), a reason, and what stands in its place ("" for nothing). Text that goes into training, to
tokens or to the counts of a tokenizer, passes through `apply_cuts` first.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError

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


def _check(begins: np.ndarray, ends: np.ndarray, rows: np.ndarray, offsets: np.ndarray, data: np.ndarray) -> None:
    if (begins >= ends).any() or (begins < offsets[rows]).any() or (ends > offsets[rows + 1]).any():
        raise DataError("a cut is empty or reaches beyond its text; the documents are not those that it was made for")
    if (begins[1:] < ends[:-1]).any():
        raise DataError("two cuts of a text overlap, or are not in its order")
    edges = np.concatenate([begins, ends[ends < offsets[rows + 1]]])
    if (data[edges] & 0xC0 == 0x80).any():
        raise DataError("a cut goes through a character; the documents are not those that it was made for")
