"""Generation against uncached passes and against transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from benchmarks.parity import pinned
from schemas.errors import ConfigError
from trainer import hf
from trainer.generate import generate, kept
from trainer.model.qwen3 import Cache, Qwen3, build
from trainer.model.sizes import ModelConfig
from trainer.prompt import continue_text, load_model
from trainer.stages import pretrain

torch.set_num_threads(1)

TINY = ModelConfig(
    vocabulary_size=101,
    hidden_size=32,
    intermediate_size=64,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=16,
    tied_embeddings=False,
    max_position=64,
    init_std=0.2,
)
MIXTURE = replace(TINY, intermediate_size=24, experts=8, experts_per_token=3)
PROMPT = [5, 17, 99, 3, 42]


@pytest.fixture(scope="module", params=[TINY, MIXTURE], ids=["dense", "mixture"])
def model(request: pytest.FixtureRequest) -> Qwen3:
    return build(request.param, 0)


def test_the_cache_changes_nothing(model: Qwen3) -> None:
    """A prompt read in pieces of any length gives the logits of one pass, at every position."""
    tokens = torch.randint(101, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model.logits(model(tokens))
        for pieces in ([24], [7, 1, 1, 15], [1] * 24):
            cache = Cache(model.config, 2, 24, tokens.device, torch.float32)
            logits = torch.cat([model.logits(model(part, cache=cache)) for part in tokens.split(pieces, dim=1)], dim=1)
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def test_greedy_equals_uncached_passes(model: Qwen3) -> None:
    expected = list(PROMPT)
    with torch.no_grad():
        for _ in range(30):
            expected.append(int(model.logits(model(torch.tensor([expected])))[0, -1].argmax()))
    assert generate(model, PROMPT, 30) == expected[len(PROMPT) :]


@pytest.mark.parametrize("prompt", [PROMPT, [0], list(range(40))])
def test_greedy_equals_transformers(model: Qwen3, prompt: list[int], tmp_path: Path) -> None:
    hf.export(model, tmp_path / "model", eos_token_id=0, dtype="float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **pinned(model.config))
    inputs = torch.tensor([prompt])
    output = theirs.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=20, do_sample=False, pad_token_id=0
    )[0].tolist()
    new = output[len(prompt) :]
    assert generate(model, prompt, 20, stop_ids={0}) == (new[: new.index(0)] if 0 in new else new)


def test_a_stop_token_ends_the_text_and_is_left_out(model: Qwen3) -> None:
    full = generate(model, PROMPT, 20)
    stop = full[7]
    assert generate(model, PROMPT, 20, stop_ids=[stop]) == full[: full.index(stop)]
    assert generate(model, PROMPT, 0) == []


def test_sampling_repeats_by_seed_and_narrows_to_greedy(model: Qwen3) -> None:
    def sample(seed: int = 1, top_k: int | None = None, top_p: float = 1.0) -> list[int]:
        return generate(model, PROMPT, 25, temperature=1.5, top_k=top_k, top_p=top_p, seed=seed)

    greedy = generate(model, PROMPT, 25)
    assert sample() == sample()
    assert sample() != sample(seed=2)
    assert sample() != greedy
    assert sample(top_k=1) == sample(top_p=1e-6) == greedy
    assert generate(model, PROMPT, 25, temperature=1e-4, seed=3) == greedy


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40, unique=True),
    st.none() | st.integers(1, 50),
    st.floats(0.05, 1.0),
)
@settings(max_examples=150)
def test_top_k_and_top_p_equal_transformers(values: list[float], top_k: int | None, top_p: float) -> None:
    logits = torch.tensor(values)
    scores = logits[None]
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    # The two add up the probabilities from opposite ends: stay clear of sums that equal top_p but for rounding.
    sums = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
    if top_p < 1 and (sums - top_p).abs().min() > 1e-5:
        scores = TopPLogitsWarper(top_p)(None, scores)
    else:
        top_p = 1.0
    torch.testing.assert_close(kept(logits, top_k, top_p), scores.softmax(-1)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_ids": []}, "prompt is empty"),
        ({"token_ids": [101]}, "outside 0..100"),
        ({"max_new_tokens": 60}, "exceed the model's 64 positions"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_what_cannot_be_generated_is_named(model: Qwen3, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(model, **({"token_ids": PROMPT, "max_new_tokens": 5} | arguments))


def test_a_mixture_is_found_as_a_checkpoint_and_as_an_export(toy: Any) -> None:
    fields = toy.recipe["pretrain"]["model"] | {"intermediate_size": 16, "experts": 4, "experts_per_token": 2}
    job = toy.job(model=fields, stages=toy.recipe["pretrain"]["stages"][:1])
    pretrain(job)
    trained, tokenizer = load_model(job.output)
    assert (trained.config.experts, trained.config.experts_per_token) == (4, 2)
    hf.export(
        trained,
        toy.root / "model",
        eos_token_id=tokenizer.end_of_document,
        tokenizer_folder=job.inputs["tokenizer"],
        dtype="float32",
    )
    exported, again = load_model(str(toy.root / "model"))
    texts = [continue_text(each, tokenizer, "the sea", 20) for each in (trained, exported)]
    assert texts[0] == texts[1] and texts[0].startswith("the sea")
    assert again.encode("the sea") == tokenizer.encode("the sea")
