"""The whole road through the real command line: reruns, changed keys, workers, stray folders."""

import json
import shutil
import time

import pytest

from tests.sluice.runs import CORPUS, contents, write_recipe

ROAD = [
    "extract",
    "annotate",
    "filter",
    "dedup",
    "decontaminate",
    "split",
    "tokenizer",
    "tokenize",
    "mix",
    "pack",
    "pretrain",
    "evaluate",
    "export",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sluice):
    """One finished run that the tests read and copy, never change."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder)
    start = time.monotonic()
    done = sluice("run", recipe, "--output", folder / "run")
    print(f"uninterrupted run: {time.monotonic() - start:.1f} s")
    return recipe, folder / "run", done.stdout


@pytest.fixture
def copy(finished, tmp_path):
    recipe, run, _ = finished
    shutil.copytree(run, tmp_path / "run")
    return recipe, tmp_path / "run"


def stages_that_ran(run, executions_before=0):
    return [one["stage"] for one in json.loads((run / "run.json").read_text())["executions"][executions_before:]]


def test_every_stage_leaves_a_dataset_whose_manifest_chains_back(finished):
    _, run, output = finished
    from schemas.manifest import read_manifest

    manifests = {stage: read_manifest(str(run / stage)) for stage in ROAD}
    for stage, manifest in manifests.items():
        assert manifest is not None and manifest.stage == stage
        for name, value in manifest.inputs.items():
            if name in manifests:
                assert manifests[name].hash == value
        for entry in manifest.files:
            assert (run / stage / entry.path).stat().st_size == entry.bytes
    assert manifests["extract"].reasons.get("needs_ocr")  # the scan of the corpus
    assert (run / "report.html").stat().st_size > 20_000
    for word in ("documents", "tokens", "bits per byte", "report.html", "s1", "s3"):
        assert word in output


def test_a_second_run_does_nothing_again_and_says_so(finished, sluice):
    recipe, run, _ = finished
    before = contents(run)
    start = time.monotonic()
    output = sluice("run", recipe, "--output", run).stdout
    print(f"second run: {time.monotonic() - start:.1f} s")
    assert output.count("up to date") == len(ROAD)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("setting", "redone"),
    [
        ("export.prompts=[]", ROAD[12:]),
        ("evaluate.max_tokens=2048", ROAD[11:12]),
        ("mix.max_copies=3", ROAD[8:]),
        ("decontaminate.overlap=0.6", ROAD[4:]),
    ],
)
def test_a_changed_key_redoes_what_depends_on_it(copy, sluice, setting, redone):
    recipe, run = copy
    before = len(stages_that_ran(run))
    sluice("run", recipe, "--output", run, "--set", setting)
    assert stages_that_ran(run, before) == redone
    replaced = [path.name for path in (run / "replaced").glob("*")] if (run / "replaced").exists() else []
    assert bool(replaced) == ("pretrain" in redone)  # a trained model is never thrown away


def test_until_and_from(tmp_path, sluice):
    recipe = write_recipe(tmp_path)
    sluice("run", recipe, "--output", tmp_path / "run", "--until", "filter")
    assert stages_that_ran(tmp_path / "run") == ROAD[:3]
    sluice("run", recipe, "--output", tmp_path / "run", "--from", "annotate", "--until", "filter")
    assert stages_that_ran(tmp_path / "run", 3) == ["annotate", "filter"]
    failed = sluice("run", recipe, "--output", tmp_path / "run", "--until", "flter", check=False)
    assert failed.returncode == 2 and "filter" in failed.stderr


def test_two_workers_write_the_same_bytes_and_a_stray_folder_is_not_picked_up(finished, tmp_path, sluice):
    recipe, run, _ = finished
    for room in ("pipelines", "schemas"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise RuntimeError('a stray folder was imported')")
    options = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    sluice("run", recipe, "--output", tmp_path / "run", "--until", "pack", *options, cwd=tmp_path)
    two = {path: value for path, value in contents(tmp_path / "run").items() if path.split("/")[0] in ROAD[:10]}
    one = {path: value for path, value in contents(run).items() if path.split("/")[0] in ROAD[:10]}
    assert two == one


def test_the_order_in_which_files_were_made_does_not_matter(finished, tmp_path, sluice):
    _, run, _ = finished
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    for path in reversed(files):
        target = tmp_path / "documents" / path.relative_to(CORPUS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    recipe = write_recipe(tmp_path, tmp_path / "documents")
    sluice("run", recipe, "--output", tmp_path / "run", "--until", "pack")
    other = {path: value for path, value in contents(tmp_path / "run").items() if path.split("/")[0] in ROAD[:10]}
    assert other == {path: value for path, value in contents(run).items() if path.split("/")[0] in ROAD[:10]}


def test_nothing_of_others_is_written_over_and_nothing_of_ours_is_read(tmp_path, sluice):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A text.")
    inside = sluice("extract", docs, "-o", docs / "out", check=False)
    assert inside.returncode == 2 and "lies inside source" in inside.stderr
    mine = tmp_path / "out" / "extract" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    failed = sluice("extract", docs, "-o", tmp_path / "out", check=False)
    assert failed.returncode == 2 and "in the way" in failed.stderr and mine.read_text() == "years of work"


def test_a_dataset_with_a_missing_file_is_made_again_and_a_model_is_asked_for(copy, sluice):
    recipe, run = copy
    before = contents(run)
    lost = run / "split" / "split" / "00001.parquet"
    lost.unlink()
    sluice("run", recipe, "--output", run)
    assert contents(run) == before
    next((run / "pretrain" / "checkpoints").glob("*/model.safetensors")).unlink()
    failed = sluice("run", recipe, "--output", run, check=False)
    assert failed.returncode == 1 and "--from pretrain" in failed.stderr


def test_pipes_and_devices_are_no_documents(tmp_path, sluice):
    import os

    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A text.")
    (docs / "link.txt").symlink_to(docs / "a.txt")
    os.mkfifo(docs / "pipe.txt")
    assert "documents 2" in sluice("extract", docs, "-o", tmp_path / "a[/b]").stdout


def test_a_run_in_use_is_refused(finished, sluice):
    import fcntl

    recipe, run, _ = finished
    with (run / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        failed = sluice("run", recipe, "--output", run, check=False)
    assert failed.returncode == 2 and "another run" in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing.yaml"], "cannot read"),
        (["run", "tiny.yaml", "--set", "filtr.x=1"], "filtr"),
        (["run", "tiny.yaml", "--set", "sources.0.path=/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "tiny.yaml", "--set", "sources.0.path=empty"], "no file"),
        (["run", "tiny.yaml", "--output", "tiny.yaml"], "tiny.yaml"),
        (["run", "tiny.yaml", "--", "--no_such_option=1"], "--no_such_option"),
        (["dedup", "nowhere", "--output", "out"], "nowhere"),
        (["filter", "empty"], "--output"),
        (["mix", "documents", "--output", "out"], "pretrain"),
        (["decontaminate", "documents", "--benchmarks", "none.jsonl", "--output", "out"], "none.jsonl"),
        (["decontaminate", "documents", "--benchmarks", "fields.jsonl", "--output", "out"], "no item has any"),
        (["tokenize", "documents", "--tokenizer", "none", "--output", "out"], "none"),
        (["status", "empty"], "empty"),
        (["show", "nowhere"], "nowhere"),
        (["generate", "x", "--model", "empty"], "empty"),
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_2(tmp_path, sluice, arguments, words):
    write_recipe(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("A short text.")
    (tmp_path / "fields.jsonl").write_text('{"no_such_field": "a question"}')
    failed = sluice(*arguments, cwd=tmp_path, check=False)
    assert failed.returncode == 2, failed.stderr
    assert words in failed.stderr and len(failed.stderr.strip().splitlines()) == 1
    assert failed.stderr.startswith("sluice: ")
    assert not (tmp_path / "out" / "extract").exists()


def test_data_stages_on_an_object_store_write_the_same_bytes(finished):
    """fsspec's in-memory store stands in for an object store; it lives in this process, and so does the run."""
    import hashlib

    import fsspec

    from schemas.recipe import load_recipe
    from sluice.road import ROAD as STAGES
    from sluice.run import run as run_stages

    recipe, run, _ = finished
    steps = run_stages(load_recipe(recipe), "memory://bucket/run", STAGES[:10])
    assert all(step.manifest is not None for step in steps)
    fs = fsspec.filesystem("memory")
    found = {path.removeprefix("/bucket/run/"): hashlib.sha256(fs.cat(path)).hexdigest() for path in fs.find("/bucket")}
    remote = {path: value for path, value in found.items() if path.split("/")[0] in ROAD[:10]}
    assert remote == {path: value for path, value in contents(run).items() if path.split("/")[0] in ROAD[:10]}


