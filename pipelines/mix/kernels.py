"""A stage's mixture as arithmetic: label weights -> scale -> expected copies -> copies.

Everything here works on columns of whole corpora, one entry per document. Sums that decide something are sums of
integers or run over the few distinct weights in sorted order, so the order of the documents changes no bit.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.hashing import ID, ID_BYTES
from schemas.languages import group
from schemas.recipe import Mixture

_DOCUMENT_ID = re.compile(rf"[0-9a-fA-F]{{{2 * ID_BYTES}}}")


def named(document_ids: pa.Array, user_ids: pa.Array, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Which documents some names stand for, bool [documents], and the names that stand for none.

    A name is a document id in hex or a user's own id; where it could be either it is both.
    """
    own = pa.array(names, pa.string())
    hashes = pa.array([bytes.fromhex(name) if _DOCUMENT_ID.fullmatch(name) else None for name in names], ID)
    found = pc.or_(pc.is_in(document_ids, value_set=hashes.drop_null()), pc.is_in(user_ids, value_set=own))
    known = pc.or_(pc.is_in(hashes, value_set=document_ids), pc.is_in(own, value_set=user_ids))
    return found.to_numpy(zero_copy_only=False), own.filter(pc.invert(known)).to_pylist()


def label_weights(cells: pa.Array, languages: pa.Array, sources: pa.Array, mixture: Mixture) -> np.ndarray:
    """float64 [documents]: the product of the weights of a document's labels.

    `cells` are those of schemas.cells.cell, before any merging: domain and educational bin are read from them.
    """
    keys, inverse = _distinct(cells, languages, sources)
    weights = np.empty(len(keys), np.float64)
    for i, (cell, language, source) in enumerate(keys):
        _, domain, educational = cell.split("/")
        weights[i] = (
            mixture.language.get(language, 1.0)
            * mixture.group.get(group(language), 1.0)
            * mixture.domain.get(domain, 1.0)
            * mixture.educational.get(int(educational), 1.0)
            * mixture.source.get(source, 1.0)
        )
    return weights[inverse]


def cluster_classes(sizes: np.ndarray, weights: Mapping[int, float]) -> tuple[list[int], np.ndarray]:
    """The least sizes of the classes that `weights` parts clusters into, and for each of `sizes` (>= 1) its class.

    The first class begins at 1, whether or not `weights` names it.
    """
    least = sorted({1, *weights})
    return least, np.searchsorted(least, sizes, side="right") - 1


def cluster_weights(sizes: np.ndarray, weights: Mapping[int, float]) -> np.ndarray:
    """float64 [documents]: the weight of the largest key of `weights` that a size reaches; 1 below them all."""
    least, classes = cluster_classes(sizes, weights)
    return np.array([weights.get(size, 1.0) for size in least], np.float64)[classes]


def _distinct(*columns: pa.Array) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """The distinct rows of string columns, and for every row which of them it is."""
    dictionaries = [column.dictionary_encode() for column in columns]
    code = np.zeros(len(columns[0]), np.int64)
    for column in dictionaries:
        code = code * max(1, len(column.dictionary)) + column.indices.to_numpy(zero_copy_only=False)
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    rows = zip(*(column.take(pa.array(first)).to_pylist() for column in columns))
    return list(rows), inverse


@dataclass(frozen=True)
class Bucket:
    """Documents that share one part of the budget. Tokens: `asked` for, and `got` within the cap on copies."""

    name: str
    documents: np.ndarray  # indices
    asked: float
    got: float


def usable(weights: np.ndarray, tokens: np.ndarray, mixture: Mixture) -> np.ndarray:
    """bool [documents]: those that a mixture can use at all; lengths count the end-of-document token."""
    minimum = 2 if mixture.lengths is None else max(2, mixture.lengths.minimum)
    return (weights > 0) & (tokens >= minimum)


