"""Qwen3, dense and mixture of experts (arXiv 2505.09388): the whole architecture from top to bottom.

Pre-norm blocks of grouped-query attention with RMSNorm on every query and key head, and SwiGLU, one or one per expert;
no bias anywhere. Modules carry the names of the published weights. In the names of tensors B is the batch, T the time,
C the hidden size, H the query heads, K the key/value heads, D the head width, V the vocabulary, L the layers.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
import xxhash
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from trainer.model.attention import Mask, allow_variants, attention, cached_mask, document_mask, document_starts
from trainer.model.moe import MixtureOfExperts, Routing
from trainer.model.rope import rotate, rotation
from trainer.model.sizes import ModelConfig

Rotation = tuple[torch.Tensor, torch.Tensor]


class Cache:
    """Keys and values of the tokens a model has already read, for generation.

    Args:
        batch: sequences read side by side, all of the same length.
        capacity: the most tokens a sequence may reach.
    """

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype):
        shape = (config.layers, batch, config.kv_heads, capacity, config.head_dim)
        self.keys_LBKTD = torch.empty(shape, device=device, dtype=dtype)
        self.values_LBKTD = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one layer's new keys and values, (B, K, T, D); returns all of that layer's so far."""
        end = self.length + k.shape[2]
        self.keys_LBKTD[layer, :, :, self.length : end] = k
        self.values_LBKTD[layer, :, :, self.length : end] = v
        return self.keys_LBKTD[layer, :, :, :end], self.values_LBKTD[layer, :, :, :end]


class RMSNorm(nn.Module):
    """Scale the last dimension to root mean square 1, in float32 whatever the model's dtype (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * weight, with a backward pass written out: autograd's own reads and writes x twice as often, and
    keeps three tensors of its size where one is enough."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # makes no tensor of squares
        inverse = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, inverse, weight)
        y = (wide * inverse).to(x.dtype)
        return y.mul_(weight) if y.dtype == weight.dtype else y * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        wide, grad = x.float(), grad.float()
        product = grad * wide
        along = (product * weight).sum(-1, keepdim=True) * inverse.pow(3) / -x.shape[-1]
        grad_weight = product.mul_(inverse).sum(tuple(range(x.ndim - 1)))
        grad_x = torch.mul(grad, weight).mul_(inverse).addcmul_(wide, along)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


class Attention(nn.Module):
    """Grouped-query attention; each query and key head is normalised before it is rotated."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        query, key_value = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.layer = layer
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x_BTC: torch.Tensor, turn: Rotation, mask: Mask, cache: Cache | None) -> torch.Tensor:
        # The number of heads is read off the projections, which tensor parallelism makes narrower.
        q_BTHD = self.q_proj(x_BTC).unflatten(-1, (-1, self.head_dim))
        k_BTKD = self.k_proj(x_BTC).unflatten(-1, (-1, self.head_dim))
        v_BKTD = self.v_proj(x_BTC).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q_BHTD = rotate(self.q_norm(q_BTHD).transpose(1, 2), *turn)
        k_BKTD = rotate(self.k_norm(k_BTKD).transpose(1, 2), *turn)
        if cache is not None:
            k_BKTD, v_BKTD = cache.extend(self.layer, k_BKTD, v_BKTD)
        y_BHTD = attention(q_BHTD, k_BKTD, v_BKTD, mask)
        return self.o_proj(y_BHTD.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp: FeedForward | MixtureOfExperts = (
            MixtureOfExperts(config.hidden_size, config.intermediate_size, config.experts, config.experts_per_token)
            if config.experts
            else FeedForward(config.hidden_size, config.intermediate_size)
        )

    def forward(
        self,
        x_BTC: torch.Tensor,
        turn: Rotation,
        mask: Mask,
        counted_BT: torch.Tensor | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, Routing | None]:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), turn, mask, cache)
        y_BTC = self.post_attention_layernorm(x_BTC)
        # Routing is an output like any other, so a block that is computed again for the backward pass counts once.
        y_BTC, routing = (
            self.mlp(y_BTC, counted_BT) if isinstance(self.mlp, MixtureOfExperts) else (self.mlp(y_BTC), None)
        )
        return x_BTC + y_BTC, routing


