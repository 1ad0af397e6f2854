"""Names of files and of places inside files, such that two different ones never read alike."""

import re

SEPARATOR = "!/"  # between a place and a place inside it, as in `member=a.jsonl!/line=7`
PAGE_LOCATOR = r"(?:^|!/)page=\d+$"  # regular expression: the place is a page of a document

_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
_PIECES = re.compile(rb"\\|!(?=/)")


def printable(raw: bytes) -> str:
    """A file name of any bytes as text; what is not UTF-8 becomes `\\xff`. No two names give the same text.

    A name that is UTF-8 stays as it is, unless it holds the separator or could be taken for an escaped one: only then
    are its backslashes doubled. So an escaped name always holds `\\x` and two digits, and no other name does.
    """
    try:
        text = raw.decode("utf-8")
        if SEPARATOR not in text and not _ESCAPED.search(text):
            return text
    except UnicodeDecodeError:
        pass
    return _PIECES.sub(lambda piece: rb"\\" if piece[0] == b"\\" else rb"\x21", raw).decode("utf-8", "backslashreplace")


def inside(outer: str, inner: str) -> str:
    """The locator of the place `inner` inside the place `outer`; either may be all of it, which is ""."""
    return f"{outer}{SEPARATOR}{inner}" if outer and inner else outer or inner
