"""Keeping experts busy: the balancing loss over a whole global batch, and what the routers of a step did.

A loss per micro-batch would ask every few sequences to use all experts alike and so keep them from specialising (arXiv
2501.11873). Here the share f_i of an expert is that of the global batch: counts are summed over ranks and over the
micro-batches read so far, or, in the exact mode, over all of them by a forward pass of its own. The mean probability
P_i is the micro-batch's own, weighted by its tokens, and carries the gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from schemas.recipe import Optimizer
from trainer.model.moe import Routing, balance
from trainer.model.sizes import ModelConfig
from trainer.parallel import Ranks


@dataclass(frozen=True)
class RouterStats:
    """What the routers did in one step over all micro-batches and ranks, float64; L layers, E experts."""

    load_LE: np.ndarray  # tokens of an expert beside an equal share: 1 is balanced, 0 is idle
    balance_L: np.ndarray  # E * sum f_i P_i: 1 is balanced
    entropy_L: np.ndarray  # of a token's router distribution, from 0 to 1 (all experts alike), mean over tokens
    square_L: np.ndarray  # logsumexp(logits)^2, mean over tokens


class LoadBalance:
    """One optimizer step.

    Args:
        tokens: tokens of the global batch that count, over all ranks and micro-batches.
    """

    def __init__(self, config: ModelConfig, settings: Optimizer, tokens: torch.Tensor, ranks: Ranks) -> None:
        self.chosen, self.settings, self.ranks = config.experts_per_token, settings, ranks
        self.batch_tokens = tokens.to(torch.float32)
        shape = (config.layers, config.experts)
        self.load_LE = torch.zeros(shape, device=ranks.device)
        self.tokens = torch.zeros((), device=ranks.device)
        self._probability_LE = torch.zeros(shape, device=ranks.device)
        self._sums_2L = torch.zeros(2, config.layers, device=ranks.device)  # entropy, square

    def count(self, routings: Sequence[Routing]) -> None:
        """Add a micro-batch to the shares; every rank calls it as often as the others, with nothing if it has none."""
        load_LE, tokens = torch.zeros_like(self.load_LE), torch.zeros_like(self.tokens)
        if routings:
            load_LE = torch.stack([routing.load_E for routing in routings])
            tokens = routings[0].tokens.clone()
        self.ranks.sum([load_LE, tokens])
        self.load_LE += load_LE
        self.tokens += tokens

    def loss(self, routings: Sequence[Routing]) -> torch.Tensor:
        """What a micro-batch adds to the mean loss of the global batch: a sum over layers, ready for `backward`.

        Ranks and micro-batches sum to the whole, like the cross-entropy divided by the labels of the global batch.
        """
        probability_LE = torch.stack([routing.probability_E for routing in routings])
        square_L = torch.stack([routing.square for routing in routings])
        self._probability_LE += probability_LE.detach()
        self._sums_2L += torch.stack((torch.stack([routing.entropy for routing in routings]), square_L.detach()))
        balance_L = balance(self.load_LE, self.tokens, probability_LE, self.batch_tokens, self.chosen)
        z = square_L.sum() / self.batch_tokens
        return self.settings.balance_loss * balance_L.sum() + self.settings.router_z_loss * z

    def stats(self) -> RouterStats:
        """After the last micro-batch; every rank calls it."""
        self.ranks.sum([self._probability_LE, self._sums_2L])
        balance_L = balance(self.load_LE, self.tokens, self._probability_LE, self.batch_tokens, self.chosen)
        experts = self.load_LE.shape[1]
        entropy_L, square_L = (self._sums_2L / self.batch_tokens).double().cpu().numpy()
        return RouterStats(
            load_LE=(self.load_LE * (experts / (self.chosen * self.tokens))).double().cpu().numpy(),
            balance_L=balance_L.double().cpu().numpy(),
            entropy_L=entropy_L / np.log(experts) if experts > 1 else entropy_L,
            square_L=square_L,
        )
