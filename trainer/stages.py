"""The stages of a run that the trainer is: pre-training, evaluation, export."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.hashing import digest
from schemas.job import Job, Output
from schemas.manifest import FileEntry
from schemas.recipe import HOW_IT_RUNS, ModelFolder, Pretrain, training_of
from schemas.tables import write_table
from tokenizer.qwen import Tokenizer
from trainer import checkpoint, hf
from trainer.data import Sequences, stage_feed
from trainer.evaluate import measure, sample, score_table, token_bytes, unigram_nats
from trainer.loop import CHECKPOINTS, Data, StageRecord, train
from trainer.model.published import content
from trainer.model.qwen3 import Qwen3, build, empty
from trainer.model.sizes import ModelConfig, model_config
from trainer.parallel import Ranks, ranks
from trainer.prompt import continue_text
from trainer.schedule import spans
from trainer.shards import TokenShards

VALIDATION = "validation"
SCORES_FILE = "bits_per_byte.parquet"
MODEL, SAMPLES = "model", "samples.json"
SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 64, 0.8

# No part of a training's key: how it is run and watched, and what its packs already say.
_NOT_IN_KEY: dict[str, Any] = dict.fromkeys(HOW_IT_RUNS, True) | {
    "model": {"path"},  # what lies there is, by its content
    "stages": {"__all__": {"mixture", "packing"}},
}


def pretrain(job: Job) -> Output:
    """Train the recipe's model through its stages, or go on where an interruption left `job.output`.

    Writes checkpoints/, and as logs that are no part of the dataset metrics.jsonl and tensorboard/. Under torchrun
    every rank calls it and rank 0 writes.

    Raises:
        ConfigError: the recipe and the machine or the tokenizer do not fit together.
        DataError: see `trainer.loop.train`.
        Interrupted: SIGTERM arrived; calling it again goes on.
    """
    settings = training_of(job.recipe)
    if not paths.is_local(job.output):
        raise ConfigError(f"{job.output}: training writes to a local folder; run it there and copy the result")
    folder = Path(job.output)
    plan = spans(settings)
    with ranks(settings.device) as own:
        shards = TokenShards(job)
        config = model_config(settings, shards.padded_vocabulary_size)
        if shards.vocabulary_size > config.vocabulary_size:
            raise ConfigError(
                f"{job.inputs['tokenize']}: has {shards.vocabulary_size} tokens but the model of pretrain.model.path "
                f"{config.vocabulary_size} rows; tokenize with the tokenizer of that model"
            )
        key = training_key(job, config)
        feeds = {span.stage.name: stage_feed(job, span.stage, shards, own.rank, own.count) for span in plan}
        tokenizer = _tokenizer(job)
        data = Data(
            feeds=feeds,
            validation=Sequences(job, VALIDATION, shards),
            token_bytes=token_bytes(tokenizer, shards.padded_vocabulary_size),
            groups=shards.groups,
        )
        # Weights that rank 0 reads from a checkpoint, or another rank copies from it, need no first value.
        begins = own.rank == 0 and not checkpoint.steps_in(folder / CHECKPOINTS)
        model = starting_model(settings, config, job.recipe.seed, own.device) if begins else empty(config, own.device)
        records = train(settings, model, data, folder, key, job.progress, own)

    summary: dict[str, dict[str, Any]] = {
        span.stage.name: {
            "steps": span.steps,
            "tokens": span.tokens,
            "epochs": round(span.sequences / feeds[span.stage.name].sequences.count, 4),
            **_record(records[span.stage.name], span.steps),
        }
        for span in plan
    }
    extra = {
        "key": key,
        "model": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": plan[-1].end,
        "stages": summary,
    }
    # The other ranks describe nothing: rank 0 may still be tidying up.
    written = sorted((folder / CHECKPOINTS).rglob("*")) if own.rank == 0 else []
    files = [file_entry(folder, path) for path in written if path.is_file()]
    return Output(files=files, counts={"tokens": sum(stage["tokens"] for stage in summary.values())}, extra=extra)


def starting_model(settings: Pretrain, config: ModelConfig, seed: int, device: torch.device) -> Qwen3:
    """The model before its first step: drawn from the seed, or read from the folder that the recipe names.

    Raises:
        ConfigError: see `trainer.hf.load`.
    """
    if not isinstance(settings.model, ModelFolder):
        return build(config, seed, device)
    _, model = hf.load(settings.model.path)
    model.config = config  # with room for the longest sequence and the base of the first stage
    return model.to(device)


def file_entry(dataset: Path, path: Path) -> FileEntry:
    """A manifest's line on a file that is no table; of weights `rows` counts the tensors."""
    rows = 1
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as handle:
            rows = len(handle.keys())
    return FileEntry(
        path=path.relative_to(dataset).as_posix(),
        rows=rows,
        bytes=path.stat().st_size,
        hash=paths.file_hash(str(path)),
    )


