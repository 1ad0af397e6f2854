"""Qwen3 models as Hugging Face folders, written and read.

A folder holds config.json, generation_config.json, the weights under their published names in safetensors, and the
tokenizer's two files. The same model gives the same bytes.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas import paths
from schemas.errors import ConfigError
from trainer.model.qwen3 import Qwen3
from trainer.model.sizes import ModelConfig

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
HEAD = "lm_head.weight"

# Our field for each whole number of config.json.
INTEGERS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_position",
}
# What a dense Qwen3 never varies. A file may leave these out, but not contradict them.
FIXED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rope_scaling": None,
    "use_sliding_window": False,
}


def export(
    model: Qwen3,
    folder: str | Path,
    *,
    eos_token_id: int,
    tokenizer_folder: str | Path | None = None,
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model so that `transformers` and the servers built on it load it as Qwen3ForCausalLM.

    The folder appears whole or not at all, and replaces an earlier export of the same name.

    Args:
        folder: a local folder.
        eos_token_id: the token that ends a document.
        tokenizer_folder: where tokenizer.json and tokenizer_config.json are; without it the export has no tokenizer.
        dtype: "bfloat16" or "float32", of the weights on disk.
        max_shard_bytes: above this the weights go into several files with an index.

    Raises:
        ConfigError: an unknown dtype, an end token outside the vocabulary, a tokenizer file that is not there, or a
            folder that holds something else.
    """
    target, config = Path(folder), model.config
    tokenizer = [Path(tokenizer_folder) / name for name in TOKENIZER_FILES] if tokenizer_folder else []
    if dtype not in DTYPES:
        raise ConfigError(f"export: unknown dtype {dtype}; use one of {', '.join(DTYPES)}")
    if not 0 <= eos_token_id < config.vocabulary_size:
        raise ConfigError(f"export: eos_token_id {eos_token_id} is outside 0..{config.vocabulary_size - 1}")
    for file in tokenizer:
        if not file.is_file():
            raise ConfigError(f"{file}: no such tokenizer file; name the folder of a trained tokenizer")
    if target.exists() and not (target / "config.json").is_file() and any(target.iterdir()):
        raise ConfigError(f"{target}: is not an exported model; choose a new or an empty folder")

    writing = target.with_name(f"{target.name}.{os.getpid()}.writing")
    paths.remove(str(writing))
    writing.mkdir(parents=True)
    try:
        _write_json(writing / "config.json", _published_config(config, eos_token_id, dtype))
        _write_json(writing / "generation_config.json", {"do_sample": False, "eos_token_id": eos_token_id})
        _write_weights(writing, model, DTYPES[dtype], max_shard_bytes)
        for file in tokenizer:
            shutil.copyfile(file, writing / file.name)
        paths.publish(str(writing), str(target), "config.json")
    finally:
        paths.remove(str(writing))


