"""What tells the main text of a page from its frame: one row of numbers for each block.

The features are those that text extractors have relied on since boilerplate detection began (length, share of links,
punctuation, the names of the boxes around, what stands before and after); none knows a site by name.
"""

import math
import re
from itertools import chain

import numpy as np
import numpy.typing as npt

from pipelines.extract.html_blocks import Block, HtmlPage

Matrix = npt.NDArray[np.float32]

# Groups of words in the class, id, role and itemprop of a box; a word counts that begins or ends with one of these.
_NAMES = [
    "comment discuss disqus respond reply replies kommentar",
    "share sharing social facebook twitter follow sociable addthis whatsapp",
    "nav navigation navbar menu crumb breadcrumb pagination pager paging toc tab tabs skip sitemap",
    "foot footer copyright colophon legal disclaimer imprint impressum",
    "head header masthead topbar banner logo brand branding",
    "sidebar side aside widget rail secondary complementary column right left",
    "related recommend recommended teaser more most popular trending also similar promo next prev previous latest "
    "recent archive outbrain taboola card feed river list",
    "ad ads adv advert advertisement sponsor newsletter subscribe subscription signup donate donation cta offer "
    "paywall premium market marketing shop buy affiliate dfp werbung anzeige product price",
    "meta byline date time posted publish published tag tags category categories label credit source info stats views "
    "rating timestamp",
    "cookie consent gdpr privacy popup modal overlay lightbox alert message notice toast",
    "caption figure gallery image img photo picture video media player slide slider carousel embed",
    "login form search input button btn captcha vote poll survey",
    "article post entry story blog news single detail hentry",
    "content contents body text copy prose markdown richtext wysiwyg output paragraph fulltext",
    "main primary",
    "title headline heading lead intro summary abstract excerpt standfirst deck dek subtitle",
    "author bio profile about avatar writer contributor user member person",
    "hide hidden print mobile collapse collapsed invisible none tooltip noprint",
    "quote pullquote blockquote factbox infobox box",
    "page wrap wrapper container row col grid layout section block module region inner outer",
]
_NAME_BITS: dict[str, int] = {}
for _number, _words in enumerate(_NAMES):
    for _word in _words.split():
        _NAME_BITS[_word] = _NAME_BITS.get(_word, 0) | 1 << _number
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]{2,}")
_LENGTHS = range(4, max(map(len, _NAME_BITS)) + 1)  # of the names that count at either end of a word
_known_parts: dict[str, int] = {}  # words of names met before; what a page can put in is bounded
_KNOWN_PARTS = 50_000

_TAGS = {
    tag: 1 << number
    for number, tag in enumerate(
        "article main aside nav header footer form figure figcaption section li td blockquote dd ul p".split(),
        len(_NAMES),
    )
}
_BITS = np.arange(len(_NAMES) + len(_TAGS))
_TAGS |= {"ol": _TAGS["ul"], "th": _TAGS["td"], "dt": _TAGS["dd"], "caption": _TAGS["figcaption"]}
_PIECES = frozenset({"p", "li", "blockquote"})  # whose text is gathered by the box around them
_OUTSIDE = frozenset({"html", "body"})  # their classes describe the site

# Words of frames rather than of prose, in some of the larger languages of the web.
_FRAME_WORDS = frozenset(
    "copyright reserved rechte droits derechos weiterlesen mehr lire leer related advertisement advertising anzeige "
    "werbung publicité publicidad sponsored subscribe subscription abonnieren abonnez suscríbete newsletter sign login "
    "log anmelden einloggen register registrieren cookie cookies privacy datenschutz impressum terms agb share teilen "
    "partager compartir follow folgen facebook twitter whatsapp linkedin pinterest instagram youtube email mail "
    "comment comments kommentar kommentare commentaires comentarios reply antworten posted filed tagged tags tag "
    "schlagwörter kategorie kategorien category categories photo photograph photos foto bild getty reuters afp dpa ap "
    "download print drucken next previous zurück weiter startseite home menu menü top loading javascript ago updated "
    "published veröffentlicht uhr views you may popular recommended trending latest donate spenden contact kontakt "
    "about skip search suche rss feed click here read more continue author autor".split()
)
_SENTENCE_END = tuple(".!?…。！？।؟:\"”»'’)")
_WORD = re.compile(r"\w+")
_MARKS, _DIGITS, _CAPITALS = b".,;:!?", b"0123456789", bytes(range(65, 91))
_WIDE_MARKS = "。、，"
_SAMPLE = 600  # characters of a block that are looked at letter by letter
_FRAME_SAMPLE = 200  # frames speak in short blocks


def _part_bits(part: str) -> int:
    part = part.lower()
    bits = _NAME_BITS.get(part, 0)
    if not bits:
        for length in _LENGTHS:
            if length >= len(part):
                break
            bits |= _NAME_BITS.get(part[:length], 0) | _NAME_BITS.get(part[-length:], 0)
    return bits


