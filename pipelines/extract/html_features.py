"""What tells the main text of a page from its frame: one row of numbers for each block.

The features are those that text extractors have relied on since boilerplate detection began (length, share of links,
punctuation, the names of the boxes around, what stands before and after); none knows a site by name.
"""

import math
import re

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
_LONG_NAMES = sorted((name for name in _NAME_BITS if len(name) > 3), key=len, reverse=True)
_known_parts: dict[str, int] = {}  # words of names met before; what a page can put in is bounded
_KNOWN_PARTS = 50_000

_TAGS = {
    tag: 1 << number
    for number, tag in enumerate(
        "article main aside nav header footer form figure figcaption section li td blockquote dd ul p".split()
    )
}
_TAG_COUNT = len(_TAGS)
_TAGS |= {"ol": _TAGS["ul"], "th": _TAGS["td"], "dt": _TAGS["dd"], "caption": _TAGS["figcaption"]}
_OUTSIDE = frozenset({"html", "body"})  # their classes describe the site

# Words of frames rather than of prose, in some of the larger languages of the web.
_FRAME_WORDS = frozenset(
    "© copyright reserved rechte droits derechos weiterlesen mehr lire leer related advertisement advertising anzeige "
    "werbung publicité publicidad sponsored subscribe subscription abonnieren abonnez suscríbete newsletter sign login "
    "log anmelden einloggen register registrieren cookie cookies privacy datenschutz impressum terms agb share teilen "
    "partager compartir follow folgen facebook twitter whatsapp linkedin pinterest instagram youtube email e-mail "
    "comment comments kommentar kommentare commentaires comentarios reply antworten posted filed tagged tags tag "
    "schlagwörter kategorie kategorien category categories photo photograph photos foto bild getty reuters afp dpa ap "
    "download print drucken next previous zurück weiter startseite home menu menü top loading javascript ago updated "
    "published veröffentlicht uhr views you may popular recommended trending latest donate spenden contact kontakt "
    "about skip search suche rss feed click here read more continue author autor".split()
)
_STRIP = ".,:;!?()[]|«»\"'…"
_SENTENCE_END = tuple(".!?…。！？।؟:\"”»'’)")
_MARKS = ".,;:!?。、，"
_DIGITS = re.compile(r"\d")
_CAPITALS = re.compile("[A-ZÄÖÜÀ-Þ]")
_SAMPLE = 600  # characters of a block that are looked at letter by letter
_FRAME_SAMPLE = 200  # frames speak in short blocks


def _part_bits(part: str) -> int:
    part = part.lower()
    bits = _NAME_BITS.get(part, 0)
    if not bits:
        for name in _LONG_NAMES:
            if part.startswith(name) or part.endswith(name):
                bits |= _NAME_BITS[name]
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


def _spread(values: list[int], count: int) -> Matrix:
    """(rows, count) of zeros and ones from integers that hold bits."""
    column = np.array(values, dtype=np.int64)[:, None]
    return ((column >> np.arange(count)) & 1).astype(np.float32)


def _shifted(values: Matrix, step: int) -> Matrix:
    """Each row replaced by the one `step` further on; zeros beyond the ends."""
    moved = np.zeros_like(values)
    if step > 0:
        moved[:-step] = values[step:]
    else:
        moved[-step:] = values[:step]
    return moved


def _words_of(text: str) -> set[str]:
    return {word.strip(_STRIP) for word in text.lower().split()}


