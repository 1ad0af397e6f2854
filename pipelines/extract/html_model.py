"""Which blocks of a page are its main text: a small network over the features, and what it leaves open decided.

Two sets of weights: `fast` sees the features alone, `careful` also sees what resiliparse keeps of each block.
`train_html` makes them from pages with a known main text and measures them on pages left out.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from pipelines.extract.html_blocks import Block, HtmlPage
from pipelines.extract.html_features import Matrix

WEIGHTS = Path(__file__).parent / "models" / "html.npz"
CLIP = 5.0  # standard deviations; what lies beyond is as good as this far
KEEP = 0.45
# A page that would lose nearly everything is not like those that the network knows: then doubt speaks for a block.
_FEW_CHARACTERS = 500
_KEEP_OF_FEW = 0.15

_ROWS = 24  # products of this size stay on one thread; starting others costs more than they do
_ARRAYS = ("mean", "scale", "first", "bias", "last", "offset")

Weights = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def _shipped() -> Weights:
    with np.load(WEIGHTS) as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays.files}


def probabilities(values: Matrix, mode: str, weights: Weights | None = None) -> np.ndarray:
    """For each row of features, how likely its block is main text.

    In double precision, so that no block changes sides between machines that add up in another order.
    """
    weights = weights or _shipped()
    mean, scale, first, bias, last, offset = (weights[f"{mode}_{name}"] for name in _ARRAYS)
    inputs = np.zeros((-(-len(values) // _ROWS) * _ROWS, values.shape[1]))
    np.subtract(values, mean, out=inputs[: len(values)])
    inputs *= 1 / scale
    np.minimum(np.maximum(inputs, -CLIP, out=inputs), CLIP, out=inputs)
    hidden = np.maximum(inputs.reshape(-1, _ROWS, values.shape[1]) @ first + bias, 0.0)
    return 1.0 / (1.0 + np.exp(-(hidden @ last + offset).reshape(-1)[: len(values)]))


def choose(page: HtmlPage, likely: np.ndarray) -> list[Block]:
    """The blocks to keep; some are kept of every page that has any."""
    kept = likely > KEEP
    if sum(len(page.blocks[index].text) for index in np.flatnonzero(kept)) < _FEW_CHARACTERS:
        kept = likely > min(_KEEP_OF_FEW, float(likely.max()) / 2)
    return [page.blocks[index] for index in np.flatnonzero(kept)]
