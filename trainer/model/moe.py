"""Mixture of experts: each token goes through the few experts that its router scores highest.

In the names N is the number of tokens, E the experts, K the experts of a token, S = N * K the rows that all experts
work on together, C the hidden size, I the width of an expert.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable


class Routing(NamedTuple):
    """What one layer's router did, as sums over the tokens that count (padding does not), in float32.

    Sums, so that micro-batches and ranks add up. `probability_E` and `square` carry gradients to the router.
    """

    load_E: torch.Tensor  # tokens that went to each expert; they sum to K times the tokens
    probability_E: torch.Tensor  # router probability of each expert, chosen or not
    square: torch.Tensor  # logsumexp(logits)^2, of the router's z-loss (arXiv 2202.08906)
    entropy: torch.Tensor  # of the router's distribution, in nats
    tokens: torch.Tensor


class Experts(nn.Module):
    """SwiGLU experts, their weights stacked."""

    def __init__(self, experts: int, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(experts, intermediate_size, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(experts, intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))

    def forward(self, x_SC: torch.Tensor, share_S: torch.Tensor, ends_E: torch.Tensor) -> torch.Tensor:
        """Rows of the same expert stand together: expert e's end before row ends_E[e].

        The share of an expert in its token's output is multiplied in before the last projection, where rows are
        narrower.
        """
        dtype = compute_dtype(x_SC)
        x_SC, (gate, up, down) = x_SC.to(dtype), (weight.to(dtype).mT for weight in self.parameters())
        gate_SI = F.grouped_mm(x_SC, gate, offs=ends_E)
        up_SI = F.grouped_mm(x_SC, up, offs=ends_E)
        return F.grouped_mm(F.silu(gate_SI) * up_SI * share_S[:, None].to(dtype), down, offs=ends_E)


class MixtureOfExperts(nn.Module):
    """Top-K routing with shares that sum to 1, no shared expert, no capacity: no token is ever dropped."""

    def __init__(self, hidden_size: int, intermediate_size: int, experts: int, experts_per_token: int):
        super().__init__()
        self.experts_per_token = experts_per_token
        self.gate = nn.Linear(hidden_size, experts, bias=False)
        self.experts = Experts(experts, hidden_size, intermediate_size)

    def forward(self, x_BTC: torch.Tensor, counted_BT: torch.Tensor | None) -> tuple[torch.Tensor, Routing]:
        """The layer's output and its routing; `counted_BT` is False at padding, None if there is none."""
        x_NC = x_BTC.flatten(0, 1)
        counted_N = (
            x_NC.new_ones(len(x_NC), dtype=torch.float32) if counted_BT is None else counted_BT.flatten().float()
        )
        # In float32 whatever the rest computes in: a rounding error here sends a token elsewhere.
        with torch.autocast(x_NC.device.type, enabled=False):
            logits_NE = F.linear(x_NC.float(), self.gate.weight.float())
            log_sum_N1 = logits_NE.logsumexp(-1, keepdim=True)
            log_probability_NE = logits_NE - log_sum_N1
            probability_NE = log_probability_NE.exp()
            share_NK, expert_NK = probability_NE.topk(self.experts_per_token, dim=-1)
            share_NK = share_NK / share_NK.sum(-1, keepdim=True)
            routing = Routing(
                load_E=_load(expert_NK, counted_N, logits_NE.shape[-1]),
                probability_E=probability_NE.mT.mv(counted_N),
                square=counted_N.dot(log_sum_N1.square()[:, 0]),
                entropy=-(probability_NE * log_probability_NE).detach().mT.mv(counted_N).sum(),
                tokens=counted_N.sum(),
            )
        sorted_S, order_S = expert_NK.flatten().sort(stable=True)
        ends_E = torch.searchsorted(
            sorted_S, torch.arange(logits_NE.shape[-1], device=sorted_S.device), right=True, out_int32=True
        )
        place_S = torch.empty_like(order_S)
        place_S[order_S] = torch.arange(len(order_S), device=order_S.device)
        rows_SC = _Dispatch.apply(x_NC.to(compute_dtype(x_NC)), order_S, place_S, self.experts_per_token)
        y_SC = self.experts(rows_SC, share_NK.flatten()[order_S], ends_E)
        y_NC = _Combine.apply(y_SC, order_S, place_S, self.experts_per_token)
        return y_NC.view(x_BTC.shape), routing


def balance(load_E: torch.Tensor, tokens: torch.Tensor, probability_E: torch.Tensor, over: torch.Tensor, k: int) -> Any:
    """E * sum of f_i * P_i over the experts of the last dimension (arXiv 2501.11873): 1 if all are used alike.

    Args:
        load_E, tokens: tokens per expert, and tokens, of the batch that is to be balanced; f = load / (k * tokens).
        probability_E, over: summed router probabilities, and what makes a mean of them; gradients flow through them.
    """
    share_E = load_E / (k * tokens)
    return load_E.shape[-1] * (share_E * probability_E / over).sum(-1)


def _load(expert_NK: torch.Tensor, counted_N: torch.Tensor, experts: int) -> torch.Tensor:
    load_E = torch.zeros(experts, dtype=torch.float32, device=counted_N.device)
    return load_E.index_add_(0, expert_NK.flatten(), counted_N.repeat_interleave(expert_NK.shape[1]))


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What autocast computes matrix products in here, for operations that it does not know."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _sum_of_rows(rows_SC: torch.Tensor, place_S: torch.Tensor, k: int) -> torch.Tensor:
    """For every token the sum of its K rows, (N, C). A bag of embeddings adds them up without a copy of all rows."""
    return F.embedding_bag(place_S.view(-1, k), rows_SC, mode="sum")


class _Dispatch(torch.autograd.Function):
    """Row s is the token of the s-th pair of token and expert in the order of experts.

    A token's gradient is the sum of its K rows: gathered, not scattered, so it is fast and the same every time.
    """

    @staticmethod
    def forward(ctx: Any, x_NC: torch.Tensor, order_S: torch.Tensor, place_S: torch.Tensor, k: int) -> torch.Tensor:
        ctx.save_for_backward(place_S)
        ctx.k = k
        return x_NC.index_select(0, order_S // k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (place_S,) = ctx.saved_tensors
        return _sum_of_rows(grad_SC, place_S, ctx.k), None, None, None


class _Combine(torch.autograd.Function):
    """The reverse of `_Dispatch`: a token is the sum of its K rows."""

    @staticmethod
    def forward(ctx: Any, y_SC: torch.Tensor, order_S: torch.Tensor, place_S: torch.Tensor, k: int) -> torch.Tensor:
        ctx.save_for_backward(order_S)
        ctx.k = k
        return _sum_of_rows(y_SC, place_S, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (order_S,) = ctx.saved_tensors
        return grad_NC.index_select(0, order_S // ctx.k), None, None, None
