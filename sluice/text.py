"""Text out of data, on a screen: it is shown, and never acts as a command to the terminal or on the order of a line."""

import re
from collections.abc import Sequence

from rich.cells import cell_len

ELLIPSIS, NEWLINE = "…", "⏎"

# Control characters, lone surrogates, line separators, and the marks that turn the direction of what follows them.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]")


def printable(text: str, limit: int = 200) -> str:
    """At most `limit` characters of `text` on one line: line feeds as ⏎, other control characters as \\x1b."""
    cut = text[:limit]
    shown = _UNSAFE.sub(_name, cut.replace("\r\n", "\n"))
    return shown + ELLIPSIS if len(text) > limit else shown


def printable_lines(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, harmless as `printable` makes them, with the line feeds that it has."""
    shown = "\n".join(printable(line, limit) for line in text[:limit].split("\n"))
    return shown + ELLIPSIS if len(text) > limit else shown


def _name(match: re.Match[str]) -> str:
    character = match.group()
    if character in "\n\u2028\u2029":
        return NEWLINE
    if character == "\t":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = (), gap: str = "  ") -> list[str]:
    """Rows of cells as lines with straight columns; the columns of `right` are set flush right."""
    widths: dict[int, int] = {}
    for row in rows:
        for column, cell in enumerate(row):
            widths[column] = max(widths.get(column, 0), cell_len(cell))
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - cell_len(cell))
            cells.append(space + cell if column in right else cell + space)
        lines.append(gap.join(cells).rstrip())
    return lines


def count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def short(number: float) -> str:
    """A large number for a person: 950, 12.3 k, 1.30 M, 4.2 B."""
    rounded = float(f"{number:.3g}")
    for unit, scale, least in (("T", 1e12, 1e12), ("B", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if abs(rounded) >= least:
            return f"{rounded / scale:.3g} {unit}" if abs(rounded) < 1000 * scale else f"{rounded / scale:,.0f} {unit}"
    return f"{number:,.0f}"
