"""Cross-entropy over a large vocabulary in bounded memory."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer.model.attention import allow_variants
from trainer.model.moe import compute_dtype
from trainer.model.sizes import LOSS_CHUNK

IGNORE = -100  # a label that counts nowhere


def chunked_cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    chunk: int = LOSS_CHUNK,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of N tokens, and each token's negative log-likelihood, with at most chunk x V logits alive.

    Args:
        hidden_ND: what the head reads.
        weight_VD: the head.
        labels_N: the right tokens; `IGNORE` where there is none.
        chunk: tokens whose logits exist at the same time; twice as many on a GPU, where they are never float32.
        z_loss: adds z_loss * logsumexp(logits)^2 a token (arXiv 2204.02311, section 5).

    Returns:
        The sum of nll + z-loss, a float32 scalar to differentiate, not divided by anything: the right divisor is the
        number of valid tokens of the whole global batch. And the nll alone, (N,) float32, detached, 0 where ignored.
    """
    tracked = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    total, nll_N = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, labels_N, chunk, z_loss, tracked)
    return total, nll_N


class _ChunkedCrossEntropy(torch.autograd.Function):
    # The gradient of a sum is known as soon as a chunk's logits are, so it is taken in the forward pass: the logits
    # are computed once and dropped, and backward only scales.

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        chunk: int,
        z_loss: float,
        tracked: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden_ND.device
        nll_N = torch.empty(labels_N.shape, dtype=torch.float32, device=device)
        z = torch.zeros((), dtype=torch.float32, device=device)
        need_hidden, need_weight = (tracked and need for need in ctx.needs_input_grad[:2])
        grad_hidden_ND = torch.empty_like(hidden_ND) if need_hidden else None
        # Summed over chunks, so in float32 even if the model is not.
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        dtype = compute_dtype(hidden_ND)
        weight = weight_VD.to(dtype)
        if device.type == "cuda":
            chunk *= 2
        space = torch.empty(min(chunk, len(labels_N)), len(weight), dtype=dtype, device=device)  # of every chunk

        for begin in range(0, len(labels_N), chunk):
            rows = slice(begin, begin + chunk)
            labels = labels_N[rows]
            valid = labels != IGNORE
            targets = torch.where(valid, labels, 0)[:, None]
            # A row that counts nowhere may hold anything, and infinity times zero is no zero.
            hidden = hidden_ND[rows].to(dtype).masked_fill(~valid[:, None], 0)
            logits = torch.mm(hidden, weight.T, out=space[: len(labels)])
            judge = _compiled_scores() if device.type == "cuda" else _scores
            nll_N[rows], lse, gradient = judge(logits, targets, valid, z_loss, need_hidden or need_weight)
            z += torch.where(valid, lse.square(), 0).sum()
            if grad_hidden_ND is not None:
                grad_hidden_ND[rows] = gradient @ weight
            if grad_weight_VD is not None and dtype == torch.float32:
                grad_weight_VD.addmm_(gradient.T, hidden)
            elif grad_weight_VD is not None and device.type == "cuda":  # added up unrounded, inside the product
                torch.addmm(grad_weight_VD, gradient.T, hidden, out_dtype=torch.float32, out=grad_weight_VD)
            elif grad_weight_VD is not None:
                grad_weight_VD += gradient.T @ hidden
            del gradient  # before the next one is made

        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll_N)
        return nll_N.sum() + z_loss * z, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        # Scaled where they lie, as a second V x D would cost as much memory as all the rest; autograd refuses a second
        # backward over what was changed.
        hidden = grad_hidden_ND.mul_(grad_total) if grad_hidden_ND is not None else None
        weight = grad_weight_VD.mul_(grad_total).to(ctx.weight_dtype) if grad_weight_VD is not None else None
        return hidden, weight, None, None, None, None


def _scores(
    logits_NV: torch.Tensor, targets_N1: torch.Tensor, valid_N: torch.Tensor, z_loss: float, need_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of some rows the nll and the logsumexp, in float32, and the gradient of the logits in their type.

    The memory of the logits is used for what follows from them; without a need the gradient is empty.
    """
    dtype = logits_NV.dtype
    logits_NV = logits_NV.float()
    right = logits_NV.gather(1, targets_N1)[:, 0]
    top = logits_NV.amax(-1)
    exponential = logits_NV.sub_(top[:, None]).exp_()
    total = exponential.sum(-1)
    lse = top + total.log()
    nll = torch.where(valid_N, lse - right, 0)
    if not need_gradient:
        return nll, lse, nll.new_empty(0)
    gradient = exponential.mul_((valid_N * (1 + 2 * z_loss * lse) / total)[:, None])
    return nll, lse, gradient.scatter_add_(1, targets_N1, -valid_N.float()[:, None]).to(dtype)


@functools.cache
def _compiled_scores() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The same in two passes over the logits; uncompiled it takes as long as the products themselves on a GPU."""
    allow_variants()
    return torch.compile(_scores_in_one)


def _scores_in_one(
    logits_NV: torch.Tensor, targets_N1: torch.Tensor, valid_N: torch.Tensor, z_loss: float, need_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_scores` without a change in place, which the compiler could not make part of a pass."""
    wide = logits_NV.float()
    top = wide.amax(-1)
    lse = top + (wide - top[:, None]).exp().sum(-1).log()
    nll = torch.where(valid_N, lse - logits_NV.gather(1, targets_N1)[:, 0].float(), 0)
    if not need_gradient:
        return nll, lse, nll.new_empty(0)
    here_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N1
    share = (wide - lse[:, None]).exp() * (1 + 2 * z_loss * lse)[:, None] - here_NV.float()
    return nll, lse, torch.where(valid_N[:, None], share, 0).to(logits_NV.dtype)
