"""Text that is in none of the 119 languages, for training what `other` means:

    python -m annotators.other_text FOLDER... --output other.parquet

FOLDER holds unpacked Debian packages with interface texts: MediaWiki's message files (`i18n/**/CODE.json`) and
gettext catalogues (`CODE/LC_MESSAGES/*.mo`). Text without any language comes from this Python: its source files,
numbers, markup and random letters. Rows are as in the labelled language data: text, label, source, license. Labels
are the language code and script, for example `ha_Latn`, and `zxx` for what is no language.
"""

import argparse
import base64
import gettext
import hashlib
import json
import random
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import regex

from annotators.language import SCRIPTS, script_shares
from schemas.hashing import uniform

LINES = 1_200  # most of one language
FEWEST = 60  # a language with fewer lines teaches nothing
SHORTEST, LONGEST = 20, 700  # characters of a line

NO_LANGUAGE = "zxx"

COVERED = frozenset(
    """en fr pt de ro sv da bg ru cs el uk es nl sk hr pl lt nb nn no fa sl gu lv it oc ne mr be sr lb vec as cy szl ast
    hne awa mai bho sd ga fo hi pa bn or tg yi lmo lij scn fur sc gl ca is sq li prs af mk si ur mag bs hy zh yue my ar
    ars apc arz ary acm acq aeb ajp he mt id ms tl fil ceb jv su min ban bjn pag ilo war ta te kn ml tr az uz kk ba tt
    th lo fi et hu vi km ja ko ka eu ht pap kea tpi sw""".split()
)
"""Codes of the 119 labels, whatever follows a hyphen; see `_too_close` for scripts."""

TOO_CLOSE = frozenset(
    """sh isv simple qqq qqx mo jut aln frc map-bms gan hsn wuu lzh nan-hant nan cdo cdo-hant hak hak-hant cpx cpx-hant
    hak-hans gan-hans gan-hant wuu-hans wuu-hant cpx-hans arq avl shu afb apd sms-x en-gb kk-latn zh-cdo
    hke hyw als nb no nn lki qqq""".split()
)
"""Codes that are varieties of one of the 119, so that calling them `other` would teach the wrong thing."""

OTHER_SCRIPT = frozenset({"ms-arab", "kk-arab", "tg-latn", "tt-latn", "pa-pk", "jv-java", "uz-arab"})
"""Covered languages in a script that their label does not have."""

_PLACEHOLDER = regex.compile(r"\$\d+|%\d*\$?[a-z]\b|%[A-Z_]+%?|\{\d*\}|~|_")
_MARKUP = regex.compile(r"[<>{}\[\]|@\\=]|https?:|www\.|&\w+;|\.\w{2,4}\b/")


