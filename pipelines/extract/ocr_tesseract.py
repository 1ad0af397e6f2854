"""Tesseract, and how it finds the language of a page, since it has to be told.

1. With the packs that read the page before, if the result is confident and in the same language.
2. A strip of the page with much text is read with the pack of all Latin letters. If that is confident, the language
   of what was read names the pack. Lines that made little sense are tried in other scripts.
3. Otherwise tesseract's own detection gives rotation and script, and the strip is read in the likeliest scripts.
"""

import math
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import xxhash
from PIL import Image

from annotators.language import VERSION as LANGUAGE_VERSION
from annotators.language import identify
from pipelines.extract.layout import lay_out
from pipelines.extract.ocr_engine import LEAST_CONFIDENCE, Missing, Recognised, Render, run_bounded
from pipelines.extract.ocr_lines import Word, box_of, confidence_of, font_size, page_lines, parse_tsv, usual_height
from pipelines.extract.ocr_packs import ALONE, DETECTED_SCRIPTS, SCRIPT_PACKS, VERTICAL, debian_package, packs_of
from pipelines.extract.ocr_pictures import (
    as_pgm,
    busiest_strip,
    is_blank,
    read_picture,
    stacked,
    turned,
    usual_dpi,
    without_leaders,
)
from pipelines.extract.page import PageContent, Unreadable
from schemas.languages import LANGUAGES

_GOOD = 0.85  # confidence from which on nothing else is tried
_NO_TEXT = "no text was recognised"
_FAIR = 0.75  # confidence from which on a strip tells the language
_DOUBTFUL, _DOUBTFUL_LINES = 0.7, 10  # confidence of lines that may be in another script; how many are tried
_LEAST_PROBE = 0.65  # confidence of such lines in another script from which on the page is read in it
_CLOSE = 0.05  # confidence: of two scripts so close, both read the page
_SURE_LANGUAGE = 0.5  # score of a language that names the pack
_FEW_LETTERS = 40  # too few to tell the language
_SMALL_TEXT = 22  # pixels of the font's size; smaller letters are rendered larger and read again
_TEXT_HAS_SPACES = {
    pack
    for script in ("Hang", "Thai", "Laoo", "Khmr", "Mymr")
    for label in LANGUAGES
    if LANGUAGES[label].script == script
    for pack in packs_of(label)
}  # in tables of these packs syllables are words
_NO_LANGUAGE = 0.85  # of the confidence, where the text is in no language that we know
_LATIN_FIRST = 0.1  # confidence by which another script must be better where none is sure
_SKEW = 0.8  # degrees from which on a page is turned straight and read again
_LONG_LINE, _LONG_LINES = 5, 4  # words of a line, and such lines, that tell the skew of a page
_OTHER_SCRIPTS = ("Latn", "Cyrl", "Hans", "Hant", "Jpan", "Hang", "Arab", "Deva", "Grek", "Hebr", "Thai")
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
            left, top, right, bottom = box_of(words)
            letters += length
            tall += length * (length > 2 and bottom - top > 2 * (right - left))
        return 2 * tall > letters


def _language(reading: _Reading) -> str | None:
    """The language of what was read with some confidence, if there is enough of it to be sure.

    The one place where recognition asks the annotator: for the columns `language` and `language_score` of a text.
    """
    text = " ".join(word.text for line in reading.lines for word in line if word.confidence >= _FAIR)
    if sum(map(str.isalpha, text)) < _FEW_LETTERS:
        return None
    answer = identify([text])
    label: str = answer["language"][0]
    return label if label in LANGUAGES and answer["language_score"][0] >= _SURE_LANGUAGE else None


def find_tesseract(languages: Sequence[str]) -> "Tesseract | Missing":
    program = which("tesseract")
    if program is None:
        wanted = " ".join(map(debian_package, languages)) or "tesseract-ocr-all"
        return Missing(f"character recognition needs tesseract: apt install tesseract-ocr {wanted}")
    try:
        listed = run_bounded([program, "--list-langs"], b"", 30.0).decode("utf-8", "replace")
        version = run_bounded([program, "--version"], b"", 30.0).decode("utf-8", "replace").split("\n", 1)[0].strip()
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


