"""Pictures of pages for character recognition: grey, bounded, without leaders, turned, cut to strips."""

import io
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from pipelines.extract.page import Box, Unreadable

_MOST_PIXELS = 20_000_000  # A3 at 300 dpi
_PIXELS_ALLOWED = 50_000_000  # of a picture that comes in
DPI = 300


def usual_dpi(width: float, height: float) -> int:
    """300, or fewer for a page so large that it would have too many pixels."""
    area = max(width, 1.0) * max(height, 1.0) / 72**2
    return max(1, min(DPI, math.floor((_MOST_PIXELS / area) ** 0.5)))


def read_picture(png: bytes) -> Image.Image:
    """A PNG in grey. Raises Unreadable."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.width * picture.height > _PIXELS_ALLOWED:
                raise Unreadable("ocr_failed", f"the picture has {picture.width} x {picture.height} pixels")
            return picture.convert("L")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Unreadable("ocr_failed", "the picture of the page is damaged") from None


_TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
_STRIP = 1 / 6  # of the page's height
_LEAST_STRIP = 300  # pixels
_MARGIN = 12  # pixels around lines that are cut out


def turned(picture: Image.Image, degrees: int) -> Image.Image:
    """Turned clockwise."""
    return picture.transpose(_TURNS[degrees]) if degrees else picture


def busiest_strip(picture: Image.Image) -> Image.Image:
    """The part of the page, over its whole width, where dark and light change most often, as they do in text."""
    size = max(int(picture.height * _STRIP), _LEAST_STRIP)
    if picture.height <= size:
        return picture
    dark = np.asarray(picture) < 128
    changes = np.concatenate([[0], np.cumsum((dark[:, 1:] != dark[:, :-1]).sum(axis=1))])
    top = int(np.argmax(changes[size:] - changes[:-size]))
    return picture.crop((0, top, picture.width, top + size))


_LEAST_CONTRAST = 24  # of 255


def is_blank(picture: Image.Image) -> bool:
    """Whether all of the page is of one shade."""
    darkest, lightest = picture.getextrema()
    return lightest - darkest < _LEAST_CONTRAST  # type: ignore[operator]  # a grey picture has one band


_DOT = 0.035  # inches: dots of leaders are smaller
_DOTS = 6  # of one leader at least
_MOST_SHAPES = 200_000  # on a page; more are noise


def without_leaders(picture: Image.Image, dpi: int) -> Image.Image:
    """The page without the rows of dots that lead to page numbers, which would be read as letters."""
    pixels = np.asarray(picture)
    shapes, count = ndimage.label(pixels < 160)
    if count > _MOST_SHAPES:
        return picture
    most, rows = max(3, int(_DOT * dpi)), dict[int, list[tuple[int, int, int, int]]]()
    for down, across in ndimage.find_objects(shapes):
        if down.stop - down.start <= most and across.stop - across.start <= most:
            row = (down.start + down.stop) // 2 // most
            rows.setdefault(row, []).append((across.start, across.stop, down.start, down.stop))
    clean: np.ndarray | None = None
    for dots in rows.values():
        dots.sort()
        for leader in _leaders(dots, most):
            if clean is None:
                clean = pixels.copy()
            for left, right, top, bottom in leader:
                clean[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = 255
    return picture if clean is None else Image.fromarray(clean)


def _leaders(dots: list[tuple[int, int, int, int]], most: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Runs of dots at one distance from each other."""
    run = dots[:1]
    usual = 0
    for before, dot in pairwise(dots):
        step = dot[0] - before[0]
        if step > 8 * most or (len(run) > 1 and abs(step - usual) > max(2, usual // 5)):
            if len(run) >= _DOTS:
                yield run
            run = [before] if step <= 8 * most else []
        usual = step
        run.append(dot)
    if len(run) >= _DOTS:
        yield run


def stacked(picture: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """Lines cut from a page, one below the other; boxes in pixels."""
    cuts = [picture.crop((int(left), int(top) - 2, int(right), int(bottom) + 2)) for left, top, right, bottom in boxes]
    size = max(cut.width for cut in cuts) + 2 * _MARGIN, sum(cut.height + _MARGIN for cut in cuts) + _MARGIN
    sheet = Image.new("L", size, 255)
    top = _MARGIN
    for cut in cuts:
        sheet.paste(cut, (_MARGIN, top))
        top += cut.height + _MARGIN
    return sheet


def as_pgm(picture: Image.Image) -> bytes:
    return f"P5 {picture.width} {picture.height} 255\n".encode() + picture.tobytes()
