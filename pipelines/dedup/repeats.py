"""What documents repeat of one another: lines, paragraphs, and passages of many words; as arrays.

A line or paragraph is compared as the hash of its characters in NFC, white space folded, case kept. A *passage* is a
run of words (lower case, NFC) that weighs `size`: a word weighs 1, a character of a script without spaces half. Every
place of a text where so many words follow begins one, so what two texts share is, word for word, the union of the
passages that both hold.

Most passages stand in one text only, and to hash and shuffle all of them would cost many times the text. So they are
chosen by winnowing (Schleimer, Wilkerson and Aiken 2003): the *anchor* of a passage is the smallest hash of the runs
of a third of `size` words in it. Equal passages have equal anchors, and neighbours mostly share theirs: some 6 in
100 words begin a new one. Only the passages of anchors that several documents hold are then hashed as a whole.

Hashes are 64 bits over hashes of words or characters and are not looked behind: among a billion different passages
about .03 pairs collide.

Whatever is repeated stays in the document with the smallest id of those that hold it: the same whatever the order of
shards. Nothing is lost: what is cut in a document stands whole in a document with a smaller id, or is cut there for
one with a still smaller id.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import regex

from pipelines import words
from pipelines.groups import borders
from pipelines.words import SPACELESS, Words
from schemas.hashing import span_hashes

FEW_WORDS = 3  # a line of fewer is cut only beside another that is repeated: menus come in blocks, headings alone
ANCHOR_SHARE = 3  # an anchor has this part of the words of a passage
SEARCHED = 512  # characters that are looked at first for the last sentence of a passage

LINE, PARAGRAPH, SUBSTRING = 0, 1, 2
KINDS = ("line", "paragraph", "substring")

KEY = np.dtype([("hash", "<u8"), ("id", "<u8", 2), ("shard", "<u4"), ("documents", "<u4")])
ANCHOR = np.dtype([("hash", "<u8"), ("shard", "<u4"), ("documents", "<u4")])
SPAN = np.dtype(
    [
        ("row", "<i8"),  # or the number of the text in its batch
        ("begin", "<i8"),  # UTF-8 bytes of the text
        ("end", "<i8"),
        ("kind", "<i8"),
        ("hash", "<u8"),
        ("documents", "<u4"),
        ("id", "<u8", 2),  # where it stays
        ("cut_begin", "<i8"),  # equal to cut_end where nothing is to be cut
        ("cut_end", "<i8"),
    ]
)


# -------------------------------------------------------------------------------------------- lines and paragraphs


@dataclass(frozen=True)
class Lines:
    """Lines, or paragraphs, that have words, of several texts end to end."""

    texts: np.ndarray  # int64: which text it belongs to, ascending
    begins: np.ndarray  # int64: UTF-8 bytes of that text
    ends: np.ndarray  # with the line feed, if one follows
    hashes: np.ndarray  # uint64
    few: np.ndarray  # bool: of fewer than FEW_WORDS words


def lines_and_paragraphs(texts: Sequence[str]) -> tuple[Lines, Lines]:
    """Lines end at line feeds, paragraphs at blank lines."""
    data = [text.encode() for text in texts]
    starts = np.cumsum([0, *(len(one) + 1 for one in data)])
    feeds = np.flatnonzero(np.frombuffer(b"\n".join([*data, b""]), np.uint8) == _FEED)
    begins, ends = np.append(0, feeds + 1)[: len(feeds)], feeds + 1  # of all lines, in all bytes
    owners = np.searchsorted(starts, begins, side="right") - 1
    begins, ends = begins - starts[owners], np.minimum(ends, starts[owners + 1] - 1) - starts[owners]

    # The lines are the same in the normal form, where they are compared.
    normal = ["".join([words.normal("NFC", piece) for piece in words.pieces(text)]) for text in texts]
    codes, kinds = words.characters("\n".join([*normal, ""]))
    ink = ~np.take(_spaces(), codes, mode="clip")
    feeds, inked = np.flatnonzero(codes == _FEED), np.flatnonzero(ink)
    first = np.searchsorted(inked, np.append(0, feeds + 1)[: len(feeds)])
    last = np.searchsorted(inked, feeds) - 1
    lines = np.flatnonzero(first <= last)  # those that are not blank
    first, last = inked[first[lines]], inked[last[lines]] + 1
    folded = ink.copy()
    folded[1:] |= ink[:-1]  # of every run of white space the first
    codes = np.where(ink, codes, np.uint32(ord(" ")))[folded]
    place = np.append(0, np.cumsum(folded))  # of a character among those
    weights = np.zeros(len(kinds) + 1, np.int64)
    word_begins, _ = words.places(kinds)
    weights[1 + word_begins] = 2 - (kinds[word_begins] == SPACELESS)
    weights = np.cumsum(weights)

    def compared(heads: np.ndarray, tails: np.ndarray) -> Lines:
        begin, end = first[heads], last[tails]
        weight = weights[end] - weights[begin]
        some = np.flatnonzero(weight)
        hashes = span_hashes(codes, place[begin[some]], place[end[some]])
        head, tail = lines[heads[some]], lines[tails[some]]
        return Lines(owners[head], begins[head], ends[tail], hashes, weight[some] < 2 * FEW_WORDS)

    apart = (np.diff(lines, prepend=-2) != 1) | (np.diff(owners[lines], prepend=-1) != 0)
    heads = np.flatnonzero(apart)
    tails = np.append(heads, len(lines))[1:] - 1
    every = np.arange(len(lines))
    return compared(every, every), compared(heads, tails)


_FEED = ord("\n")


@cache
def _spaces() -> np.ndarray:
    """Which code points are white space: bool [0x110000]; none are above the first plane."""
    found = np.zeros(0x110000, bool)
    found[[code for code in range(0x10000) if chr(code).isspace()]] = True
    return found


# -------------------------------------------------------------------------------------------------------- passages


@dataclass(frozen=True)
class Passages:
    """Passages of several texts, in order: the words from `begins` to `ends` of a Words."""

    texts: np.ndarray  # int64
    begins: np.ndarray  # int64
    ends: np.ndarray

    def select(self, chosen: np.ndarray) -> "Passages":
        return Passages(self.texts[chosen], self.begins[chosen], self.ends[chosen])


def passages(found: Words, size: int) -> Passages:
    """All passages of each text: one from every word that is followed by enough others."""
    ends = _reach(found, size)
    whole = np.flatnonzero(ends <= np.repeat(found.offsets[1:], found.lengths))
    texts = np.repeat(np.arange(len(found.lengths)), found.lengths)
    return Passages(texts[whole], whole, ends[whole])


def anchors(found: Words, chosen: Passages, size: int) -> np.ndarray:
    """The anchor of each of the passages, uint64."""
    ends = _reach(found, max(1, size // ANCHOR_SHARE))
    inside = ends <= np.repeat(found.offsets[1:], found.lengths)
    hashes = np.zeros(len(ends), np.uint64)
    hashes[inside] = span_hashes(found.hashes, np.flatnonzero(inside), ends[inside])
    return range_minima(hashes, chosen.begins, np.searchsorted(ends, chosen.ends, side="right"))


def _reach(found: Words, size: int) -> np.ndarray:
    """For each word the end of the run from there that weighs `size`; beyond all words, if there are not so many."""
    if not found.spaceless.any():
        return np.arange(size, size + len(found.hashes))
    weights = np.append(0, np.cumsum(2 - found.spaceless.astype(np.int64)))
    return np.searchsorted(weights, weights[:-1] + 2 * size)


def range_minima(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """min(values[begins[i] : ends[i]]) for every i; no range is empty."""
    found = np.empty(len(begins), values.dtype)
    levels = np.frexp(ends - begins)[1] - 1  # the largest power of two that is not longer
    table = values  # of the smallest of 2**level values each
    for level in range(int(levels.max(initial=-1)) + 1):
        if level:
            step = 1 << (level - 1)
            table = np.minimum(table[:-step], table[step:])
        here = np.flatnonzero(levels == level)
        found[here] = np.minimum(table[begins[here]], table[ends[here] - (1 << level)])
    return found


def passage_hashes(found: Words, chosen: Passages) -> np.ndarray:
    return span_hashes(found.hashes, chosen.begins, chosen.ends)


# -------------------------------------------------------------------------------------------- how many documents


def make_anchors(found: np.ndarray, texts: np.ndarray, shard: int) -> np.ndarray:
    """ANCHOR records of the texts of a batch, each once, from the anchors of all passages and the texts of these."""
    fresh = borders(found, texts)
    hashes, _ = _pairs(found[fresh], texts[fresh])
    records = np.zeros(len(hashes), ANCHOR)
    records["hash"], records["shard"], records["documents"] = hashes, shard, 1
    return merge(records)


def make_keys(hashes: np.ndarray, texts: np.ndarray, ids: np.ndarray, shard: int) -> np.ndarray:
    """KEY records of what the texts of a batch hold, each hash once; `ids` uint64 [texts, 2]."""
    hashes, texts = _pairs(hashes, texts)
    records = np.zeros(len(hashes), KEY)
    records["hash"], records["id"], records["shard"], records["documents"] = hashes, ids[texts], shard, 1
    return merge(records)


def merge(records: np.ndarray) -> np.ndarray:
    """Records (KEY or ANCHOR) of different documents, one for each hash and shard, with the smallest id; sorted."""
    records = records[_order(records, ("hash", "shard"))]
    starts = np.flatnonzero(borders(records["hash"], records["shard"]))
    found = records[starts]
    if len(found):
        found["documents"] = np.add.reduceat(records["documents"], starts)
    return found


def repeated(records: np.ndarray, limit: int) -> np.ndarray:
    """Of what stands in more than `limit` documents the records (KEY or ANCHOR), one for each shard that it is in.

    They name all its documents, and the smallest id of all.
    """
    records = records[_order(records, ("hash",))]
    opens = borders(records["hash"])
    starts = np.flatnonzero(opens)
    if not len(starts):
        return records
    group = np.cumsum(opens) - 1
    totals = np.add.reduceat(records["documents"], starts)
    firsts = records[starts].copy()
    firsts["documents"] = totals
    found = firsts[group]
    found["shard"] = records["shard"]
    found = found[totals[group] > limit]
    found = found[np.lexsort((found["shard"], found["hash"]))]
    return found[borders(found["hash"], found["shard"])]


def look_up(hashes: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each hash its place among `known` (sorted), and whether it is there."""
    if not len(known):
        return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
    place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return place, known[place] == hashes


