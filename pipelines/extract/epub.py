"""A book in EPUB 2 or 3: the chapters in reading order as Markdown, and what the book says of itself.

Runs in the child process (see `isolate`). Format: https://www.w3.org/TR/epub-33.
"""

import posixpath
from urllib.parse import unquote

from lxml import etree

from pipelines.extract.found import Rejected
from pipelines.extract.html import html_to_markdown
from pipelines.extract.packed import Budget
from pipelines.extract.zips import NamedFiles, read_named_files

_PART_BYTES = 32 << 20  # of a chapter or of the package document
_UNPACKED_BYTES = 1 << 30
_CHAPTERS = 10_000
_CHAPTER_TYPES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", ""})
_FONT_METHODS = frozenset({"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"})
_DUBLIN = "{http://purl.org/dc/elements/1.1/}"


def parse_xml(data: bytes) -> etree._Element:
    """The root of an XML part; no entity is resolved and nothing is fetched. Rejected where there is no XML."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=True)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    if root is None:
        raise Rejected("broken_archive", "a part of the file that has to be XML is not")
    return root


def read_epub(payload: bytes, path: str, max_characters: int) -> dict[str, str]:
    """`text`, `title`, `author`, `language` and `date` of the book at `path`, or an `error` and a `message`."""
    return read_named_files(path, Budget(_UNPACKED_BYTES), lambda files: _read(files, max_characters))


def _read(files: NamedFiles, max_characters: int) -> dict[str, str]:
    _refuse_encrypted(files)
    package_path = _package_path(files)
    package = parse_xml(files.read(package_path, _PART_BYTES))
    folder = posixpath.dirname(package_path)
    items = {}
    for item in package.iterfind(".//{*}manifest/{*}item"):
        media, properties = item.get("media-type", ""), item.get("properties", "").split()
        if media in _CHAPTER_TYPES and "nav" not in properties:
            items[item.get("id")] = posixpath.normpath(
                posixpath.join(folder, unquote(item.get("href", "").partition("#")[0]))
            )
    chapters: list[str] = []
    characters = 0
    wanted = [items.get(reference.get("idref")) for reference in package.iterfind(".//{*}spine/{*}itemref")]
    if not any(name in files for name in wanted if name):
        raise Rejected("broken_archive", "none of the chapters that the book names is in the file")
    for name in dict.fromkeys(wanted[:_CHAPTERS]):
        if name and (text := html_to_markdown(files.read(name, _PART_BYTES)).strip("\n")):
            chapters.append(text)
            characters += len(text) + 2
            if characters > max_characters:
                raise Rejected("too_large", f"more than {max_characters} characters")
    return {"text": "\n\n".join(chapters), **_described(package)}


def _refuse_encrypted(files: NamedFiles) -> None:
    data = files.read("META-INF/encryption.xml", _PART_BYTES)
    methods = (
        {method.get("Algorithm") for method in parse_xml(data).iterfind(".//{*}EncryptionMethod")} if data else set()
    )
    if methods - _FONT_METHODS:
        raise Rejected("encrypted", "the chapters of the book are encrypted")


def _package_path(files: NamedFiles) -> str:
    container = files.read("META-INF/container.xml", _PART_BYTES)
    if container:
        for root in parse_xml(container).iterfind(".//{*}rootfile"):
            if root.get("full-path", "") in files:
                return str(root.get("full-path"))
    raise Rejected("broken_archive", "the book has no package document")


def _described(package: etree._Element) -> dict[str, str]:
    def values(name: str) -> list[str]:
        found = (" ".join("".join(one.itertext()).split()) for one in package.iter(f"{_DUBLIN}{name}"))
        return [value for value in found if value]

    dates = [one for one in package.iter(f"{_DUBLIN}date") if one.text]
    published = [one for one in dates if one.get("{http://www.idpf.org/2007/opf}event") == "publication"]
    return {
        "title": next(iter(values("title")), ""),
        "author": ", ".join(values("creator")[:10]),
        "language": next(iter(values("language")), ""),
        "date": next((one.text.strip() for one in [*published, *dates]), ""),
    }
