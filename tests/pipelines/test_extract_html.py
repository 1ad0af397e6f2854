"""HTML as Markdown: structure, main text, what a page says of itself, and hostile markup."""

import html as escapes
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.html import figures, plain
from pipelines.extract.found import Extracted
from pipelines.extract.html import html_to_markdown, read_html
from pipelines.extract.html_meta import iso_day
from pipelines.extract.html_model import probabilities
from pipelines.extract.reader import extract_file
from pipelines.extract.train_html import MODES, fold_of, label, read_tables, train
from schemas.recipe import Columns, Extract

STRUCTURE = """<html><body><h1>Tides <a class="headerlink" href="#t">¶</a></h1>
<p>The sea rises <b>twice</b> a day,<br>and falls; see <code>tide()</code>.</p>
<h2>Ports</h2>
<ul><li>Brest</li><li><p>Ostend</p><p>has a lock</p><ol start="3"><li>north</li><li>south</li></ol></li></ul>
<blockquote><p>Time and tide</p><p>wait for no one.</p></blockquote>
<pre><code class="language-python">def tide():
    return 2  # a day
</code></pre>
<table><thead><tr><th>Port</th><th>Range | m</th></tr></thead>
<tbody><tr><td rowspan="2">Brest</td><td>6</td></tr><tr><td>7</td></tr><tr><td colspan="2">mean</td></tr>
</tbody></table>
<p>Height <math alttext="h^2"><mi>h</mi></math> and <script type="math/tex">x_1</script>.</p>
<p style="display: none">unseen</p><script>var unseen = 1</script><div hidden>unseen</div>
<table><tr><td><p>left</p><p>more</p><ul><li>a</li></ul></td></tr></table>
</body></html>"""

MARKDOWN = """# Tides

The sea rises twice a day,
and falls; see `tide()`.

## Ports

- Brest
- Ostend

  has a lock
  3. north
  4. south

> Time and tide
>
> wait for no one.

```python
def tide():
    return 2  # a day
```

| Port | Range \\| m |
| --- | --- |
| Brest | 6 |
|  | 7 |
| mean |  |

Height $h^2$ and $x_1$.

left

more

- a"""

SENTENCES = [
    f"In the {name} month the harbour silted up again, so the council, which had {number} boats, paid for a dredger."
    for number, name in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split(), 2)
]
MENU = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in "Home News Sport Weather Travel Culture".split())


def page(body: str, head: str = "") -> bytes:
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>".encode()


def test_structure_becomes_markdown() -> None:
    assert html_to_markdown(STRUCTURE) == MARKDOWN
    assert html_to_markdown(STRUCTURE.encode("utf-16")) == MARKDOWN


def test_a_list_that_lost_its_outer_item_starts_at_the_margin() -> None:
    assert html_to_markdown("<ul><li><ul><li>a<li>b</ul></ul>") == "- a\n- b"
    assert html_to_markdown("<ul><li><h3>Card</h3><p>text</p></ul>") == "### Card\n\ntext"


def test_two_line_breaks_part_paragraphs() -> None:
    assert html_to_markdown("<div>one<br>line<br> <br/>two</div>") == "one\nline\n\ntwo"


def test_code_is_kept_as_it_stands() -> None:
    numbers = "<td><pre>1\n2\n</pre></td>"
    code = '<table><tr>NUMBERS<td><pre class="brush: sql">select *\n  from `a` ```b\n</pre></td></tr></table>'
    assert html_to_markdown(code.replace("NUMBERS", numbers)) == "````sql\nselect *\n  from `a` ```b\n````"
    assert html_to_markdown("<h2>The <code>x<code>y</code></code> call</h2>") == "## The `xy` call"


