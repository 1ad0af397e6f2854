"""Qwen3 models as Hugging Face folders, written and read, dense and mixture of experts.

A folder holds config.json, generation_config.json, the weights under their published names in safetensors, and the
tokenizer's two files. The same model gives the same bytes.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas import paths
from schemas.errors import ConfigError
from trainer.model.published import DENSE, FIXED, FIXED_OF_MIXTURE, INDEX, INTEGERS, MIXTURE, SINGLE, read_index
from trainer.model.qwen3 import Qwen3
from trainer.model.sizes import ModelConfig, folder_config

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
HEAD = "lm_head.weight"


def export(
    model: Qwen3,
    folder: str | Path,
    *,
    eos_token_id: int,
    tokenizer_folder: str | Path | None = None,
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model so that `transformers` and the servers built on it load it as Qwen3ForCausalLM, or its Moe twin.

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
    """Read a Qwen3 folder, dense or mixture of experts, one weight file or several, into a model on the CPU in `dtype`.

    Raises:
        ConfigError: see `check`; also if the tied head differs from the embedding.
    """
    source = Path(folder)
    config, files = check(source)
    with torch.device("meta"):
        model = Qwen3(config)
    model = model.to(dtype).to_empty(device="cpu")
    places = dict(_published(model))
    with torch.no_grad():
        # One tensor at a time: what was read is mapped from the file, so the model is in memory once.
        for name, weight in _read_weights({name: files[name] for name in places}):
            places[name].copy_(weight)
        if config.tied_embeddings and HEAD in files:  # published tied models hold a copy of the embedding
            ((_, head),) = _read_weights({HEAD: files[HEAD]})
            if not torch.equal(head.to(dtype), model.head_weight):
                raise ConfigError(
                    f"{source}: config.json ties the head to the embedding but {HEAD} differs from "
                    "model.embed_tokens.weight; set tie_word_embeddings to false or remove the head"
                )
    return config, model


def check(folder: str | Path) -> tuple[ModelConfig, dict[str, Path]]:
    """The shape of the model in a folder and the file of every weight, once all their headers bear the shape out.

    Raises:
        ConfigError: it is another architecture or uses what Qwen3 does not have, a weight is missing, unknown, of the
            wrong shape or quantised. The message names it.
    """
    source = Path(folder)
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder; name the local folder of a Hugging Face model")
    config = folder_config(source)
    files = _weight_files(source)
    # Before a module or a name is made from a number that somebody wrote.
    if config.layers * max(1, config.experts) > len(files):
        experts = f" of {config.experts} experts" if config.experts else ""
        raise ConfigError(
            f"{source}: config.json has {config.layers} layers{experts} but there are {len(files)} weights"
        )
    with torch.device("meta"):
        shapes = {name: tuple(place.shape) for name, place in _published(Qwen3(config))}
    if config.tied_embeddings and HEAD in files:
        shapes[HEAD] = shapes["model.embed_tokens.weight"]
    if missing := [name for name in shapes if name not in files]:
        raise ConfigError(f"{source}: {len(missing)} weights are missing, the first is {missing[0]}")
    if unknown := files.keys() - shapes.keys():
        raise ConfigError(f"{source}: {len(unknown)} weights do not belong to Qwen3, such as {min(unknown)}")
    for file, names in _by_file(files):
        with safe_open(file, framework="pt") as handle:
            for name in names:
                part = handle.get_slice(name)
                if tuple(part.get_shape()) != shapes[name]:
                    raise ConfigError(
                        f"{file}: {name} has shape {tuple(part.get_shape())}, config.json asks for {shapes[name]}"
                    )
                if part.get_dtype() not in ("BF16", "F16", "F32"):
                    raise ConfigError(f"{file}: {name} is {part.get_dtype()}; quantised weights cannot be read")
    return config, files


def _published(model: Qwen3) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight by its published name. Experts are stacked in the model and one by one on disk."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3:
            experts, _, projection = name.rpartition(".")
            for number, weight in enumerate(parameter.detach()):
                yield f"model.{experts}.{number}.{projection}.weight", weight
        else:
            yield name if name == HEAD else f"model.{name}", parameter.detach()


def _published_config(config: ModelConfig, eos_token_id: int, dtype: str) -> dict[str, Any]:
    value = FIXED | {
        **{name: getattr(config, ours) for name, ours in INTEGERS.items()},
        "architectures": ["Qwen3ForCausalLM"],
        # Readers disagree on the spelling: the newer one is dtype and rope_parameters.
        "dtype": dtype,
        "eos_token_id": eos_token_id,
        "initializer_range": config.init_std,
        "intermediate_size": config.intermediate_size,
        "max_window_layers": config.layers,
        "model_type": DENSE,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "rope_theta": config.rope_base,
        "sliding_window": None,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if not config.experts:
        return value
    mixture = {
        "architectures": ["Qwen3MoeForCausalLM"],
        # Of dense layers, which there are none of; published is the width that a token goes through.
        "intermediate_size": config.experts_per_token * config.intermediate_size,
        "model_type": MIXTURE,
        "moe_intermediate_size": config.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }
    return value | FIXED_OF_MIXTURE | mixture


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, model: Qwen3, dtype: torch.dtype, max_shard_bytes: int) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    total = filled = 0
    for name, weight in _published(model):
        size = weight.numel() * dtype.itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = weight
        filled += size
        total += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        # Converted a file at a time: a large model is never in memory twice.
        tensors = {name: weight.to("cpu", dtype).contiguous() for name, weight in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _weight_files(folder: Path) -> dict[str, Path]:
    """The file of every weight."""
    if (folder / SINGLE).is_file():
        return dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    weight_map = read_index(folder)
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


def _by_file(files: dict[str, Path]) -> Iterator[tuple[Path, list[str]]]:
    """Every file with the names of its weights, in order."""
    held: dict[Path, list[str]] = {}
    for name, file in files.items():
        held.setdefault(file, []).append(name)
    for file in sorted(held):
        yield file, sorted(held[file])


def _read_weights(files: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file, names in _by_file(files):
        with safe_open(file, framework="pt") as handle:
            for name in names:
                yield name, handle.get_tensor(name)
