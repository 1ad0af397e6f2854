"""Text continuation, one sequence at a time, with a cache of keys and values."""

from collections.abc import Collection, Sequence

import torch

from schemas.errors import ConfigError, DataError
from trainer.model.qwen3 import Cache, Qwen3


@torch.inference_mode()
def generate(
    model: Qwen3,
    token_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """Continue `token_ids`; returns the new tokens only, and without the stop token that ended them.

    Args:
        max_new_tokens: the most tokens to add.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: sample among the k likeliest tokens.
        top_p: sample among the fewest tokens that hold this probability together (arXiv 1904.09751).
        seed: the same seed samples the same tokens.
        stop_ids: tokens that end the text.

    Raises:
        ConfigError: no prompt, a prompt token outside the vocabulary, a text longer than the model's context, or a
            sampling parameter out of range.
    """
    config = model.config
    length = len(token_ids) + max_new_tokens
    if not token_ids:
        raise ConfigError("generate: the prompt is empty; give at least one token, such as the end of document")
    if not all(0 <= token < config.vocabulary_size for token in token_ids):
        raise ConfigError(
            f"generate: the prompt has tokens outside 0..{config.vocabulary_size - 1}; "
            "use the tokenizer the model was trained with"
        )
    if length > config.max_position:
        raise ConfigError(
            f"generate: {len(token_ids)} prompt + {max_new_tokens} new tokens exceed the model's "
            f"{config.max_position} positions; shorten either"
        )
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise ConfigError(
            f"generate: temperature {temperature}, top_k {top_k}, top_p {top_p}; "
            "use temperature >= 0, top_k >= 1 and 0 < top_p <= 1"
        )

    weight = model.head_weight
    cache = Cache(config, 1, length, weight.device, weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([list(token_ids)], device=weight.device)
    new: list[int] = []
    while len(new) < max_new_tokens:
        logits_V = model.logits(model(tokens, cache=cache)[0, -1]).float().cpu()
        if not logits_V.isfinite().all():
            raise DataError("the model's scores are not finite: its weights are damaged or its training has diverged")
        token = _choose(logits_V, temperature, top_k, top_p, generator)
        if token in stop_ids:
            break
        new.append(token)
        tokens = torch.tensor([[token]], device=weight.device)
    return new


def _choose(
    logits_V: torch.Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator
) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities = kept(logits_V / temperature, top_k, top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def kept(logits_V: torch.Tensor, top_k: int | None, top_p: float) -> torch.Tensor:
    """Probabilities after top-k, then top-p: 0 for what is left out, the rest scaled to sum to 1."""
    ordered, order = logits_V.sort(descending=True, stable=True)
    ordered = ordered[:top_k].softmax(-1)
    before = ordered.cumsum(-1) - ordered
    chosen = ordered * (before < top_p)
    return torch.zeros_like(logits_V).scatter(0, order[: len(chosen)], chosen / chosen.sum())
