"""The benchmark for GPUs, as far as it goes without one: it says so, and its steps run on a CPU in small."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_train
from benchmarks.gpu_train import experts_table, loop_rows, steps
from trainer.model.sizes import ModelConfig

DENSE = ModelConfig(
    vocabulary_size=64, hidden_size=32, intermediate_size=64, layers=2, heads=4, kv_heads=2, head_dim=8,
    tied_embeddings=True,
)  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_skipped() -> None:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}  # others of these tests make the path of new processes a safe one
    command = [sys.executable, "-m", "benchmarks.gpu_train"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "skipped: no GPU\n"


@pytest.mark.parametrize("experts", [0, 4])
def test_its_steps_run_in_small(experts: int, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(DENSE, experts=experts, experts_per_token=2 if experts else 0)
    steps(config, 2, 64, torch.device("cpu"), 1, compiled=False)
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(",")[0] for row in rows] == ["sluice", "transformers", *["sluice"] * 3]
    first_losses = [float(row.split()[-1]) for row in rows]
    assert first_losses[0] == pytest.approx(first_losses[1], abs=2e-4)
    assert first_losses[2:] == [first_losses[2]] * 3


@pytest.mark.slow
def test_its_loop_runs_in_small(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_train, "SAVE_EVERY", 9)
    loop_rows(replace(DENSE, vocabulary_size=32_768), 2, 64, torch.device("cpu"), "none", compiled=False)
    assert capsys.readouterr().out.startswith("training loop, not compiled, recompute none: ")


def test_experts_agree_with_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    experts_table(replace(DENSE, intermediate_size=16, experts=8, experts_per_token=3), 101, torch.device("cpu"), 1)
    last = capsys.readouterr().out.splitlines()[-1]
    output, gradient = (float(word.split(" ")[-1]) for word in last.split(",")[-2:])
    assert max(output, gradient) < 0.03
