"""What the classifiers read of a text: a bounded sample, in a normal form."""

from collections.abc import Iterable, Iterator
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from schemas.languages import UNSPACED_SCRIPTS

_SCRIPTS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
_UNSPACED_LETTER = rf"([{_SCRIPTS}]\p{{M}}*)"


def windows(text: str, size: int, count: int) -> list[str]:
    """At most `count` stretches of `size` characters, evenly spaced from the beginning to the end of `text`.

    A text of at most `size * count` characters is cut into consecutive windows without gaps; "" gives none.
    """
    if len(text) <= size * count:
        return [text[begin : begin + size] for begin in range(0, len(text), size)]
    step = (len(text) - size) / (count - 1)
    return [text[begin : begin + size] for begin in (round(step * number) for number in range(count))]


def sample(text: str, size: int, count: int) -> str:
    """The whole text if it has at most `size * count` characters, else its `windows`, one a line."""
    return text if len(text) <= size * count else "\n".join(windows(text, size, count))


def chunks(sizes: Iterable[int], limit: int) -> Iterator[slice]:
    """Stretches of consecutive texts whose sizes add up to at most `limit`; a larger text is a stretch of its own."""
    begin = total = end = 0
    for end, size in enumerate(sizes, 1):
        if end - 1 > begin and total + size > limit:
            yield slice(begin, end - 1)
            begin, total = end - 1, 0
        total += size
    if end > begin:
        yield slice(begin, end)


@cache
def assigned() -> str:
    """Every character that may be a letter, a mark or a space: none are above plane 3, and surrogates are none."""
    return "".join(map(chr, [*range(0xD800), *range(0xE000, 0x32400)]))


def letters_only(texts: list[str]) -> list[str]:
    """Lower-case letters and combining marks, all else one space: the form of language identification."""
    lower = pc.utf8_lower(pa.array(texts, pa.large_string()))
    spaced = pc.replace_substring_regex(lower, r"[^\p{L}\p{M}]+", " ")
    return pc.utf8_trim_whitespace(spaced).to_pylist()


def tokens(texts: list[str]) -> list[str]:
    """Lower-case words, `0` for every number, and some marks, between single spaces.

    Letters of scripts written without spaces stand alone, so that pairs of tokens are pairs of letters there.

    The form of the topic-like classifiers, in which prices, formulas, shouting and addresses are evidence.
    """
    lower = pc.utf8_lower(pa.array(texts, pa.large_string()))
    numbers = pc.replace_substring_regex(lower, r"\p{N}+", " 0 ")
    marks = pc.replace_substring_regex(numbers, r"([!?$€£%#@=+*/\\{}<>\[\]|_])", r" \1 ")
    apart = pc.replace_substring_regex(marks, _UNSPACED_LETTER, r" \1 ")
    spaced = pc.replace_substring_regex(apart, r"[^\p{L}\p{M}0!?$€£%#@=+*/\\{}<>\[\]|_]+", " ")
    return pc.utf8_trim_whitespace(spaced).to_pylist()
