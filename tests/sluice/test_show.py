"""What `sluice show`, `status` and `recipe explain` print, against runs with known states."""

import fcntl
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from schemas.errors import ConfigError, DataError
from schemas.manifest import read_manifest, write_manifest
from schemas.recipe import check_recipe
from schemas.tables import write_table
from sluice import show
from sluice.run import inspect
from sluice.show import explain, format_value, plan_run, show_dataset, show_status, states
from sluice.summary import require_run
from tests.sluice import made_pages, made_runs
from trainer.model.sizes import model_config


@pytest.fixture
def printed(monkeypatch):
    """What is printed while the test runs, as a terminal of any width would get it."""
    out = io.StringIO()
    monkeypatch.setattr(show, "console", Console(file=out, highlight=False, soft_wrap=True, width=40))
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run"))


# ---------------------------------------------------------------------------------------------------------------
# show


def test_a_dataset_shows_counts_reasons_schema_and_rows(run, printed):
    show_dataset(str(run / "filter"), 2)
    text = printed.getvalue()
    manifest = read_manifest(str(run / "filter"))
    assert manifest.key in text and manifest.inputs["annotate"] in text
    assert "words.min" in text and "dropped     24" in text
    assert "list<element: string>" in text and "row 1" in text and "row 2" not in text


def test_labels_show_their_descriptions(run, printed):
    show_dataset(str(run / "annotate"), 0)
    text = printed.getvalue()
    assert "Unicode code points of the text." in text and "row 0" not in text


def test_texts_and_ids_and_tokens_are_readable_and_harmless(run, printed):
    show_dataset(str(run / "extract" / "documents" / "00000.parquet"), 1)
    show_dataset(str(run / "tokenize" / "tokens" / "00000.arrow"), 1)
    text = printed.getvalue()
    assert "\\x1b[31mred" in text and "⏎line" in text and "[bold]rich[/bold]" in text
    assert "\x1b" not in text and "\u202e" not in text
    assert made_runs._keys(1, 0)["document_id"][0].hex() in text
    assert "[0, 1, 2, 3, 4, 5, 6, 7, …] (49 values)" in text


def test_pages_and_repairs_are_readable(tmp_path, printed):
    show_dataset(str(made_pages.make_extraction(tmp_path) / "extract"), 1)
    lines = printed.getvalue().splitlines()
    assert "pages · 2 files · 56 rows" in " ".join(lines) and "  confidence   0.3" in lines
    assert "  route        ocr" in lines and "  error        null" in lines
    assert any(line.startswith("  before       Teh first word of chunk 0 is wrong") for line in lines)


def test_long_values_are_cut():
    assert format_value("x" * 500) == "x" * 200 + "…"
    assert format_value(bytes(40)) == "00" * 32 + "… (40 bytes)"
    assert format_value({"a": [1.25, None, {"b": "\x07"}]}) == "{a: [1.25, null, {b: \\x07}]}"
    assert format_value(pa.scalar(list(range(10_000)))).endswith("(10,000 values)")
    nested: list = []
    for _ in range(900):
        nested = [nested]
    assert len(format_value(nested)) < 50


