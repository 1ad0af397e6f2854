"""The stage that labels: one sidecar per shard and annotator, whatever the recipe's list looks like."""

from dataclasses import replace
from pathlib import Path

import pytest

from annotators.table import annotator
from pipelines.annotate import stage
from schemas.labels import ANNOTATORS, check_sidecar
from schemas.tables import read_table

SHARDS = [
    [{"path": "a", "text": "The harbour froze over in January, and the boats stayed in until March."}],
    [{"path": "b", "text": "Die Fähre legt um acht Uhr ab."}, {"path": "c", "text": ""}],
]


@pytest.mark.parametrize("names", [["quality", "language"], ["language", "quality", "language", "quality"]])
def test_each_annotator_writes_one_sidecar_a_shard(make_job, names):
    job = make_job(SHARDS, {})
    annotate = job.recipe.annotate.model_copy(update={"labels": names})  # which checks nothing
    job = replace(job, recipe=job.recipe.model_copy(update={"annotate": annotate}))
    output = stage.run(job)
    assert [entry.path for entry in output.files] == [
        f"{name}/{shard:05d}.parquet" for name in ("language", "quality") for shard in (0, 1)
    ]
    assert output.counts == {"documents": 3}
    assert output.extra["annotators"] == {name: annotator(name).VERSION for name in ("language", "quality")}
    assert sum(output.extra["languages"].values()) == 3
    for entry in output.files:
        labels = read_table(f"{job.output}/{entry.path}")
        assert labels.schema.equals(ANNOTATORS[entry.path.split("/")[0]])
        check_sidecar(read_table(job.document_shards()[int(Path(entry.path).stem)]), labels)
        assert entry.rows == labels.num_rows


def test_labels_that_another_annotator_needs_are_made_and_not_written(make_job):
    job = make_job(SHARDS, {"annotate": {"labels": ["fluency"]}})
    output = stage.run(job)
    assert [entry.path for entry in output.files] == ["fluency/00000.parquet", "fluency/00001.parquet"]
    scores = [score for entry in output.files for score in read_table(f"{job.output}/{entry.path}")["fluency_score"]]
    assert [score.as_py() is None for score in scores] == [False, False, True]
    assert output.extra["languages"] == {}
