"""Repair of mojibake: UTF-8 that was read as Windows-1252, Latin-1, Windows-1251 or the like, once or more often.

ftfy (Speer 2019) does the repair, and nothing else that it could do: entities, quotation marks, ligatures, widths, line
ends and normalisation stay as they are. It is slow, 3 MB a CPU second, and so sees only lines in which its own sign of
mojibake, a regular expression over pairs of characters, is found; RE2 looks for that at 200 MB a second.

The repair comes before `clean_text`: the second byte of `Å` is U+0085 when it is read as Latin-1, and that would become
the end of a line. Lines are repaired one by one, long ones in pieces, so that time and memory are bounded: at most 2
microseconds a character were seen on hostile text.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import re2
from ftfy import TextFixerConfig, __version__, fix_encoding
from ftfy.badness import BADNESS_RE

from pipelines.extract.refined import Chunk, Refined

FIXER = f"ftfy {__version__}"

_PIECE = 10_000  # characters of a line that are repaired together
_FIXES = TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)
_LINE = re.compile("[^\r\n]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NEXT_LINE, _ELLIPSIS = "\x85", "…"  # the same byte in Latin-1 and in Windows-1252
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]+")
_SPACE = r"[\s\x0b\x1c-\x1f\x85\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


def repair_encoding(text: str) -> Refined | None:
    """The text with its mojibake repaired, and every line that changed; None if there is nothing to repair."""
    if text.isascii():
        return None
    try:
        suspicious = _is_suspicious(text)
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\ufffd", text)
        suspicious = _is_suspicious(text)
    if not suspicious:
        return None
    chunks = []
    for begin, end in _lines(text):
        before = text[begin:end]
        if not before.isascii() and _is_suspicious(before) and (after := _repaired(before)) != before:
            chunks.append(Chunk(begin, end, before, after, True))
    if not chunks:
        return None
    pieces, done = [], 0
    for chunk in chunks:
        pieces += [text[done : chunk.begin], chunk.after]
        done = chunk.end
    return Refined("".join([*pieces, text[done:]]), chunks)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of every line, without its end; long ones in pieces, cut at spaces where there are any."""
    for line in _LINE.finditer(text):
        begin, end = line.span()
        while end - begin > _PIECE:
            cut = text.rfind(" ", begin + 1, begin + _PIECE)
            cut = cut if cut > 0 else begin + _PIECE
            yield begin, cut
            begin = cut
        yield begin, end


def _repaired(line: str) -> str:
    fixed = fix_encoding(line, _FIXES)
    if fixed == line.replace(_NEXT_LINE, _ELLIPSIS):
        return line  # nothing but line ends in the convention of mainframes
    if fixed == line:
        return line
    # A control character that comes to light is no line end.
    return _CONTROLS.sub(" ", fixed)


def _is_suspicious(text: str) -> bool:
    return _sign_of_mojibake().search(text.encode()) is not None


@cache
def _sign_of_mojibake() -> Any:
    """ftfy's sign of mojibake as RE2 spells it: without the layout of a verbose expression, with all Unicode spaces."""
    rows = [row for row in BADNESS_RE.pattern.splitlines() if not row.lstrip().startswith("#")]
    tokens = re.findall(r"\\.|\[(?:\\.|[^\]\\])*\]|\S", "\n".join(rows))
    spelled = {r"\s": _SPACE, r"\w": r"[\p{L}\p{N}_]"}
    pattern = "(?m)" + "".join(spelled.get(token, token) for token in tokens)
    return re2.compile(pattern.encode())
