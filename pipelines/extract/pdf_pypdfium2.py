"""PDF pages through PDFium, the backend under a permissive licence.

PDFium gives characters: lines come from its line breaks, cut where the gap between two words is wide. The library is
not thread-safe and reads hostile files: only the child process of `isolate` may call this module.
"""

import ctypes
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium
from pypdfium2 import PdfDocument, PdfiumError

from pipelines.extract.page import Box, Line, PageContent, Unreadable, is_mono, picture_scale

_HYPHEN = "\ufffe"  # PDFium's mark for a hyphen at the end of a line, which also stands for the line break
_WIDE_GAP = 0.85  # em: a wider one ends a line, as between the cells of a table
_BOX_HEIGHT = 1.2  # em that a letter's box is high, about
_BLOCK_GAP = 0.9  # em of space between lines; a wider one ends a block
_FIXED_PITCH, _ITALIC, _BOLD = 1 << 0, 1 << 6, 1 << 18  # flags of a font descriptor, PDF 32000-1 table 123
_BOLD_WEIGHT = 600
_INVISIBLE = pdfium.FPDF_TEXTRENDERMODE_INVISIBLE
_DEEPEST = 4  # forms inside forms that are looked into
_MOST_OBJECTS = 50_000  # of a page that are looked at for images and shapes
_MOST_RULINGS = 20_000  # a page with more is a map or a drawing
_DAMAGED = (PdfiumError, ValueError, RuntimeError, OSError)

_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_RTL_RUN = re.compile(f"{_RTL.pattern}+(?: +{_RTL.pattern}+)*")

Point = Callable[[float, float], tuple[float, float]]


def open_pdf(path: str, passwords: Sequence[str]) -> "PdfiumDocument":
    """Open a file; raises Unreadable with broken_pdf, encrypted or no_pages."""
    for password in (None, *passwords):
        try:
            pdf = PdfDocument(path, password=password)
        except OSError:
            raise Unreadable("broken_pdf", "not readable as a file") from None
        except PdfiumError as error:
            if error.err_code != pdfium.FPDF_ERR_PASSWORD:
                raise Unreadable("broken_pdf", "not readable as PDF") from None
            continue
        if len(pdf) == 0:
            pdf.close()
            raise Unreadable("no_pages", "the file has no page")
        return PdfiumDocument(pdf)
    tried = "none of the passwords opens the file" if passwords else "the file asks for a password"
    raise Unreadable("encrypted", tried)


def _title(pdf: PdfDocument) -> str:
    """The title in the file's metadata; none where it is no valid UTF-16, which is no reason to reject the file."""
    try:
        return " ".join(pdf.get_metadata_value("Title").split())
    except UnicodeDecodeError:
        return ""


class PdfiumDocument:
    """An open PDF; see `page.Document`."""

    def __init__(self, pdf: PdfDocument) -> None:
        self._pdf = pdf
        self._mono: dict[str, bool] = {}
        self.page_count: int = len(pdf)
        self.title = _title(pdf)

    def read(self, number: int) -> PageContent:
        """The text layer of page `number`, counted from 1."""
        try:
            page = self._pdf[number - 1]
        except _DAMAGED:
            raise Unreadable("broken_pdf", f"page {number} is damaged") from None
        try:
            width, height = page.get_size()
            content = PageContent(number, width, height)
            point = _upright(page)
            content.images, content.paths = _pictures(page, point)
            text_page = page.get_textpage()
            try:
                content.blocks = _blocks(list(_Lines(text_page, point, self._mono).read()))
            finally:
                text_page.close()
            return content
        except _DAMAGED:
            raise Unreadable("broken_pdf", f"page {number} is damaged") from None
        finally:
            page.close()

    def rulings(self, number: int) -> list[Box]:
        """The boxes of the drawn lines and rectangles; none on a page with very many, which is a drawing."""
        try:
            page = self._pdf[number - 1]
        except _DAMAGED:
            raise Unreadable("broken_pdf", f"page {number} is damaged") from None
        try:
            point = _upright(page)
            found: list[Box] = []
            for kind, item, matrix in _objects(page):
                if kind == pdfium.FPDF_PAGEOBJ_PATH:
                    found.extend(_turned(box, point) for box in _path_boxes(item, matrix))
                    if len(found) > _MOST_RULINGS:
                        return []
            return found
        finally:
            page.close()

    def render(self, number: int, dpi: int | None = None, longest_side: int | None = None, rotate: int = 0) -> bytes:
        """A page as PNG in colour; `picture_scale` bounds its pixels."""
        try:
            page = self._pdf[number - 1]
            width, height = page.get_size()
            scale = picture_scale(width, height, dpi, longest_side)
            bitmap = page.render(scale=scale, rotation=rotate, rev_byteorder=True, bitmap_maker=_rgb_bitmap)
            picture = _png(bitmap)
            bitmap.close()
            page.close()
            return picture
        except _DAMAGED:
            raise Unreadable("broken_pdf", f"page {number} is not drawable") from None

    def close(self) -> None:
        self._pdf.close()


