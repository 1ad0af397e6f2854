"""Which documents a tokenizer is trained on."""

import numpy as np


def choose(sizes: np.ndarray, draws: np.ndarray, ids: np.ndarray, max_bytes: int) -> np.ndarray:
    """bool [documents]: the documents with the smallest `draws` whose `sizes` reach `max_bytes`.

    The last one may reach beyond it. The choice is a function of the documents alone, not of their order: equal draws
    are settled by `ids`.
    """
    if int(sizes.sum()) < max_bytes:
        return np.ones(len(sizes), bool)
    order = np.lexsort((ids, draws))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(sizes), bool)
    chosen[order[before < max_bytes]] = True
    return chosen
