"""What a training costs before it starts: floating-point operations and bytes, counted from shapes. No torch here.

Operations are those of matrix products, forward once and backward twice (arXiv 2001.08361; arXiv 2204.02311, appendix
B). Additions, norms and rotations take some per cent of the time and are not counted.

Bytes are those of one process of data-parallel training, which holds the whole model: float32 weights, gradients and
moments; what the forward pass keeps for the backward pass, uncompiled; and what comes and goes. They do not peak at the
same moment, so the sum is an upper bound of what tensors take; the allocator's gaps, the libraries' workspaces and the
buffers of communication come on top.

In the names C is the hidden size, Q and K the widths of all query and of all key heads, I the width of the feed-forward
layer or of an expert, E the experts.
"""

import re
from dataclasses import asdict, dataclass

from schemas.recipe import Checkpointing, Pretrain
from trainer.model.sizes import LOSS_CHUNK, ModelConfig, parameter_count
from trainer.schedule import spans

# A CPU's attention takes documents of 193 to 512 tokens in blocks of 192 queries, each with a mask over the keys up to
# its end. In numbers a token that is most for 512 tokens.
_UNMASKED = 192
_MASKS = (192 * 192 + 192 * 384 + 128 * 512) // 512

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
    "mi300x": 1307.4e12,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations per second at best, by the driver's name of a device ("NVIDIA H100 80GB HBM3").

    None if the device is not known.
    """
    words = set(re.split(r"[\s-]+", device_name.lower()))
    return next((peak for known, peak in _PEAK_FLOPS.items() if words.issuperset(known.split())), None)


# ---------------------------------------------------------------------------------------------------------------
# Operations


def flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Operations to train on one token, forward and backward, without any recomputation: the model's, as MFU counts.

    6 per parameter of the matrices that a token goes through (the head among them; the embedding is looked up), and
    12 per query head, width and key seen, of which causal attention has (T + 1) / 2 on average. A document mask hides
    keys, so with it the attention is an upper bound.
    """
    products = config.layers * _block_matrices(config) + config.vocabulary_size * config.hidden_size
    return 6 * products + 3 * _attention_flops(config, sequence_length)


def recomputed_flops_per_token(config: ModelConfig, sequence_length: int, checkpointing: Checkpointing) -> int:
    """Operations that the backward pass repeats, on top of `flops_per_token`.

    `selective` keeps the results of all products and repeats none. `full` repeats the forward pass of every block; of
    a dense one but the last product, whose result the backward pass does not need.
    """
    if checkpointing != "full":
        return 0
    last = 0 if config.experts else config.hidden_size * config.intermediate_size
    return 2 * config.layers * (_block_matrices(config) - last) + _attention_flops(config, sequence_length)


def _attention_flops(config: ModelConfig, sequence_length: int) -> int:
    """Forward, a token: 2 per width and key for the scores and as many for the values, over (T + 1) / 2 keys."""
    return 2 * config.layers * config.heads * config.head_dim * (sequence_length + 1)


def _block_matrices(config: ModelConfig) -> int:
    """Parameters of the matrices of a block that one token goes through."""
    projections = 2 * config.hidden_size * config.head_dim * (config.heads + config.kv_heads)
    feed_forward = 3 * config.hidden_size * config.intermediate_size * max(1, config.experts_per_token)
    return projections + feed_forward + config.hidden_size * config.experts


def training_flops(pretrain: Pretrain, config: ModelConfig) -> tuple[int, int]:
    """Operations of a whole training: the model's, and those that are done once more.

    Activation checkpointing repeats some, and exact balancing of experts a forward pass without the head.
    """
    model = repeated = 0
    for span in spans(pretrain):
        length = span.stage.sequence_length
        again = recomputed_flops_per_token(config, length, pretrain.activation_checkpointing)
        if config.experts and pretrain.optimizer.balance_exact:
            again += 2 * config.layers * _block_matrices(config) + _attention_flops(config, length)
        model += span.tokens * flops_per_token(config, length)
        repeated += span.tokens * again
    return model, repeated