def test_json_lines_of_any_kind(tmp_path, printed):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "\\u001b[2J", "b": [1, 2]}\nnot json \x1b\n[1]\n' + b'{"long": "' + b"y" * (3 << 20))
    show_dataset(str(path), 9)
    text = printed.getvalue()
    assert "\\x1b[2J" in text and "not json \\x1b" in text and "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) < 400


def test_an_empty_table_and_column_names_from_users(tmp_path, printed):
    write_table(str(tmp_path), "x.parquet", pa.table({"a\x1b[0m\nb": pa.array([], pa.int64())}))
    show_dataset(str(tmp_path / "x.parquet"), 5)
    assert "0 rows" in printed.getvalue() and "a\\x1b[0m⏎b" in printed.getvalue()


def test_what_cannot_be_shown_says_why(run, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        show_dataset(str(tmp_path / "absent"), 1)
    with pytest.raises(ConfigError, match=r"is a run; name one of its datasets, for example .*/extract"):
        show_dataset(str(run), 1)
    with pytest.raises(ConfigError, match="is no dataset"):
        show_dataset(str(tmp_path), 1)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        show_dataset(str(tmp_path / "x.parquet"), 1)


# ---------------------------------------------------------------------------------------------------------------
# status


def test_states_of_a_run(run, tmp_path):
    assert {state.state for state in states(str(run), require_run(str(run)), made_runs.recipe())} == {"done"}
    folder = shutil.copytree(run, tmp_path / "run")
    manifest = read_manifest(str(folder / "split"))
    write_manifest(str(folder / "split"), manifest.model_copy(update={"extra": {"changed": 1}}))
    shutil.rmtree(folder / "export")
    shutil.rmtree(folder / "mix")
    (folder / "unfinished" / "mix").mkdir(parents=True)
    (folder / "unfinished" / "mix" / "key").write_text("k")
    found = {state.stage: (state.state, state.why) for state in states(str(folder), require_run(str(folder)), None)}
    assert found["split"] == ("done", "")
    assert found["tokenize"] == ("stale", "split has changed since")
    assert found["pack"] == ("stale", "tokenize is stale")
    assert found["mix"][0] == "unfinished" and found["export"][0] == "missing"


def test_a_recipe_that_was_changed_makes_its_stage_stale(run):
    changed = made_runs.recipe(split={"validation": 0.1})
    found = {state.stage: (state.state, state.why) for state in states(str(run), require_run(str(run)), changed)}
    assert found["split"] == ("stale", "recipe.yaml says otherwise: validation 0.005 → 0.1")
    assert found["tokenize"] == ("stale", "split is stale")
    assert found["decontaminate"] == ("done", "")


def test_status_tells_of_a_training_under_way(run, tmp_path, printed):
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.move(folder / "pretrain", folder / "unfinished" / "pretrain")
    training = folder / "unfinished" / "pretrain"
    (training / "manifest.json").unlink()
    (training / "key").write_text("k")
    (training / "metrics.jsonl").write_text(made_runs.metrics(20) + '{"cut')
    (training / "checkpoints" / "step-0000016").mkdir()
    (training / "checkpoints" / "step-0000016" / "manifest.json").write_text("{}")
    show_status(str(folder))
    text = printed.getvalue()
    assert "pretrain was interrupted" in text and "at step 20, 5,120 tokens, s2, loss 3.257" in text
    assert "checkpoints: step-0000016\n" in text  # that of step 24 has no manifest: it is not whole
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        show_status(str(folder))
    assert "pretrain is running now" in printed.getvalue()


@pytest.mark.parametrize(("width", "dated"), [(80, False), (120, True)])
def test_status_fits_the_screen(width, dated, run, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(show, "console", Console(file=out, width=width, soft_wrap=True))
    show_status(str(run))
    lines = out.getvalue().splitlines()[1:]
    assert max(map(len, lines)) <= width
    assert ("started (UTC)" in lines[0], "2026-01-02 03:00" in lines[1]) == (dated, dated)
    contents = lines[0].index("contents")
    assert all(line[contents - 1] == " " and line[contents] != " " for line in lines)
    assert lines[1].endswith("documents 120, files 2, rejects 2") and lines[7].endswith("1 file, 2 B")


def test_what_does_not_fit_is_left_out_count_by_count():
    note = "documents 715, dropped 29, kept 593"
    assert show._fitting(note, 35) == note
    assert show._fitting(note, 34) == "documents 715, dropped 29, …"
    assert show._fitting(note, 20) == "documents 715, …"
    assert show._fitting(note, 3) == "documents 715"


def test_status_of_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        show_status(str(tmp_path))


def test_status_without_a_readable_recipe(run, tmp_path, printed):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "recipe.yaml").write_text("name: [")
    show_status(str(folder))
    assert printed.getvalue().count("done") == 13


# ---------------------------------------------------------------------------------------------------------------
# explain


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("word " * 1000)

    def recipe(**changes):
        value = made_runs.RECIPE | {"sources": [{"name": "web", "path": str(tmp_path / "docs")}]} | changes
        return check_recipe(value, tmp_path)

    return recipe


def finish(recipe, folder: Path, until: str) -> None:
    """Empty datasets with the keys that the recipe gives the first stages, up to `until`."""
    done: dict[str, str] = {}
    for stage in show.stages_of(recipe):
        step = inspect(recipe, str(folder), stage, done)
        manifest = show.Manifest(
            stage=stage.name,
            version=stage.version,
            key=step.key,
            config=json.loads(json.dumps(stage.config(recipe))),
            inputs=step.hashes,
            files=[],
        )
        write_manifest(step.folder, manifest)
        done[stage.name] = step.folder
        if stage.name == until:
            return


def test_what_will_run_and_why(sources, tmp_path):
    folder = tmp_path / "run"
    assert [planned.why for planned in plan_run(sources(), str(folder))[:2]] == ["has not run yet", "after extract"]
    finish(sources(), folder, "tokenize")
    plan = {planned.stage.name: planned for planned in plan_run(sources(), str(folder))}
    assert [name for name, planned in plan.items() if planned.runs] == ["mix", "pack", "pretrain", "evaluate", "export"]

    changed = sources(filter={"language_score": 0.5, "languages": ["eng_Latn"]})
    plan = {planned.stage.name: planned for planned in plan_run(changed, str(folder))}
    assert plan["filter"].why == 'language_score absent → 0.5; languages absent → ["eng_Latn"]'
    assert not plan["annotate"].runs and plan["dedup"].why == "after filter"

    (tmp_path / "docs" / "b.txt").write_text("more")
    plan = {planned.stage.name: planned for planned in plan_run(sources(), str(folder))}
    assert plan["extract"].why == "changed input: source:web" and all(planned.runs for planned in plan.values())


def test_an_empty_list_is_not_the_same_as_another_stage_of_training():
    old, new = made_runs.RECIPE["pretrain"]["stages"], made_runs.RECIPE["pretrain"]["stages"][:1]
    assert show._changed({"stages": old}, {"stages": new}) == [
        f"stages.s2 {show._value(old[1])} → absent",
    ]
    changed = [{**old[0], "tokens": 8192}, old[1]]
    assert show._changed({"stages": old}, {"stages": changed}) == ["stages.s1.tokens 4096 → 8192"]


def test_estimates(sources, tmp_path):
    recipe = sources()
    folder = tmp_path / "run"
    assert show.estimate_tokens(recipe, str(folder), plan_run(recipe, str(folder))) == (1250, False)
    finish(recipe, folder, "pretrain")
    manifest = read_manifest(str(folder / "pretrain"))
    extra = {"model": asdict(model_config(recipe.pretrain, 151_936))}
    write_manifest(str(folder / "pretrain"), manifest.model_copy(update={"extra": extra}))
    (folder / "run.json").write_text(
        json.dumps({"executions": [{"stage": "pretrain", "key": manifest.key, "seconds": 100.0}]})
    )
    stages = [{**stage, "tokens": 3 * stage["tokens"]} for stage in made_runs.RECIPE["pretrain"]["stages"]]
    longer = sources(pretrain={**made_runs.RECIPE["pretrain"], "stages": stages})
    found = show.estimate_seconds(show.STAGES["pretrain"], longer, str(folder), 0)
    assert found == pytest.approx(300.0)  # three times the tokens of the execution that took 100 s


def test_explain_prints_a_plan_and_writes_nothing(sources, tmp_path, printed):
    explain(sources(), str(tmp_path / "run"))
    text = printed.getvalue()
    assert not (tmp_path / "run").exists()
    assert "estimated: bytes of the sources / 4" in text and text.count("will run") == 13
    assert "s1  16 steps  x 4 x 64  = 4,096 tokens" in text


def test_explain_names_a_source_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="docs"):
        explain(check_recipe(made_runs.RECIPE, tmp_path), str(tmp_path / "run"))
