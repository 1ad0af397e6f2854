"""Dedup on other runners, and when something breaks under it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms import environments

from pipelines.dedup.repeats_stage import write_repeats
from pipelines.dedup.stage import Places, decide, find_pairs, run, star_round
from pipelines.runner import Task
from schemas.errors import DataError
from schemas.job import Job
from schemas.recipe import check_recipe
from tests.pipelines.test_dedup import corpus, file_bytes, prose

REPEATS = {"lines": 1, "paragraphs": 1, "substrings": "cut", "substring_words": 10}
SETTINGS = {"dedup": {"verify": 0.5, "index": True, "component_memory": 0, **REPEATS}}


def free_port() -> int:
    with closing(socket.socket()) as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(module: str, option: str) -> Iterator[int]:
    """A server of Beam's in a process of its own; answers with its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, f"--{option}={port}"],
        env={**os.environ, "PYTHONSAFEPATH": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_the_portable_runner_writes_the_same_bytes(make_job: Callable[..., Job]) -> None:
    here = make_job(corpus(), SETTINGS)
    with (
        served("apache_beam.runners.portability.local_job_service_main", "port") as jobs,
        served("apache_beam.runners.worker.worker_pool_main", "service_port") as workers,
    ):
        there = make_job(
            corpus(),
            SETTINGS,
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{workers}",
        )
        assert run(there) == run(here)
    assert file_bytes(there) == file_bytes(here)


def test_the_translation_for_containers_knows_no_local_path(tmp_path: Path) -> None:
    sections = {"name": "cloud", "sources": [{"name": "a", "path": "gs://bucket/in"}], "dedup": REPEATS}
    recipe = check_recipe(sections, tmp_path)
    tasks = [Task(0, "gs://bucket/run/extract/documents/00000.parquet", "gs://bucket/run/unfinished/dedup")]
    places = Places("gs://bucket/run/unfinished/dedup", True, 1, ())
    files = ["gs://bucket/run/unfinished/dedup/work/found/00000.bin"]
    image = "europe-docker.pkg.dev/project/sluice:1"
    for build in (
        lambda pipeline: find_pairs(pipeline, recipe, tasks, places, 4),
        lambda pipeline: star_round(pipeline, files, places.output, "round1", 4),
        lambda pipeline: decide(pipeline, recipe.dedup, tasks, places, files, False, 4),
        lambda pipeline: write_repeats(pipeline, recipe.dedup, tasks, 4),
    ):
        pipeline = beam.Pipeline(options=PipelineOptions([f"--sdk_container_image={image}"]))
        build(pipeline)
        container = environments.DockerEnvironment(container_image=image)
        proto = pipeline.to_runner_api(default_environment=container)
        data = proto.SerializeToString()
        for local in (str(tmp_path), str(Path.cwd()), f"{Path.home()}/", sys.prefix):
            assert local.encode() not in data
        used = {transform.environment_id for transform in proto.components.transforms.values()} - {""}
        kinds = {proto.components.environments[name].urn for name in used}
        assert kinds == {
            beam_runner_api_pb2.StandardEnvironments.Environments.DESCRIPTOR.values_by_name["DOCKER"]
            .GetOptions()
            .Extensions[beam_runner_api_pb2.beam_urn]
        }
        hints = {
            transform.unique_name: dict(proto.components.environments[transform.environment_id].resource_hints)
            for transform in proto.components.transforms.values()
            if transform.environment_id
        }
        for name, found in hints.items():
            if name.rpartition("/")[2] in (
                "Find edges",
                "Unique edges",
                "Find components",
                "Find repeated",
                "Write cuts",
            ):
                (memory,) = found.values()
                assert int(memory) >= 2 << 30


def test_an_unreadable_shard_is_named(make_job: Callable[..., Job]) -> None:
    job = make_job(corpus(), {})
    path = Path(job.document_shards()[1])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"^\S*documents/00001\.parquet: cannot be read: "):
        run(job)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A file system of `size` bytes at a folder; answers with what makes it larger."""

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0

    if not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        pytest.skip("only root mounts a file system")

    def enlarge(size: int) -> None:
        assert mount("-o", f"remount,size={size}")

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_run_that_filled_the_disk_goes_on_when_there_is_room(make_job: Callable[..., Job]) -> None:
    settings = {"dedup": {"verify": 0.5}}
    whole, small = make_job(corpus(), settings), make_job(corpus(), settings)
    expected = run(whole)
    with small_disk(Path(small.output), 16 << 10) as enlarge:
        with pytest.raises(DataError, match="No space left on device"):
            run(small)
        enlarge(64 << 20)
        assert run(small) == expected
        assert file_bytes(small) == file_bytes(whole)


@pytest.mark.slow
def test_a_worker_that_dies_does_not_hang_the_run(make_job: Callable[..., Job]) -> None:
    """Beam's local workers are not started again; the run ends, and the next one writes the same bytes."""
    shards = [[{"text": prose(seed, 800), "path": f"{shard}/{seed}"} for seed in range(700)] for shard in range(6)]
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    job, whole = make_job(shards, {}, *workers), make_job(shards, {})
    expected = run(whole)
    killed: list[int] = []

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children(recursive=True) if Path(job.output, "work").exists() else []:
                with contextlib.suppress(psutil.Error):
                    if "apache_beam.runners.worker.sdk_worker_main" in child.cmdline():
                        child.kill()
                        killed.append(child.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    with pytest.raises(DataError, match="a worker process was ended from outside"):
        run(job)
    thread.join()
    assert killed
    assert run(job) == expected
    assert file_bytes(job) == file_bytes(whole)
