"""`kill -9` at seeded moments in every stage, then the same command: the same bytes as without."""

import json
import os
import random
import signal
import subprocess
import time

from tests.conftest import COMMAND
from tests.sluice.runs import contents, write_recipe
from tests.sluice.test_run import ROAD


def test_killed_in_every_stage_the_run_ends_with_the_same_bytes(tmp_path, sluice):
    recipe = write_recipe(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    sluice("run", recipe, "--output", whole)
    print(f"uninterrupted: {time.monotonic() - start:.1f} s")
    seconds = {one["stage"]: one["seconds"] for one in json.loads((whole / "run.json").read_text())["executions"]}
    moments = random.Random(7)
    for stage in [*ROAD[:10], "pretrain", "pretrain", "pretrain", *ROAD[11:]]:
        kill_in(recipe, killed, stage, moments.random() * seconds[stage] * 0.7)
    sluice("run", recipe, "--output", killed)
    assert contents(killed) == contents(whole)
    steps = [json.loads(line)["step"] for line in (killed / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and len(set(steps)) == len(steps)


def kill_in(recipe, run, stage, delay):
    """Start the run and kill it, with all its children, `delay` seconds into a stage; sooner if that was too late."""
    for attempt in range(6):
        process = subprocess.Popen(
            [COMMAND, "run", str(recipe), "--output", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not (run / "unfinished" / stage).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay / 2**attempt if attempt < 5 else 0)
        finished = (run / stage / "manifest.json").exists()
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors[-2000:]
        if not finished and not (run / stage / "manifest.json").exists():
            print(f"killed in {stage} after {delay / 2**attempt:.2f} s")
            return
        sweep(run, stage)
    raise AssertionError(f"{stage} was over before it could be killed")


def sweep(run, stage):
    """Forget a stage that was over too soon, so that it runs once more."""
    import shutil

    shutil.rmtree(run / stage)
