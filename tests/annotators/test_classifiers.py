"""The packaged models of domain, educational value and safety, on passages they were not trained on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from annotators import domain, educational, safety
from annotators.classifier import packaged_model
from annotators.train import (
    RECIPES,
    Examples,
    area_under_curve,
    class_figures,
    domain_examples,
    educational_examples,
    safety_examples,
)
from tests.annotators.documents import SHARED, documents, needs_shared_data


def test_area_under_curve_counts_ties_half() -> None:
    truth = np.array([True, True, False, False])
    assert area_under_curve(truth, np.array([0.9, 0.5, 0.5, 0.1])) == pytest.approx(3.5 / 4)


def test_class_figures() -> None:
    figures = class_figures(["a", "a", "b", "c"], ["a", "b", "b", "a"])
    assert figures == pytest.approx(
        {"accuracy": 0.5, "f1 a": 0.5, "f1 b": 2 / 3, "f1 c": 0, "macro_f1": (0.5 + 2 / 3) / 3}
    )


@pytest.mark.parametrize(
    ("path", "metadata", "text"),
    [
        ("src/main.rs", {}, "whatever it says"),
        ("Makefile", {}, "all:"),
        ("part-0.jsonl", {"file_path": "lib/x.go"}, "whatever"),
        ("part-0.jsonl", {"programming_language": "Ada"}, "whatever"),
        ("part-0.jsonl", {}, "import os\n\ndef f(x):\n    y = x[1]\n    return y\n\nprint(f(os.environ))\n"),
        ("", {}, "#include <stdio.h>\n\nint main(void) {\n  puts(text);\n  return 0;\n}\n"),
    ],
)
def test_source_code_is_recognised(path: str, metadata: dict[str, str], text: str) -> None:
    row = domain.annotate(documents([text], [path], [metadata])).to_pylist()[0]
    assert (row["domain"], row["domain_score"]) == ("code", 1.0)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("notes.txt", "import os\n\ndef f(x):\n    return x\n"),
        ("part-0.jsonl", "The bridge was closed for a week.\nNobody knew why; the mayor did.\nThen it opened.\n"),
        ("part-0.jsonl", "Return to sender.\nIf you can, call me: today.\nClass starts at ten.\n"),
    ],
)
def test_prose_is_not_source_code(path: str, text: str) -> None:
    assert domain.annotate(documents([text], [path]))["domain"][0].as_py() != "code"


def test_educational_bins_have_inclusive_lower_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([0, 0.999, 1, 1.999, 2, 2.999, 3, 5.0])
    monkeypatch.setattr(educational, "educational_scores", lambda texts: scores)
    labels = educational.annotate(documents(["text"] * len(scores)))
    assert labels["educational_bin"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_worst_window_decides() -> None:
    calm = "The library opens at nine, and the reading room is on the second floor beside the stairs. " * 40
    spam = "FREE!!! Click here NOW to claim your $$$ prize, limited offer, buy cheap viagra online! " * 8
    calm_score, mixed_score, spam_score = safety.annotate(documents([calm, calm[:1500] + spam, spam]))[
        "unsafe_score"
    ].to_pylist()
    assert calm_score < 0.5 < spam_score
    assert mixed_score > 0.5


def test_category_is_given_from_one_half_on() -> None:
    texts = ["Please find the minutes of the meeting below.", "You are a stupid bitch and I hate you all."]
    rows = safety.annotate(documents(texts)).to_pylist()
    assert rows[1]["unsafe_category"] in safety.CATEGORIES
    for row in rows:
        assert (row["unsafe_category"] is not None) == (row["unsafe_score"] >= 0.5)


@pytest.mark.shared_data
@needs_shared_data
@pytest.mark.parametrize(
    ("name", "examples", "figure", "floor"),
    [
        ("domain", domain_examples, "macro_f1", 0.75),
        ("educational", educational_examples, "auc over 200 characters", 0.95),
        ("safety", safety_examples, "auc", 0.85),
    ],
)
def test_figures_on_held_out_passages(
    name: str, examples: Callable[[Path], Examples], figure: str, floor: float
) -> None:
    everything = examples(SHARED)
    assert 0.1 < everything.held_out.mean() < 0.3
    held_out = everything.part(everything.held_out)
    figures = RECIPES[name].judge(packaged_model(name), held_out, RECIPES[name].form(held_out.texts))
    assert figures[figure] >= floor
