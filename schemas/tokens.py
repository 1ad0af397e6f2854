"""Token shards, plans and packs: the contract between the pipelines and the trainer.

A document of n tokens has n + 1 positions: the end-of-document token is its last one. It is not stored; the reader
puts it in. A segment (shard, row, begin, length) speaks of these positions, so `begin + length == n + 1` means that
the segment ends with the end-of-document token.
"""

import pyarrow as pa

from schemas.hashing import ID

TOKENS = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("educational_score", pa.float32(), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),  # UTF-8 bytes of the encoded (NFC) text
        pa.field("tokens", pa.large_list(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
    ]
)

PLAN = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("shard", pa.int32(), nullable=False),  # index into the token shards, in manifest order
        pa.field("row", pa.int32(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),  # merged cell
        pa.field("tokens", pa.int64(), nullable=False),  # with the end-of-document token
        pa.field("expected_copies", pa.float32(), nullable=False),
        pa.field("copies", pa.int32(), nullable=False),
    ]
)

SEGMENT = pa.struct(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("begin", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)

PACK = pa.schema([pa.field("segments", pa.list_(pa.field("item", SEGMENT, nullable=False)), nullable=False)])


QWEN_TOKENS, QWEN_ROWS = 151_669, 151_936


def embedding_rows(tokens: int) -> int:
    """Rows of the embedding for a vocabulary: the published number for Qwen's own size, else a multiple of 128."""
    return QWEN_ROWS if tokens == QWEN_TOKENS else -(-tokens // 128) * 128
