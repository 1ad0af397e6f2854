"""The benchmark of near-duplicates: its corpus is what it says, and its measures are right on known answers."""

import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks import _dedup_corpus as corpus
from benchmarks import dedup
from benchmarks._measure import measure


def test_pairs_differ_as_their_kind_says(tmp_path: Path) -> None:
    truth = corpus.write_corpus(tmp_path / "corpus", 180, 200, 1)
    texts = dict(pl.read_parquet(tmp_path / "corpus" / "*.parquet").select("id", "text").iter_rows())
    assert len(texts) == 180
    for pair, kind, index in truth.iter_rows():
        base, partner = texts[f"{pair}:0"].split(" "), texts[f"{pair}:1"].split(" ")
        assert all(base) and all(partner)  # never two spaces together
        base, partner = texts[f"{pair}:0"].split(), texts[f"{pair}:1"].split()
        grams = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (base, partner)]
        assert index == pytest.approx(len(grams[0] & grams[1]) / len(grams[0] | grams[1]), abs=0.01)
        if kind in corpus.EDITS:
            edits = round(int(kind.split()[0]) * 2)
            assert abs(len(partner) - 200) <= edits and len(set(base) - set(partner)) <= edits
            assert partner != base
        elif kind == corpus.CUT:
            assert partner == base[: len(partner)] and 100 <= len(partner) <= 180
        elif kind == corpus.FURNITURE:
            assert partner[:25] == base[:25] and partner[-20:] == base[-20:] and index < 0.2
        else:
            assert index == 0


def test_a_corpus_begins_with_every_smaller_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PAIRS_PER_FILE", 9)
    large = corpus.write_corpus(tmp_path / "large", 54, 60, 0)
    small = corpus.write_corpus(tmp_path / "small", 36, 60, 0)
    assert large.head(18).equals(small)
    read = [pl.read_parquet(tmp_path / name / "*.parquet") for name in ("large", "small")]
    assert read[0].head(36).equals(read[1])


def test_clusters_are_judged() -> None:
    truth = pl.DataFrame({"pair": [0, 1, 2], "kind": ["1 %", "1 %", "furniture"], "jaccard": [0.9, 0.9, 0.1]})
    ids = [f"{pair}:{side}" for pair in range(3) for side in range(2)]
    assert dedup.judge(truth, pl.DataFrame({"id": ids, "cluster": [0, 0, 1, 2, 3, 4]})) == (
        {"1 %": 0.5, "furniture": 0.0},
        0,
    )
    recall, wrong = dedup.judge(truth, pl.DataFrame({"id": ids, "cluster": [0, 0, 0, 2, 3, 3]}))
    assert recall == {"1 %": 0.5, "furniture": 1.0} and wrong == 2


def test_pages_are_judged() -> None:
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(words), " ".join(words), " ".join(words[:29]), " ".join(words[::-1])]
    pages = pl.DataFrame({"id": list("abcd"), "text": texts, "group": ["one", "one", "one", ""]})
    pairs = pl.DataFrame({"id_a": ["a", "a", "b"], "id_b": ["b", "c", "c"], "jaccard_w5": [1.0, 25 / 26, 0.5]})
    grams = dict(zip("abcd", map(dedup.word_grams, texts)))
    row = dedup.web_row(pages, pairs, grams, {"a": b"x", "b": b"y", "c": b"x", "d": b"x"})
    assert row.split() == ["0.5000", "1", "2", "3", "0.667", "1", "3", "0.0%"]
    row = dedup.web_row(pages, pairs, grams, {"a": b"x", "b": b"x", "c": b"x", "d": b"y"})
    assert row.split() == ["1.0000", "2", "2", "3", "1.000", "1", "3", "100.0%"]


def test_what_a_process_and_its_children_cost_is_measured() -> None:
    busy = "import time; data = bytearray(200 << 20)\nwhile time.process_time() < 0.5: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}], check=True); print('done')"
    spent = measure([sys.executable, "-c", parent])
    assert 0.5 <= spent.cpu < 2 and spent.cpu <= 2 * spent.wall and spent.output == "done\n"
    assert 200 << 20 < spent.peak < 400 << 20
    with pytest.raises(RuntimeError, match="gave 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])
    assert measure([sys.executable, "-c", "raise SystemExit(3)"], check=False).code == 3


@pytest.mark.slow
def test_it_runs_in_small(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SLUICE_TEXT_DEDUP_PYTHON", "SLUICE_DATATROVE_PYTHON", "SLUICE_RENSA_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(dedup, "FEW", 1)
    dedup.main(["speed", "kernel", "workers", "--documents", "900"])
    out = capsys.readouterr().out
    assert "text-dedup: skipped, SLUICE_TEXT_DEDUP_PYTHON is not set" in out
    assert "wrong clusters 0" in out and "the same bytes: yes" in out
    recall = next(line for line in out.splitlines() if line.startswith("sluice  ")).split()
    assert float(recall[1]) >= 0.94 and float(recall[8]) == 0  # of 50 pairs each
