"""Blocks of a page as one Markdown text."""

from collections.abc import Sequence

from pipelines.extract.html_blocks import Block


def _body(block: Block) -> str:
    if block.kind == "pre":
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}{block.language}\n{block.text}\n{fence}"
    if block.kind[0] == "h":
        return "#" * int(block.kind[1]) + " " + block.text
    return block.text


def to_markdown(blocks: Sequence[Block]) -> str:
    """The blocks in their order; an item's mark stands before the first block of it that is there."""
    pieces: list[str] = []
    widths: dict[int, int] = {}  # list item -> how far its mark moves what belongs to it to the right
    before: Block | None = None
    for block in blocks:
        lines = _body(block).split("\n")
        shift = 0
        mark = ""
        for number, (identity, sign) in enumerate(block.items):
            last = number == len(block.items) - 1
            if identity in widths:
                shift += widths[identity]
            elif last:
                # A card with a heading is no list item in prose.
                mark = "" if block.kind[0] == "h" else sign + " "
                widths[identity] = len(mark)
            # An outer item of which nothing was kept moves nothing.
        indent = " " * shift
        hanging = indent + " " * len(mark)
        lines = [(indent + mark if not number else hanging) + line if line else "" for number, line in enumerate(lines)]
        if block.quotes:
            quote = "> " * min(block.quotes, 4)
            lines = [(quote + line).rstrip() for line in lines]
        if before is not None:
            tight = (
                mark
                and before.items
                and block.items
                and before.quotes == block.quotes
                and before.kind not in {"pre", "table"}
            )
            blank = "> " * min(block.quotes, before.quotes, 4)
            pieces.append("\n" if tight else f"\n{blank.rstrip()}\n")
        pieces.append("\n".join(lines))
        before = block
    return "".join(pieces)
