"""The main text of an HTML page in Markdown, without navigation, comments or boilerplate, and what it says of itself.

bytes -> text (html_tree) -> tree -> blocks (html_blocks) -> features (html_features) -> the blocks to keep
(html_model) -> Markdown (html_markdown);  tree -> title, date, address (html_meta)
"""

import numpy as np
from lxml.etree import _Element, tostring
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipelines.extract.html_blocks import Block, HtmlPage, read_blocks
from pipelines.extract.html_features import Matrix, features, votes
from pipelines.extract.html_markdown import to_markdown
from pipelines.extract.html_meta import describe
from pipelines.extract.html_model import choose, probabilities
from pipelines.extract.html_tree import decode_html, html_charset, parse_html
from pipelines.extract.page import SOFT_HYPHEN

# Resiliparse takes time that grows with the square of the depth: beyond these bounds no second opinion is asked for.
_MAX_CHARACTERS = 2_000_000
_MAX_ELEMENTS = 50_000
_MAX_DEPTH = 200
_MAX_BLOCKS = 200_000  # a longer page is a table or a log written out, and its features would fill the memory


def second_opinion(root: _Element) -> str:
    """What resiliparse takes for the main text of a page.

    It gets the tree that has been measured, as markup: from the page as it came, nested formatting can make it build
    one that is far deeper and larger.
    """
    return str(
        extract_plain_text(
            HTMLTree.parse(tostring(root, encoding="unicode", method="html")),
            preserve_formatting=True,
            main_content=True,
            alt_texts=False,
            comments=False,
            post_meta=False,
        )
    )


def block_features(root: _Element, page: HtmlPage, title: str, mode: str) -> Matrix:
    """(blocks, features) for a page of at least one block, as the network for `mode` takes them."""
    values = features(page, title)
    if mode == "careful":
        return np.concatenate([values, votes(page.blocks, second_opinion(root))], axis=1)
    return values


def main_blocks(root: _Element, page: HtmlPage, title: str, mode: str) -> list[Block]:
    """The blocks of a page that are its main text; `mode` is fast or careful."""
    if not page.blocks:
        return []
    if len(page.blocks) > _MAX_BLOCKS:
        return [block for block in page.blocks if block.links < len(block.text) / 2]
    size = sum(len(block.text) for block in page.blocks)
    if size > _MAX_CHARACTERS or page.elements > _MAX_ELEMENTS or page.depth > _MAX_DEPTH:
        mode = "fast"
    return choose(page, probabilities(block_features(root, page, title, mode), mode))


def html_to_markdown(page: bytes | str, main_content: bool = False) -> str:
    """A page as Markdown: all that a visitor sees, or its main text alone. Bad markup raises nothing.

    Its time grows with the page and has no other bound; what comes from outside is read in a child process.
    """
    root = parse_html(page if isinstance(page, str) else decode_html(page, html_charset(page)))
    if root is None:
        return ""
    blocks = read_blocks(root)
    kept = main_blocks(root, blocks, describe(root)["title"], "fast") if main_content else blocks.blocks
    return to_markdown(kept).replace(SOFT_HYPHEN, "")


def read_html(data: bytes, mode: str = "careful") -> dict[str, str]:
    """The main text of a page as Markdown and what it says of itself; a field that is unknown is empty.

    Fields: `text`, `title`, `author`, `date` (a day, ISO 8601), `url` (the canonical one), `language` as declared, and
    `charset`. Untrusted pages are read in a process of their own (see `isolate`).
    """
    charset = html_charset(data)
    root = parse_html(decode_html(data, charset))
    if root is None:
        return dict.fromkeys(("text", "title", "author", "date", "url", "language"), "") | {"charset": charset}
    described = describe(root)
    text = to_markdown(main_blocks(root, read_blocks(root), described["title"], mode))
    return {"text": text.replace(SOFT_HYPHEN, ""), **described, "charset": charset}
