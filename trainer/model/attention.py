"""Causal attention that knows where documents begin. One mask is built per forward pass; all layers share it.

In the names B is the batch, H the query heads, K the key/value heads, T the queries, S the keys, D the head width.
A document is a run of equal numbers in a row of `document_BT`.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # flex_attention's tile
_QUERIES = 192  # the fewest that the kernel for CPUs takes 64 and not 32 at a time


@dataclass(frozen=True)
class Segments:
    """Lengths of the documents of a batch, row after row; they sum to B * T."""

    lengths: tuple[int, ...]


# None is plain causal attention over equally many queries and keys; a boolean tensor is True where a key is seen.
Mask: TypeAlias = Segments | BlockMask | torch.Tensor | None


def document_starts(document_BT: torch.Tensor) -> torch.Tensor:
    """For every position, the position at which its document begins, (B, T) int64."""
    place_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    begins = torch.ones_like(document_BT, dtype=torch.bool)
    begins[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    return torch.where(begins, place_T, 0).cummax(dim=1).values


def document_mask(document_BT: torch.Tensor) -> Segments | BlockMask:
    """The causal mask inside documents, in the form that is fast where the batch lives."""
    start_BT = document_starts(document_BT)
    return segments(start_BT) if start_BT.device.type == "cpu" else block_mask(start_BT)


def segments(start_BT: torch.Tensor) -> Segments:
    batch, length = start_BT.shape
    begins = (start_BT == torch.arange(length, device=start_BT.device)).flatten().nonzero().flatten()
    bounds = [*begins.tolist(), batch * length]
    return Segments(tuple(end - begin for begin, end in itertools.pairwise(bounds)))


def block_mask(start_BT: torch.Tensor) -> BlockMask:
    """The tiles that `flex_attention` visits, from the starts alone: no T x T mask is ever made.

    Starts never fall along a row, so a tile of queries sees keys from the start of its first query on, and sees
    all of an earlier tile if that tile lies at or after the start of its last query.
    """
    length = start_BT.shape[1]
    tiles = -(-length // BLOCK)
    tile = torch.arange(tiles, device=start_BT.device)
    earliest_BQ1 = start_BT[:, tile * BLOCK, None]
    latest_BQ1 = start_BT[:, ((tile + 1) * BLOCK).clamp(max=length) - 1, None]
    seen_BQS = (tile <= tile[:, None]) & (tile >= earliest_BQ1 // BLOCK)
    whole_BQS = seen_BQS & (tile < tile[:, None]) & (tile * BLOCK >= latest_BQ1)

    def ordered(chosen_BQS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = chosen_BQS[:, None].int()
        return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()

    def visible(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (s <= q) & (s >= start_BT[b, q])

    return BlockMask.from_kv_blocks(
        *ordered(seen_BQS & ~whole_BQS),
        *ordered(whole_BQS),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def cached_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """The last `queries` of `keys` positions look back at all of them, (queries, keys) bool."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attention(q_BHTD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, mask: Mask) -> torch.Tensor:
    """Grouped-query attention, scaled by 1 / sqrt(D); query head h reads key head h // (H / K). (B, H, T, D)

    Computed in the values' dtype: under autocast these come straight from a matrix product, while the norm and the
    rotation leave queries and keys in float32.
    """
    q_BHTD, k_BKSD = q_BHTD.to(v_BKSD.dtype), k_BKSD.to(v_BKSD.dtype)
    if isinstance(mask, BlockMask):
        if torch.compiler.is_compiling():  # the compiler of a block compiles it too
            flex: Callable[..., Any] = flex_attention
        else:
            flex = compiled_flex()
        return flex(q_BHTD, k_BKSD, v_BKSD, block_mask=mask, enable_gqa=True)
    if isinstance(mask, Segments):
        return _each_segment(q_BHTD, k_BKSD, v_BKSD, mask.lengths)
    if mask is None:
        return _causal(q_BHTD, k_BKSD, v_BKSD)
    return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, enable_gqa=True)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # The kernel for CPUs goes through the keys in tiles of 512, and within a tile spares no work to a causal mask: up
    # to that length it computes the whole square. Blocks of queries that get no key past their end leave a third of it.
    length = q.shape[2]
    if not q.is_cpu or not _QUERIES < length <= 512:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    outputs = []
    for begin in range(0, length, _QUERIES):
        end = min(begin + _QUERIES, length)
        mask = cached_mask(end - begin, end, q.device)
        queries, keys, values = q[:, :, begin:end], k[:, :, :end], v[:, :, :end]
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
        outputs.append(y.transpose(1, 2))
    return torch.cat(outputs, dim=1).transpose(1, 2)


def _each_segment(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    # One causal call a document: work grows with the squares of the documents, not of the sequence. It beats a
    # boolean mask from documents of a dozen tokens on.
    batch, heads, length, width = q.shape
    rows = [x.transpose(1, 2).flatten(0, 1).split(lengths) for x in (q, k, v)]
    outputs = []
    for segment in zip(*rows, strict=True):
        query, key, value = (x.transpose(0, 1)[None] for x in segment)
        outputs.append(_causal(query, key, value)[0].transpose(0, 1))
    return torch.cat(outputs).view(batch, length, heads, width).transpose(1, 2)


def allow_variants() -> None:
    """Let the compiler make as many variants of a function as trainings need, and say so where it makes no more.

    Training, validation and routing without gradients, each at several lengths and batch sizes, are more than its
    default, after which it would run the function uncompiled.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@functools.cache
def compiled_flex() -> Callable[..., torch.Tensor]:
    """Flex attention as a kernel; uncompiled it makes the full T x T scores, and so it must never fall back to that.

    Wrapped, the kernel is an operation that activation checkpointing sees and can keep.
    """
    allow_variants()
    return torch.compile(flex_attention, options={"wrap_inductor_compiled_regions": True})
