"""What the key of a stage depends on, and what it does not."""

import json
from pathlib import Path

import pytest

import annotators
import pipelines.extract
from schemas.errors import ConfigError
from schemas.recipe import check_recipe
from sluice.road import STAGES
from sluice.run import run

SERVER = {"url": "http://localhost:8000/v1", "model": "small"}


def extraction(**extract):
    recipe = check_recipe({"name": "r", "sources": [{"name": "s", "path": "in"}], "extract": extract}, Path("/"))
    return STAGES["extract"].config(recipe)


@pytest.mark.parametrize("role", ["vision", "refine"])
def test_how_a_server_is_asked_makes_no_extraction_anew_but_what_it_is_asked_does(role):
    plain = extraction(**{role: SERVER})
    same = {"url": "https://elsewhere/v1", "key_variable": "KEY", "concurrency": 3, "seconds": 9, "input_price": 1.5}
    assert extraction(answers="kept", **{role: SERVER | same}) == plain
    for change in ({"model": "large"}, {"temperatures": [0.7]}, {"max_tokens": 99}):
        assert extraction(**{role: SERVER | change}) != plain
    assert extraction() != plain


def test_passwords_count_but_stand_in_no_manifest():
    keys = [json.dumps(extraction(passwords=passwords)) for passwords in ([], ["lighthouse"], ["harbour"])]
    assert len(set(keys)) == 3 and "lighthouse" not in keys[1]


def test_other_models_of_the_extraction_are_another_extraction(tmp_path, monkeypatch):
    shipped = extraction()["models"]
    assert set(shipped) == {"letters", "html"} and len(set(shipped.values())) == 2
    monkeypatch.setattr(pipelines.extract, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "letters.npz").write_bytes(b"trained again")
    assert extraction()["models"].keys() == {"letters"} and extraction()["models"]["letters"] != shipped["letters"]


def labelling(*labels):
    recipe = check_recipe(
        {"name": "r", "sources": [{"name": "s", "path": "in"}], "annotate": {"labels": list(labels)}}, Path("/")
    )
    return STAGES["annotate"].config(recipe)["labels"]


def test_a_label_depends_on_its_model_and_on_the_labels_it_is_judged_by(tmp_path, monkeypatch):
    shipped = labelling("fluency")
    assert set(shipped) == {"fluency", "language"} and all(len(key) == 2 for key in shipped.values())
    monkeypatch.setattr(annotators, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "fluency.npz").write_bytes(b"trained again")
    (tmp_path / "models" / "fluency.md").write_text("a card is no model")
    again = labelling("fluency")["fluency"]
    assert again[0] == shipped["fluency"][0] and again[1] != shipped["fluency"][1]


def mixing(*mixtures):
    model = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 4}
    base = {"tokens": 64, "sequence_length": 16, "batch_size": 2, "learning_rate": {"peak": 0.1, "end": 0.0}}
    stages = [{"name": f"s{number}", "mixture": mixture, **base} for number, mixture in enumerate(mixtures)]
    section = {"model": model, "stages": stages}
    return check_recipe({"name": "r", "sources": [{"name": "s", "path": "in"}], "pretrain": section}, Path("/"))


def test_plans_depend_on_deduplication_only_where_a_mixture_speaks_of_clusters():
    mix = STAGES["mix"]
    plain, sized = mixing({}, {"domain": {"code": 2}}), mixing({}, {"cluster_size": {2: 2}})
    assert mix.asks(plain) == () and mix.asks(sized) == ("dedup",) and "dedup" not in mix.reads
    assert all("cluster_size" not in plan["mixture"] for plan in mix.config(plain)["plans"])
    plans = mix.config(sized)["plans"]
    assert "cluster_size" not in plans[0]["mixture"] and plans[1]["mixture"]["cluster_size"] == {"2": 2.0}
    assert STAGES["pack"].config(sized) == STAGES["pack"].config(mixing({}, {}))


def test_sizes_of_clusters_without_deduplication_are_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"^stage 'mix' needs 'dedup' by this recipe, .* --until mix`$"):
        run(mixing({"cluster_size": {2: 2}}), str(tmp_path / "run"), (STAGES["mix"],), given={"tokenize": "elsewhere"})
    assert not (tmp_path / "run").exists()
