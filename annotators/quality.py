"""Statistics of a text that quality filters ask for, for a whole record batch at a time.

Gopher quality and repetition (Rae et al. 2021, appendix A), FineWeb's line statistics (Penedo et al. 2024)
and one `quality_score`. Only statistics: thresholds belong to the filter, because every language needs its
own.

The texts of a batch become one array of code points with a line feed between documents. Every statistic is a
reduction over that array, its words or its lines; nothing loops over words.

Definitions where the papers leave a choice
- Space is what Unicode says is white space, and U+200B (it ends words in Khmer and Thai).
- A *word* is a run of characters without space, punctuation included. Scripts written without spaces
  (`schemas.languages.UNSPACED_SCRIPTS`) have no such words: there every two letters in a row are a word, a last odd
  letter is one too, and combining marks and punctuation belong to the letter before them.
- A *line* ends at a line feed; it is judged without the space around it, and blank lines do not count. A
  *paragraph* is a run of lines with no blank line between.
- *Duplicate* lines, paragraphs and n-grams are those that occurred before in the same document; the first
  occurrence does not count. Duplicate n-gram characters are counted once however many n-grams cover them. Shares
  of n-grams are shares of the characters of words, without spaces.
- A *top n-gram* covers (occurrences x its characters) of the text, at most all of it; an n-gram that occurs once
  is not repetition and counts 0.
- Stop words are Gopher's English eight, so `stop_words` says nothing about other languages.
- `characters` and `bytes` are of the whole text. Everything else is of its first 2**21 characters, which bounds
  memory at about 200 MB and is above Gopher's maximum of 100,000 words in any script.

`quality_score` is the mean of six parts in [0, 1], 0 for a text without words: words with a letter; words that
are not number signs or ellipses; characters outside duplicate lines; characters outside duplicate 5-grams; lines
with closing punctuation; lines of more than 30 characters. It ranks copies of the same text (the one with less
debris around it survives) and is not meant to compare unrelated texts.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import regex

from annotators.sidecar import sidecar
from schemas.hashing import GOLDEN, scramble
from schemas.labels import QUALITY
from schemas.languages import UNSPACED_SCRIPTS

VERSION = "2"

MAX_CHARACTERS = 1 << 21  # of one document that are judged
CHUNK_CHARACTERS = 1 << 18  # texts are judged together up to this size: it fits the processor's cache
SHORT_LINE = 30  # characters, as in FineWeb
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = "•‣⁃◦∙▪▫■□●○◆▶►-–—*·"
ELLIPSIS = ord("…")
CLOSING = ".!?…\"'”’»›" + "。！？．｡」』" + "।॥" + "؟۔" + "։" + "።፧፨" + "។៕" + "၊။" + "།" + "჻" + "‽⁇⁈⁉"
"""Characters that end a line of prose: sentence ends, and the quotation marks that may follow them."""

KANA_MARKS = "〆ーｰﾞﾟ"
"""Letters of no script of their own that are written among those of `UNSPACED_SCRIPTS`."""

# Bits of a character's class.
SPACE, ALPHABETIC, WORD_CHARACTER, NO_SPACES, BULLET, CLOSES = (1 << bit for bit in range(6))

Codes = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema QUALITY."""
    text = batch["text"].cast(pa.large_string())
    columns: dict[str, npt.NDArray] = {
        "characters": pc.utf8_length(text).to_numpy(zero_copy_only=False),
        "bytes": pc.binary_length(text).to_numpy(zero_copy_only=False),
    }
    parts = [statistics(chunk) for chunk in _chunks(text)]
    for name in QUALITY.names[4:]:
        if name not in columns:
            columns[name] = np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
    return sidecar(batch, QUALITY, VERSION, columns)


def statistics(texts: list[str]) -> dict[str, Numbers]:
    """All statistics of `texts` but `characters` and `bytes`: name -> float64 array, one value a text."""
    codes, begins, _ = _join(texts)
    kinds = _classes()[codes]
    space = (kinds & SPACE) != 0
    prefix = _prefix_hashes(codes)
    words = _word_bounds(kinds, space)
    lines = _line_bounds(codes, space)
    result = _word_statistics(codes, kinds, begins, words, prefix)
    result |= _line_statistics(codes, kinds, begins, lines, prefix)
    counts = np.maximum(result["words"], 1)
    line_feeds = _per_document(np.flatnonzero(codes == ord("\n")), begins) - 1  # one is the separator
    result["newline_word_ratio"] = line_feeds / counts * (result["words"] > 0)
    result["quality_score"] = _score(result)
    return result


