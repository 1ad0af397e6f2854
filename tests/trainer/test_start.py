"""Training on from a model in a folder: what comes from it, what does not, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from benchmarks.parity import their_model
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest, write_manifest
from trainer import hf, metrics
from trainer.data import Batch
from trainer.model.published import content
from trainer.model.sizes import ModelConfig, model_config
from trainer.shards import TokenShards
from trainer.stages import pretrain, stage_feed, trained_model

# 300 rows for 282 tokens: a number that padding would not give.
DENSE = ModelConfig(
    vocabulary_size=300,
    hidden_size=32,
    intermediate_size=48,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    tied_embeddings=True,
    rope_base=5e5,
    max_position=40,
    init_std=0.1,
)
MIXTURE = replace(DENSE, intermediate_size=16, experts=6, experts_per_token=2, tied_embeddings=False)


def save(config: ModelConfig, folder: Path) -> PreTrainedModel:
    model = their_model(config)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def their_loss(model: PreTrainedModel, batch: Batch) -> float:
    """Nats per label of a packed batch, documents apart."""
    same = batch.document_BT[:, None, :, None] == batch.document_BT[:, None, None, :]
    mask = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    logits = model(input_ids=batch.tokens_BT, position_ids=batch.positions_BT, attention_mask=mask).logits
    return F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=-100).item()


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_the_first_loss_is_that_of_the_model_in_the_folder(config: ModelConfig, toy: Any) -> None:
    theirs = save(config, toy.root / "qwen3")
    job = toy.job(model={"path": str(toy.root / "qwen3")}, optimizer={"balance_loss": 0.0})
    output = pretrain(job)
    stage = job.recipe.pretrain.stages[0]
    batch = stage_feed(job, stage, TokenShards(job)).batch(0)
    line = metrics.read(Path(job.output))[1]
    assert line["loss"] == pytest.approx(their_loss(theirs, batch), abs=2e-6)
    # The shape is the folder's; its context grows to the longest sequence.
    assert ModelConfig(**output.extra["model"]) == replace(config, max_position=64)

    job.inputs["pretrain"] = job.output
    write_manifest(
        job.output,
        Manifest(stage="pretrain", version=1, key="k", config={}, inputs={}, files=output.files, extra=output.extra),
    )
    trained, step = trained_model(job, torch.device("cpu"))
    assert step == 12 and trained.config.rope_base == 50_000  # what the second stage states
    hf.export(trained, toy.root / "again", eos_token_id=256, dtype="float32")
    assert hf.load(toy.root / "again")[0] == replace(config, max_position=64, rope_base=50_000)


@pytest.mark.parametrize(("stated", "base"), [(None, 5e5), (2e4, 2e4)])
def test_the_base_of_the_folder_holds_until_a_stage_states_one(toy: Any, stated: float | None, base: float) -> None:
    theirs = save(DENSE, toy.root / "qwen3")
    theirs.model.rotary_emb.inv_freq = base ** -(torch.arange(0, 8, 2) / 8)
    stage = toy.recipe["pretrain"]["stages"][0] | {"tokens": 128, "rope_base": stated}
    job = toy.job(model={"path": str(toy.root / "qwen3")}, stages=[stage])
    pretrain(job)
    batch = stage_feed(job, job.recipe.pretrain.stages[0], TokenShards(job)).batch(0)
    assert metrics.read(Path(job.output))[1]["loss"] == pytest.approx(their_loss(theirs, batch), abs=2e-6)
    assert model_config(job.recipe.pretrain, 384).rope_base == base


def test_a_training_knows_what_it_started_from_and_not_where_that_lay(toy: Any) -> None:
    save(DENSE, toy.root / "qwen3")
    stages = toy.recipe["pretrain"]["stages"][:1]
    job = toy.job(model={"path": str(toy.root / "qwen3")}, stages=stages)
    key = pretrain(job).extra["key"]
    (toy.root / "qwen3").rename(toy.root / "elsewhere")
    moved = toy.job(model={"path": str(toy.root / "elsewhere")}, stages=stages)
    assert pretrain(moved).extra["key"] == key  # the finished checkpoint is its own
    _, model = hf.load(toy.root / "elsewhere")
    with torch.no_grad():
        model.norm.weight[0] += 1
    hf.export(model, toy.root / "elsewhere", eos_token_id=0, dtype="float32")
    with pytest.raises(DataError, match="belongs to another model"):
        pretrain(moved)


def test_what_a_folder_holds_besides_the_model_does_not_count(toy: Any) -> None:
    folder = toy.root / "qwen3"
    save(DENSE, folder)
    before = content(folder)
    assert set(before) == {"config.json", "model.safetensors"}
    (folder / "README.md").write_text("words")
    (folder / "other.safetensors").write_bytes(b"of somebody else")
    assert content(folder) == before
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()), indent=1))
    assert content(folder) != before


def test_more_tokens_than_rows_are_refused(toy: Any) -> None:
    save(replace(DENSE, vocabulary_size=281), toy.root / "qwen3")
    job = toy.job(model={"path": str(toy.root / "qwen3")})
    with pytest.raises(ConfigError, match=r"tokenize: has 282 tokens but the model of pretrain\.model\.path 281 rows"):
        pretrain(job)
    assert not list(Path(job.output).iterdir())


def test_as_many_rows_as_tokens_are_enough(toy: Any) -> None:
    save(replace(DENSE, vocabulary_size=282), toy.root / "qwen3")
    job = toy.job(model={"path": str(toy.root / "qwen3")}, stages=toy.recipe["pretrain"]["stages"][:1])
    assert pretrain(job).extra["model"]["vocabulary_size"] == 282