class _Lines:
    """The lines of one text page."""

    def __init__(self, text_page: pypdfium2.PdfTextPage, point: Point, mono: dict[str, bool]) -> None:
        self._page = text_page.raw
        self._point = point
        self._mono = mono
        self._box = pdfium.FS_RECTF()
        self._matrix = pdfium.FS_MATRIX()
        self._name = ctypes.create_string_buffer(256)
        self._flags = ctypes.c_int()
        self._direction = (1.0, 0.0)

    def read(self) -> Iterator[Line]:
        text = _characters(self._page)
        begin = 0
        for end in (*(index for index, letter in enumerate(text) if letter in "\n\ufffe"), len(text)):
            hyphen = text[end : end + 1] == _HYPHEN
            yield from self._cells(text, begin, end, hyphen)
            begin = end + 1

    def _cells(self, text: str, begin: int, end: int, hyphen: bool) -> Iterator[Line]:
        """The line text[begin:end], cut at wide gaps."""
        while begin < end and text[begin].isspace():
            begin += 1
        while end > begin and text[end - 1].isspace():
            end -= 1
        if begin == end:
            return
        first = begin
        letter_box, page, box = pdfium.FPDFText_GetLooseCharBox, self._page, self._box
        space = text.find(" ", begin, end)
        while space != -1:
            after = space + 1
            while text[after].isspace():
                after += 1
            letter_box(page, space - 1, box)
            right, bottom = box.right, box.bottom
            limit = (box.top - bottom) * (_WIDE_GAP / _BOX_HEIGHT)
            letter_box(page, after, box)
            near = -limit < box.left - right < limit and -limit < box.bottom - bottom < limit
            if not near and _far(self._letter_box(space - 1), self._letter_box(after)):
                yield self._line(text, first, space, False)
                first = after
            space = text.find(" ", after, end)
        yield self._line(text, first, end, hyphen)

    def _letter_box(self, index: int) -> Box:
        """Left, bottom, right, top of a letter as PDFium has them: the page unturned, up is positive."""
        box = self._box
        if not pdfium.FPDFText_GetLooseCharBox(self._page, index, box):
            return 0.0, 0.0, 0.0, 0.0
        return box.left, box.bottom, box.right, box.top

    def _line(self, text: str, begin: int, end: int, hyphen: bool) -> Line:
        page = self._page
        boxes = [self._letter_box(begin), self._letter_box(end - 1)]
        above, below = boxes
        if end - begin > 2:
            boxes.append(self._letter_box((begin + end) // 2))
        boxes = [box for box in boxes if box[2] > box[0] or box[3] > box[1]] or boxes[:1]
        left, bottom = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
        middle = (begin + end) // 2  # a letter that speaks for the line
        if text[middle].isspace():
            middle -= 1
        matrix = self._matrix
        size, turn = pdfium.FPDFText_GetFontSize(page, middle), 0
        if pdfium.FPDFText_GetMatrix(page, middle, matrix):
            size *= math.hypot(matrix.c, matrix.d)
            turn = self._turn(matrix.a, matrix.b)
        length = pdfium.FPDFText_GetFontInfo(page, middle, self._name, len(self._name), self._flags)
        name = self._name.raw[: max(0, min(length, len(self._name)) - 1)].decode("utf-8", "replace")
        flags = self._flags.value if length else 0
        mono = self._mono.get(name)
        if mono is None:
            mono = self._mono[name] = bool(flags & _FIXED_PITCH) or is_mono(name)
        lower = name.lower()
        bold = bool(flags & _BOLD) or "bold" in lower or pdfium.FPDFText_GetFontWeight(page, middle) >= _BOLD_WEIGHT
        italic = bool(flags & _ITALIC) or "italic" in lower or "oblique" in lower
        item = pdfium.FPDFText_GetTextObject(page, middle)
        hidden = bool(item) and pdfium.FPDFTextObj_GetTextRenderMode(item) == _INVISIBLE
        box = _turned((left, bottom, right, top), self._point)
        vertical = end - begin > 1 and turn == 0 and below[3] < (above[1] + above[3]) / 2 and below[0] < above[2]
        self._direction = {0: (1.0, 0.0), 90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}[turn]
        written = text[begin:end]
        if not written.isascii() and _RTL.search(written):
            written = self._logical(written, begin)
        if hyphen:
            written += "-"
        return Line(written, box, size, name, bold, italic, mono, vertical, turn, hidden)

    def _logical(self, text: str, begin: int) -> str:
        """A line with letters that are read from right to left, in the order in which a reader takes them.

        PDFium turns every run of such letters round. That is wrong where the file draws them in logical order: then
        they run from left to right. It is right elsewhere but for the letters of one glyph, which have one box.
        """
        parts, place = [], 0
        for run in _RTL_RUN.finditer(text):
            parts.append(text[place : run.start()])
            place = run.end()
            places = [self._along(begin + index) for index in range(run.start(), run.end())]
            letters = run[0]
            if places[0] < places[-1]:
                parts.append(letters[::-1])
                continue
            start = 0
            for index in range(1, len(letters) + 1):
                if index == len(letters) or places[index] != places[start]:
                    parts.append(letters[start:index][::-1])
                    start = index
        return "".join([*parts, text[place:]])

    def _along(self, index: int) -> float:
        """How far along the line a letter begins."""
        left, bottom, right, top = self._letter_box(index)
        x, y = self._point((left + right) / 2, (bottom + top) / 2)
        return x * self._direction[0] + y * self._direction[1]

    def _turn(self, x: float, y: float) -> int:
        """Degrees clockwise of the direction (x, y) of the text, as the reader sees the page."""
        left, top = self._point(0.0, 0.0)
        right, bottom = self._point(x, y)
        return round(math.degrees(math.atan2(bottom - top, right - left)) / 90) * 90 % 360


def _far(before: Box, behind: Box) -> bool:
    """Whether two letters of a line, as PDFium has them, stand as far apart as cells of a table do."""
    for low, high in ((0, 2), (1, 3)):
        gap = max(behind[low] - before[high], before[low] - behind[high])
        if gap > 0:
            across = (1, 3) if low == 0 else (0, 2)
            em = (before[across[1]] - before[across[0]]) / _BOX_HEIGHT
            beside = min(before[across[1]], behind[across[1]]) > max(before[across[0]], behind[across[0]])
            if beside and gap > _WIDE_GAP * max(em, 1.0):
                return True
    return False


def _characters(page: Any) -> str:
    """One character of Python for each of PDFium's, so that an index means the same in both."""
    count = pdfium.FPDFText_CountChars(page)
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (2 * count + 2))()
    written = pdfium.FPDFText_GetText(page, 0, count, buffer)
    if written == count + 1:
        text = bytes(memoryview(buffer).cast("B"))[: 2 * count].decode("utf-16-le", "replace")
        if len(text) == count:
            return text
    codes = (pdfium.FPDFText_GetUnicode(page, index) for index in range(count))
    return "".join(chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd" for code in codes)


def _upright(page: pypdfium2.PdfPage) -> Point:
    """From PDFium's coordinates to the page as a reader sees it, from its top left corner."""
    left, bottom, right, top = page.get_bbox()
    turns: dict[int, Point] = {
        0: lambda x, y: (x - left, top - y),
        90: lambda x, y: (y - bottom, x - left),
        180: lambda x, y: (right - x, y - bottom),
        270: lambda x, y: (top - y, right - x),
    }
    return turns[page.get_rotation()]


def _turned(box: Box, point: Point) -> Box:
    (left, top), (right, bottom) = point(box[0], box[3]), point(box[2], box[1])
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


Matrix = tuple[float, float, float, float, float, float]
_UNIT: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def _objects(page: pypdfium2.PdfPage) -> Iterator[tuple[int, Any, Matrix]]:
    """Kind, object and matrix of what is drawn on the page, inside forms too; at most `_MOST_OBJECTS`."""
    left = _MOST_OBJECTS

    def walk(owner: Any, count: int, get: Any, matrix: Matrix, depth: int) -> Iterator[tuple[int, Any, Matrix]]:
        nonlocal left
        for index in range(min(count, left)):
            left -= 1
            item = get(owner, index)
            kind = pdfium.FPDFPageObj_GetType(item)
            if kind != pdfium.FPDF_PAGEOBJ_FORM:
                yield kind, item, matrix
            elif depth < _DEEPEST:
                own = pdfium.FS_MATRIX()
                pdfium.FPDFPageObj_GetMatrix(item, own)
                inner = _product((own.a, own.b, own.c, own.d, own.e, own.f), matrix)
                parts = pdfium.FPDFFormObj_CountObjects(item)
                yield from walk(item, parts, pdfium.FPDFFormObj_GetObject, inner, depth + 1)

    yield from walk(page.raw, pdfium.FPDFPage_CountObjects(page.raw), pdfium.FPDFPage_GetObject, _UNIT, 0)


def _product(a: Matrix, b: Matrix) -> Matrix:
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
        a[4] * b[0] + a[5] * b[2] + b[4],
        a[4] * b[1] + a[5] * b[3] + b[5],
    )


def _moved(box: Box, matrix: Matrix) -> Box:
    a, b, c, d, e, f = matrix
    xs = [a * x + c * y + e for x in (box[0], box[2]) for y in (box[1], box[3])]
    ys = [b * x + d * y + f for x in (box[0], box[2]) for y in (box[1], box[3])]
    return min(xs), min(ys), max(xs), max(ys)


def _bounds(item: Any, matrix: Matrix) -> Box:
    corners = [ctypes.c_float() for _ in range(4)]
    pdfium.FPDFPageObj_GetBounds(item, *corners)
    box = tuple(corner.value for corner in corners)
    return _moved(box, matrix)  # type: ignore[arg-type]


def _pictures(page: pypdfium2.PdfPage, point: Point) -> tuple[list[Box], int]:
    """The boxes of the images on a page, and the number of its vector shapes."""
    images, paths = [], 0
    for kind, item, matrix in _objects(page):
        if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
            images.append(_turned(_bounds(item, matrix), point))
        elif kind == pdfium.FPDF_PAGEOBJ_PATH:
            paths += 1
    return images, paths


def _path_boxes(item: Any, matrix: Matrix) -> Iterator[Box]:
    """The boxes of the straight pieces of a path, or the box of all of it when it is one shape."""
    count = pdfium.FPDFPath_CountSegments(item)
    if count <= 5 or count > _MOST_RULINGS:
        yield _bounds(item, matrix)
        return
    x, y = ctypes.c_float(), ctypes.c_float()
    last = (0.0, 0.0)
    for index in range(count):
        segment = pdfium.FPDFPath_GetPathSegment(item, index)
        pdfium.FPDFPathSegment_GetPoint(segment, x, y)
        here = (x.value, y.value)
        if pdfium.FPDFPathSegment_GetType(segment) == pdfium.FPDF_SEGMENT_LINETO:
            straight = abs(here[0] - last[0]) < 0.5 or abs(here[1] - last[1]) < 0.5
            if straight:
                low, high = (
                    (min(here[0], last[0]), min(here[1], last[1])),
                    (max(here[0], last[0]), max(here[1], last[1])),
                )
                yield _moved((*low, *high), matrix)
        last = here


def _blocks(lines: list[Line]) -> list[list[Line]]:
    """Lines that follow each other at a usual distance."""
    blocks: list[list[Line]] = []
    for line in lines:
        if blocks:
            last = blocks[-1][-1]
            near = -0.5 * line.size <= line.box[1] - last.box[3] <= _BLOCK_GAP * line.size
            if near and line.box[0] < last.box[2] and last.box[0] < line.box[2]:
                blocks[-1].append(line)
                continue
        blocks.append([line])
    return blocks


def _rgb_bitmap(width: int, height: int, format: int, rev_byteorder: bool = True, **_: object) -> pypdfium2.PdfBitmap:
    return pypdfium2.PdfBitmap.new_native(width, height, pdfium.FPDFBitmap_BGR, rev_byteorder)


def _png(bitmap: pypdfium2.PdfBitmap) -> bytes:
    """A bitmap of three bytes a pixel as PNG."""
    rows = memoryview(bitmap.buffer).cast("B")
    packed = zlib.compressobj(1)
    data = bytearray()
    for row in range(bitmap.height):
        begin = row * bitmap.stride
        data += packed.compress(b"\0")
        data += packed.compress(rows[begin : begin + 3 * bitmap.width])
    data += packed.flush()
    head = struct.pack(">IIBBBBB", bitmap.width, bitmap.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", bytes(data)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
