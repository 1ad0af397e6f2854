"""Pictures of PDF pages for the report, drawn from the source files where these are still there.

A page is untrusted: a child process draws it (see `pipelines.extract.isolate`), and what comes back is taken for a
picture only if it is a PNG of the size that was asked for.
"""

import base64
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.extract.isolate import Isolated
from pipelines.extract.listing import local_root
from schemas.errors import DataError
from schemas.recipe import Recipe

LONGEST_SIDE = 700  # pixels
SECONDS = 10.0  # for one page
_FAULTS = 3  # pages that take too long or crash the child before the rest is left alone
_PART = re.compile(r"part=\d+")  # locator of a file that became several documents
_JPEG_QUALITY, _COLOURS = 70, 24


@dataclass(frozen=True)
class Picture:
    """A page as a data URI, or a note on why there is none; one of them is empty."""

    uri: str
    note: str = ""


def draw_pages(recipe: Recipe, pages: Iterable[tuple[str, str, str, int]]) -> list[Picture]:
    """A picture of each page, given as (source, path, locator, page number)."""
    found: list[Picture] = []
    faults = 0
    for source, path, locator, number in pages:
        file = _find(recipe, source, path, locator)
        if isinstance(file, Picture):
            found.append(file)
        elif faults >= _FAULTS:
            found.append(Picture("", "not drawn, since other pages took too long"))
        else:
            picture, fault = _draw(recipe, file, number)
            faults += fault
            found.append(picture)
    return found


def _find(recipe: Recipe, source: str, path: str, locator: str) -> Path | Picture:
    """The local file of a page."""
    root = next((local_root(known) for known in recipe.sources if known.name == source), None)
    if root is None:
        return Picture("", "the source is not on this machine")
    if locator and not _PART.fullmatch(locator):
        return Picture("", "the file lies inside an archive")
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        return Picture("", "the file lies outside its source")
    file = root if root.is_file() else root / relative
    try:
        with file.open("rb") as handle:
            handle.read(1)
    except (OSError, ValueError):
        return Picture("", "the file is gone")
    return file.resolve()


def _draw(recipe: Recipe, file: Path, number: int) -> tuple[Picture, bool]:
    """The picture, and whether drawing it took too long or crashed the child."""
    options = recipe.extract
    request = {
        "path": str(file),
        "backend": options.pdf_backend,
        "passwords": options.passwords,
        "number": number,
        "longest_side": LONGEST_SIDE,
    }
    try:
        with Isolated() as isolated:
            answer, data = isolated.ask("pdf_render", request, seconds=min(SECONDS, options.page_seconds))
    except DataError as error:
        return Picture("", str(error)), True
    if "error" in answer:
        return Picture("", f"cannot be drawn: {answer['message']}"), answer["error"] in {"timeout", "crashed"}
    return _embed(data), False


def _embed(png: bytes) -> Picture:
    """The smaller of a JPEG and a PNG of few colours: photographs suit the one, text the other."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if max(image.size) > 2 * LONGEST_SIDE:
                return Picture("", "cannot be drawn: the picture is too large")
            plain = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return Picture("", "cannot be drawn: what came back is no picture")
    jpeg, few = io.BytesIO(), io.BytesIO()
    plain.save(jpeg, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    plain.quantize(_COLOURS, dither=Image.Dither.NONE).save(few, "PNG", optimize=True)
    kind, data = min((("jpeg", jpeg.getvalue()), ("png", few.getvalue())), key=lambda pair: len(pair[1]))
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
