"""`sluice quality fit`, and a filter that goes by what it wrote."""

import json
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.manifest import read_manifest
from schemas.tables import read_table
from schemas.thresholds import read_thresholds
from sluice.commands import run_stage
from sluice.quality import fit_quality

ENGLISH = ["The harbour has a lamp and the keeper has a book of ships.", "Each boat that comes home is in the book."]
GERMAN = ["Der Hafenmeister beaufsichtigt die Schifffahrtsgesellschaft.", "Die Versicherung bezahlt Beschädigungen."]
TOO_LONG = "Donaudampfschifffahrtsgesellschaft Rindfleischetikettierungsgesetz Hafenmeister " * 20


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """40 English and 40 German sentences that differ in a number, one sentence without a label."""
    rows = [
        {"text": f"{text} It is {number}.", "lang": label}
        for number in range(20)
        for label, texts in (("eng_Latn", ENGLISH), ("deu_Latn", GERMAN))
        for text in texts
    ]
    path = tmp_path_factory.mktemp("reference") / "sentences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "Nobody knows what this is."}]))
    return path


def fit(source, output, label="lang") -> None:
    fit_quality(str(source), str(output), [], True, label, False, 30, None, (), (), ())


def run(stage, source, output, *settings) -> None:
    run_stage(stage, str(source), str(output), None, settings, (), ())


def test_thresholds_are_fitted_and_a_filter_goes_by_them(reference, tmp_path, sluice):
    fit(reference, tmp_path / "first.yaml")
    fitted = read_thresholds(str(tmp_path / "first.yaml"))
    german = fitted.languages["deu_Latn"]
    assert german.documents == 40 and 14 < german.bounds["mean_word_length"].max < 24
    assert "single sentences" in (tmp_path / "first.yaml").read_text()

    run("annotate", reference, tmp_path / "run", "annotate.labels=[language,quality]")
    fit(tmp_path / "run", tmp_path / "second.yaml")
    assert (tmp_path / "second.yaml").read_bytes() == (tmp_path / "first.yaml").read_bytes()
    with pytest.raises(ConfigError, match="no document has a field of this name"):
        fit(tmp_path / "run", tmp_path / "x.yaml", label="tongue")

    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "long.txt").write_text(TOO_LONG)
    (tmp_path / "documents" / "good.txt").write_text("\n".join(GERMAN * 20))
    rules = "language_score: 0, rules: {words: {min: 5}, duplicate_line_ratio: null}"
    settings = f"filter={{thresholds: {tmp_path}/second.yaml, {rules}}}"
    run("filter", tmp_path / "documents", tmp_path / "out", settings)
    decisions = read_table(str(tmp_path / "out" / "filter" / "decisions" / "00000.parquet"))
    places = read_table(str(tmp_path / "out" / "extract" / "documents" / "00000.parquet"))["path"].to_pylist()
    found = dict(zip(places, decisions["reasons"].to_pylist()))
    assert "mean_word_length.max" in found["long.txt"] and "mean_word_length.max" not in found["good.txt"]
    assert "duplicate_line_ratio.max" not in found["good.txt"] and "top_4gram_ratio.max" in found["long.txt"]
    assert read_manifest(str(tmp_path / "out" / "filter")).inputs["thresholds"] == fitted.hash

    (tmp_path / "second.yaml").write_text((tmp_path / "second.yaml").read_text().replace("  deu_Latn:", "  deu:"))
    wrong = ("--set", "filter.thresholds=second.yaml")  # relative to where the command runs
    failed = sluice("filter", "documents", *wrong, "-o", "out2", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "second.yaml: languages: unknown language 'deu'" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1 and not (tmp_path / "out2" / "extract").exists()


@pytest.mark.parametrize(
    ("method", "sentences", "told"),
    [
        ("words", False, "write COLUMN=METHOD"),
        ("words=median", False, "write COLUMN=METHOD"),
        ("characters=quantile", False, "no English bound of 'characters'"),
        ("words=quantile", True, "say nothing about 'words'"),
    ],
)
def test_wrong_methods_stop_before_any_work(method, sentences, told, tmp_path):
    output = str(tmp_path / "out.yaml")
    with pytest.raises(ConfigError, match=told):
        fit_quality(str(tmp_path), output, [method], sentences, None, False, 30, None, (), (), ())
    assert list(tmp_path.iterdir()) == []