@pytest.mark.parametrize("mode", MODES)
def test_the_frame_of_a_page_goes(mode: str) -> None:
    frame = {
        "cookie": "<div class='cookie-consent'><p>We use cookies to improve it. <a href=/p>More</a></p></div>",
        "menu": f"<nav class='main-navigation'><ul>{MENU}</ul></nav>",
        "related": "<aside class='related-posts'><h3>Related articles</h3><ul>"
        "<li><a href=/1>Ten lighthouses to see</a></li><li><a href=/2>Why gulls shout</a></li></ul></aside>",
        "comments": "<div id='comments' class='comments-area'><h3>2 comments</h3>"
        "<div class=comment><p>Great piece, thanks!</p></div><div class=comment><p>First!</p></div></div>",
        "footer": "<footer class='site-footer'><p>© 2020 The Harbour Post. All rights reserved.</p></footer>",
    }
    article = "<h2>Dredging</h2>".join("".join(f"<p>{line}</p>" for line in SENTENCES[n : n + 5]) for n in (0, 5))
    body = (
        f"{frame['cookie']}{frame['menu']}<main><article class='post'><h1>Silt</h1><div class='entry-content'>{article}"
    )
    body += f"</div></article>{frame['related']}{frame['comments']}</main>{frame['footer']}"
    text = read_html(page(body, "<title>Silt | The Harbour Post</title>"), mode)["text"]
    assert all(line in text for line in SENTENCES)
    assert "## Dredging" in text
    for words in ("cookies", "Weather", "lighthouses", "Great piece", "All rights"):
        assert words not in text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "body",
    [
        f"<p>{SENTENCES[0]}</p>",
        "<br><br>".join(SENTENCES),  # no element at all
        "<div>" + "".join(f"<div class=post><b>user{n}</b><div>{line}</div></div>" for n, line in enumerate(SENTENCES)),
        f"<table width=100%><tr><td><ul>{MENU}</ul><td>{'<br><br>'.join(SENTENCES)}</table>",
        f"<form id=aspnetForm><div id=container>{''.join(f'<p>{line}</p>' for line in SENTENCES)}</div></form>",
    ],
    ids=["short", "breaks", "forum", "layout table", "form"],
)
def test_pages_of_other_shapes_keep_their_text(mode: str, body: str) -> None:
    text = read_html(page(body), mode)["text"]
    missing = [line for line in SENTENCES if line in body and line not in text]
    assert not missing


# --- what a page says of itself ---------------------------------------------------------------------------------

HEAD = """<title>Silt | The Harbour Post</title><meta property="og:title" content="Silt in the harbour">
<meta name="author" content="A. Pilot"><link rel="canonical" href="https://example.org/silt?page=1">
<meta property="article:published_time" content="2020-03-04T23:30:00-08:00"><meta name="date" content="1999-01-01">"""


def test_a_page_describes_itself() -> None:
    data = page("<h1>Silt in the harbour</h1><p>x</p>", HEAD).replace(b"lang=en", b'lang="de-DE"')
    assert {name: value for name, value in read_html(data).items() if name != "text"} == {
        "title": "Silt in the harbour",
        "author": "A. Pilot",
        "date": "2020-03-04",
        "url": "https://example.org/silt?page=1",
        "language": "de-DE",
        "charset": "utf-8",
    }


def test_a_heading_is_the_title_without_the_site() -> None:
    assert read_html(page("<h1>Silt and mud</h1>", "<title>Silt and mud | Post</title>"))["title"] == "Silt and mud"
    assert read_html(page("<h1>Post</h1>", "<title>Silt and mud everywhere - Post</title>"))["title"].startswith("Silt")


def test_linked_data_names_author_and_date() -> None:
    data = '{"@graph": [{"@type": "NewsArticle", "headline": "x", "datePublished": "2021-05-06T07:08:09Z", '
    data += '"author": [{"name": "B. Pilot"}, {"name": "https://example.org"}, "C. Mate"]}]}'
    found = read_html(page("<p>x</p>", f'<script type="application/ld+json">{data}</script>'))
    assert (found["date"], found["author"]) == ("2021-05-06", "B. Pilot, C. Mate")