def _name_bits(name: str) -> int:
    """The groups of names that occur in an attribute, as bits."""
    bits = 0
    for part in _NAME_PART.findall(name):
        known = _known_parts.get(part)
        if known is None:
            known = _part_bits(part)
            if len(_known_parts) < _KNOWN_PARTS:
                _known_parts[part] = known
        bits |= known
    return bits


def _shifted(values: Matrix, step: int) -> Matrix:
    """Each row replaced by the one `step` further on; zeros beyond the ends."""
    moved = np.zeros_like(values)
    if step > 0:
        moved[:-step] = values[step:]
    else:
        moved[-step:] = values[:step]
    return moved


def _context(page: HtmlPage) -> tuple[list[int], list[int], list[int]]:
    """For every box that holds text: the bits of its own and its parent's names and tags, those of all around it, and
    its depth."""
    boxes = page.boxes
    held = [False] * len(boxes)
    for block in page.blocks:
        index = block.box
        while index >= 0 and not held[index]:
            held[index] = True
            index = boxes[index].parent
    own, near, everything, depth = ([0] * len(boxes) for _ in range(4))
    met: dict[str, int] = {}
    for index, box in enumerate(boxes):
        if not held[index] or box.tag in _OUTSIDE:
            continue
        name, parent = box.name, box.parent
        bits = met.get(name)
        if bits is None:
            bits = met[name] = _name_bits(name)
        own[index] = bits = bits | _TAGS.get(box.tag, 0)
        near[index] = bits | own[parent]
        everything[index] = bits | everything[parent]
        depth[index] = depth[parent] + 1
    return near, everything, depth


def _measure(page: HtmlPage, title: str) -> npt.NDArray[np.float64]:
    """(blocks, 22): what can be counted in each block by itself; the columns are named in `features`."""
    words_of_title = set(_WORD.findall(title.lower()))
    seen: dict[str, int] = {}
    for block in page.blocks:
        seen[block.text] = seen.get(block.text, 0) + 1
    rows = []
    under_frame, since_heading = 0, 20
    for block in page.blocks:
        text, kind = block.text, block.kind
        size = len(text)
        sample = text if size <= _SAMPLE else text[:_SAMPLE]
        data = sample.encode(errors="ignore")
        length = len(data)
        commas = data.count(b",")
        marks = length - len(data.translate(None, _MARKS))
        if length > size:
            wide = sum(map(sample.count, _WIDE_MARKS))
            commas += wide
            marks += wide
        framed = same = 0
        if size <= _FRAME_SAMPLE:
            short = set(_WORD.findall(text.lower()))
            framed = len(short & _FRAME_WORDS) + ("©" in text)
            same = len(short & words_of_title)
        level = 0
        if kind[0] == "h":
            level = int(kind[1])
            under_frame, since_heading = 1 + (framed > 0), 0
        else:
            since_heading += 1
        rows.append(
            (
                size,
                block.links,
                len(sample),
                sample.count(" ") + 1,
                commas,
                marks,
                length - len(data.translate(None, _DIGITS)),
                length - len(data.translate(None, _CAPITALS)),
                size > _SAMPLE or sample.endswith(_SENTENCE_END),
                framed,
                same,
                under_frame,
                since_heading,
                level,
                kind == "pre",
                kind == "table",
                len(block.items),
                block.quotes,
                "\n" in text,
                seen[text],
                text[0].islower(),
                "http" in sample or "www." in sample or "@" in sample,
            )
        )
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * len(rows[0]))
    return flat.reshape(len(rows), -1)