def length_buckets(
    weights: np.ndarray, tokens: np.ndarray, budget: int, max_copies: float, mixture: Mixture
) -> list[Bucket]:
    """Part the documents of positive weight by length and the budget between the parts.

    What one part cannot fill with `max_copies` of each of its documents goes to the other. Without `mixture.lengths`
    there is one part. Lengths count the end-of-document token; a document of nothing else is never used.
    """
    allowed = usable(weights, tokens, mixture)
    if mixture.lengths is None:
        members, asked = {"all": allowed}, [float(budget)]
    else:
        longer = tokens > mixture.lengths.boundary
        members = {"longer": allowed & longer, "shorter": allowed & ~longer}
        asked = [mixture.lengths.share * budget, budget - mixture.lengths.share * budget]
    room = [max_copies * int(tokens[mask].sum()) for mask in members.values()]
    # Each takes its own part first; then the first fills what the last left, and the other way round.
    got = [min(want, have) for want, have in zip(asked, room)]
    got = [min(room[i], budget - (sum(got) - got[i])) for i in range(len(got))] if sum(got) < budget else got
    return [
        Bucket(name, np.flatnonzero(mask), want, part) for (name, mask), want, part in zip(members.items(), asked, got)
    ]


def solve_scale(weights: np.ndarray, tokens: np.ndarray, target: float, max_copies: float) -> float:
    """The scale s for which sum(tokens * min(max_copies, s * weights)) is `target`; weights are positive.

    The sum is piecewise linear in s, with a bend where a weight reaches the cap, so the piece is found and solved
    exactly. Where even all copies are too few, the smallest scale that gives everything `max_copies`.
    """
    levels, level = np.unique(weights, return_inverse=True)
    sizes = np.bincount(level, weights=tokens)
    levels, sizes = levels[::-1], sizes[::-1]  # the heaviest reach the cap first
    at_cap = max_copies * np.concatenate(([0.0], np.cumsum(sizes)[:-1]))  # of the k heaviest levels, k = 0, 1, ...
    below = np.cumsum((levels * sizes)[::-1])[::-1]
    scales = (target - at_cap) / below
    right = scales * levels <= max_copies  # with the k heaviest at the cap the next one is not
    return float(scales[np.argmax(right)]) if right.any() else float(max_copies / levels[-1])


def draw_copies(
    expected: np.ndarray, tokens: np.ndarray, target: float, draws: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """int32 [documents]: floor(expected), and one more for some, by their `draws` in [0, 1).

    A document gets the extra copy with the probability of its fraction. Plain rounding, draw < fraction, would miss
    the target by the square root of the number of documents; instead the documents are taken in the order of
    draw / fraction until the target is met (sequential Poisson sampling, Ohlsson 1998), so that the tokens are
    `target` or up to one document more. Equal ratios are settled by `ids`.
    """
    whole = np.floor(expected)
    fraction = expected - whole
    copies = whole.astype(np.int32)
    missing = target - int((copies * tokens).sum())
    maybe = np.flatnonzero(fraction > 0)
    if missing > 0 and len(maybe):
        with np.errstate(over="ignore"):  # a fraction of next to nothing goes to the end of the line
            order = maybe[np.lexsort((ids[maybe], draws[maybe] / fraction[maybe]))]
        enough = int(np.searchsorted(np.cumsum(tokens[order]), missing)) + 1
        copies[order[:enough]] += 1
    return copies


def shares(tokens: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, float]:
    """Share of the tokens per label; `labels` are indices into `names`."""
    sums = np.bincount(labels, weights=tokens, minlength=len(names))
    total = sums.sum() or 1.0
    return {name: round(float(value / total), 6) for name, value in zip(names, sums)}


def length_classes(tokens: np.ndarray) -> np.ndarray:
    """For each length n the exponent of its class: 2**e <= n < 2**(e + 1)."""
    return np.frexp(tokens.astype(np.float64))[1] - 1
