"""Character recognition: a picture of a page becomes blocks of text, by tesseract or by rapidocr.

    find_engine -> Engine.read(render, width, height, packs of the page before) -> Recognised

Both engines run in a process of their own with a limit on time and memory. What they give, lines with their places
on the page, passes through the same `layout` as a text layer.

How tesseract finds the language of a page, since it has to be told:

1. With the packs that read the page before, if the result is confident and in the same language.
2. A strip of the page with much text is read with the pack of all Latin letters. If that is confident, the language
   of what was read names the pack.
3. Otherwise tesseract's own detection gives rotation and script, and the strip is read in the likeliest scripts.
"""

import io
import math
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from shutil import which
from typing import Protocol

import numpy as np
import regex
import xxhash
from PIL import Image, UnidentifiedImageError

from annotators.language import identify
from pipelines.extract.layout import lay_out
from pipelines.extract.ocr_packs import DETECTED_SCRIPTS, READS_LATIN, SCRIPT_PACKS, debian_package, packs_of
from pipelines.extract.page import Block, Line, PageContent, Unreadable
from pipelines.extract.wrapping import UNSPACED
from schemas.languages import LANGUAGES

LEAST_CONFIDENCE = 0.6
"""A page below has too many wrong letters to be of use."""

Render = Callable[..., bytes]  # render(dpi=300) -> PNG of the page


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was read. Boxes, `width` and `height` are points of the page once it is turned upright."""

    blocks: list[Block]
    confidence: float  # from 0 to 1: mean of the engine's over all letters
    packs: tuple[str, ...]  # language packs that read it, for the next page of the document
    rotation: int  # degrees clockwise by which the page had to be turned: 0, 90, 180 or 270
    width: float
    height: float
    reason: str  # in a few words how it was read

    @property
    def text(self) -> str:
        return "\n\n".join(block.text for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Missing:
    """An engine or a language pack that is not installed; the sentence names the package to install."""

    message: str


class Engine(Protocol):
    def identity(self) -> str:
        """What decides its answers besides the picture: the engine's version and its models."""
        ...

    def read(
        self, render: Render, width: float, height: float, known: Sequence[str] = (), seconds: float = 120.0
    ) -> Recognised:
        """Read a page.

        Args:
            render: gives the page as PNG at `dpi` dots per inch, or fewer.
            width, height: of the page in points.
            known: `packs` of the page before, a guess that saves the detection of the language.
            seconds: for the whole page.

        Raises:
            Unreadable: with error `timeout`, `ocr_failed` or `needs_ocr` (no pack for the script of the page); and
                whatever `render` raises.
        """
        ...


def find_engine(name: str, languages: Sequence[str] = ()) -> Engine | Missing:
    """The engine "tesseract" or "rapidocr", if it and the packs of `languages` are installed.

    `languages` are tesseract's packs, all of which read every page; without any they are chosen page by page.
    """
    if name == "rapidocr":
        from pipelines.extract.ocr_rapidocr import find_rapidocr

        return find_rapidocr(languages)
    program = which("tesseract")
    if program is None:
        wanted = " ".join(map(debian_package, languages)) or "tesseract-ocr-all"
        return Missing(f"character recognition needs tesseract: apt install tesseract-ocr {wanted}")
    try:
        listed = _run([program, "--list-langs"], b"", 30.0).decode("utf-8", "replace")
        version = _run([program, "--version"], b"", 30.0).decode("utf-8", "replace").split("\n", 1)[0].strip()
    except (Unreadable, TimeoutError):
        return Missing("tesseract is there but does not run: apt install --reinstall tesseract-ocr")
    head, *names = listed.splitlines()
    folder = match[1] if (match := re.search(r'"(.+)"', head)) else ""
    installed = {name.rpartition("/")[2]: name for name in names if name}
    absent = [pack for pack in languages if pack not in installed]
    if absent:
        packages = " ".join(map(debian_package, absent))
        return Missing(f"tesseract has no language pack {', '.join(absent)}: apt install {packages}")
    if not installed.keys() - {"osd", "equ"}:
        return Missing("tesseract has no language pack: apt install tesseract-ocr-all")
    return Tesseract(program, version, Path(folder), installed, tuple(languages))


# --- processes ---