def _pairs(hashes: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of a hash and a text once."""
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    fresh = borders(hashes, texts)
    return hashes[fresh], texts[fresh]


def _order(records: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """By `names`, then by id where there is one."""
    least = (records["id"][:, 1], records["id"][:, 0]) if records.dtype == KEY else ()
    return np.lexsort((*least, *(records[name] for name in reversed(names))))


# ----------------------------------------------------------------------------------------------------------- spans


def repeated_lines(found: Lines, kind: int, ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """SPAN records of the lines (or paragraphs) that are among `known` and stay in another document.

    `ids`: uint64 [texts, 2]; `known`: KEY records of `repeated`, sorted by hash. One of few words is to be cut only if
    the one before or behind it is repeated as well.
    """
    place, hit = look_up(found.hashes, known["hash"])
    beside = np.zeros(len(hit), bool)
    same = found.texts[1:] == found.texts[:-1]
    beside[1:] |= hit[:-1] & same
    beside[:-1] |= hit[1:] & same
    stays = np.zeros(len(hit), bool)
    stays[hit] = (known["id"][place[hit]] == ids[found.texts[hit]]).all(axis=1)
    some = np.flatnonzero(hit & ~stays)
    spans = np.zeros(len(some), SPAN)
    spans["row"], spans["kind"] = found.texts[some], kind
    spans["begin"], spans["end"], spans["hash"] = found.begins[some], found.ends[some], found.hashes[some]
    spans["documents"], spans["id"] = known["documents"][place[some]], known["id"][place[some]]
    spans["cut_begin"] = spans["begin"]
    spans["cut_end"] = np.where(~found.few[some] | beside[some], spans["end"], spans["begin"])
    return spans


def repeated_passages(
    texts: Sequence[str], found: Words, chosen: Passages, ids: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """SPAN records of the longest runs of words that lie in passages of `known` that stay in other documents.

    To be cut are the whole sentences in them.
    """
    place, hit = look_up(passage_hashes(found, chosen), known["hash"])
    hit[hit] = (known["id"][place[hit]] != ids[chosen.texts[hit]]).any(axis=1)
    if not hit.any():
        return np.zeros(0, SPAN)
    owner, begins, ends, place = chosen.texts[hit], chosen.begins[hit], chosen.ends[hit], place[hit]
    opens = borders(owner)
    opens[1:] |= begins[1:] > ends[:-1]
    starts = np.flatnonzero(opens)
    spans = np.zeros(len(starts), SPAN)
    spans["row"], spans["kind"] = owner[starts], SUBSTRING
    spans["documents"] = np.maximum.reduceat(known["documents"][place], starts)
    spans["id"] = known["id"][place[starts]]
    first = begins[starts] - found.offsets[owner[starts]]
    last = ends[np.append(starts[1:], len(owner)) - 1] - found.offsets[owner[starts]]
    for text in np.unique(spans["row"]):
        here = np.flatnonzero(spans["row"] == text)
        where = _in_bytes(texts[text], _sentences(texts[text], first[here], last[here]))
        for name, column in zip(("begin", "end", "cut_begin", "cut_end"), where):
            spans[name][here] = column
    return spans


def _sentences(text: str, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Where the words from `first` to `last` stand, and the whole sentences in them: int64 [4, spans], characters.

    Without a whole sentence the last two are equal.
    """
    begins, ends = word_places(text)
    low = np.append(0, ends)[first]  # what stands between words may belong to the sentence
    high = np.append(begins, len(text))[last]
    cuts = np.array([whole_sentences(text, *span) for span in zip(low.tolist(), high.tolist())], np.int64)
    return np.stack([begins[first], ends[last - 1], cuts[:, 0], cuts[:, 1]])


def whole_sentences(text: str, low: int, high: int) -> tuple[int, int]:
    """From the first place between `low` and `high` where a sentence may begin to the last; two equal if there is none.

    `low` is 0 or follows a word, `high` is the end of the text or precedes a word. Sentences begin with the text and
    where a match of `sentence_end` ends.
    """
    begin = 0 if low == 0 else next(_sentence_ends(text, low, high), high)
    if begin == high or high == len(text):
        return begin, high
    start, size = high, SEARCHED
    while start > begin:  # backwards, so that a long passage is not gone through for its last sentence
        start, size = max(begin, high - size), 4 * size
        ends = list(_sentence_ends(text, start, high))
        if ends:
            return begin, ends[-1]
    return begin, begin


def _sentence_ends(text: str, low: int, high: int) -> Iterator[int]:
    matches = sentence_end().finditer(text, low, min(high + 1, len(text)))  # it looks at the letter behind as well
    return (match.end() for match in matches)


def word_places(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the words of `kernels.split_words` begin and end: characters of the text as it is."""
    begins, ends, done = [], [], 0
    for piece in words.pieces(text):
        normal = words.normal("NFC", piece).lower()
        begin, end = words.places(words.characters(normal)[1])
        if len(normal) != len(piece):
            units = regex.findall(r"\X", piece)
            sizes = np.cumsum([0, *map(len, units)])
            owner = np.repeat(np.arange(len(units)), [len(words.normal("NFC", unit).lower()) for unit in units])
            owner = owner[np.minimum(np.arange(len(normal)), len(owner) - 1)]
            begin, end = sizes[owner[begin]], sizes[owner[end - 1] + 1]
        begins.append(begin + done)
        ends.append(end + done)
        done += len(piece)
    return np.concatenate(begins), np.concatenate(ends)


@cache
def sentence_end() -> regex.Pattern[str]:
    """Matches what ends a sentence, up to the place where the next may begin.

    That is a mark which ends sentences in some script, closing marks and (it has to follow ASCII marks) white space; a
    line feed; in Thai and Lao, which have no such marks, white space. Before a small letter no sentence ends: there a
    line was wrapped, or the full stop was that of an abbreviation.
    """
    close = r"[\p{Pe}\p{Pf}\p{Pi}\"'*_]*+"
    others = r"[[\p{Sentence_Terminal}\u0F0D\u0F0E\u10FB\u17D6]--[.!?]]"
    return regex.compile(
        rf"(?V1)(?:[.!?]{close}\s++|{others}{close}\s*+|\n\s*+|(?<=[\p{{Thai}}\p{{Lao}}])\s++)(?!\p{{Ll}})"
    )


def _in_bytes(text: str, places: np.ndarray) -> np.ndarray:
    """UTF-8 bytes before each of the characters `places`."""
    if text.isascii():
        return places
    wanted, inverse = np.unique(places.ravel(), return_inverse=True)
    sizes = [len(text[begin:end].encode()) for begin, end in pairwise([0, *wanted.tolist()])]
    return np.cumsum(sizes)[inverse].reshape(places.shape)
