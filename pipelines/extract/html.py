"""The main text of an HTML page, without navigation, comments or boilerplate."""

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipelines.extract.html_blocks import read_blocks
from pipelines.extract.html_markdown import to_markdown
from pipelines.extract.html_tree import decode_html, html_charset, parse_html

SOFT_HYPHEN = "\u00ad"


def html_to_markdown(page: bytes | str) -> str:
    """A whole page as Markdown: all that a visitor sees, with its structure. It raises nothing on any input.

    Text that does not come from inside a child process should be trusted or short: see `isolate`.
    """
    root = parse_html(page if isinstance(page, str) else decode_html(page, html_charset(page)))
    return to_markdown(read_blocks(root).blocks) if root is not None else ""


def read_html(data: bytes) -> dict[str, str]:
    """`text`, `title`, declared `language` and `charset` of a page; a field that is unknown is empty.

    Resiliparse takes time that grows with the square of the nesting depth and can be made to build far more
    nodes than the page has tags, so untrusted pages are read in a process of their own (see `isolate`).
    """
    charset = html_charset(data)
    tree = HTMLTree.parse(decode_html(data, charset))

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
