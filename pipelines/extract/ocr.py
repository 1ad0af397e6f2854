"""Character recognition: a picture of a page becomes blocks of text, by tesseract or by rapidocr.

    find_engine -> Engine.read(render, width, height, packs of the page before) -> Recognised

Both engines run in processes of their own with a limit on time and memory. What they give, lines with their places
on the page, passes through the same `layout` as a text layer.
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal

from pipelines.extract.ocr_engine import LEAST_CONFIDENCE, Engine, Missing, Recognised, Render
from pipelines.extract.ocr_rapidocr import find_rapidocr
from pipelines.extract.ocr_tesseract import find_tesseract

__all__ = ["LEAST_CONFIDENCE", "Engine", "Missing", "Recognised", "Render", "engine_of_process", "find_engine"]


def find_engine(name: Literal["tesseract", "rapidocr"], languages: Sequence[str] = ()) -> Engine | Missing:
    """The engine "tesseract" or "rapidocr", if it and the packs of `languages` are installed.

    `languages` are tesseract's packs, all of which read every page; without any they are chosen page by page.
    """
    return find_rapidocr(languages) if name == "rapidocr" else find_tesseract(languages)


@cache
def engine_of_process(name: Literal["tesseract", "rapidocr"], languages: tuple[str, ...] = ()) -> Engine | Missing:
    """`find_engine`, once in a process: asking tesseract for its packs takes two processes of its own.

    An engine that is installed later takes a new process to be seen.
    """
    return find_engine(name, languages)
