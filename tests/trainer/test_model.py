"""The model, dense and of experts, against its published sizes, separate documents, brute force and itself."""

import copy
import itertools
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from schemas.errors import ConfigError
from schemas.recipe import Pretrain
from trainer.loss import IGNORE, _scores, _scores_in_one, chunked_cross_entropy
from trainer.model.attention import BLOCK, attention, block_mask, document_mask, document_starts
from trainer.model.moe import MixtureOfExperts, Routing, balance
from trainer.model.qwen3 import (
    Cache,
    Qwen3,
    RMSNorm,
    _keep_products,
    apply_checkpointing,
    build,
    compile_blocks,
    initial_value,
)
from trainer.model.rope import rotate, rotation
from trainer.model.sizes import SIZES, ModelConfig, Parameters, model_config, parameter_count

torch.set_num_threads(1)

PUBLISHED = {  # in all, without embeddings, active per token
    "qwen3-0.6b": (596_049_920, 440_467_456, 596_049_920),
    "qwen3-1.7b": (1_720_574_976, 1_409_410_048, 1_720_574_976),
    "qwen3-4b": (4_022_468_096, 3_633_511_936, 4_022_468_096),
    "qwen3-8b": (8_190_735_360, 6_946_075_648, 8_190_735_360),
    "qwen3-14b": (14_768_307_200, 13_212_482_560, 14_768_307_200),
    "qwen3-32b": (32_762_123_264, 31_206_298_624, 32_762_123_264),
    "qwen3-30b-a3b": (30_532_122_624, 29_909_792_768, 3_353_032_704),
    "qwen3-235b-a22b": (235_093_634_560, 233_848_974_848, 22_190_763_520),
}
TINY = ModelConfig(
    vocabulary_size=97,
    hidden_size=32,
    intermediate_size=80,
    layers=3,
    heads=8,
    kv_heads=2,
    head_dim=16,
    tied_embeddings=False,
    init_std=0.1,
)


EXPERTS = replace(TINY, intermediate_size=24, experts=12, experts_per_token=3)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(TINY.vocabulary_size, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_published_parameter_counts(name: str) -> None:
    config = SIZES[name]
    with torch.device("meta"):
        model = Qwen3(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    body = sum(parameter.numel() for parameter in [*model.layers.parameters(), *model.norm.parameters()])
    idle = sum(
        parameter[0].numel() * (config.experts - config.experts_per_token)
        for parameter in model.parameters()
        if parameter.ndim == 3
    )
    assert (total, body, total - idle) == PUBLISHED[name]
    assert parameter_count(config) == Parameters(*PUBLISHED[name])


def test_a_recipes_model_has_the_tokenizers_rows_and_room_for_the_longest_stage() -> None:
    rate = {"peak": 0.1, "end": 0.0}
    stages = [
        {
            "name": f"s{at}",
            "tokens": 1,
            "sequence_length": length,
            "batch_size": 1,
            "rope_base": base,
            "learning_rate": rate,
        }
        for at, (length, base) in enumerate([(4096, 1e4), (65_536, 1e6)])
    ]
    named = model_config(Pretrain.model_validate({"model": "qwen3-4b", "stages": stages}), 640)
    assert named == replace(SIZES["qwen3-4b"], vocabulary_size=640, max_position=65_536)
    short = model_config(Pretrain.model_validate({"model": "qwen3-4b", "stages": stages[:1]}), 640)
    assert short.max_position == SIZES["qwen3-4b"].max_position
    fields = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8}
    own = model_config(Pretrain.model_validate({"model": fields, "stages": stages[1:]}), 640)
    assert (own.vocabulary_size, own.max_position, own.rope_base, own.head_dim) == (640, 65_536, 1e6, 8)


def test_sizes_need_no_torch() -> None:
    code = "import sys, trainer.model.sizes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 7),
        ("head_dim", 15),
        ("layers", 0),
        ("rope_base", -1.0),
        ("experts", 4),
        ("experts", -1),
        ("experts_per_token", 2),
        ("hidden_size", 10**15),
    ],
)
def test_impossible_shapes_are_named(field: str, value: float) -> None:
    shape = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    with pytest.raises(ConfigError, match=f"{field}|2\\^48"):
        ModelConfig(**(shape | {field: value}))


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    first, second, other = build(TINY, 1), build(TINY, 1), build(TINY, 2)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() == 1:
            assert torch.equal(a, torch.ones_like(a))
        else:
            assert not torch.equal(a, c), name
    drawn = [p for p in first.parameters() if p.dim() > 1]
    same_shape = [(a, b) for a, b in itertools.combinations(drawn, 2) if a.shape == b.shape]
    assert not any(torch.equal(a, b) for a, b in same_shape)

    weight = initial_value("x", torch.Size((400, 500)), 0.02, 0)
    assert weight.abs().max() <= 0.06
    # A normal cut at 3 standard deviations keeps 0.98658 of its spread.
    assert weight.std().item() == pytest.approx(0.02 * 0.98658, rel=0.01)
    assert weight.mean().abs() < 2e-4


