"""Character recognition of pages without a usable text layer, beside tesseract run by hand with the right language.

    python -m benchmarks.ocr [--rapidocr] [--only PART-OF-NAME] [--no-degraded]

By hand is `tesseract -l LANGUAGE --dpi 300` on the page rendered at 300 dpi, once in its plain form and once more with
the pack for English beside it, of which the better counts. Ours is told no language. Figures are the F1 of character
5-grams in Unicode's form NFKC, without white space, the dots that lead to page numbers and the hyphens at the ends of
lines, and the CPU seconds of all processes for a page. The second table shows what confidence says: a page scanned
ever more coarsely, with noise.
"""

import argparse
import io
import os
import re
import resource
import subprocess
import time
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.extract.ocr import LEAST_CONFIDENCE, Engine, Missing, find_engine
from pipelines.extract.page import Document
from pipelines.extract.pdf_pymupdf import open_pdf
from pipelines.extract.wrapping import mend_hyphens

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pdf"
FILES = {  # file -> pack that a person would choose, truth
    "derived/scan-en.pdf": ("eng", "scan-en.txt"),
    "derived/scan-fr.pdf": ("fra", "scan-fr.txt"),
    "derived/scan-de-100dpi.pdf": ("deu", "scan-de-100dpi.txt"),
    "derived/scan-vi.pdf": ("vie", "scan-vi.txt"),
    "derived/scan-ru.pdf": ("rus", "scan-ru.txt"),
    "derived/scan-ja.pdf": ("jpn", "scan-ja.txt"),
    "derived/scan-ko.pdf": ("kor", "scan-ko.txt"),
    "derived/scan-zh.pdf": ("chi_sim", "scan-zh.txt"),
    "derived/tounicode-shifted-en.pdf": ("eng", "tounicode-shifted-en.txt"),
    "derived/tounicode-shifted-fr.pdf": ("fra", "tounicode-shifted-fr.txt"),
    "derived/tounicode-removed-ru.pdf": ("rus", "tounicode-removed-ru.txt"),
    "derived/tounicode-removed-ja.pdf": ("jpn", "tounicode-removed-ja.txt"),
    "docling/ocr_test.pdf": ("eng", "docling-ocr_test.md"),
    "docling/ocr_test_rotated_90.pdf": ("eng", "docling-ocr_test_rotated_90.md"),
    "docling/ocr_test_rotated_180.pdf": ("eng", "docling-ocr_test_rotated_180.md"),
    "docling/ocr_test_rotated_270.pdf": ("eng", "docling-ocr_test_rotated_270.md"),
    "ocr/linn.pdf": ("eng", "ocrmypdf-linn.txt"),
    "ocr/skew.pdf": ("eng", "ocrmypdf-linn.txt"),
    "ocr/rotated_skew.pdf": ("eng", "ocrmypdf-linn.txt"),
}
DEGRADED = {"derived/scan-fr.pdf": "scan-fr.txt", "derived/scan-en.pdf": "scan-en.txt"}
_WRAPPED = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")
_LEADERS = re.compile(r"(?:[.·…]\s*){4,}")


def likeness(truth: str, text: str) -> float:
    grams = []
    for each in (truth, text):
        plain = _WRAPPED.sub("", unicodedata.normalize("NFKC", each))
        plain = "".join(_LEADERS.sub(" ", plain).split())
        grams.append(Counter(plain[begin : begin + 5] for begin in range(len(plain) - 4)))
    return 2 * (grams[0] & grams[1]).total() / max(1, grams[0].total() + grams[1].total())


