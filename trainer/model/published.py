"""The JSON files of a Hugging Face folder: config.json as the fields of our own configuration, and where weights are.

No torch here: recipes are checked and planned without it. The files are input that anybody may have written.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from schemas import paths
from schemas.errors import ConfigError

FILE = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DENSE, MIXTURE = "qwen3", "qwen3_moe"

# Our field for each whole number of config.json.
INTEGERS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_position",
}
# What Qwen3 never varies. A file may leave these out, but not contradict them.
FIXED: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rope_scaling": None,
    "use_sliding_window": False,
}
FIXED_OF_MIXTURE: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": []}


def read_fields(folder: Path) -> dict[str, Any]:
    """The fields of `ModelConfig` that a folder's config.json describes; the numbers may still be impossible.

    Raises:
        ConfigError: it is missing, no JSON, of another architecture, or contradicts what Qwen3 computes.
    """
    path = folder / FILE
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in (DENSE, MIXTURE):
        raise ConfigError(f"{path}: model_type is {kind!r}; only Qwen3 can be read, '{DENSE}' or '{MIXTURE}'")
    _check_fixed(raw, FIXED | FIXED_OF_MIXTURE if kind == MIXTURE else FIXED, path)
    fields: dict[str, Any] = {ours: _whole(raw, published, path) for published, ours in INTEGERS.items()}
    if kind == MIXTURE:
        # Absent it means false to transformers, and shares that do not sum to 1.
        if raw.get("norm_topk_prob") is not True:
            raise ConfigError(f"{path}: norm_topk_prob is {raw.get('norm_topk_prob')!r}; Qwen3 has True")
        fields |= {
            "intermediate_size": _whole(raw, "moe_intermediate_size", path),
            "experts": _experts(raw, path),
            "experts_per_token": _whole(raw, "num_experts_per_tok", path),
        }
    else:
        fields["intermediate_size"] = _whole(raw, "intermediate_size", path)
    if type(raw.get("tie_word_embeddings")) is not bool:
        raise ConfigError(f"{path}: tie_word_embeddings must be true or false")
    return fields | {
        "tied_embeddings": raw["tie_word_embeddings"],
        "rope_base": _rope_base(raw, path),
        "norm_eps": _number(raw, "rms_norm_eps", path),
        "init_std": _number(raw, "initializer_range", path),
    }


def read_index(folder: Path) -> dict[str, str]:
    """The file of every weight, by its published name, of a folder that has its weights in several files.

    Raises:
        ConfigError: there is no index, or it is none.
    """
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{folder}: neither {SINGLE} nor {INDEX}; only safetensors can be read")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ConfigError(f"{folder / INDEX}: no weight_map")
    for file in weight_map.values():
        # The index is input: a name with a folder in it could lead anywhere.
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ConfigError(f"{folder / INDEX}: {file!r} is no name of a safetensors file")
    return weight_map


def content(folder: Path) -> dict[str, str]:
    """What tells one model in a folder from another: file -> hash, of the configuration and the weights.

    Raises:
        ConfigError: a file is missing.
    """
    weights = [SINGLE] if (folder / SINGLE).is_file() else [INDEX, *sorted(set(read_index(folder).values()))]
    found = {}
    for name in (FILE, *weights):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: no such file; the download may be incomplete")
        status = (folder / name).stat()
        found[name] = _key(str(folder / name), status.st_size, status.st_mtime_ns)
    return found


@functools.cache  # a run asks more than once, and large weights take a while
def _key(path: str, size: int, time: int) -> str:
    return paths.content_key(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. ConfigError if the file holds none."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{path}: is no plain file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name the folder of a Hugging Face model") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value


def _check_fixed(raw: dict[str, Any], fixed: dict[str, Any], path: Path) -> None:
    for key, value in fixed.items():
        if raw.get(key) is not None and raw[key] != value:
            raise ConfigError(f"{path}: {key} is {raw[key]!r}; Qwen3 has {value!r}")
    for key, value in raw.items():
        if "shared_expert" in key and value:
            raise ConfigError(f"{path}: {key} is {value!r}; Qwen3 has no shared expert")
    if raw.get("quantization_config") is not None:
        raise ConfigError(f"{path}: has a quantization_config; quantised weights cannot be read")
    layer_types = raw.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    ):
        raise ConfigError(f"{path}: layer_types are {layer_types!r}; all layers of Qwen3 have full_attention")


def _experts(raw: dict[str, Any], path: Path) -> int:
    """The published files say num_experts, the ones that transformers 5 writes num_local_experts."""
    spellings = [key for key in ("num_experts", "num_local_experts") if raw.get(key) is not None]
    counts = [_whole(raw, key, path) for key in spellings or ["num_experts"]]
    if len(set(counts)) > 1:
        raise ConfigError(f"{path}: num_experts is {counts[0]} but num_local_experts is {counts[1]}")
    if counts[0] < 1:
        raise ConfigError(f"{path}: num_experts is {counts[0]}; it must be positive")
    return counts[0]


def _rope_base(raw: dict[str, Any], path: Path) -> float:
    """From rope_parameters, rope_theta or both; they must agree."""
    if not (parameters := raw.get("rope_parameters")):
        return _number(raw, "rope_theta", path)
    plain = isinstance(parameters, dict) and parameters.get("rope_type", "default") == "default"
    if not plain or parameters.keys() - {"rope_type", "rope_theta"}:
        raise ConfigError(f"{path}: rope_parameters are {parameters!r}; only rope_type 'default' can be read")
    base = _number(parameters, "rope_theta", path)
    if raw.get("rope_theta", base) != base:
        raise ConfigError(f"{path}: rope_theta is {raw['rope_theta']} but rope_parameters say {base}")
    return base


def _whole(raw: dict[str, Any], key: str, path: Path) -> int:
    value = raw.get(key)
    if type(value) is not int:
        raise ConfigError(f"{path}: {key} is {value!r}; it must be a whole number")
    return value


def _number(raw: dict[str, Any], key: str, path: Path) -> float:
    value = raw.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
        raise ConfigError(f"{path}: {key} is {value!r}; it must be a number")
    return float(value)
