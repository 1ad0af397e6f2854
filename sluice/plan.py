"""What a model and its training cost, before any of it: `sluice plan` and `sluice pretrain --dry-run`. No torch."""

import json
from dataclasses import asdict
from typing import Any

from rich.text import Text

from schemas import paths
from schemas.errors import ConfigError
from schemas.manifest import read_manifest
from schemas.recipe import ModelFolder, Pretrain, Recipe, load_recipe, training_of
from schemas.tokens import QWEN_TOKENS, embedding_rows
from sluice.console import clock, console, size
from sluice.text import aligned, short
from trainer.model.sizes import SIZES, ModelConfig, model_config, parameter_count
from trainer.planner import Memory, flops_per_token, peak_flops, training_flops, training_memory
from trainer.schedule import timeline

LENGTHS = (4096, 32_768)  # of the stages of the Qwen3 report
DEVICES = {"H100 SXM": "NVIDIA H100 80GB HBM3", "A100": "NVIDIA A100-SXM4-80GB"}
UTILISATION = 0.4  # an assumption: what well-tuned dense trainings report lies around it


def _print(rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    for line in aligned(rows, right):
        console.print(Text(line))


# ---------------------------------------------------------------------------------------------------------------
# sluice plan


def plan_model(model: str, as_json: bool) -> None:
    """Print the shape of a published model or of a recipe's, its parameters, and what a token of training costs.

    Raises:
        ConfigError: there is no such model or recipe.
    """
    plan = model_plan(model)
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    parameters, vocabulary = plan["parameters"], plan["vocabulary"]
    tied = "tied: the head is the embedding" if plan["tied_embeddings"] else "untied: a head of its own"
    rows = [
        ["layers", f"{plan['layers']:,}"],
        ["heads", f"{plan['heads']:,} of width {plan['head_dim']:,}; {plan['kv_heads']:,} for keys and values"],
        ["hidden size", f"{plan['hidden_size']:,}"],
        ["feed-forward", f"{plan['intermediate_size']:,}"],
        ["vocabulary", f"{vocabulary['tokens']:,} tokens in {vocabulary['rows']:,} rows; {tied}"],
        ["parameters", f"{parameters['total']:,}"],
        ["  without embeddings", f"{parameters['non_embedding']:,}"],
        ["  active in a token", f"{parameters['active']:,}"],
    ]
    if plan["experts"]:
        rows[3][1] += f" in each of {plan['experts']:,} experts, {plan['experts_per_token']:,} for a token"
    for length, count in plan["flops_per_token"].items():
        title = "" if len(rows) > 8 else "FLOPs per token"
        rows.append([title, f"{count:.4g} in sequences of {int(length):,}, forward and backward"])
    memory = plan["memory"]
    rows += [
        [
            "training state",
            f"{size(memory['state'])}: float32 weights, gradients and both moments, 16 bytes a parameter",
        ],
        ["", f"{size(memory['copies'])} more for copies in bf16; activations come on top"],
    ]
    console.print(Text(plan["model"], style="bold"))
    _print(rows)


def model_plan(model: str) -> dict[str, Any]:
    """The numbers of `plan_model`; memory in bytes, of a process that holds the whole model."""
    lengths: tuple[int, ...] = LENGTHS
    if model.lower() in SIZES:
        name, config, tokens = model.lower(), SIZES[model.lower()], QWEN_TOKENS
    elif model.endswith((".yaml", ".yml")):
        recipe = load_recipe(model)
        name, tokens = recipe.name, recipe.tokenizer.vocabulary_size
        config = model_config(training_of(recipe), embedding_rows(tokens))
        if isinstance(training_of(recipe).model, ModelFolder):
            tokens = (
                config.vocabulary_size
            )  # the rows are the folder's; how many of them have a token its tokenizer says
        lengths = tuple(sorted({stage.sequence_length for stage in training_of(recipe).stages}))
    else:
        raise ConfigError(f"{model}: is no published model; known are {', '.join(SIZES)}. Or give a recipe (.yaml)")
    count = parameter_count(config)
    memory = training_memory(config, 1, "none", bf16=True)
    shape = asdict(config)
    kept = ("layers", "heads", "kv_heads", "head_dim", "hidden_size", "intermediate_size", "experts",
            "experts_per_token", "tied_embeddings")  # fmt: skip
    return {
        "model": name,
        **{key: shape[key] for key in kept},
        "vocabulary": {"tokens": tokens, "rows": config.vocabulary_size},
        "parameters": {"total": count.total, "non_embedding": count.body, "active": count.active},
        "flops_per_token": {str(length): flops_per_token(config, length) for length in lengths},
        "memory": {
            "state": memory.weights + memory.gradients + memory.moments,
            "weights": memory.weights,
            "gradients": memory.gradients,
            "moments": memory.moments,
            "copies": memory.copies,
        },
    }


# ---------------------------------------------------------------------------------------------------------------
# sluice pretrain --dry-run


def plan_training(recipe: Recipe, folder: str) -> None:
    """Print what a training would do and cost: its stages, learning rates at their seams, operations and memory.

    Args:
        folder: of the run; where it has tokenized documents, the model has the rows of their vocabulary.

    Raises:
        ConfigError: the recipe asks for what cannot be.
    """
    pretrain = training_of(recipe)
    rows, counted = vocabulary_rows(recipe, folder)
    config = model_config(pretrain, rows)
    stages = timeline(pretrain)
    console.print(Text(f"{recipe.name} · {model_line(pretrain, config)}", style="bold"))
    console.print()
    _print(_stage_table(stages, config), right=(1, 2, 3, 4, 5, 6))
    console.print()
    _print(_rate_table(stages), right=(1, 2, 3))
    console.print()
    how = "of the tokenized documents" if counted else "for the tokens that the recipe says"
    if isinstance(pretrain.model, ModelFolder):
        how = f"of the model in {pretrain.model.path}"
    facts = [["vocabulary", f"{config.vocabulary_size:,} rows, {how}"]]
    facts += _operations(pretrain, config) + _memory(pretrain, config)
    _print(facts)


def vocabulary_rows(recipe: Recipe, folder: str) -> tuple[int, bool]:
    """Rows of the embedding, and whether they are those of a run's tokenizer and not what the recipe asks for."""
    manifest = read_manifest(paths.join(folder, "tokenize"))
    if manifest is not None and "padded_vocabulary_size" in manifest.extra:
        return int(manifest.extra["padded_vocabulary_size"]), True
    return embedding_rows(recipe.tokenizer.vocabulary_size), False


def model_line(pretrain: Pretrain, config: ModelConfig) -> str:
    count = parameter_count(config)
    name = pretrain.model if isinstance(pretrain.model, str) else f"{config.layers} layers x {config.hidden_size}"
    active = f", {short(count.active)} active" if config.experts else ""
    return f"{name}: {short(count.total)} parameters{active}, {short(count.body)} without the embeddings"


def _stage_table(stages: list[dict[str, Any]], config: ModelConfig) -> list[list[str]]:
    head = ["stage", "first step", "last step", "tokens", "batch", "sequence", "RoPE base", "documents"]
    rows = [
        [
            stage["stage"],
            f"{stage['first_step']:,}",
            f"{stage['first_step'] + stage['steps'] - 1:,}",
            short(stage["tokens"]),
            _batch(stage),
            f"{stage['sequence_length']:,}",
            f"{stage['rope_base'] or config.rope_base:,.0f}",
            "masked" if stage["document_mask"] else "see each other",
        ]
        for stage in stages
    ]
    return [head, *rows, ["all", "", rows[-1][2], short(sum(stage["tokens"] for stage in stages))]]


def _batch(stage: dict[str, Any]) -> str:
    first, full = stage["batch_size_start"], stage["batch_size"]
    return f"{full:,}" if first == full else f"{first:,} … {full:,}"


def _rate_table(stages: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["learning rate", "start", "peak", "end", "shape, in shares of the stage's tokens"]]
    for stage in stages:
        rates = [f"{stage[f'learning_rate_{when}']:.3g}" for when in ("start", "peak", "end")]
        rows.append([stage["stage"], *rates, _shape(stage)])
    return rows


def _shape(stage: dict[str, Any]) -> str:
    warmup, decay, ramp = stage["warmup"], stage["decay"], stage["ramp"]
    held = 1 - warmup - decay
    parts = [f"warm-up {_percent(warmup)}"] if warmup else []
    if stage["learning_rate_shape"] == "constant":
        parts.append("constant")
    else:
        parts += [f"held {_percent(held)}"] if held > 1e-9 else []
        parts.append(f"{stage['learning_rate_shape']} {_percent(decay)}")
    return ", ".join(parts) + (f"; batches grow {_percent(ramp)}" if ramp else "")


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _operations(pretrain: Pretrain, config: ModelConfig) -> list[list[str]]:
    model, repeated = training_flops(pretrain, config)
    most = " (at most: document masks spare attention)" if any(stage.document_mask for stage in pretrain.stages) else ""
    rows = [["FLOPs", f"{model:.4g} in matrix products and causal attention, forward and backward{most}"]]
    if repeated:
        rows.append(["", f"{repeated:.4g} more for what is computed twice"])
    if pretrain.device != "cpu":
        times = []
        for name, device in DEVICES.items():
            peak = peak_flops(device)
            assert peak is not None
            times.append(f"{_device_time(model / (peak * UTILISATION))} of one {name}")
        rows.append(["time", f"assumed, at {_percent(UTILISATION)} of the bf16 peak: {' or '.join(times)}"])
    return rows


def _device_time(seconds: float) -> str:
    return f"{short(seconds / 3600)} hours" if seconds > 86_400 else clock(max(1, seconds))


def _memory(pretrain: Pretrain, config: ModelConfig) -> list[list[str]]:
    """Of the stage that needs most."""
    bf16, checkpointing = pretrain.device != "cpu", pretrain.activation_checkpointing
    needs: list[tuple[Memory, int, str]] = []
    for stage in pretrain.stages:
        rows = min(stage.batch_size, max(1, pretrain.micro_batch_tokens // stage.sequence_length))
        tokens = rows * stage.sequence_length
        needs.append((training_memory(config, tokens, checkpointing, bf16=bf16), tokens, stage.name))
    memory, tokens, name = max(needs, key=lambda need: need[0].total)
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW": memory.moments,
        "copies in bf16": memory.copies,
        "activations": memory.activations,
        "loss, passing": memory.transient,
    }
    lines = aligned([[what, size(part)] for what, part in parts.items() if part], right=(1,))
    lines[-2] += f"  of {tokens:,} tokens at once ({name}), activation checkpointing: {checkpointing}"
    where = "with bf16 products, on a GPU" if bf16 else "in float32, on a CPU"
    return [
        ["memory", f"at most {size(memory.total)} of tensors in each process, {where}"],
        *(["", f"  {line}"] for line in lines),
    ]


def training_rows(pretrain: Pretrain) -> list[list[str]]:
    """A line a stage, for `sluice recipe explain`."""
    cells = [
        [
            row["stage"],
            f"{row['steps']:,} steps",
            f"x {_batch(row)} x {row['sequence_length']:,}",
            f"= {short(row['tokens'])} tokens",
            "learning rate "
            f"{row['learning_rate_start']:.3g} ↗ {row['learning_rate_peak']:.3g} ↘ {row['learning_rate_end']:.3g}",
        ]
        for row in timeline(pretrain)
    ]
    return [["training" if number == 0 else "", line] for number, line in enumerate(aligned(cells, right=(1,)))]
