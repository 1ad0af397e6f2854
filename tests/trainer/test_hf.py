"""Export and import against transformers, and against folders that are wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

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
TIED = ModelConfig(**{**TINY.__dict__, "tied_embeddings": True})


def perturbed(config: ModelConfig) -> Qwen3:
    """A model whose norms differ from ones, so that no two of them can be mistaken for each other."""
    model = build(config, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def narrow(name: str, rope_base: float) -> ModelConfig:
    """A published shape at its real depth and with all its ratios, but 2 kv heads of width 16."""
    full = SIZES[name]
    heads = 2 * full.heads // full.kv_heads
    shrink = full.heads * full.head_dim // (heads * 16)
    return ModelConfig(
        vocabulary_size=211,
        hidden_size=full.hidden_size // shrink,
        intermediate_size=full.intermediate_size // shrink,
        layers=full.layers,
        heads=heads,
        kv_heads=2,
        head_dim=16,
        tied_embeddings=full.tied_embeddings,
        rope_base=rope_base,
        init_std=0.1,
    )


@pytest.mark.parametrize(("name", "rope_base"), [(name, (1e6, 1e4)[number % 2]) for number, name in enumerate(SIZES)])
def test_logits_equal_transformers(name: str, rope_base: float, tmp_path: Path) -> None:
    full, config = SIZES[name], narrow(name, 1e4)
    assert config.hidden_size / config.intermediate_size == full.hidden_size / full.intermediate_size
    assert config.heads / config.kv_heads == full.heads / full.kv_heads
    model = perturbed(config)
    model.set_rope_base(rope_base)
    hf.export(model, tmp_path / "model", eos_token_id=0, dtype="float32", max_shard_bytes=8_000_000)
    theirs, report = Qwen3ForCausalLM.from_pretrained(
        tmp_path / "model", attn_implementation="sdpa", output_loading_info=True
    )
    assert not any(report.values())
    assert theirs.dtype == torch.float32
    tokens = torch.randint(config.vocabulary_size, (2, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(tokens).logits
        logits = model.logits(model(tokens))
    scale = max(1.0, expected.abs().max().item())
    assert (logits - expected).abs().max().item() <= 1e-5 * scale

    loaded_config, loaded = hf.load(tmp_path / "model")
    assert loaded_config == model.config
    assert loaded_config.rope_base == rope_base
    for (key, a), b in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_folder_saved_by_transformers_is_read(tied: bool, shard: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=101,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            initializer_range=0.1,
            attn_implementation="sdpa",
        )
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / hf.INDEX).is_file() == (shard == "20KB")
    config, model = hf.load(tmp_path)
    assert (config.rope_base, config.tied_embeddings) == (5e5, tied)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens)), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


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


# the files ------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_model_gives_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in hf.TOKENIZER_FILES:
        (tokenizer / name).write_text(json.dumps({"name": name}))
    for name in ("a", "b"):
        hf.export(
            perturbed(TINY),
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
    for name, parameter in perturbed(TINY).named_parameters():
        published = name if name == hf.HEAD else f"model.{name}"
        assert torch.equal(tensors.pop(published), parameter.to(hf.DTYPES[dtype]))
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
        ({"num_hidden_layers": 10**12}, r"more than 2\^48 parameters"),
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


def test_a_tied_model_may_hold_its_head_again(tmp_path: Path) -> None:
    model = perturbed(TIED)
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
