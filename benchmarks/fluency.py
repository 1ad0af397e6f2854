"""How well fluency tells real lines from damaged copies of them, language by language, beside zlib.

    python -m benchmarks.fluency [--languages eng_Latn,hin_Deva] [--lines 200] [--unseen tatoeba]

Reads ../shared/data/languages/dev.parquet. With `--unseen`, every language is trained anew without the lines of that
source (8 CPU seconds each) and judged on these: text from elsewhere than the model's. Every real line of a language is
compared with every damaged copy: the figure is the area under the ROC curve (AUC), 1 where all real lines score higher.
The damage:

- shuffle: the characters of the line in random order;
- delete 15, 20, 30: every character is lost with that probability, in per cent;
- encoding: the UTF-8 bytes of a line in turn read as Latin-1, as Windows-1252, as Windows-1251, or twice as
  Windows-1252. Pure ASCII is the same in all of these; such a line's bytes are read as UTF-16. `changed` is the share
  of lines for which that was not needed, `utf-8` the AUC of those alone;
- words: the words in random order (scripts with spaces; lines of which the copy differs);
- swap: a character in seven changes places with the next, which no model was trained on.

`score` is the column `fluency_score`, `deviation` the column `fluency`. The peer is the compressed size of a line per
byte, by zlib with 32 kB of the language's training lines as its dictionary: what there is without a model.
"""

import argparse
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from annotators import fluency, fluency_train
from annotators.damage import delete_characters, misread, shuffle_characters, shuffle_words
from annotators.train import area_under_curve
from schemas.languages import LANGUAGES

DATA = Path(__file__).parents[2] / "shared" / "data" / "languages"
UNSPACED = ("Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr")  # ISO 15924
READ_AS = (("latin-1", 1), ("cp1252", 1), ("cp1251", 1), ("cp1252", 2))
RATES = (15, 20, 30)
FIGURES = ("shuffle", *(f"delete {rate}" for rate in RATES), "encoding", "utf-8", "words", "swap")
BARS = {"shuffle": 0.95, **{f"delete {rate}": 0.95 for rate in RATES}, "encoding": 0.95, "words": 0.7}


@dataclass(frozen=True)
class Copies:
    """Damaged copies of some lines; `kept`: which of the lines have one."""

    texts: list[str]
    kept: npt.NDArray[np.bool_]


def wrong_encoding(line: str, number: int) -> str:
    """The line's bytes in another encoding than they were written in; the line itself if that is the same."""
    encoding, times = READ_AS[number % len(READ_AS)]
    for _ in range(times):
        line = misread(line, "utf-8", encoding)
    return line


def swap_neighbours(line: str, random: np.random.Generator) -> str:
    characters = list(line)
    for place in np.flatnonzero(random.random(max(len(line) - 1, 0)) < 1 / 7):
        characters[place], characters[place + 1] = characters[place + 1], characters[place]
    return "".join(characters)


def damaged(lines: list[str]) -> dict[str, Copies]:
    """Copies of `lines` by the name of their damage; lines that it leaves as they are have none."""
    random = np.random.default_rng(7)
    misread_lines = [wrong_encoding(line, number) for number, line in enumerate(lines)]
    as_wide = [line.encode().decode("utf-16-le", "replace") for line in lines]
    copies = {
        "shuffle": [shuffle_characters(line, random) for line in lines],
        **{f"delete {rate}": [delete_characters(line, rate / 100, random) for line in lines] for rate in RATES},
        "encoding": [copy if copy != line else wide for line, copy, wide in zip(lines, misread_lines, as_wide)],
        "utf-8": misread_lines,
        "words": [shuffle_words(line, random) for line in lines],
        "swap": [swap_neighbours(line, random) for line in lines],
    }
    return {
        name: Copies(texts, np.array([bool(copy.strip()) and copy != line for copy, line in zip(texts, lines)]))
        for name, texts in copies.items()
    }