def _score(values: dict[str, Numbers]) -> Numbers:
    parts = (
        values["alpha_word_ratio"],
        1 - np.minimum(1, values["symbol_word_ratio"]),
        1 - values["duplicate_line_character_ratio"],
        1 - values["duplicate_5gram_ratio"],
        values["punctuated_line_ratio"],
        1 - values["short_line_ratio"],
    )
    return np.where(values["words"] > 0, sum(parts) / len(parts), 0.0)


def _chunks(text: pa.LargeStringArray) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for scalar in pc.utf8_slice_codeunits(text, 0, MAX_CHARACTERS):
        value = scalar.as_py()
        if chunk and size + len(value) > CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += len(value)
    if chunk:
        yield chunk


def _join(texts: list[str]) -> tuple[Codes, Positions, Positions]:
    """Code points of all texts, each followed by a line feed, and where each text begins and ends in them."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    joined = "\n".join([*texts, ""])
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32), ends - lengths, ends


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """Class bits of every code point."""
    kinds = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x32400):  # no letters, marks or spaces are assigned above
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            kinds[code] = SPACE
        elif category[0] == "L":
            kinds[code] = ALPHABETIC | WORD_CHARACTER
        elif category[0] == "N":
            kinds[code] = WORD_CHARACTER
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x32400)]))
    scripts = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
    for match in regex.finditer(f"[{scripts}{KANA_MARKS}]+", everything):
        letters = kinds[ord(match[0][0]) : ord(match[0][-1]) + 1]
        letters[letters & ALPHABETIC != 0] |= NO_SPACES
    kinds[0x200B] = SPACE
    kinds[[ord(character) for character in BULLETS]] |= BULLET
    kinds[[ord(character) for character in CLOSING]] |= CLOSES
    return kinds


_powers: tuple[Hashes, Hashes] = (np.ones(0, np.uint64), np.ones(0, np.uint64))


def _base_powers(length: int) -> tuple[Hashes, Hashes]:
    """The first `length` powers of the hash's base and of its inverse, modulo 2**64; kept for the next call."""
    global _powers
    if len(_powers[0]) < length:
        inverse = pow(GOLDEN, -1, 1 << 64)
        _powers = (_geometric(GOLDEN, length), _geometric(inverse, length))
    return _powers[0][:length], _powers[1][:length]


def _geometric(ratio: int, length: int) -> Hashes:
    steps = np.full(length, ratio, dtype=np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


def _prefix_hashes(codes: Codes) -> Hashes:
    """Polynomial hash of every prefix, one more than there are code points; see `_hash_spans`."""
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    terms = scramble(codes.astype(np.uint64) + np.uint64(GOLDEN))
    terms *= _base_powers(len(codes))[0]
    np.cumsum(terms, out=prefix[1:])
    return prefix


def _hash_spans(prefix: Hashes, begins: Positions, ends: Positions) -> Hashes:
    """Hash of each span of code points, the same wherever the span stands."""
    return scramble((prefix[ends] - prefix[begins]) * _base_powers(len(prefix))[1][begins])


def _word_bounds(kinds: npt.NDArray[np.uint8], space: Mask) -> tuple[Positions, Positions]:
    """Begin and end of every word, in order. The text ends with a space, so every word has an end."""
    change = np.flatnonzero(np.diff(space, prepend=True))
    begins, ends = change[0::2], change[1::2]
    if not np.any(kinds & NO_SPACES):
        return begins, ends
    # Inside a run without space, a new word begins where a script with spaces meets one without, and at every
    # second letter of a script without. Marks and punctuation begin no word: they stay with the letter before.
    at = np.flatnonzero(kinds & WORD_CHARACTER)
    unspaced = (kinds[at] & NO_SPACES) != 0
    run = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(kinds)))[at - begins[0]]
    new_run = np.diff(run, prepend=-1) != 0
    stretch = new_run | (np.diff(unspaced, prepend=False) != 0)
    order = np.arange(len(at))
    offset = order - np.maximum.accumulate(np.where(stretch, order, 0))
    cut = at[~new_run & (stretch | (unspaced & (offset % 2 == 0)))]
    return np.sort(np.concatenate([begins, cut])), np.sort(np.concatenate([ends, cut]))