def load(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[ModelConfig, Qwen3]:
    """Read a dense Qwen3 folder, one weight file or several, into a model on the CPU in `dtype`.

    Raises:
        ConfigError: it is another architecture or uses what Qwen3 does not have, a weight is missing, unknown,
            of the wrong shape or quantised, or the tied head differs from the embedding. The message names it.
    """
    source = Path(folder)
    config = _read_config(source / "config.json")
    files = _weight_files(source)
    if config.layers > len(files):  # before any module is built from a number somebody wrote
        raise ConfigError(f"{source}: config.json has {config.layers} layers but there are {len(files)} weights")
    with torch.device("meta"):
        model = Qwen3(config)
    expected = {_published_name(name): parameter for name, parameter in model.named_parameters()}
    stray_head = config.tied_embeddings and HEAD in files  # published tied models hold a copy of the embedding
    unknown = files.keys() - expected.keys() - ({HEAD} if stray_head else set())
    if missing := sorted(expected.keys() - files.keys()):
        raise ConfigError(f"{source}: {len(missing)} weights are missing, the first is {missing[0]}")
    if unknown:
        raise ConfigError(f"{source}: {len(unknown)} weights do not belong to Qwen3, such as {min(unknown)}")

    model = model.to(dtype).to_empty(device="cpu")
    parameters = {_published_name(name): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, weight in _read_weights(files, {name: tuple(p.shape) for name, p in parameters.items()}):
            parameters[name].copy_(weight)
        if stray_head:
            (_, head), *_ = _read_weights({HEAD: files[HEAD]}, {HEAD: tuple(model.head_weight.shape)})
            if not torch.equal(head.to(dtype), model.head_weight):
                raise ConfigError(
                    f"{source}: config.json ties the head to the embedding but {HEAD} differs from "
                    "model.embed_tokens.weight; set tie_word_embeddings to false or remove the head"
                )
    return config, model


def _published_name(name: str) -> str:
    return name if name == HEAD else f"model.{name}"


def _published_config(config: ModelConfig, eos_token_id: int, dtype: str) -> dict[str, Any]:
    return FIXED | {
        **{published: getattr(config, ours) for published, ours in INTEGERS.items()},
        "architectures": ["Qwen3ForCausalLM"],
        # Readers disagree on the spelling: the newer one is dtype and rope_parameters.
        "dtype": dtype,
        "eos_token_id": eos_token_id,
        "initializer_range": config.init_std,
        "max_window_layers": config.layers,
        "model_type": "qwen3",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "rope_theta": config.rope_base,
        "sliding_window": None,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, model: Qwen3, dtype: torch.dtype, max_shard_bytes: int) -> None:
    shards: list[dict[str, torch.nn.Parameter]] = [{}]
    total = filled = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel() * dtype.itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][_published_name(name)] = parameter
        filled += size
        total += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        # Converted a file at a time: a large model is never in memory twice.
        tensors = {name: p.detach().to("cpu", dtype).contiguous() for name, p in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name the folder of a Hugging Face model") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value


def _read_config(path: Path) -> ModelConfig:
    raw = _read_json(path)
    if raw.get("model_type") != "qwen3":
        raise ConfigError(f"{path}: model_type is {raw.get('model_type')!r}; only dense 'qwen3' models can be read")
    for key, value in FIXED.items():
        if raw.get(key, value) != value:
            raise ConfigError(f"{path}: {key} is {raw[key]!r}; Qwen3 has {value!r}")
    for key in INTEGERS:
        if type(raw.get(key)) is not int:
            raise ConfigError(f"{path}: {key} is {raw.get(key)!r}; it must be a whole number")
    if type(raw.get("tie_word_embeddings")) is not bool:
        raise ConfigError(f"{path}: tie_word_embeddings must be true or false")
    sizes: dict[str, Any] = {ours: raw[published] for published, ours in INTEGERS.items()}
    sizes |= {
        "rope_base": _rope_base(raw, path),
        "norm_eps": _number(raw, "rms_norm_eps", path),
        "init_std": _number(raw, "initializer_range", path),
    }
    try:
        return ModelConfig(**sizes, tied_embeddings=raw["tie_word_embeddings"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _rope_base(raw: dict[str, Any], path: Path) -> float:
    """From rope_parameters, rope_theta or both; they must agree."""
    if not (parameters := raw.get("rope_parameters")):
        return _number(raw, "rope_theta", path)
    if not isinstance(parameters, dict) or parameters.get("rope_type", "default") != "default":
        raise ConfigError(f"{path}: rope_parameters are {parameters!r}; only rope_type 'default' can be read")
    base = _number(parameters, "rope_theta", path)
    if raw.get("rope_theta", base) != base:
        raise ConfigError(f"{path}: rope_theta is {raw['rope_theta']} but rope_parameters say {base}")
    return base


def _number(raw: dict[str, Any], key: str, path: Path) -> float:
    if type(raw.get(key)) not in (int, float):
        raise ConfigError(f"{path}: {key} is {raw.get(key)!r}; it must be a number")
    return float(raw[key])


def _weight_files(folder: Path) -> dict[str, Path]:
    """The file of every weight."""
    if (folder / SINGLE).is_file():
        return dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{folder}: neither {SINGLE} nor {INDEX}; only safetensors can be read")
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ConfigError(f"{folder / INDEX}: no weight_map")
    for file in weight_map.values():
        # The index is input: a name with a folder in it could lead anywhere.
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ConfigError(f"{folder / INDEX}: {file!r} is no name of a safetensors file")
    stored = {file: set(_names(folder / file)) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in stored[file]:
            raise ConfigError(f"{folder / INDEX}: {name} is not in {file}; the download may be incomplete")
    return {name: folder / file for name, file in weight_map.items()}


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error


def _read_weights(files: dict[str, Path], shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight in `shapes`, file after file; a wrong shape is found before the weight is read."""
    for file in sorted({files[name] for name in shapes}):
        with safe_open(file, framework="pt") as handle:
            for name in sorted(name for name in shapes if files[name] == file):
                part = handle.get_slice(name)
                if tuple(part.get_shape()) != shapes[name]:
                    raise ConfigError(
                        f"{file}: {name} has shape {tuple(part.get_shape())}, config.json asks for {shapes[name]}"
                    )
                if part.get_dtype() not in ("BF16", "F16", "F32"):
                    raise ConfigError(f"{file}: {name} is {part.get_dtype()}; quantised weights cannot be read")
                yield name, handle.get_tensor(name)
