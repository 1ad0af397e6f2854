"""The numbers of a run against what was put into it, and text that must not act on a terminal."""

import io
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from schemas.errors import ConfigError
from schemas.manifest import read_manifest, write_manifest
from sluice import summary
from sluice.summary import Continuation, _sample_line, print_summary, summarise, summary_lines
from sluice.text import aligned, printable, short
from tests.sluice import made_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run"))


def test_numbers_are_those_of_the_manifests(run):
    found = summarise(str(run))
    assert (found.documents, found.rejected) == (120, {"encrypted": 2})
    assert (found.filtered, found.duplicates, found.contaminated) == (24, 12, 12)
    assert (found.kept, found.train_documents, found.validation_documents) == (72, 60, 12)
    lengths = {4: 0, 5: 0}
    for row in range(60):
        if row % 10 >= 4:
            lengths[min(5, row % 10)] += 2 * (6 + 11 * row)
    assert (found.validation_tokens, found.train_tokens) == (lengths[4], lengths[5])
    assert [(stage.name, stage.steps, stage.last_loss) for stage in found.training] == [("s1", 16, 3.6), ("s2", 8, 3.1)]
    assert (found.parameters, found.bits_per_byte, found.unigram_bits_per_byte) == (123_456, 2.0, 3.0)
    assert found.continuations[0].prompt == "The function"
    assert found.model == f"{run}/export/model" and found.report is None
    assert [cost.seconds for cost in found.costs] == [10.0 + number for number in range(13)]
    assert found.stale == {}


def test_without_the_split_decisions_are_added_up(tmp_path):
    for until, kept in (("extract", 120), ("filter", 96), ("dedup", 84), ("decontaminate", 72), ("split", 72)):
        found = summarise(str(made_runs.make_run(tmp_path / until, until)))
        assert found.kept == kept
        assert (found.train_documents is None) == (until != "split")
        assert found.training == () and found.model is None and found.bits_per_byte is None


def test_what_does_not_follow_from_its_inputs_is_stale(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    manifest = read_manifest(str(folder / "tokenizer"))
    write_manifest(str(folder / "tokenizer"), manifest.model_copy(update={"extra": {"vocabulary_size": 5000}}))
    found = summarise(str(folder))
    assert found.stale["tokenize"] == "tokenizer has changed since"
    assert found.stale["mix"] == "tokenize is stale"
    assert set(found.stale) == {"tokenize", "mix", "pack", "pretrain", "evaluate", "export"}
    assert found.train_tokens is None and found.training == () and found.kept == 72


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        summarise(str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="no run folder"):
        summarise(str(tmp_path))
    made_runs.make_run(tmp_path / "run", "extract")
    with pytest.raises(ConfigError, match="one dataset"):
        summarise(str(tmp_path / "run" / "extract"))


def test_printing_shows_markup_as_it_is(run, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(summary, "console", Console(file=out, force_terminal=True, width=400))
    print_summary(str(run))
    text = out.getvalue()
    assert "[bold]rich[/bold]" in text and "\\x1b[31mred" in text
    assert "\x1b[31m" not in text and "\u202e" not in text
    assert "122 in · 2 rejected · 24 filtered · 12 duplicates · 12 contaminated · 72 kept" in text


def test_columns_of_the_summary_are_straight(run):
    lines = summary_lines(summarise(str(run)))
    assert len({line.index("loss") for line in lines if "loss" in line}) == 1


def test_every_stage_of_training_tells_its_losses_and_its_validation(run):
    lines = "\n".join(summary_lines(summarise(str(run))))
    assert "s1  16 steps  4,096 tokens  loss 7.500 → 3.600  validation 2.700 bits per byte" in lines
    assert "s2   8 steps  2,048 tokens  loss 3.500 → 3.100  validation 2.000 bits per byte" in lines
    assert "training 60 documents" in lines and "validation 12 documents" in lines


def test_the_sample_is_the_sampled_text_of_the_first_prompt_cut():
    first = Continuation("The function", " the the the", f" returns    {'word ' * 100}")
    assert _sample_line(first) == f"The function ▸ returns {'word ' * 22}w…"
    assert _sample_line(Continuation("Of an old run", " greedy", "")) == "Of an old run ▸ greedy"


@given(st.text(alphabet=st.characters(), max_size=400), st.integers(1, 300))
def test_printable_is_one_line_without_commands(text, limit):
    shown = printable(text, limit)
    assert all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
    assert shown.endswith("…") if len(text) > limit else len(shown) >= len(text.replace("\r\n", "\n"))
    shown.encode()


def test_printable_keeps_what_can_be_read():
    assert printable("naïve 日本語 العربية\u200cنیم") == "naïve 日本語 العربية\u200cنیم"
    assert printable("a\r\nb\tc\x1b[0m") == "a⏎b c\\x1b[0m"
    assert printable("abcdef", 3) == "abc…"


@given(st.lists(st.lists(st.text(max_size=5), min_size=3, max_size=3), min_size=1, max_size=6))
def test_aligned_columns_begin_together(rows):
    rows = [[printable(cell) for cell in row] for row in rows]
    lines = aligned([[*row, "|"] for row in rows], right=(1,))
    assert len({cell_len(line) for line in lines}) == 1


def test_short_numbers():
    expected = {950: "950", 9_994: "9,994", 12_345: "12.3 k", 999_999: "1 M", 1_300_000: "1.3 M", 4.2e15: "4,200 T"}
    assert {number: short(number) for number in expected} == expected
