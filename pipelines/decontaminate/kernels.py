"""Items of benchmarks in texts: candidates by runs of words, then how much of an item a text holds near one.

An item is its question, its answer and its choices, in this order, as words (see normal.py; in scripts without spaces
two characters count as one word). With n = 13:

- A text is a candidate where it has a run of n words in common with an item; of an item, or a question, under 2 n words
  a run of half of them, so that one changed word hides none, and half of the longest of question, answer and choices.
- Near a candidate (within half the item's length and n words) the words of the item are found that stand in a run of
  RUN words which the text has there as well, in any order; stretches of fewer than a quarter of the words, RUN at
  least and n / 2 at most, do not count. Of the item the share `overlap` must be found, and n words, or of a short item
  what one changed word leaves. The question alone, or question and answer without all the choices, are enough where
  NEARLY all of them is found; all of them, if they have fewer than 2 n words, since a short question with choices is
  often a formula: then n words of it must be none. Half of an item is nothing without its question, of which the share
  `overlap` must be found in any case.
- An item of fewer than n words is in a text where its question stands there word for word; if other items ask the same,
  or it has fewer than LEAST_WORDS, all of it.

Formulas are no leak and do not count, neither as found nor as missing: words of a benchmark in runs that more than
FORMULAIC of its items have, and words that the corpus holds in too many documents without the rest (see `partial`).
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import xxhash

from pipelines import words
from pipelines.decontaminate.benchmarks import Item
from pipelines.decontaminate.normal import split_words
from pipelines.groups import borders
from pipelines.words import spans
from schemas.hashing import GOLDEN, scramble

FORMULAIC = 20  # a run of words in more different items of one benchmark than this is a formula, not a leak
LEAST_WORDS = 4  # shorter items say too little
RUN = 3  # words
NEARLY = 0.75  # of a question, or question and answer: what one changed word leaves; less of them is no leak
EXCERPT = 300  # characters of an item that are kept to be shown
PARTS = ("question", "answer", "item")  # what each column of `Index.parts` ends with
SHORT = "short"
HITS = 1 << 19  # looked at in one go: bounds the working arrays
REGION = 16  # a stretch of text in which one item is looked for is at most about this many times as long as the item
TOLERANCE = 1e-9  # of shares: 0.3 of 10 words is 3 of them, however the product is rounded
_NO_WORDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Index:
    """The items of all benchmarks; item i has the words `words[offsets[i]:offsets[i + 1]]`.

    `keys` are hashes of runs of words that stand at `places`: enough of them that no candidate is missed.
    """

    names: np.ndarray  # str [benchmarks], sorted
    benchmarks: np.ndarray  # int32 [items]: index into `names`
    numbers: np.ndarray  # int32 [items]: which item of the benchmark it is
    words: np.ndarray  # uint64
    offsets: np.ndarray  # int64 [items + 1]
    own: np.ndarray  # bool [words]: no formula
    questions: np.ndarray  # int32 [items]: words of the question
    chosen: np.ndarray  # bool [items]: there are choices
    parts: np.ndarray  # int32 [items, 3]: words of question, question and answer, all; 0 for one that is not judged
    factors: np.ndarray  # int32 [items]: 2 in scripts without spaces, else 1
    needs: np.ndarray  # int32 [items]: words in a row that make a candidate; the whole of a short item
    short: np.ndarray  # bool [items]
    ngram: np.ndarray  # int32 []: the n of the rule
    keys: np.ndarray  # uint64, sorted
    places: np.ndarray  # int32: index into `words`
    lengths: np.ndarray  # int32, sorted: lengths in words of the runs that are keys
    bits: np.ndarray  # uint8: a bit per value of the upper bits of a hash, set where there may be such a key
    excerpts: np.ndarray  # uint8: the beginnings of the items in UTF-8
    excerpt_offsets: np.ndarray  # int64 [items + 1]

    @property
    def nbytes(self) -> int:
        return sum(np.asarray(getattr(self, field.name)).nbytes for field in fields(self))

    def excerpt(self, item: int) -> str:
        return self.excerpts[self.excerpt_offsets[item] : self.excerpt_offsets[item + 1]].tobytes().decode()


@dataclass(frozen=True)
class Found:
    """Places of texts that hold some of an item, sorted by text, item and place.

    Place i has the words of the item `item_words[item_offsets[i]:item_offsets[i + 1]]` (0 is its first word), which are
    the words `text_words[text_offsets[i]:text_offsets[i + 1]]` of the text, both sorted.
    """

    texts: np.ndarray  # int64
    items: np.ndarray  # int64
    item_words: np.ndarray  # int32
    item_offsets: np.ndarray  # int64
    text_words: np.ndarray  # int64
    text_offsets: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Verdict:
    """For each place: the part of the item that is found best, its words, those of them found, and if it is a leak."""

    parts: np.ndarray  # int64: index into PARTS
    words: np.ndarray  # int64
    matched: np.ndarray  # int64
    ratios: np.ndarray  # float64
    leaks: np.ndarray  # bool
    holds: np.ndarray  # bool: nearly all of the item is there


def build_index(benchmarks: Mapping[str, Sequence[Item]], ngram: int) -> tuple[Index, dict[str, dict[str, int]]]:
    """The index of the items of each benchmark, and how many it has: items, and why some of them are not used.

    Equal items are taken once.
    """
    names = sorted(benchmarks)
    parts = [_prepare(benchmarks[name], ngram) for name in names]

    def joined(field: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *(getattr(part, field) for part in parts)])

    sizes = joined("sizes", np.empty(0, np.int64))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    firsts = np.concatenate([[0], np.cumsum([len(part.sizes) for part in parts])]).astype(np.int64)
    seed_items = np.concatenate(
        [np.empty(0, np.int64), *(part.seed_items + first for part, first in zip(parts, firsts))]
    )
    keys = joined("seed_keys", np.empty(0, np.uint64))
    places = offsets[seed_items] + joined("seed_begins", np.empty(0, np.int64))
    order = np.lexsort((places, keys))
    excerpts = [text.encode() for part in parts for text in part.excerpts]
    index = Index(
        names=np.array(names, np.str_),
        benchmarks=np.repeat(np.arange(len(parts), dtype=np.int32), np.diff(firsts)),
        numbers=joined("numbers", np.empty(0, np.int64)).astype(np.int32),
        words=joined("words", np.empty(0, np.uint64)),
        offsets=offsets,
        own=joined("own", np.empty(0, bool)),
        questions=joined("questions", np.empty(0, np.int64)).astype(np.int32),
        chosen=joined("chosen", np.empty(0, bool)),
        parts=joined("parts", np.empty((0, 3), np.int64)).astype(np.int32),
        factors=joined("factors", np.empty(0, np.int64)).astype(np.int32),
        needs=joined("needs", np.empty(0, np.int64)).astype(np.int32),
        short=joined("short", np.empty(0, bool)),
        ngram=np.array(ngram, np.int32),
        keys=keys[order],
        places=places[order].astype(np.int32),
        lengths=np.unique(joined("seed_sizes", np.empty(0, np.int64))).astype(np.int32),
        bits=_bits(keys),
        excerpts=np.frombuffer(b"".join(excerpts), np.uint8),
        excerpt_offsets=np.concatenate([[0], np.cumsum([len(text) for text in excerpts])]).astype(np.int64),
    )
    return index, {name: part.report for name, part in zip(names, parts)}


@dataclass(frozen=True)
class _Prepared:
    """The items of one benchmark that are used, and the runs of words that are looked up to find them."""

    numbers: np.ndarray
    words: np.ndarray
    sizes: np.ndarray  # words of each item
    own: np.ndarray
    questions: np.ndarray
    chosen: np.ndarray
    parts: np.ndarray
    factors: np.ndarray
    needs: np.ndarray
    short: np.ndarray
    seed_items: np.ndarray
    seed_begins: np.ndarray  # word of the item
    seed_sizes: np.ndarray
    seed_keys: np.ndarray
    excerpts: list[str]
    report: dict[str, int]


def _prepare(items: Sequence[Item], ngram: int) -> _Prepared:
    found = split_words([text for item in items for text in (item.question, item.answer, item.choices)])
    begins, lengths = found.offsets[:-1:3], found.offsets[3::3] - found.offsets[:-1:3]
    ends = np.stack([found.offsets[1::3] - begins, found.offsets[2::3] - begins, lengths], axis=1)
    spaceless = np.concatenate([[0], np.cumsum(found.spaceless)])
    factors = 1 + (2 * (spaceless[begins + lengths] - spaceless[begins]) > lengths)
    fresh = ~_repeats(found.hashes, begins, lengths)
    once = _asked_once(found.hashes, begins, ends[:, 0], fresh)
    long = fresh & (lengths >= ngram * factors)
    sizes = np.where(~long & once & (ends[:, 0] >= LEAST_WORDS * factors), ends[:, 0], lengths)
    short = fresh & ~long & (sizes >= LEAST_WORDS * factors)
    too_short = int((fresh & ~long & ~short).sum()) + int((~fresh & (lengths < LEAST_WORDS * factors)).sum())

    kept = np.flatnonzero(long | short)
    begins, sizes, factors, short, ends, once = (x[kept] for x in (begins, sizes, factors, short, ends, once))
    taken = found.hashes[spans(begins, sizes)]
    parts = np.where(ends >= (ngram * factors)[:, None], ends, 0)
    parts[(ends[:, 1] == ends[:, 0]) | (ends[:, 2] == ends[:, 1]), 1] = 0  # there is no answer, or nothing else
    parts[~once, 0] = 0
    parts[short] = 0
    parts[short, 2] = sizes[short]

    used = words.Words(taken, np.empty(0, bool), np.concatenate([[0], np.cumsum(sizes)]))
    seed = ngram // 2 * factors
    seed = np.where(sizes >= seed, seed, LEAST_WORDS * factors)
    keys, counts = words.ngrams(used, seed)
    owners, places = np.repeat(np.arange(len(kept)), counts), spans(np.zeros(len(kept), np.int64), counts)
    holders = _holders(keys, owners)
    common = (holders > FORMULAIC) & ~short[owners]
    edge = np.zeros(len(taken) + 1, np.int64)
    first = (used.offsets[:-1][owners] + places)[common]
    np.add.at(edge, first, 1)
    np.add.at(edge, first + seed[owners][common], -1)
    own = np.cumsum(edge)[:-1] == 0
    sums = np.concatenate([[0], np.cumsum(own)])
    formulaic = ~short & (sums[used.offsets[1:]] - sums[used.offsets[:-1]] < LEAST_WORDS * factors)

    smallest = np.where(parts > 0, parts, np.iinfo(np.int32).max).min(axis=1, initial=np.iinfo(np.int32).max)
    # Texts have choices before the answer or after it, so that only parts of the item surely stand together.
    with_choices = ends[:, 2] > ends[:, 1]
    longest = np.diff(ends, axis=1, prepend=0).max(axis=1, initial=0)
    runs = np.where(with_choices, np.minimum(smallest, np.maximum(longest, 2 * seed)), smallest) // 2
    needs = np.where(short, sizes, np.minimum(ngram * factors, runs))
    steps = np.where(np.bincount(owners, common, len(kept)) > 0, 1, needs - seed + 1)
    rarest = np.lexsort((places, holders, owners))
    chosen = (places % np.maximum(steps, 1)[owners] == 0) & ~common & ~short[owners]
    chosen[rarest[np.searchsorted(owners, np.flatnonzero(short))]] = True
    return _Prepared(
        numbers=kept,
        words=taken,
        sizes=sizes,
        own=own,
        questions=np.minimum(ends[:, 0], sizes),
        chosen=with_choices,
        parts=parts,
        factors=factors,
        needs=needs,
        short=short,
        seed_items=owners[chosen],
        seed_begins=places[chosen],
        seed_sizes=seed[owners][chosen],
        seed_keys=keys[chosen],
        excerpts=[items[number].text()[:EXCERPT] for number in kept.tolist()],
        report={
            "items": len(items),
            "too_short": too_short,
            "formulaic": int(formulaic.sum()),
            "short": int(short.sum()),
            "long": int((~short & ~formulaic).sum()),
        },
    )


def find(index: Index, texts: Sequence[str]) -> Found:
    """Every place of a text that has a candidate, and the words that it shares with the item."""
    found = split_words(texts)
    hits = [np.empty((0, 3), np.int64)]
    lengths = set(index.lengths.tolist())
    for size, running in words.windows(found.hashes, max(lengths, default=0)):
        if size in lengths:
            hits += _candidates(index, found, scramble(running), size)
    candidates = _unique_rows(np.concatenate(hits))  # text, item, word of the text where the item would begin
    short = index.short[candidates[:, 1]]
    places = [_whole(index, found, candidates[short])]
    for factor in (1, 2):
        of_factor = candidates[~short & (index.factors[candidates[:, 1]] == factor)]
        regions = _regions(index, found, of_factor)
        sizes = np.cumsum(regions[:, 3] - regions[:, 2])
        groups = np.split(regions, np.flatnonzero(np.diff(sizes // HITS)) + 1)
        places += [_shared(index, found, group, RUN * factor) for group in groups]
    return _sorted(places)


def judge(index: Index, own: np.ndarray, found: Found, overlap: float) -> Verdict:
    """How much of its item each place holds; `own` is `index.own` or a stricter choice."""
    items = found.items
    sizes = index.offsets[items + 1] - index.offsets[items]
    sums = np.concatenate([[0], np.cumsum(own[spans(index.offsets[items], sizes)])])
    before = np.cumsum(sizes) - sizes
    ends = index.parts[items].astype(np.int64)
    factors = index.factors[items].astype(np.int64)[:, None]
    shortest = shortest_stretch(ends, factors, int(index.ngram))
    place, stretch = _held_stretches(found)
    mine = own[index.offsets[items][place] + found.item_words]
    limits = np.concatenate([ends, index.questions[items].astype(np.int64)[:, None]], axis=1)
    total = sums[before[:, None] + limits] - sums[before][:, None]
    counts = [
        np.bincount(place, mine & (found.item_words < limit[place]) & (stretch >= shortest[place, part]), len(items))
        for part, limit in zip((0, 1, 2, 2), limits.T)
    ]
    matched = np.stack(counts, axis=1).astype(np.int64)
    asked = matched[:, 3] >= np.ceil(total[:, 3] * overlap - TOLERANCE)
    total, matched = total[:, :3], matched[:, :3]
    n = int(index.ngram) * factors
    # A question that goes with choices is often a formula: more of a short one must be there, and it is not the item.
    formal = index.chosen[items][:, None] & (total < 2 * n) & [True, True, False]
    judged = total >= np.where(formal, n, LEAST_WORDS * factors)
    some = np.where(total < n, total, np.minimum(n, total - shortest))  # at least, of all of an item
    floor = np.where([True, True, False], np.where(formal, total, 0), some)
    shares = np.array([max(overlap, NEARLY), max(overlap, NEARLY), overlap])
    leaks = judged & (matched >= np.maximum(np.ceil(total * shares - TOLERANCE), floor))
    leaks[:, 1:] &= asked[:, None]
    ratios = np.where(judged, matched / np.maximum(total, 1), 0)
    holds = (leaks & ~formal & (ratios >= NEARLY)).any(axis=1)
    best = np.argmax(ratios + leaks, axis=1)
    rows = np.arange(len(items))
    return Verdict(best, total[rows, best], matched[rows, best], ratios[rows, best], leaks[rows, best], holds)


def shortest_stretch(sizes: np.ndarray, factors: np.ndarray, ngram: int) -> np.ndarray:
    """Words of the shortest stretch that counts for a part of so many words: a quarter of them, RUN to half of n."""
    return np.clip(sizes // 4, RUN * factors, np.maximum(ngram // 2, RUN) * factors)


def _held_stretches(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `found.item_words`: its place, and how many words one after another are held there with it."""
    place = np.repeat(np.arange(len(found)), np.diff(found.item_offsets))
    fresh = (np.diff(found.item_words, prepend=-2) != 1) | (np.diff(place, prepend=-1) != 0)
    numbers = np.cumsum(fresh) - 1
    return place, np.bincount(numbers)[numbers] if len(numbers) else np.empty(0, np.int64)