# documents ---------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=40)
def test_block_mask_marks_the_tiles_that_brute_force_marks(lengths: list[list[int]]) -> None:
    longest = max(sum(row) for row in lengths)
    rows = [[*row, longest - sum(row)] for row in lengths]
    document_BT = torch.stack(
        [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows]
    ).int()

    def same_document(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (s <= q) & (document_BT[b, q] == document_BT[b, s])

    ours = block_mask(document_starts(document_BT))
    batch, length = document_BT.shape
    oracle = create_block_mask(same_document, batch, None, length, length, device="cpu", BLOCK_SIZE=BLOCK)
    assert torch.equal(ours.to_dense(), oracle.to_dense())
    exact = create_mask(same_document, batch, 1, length, length, device="cpu")
    assert torch.equal(create_mask(ours.mask_mod, batch, 1, length, length, device="cpu"), exact)
    padding = -length % BLOCK  # queries past the end see what they like
    padded = F.pad(F.pad(exact[:, 0], (0, padding), value=False), (0, 0, 0, padding), value=True)
    tiles = padded.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).all(-1).all(-1)
    whole = torch.zeros_like(ours.to_dense()[:, 0], dtype=torch.bool)
    assert ours.full_kv_num_blocks is not None and ours.full_kv_indices is not None
    for b, q in itertools.product(range(batch), range(whole.shape[1])):
        whole[b, q, ours.full_kv_indices[b, 0, q, : ours.full_kv_num_blocks[b, 0, q]]] = True
    assert torch.equal(whole, tiles)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.sampled_from([(4, 4), (4, 2), (6, 1)]))
