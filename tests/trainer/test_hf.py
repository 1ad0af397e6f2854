"""Export and import against transformers, and against folders that are wrong."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.parity import narrow, parity, pinned, their_model
from schemas.errors import ConfigError
from trainer import hf
from trainer.model.qwen3 import Qwen3, build
from trainer.model.sizes import SIZES, ModelConfig

torch.set_num_threads(1)

TINY = ModelConfig(
    vocabulary_size=101,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    tied_embeddings=False,
    max_position=64,
)
TIED = replace(TINY, tied_embeddings=True)
MIXTURE = replace(TINY, intermediate_size=24, experts=6, experts_per_token=2)


def perturbed(config: ModelConfig) -> Qwen3:
    """A model whose norms differ from ones, so that no two of them can be mistaken for each other."""
    model = build(config, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder by their names on disk."""
    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        *((name, None) for name, config in SIZES.items() if not config.experts),
        ("qwen3-30b-a3b", 16),
        pytest.param("qwen3-30b-a3b", 128, marks=pytest.mark.slow),
        pytest.param("qwen3-235b-a22b", 128, marks=pytest.mark.slow),
    ],
)
def test_a_size_equals_that_of_transformers_both_ways(name: str, experts: int | None, tmp_path: Path) -> None:
    full, config = SIZES[name], narrow(name, experts)
    assert config.layers == full.layers and config.experts_per_token == full.experts_per_token
    assert config.hidden_size / config.intermediate_size == full.hidden_size / full.intermediate_size
    assert config.hidden_size / (config.heads * config.head_dim) == full.hidden_size / (full.heads * full.head_dim)
    assert config.heads / config.kv_heads == full.heads / full.kv_heads
    found = parity(config, tmp_path)
    assert max(found.imported, found.exported) <= 1e-5
    assert found.gradient <= 1e-4
    assert found.largest > 1
    theirs, ours = saved(tmp_path / "theirs"), saved(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_folder_saved_by_transformers_is_read(mixture: bool, tied: bool, shard: str, tmp_path: Path) -> None:
    sizes = MIXTURE if mixture else TINY
    theirs = their_model(replace(sizes, tied_embeddings=tied, rope_base=5e5, init_std=0.1))
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / hf.INDEX).is_file() == (shard == "20KB")
    config, model = hf.load(tmp_path)
    assert config == replace(sizes, tied_embeddings=tied, rope_base=5e5, init_std=0.1)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens)), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TIED, MIXTURE], ids=["dense", "mixture"])
def test_a_bfloat16_export_computes_the_same_in_transformers(config: ModelConfig, tmp_path: Path) -> None:
    hf.export(perturbed(replace(config, init_std=0.1)), tmp_path / "model", eos_token_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32, **pinned(config))
    _, ours = hf.load(tmp_path / "model")
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_the_older_spelling_of_the_rope_base_is_read(tmp_path: Path) -> None:
    hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=0)
    edit(tmp_path / "model", rope_parameters=None, rope_theta=1_000_000)
    assert hf.load(tmp_path / "model")[0].rope_base == 1e6


def test_the_published_config_means_the_same_to_transformers(tmp_path: Path) -> None:
    model = build(TINY, 0)
    model.set_rope_base(1e6)
    hf.export(model, tmp_path / "model", eos_token_id=7)
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert (config.model_type, config.dtype, config.eos_token_id) == ("qwen3", torch.bfloat16, 7)
    assert config.rope_parameters == {"rope_theta": 1e6, "rope_type": "default"}
    assert (config.head_dim, config.num_key_value_heads, config.max_position_embeddings) == (16, 2, 64)
    assert config.layer_types == ["full_attention"] * 2
    assert "transformers_version" not in json.loads((tmp_path / "model" / "config.json").read_text())
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation == {"do_sample": False, "eos_token_id": 7}


def test_the_published_config_of_a_mixture_means_the_same_to_transformers(tmp_path: Path) -> None:
    hf.export(build(replace(MIXTURE, rope_base=1e6), 0), tmp_path / "model", eos_token_id=7)
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.model_type, config.architectures) == ("qwen3_moe", ["Qwen3MoeForCausalLM"])
    assert (config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size) == (6, 2, 24)
    assert (config.norm_topk_prob, config.decoder_sparse_step, config.mlp_only_layers) == (True, 1, [])
    assert (config.router_aux_loss_coef, config.output_router_logits) == (0.001, False)
    assert config.rope_parameters == {"rope_theta": 1e6, "rope_type": "default"}
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (raw["num_experts"], raw["rope_theta"], raw["head_dim"], raw["intermediate_size"]) == (6, 1e6, 16, 48)


