"""Documents, rejects, decisions and the split: the Arrow schemas that the data stages meet in."""

import pyarrow as pa

from schemas.hashing import ID

PAGE = pa.struct([("page", pa.int32()), ("begin", pa.int64()), ("end", pa.int64())])

DOCUMENTS = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),  # hash of (source, path, locator): never of the text
        pa.field("id", pa.string()),  # the user's own id
        pa.field("text_hash", ID, nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to the root of the source
        pa.field("locator", pa.string(), nullable=False),  # place inside the file: line=7, row=3, ""
        pa.field("url", pa.string()),
        pa.field("date", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("metadata", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("pages", pa.list_(PAGE), nullable=False),  # character spans of PDF pages; empty otherwise
    ]
)

REJECTS = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),  # a short class: encrypted, needs_ocr, invalid_json, ...
        pa.field("message", pa.string(), nullable=False),  # one sentence for a person
    ]
)

PAGES = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),  # from 1
        pa.field("route", pa.string(), nullable=False),  # text_layer, ocr, vlm or blank
        pa.field("reason", pa.string(), nullable=False),  # why that route, or why the page could not be read
        pa.field("confidence", pa.float32(), nullable=False),  # 0 to 1
        pa.field("characters", pa.int32(), nullable=False),  # of text on the page, before any refinement
        pa.field("error", pa.string()),  # of a page that could not be read; it has a reject, or its file has one
    ]
)
"""Every page of every PDF file, whether its text became part of a document or not."""

REFINEMENTS = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),  # from 0, in the order of the text
        pa.field("begin", pa.int64(), nullable=False),  # characters of the text before refinement
        pa.field("end", pa.int64(), nullable=False),
        pa.field("before", pa.large_string(), nullable=False),
        pa.field("after", pa.large_string(), nullable=False),  # the last answer, accepted or not
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # begins with a short class: numbers, length, distance, ...
        pa.field("model", pa.string(), nullable=False),  # or the library that mends encodings
    ]
)
"""What was repaired: every piece that a language model was asked for, every line whose encoding was mended."""

_DECISION = [
    pa.field("document_id", ID, nullable=False),
    pa.field("id", pa.string()),
    pa.field("text_hash", ID, nullable=False),
    pa.field("keep", pa.bool_(), nullable=False),
    pa.field("reasons", pa.list_(pa.string()), nullable=False),  # every reason that fired, in a fixed order
]

DECISIONS = pa.schema(_DECISION)

DEDUP_DECISIONS = pa.schema(
    [
        *_DECISION,
        pa.field("cluster_id", ID, nullable=False),  # smallest document_id of the cluster
        pa.field("cluster_size", pa.int32(), nullable=False),
        pa.field("survivor_id", ID, nullable=False),  # document_id of the best document of the cluster
        pa.field("survivor_run", pa.int32()),  # 1, 2, ...: of this one of `dedup.against`; null: of this run
    ]
)

DECONTAMINATION_DECISIONS = pa.schema(
    [
        *_DECISION,
        pa.field("benchmark", pa.string()),  # the benchmark with the largest overlap
        pa.field("overlap", pa.float32(), nullable=False),  # share of that item's words found, 0 to 1
    ]
)

REPEATS = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # line, paragraph or substring
        pa.field("begin", pa.int32(), nullable=False),  # UTF-8 bytes of the text
        pa.field("end", pa.int32(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),  # the same for equal lines, for equal paragraphs; else 0
        pa.field("documents", pa.int32(), nullable=False),  # that hold it, this one and the one where it stays included
        pa.field("kept_id", ID, nullable=False),  # document_id of the one where it stays: the smallest of theirs
        pa.field("cut", pa.bool_(), nullable=False),  # false: no whole sentence of it, no block of lines, or no cuts
    ]
)
"""`repeats/<shard>.parquet` of dedup: what a document repeats of another one, by the order of documents and bytes.

The document where it stays has no row for it. Of a substring that several documents share in parts, `documents` is the
largest number and `kept_id` that of its first words.
"""

CONTAMINATION_MATCHES = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),  # its number in the benchmark, from 0
        pa.field("part", pa.string(), nullable=False),  # question, answer (question and answer), item, or short
        pa.field("words", pa.int32(), nullable=False),  # of that part, formulas not counted
        pa.field("matched", pa.int32(), nullable=False),  # of these words, how many the document holds
        pa.field("ratio", pa.float32(), nullable=False),  # matched / words
        pa.field("times", pa.int32(), nullable=False),  # places of the document; what follows is the best of them
        pa.field("begin", pa.int32(), nullable=False),  # UTF-8 bytes of the text, from the first word found
        pa.field("end", pa.int32(), nullable=False),  # to the last
        pa.field("document_text", pa.string(), nullable=False),  # text[begin:end], its beginning
        pa.field("item_text", pa.string(), nullable=False),  # the item, its beginning
    ]
)
"""Items of benchmarks found in documents: a row for each document and item, in the order of the documents."""

SPLIT = pa.schema(
    [
        pa.field("document_id", ID, nullable=False),
        pa.field("id", pa.string()),
        pa.field("text_hash", ID, nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train, validation or dropped
        pa.field("dropped_by", pa.string()),  # filter, dedup or decontaminate
    ]
)

TRAIN, VALIDATION, DROPPED = "train", "validation", "dropped"
