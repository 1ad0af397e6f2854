"""Language and script of a document: a packaged fastText model of the 119 labels, and Unicode scripts.

Only a sample is read: the whole text up to 3,000 characters, else three windows of 1,000 at the beginning,
middle and end. Of source code only the comments are read. The sample is reduced to lower-case letters, so
digits, markup and emoji neither help nor harm.

- `und`: fewer than MIN_LETTERS letters in the sample.
- `other`: the best label has a probability below MIN_SCORE, or fewer than a fifth of the letters are in the script
  of that label (the 119 do not include the languages of, say, Ethiopic or Cherokee script, for which the model must
  guess). The score and the margin are then still those of the best of the 119.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotators.classifier import packaged_model, predict
from annotators.code import code_rows, comments
from annotators.sidecar import sidecar
from annotators.text import letters_only, sample
from schemas.labels import LANGUAGE
from schemas.languages import LANGUAGES, OTHER, UNDETERMINED

VERSION = "1"

WINDOW, WINDOWS = 1000, 3
MIN_LETTERS = 3
MIN_SCORE = 0.3
MIN_SCRIPT_SHARE = 0.2
NO_SCRIPT, UNKNOWN_SCRIPT = "Zyyy", "Zzzz"

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

_CODES = (*SCRIPTS, UNKNOWN_SCRIPT)
_MODEL_SCRIPT = {"Hans": "Hani", "Hant": "Hani"}


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema LANGUAGE."""
    texts = [
        sample(comments(text.as_py()) if code else text.as_py(), WINDOW, WINDOWS)
        for text, code in zip(batch["text"], code_rows(batch))
    ]
    return sidecar(batch, LANGUAGE, VERSION, identify(texts))


def identify(texts: list[str]) -> dict[str, list]:
    """Columns language, language_score, language_margin and script for `texts`, which are read whole."""
    lines = letters_only(texts)
    shares, letters = script_shares(lines)
    answers = predict(packaged_model("language"), lines, 2)
    result: dict[str, list] = {name: [] for name in LANGUAGE.names[4:]}
    for share, count, answer in zip(shares, letters, answers):
        label, score, margin = UNDETERMINED, 0.0, 0.0
        if count >= MIN_LETTERS and answer:
            (label, score), *rest = answer
            margin = score - (rest[0][1] if rest else 0.0)
            script = LANGUAGES[label].script
            in_script = share[_CODES.index(_MODEL_SCRIPT.get(script, script))]
            if score < MIN_SCORE or in_script < MIN_SCRIPT_SHARE:
                label = OTHER
        result["language"].append(label)
        result["language_score"].append(score)
        result["language_margin"].append(margin)
        result["script"].append(_CODES[int(np.argmax(share))] if count else NO_SCRIPT)
    return result


def script_shares(lines: list[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Share of each script among the letters of each line, shape (lines, scripts), and the count of letters."""
    lengths = [len(line) for line in lines]
    codes = np.frombuffer("".join(lines).encode("utf-32-le"), dtype=np.uint32)
    scripts = _script_table()[codes]
    row = np.repeat(np.arange(len(lines)), lengths)
    letter = scripts >= 0
    cells = row[letter] * len(_CODES) + scripts[letter]
    counts = np.bincount(cells, minlength=len(lines) * len(_CODES)).reshape(len(lines), len(_CODES))
    kana, han = _CODES.index("Jpan"), _CODES.index("Hani")
    japanese = (counts[:, kana] > 0) & (counts[:, kana] * 10 >= counts[:, kana] + counts[:, han])
    counts[:, kana] += np.where(japanese, counts[:, han], 0)
    counts[:, han] = np.where(japanese, 0, counts[:, han])
    letters = counts.sum(axis=1)
    return counts / np.maximum(letters, 1)[:, None], letters


@cache
def _script_table() -> npt.NDArray[np.int8]:
    """Index into _CODES for every letter, -1 for what is no letter."""
    import regex

    # No letters are assigned above plane 3, and surrogates are no characters.
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x32400)]))
    table = np.full(0x110000, -1, dtype=np.int8)
    for match in regex.finditer(r"\p{L}+", everything):
        table[ord(match[0][0]) : ord(match[0][-1]) + 1] = len(_CODES) - 1
    for number, name in enumerate(SCRIPTS.values()):
        for match in regex.finditer(rf"[\p{{{name}}}&&\p{{L}}]+", everything, flags=regex.V1):
            table[ord(match[0][0]) : ord(match[0][-1]) + 1] = number
    return table
