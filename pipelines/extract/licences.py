"""The SPDX identifier of the licence that a text states: a tag, the notice in a source file, or a licence file.

Names: https://spdx.org/licenses. Only wording that names a licence without doubt counts; anything else gives None.
"""

import re

_HEADER = 6_000  # characters of a file in which a notice stands
_WHOLE = 60_000  # of a licence file
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{1,120})")
_OPERATORS = re.compile(r"\s(?:AND|OR|WITH)\s")
_MARKS = re.compile(r"[\s*/#;%!\"'`,:<>{}()\[\]|=~-]+")
_VERSION = re.compile(
    r"gnu (?:(lesser|library|affero) )?general public licen[sc]e.{0,160}?\bversion (\d(?:\.\d)?)(.{0,200})"
)

# The first whose words are all there, in lower case and without marks; so the narrower stand before the wider.
_WORDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Apache-2.0", ("licensed under the apache license version 2.0",)),
    ("Apache-2.0", ("apache license version 2.0 january 2004",)),
    ("MPL-2.0", ("mozilla public license v. 2.0",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("EPL-2.0", ("eclipse public license", "v 2.0")),
    ("EPL-1.0", ("eclipse public license", "v 1.0")),
    ("EPL-1.0", ("eclipse public license v1.0",)),
    ("BSL-1.0", ("boost software license version 1.0",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("Artistic-2.0", ("artistic license 2.0",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    (
        "BSD-4-Clause",
        ("redistribution and use in source and binary forms", "all advertising materials mentioning features"),
    ),
    (
        "BSD-3-Clause",
        ("redistribution and use in source and binary forms", "may be used to endorse or promote products"),
    ),
    (
        "BSD-2-Clause",
        ("redistribution and use in source and binary forms", "redistributions in binary form must reproduce"),
    ),
    ("MIT", ("permission is hereby granted free of charge to any person obtaining a copy", "without restriction")),
    ("ISC", ("permission to use copy modify and or distribute this software for any purpose", "copyright notice and")),
    ("0BSD", ("permission to use copy modify and or distribute this software for any purpose", "is hereby granted")),
    ("ISC", ("permission to use copy modify and distribute this software for any purpose", "copyright notice and")),
    ("Zlib", ("provided as is without any express or implied warranty", "the origin of this software must not be")),
)
_SHORT = re.compile(
    r"(?:licen[sc]ed|released|distributed|available|governed|covered|published)(?: \w+){0,4}? (?:under|by)"
    r"(?: \w+){0,6}? (mit|isc|bsd style|bsd 2 clause|bsd 3 clause|2 clause bsd|3 clause bsd|apache 2.0|mpl 2.0|zlib)"
    r"(?: style)? licen[sc]e"
)
_SHORT_NAMES = {
    "mit": "MIT",
    "isc": "ISC",
    "bsd 2 clause": "BSD-2-Clause",
    "2 clause bsd": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "3 clause bsd": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "mpl 2.0": "MPL-2.0",
    "zlib": "Zlib",
}
_GNU = {None: "GPL", "lesser": "LGPL", "library": "LGPL", "affero": "AGPL"}


def stated_licence(text: str, whole: bool = False) -> str | None:
    """SPDX identifier or expression that a source file states in its beginning, or a licence file (`whole`)."""
    text = text[: _WHOLE if whole else _HEADER]
    if tag := _TAG.search(text):
        return _expression(tag[1])
    plain = " ".join(_MARKS.split(text)).lower()
    found = [(plain.index(words[0]), name) for name, words in _WORDINGS if all(word in plain for word in words)]
    if gnu := _VERSION.search(plain):
        found.append((gnu.start(), _gnu(gnu, plain, whole)))
    if found:  # a licence may speak of others; of two names for one wording the first in the list
        return min(found, key=lambda each: each[0])[1]
    short = _SHORT.search(plain)
    return _SHORT_NAMES.get(short[1]) if short else None


def _expression(tag: str) -> str | None:
    """A tag's identifier, or the expression that it holds; what follows in the same line is no part of it."""
    tag = " ".join(tag.split())
    if not _OPERATORS.search(tag):
        tag = tag.partition(" ")[0]
    return tag.rstrip("-. ") or None


def _gnu(found: re.Match[str], plain: str, whole: bool) -> str:
    family, version = _GNU[found[1]], found[2] if "." in found[2] else f"{found[2]}.0"
    around = plain[max(0, found.start() - 100) : found.end()]
    # The text of a licence itself says neither, and tells of "any later version" in its advice.
    later = not (whole and plain.lstrip().startswith("gnu")) and ("any later version" in around or "or later" in around)
    return f"{family}-{version}-{'or-later' if later else 'only'}"
