"""Personal data: recall and precision beside datatrove and presidio, finds in text that holds none, and speed.

    python -m benchmarks.pii [--documents 1000] [--quick]

Sentences with generated names and numbers are those of ../shared/data; their kinds that have no form (names, places,
dates, ...) are looked for by nobody here. Documents are those of benchmarks.annotate. Lines of numbers that are no
personal data are made here. presidio is slow, so it gets every twentieth document and still takes minutes; `--quick`
does without it. The peers run where `build/pii` has them (see benchmarks/_pii_peers.py).
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from annotators.pii import annotate, spans
from benchmarks.annotate import batch_of, texts
from schemas.labels import PII_KINDS

ROOT = Path(__file__).parents[1]
SENTENCES = ROOT.parent / "shared" / "data" / "safety" / "pii_spans.parquet"
PEERS = ROOT / "build" / "pii" / "bin" / "python"
KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "IP_ADDRESS": "ip",
    "IBAN_CODE": "iban",
    "CREDIT_CARD": "credit_card",
}
LINES, SLOW = 40, 20  # lines of harmless numbers; every how many documents presidio reads
Found = list[set[tuple[int, int, str]]]  # begin and end in characters, for each text


def of_sluice(lines: list[str]) -> tuple[Found, float]:
    started = time.process_time()
    found = [spans(line.encode()) for line in lines]
    seconds = time.process_time() - started
    return [
        {(len(data[: one.begin].decode()), len(data[: one.end].decode()), one.kind) for one in row}
        for data, row in zip((line.encode() for line in lines), found)
    ], seconds


def of_peer(peer: str, lines: list[str]) -> tuple[Found, float] | None:
    if not PEERS.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, answers = Path(folder, "texts"), Path(folder, "answers")
        given.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [str(PEERS), str(Path(__file__).with_name("_pii_peers.py")), peer, str(given), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{peer}: {done.stderr.strip().splitlines()[-1]}")
            return None
        *rows, seconds = map(json.loads, answers.read_text().splitlines())
    return [{(begin, end, kind) for begin, end, kind in row} for row in rows], seconds


SYSTEMS: dict[str, Callable[[list[str]], tuple[Found, float] | None]] = {
    "sluice": of_sluice,
    "datatrove": lambda lines: of_peer("datatrove", lines),
    "presidio": lambda lines: of_peer("presidio", lines),
}


def touching(one: tuple[int, int, str], others: set[tuple[int, int, str]]) -> bool:
    return any(one[2] == kind and begin < one[1] and one[0] < end for begin, end, kind in others)


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def sentences() -> None:
    rows = pl.read_parquet(SENTENCES).to_dicts()
    truth: Found = [
        {(span["start"], span["end"], KINDS[span["type"]]) for span in row["spans"] if span["type"] in KINDS}
        for row in rows
    ]
    others = Counter(span["type"] for row in rows for span in row["spans"] if span["type"] not in KINDS)
    unknown = ", ".join(f"{kind} {count}" for kind, count in others.most_common())
    print(f"{len(rows)} sentences; kinds that are not looked for: {unknown}")
    head = f"{'':<12}{'kind':<13}{'there':>6}{'found':>6}{'precision':>11}{'recall':>8}"
    print(f"{head}   by overlap{'precision':>10}{'recall':>8}")
    for name, system in SYSTEMS.items():
        answer = system([row["text"] for row in rows])
        if answer is None:
            print(f"{name:<12}not installed")
            continue
        for kind in [*PII_KINDS, "all"]:
            mine = [{one for one in row if kind in (one[2], "all")} for row in answer[0]]
            there = [{one for one in row if kind in (one[2], "all")} for row in truth]
            total, wanted = sum(map(len, mine)), sum(map(len, there))
            exact = sum(len(a & b) for a, b in zip(mine, there))
            right = sum(touching(one, b) for a, b in zip(mine, there) for one in a)
            hit = sum(touching(one, a) for a, b in zip(mine, there) for one in b)
            print(
                f"{name:<12}{kind:<13}{wanted:>6}{total:>6}{share(exact, total):>11}{share(exact, wanted):>8}"
                f"{'':>13}{share(right, total):>10}{share(hit, wanted):>8}"
            )


def isbn13(dice: random.Random) -> str:
    digits = "978" + "".join(str(dice.randrange(10)) for _ in range(9))
    check = -sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits)) % 10
    return f"{digits[:3]}-{digits[3]}-{digits[4:7]}-{digits[7:]}-{check}"


def number(dice: random.Random, digits: int) -> str:
    return str(dice.randrange(10 ** (digits - 1), 10**digits))


HARMLESS: dict[str, Callable[[random.Random], str]] = {
    "dates and times": lambda dice: dice.choice(
        [
            f"{dice.randrange(1900, 2030)}-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}",
            f"{dice.randrange(1, 29):02}.{dice.randrange(1, 13):02}.{dice.randrange(1900, 2030)}",
            f"{dice.randrange(1, 13)}/{dice.randrange(1, 29)}/{dice.randrange(1900, 2030)} {dice.randrange(24)}:30:15",
            f"{dice.randrange(1900, 2000)}-{dice.randrange(2000, 2030)}",
        ]
    ),
    "versions": lambda dice: ".".join(str(dice.randrange(40)) for _ in range(dice.randrange(2, 5))),
    "user agents": lambda dice: f"Chrome/{dice.randrange(80, 140)}.0.{dice.randrange(255)}.{dice.randrange(200)}",
    "ISBN": isbn13,
    "decimals": lambda dice: f"{dice.uniform(-1000, 1000):.{dice.randrange(2, 14)}f}",
    "thousands": lambda dice: f"{dice.randrange(10**9):,}".replace(",", dice.choice(",. ")),
    "plain numbers": lambda dice: number(dice, dice.randrange(4, 20)),
    "hex": lambda dice: f"{dice.getrandbits(128):032x}",
    "UUID": lambda dice: "-".join(f"{dice.getrandbits(4 * size):0{size}x}" for size in (8, 4, 4, 4, 12)),
    "tables": lambda dice: " ".join(number(dice, dice.randrange(1, 5)) for _ in range(8)),
    "chess": lambda dice: (
        f"{dice.randrange(1, 80)}. {dice.choice('NBRQK')}{dice.choice('abcdefgh')}{dice.randrange(1, 9)}"
    ),
    "coordinates": lambda dice: f"{dice.uniform(-90, 90):.6f}, {dice.uniform(-180, 180):.6f}",
    "pages": lambda dice: f"{dice.randrange(1, 60)}({dice.randrange(1, 12)}), {number(dice, 4)}-{number(dice, 4)}",
    "code": lambda dice: f"{dice.choice('abcdef')}[{number(dice, 3)}]::f({number(dice, 5)}) @x.{dice.choice('abc')}",
}


def harmless() -> None:
    print(
        f"\n{'finds per MB where there is nothing':<36}"
        + "".join(f"{name:>12}" for name in SYSTEMS)
        + "   of sluice by kind"
    )
    for name, make in HARMLESS.items():
        dice = random.Random(name)
        lines = ["; ".join(make(dice) for _ in range(20)) for _ in range(LINES)]
        size = sum(map(len, lines)) / 1e6
        row, kinds = "", ""
        for system, find in SYSTEMS.items():
            answer = find(lines)
            row += f"{sum(map(len, answer[0])) / size:>12.1f}" if answer else f"{'-':>12}"
            if system == "sluice" and answer:
                kinds = ", ".join(f"{k} {n}" for k, n in Counter(one[2] for row in answer[0] for one in row).items())
        print(f"{name:<36}{row}   {kinds}")


def speed(count: int) -> None:
    name, text = texts()
    batch = batch_of(text, count)
    lines = batch["text"].to_pylist()
    size = sum(len(line.encode()) for line in lines) / 1e6
    print(f"\n{name}: {len(lines)} documents, {size:.1f} MB")
    print(f"{'':<12}{'documents per CPU second':>26}{'MB/s':>8}   finds per MB")
    started = time.process_time()
    labels = annotate(batch)
    seconds = time.process_time() - started
    kinds = Counter(span["kind"] for row in labels["pii"].to_pylist() for span in row)
    print(f"{'sluice':<12}{len(lines) / seconds:>26,.0f}{size / seconds:>8.1f}   {per_megabyte(kinds, size)}")
    for peer in ("datatrove", "presidio"):
        mine = lines[::SLOW] if peer == "presidio" else lines
        size = sum(len(line.encode()) for line in mine) / 1e6
        if peer in SYSTEMS and (answer := of_peer(peer, mine)):
            kinds = Counter(one[2] for row in answer[0] for one in row)
            seconds = answer[1]
            print(f"{peer:<12}{len(mine) / seconds:>26,.0f}{size / seconds:>8.1f}   {per_megabyte(kinds, size)}")


def per_megabyte(kinds: Counter[str], size: float) -> str:
    return ", ".join(f"{kind} {count / size:.1f}" for kind, count in sorted(kinds.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="without presidio")
    options = parser.parse_args()
    if options.quick:
        del SYSTEMS["presidio"]
    if SENTENCES.is_file():
        sentences()
    harmless()
    speed(options.documents)


if __name__ == "__main__":
    main()
