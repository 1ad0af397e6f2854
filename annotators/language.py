"""Language and script of documents and of their paragraphs: a packaged model of the 119 labels, and Unicode scripts.

A *paragraph* here is a line, together with the lines before or after it while they are shorter than MIN_PARAGRAPH
letters. The probabilities of a paragraph are those of `annotators.language_model`, in which

- a label whose script less than a fifth of the letters are in has none: a Latin text is never labelled as Arabic;
- whatever the model gives to languages outside the 119, or to text that is no language, is that of `other`. The model
  is trained on some four hundred other languages, source code, markup and random letters;
- English counts ENGLISH times and languages outside the 119 OTHERS times: the model was trained on every label as
  often, but more is written in English than in any other language, and little in those. It matters to short lines only;
- text that is no language counts MARKED times where less than MARKED_SHARE of the characters are letters, and UNMARKED
  times elsewhere: to the model, which reads letters only, the words of source code are much like English ones;
- the languages of the rest of the document count: each label is weighted by its share in the document and in the
  mean of the paragraphs, so that short lines follow the long ones.

A document's probabilities are the mean of those of its paragraphs, weighted by letters; so is its label. The shares of
its languages are those of the letters in the paragraphs of each label.

- `und`: fewer than MIN_LETTERS letters; a letter of a script without spaces counts as three.
- `other`: it is likelier than the best label and its look-alikes together, or these have a probability below MIN_SCORE
  (which a document of several paragraphs may have: it can be in many languages), or fewer than half of the characters
  are letters, white space aside. The score is still that of the best label.

Addresses (`https://...`) are not read. Of source code only the comments are read, and its paragraphs are not told. Of a
text of more than READ characters STRETCHES stretches are read, evenly spaced. Of a paragraph of more than PARAGRAPH
characters as many are read, PARAGRAPH characters in all, or more of them where that is less than a quarter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex
from scipy.sparse import csr_matrix, vstack

from annotators.code import code_rows, comments
from annotators.language_model import TEXTS, LanguageModel, load, probabilities
from annotators.ngrams import Codes, characters, composed, fold, words
from annotators.sidecar import sidecar
from annotators.text import assigned, chunks
from schemas.labels import LANGUAGE
from schemas.languages import LANGUAGES, OTHER, UNDETERMINED, UNSPACED_SCRIPTS, script_of
from schemas.tables import struct_lists

VERSION = "6"

READ = 1 << 18  # characters of a document
PARAGRAPH = 400  # characters of a paragraph
STRETCHES = 4
BATCH = 1 << 20  # characters that are worked on together
MIN_LETTERS = 9
MIN_PARAGRAPH = 40  # letters
MIN_SCORE = 0.35
MIN_SCRIPT_SHARE = 0.2
MIN_LETTER_SHARE = 0.5
MARKED_SHARE = 0.87
LEAST_PRIOR = 0.01
ENGLISH, OTHERS = 3.0, 0.4
MARKED, UNMARKED = 3.0, 0.03
MIN_SHARE = 0.05  # of a language in a document
NO_SCRIPT, UNKNOWN_SCRIPT = "Zyyy", "Zzzz"
NO_LANGUAGE = "zxx"  # the label of training text without any

LONGEST_SCHEME = 8  # letters before the :// of an address
_SCHEME = regex.compile(r"[a-zA-Z]+$")
_ADDRESS = regex.compile("://[!-~]+")

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

SCRIPTS: dict[str, str] = {
    "Latn": "Latin",
    "Cyrl": "Cyrillic",
    "Grek": "Greek",
    "Armn": "Armenian",
    "Geor": "Georgian",
    "Hebr": "Hebrew",
    "Arab": "Arabic",
    "Syrc": "Syriac",
    "Thaa": "Thaana",
    "Ethi": "Ethiopic",
    "Tfng": "Tifinagh",
    "Deva": "Devanagari",
    "Beng": "Bengali",
    "Guru": "Gurmukhi",
    "Gujr": "Gujarati",
    "Orya": "Oriya",
    "Taml": "Tamil",
    "Telu": "Telugu",
    "Knda": "Kannada",
    "Mlym": "Malayalam",
    "Sinh": "Sinhala",
    "Thai": "Thai",
    "Laoo": "Lao",
    "Tibt": "Tibetan",
    "Mymr": "Myanmar",
    "Khmr": "Khmer",
    "Mong": "Mongolian",
    "Cher": "Cherokee",
    "Cans": "Canadian_Aboriginal",
    "Hang": "Hangul",
    "Jpan": "Hiragana}\\p{Katakana",
    "Hani": "Han",
}
"""ISO 15924 code -> Unicode name of the scripts told apart; letters of any other script count as `Zzzz`.

