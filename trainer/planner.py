"""What a training costs before it starts: floating-point operations and bytes, counted from shapes. No torch here.

The model's operations are those of its matrix products, forward once and backward twice (arXiv 2001.08361, arXiv
2204.02311 appendix B); additions, norms and the rotation are some per cent of these in time and none in the count.
"""

import re

from trainer.model.sizes import ModelConfig

# Dense bf16 operations per second of the tensor cores, from the vendors' data sheets (half of a figure "with
# sparsity"), by words of the driver's name for the device. The first entry whose words are all there decides.
_PEAK_FLOPS = {
    "gb200": 2.5e15,
    "b200": 2.25e15,
    "gh200": 0.99e15,
    "h200 nvl": 835.5e12,
    "h200": 989.5e12,
    "h100 pcie": 756.5e12,
    "h100 nvl": 835.5e12,
    "h100": 989.5e12,
    "h800": 989.5e12,
    "a100": 312e12,
    "a800": 312e12,
    "l40s": 362e12,
    "l40": 181e12,
    "l4": 121e12,
    "mi300x": 1307.4e12,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations per second at best of a device by the driver's name for it; None if it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989500000000000.0
    """
    words = set(re.split(r"[\s-]+", device_name.lower()))
    return next((peak for known, peak in _PEAK_FLOPS.items() if words.issuperset(known.split())), None)


def flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Operations to train on one token, forward and backward, without any recomputation: the model's, as MFU counts.

    6 per parameter of the matrices that a token goes through (the head among them; the embedding is looked up), and
    12 per query head, width and key seen, of which causal attention has (T + 1) / 2 on average. A document mask hides
    keys, so with it the attention is an upper bound.
    """
    attention = config.layers * config.heads * config.head_dim * 6 * (sequence_length + 1)
    return 6 * (config.layers * _block_matrices(config) + config.vocabulary_size * config.hidden_size) + attention


def _block_matrices(config: ModelConfig) -> int:
    """Parameters of the matrices of a block that one token goes through."""
    projections = 2 * config.hidden_size * config.head_dim * (config.heads + config.kv_heads)
    feed_forward = 3 * config.hidden_size * config.intermediate_size * max(1, config.experts_per_token)
    return projections + feed_forward + config.hidden_size * config.experts
