"""Rebuild the model of letters that judges the text layers of PDF pages:

    python -m pipelines.extract.train_judge DATA --output pipelines/extract/models/letters.npz

DATA is the folder of the labelled tables: `languages/` and `long/` lie in it. Real lines stand against the same lines
as fonts with wrong maps to Unicode would give them. The command prints how the model does on lines that were held out.
One thread and a fixed seed: the same data gives the same model.
"""

import argparse
import time
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import regex

from pipelines.extract import letters
from pipelines.extract.letters import BROKEN, DIGIT, MARK, OTHER, RARE, SCRIPTS, SPACE, STEP, SYMBOL, Letters

_LINES = 1500  # of a label; where it is the only one of its script, _MORE_LINES
_MORE_LINES = 8000
_RARE = 20  # occurrences of a letter in all lines: fewer say nothing of its neighbours
_PAGE = 25  # lines that share a font
_LIMIT = 7  # largest value in a table, in units of STEP
_HELD_OUT_CODE = 4  # every fourth file of source code
_SHARED_SCRIPTS = ("Latn", "Cyrl", "Arab", "Deva")

Lines = list[str]
Font = dict[int, str]


def classes() -> np.ndarray:
    """The class of every code point of the first plane, as `letters` numbers them, and of all others."""
    table = np.full(letters.ASTRAL + 1, OTHER, np.uint8)
    patterns = [regex.compile(rf"\p{{Script={script}}}") for script in SCRIPTS]
    for point in range(letters.ASTRAL):
        character = chr(point)
        category = unicodedata.category(character)
        if character.isspace() or category[0] == "Z":
            table[point] = SPACE
        elif category in ("Cc", "Co", "Cs", "Cn") or point == 0xFFFD:
            table[point] = BROKEN
        elif category[0] == "N":
            table[point] = DIGIT
        elif category[0] in "PS" or (category == "Cf" and point != 0xAD):
            table[point] = SYMBOL
        else:
            script = next((at for at, pattern in enumerate(patterns) if pattern.match(character)), None)
            if script is not None:
                table[point] = RARE + 1 + script
            elif category[0] in "MC":
                table[point] = MARK
    return table


def mark_rare(table: np.ndarray, pages: Iterable[Lines]) -> None:
    """Make letters of judged scripts RARE that the pages hardly have."""
    counts = np.zeros(len(table), np.int64)
    for page in pages:
        points, _ = letters.encode(" ".join(page), table)
        counts += np.bincount(np.minimum(points, letters.ASTRAL), minlength=len(table))
    judged = (table > RARE) & (table < letters.SPACED)
    table[judged & (counts < _RARE)] = RARE


def _drawn(lines: Lines) -> Lines:
    return sorted({character for line in lines for character in line} - {" ", "\n"})


def _cases(lines: Lines) -> tuple[Lines, Lines]:
    drawn = [character for character in _drawn(lines) if character.isalpha()]
    return [one for one in drawn if one == one.lower()], [one for one in drawn if one != one.lower()]


def _point(value: int) -> str:
    return chr(value) if 0 <= value < 0xD800 or 0xE000 <= value <= 0xFFFF else "\ufffd"


def turned_alphabet(lines: Lines, random: np.random.Generator) -> Font:
    """Every letter is a later one of the alphabet, as in Caesar's cipher."""
    font = {}
    for case in _cases(lines):
        by = int(random.integers(1, max(2, len(case))))
        font.update({ord(one): case[(at + by) % len(case)] for at, one in enumerate(case)})
    return font


def mixed_alphabet(lines: Lines, random: np.random.Generator) -> Font:
    """Letters stand for other letters."""
    return {ord(one): case[other] for case in _cases(lines) for one, other in zip(case, random.permutation(len(case)))}


def mixed_glyphs(lines: Lines, random: np.random.Generator) -> Font:
    """Letters, digits and signs of the font stand for one another."""
    drawn = _drawn(lines)
    return {ord(one): drawn[other] for one, other in zip(drawn, random.permutation(len(drawn)))}


def _shifted(lines: Lines, by: int) -> Font:
    return {ord(one): _point(ord(one) + by) for one in _drawn(lines)}


def shifted(lines: Lines, random: np.random.Generator) -> Font:
    """Code points with a number added."""
    return _shifted(lines, int(random.integers(1, 64)) * int(random.choice([-1, 1])))


def shifted_far(lines: Lines, random: np.random.Generator) -> Font:
    return _shifted(lines, int(random.integers(64, 0x3000)) * int(random.choice([-1, 1])))


def glyph_numbers(lines: Lines, random: np.random.Generator) -> Font:
    """Numbers of glyphs as code points: those of ASCII where TrueType fonts have them, others in order, with gaps."""
    font: Font = {}
    at, gap, before = int(random.integers(0x80, 0x1000)), int(random.integers(1, 5)), None
    for one in _drawn(lines):
        if ord(one) < 0x7F:
            font[ord(one)] = _point(ord(one) - 29)
            continue
        at += 1 if before is None else 1 + min(ord(one) - before - 1, gap)
        before = ord(one)
        font[before] = _point(at)
    return font