def features(page: HtmlPage, title: str) -> Matrix:
    """(blocks, features) for a page of at least one block."""
    blocks, boxes = page.blocks, page.boxes
    count, box_count = len(blocks), len(boxes)

    # What lies around every box: the groups of its own name and of its parent's, and those of all above it.
    parents = [box.parent for box in boxes]
    near_names, all_names, near_tags, all_tags, depth = [0], [0], [0], [0], [0]
    own_names, own_tags = [0], [0]
    met: dict[str, int] = {"": 0}
    for box in boxes[1:]:
        name, tag, parent = box.name, box.tag, box.parent
        bits = met.get(name)
        if bits is None:
            bits = met[name] = _name_bits(name)
        if tag in _OUTSIDE:
            bits = 0
        tags = _TAGS.get(tag, 0)
        own_names.append(bits)
        own_tags.append(tags)
        near_names.append(bits | own_names[parent])
        near_tags.append(tags | own_tags[parent])
        all_names.append(bits | all_names[parent])
        all_tags.append(tags | all_tags[parent])
        depth.append(depth[parent] + 1)

    sizes = [len(block.text) for block in blocks]
    total = float(sum(sizes)) or 1.0
    characters = [0.0] * box_count
    links = [0.0] * box_count
    pieces = [0] * box_count
    prose = [0.0] * box_count  # characters in blocks that read like sentences
    score = [0.0] * box_count  # as readability counts: for the box around a paragraph and, by half, for the one above
    words_of_title = _words_of(title)
    title_size = len(words_of_title) or 1
    seen: dict[str, int] = {}
    for block in blocks:
        seen[block.text] = seen.get(block.text, 0) + 1
    rows = []
    under_frame, since_heading, before = 0, 20, 0
    for number, block in enumerate(blocks):
        text, size, kind = block.text, sizes[number], block.kind
        density = block.links / size
        sample = text[:_SAMPLE]
        sampled = len(sample)
        words = sample.count(" ") + 1
        commas = sample.count(",") + sample.count("，") + sample.count("、")
        punctuation = sum(map(sample.count, _MARKS))
        heading = kind[0] == "h"
        framed = same = 0
        if size <= _FRAME_SAMPLE:
            short = _words_of(text)
            framed = len(short & _FRAME_WORDS)
            same = len(short & words_of_title)
        if heading:
            under_frame, since_heading = 1 + (framed > 0), 0
        elif since_heading < 20:
            since_heading += 1
        good = kind == "pre" or kind == "table" or (size > 80 and density < 0.3 and punctuation > 0)
        box_index = block.box
        characters[box_index] += size
        links[box_index] += block.links
        pieces[box_index] += 1
        if good:
            prose[box_index] += size
            value = (1 + commas + min(size / 100, 3)) * (1 - density)
            # A paragraph's own box holds nothing else: its parent is what gathers the text.
            holder = parents[box_index] if boxes[box_index].tag in {"p", "li", "blockquote"} else box_index
            if holder >= 0:
                score[holder] += value
                if parents[holder] >= 0:
                    score[parents[holder]] += value / 2
        rows.append(
            (
                math.log1p(size),
                density,
                punctuation / words,
                sampled / words,
                len(_DIGITS.findall(sample)) / sampled,
                len(_CAPITALS.findall(sample)) / words,
                sample.endswith(_SENTENCE_END) if size <= _SAMPLE else 1,
                framed,
                framed / words,
                under_frame,
                since_heading,
                good,
                heading,
                int(kind[1]) if heading else 0,
                kind == "pre",
                kind == "table",
                len(block.items),
                min(block.quotes, 2),
                "\n" in text,
                min(seen[text], 4),
                number / count,
                before / total,
                math.log1p(number),
                math.log1p(count - number),
                math.log1p(total),
                same / title_size,
                same / words,
                depth[box_index],
                "|" in sample,
                text[0].islower(),
                density > 0.9,
                "http" in sample or "www." in sample,
                "@" in sample,
            )
        )
        before += size
    for index in range(box_count - 1, 0, -1):  # parents come before what they hold
        parent = parents[index]
        characters[parent] += characters[index]
        links[parent] += links[index]
        pieces[parent] += pieces[index]
        prose[parent] += prose[index]

    density_of = [link / size if size else 0.0 for link, size in zip(links, characters)]
    ranks = [value * (1 - share) for value, share in zip(score, density_of)]
    best = ranks.index(max(ranks))
    best_score = score[best] or 1.0
    above_best: dict[int, int] = {}  # the best box and those around it -> how far above it
    index = best
    while index >= 0:
        above_best[index] = len(above_best)
        index = parents[index]
    # How far a box is from the best one: steps up from the best one, and steps down from there.
    up, down = [0] * box_count, [0] * box_count
    for index, parent in enumerate(parents):
        if index in above_best:
            up[index] = above_best[index]
        elif parent >= 0:
            up[index], down[index] = up[parent], down[parent] + 1

    box_of = np.array([block.box for block in blocks])
    parent_of = np.maximum(np.array(parents), 0)
    numbers = np.arange(count)
    up_of, down_of = np.array(up)[box_of], np.array(down)[box_of]
    inside = np.flatnonzero(up_of == 0)
    first, last = (inside[0], inside[-1]) if len(inside) else (0, count - 1)
    titles = [number for number, block in enumerate(blocks) if block.kind == "h1"]
    from_title = (numbers - titles[0]) / count if titles else np.zeros(count)
    place = [
        up_of,
        np.minimum(down_of, 9),
        up_of == 0,
        numbers < first,
        numbers > last,
        (numbers - first) / count,
        (numbers - last) / count,
        from_title,
        from_title > 0,
        (from_title == 0) & bool(titles),
    ]
    sums = np.array(characters)
    of_box = np.stack(
        [
            np.log1p(sums),
            np.array(density_of),
            np.array(prose) / np.maximum(sums, 1.0),
            sums / total,
            np.minimum(np.array(pieces), 50),
            np.array(score) / best_score,
        ],
        axis=1,
    ).astype(np.float32)
    parent_box = parent_of[box_of]
    own = np.array(rows, dtype=np.float32)
    core = own[:, [0, 1, 2, 6, 7, 11, 12]]
    return np.concatenate(
        [
            own,
            np.stack(place, axis=1).astype(np.float32),
            of_box[box_of],
            of_box[parent_box],
            of_box[parent_of[parent_box]],
            _spread([near_names[box] for box in box_of], len(_NAMES)),
            _spread([all_names[box] for box in box_of], len(_NAMES)),
            _spread([near_tags[box] for box in box_of], _TAG_COUNT),
            _spread([all_tags[box] for box in box_of], _TAG_COUNT),
            *(_shifted(core, step) for step in (-3, -2, -1, 1, 2, 3)),
        ],
        axis=1,
    )


# --- a second opinion -----------------------------------------------------------------------------------------

_WORD = re.compile(r"\w+")
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
