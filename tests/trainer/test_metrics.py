"""The lines of a training that goes on: those of the steps up to its checkpoint, whatever a kill left behind them."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.trainer.test_checkpoint import largest_file
from trainer import metrics


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 40), max_size=12).map(sorted),
    st.integers(-1, 41),
    st.binary(max_size=30),
    st.integers(1, 70),
)
def test_lines_of_later_steps_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int], last: int, tail: bytes, block: int
) -> None:
    lines = [json.dumps({"step": step, "text": "é" * (7 * step % 23)}).encode() + b"\n" for step in steps]
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"".join(lines) + tail.replace(b"\n", b""))
    monkeypatch.setattr(metrics, "BLOCK", block)
    metrics.drop_after(path, last)
    assert path.read_bytes() == b"".join(line for step, line in zip(steps, lines) if step <= last)


def test_a_full_disk_is_one_line_for_a_person_also_after_closing(tmp_path: Path) -> None:
    lines = metrics.Metrics(tmp_path, -1)
    message = r"metrics\.jsonl: cannot be written \(File too large\); start again"
    with largest_file(4000), pytest.raises(DataError, match=message), contextlib.closing(lines):
        for step in range(9):
            lines.write({"step": step, "text": "x" * 1000})  # a text is nothing for TensorBoard
    path = tmp_path / metrics.LINES
    metrics.drop_after(path, 8)
    assert [line["step"] for line in metrics.read(tmp_path)] == [0, 1, 2]
