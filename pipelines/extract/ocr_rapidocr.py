"""Recognition by rapidocr, PaddleOCR's models on onnxruntime: the optional extra `rapidocr`.

The models are part of its wheel (Apache-2.0; PP-OCRv6 small) and nothing is downloaded. They read simplified and
traditional Chinese, Japanese, and the European languages in Latin letters. They do not know most letters of
Vietnamese and none of Korean, Cyrillic, Arabic, Indic and other scripts, and leave them out without a word; such
lines are told by how few letters stand on their width, and lower the confidence.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.extract.layout import lay_out
from pipelines.extract.ocr_engine import Missing, Recognised, Render, run_bounded
from pipelines.extract.ocr_lines import Word, confidence_of, page_lines
from pipelines.extract.ocr_packs import OWN_PACKS, SCRIPT_PACKS
from pipelines.extract.ocr_pictures import read_picture, usual_dpi
from pipelines.extract.page import PageContent, Unreadable

_READS = {
    *(pack for label, pack in OWN_PACKS.items() if label[-4:] in ("Latn", "Hans", "Hant", "Jpan") and pack != "vie"),
    *(SCRIPT_PACKS[script] for script in ("Latn", "Hans", "Hant", "Jpan")),
}  # the letters of these packs are in its alphabet

_MEMORY_BYTES = 6 << 30  # address space; a page takes about 1.5 GB of memory
_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = f"import sys; sys.path.insert(0, {_ROOT!r}); from pipelines.extract.ocr_rapidocr import answer; answer()"
_GOOD = 0.9
_TALL = 2.0  # a line so many times as high as it is wide runs down the page
_WIDEST_LETTER = 1.2  # heights of a line's box; on a wider one letters are missing


def find_rapidocr(languages: Sequence[str] = ()) -> "RapidOcr | Missing":
    if any(importlib.util.find_spec(name) is None for name in ("rapidocr", "onnxruntime")):
        return Missing("character recognition with rapidocr needs its package: pip install 'sluice-llm[rapidocr]'")
    if unknown := [pack for pack in languages if pack not in _READS]:
        return Missing(f"rapidocr reads Latin letters, Chinese and Japanese, not {', '.join(unknown)}: use tesseract")
    return RapidOcr()


@dataclass(frozen=True, slots=True)
class RapidOcr:
    """A process for every page: starting it takes a tenth of the time of reading a page."""

    def identity(self) -> str:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("rapidocr", "onnxruntime")]
        return ", ".join(versions)

    def read(
        self, render: Render, width: float, height: float, known: Sequence[str] = (), seconds: float = 120.0
    ) -> Recognised:
        """See `Engine.read`; `known` is of no use here."""
        png = render(dpi=usual_dpi(width, height))
        read_picture(png)  # a damaged one ends here
        try:
            told = run_bounded([sys.executable, "-P", "-c", _BOOT], png, seconds, _MEMORY_BYTES)
        except TimeoutError:
            raise Unreadable("timeout", f"not recognised within {seconds:g} seconds") from None
        try:
            answer = json.loads(told)
            rotation, pixels = int(answer["rotation"]), float(answer["width"])
            words = [
                Word(str(text), float(score), float(left), float(top), float(right), float(bottom))
                for text, score, (left, top, right, bottom) in answer["lines"]
            ]
        except (ValueError, KeyError, TypeError):
            raise Unreadable("ocr_failed", "rapidocr gave no sensible answer") from None
        words = [word for word in words if word.text.strip()]
        if rotation in (90, 270):
            width, height = height, width
        confidence = confidence_of(words) * _covered(words)
        scale = pixels / max(width, 1.0)
        content = PageContent(1, width, height, [page_lines(([word] for word in words), scale)])
        turned = f", turned by {rotation} degrees" if rotation else ""
        reason = f"recognised by rapidocr{turned}" if words else "no text was recognised"
        return Recognised(lay_out(content), round(confidence, 4), (), rotation, width, height, reason)


def _covered(words: Sequence[Word]) -> float:
    """Share of the width of all lines that has as many letters as it has room for."""
    covered = total = 0.0
    for word in words:
        long, high = sorted((word.right - word.left, word.bottom - word.top), reverse=True)
        total += long
        covered += min(long, _WIDEST_LETTER * high * len("".join(word.text.split())))
    return covered / total if total else 0.0


# --- in the process of its own ---


def answer() -> None:
    """Read a PNG from standard input; write rotation, width in pixels and lines as JSON."""
    import io
    import os

    import numpy as np
    from PIL import Image

    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not write into the answer
    rapidocr = importlib.import_module("rapidocr")

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    engine = rapidocr.RapidOCR(params={**threads, "Global.log_level": "critical"})
    picture = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=["PNG"]).convert("RGB")

    def read(rotation: int) -> tuple[float, int, int, list[tuple[str, float, list[float]]]]:
        turned = picture.rotate(-rotation, expand=True)
        found = engine(np.asarray(turned)[:, :, ::-1], use_cls=False)  # BGR
        lines = []
        for text, score, corners in zip(found.txts or (), found.scores or (), found.boxes if found.txts else ()):
            across, down = corners[:, 0], corners[:, 1]
            lines.append((text, float(score), [float(v) for v in (across.min(), down.min(), across.max(), down.max())]))
        letters = sum(len(text) for text, _, _ in lines)
        confidence = sum(score * len(text) for text, score, _ in lines) / max(letters, 1)
        return confidence, rotation, turned.width, lines

    readings = [read(0)]
    lines = readings[0][3]
    letters = sum(len(text) for text, _, _ in lines)
    tall = sum(len(text) for text, _, (a, b, c, d) in lines if len(text) > 2 and d - b > _TALL * (c - a))
    if 2 * tall > letters:
        readings += [read(90), read(270)]
        readings = readings[1:]
    elif readings[0][0] < _GOOD:
        readings.append(read(180))
    _, rotation, width, lines = max(readings, key=lambda reading: reading[0])
    json.dump({"rotation": rotation, "width": width, "lines": lines}, output)
    output.close()
