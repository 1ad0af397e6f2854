"""The main text of an HTML page, without navigation, comments or boilerplate."""

import codecs

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

SOFT_HYPHEN = "\u00ad"


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


def read_html(data: bytes) -> dict[str, str]:
    """`text`, `title`, declared `language` and `charset` of a page; a field that is unknown is empty.

    Resiliparse takes time that grows with the square of the nesting depth and can be made to build far more
    nodes than the page has tags, so untrusted pages are read in a process of their own (see `isolate`).
    """
    charset = html_charset(data)
    tree = HTMLTree.parse(bytes_to_str(data, charset, errors="replace"))

    def main_text(main_content: bool) -> str:
        return str(
            extract_plain_text(
                tree,
                preserve_formatting=True,
                main_content=main_content,
                list_bullets=True,
                alt_texts=False,
                links=False,
                form_fields=False,
                noscript=False,
                comments=False,
            )
        )

    # On pages without any structure to go by the heuristic can throw everything away.
    text = main_text(True) or main_text(False)
    root = tree.document.query_selector("html") if tree.document else None
    language = (root.getattr("lang") or root.getattr("xml:lang") or "") if root else ""
    return {
        "text": text.replace(SOFT_HYPHEN, ""),
        "title": " ".join((tree.title or "").split()),
        "language": language.strip(),
        "charset": charset,
    }
