"""Two ranks under torchrun against one: the same losses, one writer, a clean resume."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer import checkpoint, metrics
from trainer.stages import pretrain

WORKER = Path(__file__).with_name("pretrain_worker.py")
ROOT = Path(__file__).parents[2]


def torchrun(toy: Any, output: Path, ranks: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", str(WORKER), str(toy.root), str(output)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one(toy: Any) -> None:
    job = toy.job("one", micro_batch_tokens=64)
    pretrain(job)
    wanted = metrics.read(Path(job.output))
    output = toy.root / "two"
    torchrun(toy, output, 2)
    found = metrics.read(output)
    assert [line["step"] for line in found] == list(range(13))
    assert found[0]["validation_loss"] == pytest.approx(wanted[0]["validation_loss"], abs=1e-6)
    for line, other in list(zip(found, wanted))[1:5]:
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert line["labels"] == other["labels"]
    assert {name: cell[1] for name, cell in found[5]["cells"].items()} == {
        name: cell[1] for name, cell in wanted[5]["cells"].items()
    }

    # From a checkpoint that only rank 0 reads, both go on as before.
    (output / "checkpoints/step-0000012/model.safetensors").unlink()
    before = [line["loss"] for line in found[1:]]
    torchrun(toy, output, 2)
    assert [line["loss"] for line in metrics.read(output)[1:]] == before
    assert checkpoint.steps_in(output / "checkpoints") == [7, 9, 12]
