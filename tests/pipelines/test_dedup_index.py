"""New documents against those of earlier runs."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dedup.index import find_index
from pipelines.dedup.stage import run
from schemas import paths
from schemas.documents import DEDUP_DECISIONS
from schemas.errors import ConfigError
from schemas.hashing import document_id
from schemas.job import Job, Output
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Dedup
from schemas.tables import read_table

VERIFIED = {"verify": 0.6, "bands": 20}


def prose(seed: int, words: int = 120) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(words))


def finish(job: Job, output: Output) -> str:
    """Make a dataset of what a stage wrote, as the runner of recipes does."""
    config = {**job.recipe.dedup.model_dump(), "seed": job.recipe.seed}
    manifest = Manifest(
        stage="dedup", version=2, key="", config=config, inputs={}, files=output.files, extra=output.extra
    )
    write_manifest(job.output, manifest)
    return job.output


def rows(job: Job, output: Output) -> dict[bytes, dict]:
    files = [entry.path for entry in output.files if entry.path.startswith("decisions/")]
    found = [row for file in files for row in read_table(f"{job.output}/{file}").to_pylist()]
    return {row["document_id"]: row for row in found}


def file_bytes(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*.*")}


def name(path: str) -> bytes:
    return document_id("test", path, "")


def run_all(make_job: Callable[..., Job], shards: list[list[dict]], dedup: dict) -> tuple[Job, Output]:
    job = make_job(shards, {"dedup": dedup})
    return job, run(job)


@pytest.mark.parametrize("settings", [VERIFIED, pytest.param({}, marks=pytest.mark.slow)])
def test_new_documents_give_way_to_old_ones(make_job: Callable[..., Job], settings: dict) -> None:
    old = [
        [{"text": prose(1), "path": "old/1"}, {"text": prose(1) + " tail", "path": "old/1 longer"}],
        [{"text": prose(2), "path": "old/2"}, {"text": prose(3), "path": "old/3"}],
    ]
    first, output = run_all(make_job, old, {**settings, "index": True})
    before = rows(first, output)
    assert before[name("old/1")]["survivor_id"] == name("old/1 longer")
    folder = finish(first, output)
    untouched = file_bytes(folder)

    new = [
        [
            {"text": prose(1), "path": "new/copy of the one that was dropped"},
            {"text": prose(2) + " and a longer tail", "path": "new/near 2"},
            {"text": prose(9), "path": "new/9"},
        ],
        [{"text": prose(2), "path": "new/copy of 2"}, {"text": prose(9) + " tail", "path": "new/9 longer"}],
    ]
    second, output = run_all(make_job, new, {**settings, "against": [folder], "index": True})
    after = rows(second, output)
    assert len(after) == 5
    copy = after[name("new/copy of the one that was dropped")]
    assert (copy["keep"], copy["survivor_id"]) == (False, name("old/1 longer"))
    assert copy["cluster_id"] == before[name("old/1")]["cluster_id"]
    assert copy["cluster_size"] == 3
    for path, reason in (("new/near 2", "near_duplicate"), ("new/copy of 2", "exact_duplicate")):
        row = after[name(path)]
        assert (row["keep"], row["reasons"], row["survivor_id"]) == (False, [reason], name("old/2"))
        assert row["cluster_size"] == 3
    assert after[name("new/9")]["survivor_id"] == name("new/9 longer")
    assert after[name("new/9 longer")]["keep"]
    assert output.counts == {"documents": 5, "kept": 1, "dropped": 4, "not_judged": 0}

    third, output = run_all(
        make_job,
        [[{"text": prose(9), "path": "third/9"}, {"text": prose(3), "path": "third/3"}]],
        {**settings, "against": [folder, finish(second, output)]},
    )
    last = rows(third, output)
    assert last[name("third/9")]["survivor_id"] == name("new/9 longer")
    assert last[name("third/3")]["survivor_id"] == name("old/3")
    assert [last[name(path)]["survivor_run"] for path in ("third/9", "third/3")] == [2, 1]
    assert {row["survivor_run"] for row in before.values()} == {None}
    assert file_bytes(folder) == untouched


def test_a_run_against_itself_keeps_nothing(make_job: Callable[..., Job]) -> None:
    shards = [[{"text": prose(seed, 30), "path": f"{shard}/{seed}"} for seed in range(40)] for shard in range(2)]
    first, output = run_all(make_job, shards, {"index": True})
    assert output.counts["kept"] == 40
    again = make_job(shards, {"dedup": {"against": [finish(first, output)]}})  # the same ids, too
    output = run(again)
    assert output.counts["kept"] == 0
    assert output.reasons["exact_duplicate"] == 80
    assert {row["survivor_id"] for row in rows(again, output).values()} == {
        row["survivor_id"] for row in rows(first, output).values()
    }


def test_an_index_holds_few_documents_of_a_full_bucket(make_job: Callable[..., Job]) -> None:
    shards = [[{"text": prose(1), "path": f"{shard}/{n}"} for n in range(50)] for shard in range(2)]
    job, output = run_all(make_job, shards, {"index": True})
    keys = [entry for entry in output.files if entry.path.startswith("index/keys/")]
    assert 0 < sum(entry.rows for entry in keys) <= 15 * 16
    for entry in output.files:
        path = Path(job.output, entry.path)
        assert (path.stat().st_size, paths.file_hash(str(path))) == (entry.bytes, entry.hash)
    assert {path.name for path in Path(job.output).iterdir()} == {"decisions", "index"}
    columns = read_table(f"{job.output}/decisions/00000.parquet").schema
    assert columns.equals(DEDUP_DECISIONS)


def test_runs_that_keep_languages_apart_are_not_compared_with_others(make_job: Callable[..., Job]) -> None:
    job, output = run_all(make_job, [[{"text": prose(1), "path": "1", "language": "eng_Latn"}]], {"index": True})
    folder = finish(job, output)
    with pytest.raises(ConfigError, match=r"has labels of languages and this run has none"):
        run_all(make_job, [[{"text": prose(1), "path": "2"}]], {"against": [folder]})


def test_only_runs_with_an_index_and_equal_settings_can_be_compared(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job, output = run_all(make_job, [[{"text": prose(1), "path": "1"}]], {"index": True})
    folder = finish(job, output)
    assert find_index(folder, Dedup(), 0)[0] == folder
    for settings, message in (
        ({"ngram": 4}, "was made with ngram 5, this run has 4"),
        ({"bands": 20}, "was made with bands 14, this run has 20"),
        ({"scope": "source"}, "was made with scope all, this run has source"),
        ({"verify": 0.7}, "was made without `verify`"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_index(folder, Dedup.model_validate(settings), 0)
    output.extra["index"]["format"] = 0
    finish(job, output)
    with pytest.raises(ConfigError, match="its index is of another version"):
        find_index(folder, Dedup(), 0)
    del output.extra["index"]
    finish(job, output)
    with pytest.raises(ConfigError, match=r"has no index; make it with `dedup\.index: true`"):
        find_index(folder, Dedup(), 0)
    with pytest.raises(ConfigError, match="holds no duplicates of a finished run"):
        find_index(str(tmp_path / "nothing"), Dedup(), 0)
