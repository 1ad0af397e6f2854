"""What the sections of the report are made of, and the small words that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from schemas.languages import LANGUAGES, OTHER, UNDETERMINED
from sluice.text import printable

ROWS_SHOWN, LONG_TABLE = 60, 12  # rows of a table; long ones can be folded


@dataclass(frozen=True)
class Plot:
    title: str
    svg: Markup
    note: str = ""
    wide: bool = False
    kind: str = "plot"


@dataclass(frozen=True)
class Shaded:
    """A cell of a table: a share over its count, on a ground that is darker the larger the share."""

    share: str
    count: str
    heat: int  # percent of colour in the ground

    @classmethod
    def of(cls, part: int, whole: int) -> "Shaded":
        if not part:
            return cls("", "", 0)
        # The root, because a share of some percent is what one looks for.
        return cls(percent(part, whole), f"{part:,}", round(75 * (part / whole) ** 0.5))


@dataclass(frozen=True)
class Table:
    """`align` has one letter a column: l or r. `folded` tables open on a click; heads of `tall` ones stand upright."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    align: str
    note: str = ""
    folded: bool = False
    tall: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Sample:
    where: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Samples:
    title: str
    groups: Mapping[str, Sequence[Sample]]
    note: str = ""
    folded: bool = True
    kind: str = "samples"


@dataclass(frozen=True)
class Stack:
    """Blocks one below the other in one of the two columns."""

    blocks: Sequence[Plot | Table]
    kind: str = "stack"


@dataclass(frozen=True)
class PageSample:
    """A page beside its text; `picture` is a data URI, or empty with a note that says why."""

    where: str
    facts: str
    text: str
    picture: str
    note: str


@dataclass(frozen=True)
class PageSamples:
    title: str
    groups: Mapping[str, Sequence[PageSample]]
    note: str = ""
    folded: bool = False
    kind: str = "pages"


@dataclass(frozen=True)
class Difference:
    """Two texts as one: pieces that are the `same`, `out` of the first or `in` the second."""

    where: str
    pieces: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Differences:
    title: str
    groups: Mapping[str, Sequence[Difference]]
    note: str = ""
    folded: bool = False
    kind: str = "differences"


@dataclass(frozen=True)
class Pair:
    """Two texts beside each other; their pieces are `common` to both or the `same` as they are anywhere."""

    where: str
    left: Sequence[tuple[str, str]]
    right: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Pairs:
    """`head` names what stands on the left and on the right."""

    title: str
    head: tuple[str, str]
    groups: Mapping[str, Sequence[Pair]]
    note: str = ""
    folded: bool = False
    kind: str = "pairs"


Block = Plot | Table | Samples | Stack | PageSamples | Differences | Pairs


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: Sequence[Block]
    note: str = ""


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def first_shown(rows: int) -> str:
    return f"The first {ROWS_SHOWN} of {rows:,}." if rows > ROWS_SHOWN else ""


def count_by(frame: pl.DataFrame, column: str) -> dict[str, int]:
    counted = frame.group_by(column).len().sort("len", column, descending=[True, False])
    return dict(counted.iter_rows())


def most_first(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(((name, n) for name, n in reasons.items() if n), key=lambda item: (-item[1], item[0])))


def language_name(label: str) -> str:
    """A label of `schemas.languages` for people."""
    if label in LANGUAGES:
        language = LANGUAGES[label]
        twin = any(other.name == language.name and other is not language for other in LANGUAGES.values())
        return f"{language.name} ({language.script})" if twin else language.name
    return {OTHER: "another language", UNDETERMINED: "undetermined"}.get(label, printable(label, 60))