def _line_bounds(codes: Codes, space: Mask) -> tuple[Positions, Positions, Positions]:
    """Begin, end and line number (blank lines counted) of the lines that are not blank, without outer space."""
    feeds = np.flatnonzero(codes == ord("\n"))
    ink = np.flatnonzero(~space)
    if len(ink) == 0:
        return ink, ink, ink
    first = np.searchsorted(ink, np.concatenate([[0], feeds[:-1] + 1]))
    last = np.searchsorted(ink, feeds) - 1
    number = np.flatnonzero(first <= last)
    return ink[first[number]], ink[last[number]] + 1, number


def _per_document(positions: Positions, begins: Positions, weights: npt.NDArray | None = None) -> Numbers:
    """Count of the positions that lie in each document, or the sum of their weights."""
    documents = np.searchsorted(begins, positions, side="right") - 1
    return np.bincount(documents, weights, minlength=len(begins)).astype(np.float64)


def _share(part: npt.NDArray, whole: npt.NDArray) -> Numbers:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _word_statistics(
    codes: Codes,
    kinds: npt.NDArray[np.uint8],
    begins: Positions,
    bounds: tuple[Positions, Positions],
    prefix: Hashes,
) -> dict[str, Numbers]:
    first, last = bounds
    lengths = last - first
    document = np.searchsorted(begins, first, side="right") - 1
    count = np.bincount(document, minlength=len(begins)).astype(np.float64)
    characters = np.bincount(document, lengths, minlength=len(begins))
    letters = np.concatenate([[0], np.cumsum((kinds & ALPHABETIC) != 0)])
    alphabetic = first[letters[last] > letters[first]]

    number_signs = np.flatnonzero(codes == ord("#"))
    dot = codes == ord(".")
    three = dot[:-2] & dot[1:-1] & dot[2:]
    three[1:] &= ~dot[:-3]  # a run of dots is one ellipsis
    ellipses = np.concatenate([np.flatnonzero(three), np.flatnonzero(codes == ELLIPSIS)])
    symbols = np.maximum(_per_document(number_signs, begins), _per_document(ellipses, begins))

    hashes = _hash_spans(prefix, first, last)
    return {
        "words": count,
        "mean_word_length": _share(characters, count),
        "symbol_word_ratio": _share(symbols, count),
        "alpha_word_ratio": _share(_per_document(alphabetic, begins), count),
        "stop_words": _stop_words(hashes, lengths, document, len(begins)),
        **_repetition(hashes, lengths, document, characters),
    }


@cache
def _stop_word_hashes() -> Hashes:
    """Hashes of the stop words in lower, title and upper case: shape (3, 8)."""
    spellings = [spell(word) for spell in (str.lower, str.title, str.upper) for word in STOP_WORDS]
    codes, begins, ends = _join(spellings)
    return _hash_spans(_prefix_hashes(codes), begins, ends).reshape(3, len(STOP_WORDS))


def _stop_words(hashes: Hashes, lengths: Positions, document: Positions, documents: int) -> Numbers:
    """How many different stop words each document has."""
    short = lengths <= max(map(len, STOP_WORDS))
    hashes, document = hashes[short], document[short]
    found = np.zeros(documents)
    for spellings in _stop_word_hashes().T:
        hit = (hashes == spellings[0]) | (hashes == spellings[1]) | (hashes == spellings[2])
        found += np.bincount(document[hit], minlength=documents) > 0
    return found


