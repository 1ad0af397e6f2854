"""What the report says of lines and passages that documents repeat of one another."""

from pathlib import Path

import pytest

from sluice import corpus, report, report_repeats
from sluice.report_repeats import read_repeats, repeats_section
from sluice.text import printable
from tests.sluice.made_duplicates import HOLDERS, LINE


@pytest.fixture(scope="module")
def section(found):
    return repeats_section(str(found), report.require_run(str(found)))


def test_repeats_are_counted_by_kind(section):
    rows = {row[0]: row[1:3] for row in section.blocks[0].rows}
    assert rows["Lines"] == [HOLDERS - 1, HOLDERS - 1], "one document keeps it"
    assert rows["Passages"] == [2, 2], "the passage, and an item in two documents"


def test_a_line_is_shown_once_with_how_many_documents_hold_it(section):
    shown = section.blocks[1].groups
    (line,) = shown["Lines"]
    assert line.where.startswith(f"in {HOLDERS} documents · cut · web · docs-")
    assert line.text.removesuffix("⏎") == printable(LINE.replace("\x1b", "")), "as it was extracted"
    passages = shown["Passages"]
    assert all(passage.where.startswith("in 2 documents · ") for passage in passages)
    assert any("passage" in passage.text.lower() for passage in passages)


def test_untrusted_text_is_only_text(found):
    page = Path(report.write_report(str(found))).read_text("utf-8")
    assert 'id="repeats"' in page and "<script" not in page and "\x1b" not in page


def test_of_each_kind_a_few_are_kept_those_of_the_most_documents(found, monkeypatch):
    monkeypatch.setattr(report_repeats, "SHOWN", 1)
    table = read_repeats(str(found), report.require_run(str(found)))
    assert table.frame.group_by("kind").len()["len"].to_list() == [1, 1]
    monkeypatch.setattr(corpus, "choose_shards", lambda entries: [0])
    assert read_repeats(str(found), report.require_run(str(found))).note.startswith("Counted in 1 of ")


def test_there_is_no_section_where_nothing_was_looked_for(duplicates):
    assert repeats_section(str(duplicates), report.require_run(str(duplicates))) is None
    assert repeats_section(str(duplicates), {}) is None
