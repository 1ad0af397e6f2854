"""EPUB and DOCX, well made and hostile; written by hand, part by part, as the formats describe them."""

import io
import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract.found import Extracted, Reject
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
PACKAGE = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>The  Tides</dc:title><dc:creator>Ada Lot</dc:creator><dc:creator>Bo</dc:creator>
<dc:language>en</dc:language><dc:date>2021-03-04</dc:date></metadata>
<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="c1" href="text/one%20.xhtml" media-type="application/xhtml+xml"/>
<item id="c2" href="text/two.xhtml#top" media-type="application/xhtml+xml"/>
<item id="css" href="style.css" media-type="text/css"/></manifest>
<spine><itemref idref="nav"/>
<itemref idref="c2"/><itemref idref="c1"/><itemref idref="c2"/><itemref idref="lost"/></spine>
</package>"""


def chapter(title: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>{title}</title></head><body><h1>{title}</h1><p>{body}</p></body></html>"
    )


EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OEBPS/book.opf": PACKAGE,
    "OEBPS/nav.xhtml": chapter("Contents", "Only links."),
    "OEBPS/text/one .xhtml": chapter("Neap", "The smaller one, at &frac14; moon."),
    "OEBPS/text/two.xhtml": chapter("Spring", "The larger one; sun and moon in line."),
    "OEBPS/style.css": "p {}",
}
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)
STYLES = f"""<w:styles xmlns:w="{WORD}">
<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style>
<w:style w:styleId="Mine"><w:name w:val="my part"/><w:basedOn w:val="H2"/></w:style>
<w:style w:styleId="Code"><w:name w:val="Source Code"/></w:style>
<w:style w:styleId="T"><w:name w:val="Title"/></w:style></w:styles>"""
NUMBERING = f"""<w:numbering xmlns:w="{WORD}">
<w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>
<w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
<w:num w:numId="3"><w:abstractNumId w:val="7"/></w:num></w:numbering>"""
CORE = (
    '<cp:coreProperties xmlns:cp="x" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/'
    'terms/"><dc:title>On tides</dc:title><dc:creator>Ada Lot</dc:creator>'
    "<dcterms:created>2020-01-02T03:04:05Z</dcterms:created></cp:coreProperties>"
)


def paragraph(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def item(text: str, level: int) -> str:
    return paragraph(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="3"/></w:numPr>')


def cell(text: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{paragraph(text)}</w:tc>"


WIDE = cell("wide", '<w:gridSpan w:val="2"/>')
BELOW = cell("lost", "<w:vMerge/>")
BODY = "".join(
    (
        paragraph("On tides", '<w:pStyle w:val="T"/>'),
        paragraph("Moon", '<w:pStyle w:val="Mine"/>'),
        "<w:p><w:r><w:t>It </w:t></w:r><w:ins><w:r><w:t>really </w:t></w:r></w:ins><w:del><w:r><w:delText>never "
        "</w:delText></w:r></w:del><w:hyperlink><w:r><w:t>rises</w:t></w:r></w:hyperlink><w:r><w:rPr><w:vanish/></w:rPr>"
        "<w:t>hidden</w:t></w:r><w:r><w:footnoteReference w:id='4'/><w:instrText>PAGE</w:instrText></w:r></w:p>",
        item("one", 0),
        item("inner", 1),
        item("two", 0),
        paragraph("x = 1", '<w:pStyle w:val="Code"/>'),
        paragraph("  y = 2", '<w:pStyle w:val="Code"/>'),
        f"<w:tbl><w:tr>{cell('a')}{cell('b|c')}</w:tr><w:sdt><w:sdtContent><w:tr>"
        f"{WIDE}</w:tr></w:sdtContent></w:sdt><w:tr>{cell('d')}{BELOW}</w:tr></w:tbl>",
        f"<w:tbl><w:tr>{cell('framed')}</w:tr></w:tbl>",
        "<w:p><w:r><mc:AlternateContent xmlns:mc='m'><mc:Choice><w:txbxContent>"
        + paragraph("in a box")
        + "</w:txbxContent></mc:Choice><mc:Fallback><w:txbxContent>"
        + paragraph("in a box")
        + "</w:txbxContent></mc:Fallback></mc:AlternateContent></w:r></w:p>",
        "<w:sdt><w:sdtContent>" + paragraph("controlled") + "</w:sdtContent></w:sdt>",
    )
)
DOCX = {
    "[Content_Types].xml": "<Types/>",
    "_rels/.rels": RELATIONS,
    "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{BODY}</w:body></w:document>',
    "word/styles.xml": STYLES,
    "word/numbering.xml": NUMBERING,
    "word/footnotes.xml": f'<w:footnotes xmlns:w="{WORD}"><w:footnote w:id="4">{paragraph("Twice a day.")}</w:footnote>'
    "</w:footnotes>",
    "docProps/core.xml": CORE,
}
MARKDOWN = """# On tides

## Moon

It really rises[^1]

1. one
  - inner
2. two

```
x = 1
  y = 2
```

| a | b\\|c |
| --- | --- |
| wide |  |
| d |  |

framed

in a box

controlled

