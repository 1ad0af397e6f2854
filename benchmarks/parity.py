"""Our Qwen3 beside transformers', both ways through files on disk: logits, gradients and routing, one line a size.

    python -m benchmarks.parity [SIZE ...] [--experts 128]

Every published shape at its real depth with its real ratios (heads to kv heads, hidden to feed-forward size, experts
and top-k), but narrow, with weights of standard deviation .1 and norms that are not ones; float32, one thread. "Import"
is a folder that transformers saved and we read, "export" one that we wrote and transformers reads. Differences of
logits are in units of max(1, max |logit|); gradients are compared parameter by parameter, |ours - theirs| / |theirs|,
and the worst is shown beside that of all parameters as one vector.

Where the scores of two experts differ by less than rounding, either choice is right, and what follows differs for good.
Such choices are counted as "ties" (anything wider apart is an error) and given to transformers before it is compared.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3MoeConfig
from transformers.utils import logging

from trainer import hf
from trainer.model.moe import MixtureOfExperts
from trainer.model.qwen3 import Qwen3
from trainer.model.sizes import SIZES, ModelConfig, parameter_count

VOCABULARY, LENGTH, KV_HEADS = 211, 32, 2
TIE = 1e-5  # largest difference of two router probabilities, relative, that rounding may turn round


@dataclass(frozen=True)
class Parity:
    """What was found of one size. Differences of logits are relative to max(1, `largest`)."""

    config: ModelConfig
    largest: float  # |logit|
    imported: float  # difference of logits, their folder read by us
    exported: float  # our folder read by them
    gradient: float  # of the worst parameter, relative
    gradient_overall: float  # of all parameters as one vector
    ties: int  # pairs of token and layer
    seconds: float  # of CPU


def narrow(name: str, experts: int | None = None) -> ModelConfig:
    """A published shape at its real depth with its ratios, but with two kv heads and short ones."""
    full = SIZES[name]
    heads = KV_HEADS * full.heads // full.kv_heads
    head_dim = 4 if full.experts else 8
    shrink = full.heads * full.head_dim // (heads * head_dim)
    return ModelConfig(
        vocabulary_size=VOCABULARY,
        hidden_size=full.hidden_size // shrink,
        intermediate_size=full.intermediate_size // shrink,
        layers=full.layers,
        heads=heads,
        kv_heads=KV_HEADS,
        head_dim=head_dim,
        tied_embeddings=full.tied_embeddings,
        experts=full.experts and (experts or full.experts),
        experts_per_token=full.experts_per_token,
        rope_base=1e6,
        max_position=256,
        init_std=0.1,
    )


def pinned(config: ModelConfig) -> dict[str, str]:
    """What transformers computes with; its back ends differ by more than it and we do."""
    experts = {"experts_implementation": "grouped_mm"} if config.experts else {}
    return {"attn_implementation": "sdpa", **experts}


def their_model(config: ModelConfig) -> PreTrainedModel:
    """A model of transformers with weights of its own, made without a line of ours."""
    options: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "max_position_embeddings": config.max_position,
        "initializer_range": config.init_std,
    }
    if config.experts:
        described = Qwen3MoeConfig(
            **options,
            intermediate_size=config.intermediate_size * config.experts_per_token,
            moe_intermediate_size=config.intermediate_size,
            num_experts=config.experts,
            num_experts_per_tok=config.experts_per_token,
            norm_topk_prob=True,
        )
    else:
        described = Qwen3Config(**options, intermediate_size=config.intermediate_size)
    model = AutoModelForCausalLM.from_config(described, dtype=torch.float32, **pinned(config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.normal_(std=config.init_std, generator=generator)
    return model.eval()


def parity(config: ModelConfig, folder: Path) -> Parity:
    """Compare the two; `folder` gets theirs/ and ours/, which both hold the weights that transformers drew."""
    began = time.process_time()
    theirs = their_model(config)
    theirs.save_pretrained(folder / "theirs", max_shard_size="40MB")
    _, ours = hf.load(folder / "theirs")
    assert ours.config == config, f"{ours.config} is not {config}"
    tokens = torch.randint(config.vocabulary_size, (2, LENGTH), generator=torch.Generator().manual_seed(2))

    with _choices(ours) as chosen:
        logits = _backward(ours, ours.logits(ours(tokens)), tokens)
    ties, expected = _their_logits(theirs, tokens, chosen)
    _backward(theirs, expected, tokens)
    largest = expected.abs().max().item()
    unit = max(1.0, largest)
    imported = (logits - expected).abs().max().item() / unit
    worst, overall = _gradients(ours, theirs)

    hf.export(ours, folder / "ours", eos_token_id=0, dtype="float32", max_shard_bytes=40_000_000)
    again, report = AutoModelForCausalLM.from_pretrained(folder / "ours", output_loading_info=True, **pinned(config))
    assert not any(report.values()), report
    with torch.no_grad():
        more, expected = _their_logits(again, tokens, chosen)
    exported = (logits - expected).abs().max().item() / unit
    return Parity(config, largest, imported, exported, worst, overall, max(ties, more), time.process_time() - began)


def _backward(model: torch.nn.Module, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return logits.detach()


def _gradients(ours: Qwen3, theirs: PreTrainedModel) -> tuple[float, float]:
    """Relative difference of the worst parameter, and of all as one vector."""
    wanted = {name.removeprefix("model."): parameter.grad for name, parameter in theirs.named_parameters()}
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name in [name for name in wanted if name.endswith("gate_up_proj")]:  # stacked in one by transformers
        block = name.removesuffix("gate_up_proj")
        found[name] = torch.cat([found.pop(f"{block}gate_proj"), found.pop(f"{block}up_proj")], dim=1)
    assert found.keys() == wanted.keys()
    squares = torch.tensor(
        [[(found[name] - wanted[name]).square().sum(), wanted[name].square().sum()] for name in wanted],
        dtype=torch.float64,
    )
    worst = (squares[:, 0] / squares[:, 1].clamp(min=1e-30)).sqrt().max().item()
    apart, size = squares.sum(0).sqrt().tolist()
    return worst, apart / size


# ---------------------------------------------------------------------------------------------------------------
# Routing


@contextlib.contextmanager
def _choices(model: Qwen3) -> Iterator[list[torch.Tensor]]:
    """The experts that each layer of our model chooses, (N, K) in the order of their scores."""
    chosen: list[torch.Tensor] = []

    def note(layer: MixtureOfExperts, inputs: tuple[torch.Tensor, Any]) -> None:
        scores_NE = F.linear(inputs[0].detach().flatten(0, 1), layer.gate.weight.detach())
        chosen.append(scores_NE.softmax(-1).topk(layer.experts_per_token, dim=-1).indices)

    layers = [block.mlp for block in model.layers if isinstance(block.mlp, MixtureOfExperts)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    yield chosen
    for handle in handles:
        handle.remove()


def _their_logits(model: PreTrainedModel, tokens: torch.Tensor, chosen: list[torch.Tensor]) -> tuple[int, torch.Tensor]:
    """Their logits where they route as we do, and the number of ties that fell the other way."""
    ties = 0

    def replay(ours_NK: torch.Tensor) -> Any:
        def hook(router: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            nonlocal ties
            logits_NE, _, theirs_NK = output
            other_N = (ours_NK.sort(-1).values != theirs_NK.sort(-1).values).any(-1)
            if not other_N.any():
                return output
            probability_NE = logits_NE.float().softmax(-1)
            ours, theirs = (probability_NE.gather(1, each).min(-1).values[other_N] for each in (ours_NK, theirs_NK))
            assert (theirs - ours).le(TIE * theirs).all(), "the routers choose other experts"
            ties += int(other_N.sum())
            share_NK = probability_NE.gather(1, ours_NK)
            return logits_NE, share_NK / share_NK.sum(-1, keepdim=True), ours_NK

        return hook

    handles = [block.mlp.gate.register_forward_hook(replay(each)) for block, each in zip(model.model.layers, chosen)]
    logits = model(tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return ties, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)}; all if absent")
    parser.add_argument("--experts", type=int, help="of the mixtures; 128 as published if absent")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    print(
        f"{'size':16} layers heads/kv experts parameters max |logit|   import   export gradient  overall ties "
        "CPU seconds"
    )
    for name in options.sizes or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            found = parity(narrow(name, options.experts), Path(folder))
        config = found.config
        experts = f"{config.experts}/{config.experts_per_token}" if config.experts else "-"
        count = parameter_count(config).total
        print(
            f"{name:16} {config.layers:6} {config.heads:5}/{config.kv_heads:<2} {experts:>7} {count:10,} "
            f"{found.largest:11.2f} {found.imported:8.1e} {found.exported:8.1e} {found.gradient:8.1e} "
            f"{found.gradient_overall:8.1e} {found.ties:4} {found.seconds:11.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
