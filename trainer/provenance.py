"""From a step of training to the documents that it reads, and from a document to its steps."""

from typing import Any

import numpy as np

from schemas.errors import ConfigError
from schemas.job import Job
from schemas.recipe import training_of
from trainer.schedule import span_at, spans
from trainer.shards import TokenShards
from trainer.stages import stage_feed


def read_in_step(job: Job, step: int) -> list[dict[str, Any]]:
    """What a step of the training reads, by the step's number in metrics.jsonl: one entry a segment.

    An entry has `sequence` (its row of the batch), `begin` and `length` in positions of the document, and what
    `TokenShards.describe` says.

    Raises:
        ConfigError: there is no such step; step 0 reads nothing.
    """
    plan = spans(training_of(job.recipe))
    if not 1 <= step <= plan[-1].end:
        raise ConfigError(f"step {step}: the training has steps 1 to {plan[-1].end}")
    span = span_at(plan, step - 1)
    feed = stage_feed(job, span.stage, TokenShards(job, check=False))
    counts, segments = feed.sequences.segments(feed.rows(step - 1 - span.begin))
    return [
        {"sequence": line, "begin": begin, "length": length, **document}
        for line, (begin, length), document in zip(
            np.repeat(np.arange(len(counts)), counts).tolist(),
            segments[:, 2:].tolist(),
            feed.sequences.shards.describe(segments[:, :2]),
        )
    ]