class Qwen3(nn.Module):
    """A Qwen3 language model without its loss. Build it with `build`, or under `torch.device("meta")`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = (
            None if config.tied_embeddings else nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        )

    def set_rope_base(self, base: float) -> None:
        """Change the base of the rotary frequencies from the next forward on (ABF, between stages)."""
        self.config = replace(self.config, rope_base=base)

    def init_weights(self, seed: int) -> None:
        """Fill every parameter in place; the values depend on the seed and the parameter's name alone."""

        @torch.no_grad()  # it holds in one thread
        def draw(name: str, parameter: torch.Tensor) -> None:
            parameter.copy_(initial_value(name, parameter.shape, self.config.init_std, seed))

        # One core draws 14 million numbers a second, and GPUs wait for them.
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(draw, *zip(*self.named_parameters())):
                pass

    def forward(
        self,
        tokens_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        document_BT: torch.Tensor | None = None,
        cache: Cache | None = None,
        counted_BT: torch.Tensor | None = None,
        routings: list[Routing] | None = None,
    ) -> torch.Tensor:
        """The hidden states after the final norm, (B, T, C); `logits` turns them into scores.

        Args:
            tokens_BT: token ids.
            positions_BT: positions for the rotary embedding. If absent they count from 0, or on from what the
                cache holds, and restart at every document.
            document_BT: integers, equal inside a document: documents do not see each other. Absent: one document.
            cache: what was read before; it grows by T tokens. Not together with documents.
            counted_BT: False where a token is padding that `routings` leave out. Absent: all count.
            routings: a list that gets what the router of each layer did, if the model has experts.
        """
        batch, length = tokens_BT.shape
        past = cache.length if cache is not None else 0
        if cache is not None and document_BT is not None:
            raise ValueError("a cache holds one document a row: pass document_BT or cache, not both")
        if positions_BT is None:
            positions_BT = torch.arange(past, past + length, device=tokens_BT.device).expand(batch, length)
            if document_BT is not None:
                positions_BT = positions_BT - document_starts(document_BT)
        mask: Mask = None
        if document_BT is not None:
            mask = document_mask(document_BT)
        elif past:
            mask = cached_mask(length, past + length, tokens_BT.device)

        turn = rotation(positions_BT, self.config.head_dim, self.config.rope_base)
        x_BTC = self.embed_tokens(tokens_BT)
        for block in self.layers:
            x_BTC, routing = block(x_BTC, turn, mask, counted_BT, cache)
            if routings is not None and routing is not None:
                routings.append(routing)
        if cache is not None:
            cache.length += length
        return self.norm(x_BTC)

    @property
    def head_weight(self) -> torch.Tensor:
        """The (V, C) matrix that scores the vocabulary: the head's own, or the embedding if they are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden_BTC: torch.Tensor) -> torch.Tensor:
        """Scores of the vocabulary, (..., V) in the model's dtype. Training uses `trainer.loss` instead."""
        return F.linear(hidden_BTC, self.head_weight)


def initial_value(name: str, shape: tuple[int, ...], std: float, seed: int) -> torch.Tensor:
    """What a parameter starts from, float32 on the CPU: ones for norms, else a normal cut at 3 standard deviations.

    Drawn from the seed and the name, an expert's number being part of it, so it is the same on every device, and on a
    rank that holds a few layers or experts only.
    """
    if len(shape) == 1:
        return torch.ones(shape)
    if len(shape) == 3:
        return torch.stack([initial_value(f"{name}.{expert}", shape[1:], std, seed) for expert in range(shape[0])])
    number = xxhash.xxh3_64_intdigest(f"{seed}\x1f{name}".encode()) >> 1  # generators take 63 bits
    generator = torch.Generator().manual_seed(number)
    return nn.init.trunc_normal_(torch.empty(shape), 0.0, std, -3 * std, 3 * std, generator=generator)


def build(
    config: ModelConfig,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Qwen3:
    """An initialised model on a device, no parameter written twice."""
    model = empty(config, device, dtype)
    model.init_weights(seed)
    return model


def empty(config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Qwen3:
    """A model whose every weight is still to be read from somewhere: what its parameters hold is undefined."""
    with torch.device("meta"):
        model = Qwen3(config)
    return model.to(dtype).to_empty(device=device)


# Products are what costs time to compute again; norms, rotations and activations cost memory to keep.
_KEPT = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten._grouped_mm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.higher_order.inductor_compiled_code,  # flex attention, see `attention.compiled_flex`
        torch.ops.higher_order.flex_attention,  # the same inside a compiled block
    }
)


def _keep_products(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def apply_checkpointing(model: Qwen3, *, selective: bool) -> None:
    """Compute blocks again in the backward pass: all but their input, or if `selective` all but matrix products."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in a block is random
    if selective:
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_products)
    for block in model.layers:
        block.forward = _checkpointed(block.forward, options)


def _checkpointed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    # A function and not a partial: the compiler of a block begins at the first Python frame, and `checkpoint` itself
    # switches it off.
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, **kwargs, **options)

    return run


def compile_blocks(model: Qwen3) -> None:
    """Compile every block at its first call; after `apply_checkpointing` where both are wanted. One graph serves all.

    A mixture of experts must then run in bfloat16 or under autocast: its products are traced in no other type.
    """
    allow_variants()
    for block in model.layers:
        block.compile()
