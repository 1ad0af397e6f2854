"""Rotary position embeddings (arXiv 2104.09864), halves rotated as in the published Qwen3 weights."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def rotation(positions_BT: torch.Tensor, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of position * base^(-2d / head_dim), each (B, T, head_dim) in float32.

    Both halves of the last dimension carry the same angles: dimension d turns together with d + head_dim / 2.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device) / head_dim
    angles = positions_BT.float()[..., None] * (1.0 / base**exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor) -> torch.Tensor:
    """Turn every head of queries or keys. In float32: bfloat16 angles would blur positions of a long context."""
    return _Rotate.apply(x_BHTD, cos_BTD, sin_BTD)


class _Rotate(torch.autograd.Function):
    # A rotation is undone by the opposite angle, so backward is forward with the sines negated and keeps nothing but
    # the table that all layers share.

    @staticmethod
    def forward(ctx: Any, x_BHTD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos_BTD, sin_BTD)
        return _turned(x_BHTD, cos_BTD, sin_BTD, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos_BTD, sin_BTD = ctx.saved_tensors
        return _turned(grad_BHTD, cos_BTD, sin_BTD, -1), None, None


def _turned(x_BHTD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, sign: int) -> torch.Tensor:
    x = x_BHTD.float()
    y = x * cos_BTD[:, None]
    half = x.shape[-1] // 2
    sin = sin_BTD[:, None, :, :half]
    y[..., :half].addcmul_(x[..., half:], sin, value=-sign)
    y[..., half:].addcmul_(x[..., :half], sin, value=sign)
    return y.to(x_BHTD.dtype)
