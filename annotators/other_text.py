"""Text for training beside the labelled lines: what `other` means, and more English.

    python -m annotators.other_text FOLDER... --output other.parquet

FOLDER holds unpacked Debian packages and checkouts of repositories:

- interface texts, MediaWiki's message files (`i18n/**/CODE.json`) and gettext catalogues (`CODE/LC_MESSAGES/*.mo`);
- running text, NTREX-128, OLDI Seed, the Tatoeba and TICO-19 sets of OPUS-MT-testsets, and the stories of Global ASP;
- words of the GATITOS lexicons, a few to a line, for languages with little text;
- the source code that CODE names, beside that of this Python's library; it is text without any language, and so are
  markup, base64 and random letters, which are made up here;
- the definitions and examples of WordNet, for English.

Rows are as in the labelled language data: text, label, source, license. Labels are the language code and script, for
example `ha_Latn`, and `zxx` for what is no language.

Of each source in other languages one document in eight is never trained on, a document being a news article, a story,
thirty lines of TICO-19 or Seed, and otherwise a line.
"""

import argparse
import ast
import base64
import gettext
import hashlib
import json
import random
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import regex

from annotators.language import NO_LANGUAGE, SCRIPTS, script_shares
from schemas.hashing import uniform
from schemas.languages import LANGUAGES

LINES = 1_600  # most of one language, of its sources alike
HELD_BACK = 1 / 8  # of the documents of each source
ENTRIES = 5  # of a lexicon in a line
BLOCK = 30  # lines of a document where the source does not say
FEWEST = 60  # a language with fewer lines teaches nothing
SHORTEST, LONGEST = 20, 700  # characters of a line

LEXICON = "gatitos"
NO_LANGUAGE_LINES = 4_000  # of each kind
CODE_LINES = 1_000  # of each kind of file; of Python four times as many

CODE = (
    ("gnulib/lib/*.c", "gnulib", "GPL-3.0-or-later"),
    ("gnulib/lib/*.h", "gnulib", "GPL-3.0-or-later"),
    ("go-1.*/src/**/*.go", "go", "BSD-3-Clause"),
    ("rustc-*/library/**/*.rs", "rust", "MIT OR Apache-2.0"),
    ("rustc-*/**/Cargo.toml", "rust", "MIT OR Apache-2.0"),
    ("java.base/java/**/*.java", "openjdk", "GPL-2.0-only WITH Classpath-exception-2.0"),
    ("mediawiki/includes/**/*.php", "mediawiki", "GPL-2.0-or-later"),
    ("mediawiki/resources/src/**/*.js", "mediawiki", "GPL-2.0-or-later"),
    ("mediawiki/resources/src/**/*.less", "mediawiki", "GPL-2.0-or-later"),
    ("mediawiki/maintenance/**/*.sql", "mediawiki", "GPL-2.0-or-later"),
)
"""Files of source code below a folder, what they are part of, and its licence."""

ENGLISH_LINES = 12_000
"""Of WordNet's definitions and examples, for words that the labelled lines of English lack: more is written in it."""

COVERED = frozenset(
    """en fr pt de ro sv da bg ru cs el uk es nl sk hr pl lt nb nn no fa sl gu lv it oc ne mr be sr lb vec as cy szl ast
    hne awa mai bho sd ga fo hi pa bn or tg yi lmo lij scn fur sc gl ca is sq li prs af mk si ur mag bs hy zh yue my ar
    ars apc arz ary acm acq aeb ajp he mt id ms tl fil ceb jv su min ban bjn pag ilo war ta te kn ml tr az uz kk ba tt
    th lo fi et hu vi km ja ko ka eu ht pap kea tpi sw""".split()
)
"""Codes of the 119 labels, whatever follows a hyphen; see OTHER_SCRIPT."""

TOO_CLOSE = frozenset(
    """sh isv simple qqq qqx mo jut aln frc map-bms gan hsn wuu lzh nan-hant nan cdo cdo-hant hak hak-hant cpx cpx-hant
    hak-hans gan-hans gan-hant wuu-hans wuu-hant cpx-hans arq avl ayl shu afb apd meo sms-x en-gb kk-latn zh-cdo
    hke hyw als nb no nn lki qqq""".split()
)
"""Codes that are varieties of one of the 119, so that calling them `other` would teach the wrong thing."""