def _is_language(reading: _Reading) -> bool:
    """Whether the text is in one of the 119 languages, or too short to say."""
    letters = sum(map(str.isalpha, "".join(word.text for line in reading.lines for word in line)))
    return letters < 3 * _FEW_LETTERS or _language(reading) is not None


def _skew(lines: Sequence[Sequence[Word]]) -> float:
    """Degrees by which most lines fall to the right."""
    angles = [
        math.degrees(math.atan2(line[-1].bottom - line[0].bottom, line[-1].right - line[0].left))
        for line in lines
        if len(line) >= _LONG_LINE
    ]
    return statistics.median(angles) if len(angles) >= _LONG_LINES else 0.0


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
        """Version, a hash of the names and sizes of the packs that may be used, and what tells the language."""
        packs = sorted({*self.languages, "osd"} & self.installed.keys() if self.languages else self.installed)
        told = []
        for pack in packs:
            with suppress(OSError):
                told.append(f"{pack} {(self.folder / f'{self.installed[pack]}.traineddata').stat().st_size}")
        models = xxhash.xxh3_64_hexdigest("\n".join(told).encode())
        return " ".join([self.version, *self.languages, models, f"language {LANGUAGE_VERSION}"])

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
        if is_blank(picture):
            return Recognised([], 0.0, known, 0, width, height, _NO_TEXT)
        picture = without_leaders(picture, dpi)
        best = self._read_upright(picture, dpi, known, clock)
        if best.confidence < _GOOD and best.lines and _text_size(best) < _SMALL_TEXT:
            larger = without_leaders(read_picture(render(dpi=2 * dpi)), 2 * dpi)
            again = self._recognise(turned(larger, best.rotation), 2 * dpi, best.packs, clock)
            if again.confidence > best.confidence:
                best = replace(again, rotation=best.rotation)
        elif best.confidence < _GOOD and best.lines:
            again = self._recognise(turned(picture, best.rotation), dpi, best.packs, clock, psm=4)
            if again.confidence > best.confidence + 0.05:  # the page was taken for columns, and is none
                best = replace(again, rotation=best.rotation)
        if not best.sideways and abs(skew := _skew(best.lines)) >= _SKEW:
            straight = turned(picture, best.rotation).rotate(skew, Image.Resampling.BILINEAR, fillcolor=255)
            again = self._recognise(straight, dpi, best.packs, clock)
            if again.confidence > best.confidence - 0.05:
                best = replace(again, rotation=best.rotation)
        if best.rotation in (90, 270):
            width, height = height, width
        scale = best.picture[0] / max(width, 1.0)
        content = PageContent(1, width, height, [page_lines(best.lines, scale)])
        turn = f", turned by {best.rotation} degrees" if best.rotation else ""
        reason = f"recognised with {'+'.join(best.packs)}{turn}" if best.lines else _NO_TEXT
        confidence = best.confidence if _is_language(best) else _NO_LANGUAGE * best.confidence
        packs = best.packs if confidence >= LEAST_CONFIDENCE else known
        return Recognised(lay_out(content), round(confidence, 4), packs, best.rotation, width, height, reason)

    def _read_upright(self, picture: Image.Image, dpi: int, known: tuple[str, ...], clock: _Clock) -> _Reading:
        """The best reading of the page, turned and with the packs it needs."""
        if first := self.languages or known:
            reading = self._recognise(picture, dpi, first, clock)
            as_expected = not reading.sideways or reading.packs[0] in VERTICAL
            if reading.confidence >= _GOOD and as_expected and (self.languages or self._fits(reading)):
                return reading
        elif latin := self._script_packs("Latn"):
            reading = self._recognise(busiest_strip(picture), dpi, latin, clock)
        else:
            reading = _Reading([], 0.0, ())
        if not self.languages and self._is_sure(reading):
            reading = self._in_its_language(picture, dpi, reading, clock)
            if reading.confidence < _GOOD:
                reading = self._with_other_letters(picture, dpi, reading, clock)
            if reading.confidence >= _FAIR:
                return reading
        first_reading = reading
        rotation, scripts = self._detect(picture, dpi, clock)
        if rotation is None:
            rotation = self._guess_rotation(picture, dpi, clock)
            if rotation is None:
                return reading if reading.picture == picture.size else replace(reading, lines=[], confidence=0.0)
        readings = [reading] if reading.picture == picture.size and not reading.sideways else []
        if self.languages:
            reading = self._recognise(turned(picture, rotation), dpi, self.languages, clock)
            return max([*readings, replace(reading, rotation=rotation)], key=lambda each: each.confidence)
        strip = self._read_strip(turned(picture, rotation), dpi, scripts, clock)
        if rotation and not self._is_sure(strip):  # letters that the detection does not know have misled it
            upright = self._read_strip(picture, dpi, scripts, clock)
            if upright.confidence > strip.confidence:
                strip, rotation = upright, 0
        if not self._is_sure(strip) and scripts[0] in ("Jpan", "Hans", "Hant"):
            vertical = self._read_vertical(turned(picture, rotation), dpi, clock)
            if vertical and vertical.confidence > strip.confidence:
                return replace(vertical, rotation=rotation)
        reading = self._in_its_language(turned(picture, rotation), dpi, strip, clock)
        readings.append(replace(reading, rotation=rotation))
        if reading.confidence < min(_FAIR, first_reading.confidence) and not first_reading.sideways:
            readings.append(self._in_its_language(picture, dpi, first_reading, clock))  # the detection was wrong
        return max(readings, key=lambda each: each.confidence)

    def _in_its_language(self, picture: Image.Image, dpi: int, reading: _Reading, clock: _Clock) -> _Reading:
        """The page read with the packs for the language of `reading`, of a part of it or with other packs."""
        for _ in range(2):
            packs = self._packs_for(reading)
            if reading.picture == picture.size and reading.packs == packs:
                break
            reading = self._recognise(picture, dpi, packs, clock)
        return reading

    def _with_other_letters(self, picture: Image.Image, dpi: int, reading: _Reading, clock: _Clock) -> _Reading:
        """The page read again if lines that made little sense turn out to be in another script."""
        doubtful = sorted((line for line in reading.lines if confidence_of(line) < _DOUBTFUL), key=confidence_of)
        letters = sum(len(word.text) for line in doubtful for word in line)
        if 10 * letters < sum(len(word.text) for line in reading.lines for word in line):
            return reading
        doubt = confidence_of(word for line in doubtful[:_DOUBTFUL_LINES] for word in line)
        cut = stacked(picture, map(box_of, doubtful[:_DOUBTFUL_LINES]))
        packs = [self._script_packs(script)[:1] for script in _OTHER_SCRIPTS[1:]]
        probes = [self._recognise(cut, dpi, pack, clock, 6) for pack in packs if pack and pack[0] not in reading.packs]
        probes.sort(key=lambda each: -each.confidence)
        least = max(_LEAST_PROBE, doubt + 0.1, probes[0].confidence - _CLOSE) if probes else 1.0
        likely = [self._packs_for(probe) for probe in probes[:2] if probe.confidence >= least]
        again = [self._recognise(picture, dpi, each, clock) for each in likely]
        return max([reading, *again], key=lambda each: each.confidence)

    def _recognise(
        self, picture: Image.Image, dpi: int, packs: tuple[str, ...], clock: _Clock, psm: int = 3
    ) -> _Reading:
        if packs[0] in VERTICAL:
            psm = 5
        names = "+".join(self.installed[pack] for pack in packs)
        options = ["-l", names, "--dpi", str(dpi), "--psm", str(psm), "-c", "tessedit_create_tsv=1"]
        if packs[0] in _TEXT_HAS_SPACES:
            with TemporaryDirectory(prefix="sluice-") as folder:
                page = Path(folder) / "page"
                both = [self.program, "stdin", str(page), *options, "-c", "tessedit_create_txt=1"]
                run_bounded(both, as_pgm(picture), clock.left())
                table, text = (page.with_suffix(suffix).read_bytes() for suffix in (".tsv", ".txt"))
        else:
            table, text = run_bounded([self.program, "stdin", "stdout", *options], as_pgm(picture), clock.left()), b""
        lines = parse_tsv(table.decode("utf-8", "replace"), text.decode("utf-8", "replace"))
        confidence = confidence_of(word for words in lines for word in words)
        return _Reading(lines, confidence, packs, picture=picture.size)

    def _detect(self, picture: Image.Image, dpi: int, clock: _Clock) -> tuple[int | None, tuple[str, ...]]:
        """Degrees by which the page must be turned clockwise, None if nobody knows, and scripts to try."""
        if "osd" not in self.installed:
            return None, _OTHER_SCRIPTS
        command = [self.program, "stdin", "stdout", "--psm", "0", "-l", "osd", "--dpi", str(dpi)]
        try:
            told = run_bounded(command, as_pgm(picture), clock.left()).decode("utf-8", "replace")
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

    def _guess_rotation(self, picture: Image.Image, dpi: int, clock: _Clock) -> int | None:
        """Degrees by which a strip reads best, for pages with too few letters for tesseract's own detection.

        None if nothing on the page can be taken for a letter.
        """
        packs = self.languages or self._script_packs("Latn")
        if not packs:
            return 0
        strips = {turn: busiest_strip(turned(picture, turn)) for turn in (0, 180, 90, 270)}
        readings = {turn: self._recognise(strip, dpi, packs, clock) for turn, strip in strips.items()}
        best = max(readings, key=lambda turn: readings[turn].confidence)
        if not readings[best].lines:
            return None
        return best if readings[best].confidence >= _FAIR else 0

    def _read_strip(self, picture: Image.Image, dpi: int, scripts: tuple[str, ...], clock: _Clock) -> _Reading:
        """A strip of a page that is upright, read in one script after the other until one is the right one."""
        strip = busiest_strip(picture)
        readings = []
        letters = 0
        for script in (*scripts, *(script for script in SCRIPT_PACKS if script not in scripts)):
            if script not in scripts and letters < _FEW_LETTERS:
                break  # so little on the page is hardly text
            if packs := self._script_packs(script):
                reading = self._recognise(strip, dpi, packs[:1], clock)
                if self._is_sure(reading):
                    return self._simplified_or_not(strip, dpi, reading, clock)
                letters = max(letters, sum(len(word.text) for line in reading.lines for word in line))
                readings.append((reading.confidence + _LATIN_FIRST * (script == "Latn"), reading))
        if not readings:
            packages = debian_package(SCRIPT_PACKS[scripts[0]])
            raise Unreadable("needs_ocr", f"tesseract has no language pack for script {scripts[0]}: install {packages}")
        return max(readings, key=lambda each: each[0])[1]

    def _read_vertical(self, picture: Image.Image, dpi: int, clock: _Clock) -> _Reading | None:
        """A page written from top to bottom; None without a pack for it, or if none reads it well."""
        columns = turned(busiest_strip(turned(picture, 90)), 270)
        pairs = (VERTICAL[begin : begin + 2] for begin in range(0, len(VERTICAL), 2))
        packs = [pack for pair in pairs for pack in [each for each in pair if each in self.installed][:1]]
        probes = [self._recognise(columns, dpi, (pack,), clock) for pack in packs]
        best = max(probes, key=lambda each: each.confidence, default=None)
        if best is None or best.confidence < _FAIR:
            return None
        return self._recognise(picture, dpi, best.packs, clock)

    def _simplified_or_not(self, strip: Image.Image, dpi: int, reading: _Reading, clock: _Clock) -> _Reading:
        """The better reading of Chinese: the packs know the characters of only one way to write it."""
        other = {"HanS": "Hant", "chi_sim": "Hant", "HanT": "Hans", "chi_tra": "Hans"}.get(reading.packs[0])
        if other is None or not (packs := self._script_packs(other)):
            return reading
        return max(reading, self._recognise(strip, dpi, packs[:1], clock), key=lambda each: each.confidence)

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
        beside = pack not in ALONE and _LATIN_BESIDE in self.installed
        return (pack, _LATIN_BESIDE) if beside else (pack,)

    def _is_sure(self, reading: _Reading) -> bool:
        """Whether the page is upright and in the script of the packs."""
        least = _FAIR if _language(reading) else _GOOD
        return reading.confidence >= least and not reading.sideways

    def _fits(self, reading: _Reading) -> bool:
        """Whether the packs are those of the language of what they read."""
        if reading.packs[0] in VERTICAL:
            return reading.sideways
        return not reading.sideways and self._packs_for(reading) == reading.packs


def _text_size(reading: _Reading) -> float:
    return usual_height(
        [Word("".join(word.text for word in line), 0, 0, 0, 0, font_size(line)) for line in reading.lines]
    )
