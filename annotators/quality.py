"""Statistics of a text that quality filters ask for, for a whole record batch at a time.

Gopher quality and repetition (Rae et al. 2021, appendix A), C4 (Raffel et al. 2020), FineWeb's line statistics
(Penedo et al. 2024) and one `quality_score`. Only statistics: thresholds belong to the filter, because every language
needs its own.

The texts of a batch become one array of code points with a line feed between documents. Every statistic is a
reduction over that array, its tokens or its lines; nothing loops over words.

Definitions where the papers leave a choice. Published thresholds were set with datatrove's implementation, so its
choice is followed wherever it is not an accident of its tokenizer; `python -m benchmarks.quality` compares decisions.
- Space, and the *tokens* between, are those of `annotators.words`: words and punctuation marks. A *word* is a token
  with a letter or digit. `words` and `mean_word_length` are about words; "per token" counts marks as well.
- A *line* ends at a line feed; it is judged without the space around it, and blank lines do not count. A
  *paragraph* is a run of lines with no blank line between.
- *Duplicate* lines, paragraphs and n-grams (of tokens) are those that occurred before in the same document; the first
  occurrence does not count. Reading goes on behind a duplicate n-gram, so that no character counts twice and a passage
  that occurs again counts in whole n-grams.
- Shares of characters are shares of the whole text, spaces and line feeds included.
- A *top n-gram* covers (occurrences x its characters, with the spaces between) of the text, at most all of it; an
  n-gram that occurs once is not repetition and counts 0.
- Stop words are Gopher's English eight, so `stop_words` says nothing about other languages.
- C4 removes lines and then judges the page by what is left. Here nothing is removed: the shares of the lines it would
  remove are columns, and `sentences`, `lorem_ipsum` and `curly_brackets` are counted where C4 counts them, in lines
  of at least three words that end a sentence. A line feed ends a sentence too. Thai and Lao have no mark that ends a
  sentence: there C4's columns, `punctuated_line_ratio` and `sentences` say nothing.
- `characters` and `bytes` are of the whole text. Everything else is of its first 2**21 characters, which bounds
  memory at about 200 MB and is above Gopher's maximum of 100,000 words in any script.

`quality_score` is the mean of six parts in [0, 1], 0 for a text without words: words with a letter; tokens that
are not number signs or ellipses; characters outside duplicate lines; characters outside duplicate 5-grams; lines
with closing punctuation; lines of more than 30 characters. It ranks copies of the same text (the one with less
debris around it survives) and is not meant to compare unrelated texts.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from annotators.lines import ELLIPSIS, line_statistics
from annotators.repetition import Hashes, Numbers, hash_spans, prefix_hashes, repeated_ngrams, share
from annotators.sidecar import sidecar
from annotators.text import chunks
from annotators.words import DIGIT, LETTER, SPACE, Codes, Positions, kinds_of_characters, runs, tokens
from schemas.labels import QUALITY

VERSION = "3"

MAX_CHARACTERS = 1 << 21  # of one document that are judged
CHUNK_CHARACTERS = 1 << 18  # texts are judged together up to this size: it fits the processor's cache
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema QUALITY."""
    text = batch["text"].cast(pa.large_string())
    columns: dict[str, npt.NDArray] = {
        "characters": pc.utf8_length(text).to_numpy(zero_copy_only=False),
        "bytes": pc.binary_length(text).to_numpy(zero_copy_only=False),
    }
    judged = pc.utf8_slice_codeunits(text, 0, MAX_CHARACTERS)
    sizes = np.minimum(columns["characters"], MAX_CHARACTERS).tolist()
    parts = [statistics(judged[chunk].to_pylist()) for chunk in chunks(sizes, CHUNK_CHARACTERS)]
    for name in QUALITY.names[4:]:
        if name not in columns:
            columns[name] = np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
    return sidecar(batch, QUALITY, VERSION, columns)


