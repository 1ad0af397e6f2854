"""A page's bytes as a tree: its character encoding, and a parser that hostile markup neither stops nor feeds."""

import codecs
import re

from lxml import etree
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

_CONTROLS = bytes(code for code in (*range(32), 127) if code not in b"\t\n\x0c\r")
_PROLOGUE = re.compile(
    r"\ufeff?\s*(?:<\?xml[^>]{0,200}>)?\s*(?:<!doctype[^>\[]{0,1000}\[[^\]]{0,100000}\]\s{0,100}>)?", re.I
)
_NESTING = re.compile(
    rb"</?(?:a|abbr|b|bdo|big|center|cite|code|del|div|em|font|i|ins|label|mark|q|s|section|small|span|strike|strong|sub|"
    rb"sup|tt|u|var|ul|ol|blockquote|table|tbody|tr|td|form|article)\b[^<>]*>",
    re.I,
)


def html_charset(data: bytes) -> str:
    """The character encoding of a page: byte order mark, valid UTF-8, `<meta charset>`, then statistics.

    Valid multi-byte UTF-8 outranks the declaration, because pages re-encoded by a server keep their old one
    and text in another encoding is almost never valid UTF-8 by accident.
    """
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return name
    # ISO-2022-JP is plain ASCII bytes with escapes: there, being valid UTF-8 says nothing.
    if b"\x1b" not in data:
        try:
            data.decode("utf-8")
            return "utf-8"
        except UnicodeDecodeError:
            pass
    return str(detect_encoding(data, from_html_meta=True) or "utf-8").lower()


def decode_html(data: bytes, charset: str) -> str:
    return str(bytes_to_str(data, charset, errors="replace"))


def parse_html(page: str) -> etree._Element | None:
    """The root element of a page, without comments; None where nothing is left to read.

    HTML has no entities of its own to define and the parser opens no address. libxml2 gives up at a depth of 2,048
    elements: a page that goes deeper, by tags that nobody closes, is read without the tags that only nest.
    """
    # A declaration would contradict the encoding that was found, an internal subset would become text.
    begin = match.end() if (match := _PROLOGUE.match(page)) else 0
    data = page[begin:].encode(errors="ignore").translate(None, _CONTROLS)
    root, whole = _parse(data)
    return root if whole else _parse(_NESTING.sub(b" ", data))[0]


def _parse(data: bytes) -> tuple[etree._Element | None, bool]:
    """The tree of a page, and whether all of the page is in it."""
    if not data or data.isspace():
        return None, True
    parser = etree.HTMLParser(
        encoding="utf-8",
        remove_comments=True,
        remove_pis=True,
        no_network=True,
        huge_tree=True,
        collect_ids=False,
        default_doctype=False,
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.ParserError:
        root = None
    log = parser.error_log
    return root, not (log and log[-1].type == etree.ErrorTypes.ERR_RESOURCE_LIMIT)