def _repetition(hashes: Hashes, lengths: Positions, document: Positions, characters: npt.NDArray) -> dict[str, Numbers]:
    """Top and duplicate n-gram shares.

    An n-gram can only be repeated if the two (n-1)-grams in it are, so each length looks only at the places
    where the shorter length repeated, which are few in prose.
    """
    total = np.concatenate([[0], np.cumsum(lengths)])
    # Words of different documents must differ: their hashes are scrambled with the document's number.
    keys = scramble(hashes + document.astype(np.uint64) * np.uint64(GOLDEN))
    at, group, first_of_group, occurrences = _repeated(np.arange(len(keys)), keys)
    result = {}
    for n in range(2, DUPLICATE_NGRAMS[-1] + 1):
        adjacent = np.flatnonzero(np.diff(at) == 1)  # both (n-1)-grams of the n-gram repeat
        pairs = group[adjacent].astype(np.uint64) << np.uint64(32) | group[adjacent + 1].astype(np.uint64)
        at, group, first_of_group, occurrences = _repeated(at[adjacent], pairs)
        if n in TOP_NGRAMS:
            size = total[first_of_group + n] - total[first_of_group]
            # The commonest, and the longest of equally common ones: both numbers in one integer.
            rank = occurrences.astype(np.int64) << 32 | size
            best = np.zeros(len(characters), dtype=np.int64)
            np.maximum.at(best, document[first_of_group], rank)
            covered = (best >> 32) * (best & 0xFFFFFFFF)
            result[f"top_{n}gram_ratio"] = np.minimum(1, _share(covered.astype(np.float64), characters))
        if n in DUPLICATE_NGRAMS:
            later = at[at != first_of_group[group]]
            depth = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.add.at(depth, later, 1)
            np.add.at(depth, later + n, -1)
            covered_words = np.flatnonzero(np.cumsum(depth[:-1]))
            repeated = np.bincount(document[covered_words], lengths[covered_words], minlength=len(characters))
            result[f"duplicate_{n}gram_ratio"] = _share(repeated, characters)
    return result


def _repeated(at: Positions, keys: Hashes) -> tuple[Positions, Positions, Positions, Positions]:
    """Of the items at increasing places `at`, those whose key occurs at least twice.

    Returns their places in order, the number of their group, and for each group its first place and its size.
    """
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else order
    sizes = np.diff(starts, append=len(keys))
    often = sizes >= 2
    slot = np.full(len(keys), -1, dtype=np.int64)
    slot[order[np.repeat(often, sizes)]] = np.repeat(np.arange(np.count_nonzero(often)), sizes[often])
    kept = np.flatnonzero(slot >= 0)
    return at[kept], slot[kept], at[order[starts[often]]], sizes[often]


def _line_statistics(
    codes: Codes,
    kinds: npt.NDArray[np.uint8],
    begins: Positions,
    bounds: tuple[Positions, Positions, Positions],
    prefix: Hashes,
) -> dict[str, Numbers]:
    first, last, number = bounds
    document = np.searchsorted(begins, first, side="right") - 1
    documents = len(begins)
    count = np.bincount(document, minlength=documents).astype(np.float64)

    def share_of_lines(mask: Mask) -> Numbers:
        return _share(np.bincount(document[mask], minlength=documents).astype(np.float64), count)

    end = codes[last - 1]
    dots = (end == ord(".")) & (last - first >= 3)
    dots[dots] &= (codes[last[dots] - 2] == ord(".")) & (codes[last[dots] - 3] == ord("."))
    new_paragraph = (np.diff(number, prepend=-2) != 1) | (np.diff(document, prepend=-1) != 0)
    head = np.flatnonzero(new_paragraph)
    tail = np.append(head[1:], len(first))[: len(head)] - 1
    lines = _duplicates(_hash_spans(prefix, first, last), last - first, document, documents)
    paragraphs = _duplicates(
        _hash_spans(prefix, first[head], last[tail]), last[tail] - first[head], document[head], documents
    )
    return {
        "lines": count,
        "bullet_line_ratio": share_of_lines((kinds[first] & BULLET) != 0),
        "ellipsis_line_ratio": share_of_lines(dots | (end == ELLIPSIS)),
        "punctuated_line_ratio": share_of_lines((kinds[last - 1] & CLOSES) != 0),
        "short_line_ratio": share_of_lines(last - first <= SHORT_LINE),
        "duplicate_line_ratio": lines[0],
        "duplicate_line_character_ratio": lines[1],
        "duplicate_paragraph_ratio": paragraphs[0],
        "duplicate_paragraph_character_ratio": paragraphs[1],
    }


def _duplicates(hashes: Hashes, lengths: Positions, document: Positions, documents: int) -> tuple[Numbers, Numbers]:
    """Share of spans, and of their characters, that repeat an earlier span of the same document."""
    keys = scramble(hashes + document.astype(np.uint64) * np.uint64(GOLDEN))
    later = np.ones(len(keys), dtype=bool)
    later[np.unique(keys, return_index=True)[1]] = False
    spans = np.bincount(document, minlength=documents).astype(np.float64)
    characters = np.bincount(document, lengths, minlength=documents)
    repeated = np.bincount(document[later], minlength=documents).astype(np.float64)
    repeated_characters = np.bincount(document[later], lengths[later], minlength=documents)
    return _share(repeated, spans), _share(repeated_characters, characters)