def cpu_seconds() -> float:
    """Of this process and all that it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def by_engine(document: Document, engine: Engine) -> tuple[str, float]:
    """The text of a document, headers and page numbers too, and the least confidence of a page."""
    pieces: list[str] = []
    least = 1.0
    packs: tuple[str, ...] = ()
    for number in range(1, document.page_count + 1):
        content = document.read(number)
        found = engine.read(partial(document.render, number), content.width, content.height, packs, 900.0)
        packs, least = found.packs, min(least, found.confidence)
        pieces += [block.text for block in found.blocks]
    return "\n".join(mend_hyphens(pieces)), least


def by_hand(document: Document, packs: str) -> str:
    texts = []
    for number in range(1, document.page_count + 1):
        command = ["tesseract", "stdin", "stdout", "-l", packs, "--dpi", "300"]
        environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        png = document.render(number, dpi=300)
        texts.append(subprocess.run(command, input=png, env=environment, capture_output=True, check=True).stdout)
    return b"\n".join(texts).decode("utf-8", "replace")


def compare(engines: dict[str, Engine], only: str) -> None:
    columns = "".join(f"{name:>18}{'confidence':>11}" for name in engines)
    print(f"{'file':34}{'by hand':>17}{'+eng':>17}{columns}   ours - hand")
    for file, (pack, truth_name) in FILES.items():
        if only not in file:
            continue
        truth = (SHARED / "truth" / truth_name).read_text("utf-8")
        document = open_pdf(str(SHARED / file), [])
        cells = []
        hand = []
        for packs in (pack, f"{pack}+eng"):
            if packs == "eng+eng":
                cells.append(f"{'':17}")
                continue
            begin = cpu_seconds()
            hand.append(score := likeness(truth, by_hand(document, packs)))
            seconds = (cpu_seconds() - begin) / document.page_count
            cells.append(f"{score:10.4f}{seconds:5.1f} s")
        ours = 0.0
        for name, engine in engines.items():
            begin = cpu_seconds()
            text, confidence = by_engine(document, engine)
            score, seconds = likeness(truth, text), (cpu_seconds() - begin) / document.page_count
            ours = score if name == "ours" else ours
            cells.append(f" {score:10.4f}{seconds:5.1f} s{confidence:11.2f}")
        document.close()
        print(f"{file:34}{''.join(cells)} {ours - max(hand):+9.4f}", flush=True)


def scan_as_png(scan: Image.Image, width: float, height: float, dpi: int) -> bytes:
    data = io.BytesIO()
    scan.resize((int(width * dpi / 72), int(height * dpi / 72)), Image.Resampling.BICUBIC).save(data, "PNG")
    return data.getvalue()


def degrade(engine: Engine) -> None:
    print(f"\nOne page, coarser and coarser (pages below {LEAST_CONFIDENCE} are rejected)")
    print(f"{'file':34}{'dpi':>5}{'confidence':>12}{'5-gram F1':>11}")
    noise = np.random.default_rng(0)
    for file, truth_name in DEGRADED.items():
        document = open_pdf(str(SHARED / file), [])
        content = document.read(1)
        page = Image.open(io.BytesIO(document.render(1, dpi=300))).convert("L")
        document.close()
        truth = (SHARED / "truth" / truth_name).read_text("utf-8")
        for dpi in (40, 50, 60, 75, 100):
            small = page.resize((page.width * dpi // 300, page.height * dpi // 300), Image.Resampling.LANCZOS)
            shades = np.asarray(small) + noise.normal(0, 8, (small.height, small.width))
            scan = Image.fromarray(np.clip(shades, 0, 255).astype(np.uint8))
            width, height = content.width, content.height
            found = engine.read(partial(scan_as_png, scan, width, height), width, height, (), 900.0)
            print(f"{file:34}{dpi:5}{found.confidence:12.2f}{likeness(truth, found.text):11.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rapidocr", action="store_true", help="a column for rapidocr too")
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--no-degraded", action="store_true", help="without the second table")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("needs ../shared/data beside the checkout")
        return
    engines: dict[str, Engine] = {}
    for name, engine_name in (("ours", "tesseract"), *([("rapidocr", "rapidocr")] if options.rapidocr else [])):
        engine = find_engine(engine_name)
        if isinstance(engine, Missing):
            print(engine.message)
            return
        engines[name] = engine
        print(f"{name}: {engine.identity()}")
    compare(engines, options.only)
    if not options.no_degraded:
        degrade(engines["ours"])


if __name__ == "__main__":
    main()
