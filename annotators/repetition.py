"""What a text repeats: n-grams of tokens, lines and paragraphs, found by hashes of spans of code points.

The hash of a span is the difference of two prefix hashes, so the spans may overlap and have any length. Documents are
kept apart by mixing their number into the hash.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from annotators.words import Codes, Positions
from schemas.hashing import GOLDEN, inverse_powers, powers, scramble

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)

Numbers = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


def prefix_hashes(codes: Codes) -> Hashes:
    """Polynomial hash of every prefix, one more than there are code points; see `hash_spans`."""
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    terms = _scrambled_codes()[codes]
    terms *= powers(GOLDEN, len(codes))
    np.cumsum(terms, out=prefix[1:])
    return prefix


@cache
def _scrambled_codes() -> Hashes:
    return scramble(np.arange(0x110000, dtype=np.uint64) + np.uint64(GOLDEN))


def hash_spans(prefix: Hashes, begins: Positions, ends: Positions) -> Hashes:
    """Hash of each span of code points, the same wherever the span stands."""
    return scramble((prefix[ends] - prefix[begins]) * inverse_powers(GOLDEN, len(prefix))[begins])


def share(part: npt.NDArray, whole: npt.NDArray) -> Numbers:
    """`part` / `whole`, 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def repeated_ngrams(hashes: Hashes, lengths: Positions, document: Positions, size: npt.NDArray) -> dict[str, Numbers]:
    """Top and duplicate n-gram shares of every document from its tokens.

    `hashes`, `lengths` (in characters) and `document` are of the tokens, in order; `size` has the characters of which
    the shares are, a number a document. An n-gram can only be repeated if the two (n-1)-grams in it are, so each length
    looks only at the places where the shorter length repeated, which are few in prose.
    """
    total = np.concatenate([[0], np.cumsum(lengths)])
    keys = scramble(hashes + document.astype(np.uint64) * np.uint64(GOLDEN))
    at, group, first_of_group, occurrences = _repeated(np.arange(len(keys)), keys)
    result = {}
    for n in range(2, DUPLICATE_NGRAMS[-1] + 1):
        adjacent = np.flatnonzero(np.diff(at) == 1)  # both (n-1)-grams of the n-gram repeat
        pairs = group[adjacent].astype(np.uint64) << np.uint64(32) | group[adjacent + 1].astype(np.uint64)
        at, group, first_of_group, occurrences = _repeated(at[adjacent], pairs)
        if n in TOP_NGRAMS:
            characters = total[first_of_group + n] - total[first_of_group] + (n - 1)
            # The commonest, and the first of equally common ones.
            order = np.lexsort((first_of_group, -occurrences))
            which, best = np.unique(document[first_of_group[order]], return_index=True)
            covered = np.zeros(len(size))
            covered[which] = (occurrences * characters)[order[best]]
            result[f"top_{n}gram_ratio"] = np.minimum(1, share(covered, size))
        if n in DUPLICATE_NGRAMS:
            again = _again(at, group, len(first_of_group), n)
            repeated = np.bincount(document[again], total[again + n] - total[again], minlength=len(size))
            result[f"duplicate_{n}gram_ratio"] = share(repeated, size)
    return result


def _repeated(at: Positions, keys: Hashes) -> tuple[Positions, Positions, Positions, Positions]:
    """Of the items at increasing places `at`, those whose key occurs at least twice.

    Returns their places in order, the number of their group, and for each group its first place and its size.
    """
    order, starts, sizes = _equal(keys)
    often = sizes >= 2
    slot = np.full(len(keys), -1, dtype=np.int64)
    slot[order[np.repeat(often, sizes)]] = np.repeat(np.arange(np.count_nonzero(often)), sizes[often])
    kept = np.flatnonzero(slot >= 0)
    return at[kept], slot[kept], at[_least(order, starts)[often]], sizes[often]


def _equal(keys: Hashes) -> tuple[Positions, Positions, Positions]:
    """Indices of the keys with equal ones together (in no order among themselves), and each group's start and size."""
    order = np.argsort(keys)  # several times faster than the stable kind
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else order
    return order, starts, np.diff(starts, append=len(keys))


def _least(order: Positions, starts: Positions) -> Positions:
    """The least of each group."""
    return np.minimum.reduceat(order, starts) if len(starts) else starts


def _again(at: Positions, group: Positions, groups: int, n: int) -> Positions:
    """Where an n-gram stands that was read before, if reading goes on behind every such n-gram.

    What is read depends on all that was read before, hence the loop; it is over repeated n-grams alone.
    """
    read = bytearray(groups)
    again = []
    behind = 0
    for place, number in zip(at.tolist(), group.tolist()):
        if place >= behind:
            if read[number]:
                again.append(place)
                behind = place + n
            read[number] = 1
    return np.array(again, dtype=np.int64)


def repeated_spans(
    hashes: Hashes, lengths: Positions, document: Positions, size: npt.NDArray
) -> tuple[Numbers, Numbers]:
    """Share of a document's spans that repeat an earlier one, and their characters' share of `size`."""
    keys = scramble(hashes + document.astype(np.uint64) * np.uint64(GOLDEN))
    later = np.ones(len(keys), dtype=bool)
    later[_least(*_equal(keys)[:2])] = False
    spans = np.bincount(document, minlength=len(size)).astype(np.float64)
    repeated = np.bincount(document[later], minlength=len(size)).astype(np.float64)
    characters = np.bincount(document[later], lengths[later], minlength=len(size))
    return share(repeated, spans), share(characters, size)