SHORT_CODES = dict(
    pair.split("=")
    for pair in """
    amh=am bod=bo bre=br bua=bxr cha=ch chm=mhr chv=cv cor=kw div=dv dzo=dz epo=eo ewe=ee fij=fj fuc=ff ful=ff
    fuv=ff fry=fy gla=gd grn=gn gug=gn hau=ha her=hz ibo=ig ido=io ile=ie ina=ia kau=kr kik=ki kin=rw kir=ky knc=kr
    kok=gom kua=kj kas=ks kmr=ku kur=ku lat=la lin=ln lug=lg mlg=mg mon=mn mri=mi nbl=nr nde=nd ndo=ng nya=ny orm=om
    pbt=ps pus=ps que=qu run=rn sme=se smo=sm sna=sn som=so sot=st ssw=ss tah=ty tir=ti ton=to tsn=tn tso=ts tuk=tk
    twi=tw uig=ug ven=ve vol=vo wol=wo xho=xh yor=yo zul=zu san=sa toki=tok zza=diq
    """.split()
)
"""The code that the interface texts have for a language, where others give it a longer one."""

COVERED_BY_OTHERS = frozenset(label[:3] for label in LANGUAGES) | frozenset(
    """ara aze fas lav msa nep nor ori sqi swa uzb yid zho cmn hbs srp fil mey arq rki wuu ota""".split()
)
"""Their codes for the 119 labels and what is too close to them."""

OTHER_SCRIPT = frozenset({"ms-arab", "kk-arab", "tg-latn", "tt-latn", "pa-pk", "jv-java", "uz-arab", "bjn-arab"})
"""Covered languages in a script that their label does not have."""

_PLACEHOLDER = regex.compile(r"\$\d+|%\d*\$?[a-z]\b|%[A-Z_]+%?|\{\d*\}|~|_")
_MARKUP = regex.compile(r"[<>{}\[\]|@\\=]|https?:|www\.|&\w+;|\.\w{2,4}\b/")


Row = tuple[str, str, str, str]  # text, label, source, license


@dataclass(frozen=True)
class Found:
    """A line of a text in the language `code`."""

    code: str
    text: str
    source: str
    license: str
    document: str  # what is held back together

    def row(self, label: str) -> Row:
        return self.text, label, self.source, self.license


def messages(folder: Path) -> Iterator[Found]:
    """Every message in the packages below `folder`."""
    for path in sorted(folder.rglob("*.json")):
        if "i18n" in path.parts and path.name != "en.json":
            english = _strings(path.with_name("en.json"))
            for key, text in _strings(path).items():
                if text != english.get(key):
                    yield Found(path.stem, text, "mediawiki", "GPL-2.0-or-later", text)
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
                yield Found(code, text, source, licence, text)


