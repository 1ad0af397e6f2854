"""Rotary position embeddings (arXiv 2104.09864), halves rotated as in the published Qwen3 weights."""

import torch


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
    x = x_BHTD.float()
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos_BTD[:, None] + turned * sin_BTD[:, None]).to(x_BHTD.dtype)
