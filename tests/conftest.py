"""What every room's tests share: the shared data folder, and runs through the real command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
COMMAND = str(Path(sys.executable).with_name("sluice"))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side
hypothesis.settings.register_profile("untimed", deadline=None)  # the first example pays for tables that are made once
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED_DATA.is_dir():
        skip = pytest.mark.skip(reason="needs ../shared/data beside the checkout")
        for item in items:
            if "shared_data" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return SHARED_DATA


@pytest.fixture(scope="session")
def sluice() -> Callable[..., subprocess.CompletedProcess[str]]:
    """sluice("run", "recipe.yaml", cwd=..., check=True): the real command in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=300)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(map(str, arguments))} gave {done.returncode}:\n{out[-3000:]}\n{err[-3000:]}"
            )
        return done

    return call
