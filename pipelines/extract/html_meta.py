"""What a page says of itself: title, author, date, address and language."""

import json
import re
from collections.abc import Iterator
from datetime import date
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from lxml.etree import _Element

_MAX_JSON = 200_000  # characters of one script of linked data
_MAX_NODES = 2_000
_MAX_TITLE = 2_000
_ARTICLE_KEYS = ("headline", "datePublished", "dateCreated", "author")
_DATE_NAMES = (
    "article:published_time", "og:published_time", "og:article:published_time", "datepublished", "date", "pubdate",
    "publishdate", "publish_date", "publish-date", "publication_date", "parsely-pub-date", "sailthru.date", "dc.date",
    "dc.date.issued", "dc.date.created", "dc.created", "dcterms.created", "dcterms.issued", "dcterms.date",
    "citation_publication_date", "citation_date", "cxenseparse:recs:publishtime",
)  # fmt: skip
_AUTHOR_NAMES = ("author", "article:author", "parsely-author", "dc.creator", "dcterms.creator", "citation_author")
_TITLE_NAMES = ("og:title", "twitter:title", "parsely-title", "dc.title", "citation_title")
_ISO = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)")
_SLASHES = re.compile(r"(?<!\d)((?:19|20)\d\d)[/.](0?[1-9]|1[0-2])[/.](0?[1-9]|[12]\d|3[01])(?!\d)")
_DAY_FIRST = re.compile(r"(?<!\d)(0?[1-9]|[12]\d|3[01])\.\s?(0?[1-9]|1[0-2])\.\s?((?:19|20)\d\d)(?!\d)")
_MONTHS = {
    name: number for number, names in enumerate(
        ("jan january januar janvier enero gennaio", "feb february februar février febrero febbraio",
         "mar march märz mars marzo", "apr april avril abril aprile", "may mai mayo maggio",
         "jun june juni juin junio giugno", "jul july juli juillet julio luglio", "aug august août agosto",
         "sep sept september septembre septiembre settembre", "oct october oktober okt octobre octubre ottobre",
         "nov november novembre noviembre", "dec december dezember dez décembre diciembre dicembre"), 1)
    for name in names.split()
}  # fmt: skip
_WRITTEN = re.compile(
    r"(?<!\d)(?:(\d{1,2})(?:st|nd|rd|th)?\.?\s+(?:de\s+)?([^\W\d_]{3,10})\.?|([^\W\d_]{3,10})\.?\s+(\d{1,2})(?:st|nd|rd|th)?)"
    r",?\s+(?:de\s+)?((?:19|20)\d\d)(?!\d)",
    re.I,
)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,3}")


def iso_day(text: str) -> str:
    """The first date in a text as `YYYY-MM-DD`, empty if it has none; of 01/02/2003, nobody knows the order."""
    text = text[:200]
    found: list[tuple[int, tuple[int, int, int]]] = []
    for pattern, order in ((_ISO, (1, 2, 3)), (_SLASHES, (1, 2, 3)), (_DAY_FIRST, (3, 2, 1))):
        if match := pattern.search(text):
            year, month, day = (int(match[group]) for group in order)
            found.append((match.start(), (year, month, day)))
    if match := _WRITTEN.search(text):
        month = _MONTHS.get((match[2] or match[3]).lower(), 0)
        found.append((match.start(), (int(match[5]), month, int(match[1] or match[4]))))
    for _, (year, month, day) in sorted(found):
        try:
            return date(year, month, day).isoformat()
        except ValueError:
            continue
    return ""


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _web_address(text: str | None) -> str:
    """An absolute address of the web, empty for anything else."""
    text = (text or "").strip()
    if len(text) > 2_000 or any(character.isspace() for character in text):
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in {"http", "https"} and parts.hostname else ""


def _linked_data(root: _Element) -> dict[str, Any]:
    """The first value of each key that describes an article, from the page's JSON-LD."""
    found: dict[str, Any] = {}
    for script in root.iter("script"):
        source = script.text
        if "ld+json" not in (script.get("type") or "") or not source or len(source) > _MAX_JSON:
            continue
        try:
            queue = [json.loads(source, strict=False)]
        except (ValueError, RecursionError):
            continue
        for _ in range(_MAX_NODES):
            if not queue:
                break
            node = queue.pop(0)
            if isinstance(node, list):
                queue.extend(node[:100])
            elif isinstance(node, dict):
                for key in _ARTICLE_KEYS:
                    if key in node and ("headline" in node or "articleBody" in node or key.startswith("date")):
                        found.setdefault(key, node[key])
                queue.extend(node[key] for key in ("@graph", "mainEntity", "mainEntityOfPage") if key in node)
    return found


def _names(value: Any) -> Iterator[str]:
    for person in value[:5] if isinstance(value, list) else [value]:
        name = person.get("name") if isinstance(person, dict) else person
        if isinstance(name, str) and "://" not in name:
            yield _line(name)


def _title(root: _Element, named: dict[str, str]) -> str:
    """The page's own title; a heading that makes up much of it is the same without the name of the site."""
    element = next(root.iter("title"), None)
    title = _line("".join(element.itertext())[:_MAX_TITLE]) if element is not None else ""
    for heading in islice(root.iter("h1"), 5):
        text = _line("".join(heading.itertext())[:_MAX_TITLE])
        if len(text) > 0.4 * len(title) and text.lower() in title.lower():
            return text
    return next((named[name] for name in _TITLE_NAMES if named.get(name)), "") or title


def describe(root: _Element) -> dict[str, str]:
    """`title`, `author`, `date` (a day, ISO 8601), `url` and `language` of a page; what is unknown is empty."""
    named: dict[str, str] = {}
    for meta in root.iter("meta"):
        name = meta.get("property") or meta.get("name") or meta.get("itemprop") or meta.get("http-equiv") or ""
        named.setdefault(name.strip().lower(), _line(meta.get("content")))
    data = _linked_data(root)

    days = [named.get(_DATE_NAMES[0]), *(data.get(key) for key in ("datePublished", "dateCreated"))]
    days += [named.get(name) for name in _DATE_NAMES[1:]]
    day = next((day for text in days if isinstance(text, str) and (day := iso_day(text))), "")
    url = ""
    for link in root.iter("link"):
        if "canonical" in (link.get("rel") or "").lower().split() and (url := _web_address(link.get("href"))):
            break
    url = url or _web_address(named.get("og:url"))
    if not day:
        times = (element.get("datetime") or element.text or "" for element in islice(root.iter("time"), 20))
        day = next((day for text in times if (day := iso_day(text))), "")
    if not day and (match := _SLASHES.search(url)):
        day = iso_day(match[0])
    author = ", ".join(dict.fromkeys(name for name in _names(data.get("author")) if name))
    if not author:
        author = next((named[name] for name in _AUTHOR_NAMES if named.get(name) and "://" not in named[name]), "")
    language = root.get("lang") or root.get("xml:lang") or named.get("content-language") or named.get("og:locale") or ""
    language = language.strip()
    return {
        "title": _title(root, named),
        "author": author,
        "date": day,
        "url": url,
        "language": language if _LANGUAGE.fullmatch(language) else "",
    }
