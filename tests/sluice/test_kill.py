"""`kill -9` at seeded moments in every stage, then the same command: the same bytes as without."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

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


@pytest.mark.slow
def test_dedup_killed_again_and_again_ends_with_the_same_bytes(tmp_path, sluice):
    """Five times in one run, each later than the one before, with everything that the stage can do."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(3000)]
    passage = " ".join(draw.choices(words, k=80)) + "."
    (tmp_path / "documents").mkdir()
    for shard in range(4):
        with (tmp_path / "documents" / f"{shard}.jsonl").open("w") as file:
            for number in range(1500):
                text = " ".join(random.Random(number % 1000).choices(words, k=90)) + f".\nline {number % 7}\n"
                text += f" {shard} tail" if number % 5 == 0 else ""
                text += passage if number % 300 == 7 else ""
                file.write(json.dumps({"text": text}) + "\n")
    settings = ("verify=0.65", "index=true", "component_memory=0", "lines=3", "substrings=cut")
    arguments = [
        "dedup",
        str(tmp_path / "documents"),
        *(part for one in settings for part in ("--set", f"dedup.{one}")),
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sluice(*arguments, "--output", whole)
    executions = json.loads((whole / "run.json").read_text())["executions"]
    seconds = next(one["seconds"] for one in executions if one["stage"] == "dedup")
    for part in range(1, 6):
        process = subprocess.Popen(
            [COMMAND, *arguments, "--output", str(killed)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (killed / "unfinished" / "dedup").exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds * part / 7)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "dedup").exists()
    sluice(*arguments, "--output", killed)
    assert contents(killed / "dedup") == contents(whole / "dedup")