def sentences(folder: Path) -> Iterator[Found]:
    """Every line of the sets of translated sentences below `folder`."""
    articles = [line for path in folder.rglob("DOCUMENT_IDS.tsv") for line in path.read_text("utf-8").split("\n")]
    for path in sorted(folder.rglob("newstest2019-ref.*.txt")):
        code = path.name.split(".")[1].split("-")[0]
        for text, article in zip(path.read_text("utf-8").split("\n"), articles):
            yield Found(code, text, "ntrex-128", "CC-BY-SA-4.0", article)
    seen = set()
    for path in sorted(folder.rglob("tico19-test.*")):
        code = path.suffix[1:].split("_")[0]
        if path.suffix != ".labels" and path.name not in seen:  # the same text stands beside every other language
            seen.add(path.name)
            for number, text in enumerate(path.read_text("utf-8").split("\n")):
                yield Found(code, text, "tico-19", "CC0-1.0", str(number // BLOCK))
    for path in sorted(folder.rglob("tatoeba-test-v2021-08-07.*")):
        code = path.suffix[1:].split("_")[0].rstrip("0123456789")
        if path.suffix != ".labels":
            for text in path.read_text("utf-8").split("\n"):
                yield Found(code, text, "tatoeba", "CC-BY-2.0-FR", text)
    for path in sorted(folder.rglob("seed/*_[A-Z][a-z][a-z][a-z]")):
        if path.name not in LANGUAGES:
            code, script = path.name.split("_")
            for number, text in enumerate(path.read_text("utf-8").split("\n")):
                name = code if script == "Latn" else f"{code}-{script.lower()}"  # several have a file for each of two
                yield Found(name, text, "oldi-seed", "CC-BY-SA-4.0", str(number // BLOCK))


def stories(folder: Path) -> Iterator[Found]:
    """The pages of the stories below `folder` whose licence is CC-BY or that are in the public domain."""
    for path in sorted(folder.rglob("[0-9][0-9][0-9][0-9]_*.md")):
        *pages, end = path.read_text("utf-8", "replace").split("\n##")
        licence = regex.search(r"License: \[?(CC.BY|Public Domain)\]?\s*$", end, flags=regex.MULTILINE)
        if licence:
            for page in pages[1:]:
                text = " ".join(regex.sub(r"[#*_>\[\]]", " ", page).split())
                licence_name = "CC-BY-4.0" if licence[1].startswith("CC") else "PD"
                yield Found(path.parent.name.split("-")[0], text, "storybooks", licence_name, path.name)


def lexicons(folder: Path) -> Iterator[Found]:
    """Entries of the word lists below `folder`, from all over the alphabet in every line."""
    for path in sorted(folder.rglob("gatitos/*_en.tsv")):
        entries = [line.split("\t")[0] for line in path.read_text("utf-8").split("\n") if "\t" in line]
        lines = len(entries) // ENTRIES
        for number in range(lines):
            text = " ".join(entries[number : lines * ENTRIES : lines])
            yield Found(path.stem.removesuffix("_en").lower(), text, LEXICON, "CC-BY-4.0", text)


def english(folders: list[Path]) -> list[Row]:
    """Definitions and examples of the WordNet databases below the folders, from all over the alphabet."""
    found: set[str] = set()
    for path in [path for folder in folders for path in folder.glob("**/wordnet/data.*")]:
        for line in path.read_text("utf-8").split("\n"):
            found.update(piece.strip(' "') for piece in line.partition(" | ")[2].split("; "))
    lines = sorted(line for line in found if SHORTEST <= len(line) <= LONGEST)
    order = uniform((line.encode() for line in lines), "english").argsort()[:ENGLISH_LINES]
    return [(lines[number], "eng_Latn", "wordnet-3.0", "WordNet-3.0") for number in order]


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


def other_lines(folders: list[Path]) -> tuple[list[Row], list[Row], list[Row]]:
    """Clean lines, once each: LINES of a language at most, those held back, and all of the languages with too few.

    Lines of a lexicon stand where there is not enough text.
    """
    found: dict[str, dict[str, Found]] = {}
    for folder in folders:
        for line in (
            *messages(folder),
            *_of_others(sentences(folder)),
            *_of_others(stories(folder)),
            *lexicons(folder),
        ):
            if not _wanted(line.code):
                continue
            for text in _PLACEHOLDER.sub(" ", line.text).split("\n"):
                text = " ".join(text.split())
                if SHORTEST <= len(text) <= LONGEST and not _MARKUP.search(text):
                    found.setdefault(line.code, {}).setdefault(text.casefold(), replace(line, text=text))
    # The same line in two languages is of neither.
    shared = {key for key, count in Counter(key for lines in found.values() for key in lines).items() if count > 1}
    chosen: list[Row] = []
    beyond: list[Row] = []
    rare: list[Row] = []
    for code, lines in sorted(found.items()):
        kept = [line for key, line in lines.items() if key not in shared and not _looks_english(line.text)]
        if not kept:
            continue
        scripts = script_shares([line.text for line in kept])
        script = int(scripts.sum(axis=0).argmax())
        label = f"{_language(code)}_{(*SCRIPTS, 'Zzzz')[script]}"
        kept = [line for line, share in zip(kept, scripts) if share.argmax() == script]
        if len(kept) < FEWEST:
            rare += [line.row(label) for line in kept if line.source != LEXICON]
            continue
        draws = uniform((f"{line.source} {line.document}".encode() for line in kept), "other document")
        order = [kept[number] for number in uniform((line.text.encode() for line in kept), "other").argsort()]
        back = {id(line) for line, draw in zip(kept, draws) if draw < HELD_BACK and line.source != LEXICON}
        beyond += [line.row(label) for line in order if id(line) in back]
        sources: dict[str, list[Found]] = {}
        for line in order:
            if id(line) not in back:
                sources.setdefault(line.source, []).append(line)
        entries = sources.pop(LEXICON, [])
        room = LINES
        for number, lines_of_source in enumerate(sorted(sources.values(), key=len)):
            take = lines_of_source[: room // (len(sources) - number)]
            room -= len(take)
            chosen += [line.row(label) for line in take]
        chosen += [line.row(label) for line in entries[:room]]
    return chosen, beyond, rare


def _of_others(lines: Iterable[Found]) -> Iterator[Found]:
    """The lines in none of the 119, by the codes that the interface texts have for their languages."""
    for line in lines:
        if line.code not in COVERED_BY_OTHERS:
            language, hyphen, script = line.code.partition("-")
            yield replace(line, code=SHORT_CODES.get(language, language) + hyphen + script)


_ENGLISH = frozenset("the of and to is for this that you are with not from your be can was by have".split())


def _looks_english(line: str) -> bool:
    words = regex.findall(r"\p{L}+", line.lower())
    return len(words) >= 4 and sum(word in _ENGLISH for word in words) * 4 >= len(words)


_CODE = regex.compile(r"^[^#]*[=(\[{]")
_COMMENT = regex.compile(r"/\*[\s\S]*?\*/|(?<!:)//.*|(?m:^\s*(?:--|#\s).*)")


_SPELLINGS: tuple[Callable[[bytes], str], ...] = (
    lambda raw: base64.b64encode(raw).decode(),
    bytes.hex,
    lambda raw: base64.b32encode(raw).decode(),
    lambda raw: " ".join(base64.urlsafe_b64encode(raw[at : at + 9]).decode() for at in range(0, len(raw), 9)),
)


@cache
def _code_lines(file: Path) -> list[str]:
    """The lines of a file without comments, and in Python without text that stands by itself, as docstrings do."""
    content = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix != ".py":
        return [line for line in _COMMENT.sub("", content).split("\n") if line.strip()]
    lines = content.split("\n")
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return [line for line in lines if _CODE.search(line)]


def code(folders: list[Path], dice: random.Random) -> Iterator[Row]:
    """Some lines at a time of Python's library and of the files that CODE names below the folders."""
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    kinds = [(library, 4 * CODE_LINES, "python-standard-library", "PSF-2.0")]
    for pattern, source, licence in CODE:
        found = [path for folder in folders for path in sorted(folder.glob(f"**/{pattern}")) if path.is_file()]
        kinds.append((found, CODE_LINES if found else 0, source, licence))
    for paths, count, source, licence in kinds:
        for _ in range(count):
            lines = _code_lines(dice.choice(paths))
            begin = dice.randrange(max(1, len(lines) - 10))
            text = " ".join(line.strip() for line in lines[begin : begin + dice.randint(1, 8)])
            if len(text) >= SHORTEST and not _looks_english(text):
                yield text[:LONGEST], NO_LANGUAGE, source, licence


def no_language(lines: int, folders: list[Path], seed: int = 1) -> Iterator[Row]:
    """Source code, and `lines` each of base64, random letters and markup."""
    dice = random.Random(seed)
    yield from code(folders, dice)
    for number in range(lines):
        raw = hashlib.shake_256(str(number).encode()).digest(dice.randint(15, 300))
        yield _SPELLINGS[number % len(_SPELLINGS)](raw)[:LONGEST], NO_LANGUAGE, "generated", "CC0-1.0"
    letters = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(lines):
        words = ("".join(dice.choices(letters, k=dice.randint(1, 12))) for _ in range(dice.randint(4, 60)))
        yield " ".join(words)[:LONGEST], NO_LANGUAGE, "generated", "CC0-1.0"
    tags = "div span table tr td th ul li p a img href src class id style width height color px em rem http www".split()
    for _ in range(lines):
        yield (
            " ".join(
                f'<{dice.choice(tags)} {dice.choice(tags)}="{dice.choice(tags)}{dice.randint(0, 99)}">'
                for _ in range(dice.randint(3, 30))
            )[:LONGEST],
            NO_LANGUAGE,
            "generated",
            "CC0-1.0",
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m annotators.other_text", description="Text to learn languages from."
    )
    parser.add_argument("folders", type=Path, nargs="+", help="unpacked packages and checkouts")
    parser.add_argument("--output", type=Path, required=True, help="lines to train on")
    parser.add_argument(
        "--beyond", type=Path, help="lines of the same languages that are held back, to judge a model on"
    )
    parser.add_argument("--rare", type=Path, help="lines of languages with too few to train on, to judge a model on")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not folder.is_dir():
            parser.error(f"{folder}: there is no such folder")
    chosen, beyond, rare = other_lines(arguments.folders)
    for path, rows in (
        (arguments.output, [*chosen, *no_language(NO_LANGUAGE_LINES, arguments.folders), *english(arguments.folders)]),
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