@settings(max_examples=30)
def test_attention_in_documents_equals_brute_force(lengths: list[int], heads: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    query_heads, kv_heads = heads
    length = sum(lengths)
    q = torch.randn(2, query_heads, length, 8, generator=generator)
    k, v = torch.randn(2, 2, kv_heads, length, 8, generator=generator)
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    document_BT = torch.stack((numbers, torch.zeros_like(numbers)))

    repeated = [x.repeat_interleave(query_heads // kv_heads, dim=1) for x in (k, v)]
    scores = q @ repeated[0].transpose(2, 3) / 8**0.5
    seen = (document_BT[:, :, None] == document_BT[:, None, :]) & torch.ones(length, length).tril().bool()
    expected = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ repeated[1]
    torch.testing.assert_close(attention(q, k, v, document_mask(document_BT)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [192, 193, 400, 512, 513])
def test_causal_attention_equals_brute_force(length: int) -> None:
    """Also where queries are taken in blocks."""
    generator = torch.Generator().manual_seed(length)
    inputs = [torch.randn(2, heads, length, 8, generator=generator).requires_grad_() for heads in (4, 2, 2)]
    upstream = torch.randn(2, 4, length, 8, generator=generator)
    q, k, v = inputs[0], *(x.repeat_interleave(2, dim=1) for x in inputs[1:])
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    expected = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v
    found = attention(*inputs, None)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(y, inputs, upstream) for y in (found, expected)]
    for ours, oracle in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-5)


def packed() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Two rows of 40 tokens, the five documents in them, and the document of every position."""
    batch = tokens(2, 40)
    document_BT = torch.tensor([[0] * 7 + [1] * 21 + [2] * 12, [3] * 1 + [4] * 39], dtype=torch.int32)
    return batch, document_BT, [batch[document_BT == number] for number in range(5)]


def summed_loss(model: Qwen3, ids_BT: torch.Tensor, document_BT: torch.Tensor | None) -> torch.Tensor:
    """Every token predicts the next of its own document."""
    labels = torch.full_like(ids_BT, IGNORE)
    labels[:, :-1] = ids_BT[:, 1:]
    if document_BT is not None:
        labels[:, :-1][document_BT[:, 1:] != document_BT[:, :-1]] = IGNORE
    hidden = model(ids_BT, document_BT=document_BT)
    return chunked_cross_entropy(hidden.flatten(0, 1), model.head_weight, labels.flatten(), chunk=16)[0]


@pytest.mark.parametrize("tied", [False, True])
def test_packed_documents_equal_separate_documents(tied: bool) -> None:
    config = ModelConfig(**{**TINY.__dict__, "tied_embeddings": tied})
    together, apart = build(config, 0), build(config, 0)
    batch, document_BT, documents = packed()
    loss = summed_loss(together, batch, document_BT)
    loss.backward()
    losses = [summed_loss(apart, document[None], None) for document in documents]
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(loss, torch.stack(losses).sum(), rtol=1e-6, atol=0)
    for (name, a), b in zip(together.named_parameters(), apart.parameters(), strict=True):
        scale = b.grad.abs().max().item()
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6 * max(1, scale), msg=name)
    with torch.no_grad():  # without the mask the documents leak into each other
        leaking = together(batch, positions_BT=torch.arange(40) - document_starts(document_BT))
        assert (leaking - together(batch, document_BT=document_BT)).abs().max() > 0.1


def test_positions_restart_at_every_document_unless_given() -> None:
    model = build(TINY, 0)
    batch, document_BT, _ = packed()
    restarted = torch.arange(40) - document_starts(document_BT)
    assert restarted[0].tolist() == [*range(7), *range(21), *range(12)]
    with torch.no_grad():
        implied = model(batch, document_BT=document_BT)
        assert torch.equal(implied, model(batch, restarted, document_BT))
        # Rotary attention sees distances only: shifting a whole document changes nothing but rounding.
        torch.testing.assert_close(model(batch, restarted + 100, document_BT), implied, atol=2e-4, rtol=0)
        assert not torch.allclose(model(batch, restarted * 2, document_BT), implied, atol=1e-2)


# backward passes that are written out -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_has_the_gradient_of_its_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(24, 1e-3)
    torch.nn.init.normal_(norm.weight, generator=generator)
    x = (torch.randn(3, 5, 24, generator=generator) * 0.1).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = exact / (exact.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight.double()
    found = norm(x)
    assert found.dtype == torch.float32  # the wider of the two
    upstream = torch.randn(3, 5, 24, generator=generator)
    ours = torch.autograd.grad(found, (x, norm.weight), upstream)
    oracle = torch.autograd.grad(expected, (exact, norm.weight), upstream.double())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for a, b in zip((found, *ours), (expected, *oracle), strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


def test_a_rotation_turns_pairs_of_numbers_and_has_the_gradient_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 8, generator=generator).requires_grad_()
    positions = torch.randint(50, (2, 7), generator=generator)
    found = rotate(x, *rotation(positions, 8, 100.0))
    # Dimensions d and d + 4 are the parts of a complex number, turned by position * 100^(-d / 4).
    angle = positions[:, None, :, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(x.shape, generator=generator)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


# one model, several ways to run it ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("selective", [False, True])
def test_checkpointing_changes_no_gradient_no_name_and_no_count(config: ModelConfig, selective: bool) -> None:
    plain = build(config, 0)
    frugal = copy.deepcopy(plain)
    apply_checkpointing(frugal, selective=selective)
    batch, document_BT, _ = packed()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    frugal.layers[0].self_attn.register_forward_hook(count)
    routed = []
    for model in (plain, frugal):
        routings: list[Routing] = []
        hidden = model(batch, document_BT=document_BT, routings=routings)
        (hidden.square().sum() + sum(routing.probability_E[0] for routing in routings)).backward()
        routed.append(routings)
    assert calls == 2  # once forward, once again for backward
    assert list(plain.state_dict()) == list(frugal.state_dict())
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad) if a.grad is not None else b.grad is None
    for once, again in zip(*routed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(once, again))


class ProductsComputed(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten._grouped_mm.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [TINY, EXPERTS], ids=["dense", "experts"])
def test_selective_checkpointing_computes_no_product_twice(config: ModelConfig) -> None:
    batch, document_BT, _ = packed()
    products = {}
    for kind in ("none", "selective", "full"):
        model = build(config, 0)
        if kind != "none":
            apply_checkpointing(model, selective=kind == "selective")
        with ProductsComputed() as counter:
            model(batch, document_BT=document_BT).sum().backward()
        products[kind] = counter.count
    assert products["none"] == products["selective"] < products["full"]


def test_a_longer_rope_base_takes_effect_at_once() -> None:
    model, long = build(TINY, 0), build(ModelConfig(**{**TINY.__dict__, "rope_base": 1e6}), 0)
    batch = tokens(1, 30)
    with torch.no_grad():
        short_range = model(batch)
        model.set_rope_base(1e6)
        assert torch.equal(model(batch), long(batch))
        assert not torch.allclose(model(batch), short_range, atol=1e-3)


def test_cached_steps_equal_one_pass() -> None:
    model = build(TINY, 0)
    batch = tokens(2, 24)
    cache = Cache(TINY, 2, 24, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in batch.split([9, 1, 5, 1, 8], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(batch), atol=2e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="not both"):
            model(batch[:, :1], document_BT=torch.zeros(2, 1), cache=cache)


def test_the_head_is_the_embedding_when_tied() -> None:
    model = build(ModelConfig(**{**TINY.__dict__, "tied_embeddings": True}), 0)
    assert model.head_weight is model.embed_tokens.weight
    hidden = torch.randn(2, 5, TINY.hidden_size)
    assert torch.equal(model.logits(hidden), hidden @ model.embed_tokens.weight.T)


def test_bfloat16_model_stays_near_float32() -> None:
    exact = build(TINY, 0)
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    batch, document_BT, _ = packed()
    with torch.no_grad():
        hidden = rough(batch, document_BT=document_BT)
        expected = exact(batch, document_BT=document_BT)
    assert hidden.dtype == torch.bfloat16
    assert ((hidden.float() - expected).norm() / expected.norm()).item() < 0.05


@pytest.mark.slow
def test_compiled_tiles_equal_separate_documents() -> None:
    """The forward kernel that skips unseen tiles also exists for CPUs, though training there does not use it."""
    length = 5 * BLOCK + 37
    place_T = torch.arange(length)
    document_BT = torch.stack((place_T // 600, place_T // 150))
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, length, 32, generator=generator)
    k, v = torch.randn(2, 2, 2, length, 32, generator=generator)
    with torch.no_grad():
        tiled = attention(q, k, v, block_mask(document_starts(document_BT)))
        expected = attention(q, k, v, document_mask(document_BT))
    torch.testing.assert_close(tiled, expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "segments", pytest.param("tiles", marks=pytest.mark.slow)])
def test_attention_is_computed_in_the_dtype_of_the_values(kind: str) -> None:
    length = 2 * BLOCK
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, length, 32, generator=generator)
    k, v = torch.randn(2, 1, 2, length, 32, generator=generator)
    document_BT = torch.arange(length)[None] // 100
    mask = {"causal": None, "segments": document_mask(document_BT), "tiles": block_mask(document_starts(document_BT))}
    with torch.no_grad():
        mixed = attention(q, k, v.bfloat16(), mask[kind])
        narrow = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask[kind])
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, narrow)


# loss -----------------------------------------------------------------------------------------------------------


def loss_inputs(count: int, width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(count, width, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) * 0.3).requires_grad_()
    labels = torch.randint(vocabulary, (count,), generator=generator)
    labels[::5] = IGNORE
    return hidden, weight, labels


@pytest.mark.parametrize("chunk", [1, 7, 50, 64])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_equals_cross_entropy(chunk: int, z_loss: float) -> None:
    hidden, weight, labels = loss_inputs(50, 12, 31)
    total, nll_N = chunked_cross_entropy(hidden, weight, labels, chunk, z_loss)
    logits = hidden @ weight.T
    per_token = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    expected = per_token.sum() + z_loss * (logits.logsumexp(-1).square() * (labels != IGNORE)).sum()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(nll_N, per_token, rtol=1e-6, atol=1e-6)
    assert not nll_N.requires_grad
    ours = torch.autograd.grad(total / 40, (hidden, weight))
    for a, b in zip(ours, torch.autograd.grad(expected / 40, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_what_a_gpu_compiles_gives_the_same_scores(z_loss: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(20, 300, generator=generator)).to(dtype)
    targets = torch.randint(300, (20, 1), generator=generator)
    valid = torch.arange(20) % 4 > 0
    found = _scores_in_one(logits, targets, valid, z_loss, True)
    wanted = _scores(logits.clone(), targets, valid, z_loss, True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)
    assert _scores_in_one(logits, targets, valid, z_loss, False)[2].numel() == 0


def test_loss_of_ignored_tokens_is_nothing_even_when_they_are_broken() -> None:
    hidden, weight, labels = loss_inputs(10, 4, 9)
    with torch.no_grad():
        hidden[labels == IGNORE] = torch.inf
    total, _ = chunked_cross_entropy(hidden, weight.detach(), labels, 4)
    (gradient,) = torch.autograd.grad(total, hidden)
    assert total.isfinite()
    assert torch.equal(gradient[labels == IGNORE], torch.zeros(2, 4))


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        old = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in old:
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("chunk", [8, 32])
def test_loss_never_holds_more_logits_than_a_chunk(chunk: int) -> None:
    hidden, weight, labels = loss_inputs(256, 4, 500)
    with Largest() as largest:
        chunked_cross_entropy(hidden, weight, labels, chunk)[0].backward()
    assert largest.numel == chunk * 500


def test_loss_without_gradient_makes_none() -> None:
    hidden, weight, labels = loss_inputs(20, 400, 30)
    with torch.no_grad(), Largest() as largest:
        total, nll_N = chunked_cross_entropy(hidden, weight, labels, 5)
    assert total.item() == pytest.approx(nll_N.sum().item())
    assert largest.numel == 5 * 400  # a chunk of what the head reads


class PeakBytes(TorchDispatchMode):
    """Adds up the storages that operations make and that are still alive, and remembers the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        old = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in {*old, *self.alive}:
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()

        def freed(_: object) -> None:
            del self.alive[address]
            self.bytes -= size

        self.alive[address] = weakref.ref(storage, freed)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


@pytest.mark.parametrize("bf16", [False, True])
def test_loss_over_the_published_vocabulary_takes_a_quarter_of_the_memory(bf16: bool) -> None:
    """Forward and backward, gradients among it; with tensors that have a size and no memory."""
    peaks = []
    with FakeTensorMode():
        labels = torch.empty(4096, dtype=torch.int64)
        for chunked in (True, False):
            hidden = torch.empty(4096, 1024, requires_grad=True)
            weight = torch.empty(151_936, 1024, requires_grad=True)
            with PeakBytes() as tracker:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    total = (
                        chunked_cross_entropy(hidden, weight, labels)[0]
                        if chunked
                        else F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")
                    )
                total.backward()
            peaks.append(tracker.peak)
            assert tracker.bytes >= 4 * (weight.numel() + hidden.numel())  # their gradients are still there
    assert peaks[0] <= peaks[1] / 4


def test_a_second_backward_over_the_loss_is_refused() -> None:
    """The first one scaled its gradients in place."""
    total, _ = chunked_cross_entropy(*loss_inputs(10, 4, 9), 4)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("config", [TINY, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_compiled_block_is_compiled_whole_in_every_mode(config: ModelConfig, mode: str) -> None:
    """One graph serves all layers. The backend runs what it is given: the tracing is what can go wrong."""
    torch._dynamo.reset()
    plain = build(config, 0)
    compiled = copy.deepcopy(plain)
    if mode != "none":
        apply_checkpointing(compiled, selective=mode == "selective")
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    for block in compiled.layers:
        block.compile(backend=count, fullgraph=True)
    batch, direction = tokens(2, 40), torch.randn(2, 40, config.hidden_size, generator=torch.Generator().manual_seed(6))
    # Products of experts are traced in bfloat16 only, which is what a GPU computes them in.
    for model in (plain, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(config.experts)):
            hidden = model(batch)
        (hidden.float() * direction).sum().backward()
    assert len(graphs) == 1
    for a, b in zip(plain.layers.parameters(), compiled.layers.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= (1e-2 if config.experts else 1e-5) * a.grad.norm()


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, replace(EXPERTS, experts=4, experts_per_token=4)], ids=["dense", "experts"])
def test_the_compiler_changes_no_loss(config: ModelConfig) -> None:
    """Every token goes to all experts: bfloat16 would send some elsewhere."""
    torch._dynamo.reset()
    plain = build(config, 0)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    batch = tokens(2, 300)
    losses = []
    for model in (plain, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(config.experts)):
            losses.append(summed_loss(model, batch, None))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=2e-3 if config.experts else 1e-6, atol=0)
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= (0.05 if config.experts else 1e-5) * a.grad.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, EXPERTS], ids=["dense", "experts"])
def test_selective_checkpointing_computes_no_product_twice_when_compiled(config: ModelConfig) -> None:
    batch = tokens(2, 40)
    products = {}
    for kind in ("none", "selective", "full"):
        torch._dynamo.reset()
        model = build(config, 0)
        if kind != "none":
            apply_checkpointing(model, selective=kind == "selective")
        counts: list[int] = []

        def count(graph: torch.fx.GraphModule, _: object, counts: list[int] = counts) -> Any:
            kinds = (torch.ops.aten.mm.default, torch.ops.aten._grouped_mm.default)
            counts.append(sum(node.target in kinds for node in graph.graph.nodes))
            return make_boxed_func(graph.forward)

        backend = aot_autograd(fw_compiler=count, bw_compiler=count, partition_fn=min_cut_rematerialization_partition)
        for block in model.layers:
            block.compile(backend=backend, fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(config.experts)):
            hidden = model(batch)
        hidden.float().sum().backward()
        products[kind] = sum(counts)
    assert products["none"] == products["selective"] < products["full"]