def features(page: HtmlPage, title: str) -> Matrix:
    """(blocks, features) for a page of at least one block."""
    blocks, boxes = page.blocks, page.boxes
    count, box_count = len(blocks), len(boxes)
    near, everything, depth = _context(page)
    measured = _measure(page, title)
    size, links, sampled, words, commas, marks, digits, capitals, ends, framed, same = measured[:, :11].T
    total = float(size.sum()) or 1.0
    density = links / size
    coded = (measured[:, 14] + measured[:, 15]) > 0
    good = coded | ((size > 80) & (density < 0.3) & (marks > 0))
    numbers = np.arange(count)
    own = np.stack(
        [
            np.log1p(size),
            density,
            marks / words,
            ends,
            framed,
            good,
            measured[:, 13] > 0,
            sampled / words,
            digits / sampled,
            capitals / words,
            framed / words,
            same / words,
            same / max(len(set(_WORD.findall(title.lower()))), 1),
            measured[:, 11],
            np.minimum(measured[:, 12], 20),
            *measured[:, 13:17].T,
            np.minimum(measured[:, 17], 2),
            measured[:, 18],
            np.minimum(measured[:, 19], 4),
            *measured[:, 20:].T,
            density > 0.9,
            numbers / count,
            (np.cumsum(size) - size) / total,
            np.log1p(numbers),
            np.log1p(count - numbers),
            np.full(count, math.log1p(total)),
        ],
        axis=1,
    ).astype(np.float32)
    core = own[:, :7]

    # What every box holds, over all that stands in it. `score` is as readability counts: for the box around a
    # paragraph and, by half, for the one above.
    box_of = np.array([block.box for block in blocks])
    parents = [box.parent for box in boxes]
    parent_of = np.maximum(np.array(parents), 0)
    holders = [box.parent if box.tag in _PIECES else index for index, box in enumerate(boxes)]
    holder_of = np.maximum(np.array(holders), 0)[box_of]
    value = good * (1 + commas + np.minimum(size / 100, 3)) * (1 - density)
    score = np.bincount(holder_of, value, box_count) + np.bincount(parent_of[holder_of], value / 2, box_count)
    sums = [np.bincount(box_of, weights, box_count).tolist() for weights in (size, links, size * good, np.ones(count))]
    characters, linked, prose, pieces = sums
    for index in range(box_count - 1, 0, -1):  # parents come before what they hold
        if characters[index]:
            parent = parents[index]
            characters[parent] += characters[index]
            linked[parent] += linked[index]
            prose[parent] += prose[index]
            pieces[parent] += pieces[index]
    all_characters = np.array(characters)
    filled = np.maximum(all_characters, 1.0)
    density_of = np.array(linked) / filled
    best = int((score * (1 - density_of)).argmax())
    of_box = np.stack(
        [
            np.log1p(all_characters),
            density_of,
            np.array(prose) / filled,
            all_characters / total,
            np.minimum(np.array(pieces), 50),
            score / (score[best] or 1.0),
        ],
        axis=1,
    ).astype(np.float32)

    # How far a box is from the best one: steps up from the best one, and steps down from there.
    up, down = [0] * box_count, [0] * box_count
    around_best: set[int] = set()
    index = best
    while index >= 0:
        up[index] = len(around_best)
        around_best.add(index)
        index = parents[index]
    for index in range(1, box_count):
        if index not in around_best:
            up[index], down[index] = up[parents[index]], down[parents[index]] + 1
    up_of, down_of = np.array(up)[box_of], np.array(down)[box_of]
    inside = np.flatnonzero(up_of == 0)
    first, last = (inside[0], inside[-1]) if len(inside) else (0, count - 1)
    titles = np.flatnonzero(measured[:, 13] == 1)
    from_title = (numbers - titles[0]) / count if len(titles) else np.zeros(count)
    place = np.stack(
        [
            up_of,
            np.minimum(down_of, 9),
            up_of == 0,
            numbers < first,
            numbers > last,
            (numbers - first) / count,
            (numbers - last) / count,
            from_title,
            from_title > 0,
            (from_title == 0) & (len(titles) > 0),
            np.array(depth)[box_of],
        ],
        axis=1,
    ).astype(np.float32)
    parent_box = parent_of[box_of]
    bits = np.concatenate([np.array(near)[box_of, None] >> _BITS, np.array(everything)[box_of, None] >> _BITS], axis=1)
    return np.concatenate(
        [
            own,
            place,
            of_box[box_of],
            of_box[parent_box],
            of_box[parent_of[parent_box]],
            (bits & 1).astype(np.float32),
            *(_shifted(core, step) for step in (-3, -2, -1, 1, 2, 3)),
        ],
        axis=1,
    )


# --- a second opinion -----------------------------------------------------------------------------------------

_BULLETS = "-*•0123456789. "


def votes(blocks: list[Block], text: str) -> Matrix:
    """(blocks, 8): how much of each block another extractor kept, whose result is `text`."""
    lines = {" ".join(line.split()).lstrip(_BULLETS) for line in text.split("\n")}
    words = _WORD.findall(text)
    grams = set(zip(words, words[1:], words[2:], words[3:]))
    rows = []
    kept = total = 0.0
    for block in blocks:
        whole = " ".join(block.text.split()).lstrip(_BULLETS) in lines
        found = _WORD.findall(block.text)
        share = float(whole)
        if not whole and len(found) > 3:
            own = list(zip(found, found[1:], found[2:], found[3:]))
            share = sum(map(grams.__contains__, own)) / len(own)
        kept += share * len(found)
        total += len(found)
        rows.append((share, whole))
    own_votes = np.array(rows, dtype=np.float32)
    page = np.empty((len(blocks), 2), dtype=np.float32)
    page[:] = kept / (total or 1.0), math.log1p(len(text))
    return np.concatenate([own_votes, page, *(_shifted(own_votes[:, :1], step) for step in (-2, -1, 1, 2))], axis=1)
