"""A recipe that trains on from a Qwen3 folder, through the real command line, and the folders that it refuses."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.parity import their_model
from schemas.errors import ConfigError
from schemas.job import Job
from schemas.manifest import read_manifest
from schemas.recipe import load_recipe
from sluice.console import Quiet
from sluice.road import STAGES, stages_of
from sluice.run import check, inspect
from tokenizer.qwen import BYTE_ORDER, write_tokenizer
from trainer import metrics
from trainer.model.sizes import ModelConfig
from trainer.shards import TokenShards
from trainer.stages import stage_feed

# 300 rows for the 282 tokens of the tokenizer, a base that is no default.
CONFIG = ModelConfig(
    vocabulary_size=300,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    tied_embeddings=True,
    rope_base=5e5,
    max_position=64,
    init_std=0.1,
)
RECIPE = """\
name: again
sources: [{name: notes, path: ../notes.jsonl}]
annotate: {labels: [language]}
filter: {thresholds: none, code_rules: {}, language_score: 0}
dedup: {near: false}
split: {validation: 0.2}
pretrain:
  model: {path: ../qwen3}
  device: cpu
  threads: 1
  stages:
    - name: s1
      tokens: 2048
      sequence_length: 128
      batch_size: 4
      learning_rate: {peak: 1.0e-3, end: 1.0e-4, warmup: 0.2}
export: {dtype: float32}
"""
WORDS = ("the", "sea", "of", "rivers", "runs", "under", "stones", "and", "light", "while", "birds", "count", "slow")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with qwen3/, notes.jsonl and recipes/again.yaml, which tests copy and never change."""
    root = tmp_path_factory.mktemp("given")
    their_model(CONFIG).save_pretrained(root / "qwen3")
    write_tokenizer(root / "qwen3", [bytes([byte]) for byte in BYTE_ORDER], [])
    draw = random.Random(0)
    notes = [{"text": " ".join(draw.choice(WORDS) for _ in range(80))} for _ in range(30)]
    (root / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    (root / "recipes").mkdir()
    (root / "recipes" / "again.yaml").write_text(RECIPE)
    return root


@pytest.fixture
def copy(given: Path, tmp_path: Path) -> Path:
    shutil.copytree(given, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "command",
    [
        ("export", "notes.jsonl", "--recipe", "recipes/again.yaml"),  # what training needs and no more
        pytest.param(("run", "recipes/again.yaml"), marks=pytest.mark.slow),
    ],
    ids=lambda command: command[0],
)
def test_the_road_from_a_folder_to_a_folder(command, given, copy, sluice) -> None:
    run = copy / "run"
    sluice(*command, "--output", "run", cwd=copy)
    theirs = AutoModelForCausalLM.from_pretrained(copy / "qwen3", attn_implementation="sdpa")

    # No tokenizer was trained; the rows are the folder's.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (run / "tokenizer" / name).read_bytes() == (copy / "qwen3" / name).read_bytes()
    manifest = read_manifest(str(run / "pretrain"))
    assert manifest.extra["model"]["vocabulary_size"] == 300
    assert {"start:config.json", "start:model.safetensors"} < set(manifest.inputs)

    # The first loss is that of the model in the folder, on the batch of the first step.
    recipe = load_recipe(run / "recipe.yaml")
    inputs = {name: str(run / name) for name in ("tokenizer", "tokenize", "mix", "pack")}
    job = Job(recipe, inputs, str(run / "pretrain"), Quiet())
    batch = stage_feed(job, recipe.pretrain.stages[0], TokenShards(job)).batch(0)
    same = batch.document_BT[:, None, :, None] == batch.document_BT[:, None, None, :]
    mask = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    with torch.no_grad():
        logits = theirs(input_ids=batch.tokens_BT, position_ids=batch.positions_BT, attention_mask=mask).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=-100).item()
    lines = metrics.read(run / "pretrain")
    assert lines[1]["loss"] == pytest.approx(wanted, abs=2e-6)
    assert lines[4]["loss"] < wanted

    # What comes out is a Qwen3 again, with the base it had and the tokenizer it had.
    exported, report = AutoModelForCausalLM.from_pretrained(run / "export" / "model", output_loading_info=True)
    assert not any(report.values())
    assert exported.config.rope_parameters["rope_theta"] == 5e5
    assert exported.config.vocab_size == 300 and exported.config.tie_word_embeddings
    assert not torch.equal(exported.model.norm.weight, theirs.model.norm.weight)
    text = "the sea of light"
    ids = AutoTokenizer.from_pretrained(run / "export" / "model")(text)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(copy / "qwen3")(text)["input_ids"]

    # Another model is another training; the tokens stay. The same model elsewhere is the same training.
    def stands(folder: Path) -> list[bool]:
        recipe = load_recipe(run / "recipe.yaml", (f"pretrain.model.path={folder / 'qwen3'}",))
        done = {stage.name: str(run / stage.name) for stage in stages_of(recipe) if (run / stage.name).exists()}
        return [inspect(recipe, str(run), STAGES[name], done).manifest is not None for name in ("tokenize", "pretrain")]

    assert stands(copy) == stands(given) == [True, True]
    their_model(CONFIG).half().float().save_pretrained(copy / "qwen3")
    assert stands(copy) == [True, False]


def test_a_bad_folder_stops_the_command_before_any_work(copy, sluice) -> None:
    (copy / "qwen3" / "model.safetensors").write_bytes(b"not weights")
    done = sluice("run", "recipes/again.yaml", "--output", "run", cwd=copy, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sluice: ") and "model.safetensors: cannot be read" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (copy / "run").exists()


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "qwen3: no such folder"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
        (lambda folder: edit(folder, model_type="llama"), "model_type is 'llama'; only Qwen3"),
        (lambda folder: edit(folder, num_hidden_layers=3), "11 weights are missing"),
        (lambda folder: edit(folder, rope_scaling={"type": "yarn"}), "rope_scaling"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"neither model\.safetensors nor"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"pretrain\.model\.path: .*qwen3 has no tokenizer\.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "not a tokenizer.json"),
        (
            lambda folder: their_model(ModelConfig(**CONFIG.__dict__ | {"vocabulary_size": 281})).save_pretrained(
                folder
            ),
            r"has 282 tokens but the model in .*qwen3 only 281 rows",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_named(copy, change, message) -> None:
    recipe = load_recipe(copy / "recipes" / "again.yaml")
    check(recipe, stages_of(recipe))
    change(copy / "qwen3")
    with pytest.raises(ConfigError, match=message) as caught:
        check(recipe, stages_of(recipe))
    assert "\n" not in str(caught.value)


def test_another_tokenizer_may_be_named(copy) -> None:
    (copy / "tokenizer").mkdir()
    (copy / "qwen3" / "tokenizer.json").rename(copy / "tokenizer" / "tokenizer.json")
    recipe = load_recipe(copy / "recipes" / "again.yaml", ("tokenizer.path=../tokenizer",))
    check(recipe, stages_of(recipe))
    assert recipe.tokenizer.path.endswith("recipes/../tokenizer")
    remote = load_recipe(copy / "recipes" / "again.yaml", ("pretrain.model.path=gs://bucket/qwen3",))
    with pytest.raises(ConfigError, match=r"gs:/.*no such folder; name the local folder"):
        check(remote, stages_of(remote))