Kana counts as `Jpan`, and so does Han in a text with at least one kana in ten such letters; all other Han is
`Hani`, since single letters do not tell traditional from simplified.
"""

_CODES = (*SCRIPTS, UNKNOWN_SCRIPT, NO_SCRIPT)
_COVERED = tuple(LANGUAGES)
_SCRIPT_OF = np.array([_CODES.index(script_of(label)) for label in _COVERED])
NAMES = np.array([*_COVERED, OTHER, UNDETERMINED])
_OTHER, _UND = len(_COVERED), len(_COVERED) + 1
_ENGLISH = _COVERED.index("eng_Latn")


@dataclass(frozen=True)
class Answers:
    """For each text: number of its label in NAMES, score and margin."""

    label: Integers
    score: Floats
    margin: Floats


@dataclass(frozen=True)
class Labelled:
    """Answers for documents and, document by document, for their paragraphs."""

    documents: Answers
    script: Integers  # [documents] number in _CODES
    shares: Floats  # [documents, 119 labels and `other`] of the letters in paragraphs with a label
    paragraphs: Answers
    owner: Integers  # [paragraphs] document of each
    begin: Integers  # [paragraphs] in UTF-8 bytes of the text
    end: Integers


@cache
def packaged() -> LanguageModel:
    """The model that comes with the package, loaded at the first call in a process."""
    return load(Path(__file__).parent / "models" / "language.npz")


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema LANGUAGE."""
    code = np.array(code_rows(batch), bool)
    texts = [comments(text) if is_code else text for text, is_code in zip(batch["text"].to_pylist(), code)]
    return sidecar(batch, LANGUAGE, VERSION, columns(list(label(packaged(), texts)), ~code))


def identify(texts: list[str]) -> dict[str, Any]:
    """Columns of LANGUAGE after the key for `texts`."""
    return columns(list(label(packaged(), texts)), np.ones(len(texts), bool))


def label(model: LanguageModel, texts: list[str]) -> Iterator[Labelled]:
    """Answers for consecutive batches of the texts."""
    for part in chunks((min(len(text), READ) for text in texts), BATCH):
        yield _label_batch(model, texts[part])


@dataclass(frozen=True)
class _Paragraphs:
    """The paragraphs of a batch, document by document."""

    codes: Codes  # of all documents, folded
    feeds: Integers  # where the lines end in them
    number: Integers  # paragraph of each line
    owner: Integers  # [paragraphs] document
    begin: Integers  # in UTF-8 bytes of the text
    end: Integers
    letters: Floats  # weighed as for MIN_LETTERS
    in_words: Floats  # characters
    printed: Floats  # characters, those of words among them
    scripts: Floats  # [paragraphs, scripts] letters