def statistics(texts: list[str]) -> dict[str, Numbers]:
    """All statistics of `texts` but `characters` and `bytes`: name -> float64 array, one value a text."""
    codes, begins, ends = _join(texts)
    kinds = kinds_of_characters()[codes]
    runs_begin, runs_end = runs((kinds & SPACE) != 0)
    first, last = tokens(codes, kinds, runs_begin, runs_end)
    prefix = prefix_hashes(codes)
    feeds = _per_document(np.flatnonzero(codes == ord("\n")), begins) - 1  # one is the separator
    size = ends - begins
    lengths = last - first
    document = np.searchsorted(begins, first, side="right") - 1
    hashes = hash_spans(prefix, first, last)
    count = np.bincount(document, minlength=len(begins)).astype(np.float64)
    together = np.bitwise_or.reduceat(kinds, first) if len(first) else kinds[:0]  # space behind a token says nothing
    alphabetic, word = (together & LETTER) != 0, (together & (LETTER | DIGIT)) != 0
    words = np.bincount(document[word], minlength=len(begins)).astype(np.float64)
    alphabetic_words = np.bincount(document[alphabetic], minlength=len(begins)).astype(np.float64)
    result = {
        "words": words,
        "mean_word_length": share(np.bincount(document[word], lengths[word], minlength=len(begins)), words),
        "longest_word": _longest(runs_begin, runs_end, begins),
        "symbol_word_ratio": share(_symbols(codes, begins), count),
        "alpha_word_ratio": share(alphabetic_words, count),
        "stop_words": _stop_words(hashes, lengths, document, len(begins)),
        "newline_word_ratio": share(feeds, count),
        "lorem_ipsum": _lorem_ipsum(texts),
    }
    result |= repeated_ngrams(hashes, lengths, document, size)
    result |= line_statistics(codes, kinds, texts, begins, runs_end, (first, last), prefix, size)
    result["quality_score"] = _score(result, share(alphabetic_words, words))
    return result


def _longest(first: Positions, last: Positions, begins: Positions) -> Numbers:
    longest = np.zeros(len(begins))
    document, start = np.unique(np.searchsorted(begins, first, side="right") - 1, return_index=True)
    if len(start):
        longest[document] = np.maximum.reduceat(last - first, start)
    return longest


def _symbols(codes: Codes, begins: Positions) -> Numbers:
    """Number signs or ellipses, whichever are more."""
    dot = codes == ord(".")
    three = dot[:-2] & dot[1:-1] & dot[2:]
    three[1:] &= ~dot[:-3]  # a run of dots is one ellipsis
    ellipses = np.concatenate([np.flatnonzero(three), np.flatnonzero(codes == ELLIPSIS)])
    return np.maximum(_per_document(np.flatnonzero(codes == ord("#")), begins), _per_document(ellipses, begins))


def _lorem_ipsum(texts: list[str]) -> Numbers:
    found = pc.count_substring(pa.array(texts, pa.large_string()), "lorem ipsum", ignore_case=True)
    return found.to_numpy(zero_copy_only=False).astype(np.float64)


def _score(values: dict[str, Numbers], alphabetic: Numbers) -> Numbers:
    parts = (
        alphabetic,
        1 - np.minimum(1, values["symbol_word_ratio"]),
        1 - values["duplicate_line_character_ratio"],
        1 - values["duplicate_5gram_ratio"],
        values["punctuated_line_ratio"],
        1 - values["short_line_ratio"],
    )
    return np.where(values["words"] > 0, sum(parts) / len(parts), 0.0)


def _join(texts: list[str]) -> tuple[Codes, Positions, Positions]:
    """Code points of all texts, each followed by a line feed, and where each text begins and ends in them."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    joined = "\n".join([*texts, ""])
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32), ends - lengths, ends


def _per_document(positions: Positions, begins: Positions, weights: npt.NDArray | None = None) -> Numbers:
    """Count of the positions that lie in each document, or the sum of their weights."""
    documents = np.searchsorted(begins, positions, side="right") - 1
    return np.bincount(documents, weights, minlength=len(begins)).astype(np.float64)


@cache
def _stop_word_hashes() -> Hashes:
    """Hashes of the stop words in lower, title and upper case: shape (3, 8)."""
    spellings = [spell(word) for spell in (str.lower, str.title, str.upper) for word in STOP_WORDS]
    codes, begins, ends = _join(spellings)
    return hash_spans(prefix_hashes(codes), begins, ends).reshape(3, len(STOP_WORDS))


def _stop_words(hashes: Hashes, lengths: Positions, document: Positions, documents: int) -> Numbers:
    """How many different stop words each document has."""
    short = lengths <= max(map(len, STOP_WORDS))
    hashes, document = hashes[short], document[short]
    found = np.zeros(documents)
    for spellings in _stop_word_hashes().T:
        hit = (hashes == spellings[0]) | (hashes == spellings[1]) | (hashes == spellings[2])
        found += np.bincount(document[hit], minlength=documents) > 0
    return found
