"""Every stage as a command of its own, on documents and on finished datasets."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from schemas.manifest import read_manifest
from schemas.tables import read_table
from tests.conftest import COMMAND
from tests.sluice.runs import RECIPE, contents, write_recipe

WORDS = (
    "harbour lamp keeper evening ship name book count tide rope stone stair glass oil night storm signal coast "
    "boat captain map wind north engine letter morning bread window field river bridge market teacher school "
    "number"
).split()


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """40 short English texts as JSON lines with other field names, one copied exactly and one that is too short."""
    draw = random.Random(5)
    texts = [
        " ".join(
            f"The {draw.choice(WORDS)} of the {draw.choice(WORDS)} is with the {draw.choice(WORDS)} and a "
            f"{draw.choice(WORDS)} that have been near the {draw.choice(WORDS)}."
            for _ in range(8)
        )
        for _ in range(38)
    ]
    texts += [texts[7], "This is far too short."]
    path = tmp_path_factory.mktemp("documents") / "texts.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{i}", "body": text}) + "\n" for i, text in enumerate(texts)))
    return path, texts


STRICT = "filter={thresholds: none, rules: {words: {min: 10}}}"
LENIENT = "filter={thresholds: none, rules: {words: {min: 1}}}"
MAPPING = ("--column", "text=body", "--column", "id=key")


def table(folder, stage, kind):
    return read_table(str(folder / stage / kind / "00000.parquet"))


def test_annotate_then_filter_goes_on_from_the_labels(documents, tmp_path, sluice):
    path, texts = documents
    sluice("annotate", path, *MAPPING, "--labels", "language,quality,safety,domain", "-o", tmp_path / "labelled")
    labels = table(tmp_path / "labelled", "annotate", "language")
    assert labels["id"].to_pylist() == [f"k{i}" for i in range(len(texts))]
    assert set(labels["language"].to_pylist()[:39]) == {"eng_Latn"}
    assert labels["annotator"][0].as_py().startswith("language/")
    shown = sluice("show", tmp_path / "labelled" / "annotate").stdout
    assert "language_score" in shown and "k0" in shown
    sluice("filter", tmp_path / "labelled", "--set", STRICT, "-o", tmp_path / "kept")
    assert not (tmp_path / "kept" / "annotate").exists()  # taken from the finished run
    decisions = table(tmp_path / "kept", "filter", "decisions").to_pylist()
    assert [row["id"] for row in decisions if not row["keep"]] == ["k39"]
    assert decisions[39]["reasons"] == ["words.min"]
    manifest = read_manifest(str(tmp_path / "kept" / "filter"))
    assert manifest.inputs["annotate"] == read_manifest(str(tmp_path / "labelled" / "annotate")).hash


def test_settings_that_differ_make_a_given_dataset_anew(documents, tmp_path, sluice):
    path, _ = documents
    sluice("filter", path, *MAPPING, "--set", STRICT, "-o", tmp_path / "a")
    done = sluice("dedup", tmp_path / "a", "--set", LENIENT, "-o", tmp_path / "b")
    assert "other settings" in done.stdout
    assert all(row["keep"] for row in table(tmp_path / "b", "filter", "decisions").to_pylist())
    assert not (tmp_path / "b" / "extract").exists()


def test_what_a_filter_dropped_is_not_tokenized(documents, tmp_path, sluice):
    path, _ = documents
    sluice("filter", path, *MAPPING, "--set", STRICT, "-o", tmp_path / "strict")
    for number, given in enumerate((tmp_path / "strict", tmp_path / "strict" / "filter")):
        out = tmp_path / f"out{number}"
        sluice("tokenizer", "train", given, "--vocabulary-size", 600, "-o", out / "tok")
        sluice("tokenize", given, "--tokenizer", out / "tok", "-o", out / "shards")
        manifest = read_manifest(str(out / "shards" / "tokenize"))
        assert manifest.counts["dropped"] == 1


def test_the_settings_of_a_recipe_are_read_as_a_run_reads_them(documents, tmp_path, sluice):
    path, _ = documents
    text = RECIPE.replace("tokens: 6144", "tokens: 6.144e3")
    assert text != RECIPE
    sluice("mix", path, *MAPPING, "--recipe", write_recipe(tmp_path, text=text), "-o", tmp_path / "out")
    plans = read_manifest(str(tmp_path / "out" / "mix")).config["plans"]
    assert plans[0]["tokens"] == 6144


def test_a_wrong_column_stops_with_its_likeliest_cause(documents, tmp_path, sluice):
    path, _ = documents
    failed = sluice("dedup", path, "-o", tmp_path / "out", check=False)
    assert failed.returncode == 1 and "no_text_column 40" in failed.stderr and "--column text=" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    failed = sluice("decontaminate", path, *MAPPING, "-o", tmp_path / "out", check=False)
    assert failed.returncode == 2 and "--benchmarks" in failed.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]])
def test_a_signal_ends_a_data_stage_in_one_line(tmp_path, number, options):
    recipe = write_recipe(tmp_path)
    process = subprocess.Popen(
        [COMMAND, "run", str(recipe), "-o", str(tmp_path / "run"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "run" / "unfinished").exists():
        time.sleep(0.01)
    time.sleep(0.8)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors.strip().splitlines()[-1] == "sluice: stopped; the same command goes on from here"
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # nobody is left in its process group
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def test_dedup_alone(documents, tmp_path, sluice):
    path, _ = documents
    sluice("dedup", path, *MAPPING, "-o", tmp_path / "out")
    decisions = table(tmp_path / "out", "dedup", "decisions").to_pylist()
    dropped = [row for row in decisions if not row["keep"]]
    assert len(dropped) == 1 and dropped[0]["reasons"] == ["exact_duplicate"]
    assert {row["id"] for row in decisions if row["cluster_size"] == 2} == {"k7", "k38"}


def test_decontaminate_alone(documents, tmp_path, sluice):
    path, texts = documents
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": texts[3].upper()}) + "\n")
    sluice("decontaminate", path, *MAPPING, "--benchmarks", bench, "-o", tmp_path / "out")
    dropped = [row for row in table(tmp_path / "out", "decontaminate", "decisions").to_pylist() if not row["keep"]]
    assert [(row["id"], row["benchmark"], row["overlap"]) for row in dropped] == [("k3", "bench", 1.0)]


def test_tokenizer_and_tokenize_alone(documents, tmp_path, sluice):
    from tokenizer.qwen import Tokenizer

    path, texts = documents
    sluice("tokenizer", "train", path, *MAPPING, "--vocabulary-size", 600, "-o", tmp_path / "tok")
    folder = tmp_path / "tok" / "tokenizer"
    sluice("tokenize", path, *MAPPING, "--tokenizer", folder, "-o", tmp_path / "shards")
    tokens = read_table(str(tmp_path / "shards" / "tokenize" / "tokens" / "00000.arrow"))
    tokenizer = Tokenizer.load(str(folder))
    assert tokens["id"].to_pylist() == [f"k{i}" for i in range(len(texts))]
    for ids, text in zip(tokens["tokens"].to_pylist(), texts):
        assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sluice):
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder)
    sluice("pretrain", recipe, "-o", folder / "run")
    return recipe, folder / "run"


def test_how_a_training_is_watched_may_change_without_training_again(trained, sluice):
    recipe, run = trained
    before = contents(run)
    settings = ("--set", "pretrain.validate_every=4", "--set", "pretrain.checkpoint_every=3")
    done = sluice("pretrain", recipe, "-o", run, *settings)
    assert "up to date" in done.stdout.splitlines()[-2]
    assert {k: v for k, v in contents(run).items() if k != "recipe.yaml"} == {
        k: v for k, v in before.items() if k != "recipe.yaml"
    }


def test_generate_from_a_run_a_checkpoint_and_an_export(trained, tmp_path, sluice):
    _, run = trained
    checkpoint = max((run / "pretrain" / "checkpoints").iterdir())
    sluice("export", run, "-o", tmp_path / "out")
    exported = tmp_path / "out" / "export" / "model"
    arguments = ("generate", "The ", "--tokens", 8, "--temperature", 0)
    outputs = {sluice(*arguments, "--model", model).stdout for model in (run, checkpoint, exported)}
    assert len(outputs) == 1 and outputs.pop().startswith("The ")


def test_two_ranks_train_the_model_of_one(trained, tmp_path, sluice):
    recipe, run = trained
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    early = subprocess.run(
        [*command, COMMAND, "pretrain", str(recipe), "-o", str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert early.returncode != 0 and "run the data stages" in early.stderr.replace("\n", " ")
    sluice("run", recipe, "-o", tmp_path / "run", "--until", "pack")
    subprocess.run(
        [*command, COMMAND, "pretrain", str(recipe), "-o", str(tmp_path / "run")],
        env=environment,
        check=True,
        capture_output=True,
    )
    losses = [
        [json.loads(line).get("loss") for line in (place / "pretrain" / "metrics.jsonl").read_text().splitlines()]
        for place in (run, tmp_path / "run")
    ]
    assert len(losses[0]) == len(losses[1]) > 10
    assert losses[0][1:] == pytest.approx(losses[1][1:], rel=1e-4)