def _record(record: StageRecord, steps: int) -> dict[str, Any]:
    score = record.validation_bits_per_byte
    some = max(1, min(len(record.first_losses), steps // 2))  # the two ends of a short stage do not overlap
    return {
        "first_loss": round(sum(record.first_losses[:some]) / some, 4),
        "last_loss": round(sum(record.last_losses[-some:]) / some, 4),
        "validation_bits_per_byte": None if score is None else round(score, 4),
    }


def training_key(job: Job, config: ModelConfig) -> str:
    """Names model, data and schedule: what a checkpoint belongs to."""
    settings = training_of(job.recipe)
    start = content(Path(settings.model.path)) if isinstance(settings.model, ModelFolder) else {}
    return digest(
        {
            "model": asdict(config),
            "start": start,
            "seed": job.recipe.seed,
            "tokenize": job.manifest("tokenize").hash,
            "pack": job.manifest("pack").hash,
            "pretrain": settings.model_dump(mode="json", exclude=_NOT_IN_KEY),
        }
    )


def trained_model(job: Job, device: torch.device) -> tuple[Qwen3, int]:
    """The model of the pretrain dataset's last checkpoint, and its step.

    Raises:
        DataError: the dataset holds no whole checkpoint, or one of another model.
    """
    settings = training_of(job.recipe)
    manifest = job.manifest("pretrain")
    config = ModelConfig(**manifest.extra["model"])
    root = Path(job.inputs["pretrain"]) / CHECKPOINTS
    found = checkpoint.newest(root, manifest.extra["key"])
    if found is None or found[1]["step"] != manifest.extra["steps"]:
        raise DataError(f"{root}: the checkpoint of step {manifest.extra['steps']} is missing or damaged; train again")
    model = empty(config, device)
    checkpoint.load(found[0], model)
    model.set_rope_base(spans(settings)[-1].rope_base or config.rope_base)
    return model, int(found[1]["step"])


def evaluate(job: Job) -> Output:
    """Bits per byte on the validation sequences, in total and per language and domain, beside a unigram model.

    Writes bits_per_byte.parquet (`trainer.evaluate.SCORES`).
    """
    columns = ("language", "domain")
    settings = training_of(job.recipe)
    shards = TokenShards(job, columns)
    sequences = Sequences(job, VALIDATION, shards)
    device = _device(settings)
    model, step = trained_model(job, device)
    sums = measure(
        model,
        sequences,
        sample(sequences, job.recipe.evaluate.max_tokens),
        token_bytes(_tokenizer(job), shards.padded_vocabulary_size),
        Ranks(0, 1, device),
        settings.micro_batch_tokens,
        unigram_nats(shards),
    )
    table = score_table(sums, columns, shards.groups)
    tokens = int(sums.tokens.sum())
    job.progress.update(tokens, tokens, "tokens")
    total = table.slice(0, 1).to_pylist()[0]
    scores = {name: total[name] for name in ("bits_per_byte", "unigram_bits_per_byte")}
    return Output(
        files=[write_table(job.output, SCORES_FILE, table)],
        counts={"tokens": tokens, "bytes": int(sums.bytes.sum())},
        extra={"step": step} | {name: None if x is None else round(x, 4) for name, x in scores.items()},
    )


def export(job: Job) -> Output:
    """The trained model as a folder for `transformers`, and continuations of the recipe's prompts.

    Writes model/ and samples.json.
    """
    settings, options = training_of(job.recipe), job.recipe.export
    model, step = trained_model(job, _device(settings))
    folder = Path(job.output)
    tokenizer = _tokenizer(job)
    with paths.local_folder(job.inputs["tokenizer"]) as tokenizer_folder:
        hf.export(
            model,
            folder / MODEL,
            eos_token_id=tokenizer.end_of_document,
            tokenizer_folder=tokenizer_folder,
            dtype=options.dtype,
        )
    samples = []
    for number, prompt in enumerate(options.prompts):
        samples.append(_samples(model, tokenizer, prompt, job.recipe.seed))
        job.progress.update(number + 1, len(options.prompts), "prompts")
    paths.write_text(str(folder / SAMPLES), json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    written = [*sorted((folder / MODEL).iterdir()), folder / SAMPLES]
    return Output(files=[file_entry(folder, path) for path in written], extra={"step": step})


def _samples(model: Qwen3, tokenizer: Tokenizer, prompt: str, seed: int) -> dict[str, Any]:
    tokens = min(SAMPLE_TOKENS, model.config.max_position // 2)
    return {
        "prompt": prompt,
        "greedy": continue_text(model, tokenizer, prompt, tokens)[len(prompt) :],
        "sampled": continue_text(model, tokenizer, prompt, tokens, SAMPLE_TEMPERATURE, seed=seed)[len(prompt) :],
        "temperature": SAMPLE_TEMPERATURE,
    }


def _tokenizer(job: Job) -> Tokenizer:
    with paths.local_folder(job.inputs["tokenizer"]) as folder:
        return Tokenizer.load(folder)


def _device(settings: Pretrain) -> torch.device:
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