LABELS = {
    "ar": "arb_Arab", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn",
    "he": "heb_Hebr", "hi": "hin_Deva", "ja": "jpn_Jpan", "ko": "kor_Hang", "ru": "rus_Cyrl", "sw": "swh_Latn",
    "th": "tha_Thai", "tr": "tur_Latn", "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip


def rows_of(run, stage, folder, columns):
    from schemas.tables import read_table

    files = sorted((run / stage / folder).glob("*.parquet"))
    return [row for path in files for row in read_table(str(path), columns).to_pylist()]


def test_the_corpus_comes_out_as_it_was_written(finished):
    """What its authors put into the corpus is the oracle: the language in a file's name, the copies, the bait."""
    _, run, _ = finished
    documents = rows_of(run, "extract", "documents", ["document_id", "path"])
    labels = rows_of(run, "annotate", "language", ["document_id", "language"])
    filtered = rows_of(run, "filter", "decisions", ["document_id", "keep"])
    clusters = rows_of(run, "dedup", "decisions", ["document_id", "keep", "reasons", "cluster_id", "survivor_id"])
    assert [row["document_id"] for row in documents] == [row["document_id"] for row in labels]
    by_path = {
        document["path"].rsplit("/", 1)[-1]: (label["language"], kept["keep"], cluster)
        for document, label, kept, cluster in zip(documents, labels, filtered, clusters)
    }
    named = {name: LABELS[name.split(".")[1]] for name in by_path if name.count(".") == 2 and name != "note.en.txt"}
    assert len(named) >= 20 and len(set(named.values())) >= 12
    wrong = {name: by_path[name][0] for name, label in named.items() if by_path[name][0] != label}
    assert len(wrong) <= 1, wrong
    assert {name for name, (_, keep, _) in by_path.items() if not keep} >= {"note.en.txt", "shop.en.html"}
    for one, other, reason in (
        ("lighthouse.en.txt", "lighthouse-copy.en.txt", "exact_duplicate"),
        ("bicycle-tyre.en.md", "bicycle-tyre-mirror.en.txt", "near_duplicate"),
    ):
        pair = [by_path[one][2], by_path[other][2]]
        assert pair[0]["cluster_id"] == pair[1]["cluster_id"]
        assert sorted(row["keep"] for row in pair) == [False, True]
        assert next(row for row in pair if not row["keep"])["reasons"] == [reason]
    rejects = rows_of(run, "extract", "rejects", ["path", "error"])
    assert [row["error"] for row in rejects if row["path"].endswith("scan.en.pdf")] == ["needs_ocr"]


def test_no_file_and_no_cluster_is_on_both_sides_of_the_split(finished):
    _, run, _ = finished
    documents = rows_of(run, "extract", "documents", ["path", "source"])
    splits = rows_of(run, "split", "split", ["split"])
    clusters = rows_of(run, "dedup", "decisions", ["cluster_id"])
    sides = {}
    for document, split, cluster in zip(documents, splits, clusters):
        if split["split"] != "dropped" and not document["path"].endswith((".jsonl", ".parquet")):
            for key in ((document["source"], document["path"]), cluster["cluster_id"]):
                assert sides.setdefault(key, split["split"]) == split["split"]
    assert set(sides.values()) == {"train", "validation"}


def test_a_model_with_experts_goes_the_whole_road(copy, sluice):
    from transformers import AutoModelForCausalLM

    recipe, run = copy
    before = len(stages_that_ran(run))
    fields = {"intermediate_size": 32, "experts": 8, "experts_per_token": 2}
    settings = [word for key, value in fields.items() for word in ("--set", f"pretrain.model.{key}={value}")]
    sluice("run", recipe, "--output", run, *settings, "--set", "pretrain.activation_checkpointing=selective")
    assert stages_that_ran(run, before) == ROAD[10:]
    lines = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines[-1]["expert_load"]) == 2 and len(lines[-1]["expert_load"][0]) == 8
    first = [line["loss"] for line in lines[1:] if line["stage"] == lines[1]["stage"]]  # later ones have other text
    assert first[-1] < first[0]
    assert "Load of the experts" in (run / "report.html").read_text()
    model = AutoModelForCausalLM.from_pretrained(run / "export" / "model")
    assert (model.config.num_experts, model.config.num_experts_per_tok, model.config.norm_topk_prob) == (8, 2, True)
    said = sluice("generate", "The ", "--model", run, "--tokens", "5", "--temperature", "0").stdout
    assert said.startswith("The ")
