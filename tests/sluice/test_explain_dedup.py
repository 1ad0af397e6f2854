"""What `sluice dedup --explain` says of clusters, against texts whose differences are known."""

import io
import json
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from rich.console import Console

from schemas.documents import DECISIONS
from schemas.errors import ConfigError
from schemas.hashing import document_id
from schemas.manifest import Manifest, read_manifest, write_manifest
from schemas.recipe import load_recipe
from schemas.tables import read_table, write_table
from sluice import explain_dedup, report
from sluice.blocks import Differences
from sluice.explain_dedup import explain_duplicates
from sluice.report_dedup import duplicates_section
from sluice.road import closure
from sluice.run import run
from tests.sluice.made_duplicates import COPIES, NEAR, documents


@pytest.fixture
def explained(capsys):
    def call(folder, name, key="documents"):
        capsys.readouterr()
        explain_duplicates(str(folder), name, as_json=True)
        return json.loads(capsys.readouterr().out)[key]

    return call


def texts():
    return {line["id"]: line["text"] for lines in documents().values() for line in lines}


def grams(text):
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def jaccard(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def words_of(difference, kind):
    return [text.strip() for hunk in difference["hunks"] for piece, text in hunk if piece == kind]


def test_a_dropped_document_stands_beside_the_one_that_stays(duplicates, explained):
    (found,) = explained(duplicates, "near-1")
    known = texts()
    assert (found["keep"], found["reasons"], found["judged"]) == (False, ["near_duplicate"], True)
    assert found["settings"] == {"ngram": 5, "bands": 14, "rows": 8, "verify": None}
    cluster = found["cluster"]
    assert cluster["size"] == cluster["in_this_run"] == cluster["compared"] == NEAR
    assert cluster["outcomes"] == {"near_duplicate": NEAR - 1, "kept": 1}
    assert [member["id"] for member in found["members"][:2]] == ["near-2", "near-1"]
    assert {member["id"] for member in found["members"]} == {f"near-{number}" for number in range(NEAR)}
    for member in found["members"]:
        assert member["jaccard_to_document"] == round(jaccard(known[member["id"]], known["near-1"]), 4)
        assert member["jaccard_to_survivor"] == round(jaccard(known[member["id"]], known["near-2"]), 4)
        assert member["characters"] == len(known[member["id"]])
    (survivor,) = (member for member in found["members"] if member["keep"])
    assert (survivor["source"], survivor["path"]) == ("books", "books.jsonl")
    line = next(line for line in documents()["books"] if line["id"] == "near-2")
    assert (survivor["url"], survivor["date"]) == (line["url"], line["date"])
    (difference,) = found["differences"]
    assert (difference["survivor"], difference["document"]) == (cluster["survivor_id"], found["document_id"])
    both = grams(known["near-1"]) & grams(known["near-2"])
    assert difference["shared_ngrams"] == len(both)
    assert difference["all_ngrams"] == len(grams(known["near-1"]) | grams(known["near-2"]))
    assert difference["probability_of_a_shared_band"] == pytest.approx(
        1 - (1 - difference["jaccard"] ** 8) ** 14, abs=0.01
    )
    assert len(difference["hunks"]) == 2
    assert "changed2" in words_of(difference, "out") and "changed1" in words_of(difference, "in")
    assert explained(duplicates, found["document_id"]) == [found], "a document id and a user's own id"


def test_the_document_that_stays_is_shown_with_what_is_dropped_for_it(duplicates, explained):
    (found,) = explained(duplicates / "dedup", "near-2")
    assert found["keep"] and found["cluster"]["survivor_id"] == found["document_id"]
    assert len(found["differences"]) == explain_dedup.TOLD_APART
    similar = [difference["jaccard"] for difference in found["differences"]]
    assert similar == sorted(similar), "the least similar first"
    assert all("changed2" in words_of(difference, "out") for difference in found["differences"])


def test_copies_do_not_differ_and_white_space_does_not_count(duplicates, explained):
    (found,) = explained(duplicates, "copy-3")
    assert found["cluster"]["outcomes"] == {"exact_duplicate": COPIES - 1, "kept": 1}
    assert [difference["hunks"] for difference in found["differences"]] in ([[]], [[]] * explain_dedup.TOLD_APART)
    assert {member["jaccard_to_document"] for member in found["members"]} == {1.0}


def test_a_document_without_duplicates_says_so(duplicates, explained, capsys):
    (found,) = explained(duplicates, "single-3")
    assert found["cluster"]["size"] == 1 and found["differences"] == [] and len(found["members"]) == 1
    explain_duplicates(str(duplicates), "single-3", as_json=False)
    assert "no duplicate of it was found · 5-grams · 14 bands of 8 rows" in capsys.readouterr().out


def test_a_large_cluster_is_read_in_part_and_counted_whole(duplicates, explained, monkeypatch):
    read = []
    chosen = explain_dedup.read_chosen
    monkeypatch.setattr(explain_dedup, "read_chosen", lambda *given: read.extend(given[2]) or chosen(*given))
    monkeypatch.setattr(explain_dedup, "COMPARED", 2)
    monkeypatch.setattr(explain_dedup, "SHOWN", 1)
    (found,) = explained(duplicates, "copy-4")
    assert found["cluster"]["in_this_run"] == COPIES and found["cluster"]["outcomes"]["exact_duplicate"] == COPIES - 1
    assert len(read) <= 2 + 2 + 1 and len(found["members"]) == 3
    assert found["members"][0]["document_id"] == found["cluster"]["survivor_id"]


def printed(monkeypatch, folder, name, **options):
    out = io.StringIO()
    monkeypatch.setattr(explain_dedup, "console", Console(file=out, highlight=False, **options))
    explain_duplicates(str(folder), name, as_json=False)
    return out.getvalue()


def test_differences_have_signs_on_paper_and_colours_on_a_terminal(duplicates, monkeypatch):
    plain = printed(monkeypatch, duplicates, "near-1", width=200)
    assert "dropped: near_duplicate" in plain and f"{NEAR} documents: near_duplicate {NEAR - 1}, kept 1" in plain
    assert "[-changed2-]" in plain and "{+changed1+}" in plain and "\x1b" not in plain
    options = {"force_terminal": True, "color_system": "standard", "legacy_windows": False, "_environ": {}}
    wide = printed(monkeypatch, duplicates, "near-1", width=120, **options)
    side = next(line for line in wide.splitlines() if "changed1" in line)
    assert " │ " in side and "\x1b[9;31m" in wide and "\x1b[4;32m" in side and "[-" not in wide
    narrow = printed(monkeypatch, duplicates, "near-1", width=60, **options)
    assert " │ " not in narrow and "\x1b[4;32mchanged1" in narrow


def test_of_a_long_text_the_beginning_is_compared_and_it_is_said(duplicates, explained, monkeypatch):
    assert explained(duplicates, "near-4")[0]["differences"][0]["compared_whole"]
    known = texts()["near-4"]
    monkeypatch.setattr(explain_dedup, "CHARACTERS", known.index("changed4") - 1)
    (difference,) = explained(duplicates, "near-4")[0]["differences"]
    assert not difference["compared_whole"] and words_of(difference, "in") != [] and difference["jaccard"] < 1
    assert "changed4" not in words_of(difference, "in") and "changed2" in words_of(difference, "out")
    shown = printed(monkeypatch, duplicates, "near-4", width=200)
    assert f"all differences in the first {explain_dedup.CHARACTERS:,} characters" in shown


def test_untrusted_text_does_nothing_to_the_terminal(duplicates, monkeypatch):
    shown = printed(monkeypatch, duplicates, "copy-2", width=200)
    assert "\x1b" not in shown and "\u202e" not in shown


def test_an_id_that_several_documents_have_shows_them_all(duplicates, explained, monkeypatch):
    found = explained(duplicates, "same")
    assert {member["source"] for document in found for member in document["members"]} == {"web", "books", "news"}
    monkeypatch.setattr(explain_dedup, "DOCUMENTS_SHOWN", 2)
    assert explained(duplicates, "same") == found[:2] and explained(duplicates, "same", "left_out") == 1


def test_a_survivor_of_an_earlier_run_is_named_and_read_where_it_is(tmp_path, explained, monkeypatch):
    draw = np.random.default_rng(3)
    base = [f"word{number}" for number in draw.integers(0, 10_000, 200)]
    for name, word in (("old", "before"), ("new", "after")):
        (tmp_path / name).mkdir()
        line = {"id": name, "text": " ".join([*base[:100], word, *base[100:]])}
        (tmp_path / name / "docs.jsonl").write_text(json.dumps(line) + "\n")
        more = "index: true" if name == "old" else f"against: [{tmp_path}/old/run]"
        (tmp_path / f"{name}.yaml").write_text(
            f"name: r\nsources: [{{name: {name}, path: {tmp_path}/{name}/docs.jsonl}}]\ndedup: {{{more}}}\n"
        )
        run(load_recipe(tmp_path / f"{name}.yaml"), str(tmp_path / name / "run"), closure(["extract", "dedup"]))
    (found,) = explained(tmp_path / "new" / "run", "new")
    assert found["cluster"]["survivor"] == f"a document of the earlier run {tmp_path}/old/run"
    assert found["cluster"]["survivor_id"] == document_id("old", "docs.jsonl", "line=1").hex()
    assert (found["cluster"]["size"], found["cluster"]["in_this_run"]) == (2, 1)
    assert found["members"][0]["earlier_run"] == f"{tmp_path}/old/run"
    (difference,) = found["differences"]
    assert (words_of(difference, "out"), words_of(difference, "in")) == (["before"], ["after"])
    assert "its survivor" in printed(monkeypatch, tmp_path / "new" / "run", "new", width=200)
    shutil.rmtree(tmp_path / "old" / "run" / "extract")
    (gone,) = explained(tmp_path / "new" / "run", "new")
    assert gone["cluster"]["survivor"] == "a document of an earlier run, which is not here"
    assert gone["differences"] == [] and gone["members"][0]["jaccard_to_survivor"] is None


def test_what_the_filter_dropped_was_not_compared(duplicates, tmp_path, explained):
    shutil.copytree(duplicates, tmp_path / "run")
    files = []
    for path in sorted((duplicates / "dedup" / "decisions").iterdir()):
        table = read_table(str(path), DECISIONS.names)
        keep = pa.array([name != "single-3" for name in table["id"].to_pylist()])
        table = table.set_column(table.schema.get_field_index("keep"), "keep", keep)
        files.append(write_table(str(tmp_path / "run" / "filter"), f"decisions/{path.name}", table))
    manifest = Manifest(stage="filter", version=1, key="", config={}, inputs={}, files=files)
    write_manifest(str(tmp_path / "run" / "filter"), manifest)
    assert [document["judged"] for document in explained(tmp_path / "run", "single-3")] == [False]
    assert [document["judged"] for document in explained(tmp_path / "run", "single-4")] == [True]


def test_errors_are_one_line_and_end_with_2(duplicates, tmp_path, sluice):
    done = sluice("dedup", duplicates, "--explain", "nobody", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"sluice: {duplicates}: has no document 'nobody'; give a document id in hex, or your own id\n"
    )
    done = sluice("dedup", duplicates, "--explain", "near-1", "--output", tmp_path / "x", check=False)
    assert done.returncode == 2 and "--explain reads a finished run and writes nothing" in done.stderr
    for folder, words in (
        (tmp_path / "none", "there is no such folder"),
        (tmp_path, "is no finished run"),
    ):
        with pytest.raises(ConfigError, match=words):
            explain_duplicates(str(folder), "near-1", as_json=False)
    shutil.copytree(duplicates / "extract", tmp_path / "run" / "extract")
    with pytest.raises(ConfigError, match="has no finished 'dedup'"):
        explain_duplicates(str(tmp_path / "run"), "near-1", as_json=False)


def test_documents_that_have_changed_since_are_not_explained(duplicates, tmp_path):
    shutil.copytree(duplicates, tmp_path / "run")
    path = tmp_path / "run" / "extract" / "manifest.json"
    path.write_text(path.read_text().replace('"documents"', '"document s"', 1))
    with pytest.raises(ConfigError, match="its documents have changed since"):
        explain_duplicates(str(tmp_path / "run"), "near-1", as_json=False)


@pytest.mark.shared_data
def test_pages_of_the_web_are_as_similar_as_was_measured(tmp_path, shared_data, sluice, explained):
    """A few pages with their measured pairs, through the real command, and the report of them."""
    pairs = pl.read_parquet(shared_data / "web" / "web_corpus_pairs.parquet").sort("id_a", "id_b")
    close = pairs.filter(pl.col("jaccard_w5").is_between(0.85, 0.99)).head(12)
    wanted = {*close["id_a"], *close["id_b"]}
    with pa.input_stream(shared_data / "web" / "web_corpus.jsonl.zst", compression="zstd") as stream:
        lines = [line for line in io.BytesIO(stream.read()) if json.loads(line)["id"] in wanted]
    (tmp_path / "pages.jsonl").write_bytes(b"".join(lines))
    sluice("dedup", "pages.jsonl", "--output", "run", "--set", "dedup.bands=32", cwd=tmp_path)
    measured = {frozenset((a, b)): value for a, b, value, *_ in pairs.iter_rows()}
    compared = 0
    first, *others = sorted(wanted)[:6]
    documents = json.loads(sluice("dedup", "run", "--explain", first, "--json", cwd=tmp_path).stdout)["documents"]
    for name in others:
        documents += explained(tmp_path / "run", name)
    for found in documents:
        for member in found["members"]:
            if (known := measured.get(frozenset((found["id"], member["id"])))) is not None:
                assert member["jaccard_to_document"] == pytest.approx(known, abs=0.03)
                compared += 1
    assert compared
    section = duplicates_section(str(tmp_path / "run"), report.require_run(str(tmp_path / "run")))
    dropped = read_manifest(str(tmp_path / "run" / "dedup")).counts["dropped"]
    assert section.blocks[0].rows[-1][1] == dropped > 0
    assert any(isinstance(block, Differences) and block.groups for block in section.blocks)