MEMORY_BYTES = 4 << 30  # address space of tesseract; a page of 20 million pixels takes about one


def run_bounded(command: list[str], data: bytes, seconds: float, memory: int = MEMORY_BYTES) -> bytes:
    """Standard output of a process that gets `data` on its input.

    Raises TimeoutError when it takes longer and was killed with all its children, Unreadable when it dies.
    """
    name = Path(command[0]).name
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Unreadable("ocr_failed", f"{name} does not start: {error.strerror}") from None
    try:
        # The limits come before the first byte of the picture; CPU time ends it should this process be killed.
        with suppress(ProcessLookupError, AttributeError, ValueError):
            cpu = math.ceil(seconds) + 5
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu))
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        answer, _ = process.communicate(data, timeout=seconds)
    except BaseException as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError from None
        raise
    if process.returncode:
        raise Unreadable("ocr_failed", f"{name} ended with status {process.returncode}")
    return answer


_run = run_bounded


# --- pictures ---

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


def _turned(picture: Image.Image, degrees: int) -> Image.Image:
    """Turned clockwise."""
    return picture.transpose(_TURNS[degrees]) if degrees else picture


def _busiest_strip(picture: Image.Image) -> Image.Image:
    """The part of the page, over its whole width, where dark and light change most often, as they do in text."""
    size = max(int(picture.height * _STRIP), _LEAST_STRIP)
    if picture.height <= size:
        return picture
    dark = np.asarray(picture) < 128
    changes = np.concatenate([[0], np.cumsum((dark[:, 1:] != dark[:, :-1]).sum(axis=1))])
    top = int(np.argmax(changes[size:] - changes[:-size]))
    return picture.crop((0, top, picture.width, top + size))


def _as_pgm(picture: Image.Image) -> bytes:
    return f"P5 {picture.width} {picture.height} 255\n".encode() + picture.tobytes()


# --- words and lines ---


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its box in pixels; `confidence` is from 0 to 1."""

    text: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


_LEAST_WORD = 0.3  # confidence of the words of a line; less is a smudge, a picture or a rule
_WIDE_LETTER = 2.0  # heights of a line: no letter is wider, but dots that lead to a page number are read as such
_LOW_LETTER = 0.3  # of the height of a line: dots and rules
_CELL_GAP = 2.0  # heights of a line
_TIGHT, _TIGHT_CJK = 0.3, 1.0  # heights of a line: letters of scripts without spaces stand closer than that
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\u3000-\u303f\u30fb\u30fc\uff00-\uffef]")
_ASCENDERS = re.compile(r"[^acegm-suvwxyz.,;:_·…\-\u0430-\u044f]")
_DESCENDERS = re.compile(r"[gjpqy,;()\[\]{}/|@$QµçşţįęąýÿСруфцщд]")


def _line_words(words: list[Word]) -> list[Word]:
    """The words of a line without what is no text."""
    height = _usual_height(words)
    return [
        word
        for word in words
        if word.confidence >= 0.6
        or (
            word.right - word.left <= _WIDE_LETTER * height * len(word.text)
            and word.bottom - word.top >= _LOW_LETTER * height
        )
    ]


def _usual_height(words: Sequence[Word]) -> float:
    """Height of most letters of a line in pixels: the median over its letters."""
    heights = sorted((word.bottom - word.top, len(word.text)) for word in words)
    half = sum(length for _, length in heights) / 2
    for height, length in heights:
        half -= length
        if half <= 0:
            return max(height, 1.0)
    return 1.0


def confidence_of(words: Iterable[Word]) -> float:
    """Mean confidence of a letter, 0 without any."""
    weighted = letters = 0.0
    for word in words:
        weighted += word.confidence * len(word.text)
        letters += len(word.text)
    return weighted / letters if letters else 0.0


def _font_size(words: Sequence[Word]) -> float:
    """Size of a line's font in pixels, by the height of its words and the letters that are in them."""
    sizes = []
    for word in words:
        rises, hangs = bool(_ASCENDERS.search(word.text)), bool(_DESCENDERS.search(word.text))
        share = (0.92 if hangs else 0.72) if rises else (0.7 if hangs else 0.5)
        sizes.append(Word(word.text, 0.0, 0.0, 0.0, 0.0, (word.bottom - word.top) / share))
    return _usual_height(sizes)