[^1]: Twice a day."""


def make(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text, zipfile.ZIP_STORED if name == "mimetype" else None)
    return out.getvalue()


def extract(data: bytes, path: str, **limits: float) -> list[Extracted | Reject]:
    return list(extract_file(data, path, Extract.model_validate(limits), Columns()))  # type: ignore[arg-type]


def only(data: bytes, path: str = "a") -> Extracted:
    (found,) = extract(data, path)
    assert isinstance(found, Extracted), found
    return found


def error(data: bytes, path: str = "a", **limits: float) -> str:
    (found,) = extract(data, path, **limits)
    assert isinstance(found, Reject), found
    return found.error


def test_chapters_come_in_the_order_of_the_spine() -> None:
    book = only(make(EPUB), "a.epub")
    assert book.text == ("# Spring\n\nThe larger one; sun and moon in line.\n\n# Neap\n\nThe smaller one, at ¼ moon.")
    assert book.date == "2021-03-04"
    assert book.metadata == {
        "kind": "epub",
        "title": "The Tides",
        "author": "Ada Lot, Bo",
        "declared_language": "en",
    }
    assert only(make(EPUB), "a.zip").text == book.text


def test_a_word_document_becomes_markdown() -> None:
    document = only(make(DOCX), "a.docx")
    assert document.text == MARKDOWN
    assert document.date == "2020-01-02T03:04:05Z"
    assert document.metadata == {"kind": "docx", "title": "On tides", "author": "Ada Lot"}
    strict = DOCX | {
        "word/document.xml": DOCX["word/document.xml"].replace(WORD, "http://purl.oclc.org/ooxml/wordprocessingml/main")
    }
    assert only(make(strict)).text == MARKDOWN


def test_a_book_in_an_archive_is_read() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("shelf/a.epub", make(EPUB))
        archive.writestr("shelf/b.docx", make(DOCX))
    found = extract(out.getvalue(), "a.zip")
    assert [one.locator for one in found] == ["member=shelf/a.epub", "member=shelf/b.docx"]
    assert all(isinstance(one, Extracted) for one in found)


def test_books_that_cannot_be_read_are_rejects() -> None:
    keys = '<encryption><EncryptedData><EncryptionMethod Algorithm="{}"/></EncryptedData></encryption>'
    locked = EPUB | {"META-INF/encryption.xml": keys.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}
    assert error(make(locked)) == "encrypted"
    fonts = EPUB | {"META-INF/encryption.xml": keys.format("http://www.idpf.org/2008/embedding")}
    assert only(make(fonts)).text
    assert error(make({**EPUB, "META-INF/container.xml": "<x/>"})) == "broken_epub"
    assert error(make({**EPUB, "OEBPS/book.opf": "no xml"})) == "broken_epub"
    assert error(make({**DOCX, "word/document.xml": "\0"})) == "broken_docx"
    assert error(make({"xl/workbook.xml": "<x/>"}), "a.xlsx") == "not_supported"
    assert error(make(DOCX), max_characters=50) == "too_large"
    assert error(make(EPUB), max_characters=50) == "too_large"
    empty = DOCX | {"word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body/></w:document>'}
    assert error(make(empty)) == "empty_text"
    assert error(make({**DOCX, "word/document.xml": empty["word/document.xml"][:40]})) == "broken_docx"
    assert error(make({**EPUB, "OEBPS/book.opf": PACKAGE[:300]})) == "broken_epub"
    assert error(make({name: part for name, part in EPUB.items() if "/text/" not in name})) == "broken_epub"


def test_hostile_parts_are_harmless() -> None:
    start = time.monotonic()
    laughs = "".join(f'<!ENTITY e{n} "' + f"&e{n - 1};" * 10 + '">' for n in range(1, 12))
    entity = f'<!DOCTYPE d [<!ENTITY e0 "ha">{laughs}<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    text = f'{entity}<w:document xmlns:w="{WORD}"><w:body>{paragraph("fine &e11; &f;")}</w:body></w:document>'
    (found,) = extract(make({**DOCX, "word/document.xml": text}), "a")
    assert isinstance(found, Reject) or ("root:" not in found.text and len(found.text) < 100)
    deep = "<w:sdt><w:sdtContent>" * 3000
    text = f'<w:document xmlns:w="{WORD}"><w:body>{paragraph("top")}{deep}{paragraph("deep")}</w:body></w:document>'
    assert only(make({**DOCX, "word/document.xml": text})).text == "top"
    outside = EPUB | {"OEBPS/book.opf": PACKAGE.replace("text/two.xhtml", "../../../../etc/passwd")}
    assert only(make(outside)).text.startswith("# Neap")
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_part_that_is_a_bomb_is_given_up() -> None:
    bomb = f'<w:document xmlns:w="{WORD}"><w:body>{paragraph(" " * (130 << 20))}</w:body></w:document>'
    assert error(make({**DOCX, "word/document.xml": bomb})) == "too_large"


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=20), st.booleans())
@settings(max_examples=40)
def test_no_damage_raises(changes: list[tuple[int, int]], is_book: bool) -> None:
    data = bytearray(make(EPUB if is_book else DOCX))
    for place, value in changes:
        data[place % len(data)] = value
    assert extract(bytes(data), "a.epub" if is_book else "a.docx")


@pytest.mark.parametrize("name", ["a.epub", "a.docx"])
def test_a_cut_book_is_rejected_and_its_parts_are_no_documents(name: str) -> None:
    data = make(EPUB if name == "a.epub" else DOCX)
    assert error(data[: len(data) * 2 // 3], name) == "truncated"
    unnamed = extract(data[: len(data) * 2 // 3], "a.zip")
    assert "truncated" in {one.error for one in unnamed if isinstance(one, Reject)}
