"""Mojibake: how many damaged lines come back exactly, what is wrongly changed, and what looking for it costs.

    python -m benchmarks.encoding [--lines 4000]

Clean lines in 119 languages (../shared/data) are read in a wrong encoding, once or twice, one line at a time and as
documents of 25 lines. The last table is the speed of a repair beside ftfy on every line, with the same settings.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import ftfy.bad_codecs  # noqa: F401  (registers the sloppy codecs)
import polars as pl
from ftfy import fix_encoding

from pipelines.extract.encoding import _FIXES, repair_encoding

DEV = Path(__file__).parents[2] / "shared" / "data" / "languages" / "dev.parquet"
DAMAGES = {
    "Latin-1": ["latin-1"],
    "Windows-1252": ["sloppy-windows-1252"],
    "Windows-1252, strict": ["cp1252"],  # what cannot be read so stays out
    "Windows-1251": ["sloppy-windows-1251"],
    "Windows-1250": ["sloppy-windows-1250"],
    "Windows-1254": ["sloppy-windows-1254"],
    "Mac Roman": ["macroman"],
    "Latin-1, twice": ["latin-1"] * 2,
    "Windows-1252, twice": ["sloppy-windows-1252"] * 2,
}
LINES = 25  # of a document


def damaged(text: str, encodings: list[str]) -> str | None:
    try:
        for encoding in encodings:
            text = text.encode().decode(encoding)
    except UnicodeDecodeError:
        return None
    return text


def restored(lines: list[tuple[str, str]]) -> None:
    print(f"{'restored exactly':<24}{'lines':>7}{'all':>7}   by script (the worst first)")
    for name, encodings in DAMAGES.items():
        right: dict[str, list[bool]] = defaultdict(list)
        for text, label in lines:
            broken = damaged(text, encodings)
            if broken is None or broken == text:
                continue
            found = repair_encoding(broken)
            right[label[-4:]].append(found is not None and found.text == text)
        shares = sorted((sum(row) / len(row), script) for script, row in right.items())
        count = sum(map(len, right.values()))
        told = ", ".join(f"{script} {share:.2f}" for share, script in shares[:9])
        print(f"{name:<24}{count:>7}{sum(map(sum, right.values())) / count:>7.3f}   {told}")


def speed(texts: list[str]) -> None:
    size = sum(len(text.encode()) for text in texts) / 1e6
    repairs: dict[str, Callable[[str], object]] = {
        "repair_encoding": repair_encoding,
        "ftfy on every line": lambda text: [fix_encoding(line, _FIXES) for line in text.split("\n")],
    }
    broken = [text if number % 20 else damaged(text, ["latin-1"]) or text for number, text in enumerate(texts)]
    print(f"\n{'MB per CPU second':<24}{'clean':>10}{'one document in 20 damaged':>30}")
    for name, repair in repairs.items():
        row = ""
        for given, width in ((texts, 10), (broken, 30)):
            repair(given[0])
            started = time.process_time()
            for text in given:
                repair(text)
            row += f"{size / (time.process_time() - started):>{width}.1f}"
        print(f"{name:<24}{row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4000)
    options = parser.parse_args()
    if not DEV.is_file():
        print("needs ../shared/data beside the checkout")
        return
    frame = pl.read_parquet(DEV)
    changed = [text for text in frame["text"] if repair_encoding(text) is not None]
    print(f"{frame.height} clean lines: {len(changed)} changed")
    chosen = frame.gather_every(max(1, frame.height // options.lines))
    restored(list(chosen.select("text", "label").iter_rows()))
    ordered = frame.sort("label", maintain_order=True)["text"].to_list()  # documents of one language
    speed(["\n".join(ordered[begin : begin + LINES]) for begin in range(0, len(ordered), LINES)][::2])


if __name__ == "__main__":
    main()