def messages(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(language code, text, source, licence) of every message in the packages below `folder`."""
    for path in sorted(folder.rglob("*.json")):
        if "i18n" in path.parts and path.name != "en.json":
            english = _strings(path.with_name("en.json"))
            for key, text in _strings(path).items():
                if text != english.get(key):
                    yield path.stem, text, "mediawiki", "GPL-2.0-or-later"
    for path in sorted(folder.rglob("*.mo")):
        code = path.parts[-3].lower().replace("_", "-")
        with path.open("rb") as file:
            try:
                catalogue = gettext.GNUTranslations(file)
            except (OSError, ValueError, LookupError):
                continue  # a catalogue without its charset
        source, licence = ("libreoffice", "MPL-2.0") if "libreoffice" in path.parts else ("gettext", "GPL-2.0-or-later")
        for key, text in catalogue._catalog.items():  # type: ignore[attr-defined]
            if isinstance(text, str) and text != key and key:
                yield code, text, source, licence


def _strings(path: Path) -> dict[str, str]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: text for key, text in loaded.items() if isinstance(text, str)} if isinstance(loaded, dict) else {}


def _wanted(code: str) -> bool:
    language = _language(code)
    return code in OTHER_SCRIPT or not ({language} & COVERED or {language, code} & TOO_CLOSE)


def _language(code: str) -> str:
    return regex.split("[-@_]", code)[0]


Row = tuple[str, str, str, str]  # text, label, source, licence


def other_lines(folders: list[Path]) -> tuple[list[Row], list[Row], list[Row]]:
    """Clean lines, once each: LINES of a language at most, those beyond, and all of the languages that have too few."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for folder in folders:
        for code, text, source, licence in messages(folder):
            if not _wanted(code):
                continue
            for line in _PLACEHOLDER.sub(" ", text).split("\n"):
                line = " ".join(line.split())
                if SHORTEST <= len(line) <= LONGEST and not _MARKUP.search(line):
                    found.setdefault(code, {}).setdefault(line.casefold(), (line, source, licence))
    # The same line in two languages is of neither.
    shared = {key for key, count in Counter(key for lines in found.values() for key in lines).items() if count > 1}
    chosen: list[Row] = []
    beyond: list[Row] = []
    rare: list[Row] = []
    for code, lines in sorted(found.items()):
        kept = [value for key, value in lines.items() if key not in shared and not _looks_english(value[0])]
        if not kept:
            continue
        share = script_shares([" ".join(text for text, _, _ in kept[:50])])
        label = f"{_language(code)}_{(*SCRIPTS, 'Zzzz')[int(share[0].argmax())]}"
        order = uniform((text.encode() for text, _, _ in kept), "other").argsort()
        rows = [(kept[row][0], label, *kept[row][1:]) for row in order]
        if len(rows) < FEWEST:
            rare += rows
        else:
            chosen += rows[:LINES]
            beyond += rows[LINES:]
    return chosen, beyond, rare


_ENGLISH = frozenset("the of and to is for this that you are with not from your be can was by have".split())


def _looks_english(line: str) -> bool:
    words = regex.findall(r"\p{L}+", line.lower())
    return len(words) >= 4 and sum(word in _ENGLISH for word in words) * 4 >= len(words)


_SPELLINGS: tuple[Callable[[bytes], str], ...] = (
    lambda raw: base64.b64encode(raw).decode(),
    bytes.hex,
    lambda raw: base64.b32encode(raw).decode(),
    lambda raw: " ".join(base64.urlsafe_b64encode(raw[at : at + 9]).decode() for at in range(0, len(raw), 9)),
)


def no_language(lines: int, seed: int = 1) -> Iterator[Row]:
    """Source code, numbers, markup, identifiers, base64 and random letters."""
    dice = random.Random(seed)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    each = lines // 5
    for _ in range(each):
        code = dice.choice(files).read_text(encoding="utf-8", errors="replace").split("\n")
        begin = dice.randrange(max(1, len(code) - 10))
        block = [line.strip() for line in code[begin : begin + dice.randint(1, 8)]]
        text = " ".join(line for line in block if regex.search(r"[=(\[{:]", line) and '"""' not in line)
        if len(text) >= SHORTEST:
            yield text[:LONGEST], NO_LANGUAGE, "python-standard-library", "PSF-2.0"
    for number in range(each):
        raw = hashlib.shake_256(str(number).encode()).digest(dice.randint(15, 300))
        yield _SPELLINGS[number % len(_SPELLINGS)](raw)[:LONGEST], NO_LANGUAGE, "generated", "CC0-1.0"
    letters = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(each):
        words = ("".join(dice.choices(letters, k=dice.randint(1, 12))) for _ in range(dice.randint(4, 60)))
        yield " ".join(words)[:LONGEST], NO_LANGUAGE, "generated", "CC0-1.0"
    tags = "div span table tr td th ul li p a img href src class id style width height color px em rem http www".split()
    for _ in range(each):
        yield (
            " ".join(
                f'<{dice.choice(tags)} {dice.choice(tags)}="{dice.choice(tags)}{dice.randint(0, 99)}">'
                for _ in range(dice.randint(3, 30))
            )[:LONGEST],
            NO_LANGUAGE,
            "generated",
            "CC0-1.0",
        )
    names = [
        word for file in files for word in regex.findall(r"\b[a-z]+_[a-z_]+\b", file.read_text("utf-8", "replace"))
    ]
    for _ in range(each):
        yield (
            " ".join(dice.choices(names, k=dice.randint(3, 20)))[:LONGEST],
            NO_LANGUAGE,
            "python-standard-library",
            "PSF-2.0",
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m annotators.other_text", description="Text of other languages.")
    parser.add_argument("folders", type=Path, nargs="+", help="unpacked packages")
    parser.add_argument("--output", type=Path, required=True, help="lines to train on")
    parser.add_argument("--beyond", type=Path, help="further lines of the same languages, to judge a model on")
    parser.add_argument("--rare", type=Path, help="lines of languages with too few to train on, to judge a model on")
    arguments = parser.parse_args()
    chosen, beyond, rare = other_lines(arguments.folders)
    for path, rows in (
        (arguments.output, [*chosen, *no_language(10_000)]),
        (arguments.beyond, beyond),
        (arguments.rare, rare),
    ):
        if path is not None:
            columns = dict(zip(("text", "label", "source", "license"), map(list, zip(*rows))))
            pq.write_table(pa.table(columns), path, compression="zstd")
            counts = Counter(columns["label"])
            print(f"{path}: {len(rows)} lines, {len(counts)} labels: {dict(counts.most_common())}")


if __name__ == "__main__":
    main()