# the files ------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [TINY, MIXTURE], ids=["dense", "mixture"])
def test_the_same_model_gives_the_same_bytes(config: ModelConfig, dtype: str, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in hf.TOKENIZER_FILES:
        (tokenizer / name).write_text(json.dumps({"name": name}))
    for name in ("a", "b"):
        hf.export(
            perturbed(config),
            tmp_path / name,
            eos_token_id=0,
            dtype=dtype,
            tokenizer_folder=tokenizer,
            max_shard_bytes=9_000,
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    index = json.loads((tmp_path / "a" / hf.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert {*files, *hf.TOKENIZER_FILES, hf.INDEX, "config.json", "generation_config.json"} == set(
        contents(tmp_path / "a")
    )
    assert contents(tokenizer).items() <= contents(tmp_path / "a").items()
    tensors = {name: tensor for file in files for name, tensor in load_file(tmp_path / "a" / file).items()}
    for file in files:
        held = load_file(tmp_path / "a" / file).values()
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held) <= 9_000
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for name, parameter in perturbed(config).named_parameters():
        published = name if name == hf.HEAD else f"model.{name}"
        weight = parameter.to(hf.DTYPES[dtype])
        if parameter.ndim == 3:
            block, _, projection = published.rpartition(".")
            for number in range(config.experts):
                assert torch.equal(tensors.pop(f"{block}.{number}.{projection}.weight"), weight[number])
        else:
            assert torch.equal(tensors.pop(published), weight)
    assert not tensors


def test_an_export_replaces_an_export_but_nothing_else(tmp_path: Path) -> None:
    hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=0, max_shard_bytes=9_000)
    hf.export(build(TINY, 1), tmp_path / "model", eos_token_id=0)
    assert sorted(contents(tmp_path / "model")) == ["config.json", "generation_config.json", hf.SINGLE]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not an exported model"):
        hf.export(build(TINY, 0), tmp_path / "mine", eos_token_id=0)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with torch.device("meta"):
        hollow = Qwen3(TINY)
    with pytest.raises(NotImplementedError):
        hf.export(hollow, tmp_path / "model", eos_token_id=0)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: no such"):
        hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=0, tokenizer_folder=tmp_path)
    with pytest.raises(ConfigError, match="unknown dtype int8"):
        hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=0, dtype="int8")
    with pytest.raises(ConfigError, match="eos_token_id 101"):
        hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=101)
    assert not list(tmp_path.iterdir())


