"""What the report says of duplicates: counted again from the decisions of a real run."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from schemas.tables import read_table
from sluice import corpus, report, report_dedup
from sluice.blocks import Shaded
from sluice.report_dedup import duplicates_section, read_clusters, size_class
from sluice.show import show_dataset
from sluice.summary import summarise, summary_lines
from tests.sluice.made_duplicates import COPIES, NEAR


@pytest.fixture(scope="module")
def section(duplicates):
    return duplicates_section(str(duplicates), report.require_run(str(duplicates)))


def everything(run):
    """One dictionary a document: its decision beside its source, id and text."""
    rows = []
    for path in sorted((run / "dedup" / "decisions").iterdir()):
        about = read_table(str(run / "extract" / "documents" / path.name), ["source", "id", "text"]).to_pylist()
        rows += [one | other for one, other in zip(read_table(str(path)).to_pylist(), about)]
    return rows


def by_title(section):
    return {block.title: block for block in section.blocks}


def test_reasons_are_those_of_the_decisions(duplicates, section):
    rows = everything(duplicates)
    counted = Counter(row["reasons"][0] for row in rows if not row["keep"])
    assert counted == {"exact_duplicate": COPIES - 1 + 1, "near_duplicate": NEAR - 1}
    table = by_title(section)["By reason"]
    assert {row[0]: row[1] for row in table.rows} == {**counted, "all dropped": sum(counted.values())}


def test_sources_lose_documents_in_favour_of_sources(duplicates, section):
    rows = everything(duplicates)
    source = {row["document_id"]: row["source"] for row in rows}
    expected = Counter((row["source"], source[row["survivor_id"]]) for row in rows if not row["keep"])
    table = by_title(section)["Dropped in favour of, source by source"]
    found = {}
    for name, total, *cells in table.rows:
        assert total == sum(number for (lost, _), number in expected.items() if lost == name)
        for survivor, cell in zip(table.head[2:], cells):
            if cell.count:
                found[name, survivor] = int(cell.count)
                assert cell == Shaded.of(int(cell.count), total)
    assert found == expected and ("web", "books") in found


def test_clusters_are_counted_by_size(section):
    plot = by_title(section)["Clusters by size"]
    assert "Clusters by size: 2: 1, 5 to 9: 2" in plot.svg
    assert plot.note == f"3 clusters, the largest of {COPIES} documents."


@pytest.mark.parametrize(
    ("size", "least", "name"),
    [(2, 2, "2"), (4, 4, "4"), (5, 5, "5 to 9"), (9, 5, "5 to 9"), (10, 10, "10 to 99"), (99, 10, "10 to 99"),
     (100, 100, "100 to 999"), (1000, 1000, "1,000 to 9,999"), (10**6, 10**6, "1,000,000 to 9,999,999")],
)  # fmt: skip
def test_classes_of_size(size, least, name):
    assert size_class(size) == (least, name)


def test_the_largest_clusters_show_who_stays_and_what_differs(duplicates, section):
    shown = by_title(section)["The largest clusters"]
    sizes = [int(title.split(" ", 1)[0]) for title in shown.groups]
    assert sizes == [COPIES, NEAR, 2]
    copies, near, _ = shown.groups.values()
    assert [one.where.split(" · ")[0] for one in copies] == ["stays"] + ["exact_duplicate"] * report_dedup.MEMBERS_SHOWN
    assert not any(one.pieces for one in copies[1:]), "white space does not count"
    assert near[0].where.startswith("stays · books · books.jsonl · line=")
    for one in near[1:]:
        assert "changed2" in [text.strip() for kind, text in one.pieces if kind == "out"]
    marked = {text.strip() for one in near[1:] for kind, text in one.pieces if kind == "in"}
    assert {f"changed{number}" for number in (0, 1, 3, 4)} <= marked


def test_the_summary_counts_reasons_and_clusters(duplicates):
    summary = summarise(str(duplicates))
    assert summary.clusters == {"exact_duplicate": COPIES, "near_duplicate": NEAR - 1, "clusters": 3}
    assert "duplicates  7 exact duplicate · 4 near duplicate · 3 clusters" in summary_lines(summary)


def test_a_dataset_is_shown_with_its_clusters_by_size(duplicates, capsys):
    show_dataset(str(duplicates / "dedup"), 0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = lines.index(["clusters,", "by", "size"])
    assert sorted(lines[at + 1 : at + 3]) == [["2", "1"], ["5_to_99", "2"]]


def test_untrusted_text_is_only_text(duplicates):
    page = Path(report.write_report(str(duplicates))).read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert 'id="duplicates"' in page and "<del>" in page and "<ins>" in page


def test_texts_are_read_of_what_is_shown_alone(duplicates, monkeypatch):
    asked = []
    read = corpus.read_texts
    monkeypatch.setattr(corpus, "read_texts", lambda *given: asked.append(list(given[2])) or read(*given))
    duplicates_section(str(duplicates), report.require_run(str(duplicates)))
    assert len(asked) == 1 and len(asked[0]) == (1 + report_dedup.MEMBERS_SHOWN) * 2 + 2


def test_of_a_larger_corpus_some_shards_are_read_and_it_is_said(duplicates, monkeypatch):
    manifests = report.require_run(str(duplicates))
    paths = sorted((duplicates / "extract" / "documents").iterdir())
    ids = [read_table(str(path), ["id"])["id"].to_pylist() for path in paths]
    one = next(number for number, names in enumerate(ids) if "near-0" in names and "near-2" not in names)
    monkeypatch.setattr(corpus, "choose_shards", lambda entries: [one])
    table = read_clusters(str(duplicates), manifests)
    assert table.note.startswith("Counted in 1 of ")
    section = duplicates_section(str(duplicates), manifests)
    away = by_title(section)["Dropped in favour of, source by source"]
    assert all("Counted in 1 of" in block.note for block in (away, by_title(section)["The largest clusters"]))
    survivors = set(table.frame.filter("keep")["document_id"])
    unread = sum(row["survivor_id"] not in survivors for row in table.frame.iter_rows(named=True) if not row["keep"])
    assert unread and away.head[-1] == report_dedup.UNREAD
    assert sum(int(row[-1].count or 0) for row in away.rows) == unread


def frame(rows):
    names = ["document_id", "source", "keep", "reason", "cluster_id", "cluster_size", "survivor_id"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.lit(None, pl.Int32).alias("survivor_run"))


def test_a_survivor_of_an_earlier_run_is_named_so():
    rows = [(bytes([n]) * 16, "web", False, "near_duplicate", b"c" * 16, 4, b"s" * 16) for n in range(3)]
    rows.append((b"s" * 16, "books", True, "", b"s" * 16, 2, b"s" * 16))  # of this run, with the same id
    about = {"shard": pl.lit(0), "row": pl.int_range(4), "survivor_run": pl.Series([1, 1, 1, None], dtype=pl.Int32)}
    whole = corpus.Table(frame(rows).with_columns(**about), 1, 1)
    assert report_dedup._sources(whole).head[2:] == [report_dedup.EARLIER]
    table = corpus.Table(whole.frame.filter(~pl.col("keep")), 1, 1)
    assert report_dedup._sources(table).head[2:] == [report_dedup.EARLIER]
    assert report_dedup.one_a_cluster(table).height == 1
    texts = {(0, n): corpus.Text("web", "p", f"line={n}", "one two three") for n in range(3)}
    found = report_dedup._members(table.frame, texts, table)
    assert found[0].where == f"the one that stays is of {report_dedup.EARLIER}: {(b's' * 16).hex()}"
    assert len(found) == 4


def test_many_sources_are_summed_up():
    rows = []
    for number in range(30):
        keep, lost = bytes([number, 0]) * 8, [bytes([number, 1 + n]) * 8 for n in range(number + 1)]
        rows.append((keep, f"s{number:02}", True, "", keep, number + 2, keep))
        rows += [(one, f"s{(number * 7) % 30:02}", False, "near_duplicate", keep, number + 2, keep) for one in lost]
    table = report_dedup._sources(corpus.Table(frame(rows), 1, 1))
    assert len(table.rows) == report_dedup.SOURCES_SHOWN and len(table.head) == report_dedup.SOURCES_SHOWN + 2
    assert table.rows[-1][0] == table.head[-1] == "others"
    assert sum(row[1] for row in table.rows) == sum(number + 1 for number in range(30))
    assert sum(int(cell.count or 0) for row in table.rows for cell in row[2:]) == sum(row[1] for row in table.rows)


def test_there_is_no_section_before_deduplication_or_where_nothing_was_dropped(duplicates):
    manifests = report.require_run(str(duplicates))
    nothing = {**manifests, "dedup": manifests["dedup"].model_copy(update={"reasons": {"near_duplicate": 0}})}
    assert duplicates_section(str(duplicates), nothing) is None
    assert duplicates_section(str(duplicates), {"extract": manifests["extract"]}) is None