def _pieces(words: list[Word], height: float) -> Iterator[list[Word]]:
    """Words of a line, apart where the gap is so wide that the parts belong to different cells."""
    piece = [words[0]]
    for before, word in pairwise(words):
        gap = max(word.left - before.right, before.left - word.right)  # the next word may stand on the left
        if gap > _CELL_GAP * height:
            yield piece
            piece = []
        piece.append(word)
    yield piece


def _joined(words: list[Word], height: float) -> str:
    """The text of words side by side; between letters of scripts without spaces there are none."""
    text = words[0].text
    for before, word in pairwise(words):
        gap = max(word.left - before.right, before.left - word.right, word.top - before.bottom)
        last, first = text[-1], word.text[0]
        most = _TIGHT_CJK if _CJK.match(last) and _CJK.match(first) else _TIGHT
        tight = gap < most * height and UNSPACED.match(last) and UNSPACED.match(first)
        text += word.text if tight else f" {word.text}"
    return text


def page_lines(lines: Iterable[list[Word]], scale: float) -> list[Line]:
    """Lines of words in pixels as the lines of a page; `scale` is pixels per point.

    Sizes of letters that differ little from those of most of the page are taken for the same.
    """
    found: list[Line] = []
    for words in lines:
        height = _usual_height(words)
        upright = max(word.bottom for word in words) - words[0].top
        across = max(word.right for word in words) - min(word.left for word in words)
        vertical = len(words) > 1 and upright > 3 * across
        for piece in [words] if vertical else _pieces(words, height):
            box = (
                min(word.left for word in piece) / scale,
                min(word.top for word in piece) / scale,
                max(word.right for word in piece) / scale,
                max(word.bottom for word in piece) / scale,
            )
            size = (box[2] - box[0]) if vertical else _font_size(piece) / scale
            found.append(Line(_joined(piece, height), box, size, vertical=vertical))
    return _even_sizes(found)


_SAME_SIZE = 1.25


def _even_sizes(lines: list[Line]) -> list[Line]:
    usual = _usual_height([Word(line.text, 0.0, 0.0, 0.0, 0.0, line.size) for line in lines]) if lines else 0.0
    return [
        replace(line, size=round(usual if usual / _SAME_SIZE < line.size < usual * _SAME_SIZE else line.size, 1))
        for line in lines
    ]


# --- tesseract ---

_GOOD = 0.85  # confidence from which on nothing else is tried
_FAIR = 0.75  # confidence from which on a strip tells the language
_SURE_LANGUAGE = 0.5  # score of a language that names the pack
_FEW_LETTERS = 40  # too few to tell the language
_SMALL_TEXT = 22  # pixels of the font's size; smaller letters are rendered larger and read again
_OTHER_SCRIPTS = ("Latn", "Cyrl", "Hans", "Jpan", "Hang", "Arab", "Deva", "Grek", "Hebr", "Thai")
_LATIN_BESIDE = "eng"  # the packs of most scripts read Latin letters badly, which stand in texts of every script


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one run of tesseract gave."""

    lines: list[list[Word]]
    confidence: float
    packs: tuple[str, ...]
    rotation: int = 0
    picture: tuple[int, int] = (0, 0)  # its width and height in pixels

    @property
    def sideways(self) -> bool:
        """Whether most lines run down or up the page: turned text, or vertical writing."""
        tall = letters = 0
        for words in self.lines:
            length = sum(len(word.text) for word in words)
            width = max(word.right for word in words) - min(word.left for word in words)
            height = max(word.bottom for word in words) - min(word.top for word in words)
            letters += length
            tall += length * (length > 2 and height > 2 * width)
        return 2 * tall > letters


def parse_tsv(table: str) -> list[list[Word]]:
    """Lines of words in tesseract's TSV output, without what is no text."""
    rows = (row.split("\t") for row in table.splitlines())
    words = (row for row in rows if len(row) == 12 and row[0] == "5" and row[11].strip())
    lines = []
    for _, group in groupby(words, key=lambda row: row[1:5]):
        line = []
        for row in group:
            left, top, width, height = map(int, row[6:10])
            line.append(Word(row[11].strip(), float(row[10]) / 100, left, top, left + width, top + height))
        line = _line_words(line)
        if any(letter.isalnum() for word in line for letter in word.text) and confidence_of(line) >= _LEAST_WORD:
            lines.append(line)
    return lines