def _paragraphs(texts: list[str]) -> _Paragraphs:
    pieces = [(owner, *piece) for owner, text in enumerate(texts) for piece in _stretches(text)]
    given = [piece for _, _, piece in pieces]
    read = [composed(piece) for piece in given]
    joined = "\n".join([*read, ""])
    codes = characters(joined)
    feeds = np.flatnonzero(codes == ord("\n"))
    codes = codes.astype(np.intp)  # as an index, once
    for address in _addresses(joined):
        codes[address] = ord(" ")
    owner, begin, end = _line_places(pieces, joined if given == read else "\n".join([*given, ""]))
    runs = _runs(codes)
    # A line feed is in a run of white space, which counts for nothing, whatever lines it goes on in.
    lines = np.searchsorted(runs.begins, feeds, side="right") - 1
    letters = np.diff(np.cumsum(_kinds().letters[runs.kinds] * runs.sizes)[lines], prepend=0)
    in_words = np.diff(np.cumsum(_kinds().in_words[runs.kinds] * runs.sizes)[lines], prepend=0)
    printed = np.diff(np.cumsum(_kinds().printed[runs.kinds] * runs.sizes)[lines], prepend=0)
    number = _paragraph_numbers(letters, owner)
    first = np.flatnonzero(np.diff(number, prepend=-1))
    place = np.repeat(np.arange(len(first)), np.diff(np.append(lines[first[1:] - 1], len(runs.kinds)), prepend=0))
    return _Paragraphs(
        *_thinned(fold(codes), feeds, np.append(first[1:], len(number)) - 1),
        number,
        owner[first],
        begin[first],
        np.maximum.reduceat(end, first),
        np.add.reduceat(letters, first).astype(np.float32),
        np.add.reduceat(in_words, first).astype(np.float32),
        np.add.reduceat(printed, first).astype(np.float32),
        _script_counts(runs, place, len(first)),
    )


