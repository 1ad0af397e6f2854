"""Provenance and exclusion on a small run of all stages up to training, some of it through the real command line."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from schemas.errors import ConfigError, DataError
from schemas.job import Job
from schemas.manifest import read_manifest
from schemas.recipe import load_recipe
from sluice.commands import run_stage
from sluice.explain import BAD_STEPS, _left_out, explain_batch
from sluice.road import ROAD, STAGES
from sluice.run import find_given, inspect
from sluice.run import run as run_stages
from tests.sluice.test_commands import WORDS

RECIPE = """\
name: small
seed: 3
sources:
  - {{name: web, path: "{folder}/web.jsonl", licence: CC0-1.0, columns: {{id: key}}}}
  - {{name: books, path: "{folder}/books.jsonl"}}
extract: {{shard_bytes: 6_000}}
annotate: {{labels: [domain]}}
filter: {{thresholds: none, code_rules: {{}}, language_score: 0}}
dedup: {{near: false}}
split: {{validation: 0.2}}
tokenizer: {{vocabulary_size: 512}}
mix: {{cell_tokens: 0}}
pretrain:
  model: {{hidden_size: 16, intermediate_size: 16, layers: 1, heads: 1, kv_heads: 1, head_dim: 16}}
  threads: 1
  device: cpu
  checkpoint_every: 4
  validate_every: 20
  stages:
    - name: s1
      tokens: 12_288
      sequence_length: 64
      batch_size: 16
      batch_ramp: {{start: 4, share: 0.3}}
      learning_rate: {{peak: 3.0e-3, end: 1.5e-3, warmup: 0.2}}
    - name: s2
      tokens: 4096
      sequence_length: 128
      batch_size: 4
      packing: best-fit
      learning_rate: {{shape: linear, end: 3.0e-4}}
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A recipe and its run up to the packed sequences, which the tests read and copy, never change."""
    folder = tmp_path_factory.mktemp("explain")
    draw = random.Random(5)
    for name, keys in (("web", ("key", "url")), ("books", ("title",))):
        lines = [
            {"text": f"The {' '.join(draw.choice(WORDS) for _ in range(draw.randint(20, 60)))}."}
            | {key: f"{key}-{number}" for key in keys}
            for number in range(50)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    run_stages(load_recipe(recipe), str(folder / "run"), ROAD[:10])
    return recipe, folder / "run"


@pytest.fixture
def copy(packed, tmp_path):
    recipe, run = packed
    shutil.copytree(run, tmp_path / "run")
    return recipe, tmp_path / "run"


@pytest.fixture
def explained(capsys):
    def call(run, step=None, document=None):
        capsys.readouterr()
        explain_batch(str(run), step, document, as_json=True)
        return json.loads(capsys.readouterr().out)

    return call


def every_document(run):
    """Hex ids of the documents in every batch of every stage and of validation, read as training reads them."""
    from trainer.data import Sequences
    from trainer.shards import TokenShards

    job = Job(load_recipe(run / "recipe.yaml"), find_given(str(run)), "", None)
    packs = [Sequences(job, name, TokenShards(job)) for name in ("s1", "s2", "validation")]
    return [{one["document_id"] for one in pack.documents(np.arange(pack.count))} for pack in packs]


def test_a_step_is_printed_with_all_that_leads_back_to_its_sources(packed, sluice, explained):
    _, run = packed
    step = explained(run, step=3)
    assert (step["step"], step["stage"], step["state"]) == (3, "s1", "to come")
    shown = sluice("explain-batch", run, "--step", 3).stdout.splitlines()
    assert shown[0].startswith("step 3 · stage s1 · 4 sequences · ")
    for line, segment in zip(shown[2:], step["segments"], strict=True):
        source = run.parent / segment["path"]
        written = json.loads(source.read_text().splitlines()[int(segment["locator"].removeprefix("line=")) - 1])
        assert segment["id"] == written.get("key") and segment["url"] == written.get("url")
        assert segment["source"] == source.stem
        assert segment["licence"] == ("CC0-1.0" if source.stem == "web" else None)
        for name in ("sequence", "begin", "length", "document_id", "source", "cell", "shard", "row", "path", "locator"):
            assert str(segment[name]) in line


def test_a_document_is_printed_with_the_steps_that_read_it(packed, explained, capsys):
    _, run = packed
    (document,) = explained(run, document="key-3")["documents"]
    reads = [read for stage in document["stages"] for read in stage["reads"]]
    for read in (reads[0], reads[-1]):
        assert (read["sequence"], read["begin"], read["length"]) in [
            (one["sequence"], one["begin"], one["length"])
            for one in explained(run, step=read["step"])["segments"]
            if one["id"] == "key-3"
        ]
    explain_batch(str(run), None, document["document_id"], as_json=False)
    shown = capsys.readouterr().out
    assert "id key-3" in shown and all(f"{read['step']:4}  {read['sequence']:8}" in shown for read in reads)


def test_steps_are_done_or_to_come_or_left_out(copy, explained):
    assert f'FILE = "{BAD_STEPS}"' in Path(__file__).parents[2].joinpath("trainer/guard.py").read_text()
    _, run = copy
    recipe, given = load_recipe(run / "recipe.yaml"), find_given(str(run))
    # Killed in step 17, after a bad step 9 and another one, 14, that went back to the weights of step 12.
    training = run / "unfinished" / "pretrain"
    training.mkdir(parents=True)
    (training / "key").write_text(inspect(recipe, str(run), STAGES["pretrain"], given).key)
    (training / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in range(17)))
    bad = [{"step": 9, "back_to_step": None}, {"step": 14, "back_to_step": 12}]
    (training / BAD_STEPS).write_text("".join(json.dumps(line) + "\n" for line in bad))
    states = {step: explained(run, step=step)["state"] for step in range(1, 26)}
    assert [step for step, state in states.items() if state == "left out"] == [9, 13, 14]
    assert [step for step, state in states.items() if state == "to come"] == list(range(17, 26))
    (document,) = explained(run, document="key-3")["documents"]
    assert all(read["state"] == states[read["step"]] for stage in document["stages"] for read in stage["reads"])

    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("seed: 3", "seed: 4"))
    with pytest.raises(ConfigError, match="have changed since its training, which read other batches"):
        explained(run, step=1)


def test_a_line_that_is_being_written_is_none_yet(tmp_path):
    path = tmp_path / BAD_STEPS
    line = json.dumps({"step": 9, "back_to_step": None, "reason": "…"}, ensure_ascii=False).encode() + b"\n"
    for end in range(len(line)):
        path.write_bytes(line + line.replace(b"9", b"12")[:end])
        assert _left_out(tmp_path) == [range(9, 10)]
    for bad in (b"{\n", b"[]\n", b'{"step": 1}\n', b'{"step": null, "back_to_step": 2}\n', b"\xff\n"):
        path.write_bytes(line + bad + line)
        with pytest.raises(DataError, match=rf"{BAD_STEPS}: line 2 is no record of a bad step") as error:
            _left_out(tmp_path)
        assert "\n" not in str(error.value)


def test_what_is_unknown_is_one_line_and_exit_code_2(copy, tmp_path, sluice, explained):
    recipe, run = copy
    for options, words in (
        ({"step": 0}, "steps 1 to 25"),
        ({"step": 26}, "steps 1 to 25"),
        ({"document": "nobody"}, "document nobody"),
        ({"document": "0" * 32}, "document 000"),
        ({}, "--step or --document"),
    ):
        with pytest.raises(ConfigError, match=words):
            explained(run, **options)
    for folder in (tmp_path / "nowhere", recipe):
        with pytest.raises(ConfigError, match=folder.name):
            explained(folder, step=1)
    shutil.rmtree(run / "pack")
    with pytest.raises(ConfigError, match="has no 'pack' yet"):
        explained(run, step=1)
    failed = sluice("explain-batch", run, "--step", 1, check=False)
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1


def test_excluded_documents_leave_every_batch_and_nothing_is_tokenized(copy, tmp_path, sluice, explained, capsys):
    recipe, run = copy
    before = every_document(run)
    trained, held_out = min(before[0] & before[1]), min(before[2])
    (by_id,) = explained(run, document="key-3")["documents"]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "removed.txt").write_text(f"{trained}\nkey-3\n\nnobody\n")
    (lists / "more.jsonl").write_text(json.dumps({"document_id": held_out, "reason": "asked for"}) + "\n")
    text = yaml.safe_load(recipe.read_text()) | {"mix": {"cell_tokens": 0, "exclude": ["removed.txt", "more.jsonl"]}}
    (lists / "small.yaml").write_text(yaml.safe_dump(text))
    tokens = {path: path.stat().st_mtime_ns for path in (run / "tokenize").rglob("*")}

    done = sluice("pack", lists / "small.yaml", "--output", run)
    assert [line.split()[1] for line in done.stdout.splitlines() if "up to date" in line][-1] == "tokenize"
    assert "no document has 1 of the ids: nobody" in done.stderr and "excluded 3, unknown ids 1" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (run / "tokenize").rglob("*")} == tokens
    gone = {trained, held_out, by_id["document_id"]}
    assert not any(gone & documents for documents in every_document(run))
    (other,) = explained(run, document=trained)["documents"]
    assert not any(stage["reads"] for stage in other["stages"])
    manifest = read_manifest(str(run / "mix"))
    assert manifest.extra["excluded"] == {"train": 2, "validation": 1, "unknown": 1, "unknown_ids": ["nobody"]}
    for stage in ("s1", "s2"):
        counted = {"documents": 2, "tokens": by_id["tokens"] + other["tokens"] + 2}
        assert manifest.extra["stages"][stage]["excluded"] == counted

    key = STAGES["mix"].outside(load_recipe(lists / "small.yaml"))
    (lists / "removed.txt").write_text(f"nobody\n{trained}\nkey-3\n")
    assert STAGES["mix"].outside(load_recipe(lists / "small.yaml")) == key
    (lists / "removed.txt").write_text("key-4\n")
    assert STAGES["mix"].outside(load_recipe(lists / "small.yaml")) != key


def test_a_list_goes_with_a_finished_run_and_a_new_one_counts(packed, tmp_path, capsys):
    _, run = packed

    def stage(name, source, output, *settings):
        run_stage(name, str(source), str(tmp_path / output), None, settings, (), ())

    removed, other = tmp_path / "removed.txt", tmp_path / "other.txt"
    removed.write_text("key-3\n")
    stage("mix", run, "a", f"mix.exclude={removed}")
    assert read_manifest(str(tmp_path / "a" / "mix")).counts["excluded"] == 1
    removed.unlink()  # as on another machine
    stage("pack", tmp_path / "a", "b")
    assert not (tmp_path / "b" / "mix").exists()
    with pytest.raises(ConfigError, match=r"other\.txt: cannot be read: No such file"):
        stage("pack", tmp_path / "a", "c", f"mix.exclude={other}")
    other.write_text("key-3\nkey-4\n")
    stage("pack", tmp_path / "a", "c", f"mix.exclude={other}")
    assert "other settings" in capsys.readouterr().out
    assert read_manifest(str(tmp_path / "c" / "mix")).counts["excluded"] == 2
