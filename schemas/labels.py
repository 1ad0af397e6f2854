"""Label sidecars: one file per document shard and annotator version, in the same row order as the documents.

A row carries the `document_id` and the `text_hash` it judged, so joining labels to documents is a zip and
never a shuffle; `check_sidecar` makes a mismatch an error.
"""

import pyarrow as pa

from schemas.errors import DataError
from schemas.hashing import ID
from schemas.languages import LABELS as LANGUAGE_LABELS

DOMAINS: tuple[str, ...] = (
    "advertising-spam",
    "biology-medicine",
    "code",
    "computer-science",
    "engineering",
    "entertainment-arts",
    "finance-business",
    "history-geography",
    "how-to",
    "law-government",
    "literature",
    "mathematics",
    "news-politics",
    "other",
    "physics-chemistry",
    "religion-philosophy",
    "sports",
)
"""Every value of the column `domain`. `physics-chemistry` is reserved: the packaged model never gives it."""

EDUCATIONAL_BINS: tuple[str, ...] = ("<1", "1-2", "2-3", ">=3")
"""Meaning of `educational_bin` 0..3: lower bound included, upper bound excluded."""


def _field(name: str, kind: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def _items(**kinds: pa.DataType) -> pa.ListType:
    """A list of structs without nulls."""
    struct = pa.struct([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    return pa.list_(pa.field("item", struct, nullable=False))


KEY_FIELDS: tuple[pa.Field, ...] = (
    _field("document_id", ID, "The document, as in the document shard."),
    _field("id", pa.string(), "The user's own id of the document, if it had one.", nullable=True),
    _field("text_hash", ID, "Hash of the text that was judged."),
    _field("annotator", pa.dictionary(pa.int8(), pa.string()), "Annotator and version: `<name>/<version>`."),
)
"""First columns of every sidecar, in this order."""


def _sidecar(annotator: str, *labels: pa.Field) -> pa.Schema:
    return pa.schema([*KEY_FIELDS, *labels], metadata={"sluice.labels": annotator})


LANGUAGE = _sidecar(
    "language",
    _field("language", pa.string(), f"One of {len(LANGUAGE_LABELS)} labels of schemas.languages."),
    _field("language_score", pa.float32(), "Probability of the best of the 119 labels; 0 for `und`."),
    _field("language_margin", pa.float32(), "Probability of the best label minus that of the second best."),
    _field("script", pa.string(), "ISO 15924 code of most of the letters; `Zyyy` if there are no letters."),
    _field(
        "languages",
        _items(language=pa.string(), share=pa.float32()),
        "Labels of the paragraphs with their shares of the letters, the largest first; none below .05.",
    ),
    _field(
        "paragraphs",
        _items(begin=pa.int32(), end=pa.int32(), language=pa.string(), score=pa.float32(), margin=pa.float32()),
        "Lines, short ones together: begin and end in UTF-8 bytes, label, and its probability and margin as above.",
    ),
)

QUALITY = _sidecar(
    "quality",
    # sizes
    _field("characters", pa.int32(), "Unicode code points of the text."),
    _field("bytes", pa.int32(), "UTF-8 bytes of the text."),
    _field("lines", pa.int32(), "Lines that are not blank."),
    # Gopher quality (Rae et al. 2021, table A1)
    _field("words", pa.int32(), "Words: see annotators.words for scripts without spaces."),
    _field("mean_word_length", pa.float32(), "Mean code points per word."),
    _field("symbol_word_ratio", pa.float32(), "Number signs or ellipses (whichever are more) per word or mark."),
    _field("bullet_line_ratio", pa.float32(), "Share of lines that begin with a bullet."),
    _field("ellipsis_line_ratio", pa.float32(), "Share of lines that end with an ellipsis."),
    _field("alpha_word_ratio", pa.float32(), "Share of words and punctuation marks that have a letter."),
    _field("stop_words", pa.int32(), "How many of Gopher's eight English stop words occur, 0..8."),
    # Gopher repetition
    _field("duplicate_line_ratio", pa.float32(), "Share of lines that repeat an earlier line."),
    _field("duplicate_line_character_ratio", pa.float32(), "Share of characters in such lines."),
    _field("duplicate_paragraph_ratio", pa.float32(), "Share of paragraphs that repeat an earlier one."),
    _field("duplicate_paragraph_character_ratio", pa.float32(), "Share of characters in such paragraphs."),
    *(_field(f"top_{n}gram_ratio", pa.float32(), f"Share of characters in the commonest {n}-gram.") for n in (2, 3, 4)),
    *(
        _field(f"duplicate_{n}gram_ratio", pa.float32(), f"Share of characters in {n}-grams that occurred before.")
        for n in range(5, 11)
    ),
    # C4 (Raffel et al. 2020): shares of the lines it removes, and what it judges in the lines it keeps
    _field("terminal_line_ratio", pa.float32(), "Share of lines that end a sentence, or with a quotation mark."),
    _field("few_word_line_ratio", pa.float32(), "Share of lines of fewer than three words."),
    _field("javascript_line_ratio", pa.float32(), "Share of lines that name JavaScript."),
    _field("policy_line_ratio", pa.float32(), "Share of lines about terms of use, privacy or cookies."),
    _field("longest_word", pa.int32(), "Code points of the longest run without space."),
    _field("sentences", pa.int32(), "Sentences in lines of three words and more that end a sentence."),
    _field("lorem_ipsum", pa.int32(), "How often the words lorem ipsum occur."),
    _field("curly_brackets", pa.int32(), "Opening curly brackets in lines that end a sentence."),
    # FineWeb (Penedo et al. 2024)
    _field("punctuated_line_ratio", pa.float32(), "Share of lines that end with a mark that ends sentences."),
    _field("short_line_ratio", pa.float32(), "Share of lines of at most 30 code points."),
    _field("newline_word_ratio", pa.float32(), "Line feeds per word or mark."),
    _field("quality_score", pa.float32(), "[0, 1]; ranks copies of one text: see annotators.quality."),
)

EDUCATIONAL = _sidecar(
    "educational",
    _field("educational_score", pa.float32(), "Expected educational tier, 0 (none) to 5 (textbook)."),
    _field("educational_bin", pa.int8(), "0: <1, 1: [1, 2), 2: [2, 3), 3: >=3 (EDUCATIONAL_BINS)."),
)

DOMAIN = _sidecar(
    "domain",
    _field("domain", pa.string(), "One of DOMAINS."),
    _field("domain_score", pa.float32(), "Probability of the best domain of the model; 1 for known code."),
)

SAFETY = _sidecar(
    "safety",
    _field("unsafe_score", pa.float32(), "[0, 1]: probability that the worst window of the text is unsafe."),
    _field("unsafe_category", pa.string(), "Likeliest kind of harm; null below a score of 0.5.", nullable=True),
)

PII_KINDS: tuple[str, ...] = ("email", "iban", "ip", "credit_card", "phone")
"""Personal data that has a form; where two finds overlap, the kind that stands first here wins."""

PII = _sidecar(
    "pii",
    _field("pii_count", pa.int32(), "Personal data found: e-mail, phone, IP address, IBAN, payment card."),
    _field(
        "pii",
        _items(begin=pa.int32(), end=pa.int32(), kind=pa.dictionary(pa.int8(), pa.string())),
        "Where it is, in the order of the text: begin and end in UTF-8 bytes, and which of PII_KINDS.",
    ),
)

FLUENCY = _sidecar(
    "fluency",
    _field(
        "fluency_score",
        pa.float32(),
        "[0, 1]: probability that the text is real and not a damaged copy of real text, at even odds; null without one "
        "of the 119 languages and for source code.",
        nullable=True,
    ),
    _field(
        "fluency",
        pa.float32(),
        "Standard deviations from the average of real text of the language; broken text is below -3; null like the "
        "score.",
        nullable=True,
    ),
)

STOP_WORDS = _sidecar(
    "stop_words",
    _field(
        "own_stop_words",
        pa.int32(),
        "How many of the commonest words of its language occur; null without one of the 119 languages and for source "
        "code.",
        nullable=True,
    ),
)

ANNOTATORS: dict[str, pa.Schema] = {
    "language": LANGUAGE,
    "quality": QUALITY,
    "educational": EDUCATIONAL,
    "domain": DOMAIN,
    "safety": SAFETY,
    "pii": PII,
    "fluency": FLUENCY,
    "stop_words": STOP_WORDS,
}
"""Schema of the label sidecar of each annotator, by the annotator's name."""


def check_sidecar(documents: pa.RecordBatch | pa.Table, labels: pa.RecordBatch | pa.Table) -> None:
    """Check that `labels` judged exactly the rows of `documents`, in the same order.

    Both need the columns `document_id` and `text_hash`. Raises DataError that names the first row that
    differs.
    """
    if documents.num_rows != labels.num_rows:
        raise DataError(
            f"the label sidecar has {labels.num_rows} rows and the documents have {documents.num_rows}; "
            "annotate these documents again"
        )
    for name, what in (("document_id", "is of another document"), ("text_hash", "judged another text")):
        if _chunked(documents[name]).equals(_chunked(labels[name])):
            continue
        pairs = zip(documents[name].to_pylist(), labels[name].to_pylist())
        for row, (expected, found) in enumerate(pairs):  # none differs where only the types of the columns do
            if expected != found:
                raise DataError(
                    f"row {row} of the label sidecar {what}: {name} is {_hex(found)}, "
                    f"the document has {_hex(expected)}; annotate these documents again"
                )


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """The form in which the columns of batches and tables compare, whatever their chunks."""
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column], column.type)


def _hex(key: bytes | None) -> str:
    return "null" if key is None else key.hex()