def _thinned(codes: Codes, feeds: Integers, last: Integers) -> tuple[Codes, Integers]:
    """Folded characters with what is read of long paragraphs only, and where the lines end in them.

    `last` has the last line of each paragraph.
    """
    ends = feeds[last] + 1
    begins = np.append(0, ends[:-1])
    long = ends - begins > PARAGRAPH
    if not long.any():
        return codes, feeds
    begins, ends = begins[long], ends[long]
    size = PARAGRAPH // STRETCHES
    count = np.maximum(STRETCHES, -((begins - ends) // PARAGRAPH))
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    start = np.repeat(begins, count) + number * np.repeat(ends - begins - size, count) // np.repeat(count - 1, count)
    codes[start + size - 1] = 0  # no word goes on in the next stretch
    # What is left begins with a stretch or behind a long paragraph, and ends with a stretch or before a long paragraph.
    left = np.sort(np.concatenate([[0], ends, start])), np.sort(np.concatenate([begins, start + size, [len(codes)]]))
    dropped = np.cumsum(left[0] - np.append(0, left[1][:-1]))
    kept = np.concatenate([codes[begin:end] for begin, end in zip(*(edge.tolist() for edge in left))])
    place = np.searchsorted(left[0], feeds, side="right") - 1
    return kept, np.minimum(feeds, left[1][place]) - dropped[place]


def _addresses(text: str) -> Iterator[slice]:
    """Where the addresses stand, from their scheme on."""
    at = text.find("://")
    while at >= 0:
        scheme = _SCHEME.search(text, max(0, at - LONGEST_SCHEME), at)
        found = _ADDRESS.match(text, at)
        end = found.end() if found else at + 3
        yield slice(scheme.start() if scheme else at, end)
        at = text.find("://", end)


@dataclass(frozen=True)
class _Runs:
    """Stretches of characters of one kind (see _Kinds)."""

    begins: Integers
    kinds: npt.NDArray[np.uint8]
    sizes: Integers


def _runs(codes: npt.NDArray[np.integer]) -> _Runs:
    kinds = _kinds().table.take(codes, mode="clip")
    edge = np.ones(len(kinds), bool)
    np.not_equal(kinds[1:], kinds[:-1], out=edge[1:])
    begins = np.flatnonzero(edge)
    return _Runs(begins, kinds[begins], np.diff(begins, append=len(kinds)))


def _label_batch(model: LanguageModel, texts: list[str]) -> Labelled:
    read = _paragraphs(texts)
    paragraphs, documents = len(read.owner), len(texts)
    of_document = _counts(read.owner, np.arange(paragraphs), (documents, paragraphs))
    several = np.flatnonzero(np.bincount(read.owner, minlength=documents) > 1)  # documents of several paragraphs
    of_several = of_document[several]

    found = words(read.codes)
    lines = np.diff(np.searchsorted(found.begins, read.feeds), prepend=0)  # words of each
    members = _word_counts(np.repeat(read.number, lines), found.word, (paragraphs, len(found.keys)))
    rows = vstack([members, of_several @ members], format="csr")
    in_words, printed, scripts = (
        np.concatenate([values, of_several @ values]) for values in (read.in_words, read.printed, read.scripts)
    )
    table = _covered(model, probabilities(model, found, rows), scripts, in_words < MARKED_SHARE * printed)
    single, whole = table[:paragraphs], table[paragraphs:]

    letters = of_document @ read.letters
    share = read.letters[:, None] / np.maximum(letters, 1)[read.owner, None]
    prior = np.ones((documents, single.shape[1]), np.float32)
    prior[several] = (of_several @ (single * share) + whole) / 2 + LEAST_PRIOR
    single = single * prior[read.owner]
    single /= np.maximum(single.sum(axis=1, keepdims=True), 1e-30)
    wordy = read.in_words - MIN_LETTER_SHARE * read.printed
    answers = _answers(model, single, read.letters, wordy >= 0, np.full(paragraphs, MIN_SCORE))
    told = np.flatnonzero(answers.label != _UND)
    shares = _counts(
        read.owner[told], answers.label[told], (documents, len(_COVERED) + 1), read.letters[told]
    ).toarray()
    scripts = of_document @ read.scripts
    least = np.full(documents, MIN_SCORE)
    least[several] = 0
    return Labelled(
        _answers(model, of_document @ (single * share), letters, of_document @ wordy >= 0, least),
        np.where(scripts.any(axis=1), scripts.argmax(axis=1), _CODES.index(NO_SCRIPT)),
        shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-30),
        answers,
        read.owner,
        read.begin,
        read.end,
    )


def _counts(
    rows: npt.NDArray, columns: npt.NDArray, shape: tuple[int, int], values: Floats | None = None
) -> csr_matrix:
    """Sum of the values, or count, of each pair of row and column."""
    return csr_matrix((np.ones(len(rows), np.float32) if values is None else values, (rows, columns)), shape)


def _word_counts(rows: Integers, columns: Integers, shape: tuple[int, int]) -> csr_matrix:
    """How often each pair of row and column is there."""
    cells = np.sort(rows * shape[1] + columns)
    new = np.flatnonzero(np.diff(cells, prepend=-1))
    cells = cells[new]
    begins = np.searchsorted(cells, np.arange(shape[0] + 1) * shape[1])
    cells -= np.repeat(np.arange(shape[0]) * shape[1], np.diff(begins))
    return csr_matrix((np.diff(new, append=len(columns)).astype(np.float32), cells, begins), shape)


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    """What is read of a text, with the UTF-8 bytes before it."""
    if len(text) <= READ:
        yield 0, text
        return
    size = READ // STRETCHES
    at = offset = 0
    for number in range(STRETCHES):
        begin = number * (len(text) - size) // (STRETCHES - 1)
        offset += len(text[at:begin].encode("utf-8", "surrogatepass"))
        yield offset, text[begin : begin + size]
        at = begin


def _line_places(pieces: list[tuple[int, int, str]], joined: str) -> tuple[Integers, Integers, Integers]:
    """Document, begin and end in UTF-8 bytes of every line of the pieces (document, offset, text).

    `joined` has the texts with a line feed after each.
    """
    content = joined.encode("utf-8", "surrogatepass")
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    begins = np.append(0, ends[:-1] + 1)
    lines = np.array([text.count("\n") + 1 for _, _, text in pieces])
    first = np.cumsum(lines) - lines  # line of each piece
    owners, offsets = np.array([place for *place, _ in pieces]).T
    shift = np.repeat(offsets - begins[first], lines)
    return np.repeat(owners, lines), begins + shift, ends + shift


def _paragraph_numbers(letters: Integers, owner: Integers) -> Integers:
    """The paragraph of each line: a new one begins whenever MIN_PARAGRAPH more letters of the document are past."""
    before = np.cumsum(letters) - letters
    new_document = np.diff(owner, prepend=-1) != 0
    before -= np.maximum.accumulate(np.where(new_document, before, 0))
    step = before // MIN_PARAGRAPH
    return np.cumsum(new_document | (np.diff(step, prepend=0) != 0)) - 1


def _script_counts(runs: _Runs, place: Integers, texts: int) -> Floats:
    """Letters of each script in each text, float32 [texts, scripts]; Han beside kana counts as Japanese.

    `place` has the text of each run.
    """
    cells = place * len(_CODES) + _kinds().scripts[runs.kinds]
    counts = np.bincount(cells, runs.sizes, texts * len(_CODES)).reshape(texts, len(_CODES)).astype(np.float32)
    counts[:, _CODES.index(NO_SCRIPT)] = 0
    kana, han = _CODES.index("Jpan"), _CODES.index("Hani")
    japanese = (counts[:, kana] > 0) & (counts[:, kana] * 10 >= counts[:, kana] + counts[:, han])
    counts[:, kana] += np.where(japanese, counts[:, han], 0)
    counts[:, han] = np.where(japanese, 0, counts[:, han])
    return counts


def _covered(model: LanguageModel, table: Floats, scripts: Floats, marked: npt.NDArray[np.bool_]) -> Floats:
    """Probabilities of the 119 labels where the script allows them, and of everything else: [texts, 120].

    `marked` says which texts have many characters that are no letters.
    """
    place = _places(model)
    result = np.empty((len(table), len(_COVERED) + 1), np.float32)
    silent = table[:, model.labels.index(NO_LANGUAGE)] if NO_LANGUAGE in model.labels else np.zeros(len(table))
    weight = np.where(marked, MARKED, UNMARKED)
    for begin in range(0, len(table), TEXTS):
        some, letters = result[begin : begin + TEXTS], scripts[begin : begin + TEXTS]
        covered = table[begin : begin + TEXTS].take(np.maximum(place, 0), axis=1, mode="clip")
        covered *= (letters >= MIN_SCRIPT_SHARE * letters.sum(axis=1, keepdims=True))[:, _SCRIPT_OF]
        covered[:, place < 0] = 0
        some[:, :-1] = covered
        none = silent[begin : begin + TEXTS]
        some[:, -1] = OTHERS * np.maximum(0, 1 - covered.sum(axis=1) - none)
        some[:, -1] += weight[begin : begin + TEXTS] * none
        some[:, _ENGLISH] *= ENGLISH
        some /= np.maximum(some.sum(axis=1, keepdims=True), 1e-30)
    return result


@lru_cache(maxsize=4)
def _places(model: LanguageModel) -> Integers:
    """The number that each of the 119 labels has in the model, or -1."""
    numbers = {label: number for number, label in enumerate(model.labels)}
    return np.array([numbers.get(label, -1) for label in _COVERED])


@lru_cache(maxsize=4)
def _look_alikes(model: LanguageModel) -> npt.NDArray[np.bool_]:
    """For each of the 119 labels the labels of its group, itself among them: [119, 119]."""
    place = _places(model)
    group = np.where(place >= 0, model.group_of[place], -1)
    return (group[:, None] == group) & (group >= 0) | np.eye(len(_COVERED), dtype=bool)


def _answers(
    model: LanguageModel,
    table: Floats,
    weight: Floats,
    enough_letters: npt.NDArray[np.bool_],
    least: npt.NDArray[np.float64],
) -> Answers:
    covered = table[:, :-1]
    rows = np.arange(len(table))
    label = covered.argmax(axis=1)
    score = covered[rows, label]
    covered[rows, label] = -1  # for a moment
    second = covered.max(axis=1)
    covered[rows, label] = score
    doubtful = np.flatnonzero((score < least) | (table[:, -1] > score))
    alike = (covered[doubtful] * _look_alikes(model)[label[doubtful]]).sum(axis=1)
    doubtful = doubtful[(alike < least[doubtful]) | (table[doubtful, -1] > alike)]
    label[doubtful] = _OTHER
    label[~enough_letters] = _OTHER
    short = weight < MIN_LETTERS
    return Answers(
        np.where(short, _UND, label),
        np.where(short, 0, score).astype(np.float32),
        np.where(short, 0, score - second).astype(np.float32),
    )


def columns(parts: list[Labelled], tell_paragraphs: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Columns of LANGUAGE after the key; the paragraphs are told of the texts that `tell_paragraphs` names."""
    found: dict[str, list[Any]] = {name: [] for name in LANGUAGE.names[4:]}
    at = 0
    for part in parts:
        texts = len(part.script)
        found["language"] += NAMES[part.documents.label].tolist()
        found["language_score"] += part.documents.score.tolist()
        found["language_margin"] += part.documents.margin.tolist()
        found["script"] += [_CODES[number] for number in part.script]
        found["languages"].append(_share_lists(part.shares))
        found["paragraphs"].append(_paragraph_lists(part, tell_paragraphs[at : at + texts]))
        at += texts
    for name in ("languages", "paragraphs"):
        kind = LANGUAGE.field(name).type
        found[name] = pa.chunked_array(found[name], kind).combine_chunks() if parts else pa.array([], kind)
    return found


def _share_lists(shares: Floats) -> pa.ListArray:
    """Labels with at least MIN_SHARE of the letters, the largest share first."""
    order = np.argsort(-shares, axis=1, kind="stable")[:, : int(1 / MIN_SHARE)]
    sorted_shares = np.take_along_axis(shares, order, axis=1)
    kept = sorted_shares >= MIN_SHARE
    kind = LANGUAGE.field("languages").type
    values = [pa.array(NAMES[order[kept]], pa.string()), pa.array(sorted_shares[kept].astype(np.float32))]
    return struct_lists(kind, values, kept.sum(axis=1))


def _paragraph_lists(part: Labelled, tell: npt.NDArray[np.bool_]) -> pa.ListArray:
    kept = tell[part.owner]
    answers = part.paragraphs
    values = [
        pa.array(part.begin[kept], pa.int32()),
        pa.array(part.end[kept], pa.int32()),
        pa.array(NAMES[answers.label[kept]], pa.string()),
        pa.array(answers.score[kept]),
        pa.array(answers.margin[kept]),
    ]
    return struct_lists(
        LANGUAGE.field("paragraphs").type, values, np.bincount(part.owner[kept], minlength=len(part.script))
    )


def script_shares(texts: list[str]) -> npt.NDArray[np.float64]:
    """Share of each of SCRIPTS, and of all others, among the letters of each text: float64 [texts, scripts + 1]."""
    runs = _runs(characters("\n".join(texts)))
    ends = np.cumsum([len(text) + 1 for text in texts])
    counts = _script_counts(runs, np.searchsorted(ends, runs.begins, side="right"), len(texts))[:, :-1]
    return counts / np.maximum(counts.sum(axis=1), 1)[:, None]


@dataclass(frozen=True)
class _Kinds:
    """What counts of a character: its kind by code point, and what each kind is worth."""

    table: npt.NDArray[np.uint8]  # as far as there are letters, and one more for all that come after
    scripts: Integers  # number in _CODES
    letters: Integers  # 1 for a letter, 3 for one of a script without spaces, 0 for any other character
    in_words: Integers  # 1 for a character of words
    printed: Integers  # 0 for white space


@cache
def _kinds() -> _Kinds:
    script = np.full(ord(assigned()[-1]) + 2, _CODES.index(NO_SCRIPT))
    for match in regex.finditer(r"\p{L}+", assigned()):
        script[ord(match[0][0]) : ord(match[0][-1]) + 1] = _CODES.index(UNKNOWN_SCRIPT)
    for number, name in enumerate(SCRIPTS.values()):
        for match in regex.finditer(rf"[\p{{{name}}}&&\p{{L}}]+", assigned(), flags=regex.V1):
            script[ord(match[0][0]) : ord(match[0][-1]) + 1] = number
    unspaced, space = np.zeros((2, len(script)), bool)
    names = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
    unspaced[[ord(match[0]) for match in regex.finditer(f"[{names}]", assigned())]] = True
    space[[ord(character) for character in assigned() if character.isspace()]] = True
    in_word = fold(np.arange(len(script))) != 0
    kinds, table = np.unique(script * 8 + unspaced * 4 + space * 2 + in_word, return_inverse=True)
    script, unspaced, space, in_word = kinds >> 3, kinds >> 2 & 1, kinds >> 1 & 1, kinds & 1
    letters = np.where(script == _CODES.index(NO_SCRIPT), 0, np.where(unspaced, 3, 1))
    return _Kinds(table.astype(np.uint8), script, letters, in_word, 1 - space)
