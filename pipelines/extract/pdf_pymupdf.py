"""PDF pages through MuPDF, the default backend.

MuPDF writes the lines of a page with their boxes and fonts as JSON by itself, which takes less time than
`page.get_text()` and a fifth of `get_text("dict")`. It is not thread-safe, and hostile files can crash it or keep it
busy for hours: only the child process of `isolate` may call this module.
"""

import html
import json
import re
from collections.abc import Callable, Sequence

import pymupdf
from pymupdf import mupdf

from pipelines.extract.page import Box, Line, PageContent, Unreadable, is_mono, picture_scale

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)

# Ligatures are written out, and a glyph without a Unicode value becomes U+FFFD rather than its glyph number. Vector
# shapes wait for the end of the line in which they are drawn, so that an underline cuts no line in two.
_OPTIONS = mupdf.FzStextOptions()
_OPTIONS.flags = (
    mupdf.FZ_STEXT_PRESERVE_WHITESPACE
    | mupdf.FZ_STEXT_PRESERVE_IMAGES
    | mupdf.FZ_STEXT_CLIP
    | mupdf.FZ_STEXT_COLLECT_VECTORS
    | mupdf.FZ_STEXT_LAZY_VECTORS
)
_SCALE = 10  # MuPDF writes whole numbers: of tenths of a point
_VECTOR = re.compile(rb'\{"type":"vector"[^{}]*\}')
_ARABIC = (b"\xd8", b"\xd9", b"\xda", b"\xdb")  # the first bytes of Arabic letters in UTF-8, and of no others
_NO_WIDTH = re.compile(rb'quad="(\S+) (\S+) \1 \2 ')
_UPRIGHT = b' dir="1 0"'
_LETTER = re.compile(rb'<char c="([^"]*)" quad="(\S+) \S+ (\S+) [^"]*"')
_SAME_PLACE = 0.2  # points
_MANY_VECTORS = 1000  # from here on they are counted and cut out before the JSON is read
_MOST_RULINGS = 20_000  # a page with more is a map or a drawing
_LARGER = 1.1  # than most letters of the page: lines of text are not
_COVERED = 0.5  # of the page by images: text on it may be hidden
_DAMAGED = (RuntimeError, ValueError, mupdf.FzErrorBase)  # the text of such an error may hold the local path


def open_pdf(path: str, passwords: Sequence[str]) -> "MupdfDocument":
    """Open a file; raises Unreadable with broken_pdf, encrypted or no_pages."""
    try:
        pdf = pymupdf.open(path, filetype="pdf")
        if not pdf.is_pdf:  # MuPDF reads web pages, pictures and more, whatever their name says
            raise Unreadable("broken_pdf", "not a PDF file")
        if pdf.needs_pass and not any(pdf.authenticate(password) for password in passwords):
            tried = "none of the passwords opens the file" if passwords else "the file asks for a password"
            raise Unreadable("encrypted", tried)
        if pdf.page_count == 0:
            raise Unreadable("no_pages", "the file has no page")
        return MupdfDocument(pdf)
    except _DAMAGED as error:
        raise Unreadable("broken_pdf", f"not readable as PDF ({type(error).__name__})") from None