def _language(reading: _Reading) -> str | None:
    """The language of what was read with some confidence, if there is enough of it to be sure."""
    text = " ".join(word.text for line in reading.lines for word in line if word.confidence >= _FAIR)
    if sum(map(str.isalpha, text)) < _FEW_LETTERS:
        return None
    answer = identify([text])
    label: str = answer["language"][0]
    return label if label in LANGUAGES and answer["language_score"][0] >= _SURE_LANGUAGE else None


class _Clock:
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Raises TimeoutError when the time is over."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class Tesseract:
    """The program `tesseract`, a process for every run."""

    def __init__(
        self, program: str, version: str, folder: Path, installed: dict[str, str], languages: tuple[str, ...]
    ) -> None:
        self.program = program
        self.version = version
        self.folder = folder
        self.installed = installed  # pack -> name by which tesseract knows it, which may have a folder before it
        self.languages = languages

    def identity(self) -> str:
        """Version, and a hash of the names and sizes of the packs that may be used."""
        packs = sorted({*self.languages, "osd"} & self.installed.keys() if self.languages else self.installed)
        told = []
        for pack in packs:
            with suppress(OSError):
                told.append(f"{pack} {(self.folder / f'{self.installed[pack]}.traineddata').stat().st_size}")
        models = xxhash.xxh3_64_hexdigest("\n".join(told).encode())
        return " ".join([self.version, *self.languages, models])

    def read(
        self, render: Render, width: float, height: float, known: Sequence[str] = (), seconds: float = 120.0
    ) -> Recognised:
        try:
            return self._read(render, width, height, tuple(known), _Clock(seconds))
        except TimeoutError:
            raise Unreadable("timeout", f"not recognised within {seconds:g} seconds") from None

    def _read(self, render: Render, width: float, height: float, known: tuple[str, ...], clock: "_Clock") -> Recognised:
        dpi = usual_dpi(width, height)
        picture = read_picture(render(dpi=dpi))
        best = self._read_upright(picture, dpi, known, clock)
        if best.confidence < _GOOD and best.lines and _text_size(best) < _SMALL_TEXT and 2 * dpi <= 2 * DPI:
            larger = read_picture(render(dpi=2 * dpi))
            again = self._recognise(_turned(larger, best.rotation), 2 * dpi, best.packs, clock)
            if again.confidence > best.confidence:
                best = replace(again, rotation=best.rotation)
        if best.rotation in (90, 270):
            width, height = height, width
        scale = best.picture[0] / max(width, 1.0)
        content = PageContent(1, width, height, [page_lines(best.lines, scale)])
        turned = f", turned by {best.rotation} degrees" if best.rotation else ""
        reason = f"recognised with {'+'.join(best.packs)}{turned}" if best.lines else "no text was recognised"
        return Recognised(lay_out(content), round(best.confidence, 4), best.packs, best.rotation, width, height, reason)

    def _read_upright(self, picture: Image.Image, dpi: int, known: tuple[str, ...], clock: _Clock) -> _Reading:
        """The best reading of the page, turned and with the packs it needs."""
        if first := self.languages or known:
            reading = self._recognise(picture, dpi, first, clock)
            if reading.confidence >= _GOOD and not reading.sideways and (self.languages or self._fits(reading)):
                return reading
        else:
            reading = self._recognise(_busiest_strip(picture), dpi, self._script_packs("Latn"), clock)
        if reading.confidence >= _FAIR and not reading.sideways and not self.languages and _language(reading):
            reading = self._in_its_language(picture, dpi, reading, clock)
            if reading.confidence >= _FAIR:
                return reading
        rotation, scripts = self._detect(picture, dpi, clock)
        readings = [reading] if reading.picture == picture.size else []
        for turn in [rotation] if rotation is not None else (0, 180, 90, 270):
            turned = _turned(picture, turn)
            if self.languages:
                reading = self._recognise(turned, dpi, self.languages, clock)
            else:
                reading = self._in_its_language(turned, dpi, self._read_strip(turned, dpi, scripts, clock), clock)
            readings.append(replace(reading, rotation=turn))
            if reading.confidence >= _GOOD:
                break
        return max(readings, key=lambda reading: reading.confidence)

    def _in_its_language(self, picture: Image.Image, dpi: int, reading: _Reading, clock: _Clock) -> _Reading:
        """The page read with the packs for the language of `reading`, of a part of it or with other packs."""
        for _ in range(2):
            packs = self._packs_for(reading)
            if reading.picture == picture.size and reading.packs == packs:
                break
            reading = self._recognise(picture, dpi, packs, clock)
        return reading

    def _recognise(self, picture: Image.Image, dpi: int, packs: tuple[str, ...], clock: _Clock) -> _Reading:
        names = "+".join(self.installed[pack] for pack in packs)
        command = [self.program, "stdin", "stdout", "-l", names, "--dpi", str(dpi), "--psm", "3"]
        table = _run([*command, "-c", "tessedit_create_tsv=1"], _as_pgm(picture), clock.left())
        lines = parse_tsv(table.decode("utf-8", "replace"))
        confidence = confidence_of(word for words in lines for word in words)
        return _Reading(lines, confidence, packs, picture=picture.size)

    def _detect(self, picture: Image.Image, dpi: int, clock: _Clock) -> tuple[int | None, tuple[str, ...]]:
        """Degrees by which the page must be turned clockwise, None if nobody knows, and scripts to try."""
        if "osd" not in self.installed:
            return None, _OTHER_SCRIPTS
        command = [self.program, "stdin", "stdout", "--psm", "0", "-l", "osd", "--dpi", str(dpi)]
        try:
            told = _run(command, _as_pgm(picture), clock.left()).decode("utf-8", "replace")
        except Unreadable:
            return None, _OTHER_SCRIPTS  # too few letters
        facts = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
        try:
            sure = float(facts["Orientation confidence"]) >= 1.0
            rotation, script = int(facts["Rotate"]), facts["Script"]
        except (KeyError, ValueError):
            return None, _OTHER_SCRIPTS
        likely = DETECTED_SCRIPTS.get(script, ())
        scripts = (*likely, *(other for other in _OTHER_SCRIPTS if other not in likely))
        return (rotation if sure and rotation in (0, 90, 180, 270) else None), scripts

    def _read_strip(self, picture: Image.Image, dpi: int, scripts: tuple[str, ...], clock: _Clock) -> _Reading:
        """A strip of a page that is upright, read in one script after the other until one is the right one."""
        strip = _busiest_strip(picture)
        readings = []
        for script in scripts:
            if packs := self._script_packs(script):
                readings.append(self._recognise(strip, dpi, packs[:1], clock))
                if readings[-1].confidence >= _FAIR and _language(readings[-1]):
                    break
        if not readings:
            packages = debian_package(SCRIPT_PACKS[scripts[0]])
            raise Unreadable("needs_ocr", f"tesseract has no language pack for script {scripts[0]}: install {packages}")
        return max(readings, key=lambda reading: reading.confidence)

    def _script_packs(self, script: str) -> tuple[str, ...]:
        """The packs to read a script with while its language is not known; the last resort is any of its languages."""
        of_languages = (pack for label in LANGUAGES if LANGUAGES[label].script == script for pack in packs_of(label))
        return self._beside_latin([SCRIPT_PACKS[script], *of_languages])

    def _packs_for(self, reading: _Reading) -> tuple[str, ...]:
        """The packs for the language of what was read; without any those that read it."""
        label = _language(reading)
        if label is None:
            return self._beside_latin(reading.packs[:1])
        return self._beside_latin(packs_of(label)) or reading.packs

    def _beside_latin(self, packs: Iterable[str]) -> tuple[str, ...]:
        """The first of the packs that is installed, and the one for Latin letters where it reads them badly."""
        pack = next((pack for pack in packs if pack in self.installed), None)
        if pack is None:
            return ()
        beside = pack not in READS_LATIN and _LATIN_BESIDE in self.installed
        return (pack, _LATIN_BESIDE) if beside else (pack,)

    def _fits(self, reading: _Reading) -> bool:
        """Whether the packs are those of the language of what they read."""
        return self._packs_for(reading) == reading.packs


def _text_size(reading: _Reading) -> float:
    return _usual_height(
        [Word("".join(word.text for word in line), 0, 0, 0, 0, _font_size(line)) for line in reading.lines]
    )