MEMORY = """
import re, sys, threading
from pathlib import Path
from trainer import hf
from trainer.model.qwen3 import build
from trainer.model.sizes import ModelConfig

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def grown(work):
    done, most, before = threading.Event(), [0], anonymous()
    def watch():
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    result = work()
    done.set()
    thread.join()
    print((most[0] - before) / size)
    return result

folder, config = sys.argv[1], ModelConfig(**eval(sys.argv[2]))
model = build(config, 0)
size = sum(parameter.nbytes for parameter in model.parameters())
for dtype in ("bfloat16", "float32"):
    grown(lambda: hf.export(model, f"{folder}/{dtype}", eos_token_id=0, dtype=dtype, max_shard_bytes=20_000_000))
del model
for dtype in ("bfloat16", "float32"):
    grown(lambda: hf.load(f"{folder}/{dtype}"))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    config = replace(MIXTURE, vocabulary_size=8192, hidden_size=512, intermediate_size=512, experts=32, layers=2)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), repr(config.__dict__)],
        env=os.environ | {"PYTHONPATH": ".", "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed does not stay
        capture_output=True,
        text=True,
        check=True,
    )
    *written, first, second = map(float, done.stdout.split())
    assert max(written) < 0.3  # a file's worth, not a model's; of 236 MB
    assert 0.9 < first < 1.2 and 0.9 < second < 1.2  # no mapped file counts


# folders that are wrong -----------------------------------------------------------------------------------------


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "only rope_type 'default'"),
        ({"rope_theta": 5.0}, "rope_theta is 5.0 but rope_parameters say 10000"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": 10**6}, "1000000 layers but there are 25 weights"),
        ({"num_hidden_layers": 10**12}, r"parameters, more than 2\^48"),
        ({"num_hidden_layers": 3}, "11 weights are missing, the first is model.layers.2"),
        ({"num_hidden_layers": 1}, "11 weights do not belong to Qwen3, such as model.layers.1"),
        ({"num_key_value_heads": 3}, "config.json: model: 4 heads cannot share 3 kv_heads"),
        ({"intermediate_size": 65}, r"has shape \(.*64.*\), config.json asks for \(.*65.*\)"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
    ],
)
def test_a_wrong_config_is_named(changes: dict, message: str, tmp_path: Path) -> None:
    hf.export(build(TINY, 0), tmp_path / "model", eos_token_id=0)
    edit(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=message):
        hf.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob is False; Qwen3 has True"),
        ({"norm_topk_prob": None}, "norm_topk_prob is None"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
        ({"shared_expert_intermediate_size": 24}, "has no shared expert"),
        ({"n_shared_experts": 1}, "has no shared expert"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 2}}, "only rope_type 'default'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"num_experts": None}, "num_experts is None"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"num_experts": 7}, "6 weights are missing, the first is model.layers.0.mlp.experts.6.gate_proj.weight"),
        ({"num_experts": 5}, "weights do not belong to Qwen3, such as model.layers.0.mlp.experts.5.down_proj"),
        ({"num_experts": 10**5}, "2 layers of 100000 experts but there are 57 weights"),
        ({"num_experts": 10**30}, r"parameters, more than 2\^48"),
        ({"num_local_experts": 8}, "num_experts is 6 but num_local_experts is 8"),
        ({"num_experts_per_tok": 7}, "experts_per_token is 7 of 6 experts"),
        ({"num_experts_per_tok": True}, "num_experts_per_tok is True"),
        ({"moe_intermediate_size": 25}, r"experts.0.down_proj.weight has shape \(32, 24\), .* asks for \(32, 25\)"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size is None"),
        ({"model_type": "qwen3"}, "weights are missing"),
        ({"rope_theta": float("inf"), "rope_parameters": None}, "rope_theta is inf"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ],
)
def test_a_wrong_mixture_is_named(changes: dict, message: str, tmp_path: Path) -> None:
    hf.export(build(MIXTURE, 0), tmp_path / "model", eos_token_id=0)
    edit(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=message):
        hf.check(tmp_path / "model")


VALUES = st.none() | st.booleans() | st.integers() | st.integers(1, 40) | st.floats() | st.text(max_size=5)


@given(config=st.sampled_from([TINY, MIXTURE]), data=st.data())
@settings(max_examples=80)
def test_any_config_is_read_or_refused_in_one_line(
    config: ModelConfig, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"any-{config.experts}"
    if not folder.exists():
        hf.export(build(config, 0), folder, eos_token_id=0)
        (folder / "first.json").write_text((folder / "config.json").read_text())
    raw = json.loads((folder / "first.json").read_text())
    keys = data.draw(st.lists(st.sampled_from(sorted(raw)), min_size=1, max_size=3, unique=True))
    changes = {key: data.draw(VALUES | st.lists(VALUES, max_size=2) | st.just(raw[key]), key) for key in keys}
    (folder / "config.json").write_text(json.dumps(raw | changes))
    try:
        found, _ = hf.check(folder)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert (found.layers, found.hidden_size, found.experts) == (config.layers, config.hidden_size, config.experts)


def test_the_spelling_of_transformers_5_is_read(tmp_path: Path) -> None:
    hf.export(build(MIXTURE, 0), tmp_path / "model", eos_token_id=0)
    edit(tmp_path / "model", num_experts=None, num_local_experts=6)
    assert hf.load(tmp_path / "model")[0] == MIXTURE


@pytest.mark.parametrize("config", [TIED, replace(MIXTURE, tied_embeddings=True)], ids=["dense", "mixture"])
def test_a_tied_model_may_hold_its_head_again(config: ModelConfig, tmp_path: Path) -> None:
    model = perturbed(config)
    hf.export(model, tmp_path / "model", eos_token_id=0, dtype="float32")
    path = tmp_path / "model" / hf.SINGLE
    weights = load_file(path)
    assert hf.HEAD not in weights
    save_file(weights | {hf.HEAD: weights["model.embed_tokens.weight"].clone()}, path)
    _, loaded = hf.load(tmp_path / "model")
    assert torch.equal(loaded.embed_tokens.weight, model.embed_tokens.weight)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    hf.export(build(TINY, 0), folder, eos_token_id=0, dtype="float32")
    weights = load_file(folder / hf.SINGLE)

    save_file({key: value for key, value in weights.items() if key != hf.HEAD}, folder / hf.SINGLE)
    with pytest.raises(ConfigError, match=r"missing, the first is lm_head\.weight"):
        hf.load(folder)
    save_file({key: value.to(torch.int8) for key, value in weights.items()}, folder / hf.SINGLE)
    with pytest.raises(ConfigError, match="quantised"):
        hf.load(folder)
    (folder / hf.SINGLE).write_bytes(b"not a weight file")
    with pytest.raises(ConfigError, match=r"model\.safetensors: cannot be read"):
        hf.load(folder)
    (folder / hf.SINGLE).unlink()
    with pytest.raises(ConfigError, match="only safetensors"):
        hf.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        hf.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        hf.load(folder)
    with pytest.raises(ConfigError, match="no such folder"):
        hf.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": "../../secret.safetensors"}, "no name of a safetensors file"),
        ({"model.norm.weight": 3}, "no name of a safetensors file"),
        ({"model.norm.weight": "model-00001-of-00002.safetensors"}, "model.norm.weight is not in"),
        ({"model.norm.weight": "other.safetensors"}, "other.safetensors: cannot be read"),
    ],
)
def test_a_wrong_index_is_named(change: dict, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    hf.export(build(TINY, 0), folder, eos_token_id=0, dtype="float32", max_shard_bytes=80_000)
    index = json.loads((folder / hf.INDEX).read_text())
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index["weight_map"] |= change
    (folder / hf.INDEX).write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=message):
        hf.load(folder)