@pytest.mark.parametrize(
    "address", ["/silt", "javascript:alert(1)", "file:///etc/passwd", "http://[", "https://a b", ""]
)
def test_only_addresses_of_the_web_are_canonical(address: str) -> None:
    assert read_html(page("<p>x</p>", f'<link rel=canonical href="{address}">'))["url"] == ""


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2020-03-04T05:06:07Z", "2020-03-04"),
        ("20200304", "2020-03-04"),
        ("/2020/3/4/silt", "2020-03-04"),
        ("Am 4. März 2020 um 5 Uhr", "2020-03-04"),
        ("4.3.2020", "2020-03-04"),
        ("March 4th, 2020", "2020-03-04"),
        ("le 4 août 2020", "2020-08-04"),
        ("4 de marzo de 2020", "2020-03-04"),
        ("03/04/2020", ""),  # nobody knows the order
        ("2020-02-30", ""),
        ("in 2020", ""),
        ("1234567820200304", ""),
    ],
)
def test_dates_are_days(text: str, day: str) -> None:
    assert iso_day(text) == day


@pytest.mark.parametrize("mode", MODES)
def test_address_and_date_reach_the_document(mode: str) -> None:
    options = Extract(html=mode)
    (found,) = extract_file(page(f"<p>{SENTENCES[0]}</p>", HEAD), "a.html", options, Columns())
    assert isinstance(found, Extracted)
    assert (found.url, found.date) == ("https://example.org/silt?page=1", "2020-03-04")
    assert found.metadata["author"] == "A. Pilot"


# --- hostile markup -----------------------------------------------------------------------------------------------

