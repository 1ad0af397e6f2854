"""`sluice plan` and `sluice pretrain --dry-run` against published numbers and sums made by hand."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from schemas.errors import ConfigError
from schemas.manifest import read_manifest, write_manifest
from schemas.recipe import check_recipe, load_recipe
from sluice import plan
from sluice.plan import model_plan, plan_model, plan_training
from tests.sluice import made_runs
from trainer.schedule import learning_rate, spans, tokens_at

EXAMPLES = Path(__file__).parents[2] / "examples"

# Parameters of the published checkpoints: in all, without embedding and head, and active in a token.
PUBLISHED = {
    "qwen3-0.6b": (596_049_920, 440_467_456, 596_049_920),
    "qwen3-1.7b": (1_720_574_976, 1_409_410_048, 1_720_574_976),
    "qwen3-4b": (4_022_468_096, 3_633_511_936, 4_022_468_096),
    "qwen3-8b": (8_190_735_360, 6_946_075_648, 8_190_735_360),
    "qwen3-14b": (14_768_307_200, 13_212_482_560, 14_768_307_200),
    "qwen3-32b": (32_762_123_264, 31_206_298_624, 32_762_123_264),
    "qwen3-30b-a3b": (30_532_122_624, 29_909_792_768, 3_353_032_704),
    "qwen3-235b-a22b": (235_093_634_560, 233_848_974_848, 22_190_763_520),
}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=out, highlight=False, soft_wrap=True, width=40))
    return out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str, printed: io.StringIO) -> None:
    found = model_plan(name)
    total, body, active = PUBLISHED[name]
    assert found["parameters"] == {"total": total, "non_embedding": body, "active": active}
    assert found["vocabulary"] == {"tokens": 151_669, "rows": 151_936}
    assert found["memory"]["state"] == 16 * total and found["memory"]["copies"] == 2 * body
    assert set(found["flops_per_token"]) == {"4096", "32768"}
    plan_model(name.upper(), as_json=False)
    for number in (total, body, active):
        assert f" {number:,}\n" in printed.getvalue()


def test_the_command_prints_json_and_knows_its_models(sluice) -> None:
    found = json.loads(sluice("plan", "qwen3-8b", "--json").stdout)
    assert (found["layers"], found["heads"], found["kv_heads"], found["head_dim"]) == (36, 32, 8, 128)
    failed = sluice("plan", "qwen3-9b", check=False)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert all(name in failed.stderr for name in PUBLISHED)


def test_a_recipe_has_its_own_lengths_and_vocabulary() -> None:
    found = model_plan(str(EXAMPLES / "quickstart.yaml"))
    assert found["vocabulary"] == {"tokens": 4096, "rows": 4096}
    assert set(found["flops_per_token"]) == {"256", "2048"}
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        model_plan("absent.yaml")


def test_planning_needs_no_torch() -> None:
    code = "import sys, sluice.plan, sluice.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------------------
# --dry-run


def test_the_three_stages_of_the_report(sluice, tmp_path: Path) -> None:
    """The example in full: its sources are not there, and nothing is read or written."""
    recipe = EXAMPLES / "qwen3_0.6b.yaml"
    text = sluice("pretrain", recipe, "--dry-run", cwd=tmp_path).stdout
    assert not list(tmp_path.iterdir())
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line and not line.startswith(" ")}
    assert "596 M parameters, 440 M without the embeddings" in text
    assert lines["s3-long"] == ["s3-long", "0.00015", "0.0002", "0", "warm-up", "2", "%,", "linear", "98", "%"]
    assert "256 … 2,048" in text and "1,000,000" in text
    # 5 trillion tokens in batches of 2,048 x 4,096
    assert f"{3_646_491 + 5_000_000_000_000 // (2048 * 4096):,}" in text

    settings = load_recipe(recipe).pretrain
    assert settings is not None
    s1, s2, s3 = plan_ = spans(settings)
    assert s1.tokens >= 0.999999 * 30e12 and s3.stage.rope_base == 1e6
    warmed = s1.batches.step_of(int(s1.sequences * s1.stage.learning_rate.warmup)) + 1
    slow = (s1.peak - s1.final) / (s1.tokens - tokens_at(plan_, warmed))
    assert (s2.start - s2.final) / s2.tokens > 2 * slow
    assert learning_rate(plan_, s2.begin) == s2.start == s1.final


def test_the_sums_of_a_dry_run(printed: io.StringIO, tmp_path: Path) -> None:
    recipe = check_recipe(made_runs.RECIPE, tmp_path)
    assert recipe.pretrain is not None
    settings = recipe.pretrain.model_copy(update={"activation_checkpointing": "full", "device": "cpu"})
    plan_training(recipe.model_copy(update={"pretrain": settings}), str(tmp_path))
    text = printed.getvalue()
    rows, counted = plan.vocabulary_rows(recipe, str(tmp_path))
    config = plan.model_config(settings, rows)
    assert not counted and rows == 151_936
    model, repeated = plan.training_flops(settings, config)
    assert f"FLOPs       {model:.4g}" in text and f"{repeated:.4g} more" in text
    assert "in float32, on a CPU" in text and "bf16" not in text


def test_a_run_says_its_vocabulary(printed: io.StringIO, tmp_path: Path) -> None:
    folder = made_runs.make_run(tmp_path)
    manifest = read_manifest(str(folder / "tokenize"))
    assert manifest is not None
    extra = {**manifest.extra, "padded_vocabulary_size": 640}
    write_manifest(str(folder / "tokenize"), manifest.model_copy(update={"extra": extra}))
    plan_training(made_runs.recipe(), str(folder))
    assert "640 rows, of the tokenized documents" in printed.getvalue()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pretrain.stages.s2-reasoning.learning_rate.peak=1", "would jump"),
        ("pretrain.stages.0.batch_ramp={start: 3, share: 0.1}", "must be a multiple of batch_ramp.start (3)"),
    ],
)
def test_impossible_settings_stop_with_one_line(sluice, setting: str, message: str) -> None:
    failed = sluice("pretrain", EXAMPLES / "quickstart.yaml", "--dry-run", "--set", setting, check=False)
    assert failed.returncode == 2 and message in failed.stderr and failed.stderr.count("\n") == 1
    assert not failed.stdout