class MupdfDocument:
    """An open PDF; see `page.Document`."""

    def __init__(self, pdf: pymupdf.Document) -> None:
        self._pdf = pdf
        self._mono: dict[str, bool] = {}
        self._latest: tuple[int, mupdf.FzStextPage] | None = None
        self.page_count: int = pdf.page_count
        self.title = " ".join(((pdf.metadata or {}).get("title") or "").split())

    def read(self, number: int) -> PageContent:
        """The text layer of page `number`, counted from 1."""
        try:
            page = self._structured(number)
            size = page.m_internal.mediabox
            content = PageContent(number, size.x1 - size.x0, size.y1 - size.y0)
            written = _written(lambda output: mupdf.fz_print_stext_page_as_json(output, page, _SCALE))
            mended = _mended_ligatures(page) if any(byte in written for byte in _ARABIC) else {}
            places = self._parse(written, mended, content)
            _check_bold(page, content, places)
        except _DAMAGED as error:
            raise Unreadable("broken_pdf", f"page {number} is damaged ({type(error).__name__})") from None
        if content.blocks and _covered(content):
            _mark_hidden(page, content)
        return content

    def rulings(self, number: int) -> list[Box]:
        """The boxes of the drawn lines and rectangles; none on a page with very many, which is a drawing."""
        found: list[Box] = []
        try:
            block = self._structured(number).m_internal.first_block
            while block:
                if block.type == mupdf.FZ_STEXT_BLOCK_VECTOR:
                    box = block.bbox
                    found.append((box.x0, box.y0, box.x1, box.y1))
                    if len(found) > _MOST_RULINGS:
                        return []
                block = block.next
        except _DAMAGED as error:
            raise Unreadable("broken_pdf", f"page {number} is damaged ({type(error).__name__})") from None
        return found

    def render(self, number: int, dpi: int | None = None, longest_side: int | None = None, rotate: int = 0) -> bytes:
        """A page as PNG in colour; `picture_scale` bounds its pixels."""
        try:
            page = self._pdf.load_page(number - 1)
            scale = picture_scale(page.rect.width, page.rect.height, dpi, longest_side)
            matrix = pymupdf.Matrix(scale, scale).prerotate(rotate)
            picture: bytes = page.get_pixmap(matrix=matrix, alpha=False).tobytes("png")
            return picture
        except _DAMAGED as error:
            raise Unreadable("broken_pdf", f"page {number} is not drawable ({type(error).__name__})") from None

    def close(self) -> None:
        self._latest = None
        self._pdf.close()
        pymupdf.TOOLS.store_shrink(100)

    def _structured(self, number: int) -> mupdf.FzStextPage:
        """MuPDF's own structure of a page; the last one is kept, since `rulings` follows `read`."""
        if self._latest is None or self._latest[0] != number:
            self._latest = None
            page = mupdf.fz_load_page(self._pdf.this, number - 1)
            self._latest = number, mupdf.FzStextPage(page, _OPTIONS)
        return self._latest[1]

    def _parse(self, written: bytes, mended: dict[int, str], content: PageContent) -> dict[int, list[Line | None]]:
        """Fill in what MuPDF has written; returns its lines by the place of their block, None for white space."""
        content.paths = written.count(b'{"type":"vector"')
        if content.paths > _MANY_VECTORS:
            written = _VECTOR.sub(b"{}", written)
        places: dict[int, list[Line | None]] = {}
        count = 0  # of the page's lines
        for place, block in enumerate(json.loads(written.decode("utf-8", "replace"), strict=False)["blocks"]):
            kind = block.get("type")
            if kind == "text":
                raws = block["lines"]
                if mended:
                    for index, raw in enumerate(raws, count):
                        raw["text"] = mended.get(index, raw["text"])
                    count += len(raws)
                places[place] = read = [self._line(raw) for raw in raws]
                lines = [line for line in read if line is not None]
                if lines:
                    content.blocks.append(lines)
            elif kind == "image":
                content.images.append(_box(block["bbox"]))
        return places

    def _line(self, raw: dict) -> Line | None:
        text = raw["text"]
        if not text or text.isspace():
            return None
        font = raw["font"]
        name = font["name"]
        mono = self._mono.get(name)
        if mono is None:
            mono = self._mono[name] = font["family"] == "monospace" or is_mono(name)
        vertical = raw["wmode"] == 1
        box = raw["bbox"]
        turn = 0 if vertical else _turn(box["x"], box["y"], box["w"], box["h"], raw["x"], raw["y"])
        bold, italic = font["weight"] == "bold", font["style"] == "italic"
        return Line(text, _box(box), font["size"] / _SCALE, name, bold, italic, mono, vertical, turn)


def _written(write: Callable[[mupdf.FzOutput], None]) -> bytes:
    buffer = mupdf.fz_new_buffer(1 << 16)
    output = mupdf.FzOutput(buffer)
    write(output)
    output.fz_close_output()
    written: bytes = buffer.fz_buffer_extract()
    return written


