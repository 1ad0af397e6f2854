"""`sluice language`: training and judging the model of language identification."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import typer

from annotators.language import packaged
from annotators.language_model import load, save
from annotators.language_scores import Evaluation, evaluate
from annotators.language_train import read_lines, train
from schemas.errors import ConfigError
from schemas.languages import OTHER

CONFUSIONS = 30  # that are printed


def train_model(files: list[str], output: str, threads: int) -> None:
    """Train on labelled lines and write the model."""
    target = Path(output)
    if target.is_dir() or target.suffix != ".npz":
        raise ConfigError(f"--output {output}: give the name of a file that ends in .npz")
    lines = read_lines(map(Path, files))
    begun = time.perf_counter()
    model = train(lines, threads, lambda step: typer.echo(f"{time.perf_counter() - begun:6.0f} s  {step}", err=True))
    save(model, target)
    typer.echo(f"{target}: {len(model.labels)} labels, {len(model.groups)} groups, {target.stat().st_size:,} bytes")


def evaluate_model(name: str, files: list[str], as_json: bool) -> None:
    """Print how a model does on labelled lines."""
    model = packaged() if name == "packaged" else load(Path(name))
    found = evaluate(model, read_lines(map(Path, files)))
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False) if as_json else "\n".join(_report(found)))


def _report(found: Evaluation) -> list[str]:
    report = ["label       lines  precision  recall     F1"]
    report += [
        f"{one.label:<10} {one.lines:>6}     {one.precision:.4f}  {one.recall:.4f}  {one.f1:.4f}"
        for one in found.scores
    ]
    report += ["", "commonest confusions: label, label given instead, lines"]
    report += [f"{label:<10}  {given:<10} {count:>6}" for label, given, count in found.confusions[:CONFUSIONS]]
    for title, table in (("source", found.by_source), ("characters of a line", found.by_length)):
        report += ["", f"{title}: lines, accuracy"]
        report += [f"{name:<30} {lines:>7}  {accuracy:.4f}" for name, (lines, accuracy) in table.items()]
    accuracy = f"accuracy {found.accuracy:.4f}"
    if any(one.label != OTHER for one in found.scores):
        report += ["", f"macro-F1 {found.macro_f1:.4f} over the labels of the 119 that occur, {accuracy}"]
    else:
        none = "no label is one of the 119, such as eng_Latn (ISO 639-3 code and script): all count as other"
        report += ["", f"{accuracy}; {none}"]
    if found.accepted is not None:
        report.append(f"lines of none of the 119 that were given one of them: {found.accepted:.2%}")
    return report