Score = Callable[[list[str]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Judged:
    """Scores of some lines, and of the copies of those that have one, by the name of the damage."""

    real: npt.NDArray[np.float64]
    copies: dict[str, npt.NDArray[np.float64]]
    kept: dict[str, npt.NDArray[np.bool_]]

    def areas(self, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
        """AUC of the `chosen` lines against their copies, by the name of the damage; NaN below ten of either."""
        found = {}
        for name, scores in self.copies.items():
            real, bad = self.real[chosen], scores[chosen[self.kept[name]]]
            truth = np.arange(len(real) + len(bad)) < len(real)
            enough = min(len(real), len(bad)) >= 10
            found[name] = area_under_curve(truth, np.r_[real, bad]) if enough else np.nan
        return found


def judge(lines: list[str], copies: dict[str, Copies], scores: list[Score]) -> list[Judged]:
    """What each of `scores` says of the lines and their copies."""
    kept = {name: damage.kept for name, damage in copies.items()}
    texts = {name: [text for text, keep in zip(damage.texts, damage.kept) if keep] for name, damage in copies.items()}
    return [Judged(score(lines), {name: score(bad) for name, bad in texts.items()}, kept) for score in scores]


def zlib_score(dictionary: bytes) -> Score:
    """Bytes of a line per byte of its compressed form, with a dictionary."""

    def ratio(line: str) -> float:
        packer = zlib.compressobj(9, zdict=dictionary)
        data = line.encode()
        return len(data) / len(packer.compress(data) + packer.flush())

    return lambda lines: np.array([ratio(line) for line in lines])


def column(model: fluency.Model, number: int) -> Score:
    return lambda lines: model.judge(lines)[number]


def packaged(label: str) -> fluency.Model:
    model = fluency.packaged_model(label)
    assert model is not None, label
    return model


def trained_without(rows: pl.DataFrame, source: str, label: str) -> fluency.Model:
    others = rows.filter(pl.col("source") != source)
    return fluency_train.train(others["text"].to_list(), others["source"].to_list(), label)


def row(name: str, figures: dict[str, float]) -> str:
    return f"{name:<22}" + "".join(f"{figures[key]:>11.3f}" if key in figures else " " * 11 for key in FIGURES)


def speed(lines: pl.DataFrame) -> None:
    """Prints documents of up to 1,000 characters per CPU second, of every language in turn and of one alone."""
    by_label = {label[0]: " ".join(part["text"]) for label, part in lines.group_by("label", maintain_order=True)}
    pieces = [
        (label, text[begin : begin + 1000]) for label, text in by_label.items() for begin in range(0, len(text), 500)
    ]
    labels, mixed = zip(*pieces)
    alone = [text for label, text in pieces if label == "eng_Latn"] * 40
    started = time.process_time()
    for label in by_label:
        fluency.packaged_model(label)
    print(f"\nall models loaded: {time.process_time() - started:.2f} CPU seconds")
    for name, texts, of in (("all languages", mixed, labels), ("English", alone, ["eng_Latn"] * len(alone))):
        started = time.process_time()
        fluency.fluency(list(texts), list(of))
        seconds = time.process_time() - started
        size = sum(len(text.encode()) for text in texts) / len(texts)
        print(f"{name}: {len(texts) / seconds:.0f} documents of {size:.0f} bytes per CPU second")
    started = time.process_time()
    zlib_score(" ".join(alone[:30]).encode())(list(alone))
    print(f"zlib, English: {len(alone) / (time.process_time() - started):.0f} documents per CPU second")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fluency", description=__doc__.partition("\n")[0])
    parser.add_argument("--languages", help="comma-separated labels; absent: all 119")
    parser.add_argument("--lines", type=int, default=200, help="of a language at most")
    parser.add_argument("--unseen", metavar="SOURCE", help="train without this source, and judge on it")
    arguments = parser.parse_args()
    dev, train = (pl.read_parquet(DATA / f"{part}.parquet") for part in ("dev", "train"))
    labels = arguments.languages.split(",") if arguments.languages else list(LANGUAGES)

    print(f"{'label':<22}" + "".join(f"{name:>11}" for name in FIGURES) + f"{'changed':>9}{'lines':>7}")
    kinds = ("score", "deviation", "zlib", "score, 20-60 chars", "score, over 60 chars")
    tables: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for label in labels:
        rows = train.filter(pl.col("label") == label)
        if arguments.unseen:
            of_source = rows.filter(pl.col("source") == arguments.unseen)
            if len(of_source) < 200 or len(rows) - len(of_source) < 1000:
                continue
            lines = of_source["text"].head(arguments.lines).to_list()
            model = trained_without(rows, arguments.unseen, label)
        else:
            lines = dev.filter(pl.col("label") == label)["text"].head(arguments.lines).to_list()
            model = packaged(label)
        copies = damaged(lines)
        size = np.array([len(line) for line in lines])
        dictionary = "\n".join(rows.filter(pl.col("source") != (arguments.unseen or ""))["text"]).encode()[-(1 << 15) :]
        if label.partition("_")[2] in UNSPACED:
            del copies["words"]
        score, deviation, packed = judge(lines, copies, [column(model, 0), column(model, 1), zlib_score(dictionary)])
        found = {
            "score": score.areas(size > 0),
            "deviation": deviation.areas(size > 0),
            "zlib": packed.areas(size > 0),
            "score, 20-60 chars": score.areas((size >= 20) & (size <= 60)),
            "score, over 60 chars": score.areas(size > 60),
        }
        for kind, figures in found.items():
            tables[kind].append(figures)
        changed = float(np.mean(copies["utf-8"].kept))
        print(f"{row(label, found['score'])}{changed:>9.2f}{len(lines):>7}", flush=True)

    print()
    for kind, rows in tables.items():
        values = {key: [figures[key] for figures in rows if figures.get(key, np.nan) >= 0] for key in FIGURES}
        print(row(f"mean, {kind}", {key: float(np.mean(found)) for key, found in values.items() if found}))
    for kind, rows in tables.items():
        counts = (
            f"{name} {sum(figures.get(name, np.nan) >= bar for figures in rows)}"
            f"/{sum(not np.isnan(figures.get(name, np.nan)) for figures in rows)}"
            for name, bar in BARS.items()
        )
        print(f"languages at the bar, {kind}: {', '.join(counts)}")
    if not arguments.unseen:
        speed(dev)


if __name__ == "__main__":
    main()
