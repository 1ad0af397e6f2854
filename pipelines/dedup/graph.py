"""From buckets to edges to components, as arrays.

A component is named by its smallest document. On one machine `components` asks scipy; a graph that does not fit is
turned into stars, one edge from each document to the smallest of its component, by rounds of large-star and small-star
(Kiveris et al. 2014, Connected Components in MapReduce and Beyond). Both kernels see all edges of some documents at
a time, so the documents may be spread over any number of workers.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.groups import borders

EVERY_PAIR = 16  # documents of a bucket up to which every pair of them is a candidate, where candidates are verified
CENTRES = 4  # in a larger bucket these are compared with all others

EDGE = np.dtype([("first", "<u8"), ("second", "<u8"), ("sure", "?")])
"""Two documents, first < second; `sure` where nothing remains to be verified."""
PAIR = np.dtype([("first", "<u8"), ("second", "<u8")])
LABEL = np.dtype([("document", "<u8"), ("component", "<u8")])


def bucket_edges(keys: np.ndarray, opens: np.ndarray, pairs: bool, old: int) -> np.ndarray:
    """EDGE records of the documents that share a key, none twice.

    `keys` are KEY records sorted by key and document and `opens` says where a key begins. Documents from `old` on are
    those of an earlier run: they are tied to documents of this one, never to each other.

    Without `pairs` a bucket is a star around its smallest document: n documents give n - 1 edges, never n * n. With
    `pairs`, for buckets whose edges are verified, a failure between two documents must not part a third from both:
    every pair of a small bucket is a candidate, and the CENTRES smallest documents of a large one are paired with all.
    """
    begins = np.flatnonzero(opens)
    bucket = np.cumsum(opens) - 1
    sizes = np.diff(begins, append=len(keys))
    document, sure = keys["document"], (keys["low"] & np.uint64(1)).astype(bool)
    place = np.arange(len(keys)) - begins[bucket]
    dense = pairs & ~sure & (sizes[bucket] <= EVERY_PAIR)
    found = []
    most = int(sizes.max(initial=1))
    for distance in range(1, min(EVERY_PAIR, most)) if pairs else ():
        second = np.flatnonzero(dense & (place >= distance))
        found.append((second - distance, second))
    for centre in range(min(CENTRES if pairs else 1, most)):
        chosen = ~dense & (place > centre)
        if centre:
            chosen &= ~sure
        second = np.flatnonzero(chosen)
        found.append((begins[bucket[second]] + centre, second))
    first, second = (np.concatenate([np.empty(0, np.int64), *ends]) for ends in zip(*found))
    real = (document[first] < np.uint64(old)) & (document[first] != document[second])
    edges = np.empty(int(real.sum()), EDGE)
    edges["first"], edges["second"], edges["sure"] = document[first[real]], document[second[real]], sure[second[real]]
    return unique_edges(edges)


def unique_edges(edges: np.ndarray) -> np.ndarray:
    """The EDGE records sorted, each pair once; it is sure if any of its records is."""
    edges = edges[np.lexsort((~edges["sure"], edges["second"], edges["first"]))]
    return edges[borders(edges["first"], edges["second"])]


def components(edges: np.ndarray) -> np.ndarray:
    """LABEL records, sorted by document, of every document that has an edge; about MEMORY_OF_AN_EDGE bytes an edge."""
    if not len(edges):
        return np.empty(0, LABEL)
    documents, ends = np.unique(np.concatenate([edges["first"], edges["second"]]), return_inverse=True)
    kind = np.int32 if len(documents) < 1 << 31 else np.int64
    first, second = ends[: len(edges)].astype(kind), ends[len(edges) :].astype(kind)
    graph = coo_array((np.ones(len(edges), np.int8), (first, second)), shape=(len(documents), len(documents)))
    _, labels = connected_components(graph, directed=False)
    _, smallest = np.unique(labels, return_index=True)
    found = np.empty(len(documents), LABEL)
    found["document"], found["component"] = documents, documents[smallest][labels]
    return found


MEMORY_OF_AN_EDGE = 150  # bytes that `components` takes for an edge at its peak, measured


def both_ways(edges: np.ndarray) -> np.ndarray:
    """PAIR records of every edge in both directions: `first` is the document whose neighbours are looked at."""
    turned = np.empty(2 * len(edges), PAIR)
    turned["first"][: len(edges)], turned["second"][: len(edges)] = edges["first"], edges["second"]
    turned["first"][len(edges) :], turned["second"][len(edges) :] = edges["second"], edges["first"]
    return turned


def downwards(edges: np.ndarray) -> np.ndarray:
    """PAIR records of every edge, the larger document first."""
    turned = np.empty(len(edges), PAIR)
    turned["first"] = np.maximum(edges["first"], edges["second"])
    turned["second"] = np.minimum(edges["first"], edges["second"])
    return turned


def large_star(neighbours: np.ndarray) -> tuple[np.ndarray, int]:
    """Ties the larger neighbours of each document to the smallest of it and its neighbours.

    `neighbours` are all PAIR records `both_ways` of some documents. Also returns how many of these documents are no
    part of a finished star yet; a graph without any is done.
    """
    neighbours, begins, group = _grouped(neighbours)
    document, other = neighbours["first"], neighbours["second"]
    smallest = np.minimum(document[begins], other[begins])  # neighbours are sorted
    sizes = np.diff(begins, append=len(neighbours))
    unfinished = int(((other[begins] < document[begins]) & (sizes > 1)).sum())
    larger = other > document
    return _pairs(other[larger], smallest[group[larger]]), unfinished


def small_star(neighbours: np.ndarray) -> np.ndarray:
    """Ties each document and its smaller neighbours to the smallest of these.

    `neighbours` are all PAIR records `downwards` of some documents.
    """
    neighbours, begins, group = _grouped(neighbours)
    smallest = neighbours["second"][begins]
    rest = np.ones(len(neighbours), bool)
    rest[begins] = False
    others = _pairs(neighbours["second"][rest], smallest[group[rest]])
    return unique_pairs(np.concatenate([others, _pairs(neighbours["first"][begins], smallest)]))


def star_labels(stars: np.ndarray) -> np.ndarray:
    """LABEL records of finished stars, PAIR records (document, smallest of its component); centres may repeat."""
    centres = np.unique(stars["second"])
    found = np.empty(len(stars) + len(centres), LABEL)
    found["document"] = np.concatenate([stars["first"], centres])
    found["component"] = np.concatenate([stars["second"], centres])
    return found


def unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """The PAIR records sorted, each once."""
    pairs = pairs[np.lexsort((pairs["second"], pairs["first"]))]
    return pairs[borders(pairs["first"], pairs["second"])]


def _grouped(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs sorted, where each `first` begins, and the number of its group for every pair."""
    pairs = unique_pairs(pairs)
    opens = borders(pairs["first"])
    return pairs, np.flatnonzero(opens), np.cumsum(opens) - 1


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """PAIR records without those of a document with itself."""
    real = first != second
    found = np.empty(int(real.sum()), PAIR)
    found["first"], found["second"] = first[real], second[real]
    return found
