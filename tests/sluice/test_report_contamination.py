"""What the report says of benchmarks, of a run with items planted in it."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import report, report_contamination
from sluice.differences import common_words
from sluice.report_contamination import contamination_section, read_matches
from sluice.show import show_dataset
from sluice.summary import summarise, summary_lines
from tests.sluice.made_duplicates import benchmark_items


@pytest.fixture(scope="module")
def section(found):
    return contamination_section(str(found), report.require_run(str(found)))


def test_every_benchmark_is_counted(section):
    table = section.blocks[0]
    assert table.head == ["benchmark", "items", "compared", "found", "documents", "not compared"]
    assert [(row[0], row[1], row[2], row[3].count, row[4], row[5]) for row in table.rows] == [
        ("<b>asked", 4, 4, "2", 3, None),
        ("other", 3, 3, "", 0, "unreadable lines 1"),
    ]


def test_matches_stand_beside_their_items_with_the_common_words_marked(section):
    ratios, pairs = section.blocks[1:]
    assert ratios.note == "3 matches in 3 documents."
    (name, shown), items = next(iter(pairs.groups.items())), benchmark_items()
    assert name == "<b>asked" and len(pairs.groups) == 1
    assert [re.match(r"item (\d+) · question: ", pair.where).group(1) for pair in shown] == ["0", "2"]
    exact, changed = shown
    assert " · web · docs-" in exact.where
    assert all(kind == "common" for kind, text in exact.right if text.strip("…")), "capitals make no difference"
    assert "something" in "".join(text for kind, text in changed.left if kind == "same")
    assert items[2].split()[20] in "".join(text for kind, text in changed.right if kind == "same")
    marked = sum(len(text) for kind, text in changed.left if kind == "common")
    assert marked > 0.8 * sum(len(text) for _, text in changed.left)


def test_untrusted_text_is_only_text(found):
    page = Path(report.write_report(str(found))).read_text("utf-8")
    assert 'id="contamination"' in page and "<mark>" in page
    assert "<script" not in page and "&lt;b&gt;asked" in page and "<b>asked" not in page and "\x1b" not in page


def test_of_many_matches_a_few_of_each_benchmark_are_read(found, monkeypatch):
    manifests = report.require_run(str(found))
    monkeypatch.setattr(report_contamination, "MATCHES_SHOWN", 1)
    asked = []
    read = report_contamination.corpus.read_chosen
    monkeypatch.setattr(
        report_contamination.corpus, "read_chosen", lambda *given: asked.append(len(list(given[2]))) or read(*given)
    )
    section = contamination_section(str(found), manifests)
    assert [len(pairs) for pairs in section.blocks[-1].groups.values()] == asked == [1]


def test_the_summary_counts_what_was_found(found):
    summary = summarise(str(found))
    assert summary.benchmarks == {"compared": 2, "found": 1, "items": 2, "documents": 3}
    assert "benchmarks  2 compared · 2 items of 1 in 3 documents" in summary_lines(summary)


def test_documents_that_are_cut_and_kept_are_no_zero(found):
    summary = replace(summarise(str(found)), contaminated=0)
    assert ("3", "contaminated", "none of them dropped") in report._tiles(SimpleNamespace(summary=summary))


def test_a_dataset_is_shown_with_what_was_found_of_benchmarks_and_repeats(found, capsys):
    show_dataset(str(found / "decontaminate"), 0)
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("benchmarks")
    head, row = lines[at + 1].split("  "), lines[at + 2].split()
    counts = dict(zip([name.strip() for name in head if name.strip()], row[1:]))
    assert row[0] == "<b>asked" and (counts["items"], counts["found"], counts["documents"]) == ("4", "2", "3")
    show_dataset(str(found / "dedup"), 0)
    assert {"repeats"} <= set(capsys.readouterr().out.splitlines())


def test_there_is_no_section_without_benchmarks(found, duplicates):
    manifests = report.require_run(str(found))
    assert contamination_section(str(duplicates), report.require_run(str(duplicates))) is None
    nothing = manifests["decontaminate"].model_copy(update={"extra": {}})
    assert contamination_section(str(found), {**manifests, "decontaminate": nothing}) is None
    without = {**manifests, "decontaminate": manifests["decontaminate"].model_copy(update={"files": []})}
    assert read_matches(str(found), without) is None
    assert len(contamination_section(str(found), without).blocks) == 1


TEXTS = st.lists(st.sampled_from(["One", "one", "two.", "three", "(four)", "五", "六", "–", "\n"]), max_size=40).map(
    " ".join
)


@given(TEXTS, TEXTS)
def test_common_words_are_the_same_on_both_sides(left, right):
    sides = common_words(left, right, 1)
    words = []
    for text, pieces in zip((left, right), sides):
        assert "".join(part for _, part in pieces) == text.replace("\n", "⏎")
        common = "".join(part for kind, part in pieces if kind == "common")
        words.append([one.lower() for one in re.findall(r"[五六]|[^\W五六]+", common)])
    assert words[0] == words[1]
    assert common_words(left, left, 1)[0] == common_words(left, left, 1)[1]