def ascii_numbers(lines: Lines, random: np.random.Generator) -> Font:
    return _shifted(lines, -29)


def numbered(lines: Lines, random: np.random.Generator) -> Font:
    """Glyphs numbered as they first occur."""
    base = int(random.choice([1, 3, 33, 33, 35, 65, 97, 0x100]))
    order = dict.fromkeys(character for line in lines for character in line if character != " ")
    return {ord(one): _point(base + at) for at, one in enumerate(order)}


FONTS: tuple[Callable[[Lines, np.random.Generator], Font], ...] = (
    *(turned_alphabet, mixed_alphabet, mixed_glyphs, shifted, shifted_far, glyph_numbers, ascii_numbers, numbered),
)
_DRAWN_MORE = (mixed_alphabet, shifted)

ENCODINGS = {
    "Cyrl": ("koi8-r", "cp1251", "iso8859-5", "mac-cyrillic"),
    "Grek": ("iso8859-7", "cp1253"),
    "Thai": ("tis-620",),
    "Hebr": ("cp1255",),
    "Arab": ("cp1256",),
    "Hang": ("euc-kr",),
    "Hans": ("gbk",),
    "Hant": ("big5",),
    "Jpan": ("shift_jis", "euc-jp"),
}


def misread(lines: Lines, script: str, random: np.random.Generator) -> Lines:
    """Bytes of an encoding of the script read as Latin-1."""
    encoding = str(random.choice(ENCODINGS.get(script, ("utf-8",))))
    return [line.encode(encoding, "ignore").decode("latin-1") for line in lines]


def broken(lines: Lines, script: str, random: np.random.Generator) -> Lines:
    """The lines as one of the wrong maps gives them, drawn by lot."""
    kinds = (*FONTS, *_DRAWN_MORE, None)
    kind = kinds[int(random.integers(len(kinds)))]
    if kind is None:
        return misread(lines, script, random)
    font = kind(lines, random)
    return [line.translate(font) for line in lines]


class _Counts:
    """How often every slot of both tables was seen."""

    def __init__(self) -> None:
        self.triples = np.zeros(1 << letters.TRIPLES, np.int64)
        self.pairs = np.zeros(1 << letters.PAIRS, np.int64)

    def add(self, lines: Lines, table: np.ndarray) -> None:
        points, kinds = letters.encode(" ".join(lines), table)
        np.add.at(self.triples, letters.triples(points, kinds)[1], 1)
        np.add.at(self.pairs, letters.pairs(points, kinds)[1], 1)


def _values(real: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Logarithm of the ratio of both relative frequencies, one occurrence added to each slot."""
    share = wrong.sum() / max(real.sum(), 1)
    ratio = (real + 1) / (wrong + share) * share
    return np.clip(np.round(np.log(ratio) / STEP), -_LIMIT, _LIMIT).astype(np.int8)


def labelled_lines(data: Path, part: str) -> dict[str, Lines]:
    """Lines of `languages/` by label."""
    table = pq.read_table(data / "languages" / f"{part}.parquet", columns=["text", "label"])
    lines: dict[str, Lines] = {}
    for text, label in zip(table["text"].to_pylist(), table["label"].to_pylist()):
        lines.setdefault(label, []).append(text)
    return dict(sorted(lines.items()))


def code_files(data: Path, held_out: bool) -> list[Lines]:
    """Source files as lines."""
    files = pq.read_table(data / "long" / "code_files.parquet", columns=["code"])["code"].to_pylist()
    return [code[:20_000].split("\n") for at, code in enumerate(files) if (at % _HELD_OUT_CODE == 0) == held_out]


def train(data: Path, without: frozenset[str] = frozenset()) -> Letters:
    """The model from the training lines of all labels but those `without`."""
    random = np.random.default_rng(1)
    table = classes()
    real, wrong = _Counts(), _Counts()
    pages: list[tuple[Lines, str]] = [(lines, "Latn") for lines in code_files(data, held_out=False)]
    for label, lines in labelled_lines(data, "train").items():
        if label not in without:
            script = label[-4:]
            count = _LINES if script in _SHARED_SCRIPTS else _MORE_LINES
            pages += [(lines[at : at + _PAGE], script) for at in range(0, min(count, len(lines)), _PAGE)]
    mark_rare(table, (page for page, _ in pages))
    for page, script in pages:
        real.add(page, table)
        for _ in range(2):
            wrong.add(broken(page, script, random), table)
    return Letters(table, _values(real.triples, wrong.triples), _values(real.pairs, wrong.pairs))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.extract.train_judge", description="Rebuild the packaged model of letters."
    )
    parser.add_argument("data", type=Path, help="folder with languages/ and long/")
    parser.add_argument("--output", type=Path, required=True, help="e.g. pipelines/extract/models/letters.npz")
    parser.add_argument("--without", default="", help="labels to leave out, to see how unknown languages do")
    arguments = parser.parse_args()
    started = time.process_time()
    without = frozenset(filter(None, arguments.without.split(",")))
    model = train(arguments.data, without)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, classes=model.classes, triples=model.triples, pairs=model.pairs)
    print(f"{arguments.output.stat().st_size} bytes, {time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
