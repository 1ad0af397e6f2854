"""Drop rates by language and reason: counted again from the files of a made run."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from schemas.languages import LANGUAGES
from sluice import corpus, report, report_filter
from sluice.blocks import Shaded, language_name
from sluice.report_filter import filter_section
from tests.sluice import made_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run"), "filter")


@pytest.fixture(scope="module")
def section(run):
    manifests = report.require_run(str(run))
    return filter_section(str(run), manifests, corpus.read_documents(str(run), manifests))


def read(run, stage, part, columns):
    return pl.concat([pl.read_parquet(path, columns=columns) for path in sorted((run / stage / part).iterdir())])


def counted_again(run):
    """(language or source code, reason) -> documents; "" for all documents, "dropped" for those that have a reason."""
    languages = read(run, "annotate", "language", ["language"])["language"]
    domains = read(run, "annotate", "domain", ["domain"])["domain"]
    decisions = read(run, "filter", "decisions", ["keep", "reasons"])
    found = Counter()
    for label, domain, keep, reasons in zip(languages, domains, decisions["keep"], decisions["reasons"]):
        name = "source code" if domain == "code" else language_name(label)
        for row in (name, "all"):
            found[row, ""] += 1
            found[row, "dropped"] += not keep
            found.update((row, reason) for reason in reasons)
    return found


def test_counts_and_shares_are_those_of_the_decisions(run, section):
    table, expected = section.blocks[0], counted_again(run)
    assert table.head[:3] == ["language", "documents", "dropped"] and table.rows[0][0] == "all"
    assert {row[0] for row in table.rows} == {name for name, _ in expected}
    for name, documents, *cells in table.rows:
        assert documents == expected[name, ""]
        for reason, cell in zip(table.head[2:], cells):
            number = expected[name, reason]
            assert cell.count == (str(number) if number else "")
            assert cell.share == (f"{100 * number / documents:.1f} %" if number else "")
    sizes = [row[1] for row in table.rows[1:]]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == table.rows[0][1]


def test_a_darker_cell_is_a_larger_share():
    heats = [Shaded.of(part, 1000).heat for part in (0, 1, 10, 100, 1000)]
    assert heats == sorted(set(heats)) and heats[0] == 0 and heats[-1] < 100
    assert Shaded.of(0, 0) == Shaded("", "", 0)


def test_samples_say_what_was_judged_and_are_only_text(run, section):
    samples = section.blocks[1].groups
    assert set(samples) == {"words.min", "language_score.min"}
    words = read(run, "annotate", "quality", ["document_id", "words"])
    places = read(run, "extract", "documents", ["document_id", "source", "locator"])
    joined = places.join(words, "document_id")
    values = {(source, locator): number for _, source, locator, number in joined.iter_rows()}
    assert len(samples["words.min"]) == report_filter.SAMPLES_PER_REASON
    for sample in samples["words.min"]:
        source, _, locator, _, value = sample.where.split(" · ")
        assert value == f"words {values[source, locator]}"
        assert len(sample.text) <= 2 * report_filter.SAMPLE_CHARACTERS and "\x1b" not in sample.text
    page = Path(report.write_report(str(run))).read_text("utf-8")
    assert 'class="tall"' in page and "<script" not in page and "--heat: " in page


def test_the_smallest_languages_and_rarest_reasons_are_summed_up(monkeypatch):
    labels = list(LANGUAGES)[:6]
    rows = [(label, "kept", []) for number, label in enumerate(labels) for _ in range(10 - number)]
    rows += [(label, "filter", ["a", "b", "c"][: 1 + number % 3]) for number, label in enumerate(labels)]
    frame = pl.DataFrame(rows, schema=["judged_as", "outcome", "filter_reasons"], orient="row")
    whole = report_filter._table(frame, ["a", "b", "c"], "").rows
    monkeypatch.setattr(report_filter, "LANGUAGES_SHOWN", 3)
    monkeypatch.setattr(report_filter, "REASONS_SHOWN", 2)
    some = report_filter._table(frame, ["a", "b", "c"], "")
    assert some.head == ["language", "documents", "dropped", "a", "2 others"]
    assert [row[:4] for row in some.rows[:3]] == [row[:4] for row in whole[:3]]
    assert some.rows[3][:2] == ["4 others", sum(row[1] for row in whole[3:])]
    assert [row[4].count for row in some.rows] == ["4", "", "1", "3"]  # documents, not reasons


def test_there_is_no_section_before_the_filter_or_where_nothing_was_dropped(run, tmp_path):
    manifests = report.require_run(str(run))
    documents = corpus.read_documents(str(run), manifests)
    nothing = {**manifests, "filter": manifests["filter"].model_copy(update={"reasons": {}})}
    assert filter_section(str(run), nothing, documents) is None
    assert filter_section(str(run), {"extract": manifests["extract"]}, documents) is None
