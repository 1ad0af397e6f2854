"""Sizes of clusters from deduplication to the plans of training, on a run of all the stages between."""

import json
import shutil

import pytest
import yaml

from schemas.errors import ConfigError
from schemas.manifest import read_manifest
from schemas.recipe import load_recipe
from schemas.tables import read_table
from sluice.commands import run_stage
from sluice.road import closure
from sluice.run import run
from tests.sluice import made_duplicates

STAGES = closure(["extract", "dedup", "split", "tokenizer", "tokenize", "mix"])
TRAINING = """\
split: {validation: 0}
tokenizer: {vocabulary_size: 512}
mix: {cell_tokens: 0}
pretrain:
  model: {hidden_size: 16, intermediate_size: 16, layers: 1, heads: 1, kv_heads: 1, head_dim: 16}
  stages:
    - {name: s1, tokens: 12_288, sequence_length: 64, batch_size: 16, learning_rate: {peak: 3.0e-3, end: 1.5e-3}}
"""


@pytest.mark.slow
def test_a_plan_uses_what_stands_for_many_more_often_and_only_the_plan_is_made_anew(tmp_path, capsys):
    for name, lines in made_duplicates.documents().items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    text = made_duplicates.RECIPE.format(folder=tmp_path) + TRAINING
    (tmp_path / "plain.yaml").write_text(text)
    value = yaml.safe_load(text)
    value["pretrain"]["stages"][0]["mixture"] = {"cluster_size": {2: 1.5, 5: 3}}
    (tmp_path / "sized.yaml").write_text(yaml.safe_dump(value))
    folder = tmp_path / "run"
    run(load_recipe(tmp_path / "plain.yaml"), str(folder), STAGES)
    plain = read_manifest(str(folder / "mix"))
    assert "dedup" not in plain.inputs and "clusters" not in plain.extra["stages"]["s1"]
    capsys.readouterr()
    run(load_recipe(tmp_path / "sized.yaml"), str(folder), STAGES)
    assert capsys.readouterr().out.count("up to date") == len(STAGES) - 1, "nothing is tokenized again"
    manifest = read_manifest(str(folder / "mix"))
    assert manifest.inputs["dedup"] == read_manifest(str(folder / "dedup")).hash

    sizes = {}
    for path in (folder / "dedup" / "decisions").iterdir():
        for row in read_table(str(path), ["id", "document_id", "keep", "cluster_size"]).to_pylist():
            if row["keep"]:
                sizes[row["document_id"]] = row["cluster_size"]
    plan = read_table(str(folder / "mix" / "plans" / "s1.parquet")).to_pylist()
    assert {row["document_id"] for row in plan} == set(sizes)
    scale = manifest.extra["stages"]["s1"]["scale"]["all"]
    weights = {1: 1.0, 2: 1.5, made_duplicates.NEAR: 3.0, made_duplicates.COPIES: 3.0}
    assert set(sizes.values()) == set(weights)
    used = {"1": 0, "2": 0, "5": 0}
    for row in plan:
        size = sizes[row["document_id"]]
        assert row["expected_copies"] == pytest.approx(min(4.0, scale * weights[size]), rel=1e-4)
        used["5" if size >= 5 else str(size)] += row["copies"] * row["tokens"]
    clusters = manifest.extra["stages"]["s1"]["clusters"]
    assert {least: share["tokens"] for least, share in clusters.items()} == used

    # The plan of a run on another recipe's token shards, and of one whose duplicates are gone.
    stage = ("mix", str(folder), str(tmp_path / "other"), str(tmp_path / "sized.yaml"), (), (), ())
    run_stage(*stage)
    assert read_manifest(str(tmp_path / "other" / "mix")).hash == manifest.hash
    shutil.rmtree(folder / "dedup")
    with pytest.raises(ConfigError, match=r"^stage 'mix' needs 'dedup' by this recipe"):
        run_stage(*stage)