def partial(index: Index, found: Found, verdict: Verdict) -> np.ndarray:
    """Words of the index (int64, sorted) in long runs that a text holds without the item: once for each text."""
    pairs = found.texts * len(index.numbers) + found.items
    holds = np.isin(pairs, pairs[verdict.holds])
    place, stretch = _held_stretches(found)
    long = stretch >= index.needs[found.items][place]
    taken = long & ~holds[place]
    positions = index.offsets[found.items][place[taken]] + found.item_words[taken]
    both = _unique_rows(np.stack([found.texts[place[taken]], positions], axis=1))
    return np.sort(both[:, 1])


def stretches(index: Index, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of texts that are an item's: place, first word and last word of each stretch, in the order of places.

    Words that are not the item's belong to a stretch where they are no more than RUN between words that are; stretches
    that do not count for the item are left out.
    """
    counts = np.diff(found.text_offsets)
    place = np.repeat(np.arange(len(found)), counts)
    factors = index.factors[found.items].astype(np.int64)
    gap = np.diff(found.text_words, prepend=0) > RUN * factors[place] + 1
    begins = np.flatnonzero(gap | (np.diff(place, prepend=-1) != 0))
    ends = np.append(begins[1:], len(place))[: len(begins)] - 1
    held = ends - begins + 1
    sizes = index.offsets[found.items + 1] - index.offsets[found.items]
    long = held >= np.minimum(shortest_stretch(sizes, factors, int(index.ngram)), sizes)[place[begins]]
    return place[begins][long], found.text_words[begins][long], found.text_words[ends][long]


def index_to_bytes(index: Index) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{field.name: getattr(index, field.name) for field in fields(index)})
    return buffer.getvalue()


def index_from_bytes(data: bytes) -> Index:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Index(**{field.name: arrays[field.name] for field in fields(Index)})


def _candidates(index: Index, found: words.Words, hashes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Rows (text, item, word of the text where the item would begin) of runs that are long enough."""
    begins = np.flatnonzero(_maybe(index, hashes))
    texts = np.searchsorted(found.offsets, begins, side="right") - 1
    inside = begins + size <= found.offsets[texts + 1]
    begins, texts = begins[inside], texts[inside]
    first = np.searchsorted(index.keys, hashes[begins])
    counts = np.searchsorted(index.keys, hashes[begins], side="right") - first
    begins, texts, first, counts = (x[counts > 0] for x in (begins, texts, first, counts))
    ends = np.cumsum(counts)
    for group in np.split(np.arange(len(begins)), np.flatnonzero(np.diff(ends // HITS)) + 1):
        places = index.places[spans(first[group], counts[group])].astype(np.int64)
        begin, text = (np.repeat(x[group], counts[group]) for x in (begins, texts))
        items = np.searchsorted(index.offsets, places, side="right") - 1
        needs = index.needs[items].astype(np.int64)
        after = np.minimum(found.offsets[text + 1] - begin, index.offsets[items + 1] - places)
        before = np.minimum(begin - found.offsets[text], places - index.offsets[items])
        length = _equal(found.hashes, begin, index.words, places, 1, np.minimum(after, needs))
        length += _equal(found.hashes, begin - 1, index.words, places - 1, -1, np.minimum(before, needs))
        enough = length >= needs
        rows = np.stack([text, items, begin - (places - index.offsets[items])], axis=1)[enough]
        yield _unique_rows(rows)


def _equal(
    first: np.ndarray, places: np.ndarray, second: np.ndarray, others: np.ndarray, step: int, limits: np.ndarray
) -> np.ndarray:
    """How many words are the same from `places` of `first` and `others` of `second` on, in steps; at most `limits`."""
    length = np.zeros(len(places), np.int64)
    going = np.flatnonzero(limits > 0)
    for k in range(int(limits.max(initial=0))):
        going = going[limits[going] > k]
        going = going[first[places[going] + step * k] == second[others[going] + step * k]]
        length[going] += 1
    return length


def _regions(index: Index, found: words.Words, candidates: np.ndarray) -> np.ndarray:
    """Rows (text, item, begin, end): the words that are looked at around candidates, joined where they overlap."""
    texts, items, begins = candidates.T
    sizes = index.offsets[items + 1] - index.offsets[items]
    reach = index.ngram * index.factors[items] + sizes // 2
    first = np.maximum(begins - reach, found.offsets[texts])
    last = np.minimum(begins + sizes + reach, found.offsets[texts + 1])
    blocks = np.maximum(begins - found.offsets[texts], 0) // (REGION * (sizes + reach))  # no region grows without end
    fresh = borders(texts, items, blocks)
    fresh[1:] |= first[1:] > last[:-1]
    starts = np.flatnonzero(fresh)
    final = np.append(starts[1:], len(texts))[: len(starts)] - 1
    return np.stack([texts[starts], items[starts], first[starts], last[final]], axis=1)


def _shared(index: Index, found: words.Words, regions: np.ndarray, run: int) -> Found:
    """The words of each region and its item that stand in runs of `run` words of both."""
    texts, items, begins, ends = regions.T
    sizes = index.offsets[items + 1] - index.offsets[items]
    mine, my_region = found.hashes[spans(begins, ends - begins)], np.repeat(np.arange(len(regions)), ends - begins)
    theirs, their_region = index.words[spans(index.offsets[items], sizes)], np.repeat(np.arange(len(regions)), sizes)
    my_keys, their_keys = _run_keys(mine, my_region, run), _run_keys(theirs, their_region, run)
    mine_known, theirs_known = np.isin(my_keys[0], their_keys[0]), np.isin(their_keys[0], my_keys[0])
    mine_held = _covered(my_keys[1][mine_known], len(mine), run)
    theirs_held = _covered(their_keys[1][theirs_known], len(theirs), run)
    first_mine, first_theirs = np.cumsum(ends - begins) - (ends - begins), np.cumsum(sizes) - sizes
    return Found(
        texts,
        items,
        (theirs_held - first_theirs[their_region[theirs_held]]).astype(np.int32),
        np.searchsorted(theirs_held, np.append(first_theirs, len(theirs))),
        mine_held - (first_mine - begins + found.offsets[texts])[my_region[mine_held]],
        np.searchsorted(mine_held, np.append(first_mine, len(mine))),
    )


def _run_keys(hashes: np.ndarray, regions: np.ndarray, run: int) -> tuple[np.ndarray, np.ndarray]:
    """A number for each run of words, equal for equal runs of one region, and the word that it begins at."""
    if len(hashes) < run:
        return np.empty(0, np.uint64), _NO_WORDS
    *_, (_, running) = words.windows(hashes, run)
    begins = np.flatnonzero(regions[: len(running)] == regions[run - 1 :])
    return scramble(running[begins]) + regions[begins].astype(np.uint64) * np.uint64(GOLDEN), begins


def _covered(begins: np.ndarray, count: int, run: int) -> np.ndarray:
    """Numbers, of `count` words, of those in a run that begins at one of `begins`."""
    held = np.zeros(count + run, bool)
    for k in range(run):
        held[begins + k] = True
    return np.flatnonzero(held)


def _whole(index: Index, found: words.Words, candidates: np.ndarray) -> Found:
    """Short items stand in their texts whole."""
    texts, items, begins = candidates.T
    sizes = index.offsets[items + 1] - index.offsets[items]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Found(
        texts,
        items,
        spans(np.zeros(len(items), np.int64), sizes).astype(np.int32),
        offsets,
        spans(begins - found.offsets[texts], sizes),
        offsets,
    )


def _sorted(groups: list[Found]) -> Found:
    texts, items = (np.concatenate([getattr(group, field) for group in groups]) for field in ("texts", "items"))
    counts = [
        np.concatenate([np.diff(getattr(group, f"{side}_offsets")) for group in groups]) for side in ("item", "text")
    ]
    item_words, text_words = (
        np.concatenate([getattr(group, f"{side}_words") for group in groups]) for side in ("item", "text")
    )
    begins = [np.cumsum(count) - count for count in counts]
    first = np.concatenate([text_words, [0]])[np.minimum(begins[1], len(text_words))]
    order = np.lexsort((first, items, texts))
    counts, begins = [count[order] for count in counts], [begin[order] for begin in begins]
    return Found(
        texts[order],
        items[order],
        item_words[spans(begins[0], counts[0])],
        np.concatenate([[0], np.cumsum(counts[0])]),
        text_words[spans(begins[1], counts[1])],
        np.concatenate([[0], np.cumsum(counts[1])]),
    )


def _unique_rows(rows: np.ndarray) -> np.ndarray:
    """The rows sorted, each once."""
    rows = rows[np.lexsort(rows.T[::-1])]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return rows[fresh]


def _repeats(hashes: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """bool: these words are those of an earlier run of words."""
    digests = _digests(hashes, begins, counts)
    seen: set[bytes] = set()
    repeats = np.zeros(len(digests), bool)
    for number, digest in enumerate(digests):
        repeats[number] = digest in seen
        seen.add(digest)
    return repeats


def _asked_once(hashes: np.ndarray, begins: np.ndarray, counts: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """bool: no other item that is not a repeat has the same question."""
    digests = _digests(hashes, begins, counts)
    asked = Counter(digest for digest, new in zip(digests, fresh.tolist()) if new)
    return np.array([asked[digest] < 2 for digest in digests], bool)


def _digests(hashes: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> list[bytes]:
    data = memoryview(hashes.tobytes())
    bounds = zip((8 * begins).tolist(), (8 * (begins + counts)).tolist())
    return [xxhash.xxh3_128_digest(data[begin:end]) for begin, end in bounds]


def _holders(keys: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """For each key how many different owners have it."""
    order = np.lexsort((owners, keys))
    sorted_keys, sorted_owners = keys[order], owners[order]
    new_owner = borders(sorted_keys, sorted_owners)
    group = np.cumsum(borders(sorted_keys)) - 1
    counts = np.empty(len(keys), np.int64)
    counts[order] = np.bincount(group, new_owner).astype(np.int64)[group]
    return counts


def _bits(keys: np.ndarray) -> np.ndarray:
    """16 to 32 bits per key, of which one is set: most words of most texts need no search among the keys."""
    width = max(10, (16 * len(keys)).bit_length())
    bits = np.zeros(1 << width, bool)
    bits[keys >> np.uint64(64 - width)] = True
    return np.packbits(bits, bitorder="little")


def _maybe(index: Index, hashes: np.ndarray) -> np.ndarray:
    width = (8 * len(index.bits)).bit_length() - 1
    places = hashes >> np.uint64(64 - width)
    return index.bits[places >> np.uint64(3)] & (np.uint8(1) << (places & np.uint64(7)).astype(np.uint8))