HOSTILE = {
    "deep boxes": (b"<div>" * 100_000 + b"last", "last"),
    "open tags": (b"<b><a href=x><i>" * 30_000 + b"last", "last"),
    "open formatting": (b"<b><i><u><font>" * 400 + b"<p>text</b>" * 2_000 + b"last", "last"),
    "tables in tables": (b"<table><tr><td>a<tr><td>" * 5_000 + b"last", "last"),
    "lists in lists": (b"<ul><li>x" * 5_000 + b"last", "last"),
    "code in code": (b"<code>" * 1_900 + b"<i>`x</i>" * 5_000 + b"last", "last"),
    "breaks in a heading": (b"<h1>x" + b"<br>" * 30_000 + b"last", "last"),
    "wide cells": (b"<table>" + b"<tr><td colspan=99999 rowspan=99999>x<td>y" * 2_000 + b"</table>last", "last"),
    "headings and a title": (b"<title>" + b"abc " * 50_000 + b"</title>" + b"<h1>abc</h1>" * 5_000 + b"last", "last"),
    "entities": (b"<!DOCTYPE html [<!ENTITY a 'last'><!ENTITY b '&a;&a;'>]><p>&b; last &#0; &#xD800;", "last"),
    "brackets": (b"<!doctype html" + b"[" * 1_000_000 + b"><p>last", "last"),
    "unclosed declaration": (b" " * 1_000_000 + b"<?xml ", ""),
    "zero bytes": (b"<p>la\0st</p>\0\0", "last"),
    "linked data": (b"<script type='application/ld+json'>" + b"[" * 100_000 + b"</script><p>last", "last"),
    "frames": (b"<html><frameset><frame src=a><noframes>last</noframes></frameset></html>", "last"),
    "no body": (b"<html><head><title>t</title></head>last", "last"),
    "XHTML": (
        b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><p>last</p></body></html>",
        "last",
    ),
    "prefixes": (b"<h:html xmlns:h='http://www.w3.org/1999/xhtml'><h:body><h:p>last</h:p></h:body></h:html>", "last"),
    "hidden until loaded": (b"<html><body style='visibility:hidden'><p>last", "last"),
    "script only": (b"<html><body><script>document.write('x')</script></body></html>", ""),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markup_ends_soon_and_keeps_its_text(name: str, mode: str) -> None:
    data, wanted = HOSTILE[name]
    begin = time.process_time()
    text = read_html(data, mode)["text"]
    assert time.process_time() - begin < 10
    assert wanted in html_to_markdown(data)
    assert bool(text) == bool(wanted)


def test_the_walk_takes_time_in_proportion_to_the_page() -> None:
    def seconds(count: int) -> float:
        data = b"<div class=a><ul><li><code>x</code><br><table><tr><td>y</table></ul></div>" * count
        begin = time.process_time()
        read_html(data, "fast")
        return time.process_time() - begin

    seconds(100)
    assert min(seconds(3_200) for _ in range(3)) < 24 * max(seconds(400), 0.01)  # 64 times, if it were quadratic


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_are_read(data: bytes) -> None:
    for mode in MODES:
        found = read_html(data, mode)
        assert set(map(type, found.values())) == {str}


PIECES = st.sampled_from(
    (
        "<p> </p> <div class='a b'> </div> <ul> <ol> <li> </ul> <table> <tr> <td> </table> <pre> </pre> <code> </code> "
        "<h2> </h2> <br> <a href=x> </a> <blockquote> </blockquote> <b> <svg> </svg> <math> </math> <title> <script> "
        '</script> <!-- --> <![CDATA[ &amp; &#x0; < > " word -- ]]> <html> <body> <frameset> <template> <select> '
        "<h1 \0 é \x1b \n <?x"
    ).split(" ")
)


@given(st.lists(PIECES, max_size=40))
@settings(max_examples=150)
def test_any_tags_are_read_and_read_the_same_again(pieces: list[str]) -> None:
    data = "".join(pieces).encode()
    for mode in MODES:
        assert read_html(data, mode) == read_html(data, mode)
    html_to_markdown(data)


class _Words(HTMLParser):
    """The words of markup by the standard library's parser."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words += data.split()


WORD = st.text("abcdefgéß漢", min_size=1, max_size=6)
TREE = st.recursive(
    WORD.map(lambda word: f" {word} "),
    lambda inner: st.builds(
        lambda tag, children: f"<{tag}>{''.join(children)}</{tag}>",
        st.sampled_from(["div", "section", "ul", "ol", "blockquote", "span", "b", "article", "code"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=25,
)


@given(TREE)
@settings(max_examples=100)
def test_the_whole_page_has_every_word_in_order(markup: str) -> None:
    oracle = _Words()
    oracle.feed(markup)
    marks = str.maketrans("", "", "`>#-0123456789.")  # of code, quotes and list items
    assert html_to_markdown(f"<body>{markup}").translate(marks).split() == oracle.words


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="`"), min_size=1))
@settings(max_examples=60)
def test_escaped_text_comes_back(text: str) -> None:
    assert html_to_markdown(f"<p>{escapes.escape(text)}</p>") == text


# --- real pages -----------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.parametrize("mode", MODES)
def test_the_shipped_weights_find_the_text_of_real_pages(shared_data: Path, mode: str) -> None:
    rows = read_tables(shared_data / "html")[::20]
    texts = [plain(read_html(row["html"].encode(), mode)["text"]) for row in rows]
    assert figures(rows, texts)["mean"] > 0.95  # on pages that they were trained on: less means that something broke


@pytest.mark.slow
@pytest.mark.shared_data
def test_weights_trained_on_other_pages_find_the_text(shared_data: Path) -> None:
    pages = [label(row) for row in read_tables(shared_data / "html")]
    weights = train([page for page in pages if fold_of(page.row["id"], 3)], "careful")
    again = train([page for page in pages if fold_of(page.row["id"], 3)], "careful")
    assert all((weights[name] == again[name]).all() for name in weights)
    unseen = [page for page in pages if not fold_of(page.row["id"], 3)]
    right = total = 0.0
    for page in unseen:
        guess = probabilities(page.values["careful"], "careful", weights) > 0.5
        right += float((page.weight * (guess == (page.kept > 0.5))).sum())
        total += float(page.weight.sum())
    assert right / total > 0.9