@pytest.mark.slow
def test_a_compiled_block_takes_the_tiles_of_any_documents() -> None:
    torch._dynamo.reset()
    model = build(TINY, 0)
    block = copy.deepcopy(model.layers[0])
    block.compile(fullgraph=True)
    length = 2 * BLOCK
    x = torch.randn(2, length, TINY.hidden_size, generator=torch.Generator().manual_seed(0))
    turn = rotation(torch.arange(length).expand(2, length), TINY.head_dim, 1e4)
    for size in (50, 70, 200):
        document_BT = (torch.arange(length) // size).expand(2, length)
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile" if size != 50 else "default"):
            found, _ = block(x, turn, block_mask(document_starts(document_BT)), None, None)
        expected, _ = model.layers[0](x, turn, document_mask(document_BT), None, None)
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_selective_checkpointing_keeps_what_flex_attention_gives() -> None:
    """Its kernel is an operation that the policy sees. (Only its forward pass exists on a CPU.)"""
    q, k, v = (torch.randn(1, heads, 2 * BLOCK, 16) for heads in (4, 2, 2))
    mask = block_mask(document_starts(torch.arange(2 * BLOCK)[None] // 100))
    weight = torch.randn(16, 16, requires_grad=True)
    kept = []

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept.append((operation, _keep_products(context, operation)))
        return kept[-1][1]

    def forward(weight: torch.Tensor) -> torch.Tensor:
        return (attention(q, k, v, mask).detach() @ weight).sin()

    forward(weight)  # compile it first
    checkpoint(forward, weight, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy))
    flex = [decision for operation, decision in kept if operation is torch.ops.higher_order.inductor_compiled_code]
    assert flex == [CheckpointPolicy.MUST_SAVE]


# experts ------------------------------------------------------------------------------------------------------


def loop_over_experts(layer: MixtureOfExperts, x_BTC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layer as one would write it down: every expert in turn; output, probabilities and choices."""
    x_NC = x_BTC.flatten(0, 1)
    probability_NE = (x_NC @ layer.gate.weight.T).softmax(-1)
    top_NK, expert_NK = probability_NE.topk(layer.experts_per_token)
    share_NK = top_NK / top_NK.sum(-1, keepdim=True)
    y_NC = torch.zeros_like(x_NC)
    for expert, (gate, up, down) in enumerate(zip(*layer.experts.parameters(), strict=True)):
        share_N = torch.where(expert_NK == expert, share_NK, 0).sum(-1)
        y_NC = y_NC + share_N[:, None] * ((F.silu(x_NC @ gate.T) * (x_NC @ up.T)) @ down.T)
    return y_NC.view_as(x_BTC), probability_NE, expert_NK


@pytest.mark.parametrize(("experts", "chosen", "length"), [(12, 3, 50), (4, 4, 9), (64, 2, 7), (1, 1, 5)])
def test_experts_equal_a_loop_over_them(experts: int, chosen: int, length: int) -> None:
    """Also with more experts than tokens, so that some of them are idle."""
    layer = MixtureOfExperts(32, 24, experts, chosen)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    x = torch.randn(2, length, 32, generator=generator, requires_grad=True)
    weight = torch.randn(2, length, 32, generator=generator)
    results = []
    for forward in (lambda: layer(x, None)[0], lambda: loop_over_experts(layer, x)[0]):
        y = forward()
        gradients = torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()])
        results.append((y, *gradients))
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


def test_routing_counts_the_tokens_that_count() -> None:
    layer = MixtureOfExperts(32, 24, 12, 3)
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(layer.gate.weight, generator=generator)
    for parameter in layer.experts.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 20, 32, generator=generator)
    counted = torch.ones(2, 20, dtype=torch.bool)
    counted[1, 13:] = False
    _, routing = layer(x, counted)
    _, probability, expert = loop_over_experts(layer, x)
    real = counted.flatten()
    assert routing.tokens == 33
    assert torch.equal(routing.load_E, torch.bincount(expert[real].flatten(), minlength=12).float())
    torch.testing.assert_close(routing.probability_E, probability[real].sum(0))
    log_sum = (x.flatten(0, 1) @ layer.gate.weight.T).logsumexp(-1)
    torch.testing.assert_close(routing.square, log_sum[real].square().sum())
    torch.testing.assert_close(routing.entropy, torch.distributions.Categorical(probability[real]).entropy().sum())
    whole = layer(x, None)[1]
    parts = [layer(x[:1], counted[:1])[1], layer(x[1:], None)[1]]
    for together, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(first + second, together)


def test_a_balanced_router_has_a_balance_of_one_and_a_collapsed_one_of_as_many_as_it_idles() -> None:
    tokens_ = torch.tensor(60.0)
    even = torch.full((12,), 3 * 60 / 12)
    assert balance(even, tokens_, torch.full((12,), 60 / 12), tokens_, 3).item() == pytest.approx(1)
    one_hot = torch.zeros(12)
    one_hot[:3] = 60.0
    assert balance(one_hot, tokens_, one_hot / 3, tokens_, 3).item() == pytest.approx(4)


def test_the_balance_teaches_the_router() -> None:
    """Its gradient goes through the probabilities alone: more of an overloaded expert is worse, less is better."""
    layer = MixtureOfExperts(32, 24, 12, 3)
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(1, 200, 32, generator=generator) + 0.3  # what is common to all tokens favours some experts
    before = []
    for _ in range(40):
        routing = layer(x, None)[1]
        loss = balance(routing.load_E, routing.tokens, routing.probability_E, routing.tokens, 3)
        (gradient,) = torch.autograd.grad(loss, [layer.gate.weight])
        assert gradient.abs().max() > 0
        before.append(loss.item())
        with torch.no_grad():
            layer.gate.weight -= 0.5 * gradient
    assert before[-1] < 1.1 < before[0]


def test_the_router_is_in_float32_in_a_bfloat16_model() -> None:
    model = build(EXPERTS, 0)
    rough = copy.deepcopy(model).to(torch.bfloat16)
    routings: list[Routing] = []
    with torch.no_grad():
        hidden = rough(tokens(1, 30), routings=routings)
    assert hidden.dtype == torch.bfloat16
    assert {tensor.dtype for routing in routings for tensor in routing} == {torch.float32}
    # Probabilities in bfloat16 would not sum to the number of tokens.
    assert routings[0].probability_E.sum().item() == pytest.approx(30, abs=1e-4)


def test_experts_compute_in_the_type_of_autocast_and_keep_their_weights() -> None:
    layer = MixtureOfExperts(32, 24, 12, 3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(4))
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(5))
    exact, _ = layer(x, None)
    with torch.autocast("cpu", torch.bfloat16):
        rough, routing = layer(x, None)
    rough.sum().backward()
    assert rough.dtype == torch.bfloat16
    assert routing.probability_E.dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    assert ((rough.float() - exact).norm() / exact.norm()).item() < 0.03


class GroupedProducts(TorchDispatchMode):
    """Remembers the operands of grouped products."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._grouped_mm.default:
            self.operands.append(args[:3])
        return function(*args, **(kwargs or {}))


def test_products_of_experts_meet_the_rules_of_the_gpu_kernel() -> None:
    """Groups of any size: where they are ranges of the summed dimension, neither operand lies along it in memory."""
    layer = MixtureOfExperts(32, 24, 12, 3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(4))
    with GroupedProducts() as products:
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(torch.randn(1, 7, 32, requires_grad=True), None)[0]
        y.square().sum().backward()
    assert len(products.operands) == 9
    for a, b, ends in products.operands:
        # torch checks types and strides for CUDA on the meta device.
        torch._grouped_mm(a.to("meta"), b.to("meta"), offs=ends.to("meta"))
        if a.ndim == b.ndim == 2:
            assert (a.stride(0), b.stride(1)) == (1, 1)


def test_an_experts_first_weights_depend_on_its_own_number() -> None:
    many, few = build(EXPERTS, 0), build(replace(EXPERTS, experts=5), 0)
    for a, b in zip(many.layers[1].mlp.experts.parameters(), few.layers[1].mlp.experts.parameters(), strict=True):
        assert torch.equal(a[:5], b)
        assert not torch.equal(a[0], a[1])