def _mended_ligatures(page: mupdf.FzStextPage) -> dict[int, str]:
    """By the index of a line: its text, where MuPDF has turned the letters of a ligature.

    It puts a line that the file draws from left to right into logical order letter by letter. The letters of one glyph
    are in that order already: the first has the width, the others have none and must not come before it.
    """
    written = _written(lambda output: mupdf.fz_print_stext_page_as_xml(output, page, 0))
    mended = {}
    letters: dict[bytes, str] = {}
    for index, line in enumerate(written.split(b"<line ")[1:]):
        if not _NO_WIDTH.search(line) or _UPRIGHT not in line:
            continue
        text: list[str] = []
        waiting: list[str] = []  # letters without width, the last of them first
        place = before = 0.0  # where they stand, and where the letter before them ends
        for code, left, right in _LETTER.findall(line):
            letter = letters.get(code)
            if letter is None:
                letter = letters[code] = html.unescape(code.decode("utf-8", "replace"))
            if left == right and letter.isalpha():
                waiting.insert(0, letter)
                place = float(left)
                continue
            if waiting:
                if abs(place - before) < _SAME_PLACE or abs(place - float(right)) > _SAME_PLACE:
                    text.extend(reversed(waiting))
                    text.append(letter)
                else:  # they belong to the letter that follows
                    text.append(letter)
                    text.extend(waiting)
                waiting = []
            else:
                text.append(letter)
            before = float(right)
        mended[index] = "".join([*text, *reversed(waiting)])
    return mended


def _turn(left: int, top: int, width: int, height: int, x: int, y: int) -> int:
    """How a line is turned: by the edge of its box on which its first letter begins."""
    if y <= top + 2:
        return 90
    if y >= top + height - 2 and 2 * (x - left) > width:
        return 270
    if x >= left + width - 2 and 2 * (y - top) < height:
        return 180
    return 0


def _box(raw: dict[str, int]) -> Box:
    left, top = raw["x"] / _SCALE, raw["y"] / _SCALE
    return left, top, left + raw["w"] / _SCALE, top + raw["h"] / _SCALE


def _covered(content: PageContent) -> bool:
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in content.images)
    return area > _COVERED * content.width * content.height


def _check_bold(page: mupdf.FzStextPage, content: PageContent, places: dict[int, list[Line | None]]) -> None:
    """Take back the bold of lines that only begin with it: MuPDF's JSON tells the font of the first letter alone.

    Only of lines as small as the text: larger ones are headings in any weight, and a look at a line takes as long as
    reading several.
    """
    if not any(line.bold for block in content.blocks for line in block):
        return
    sizes: dict[float, int] = {}
    for block in content.blocks:
        for line in block:
            sizes[line.size] = sizes.get(line.size, 0) + len(line.text)
    most = _LARGER * max(sizes, key=lambda size: (sizes[size], -size))
    doubtful = {
        place
        for place, lines in places.items()
        if any(line is not None and line.bold and line.size <= most for line in lines)
    }
    if not doubtful:
        return
    for place, raw_block in enumerate(page):
        if place in doubtful:
            for raw, read in zip(raw_block, places[place]):
                if read is not None and read.bold:
                    read.bold = bool(mupdf.ll_fz_font_is_bold(raw.m_internal.last_char.font))


def _mark_hidden(page: mupdf.FzStextPage, content: PageContent) -> None:
    """Say of each line whether its first letter is drawn at all: by MuPDF's flags, which its JSON leaves out."""
    drawn = mupdf.FZ_STEXT_FILLED | mupdf.FZ_STEXT_STROKED
    lines = (line for block in content.blocks for line in block)
    for block in page:
        if block.m_internal.type != mupdf.FZ_STEXT_BLOCK_TEXT:
            continue
        for raw in block:
            letter = raw.m_internal.first_char
            while letter and chr(letter.c).isspace():
                letter = letter.next
            if letter:  # a line of nothing but white space is none of `content`
                next(lines).hidden = not letter.flags & drawn