# ---------------------------------------------------------------------------------------------------------------
# Bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def training_memory(config: ModelConfig, tokens: int, checkpointing: Checkpointing, *, bf16: bool) -> Memory:
    """Bytes of a process whose micro-batches have so many tokens, with products in bf16 (a GPU) or float32.

    weights, gradients, moments: 4, 4 and 8 a parameter.
    copies: 2 a parameter of the blocks, cast for the products in bf16; none in float32.
    activations: tokens times what every block keeps, see `_kept`, and what the last norm keeps.
    transient: what the loss or what the backward pass of a block holds for a moment, whichever is more.
        The loss: see `_loss`.
        A block: what is computed again; the gradients of three tensors inside its feed-forward layer and of its largest
        parameter; the gradient of the head, which waits for the embedding's if they are tied.
    """
    count = parameter_count(config)
    product = 2 if bf16 else 4
    kept = _kept(config, checkpointing, product, tokens)
    again = _kept(config, "none", product, tokens) - kept
    outside = 8 * config.head_dim + 8 * config.hidden_size + 4  # cosines and sines; the last norm with its result
    head = config.vocabulary_size * config.hidden_size
    feed_forward = config.hidden_size * config.intermediate_size * max(1, config.experts)
    inside = 3 * product * config.intermediate_size * max(1, config.experts_per_token)
    block = tokens * (again + inside) + 4 * (feed_forward + head)
    return Memory(
        weights=4 * count.total,
        gradients=4 * count.total,
        moments=8 * count.total,
        copies=2 * count.body if bf16 else 0,
        activations=tokens * (config.layers * kept + outside),
        transient=max(_loss(config, tokens, bf16=bf16), block),
    )


def _loss(config: ModelConfig, tokens: int, *, bf16: bool) -> int:
    """Bytes that the loss holds at most: forward, as backward only scales what forward left.

    In float32: the logits of a chunk, which become their gradient; what the head reads, and its gradient; the
    gradients of the head and of all hidden states. In bf16 the head as it is cast, and either the logits before, while
    and after they are float32 (or on a GPU, where they never are, those of two chunks before and after) or, with a
    chunk's logits and their gradient, a product that is added to the head's. And some numbers a token.
    """
    chunk = min(LOSS_CHUNK, tokens)
    vocabulary, head, hidden = config.vocabulary_size, config.vocabulary_size * config.hidden_size, config.hidden_size
    if bf16:
        forward = max(8 * chunk * vocabulary + 6 * head, 4 * chunk * vocabulary + 8 * head)
    else:
        forward = 4 * chunk * vocabulary + 4 * head
    return forward + (4 if bf16 else 8) * chunk * hidden + 4 * tokens * hidden + 40 * chunk + 8 * tokens


def _kept(config: ModelConfig, checkpointing: Checkpointing, product: int, tokens: int) -> int:
    """Bytes a token that a block keeps for the backward pass; `product` is the size of a number in a product.

    Norms and the stream between blocks are in float32. What each mode keeps:

    none: the input of each of the two norms of the stream, 8 C. What the projections read: in float32 one tensor that
        they share, in bf16 a cast for each. In product size queries and keys as they enter their norms and as attention
        reads them, its values and results; in float32, on a CPU, the results once more, joined from those of documents,
        and at most so many masks. Rotations keep nothing. Gate, activated gate, up and their product. Experts keep the
        last four and the weighted product for each of a token's rows, with the row itself; the router its input, logits
        and probabilities. The rest are inverses, sums and indices.
    selective: the block's input, and the results of products and of attention; in bf16 also queries and keys as
        attention reads them, which the kernel for documents on a GPU hands on for its backward pass.
    full: the block's input.
    """
    c, i, experts, rows = config.hidden_size, config.intermediate_size, config.experts, config.experts_per_token
    q, k = config.heads * config.head_dim, config.kv_heads * config.head_dim
    if checkpointing == "full":
        return 4 * c
    if checkpointing == "selective":
        attention = product * (2 * q + 2 * k + c + (q + k if product != 4 else 0)) + 4 * config.heads
        expert = product * (2 * i + c)
        return 4 * c + attention + (rows * expert + 4 * experts if experts else expert)
    casts, joined = ((3, 2), 0) if product != 4 else ((1, 1), q + (_MASKS if tokens > _UNMASKED else 0))
    attention = 4 * c + product * (casts[0] * c + 3 * (q + k) + joined) + 4 * (1 + 2 * config.heads + config.kv_heads)
    if not experts:
        return attention + 4 * c + casts[1] * product * c + 4 * product * i + 4
    return attention + 8 * c + rows * (product * (c + 5 * i + 1) + 28) + 8 * experts + 12
