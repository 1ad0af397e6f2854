"""The page of a run: complete, self-contained, and deaf to what the documents say."""

import html.parser
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.errors import ConfigError
from schemas.manifest import FileEntry
from sluice import corpus, plots, report
from sluice.report import read_metrics, write_report
from tests.sluice import made_runs

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if attributes.get("id")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def source(run) -> str:
    path = Path(write_report(str(run)))
    assert path == run / "report.html"
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_every_section_is_there_and_plots_speak(page):
    titles = ["funnel", "languages", "scores", "lengths", "mixture", "training", "evaluation", "tokenizer", "samples"]
    for name in [*titles, "duplicates", "stages", "origins", "software"]:
        assert name in page.ids()
    labels = [attributes.get("aria-label", "") for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) >= 18 and all(len(label) > 10 for label in labels)
    assert "Share by size of cluster in stage s1" in labels


def test_nothing_is_fetched_and_nothing_runs(source, page):
    assert len(source) < 5_000_000
    assert not {"script", "iframe", "link", "img", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset", "action") for name in attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:image/png;base64,"))
    assert "http://" not in source and "https://" not in source and "@import" not in source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_text_of_documents_is_only_text(source, page):
    shown = "".join(page.text)
    assert "<script>alert(1)</script> \\x1b[31mred" in shown  # of dropped documents, rejects and continuations
    assert "<b>0</b>.jsonl" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)


def test_references_inside_the_page_lead_somewhere_and_ids_are_unique(source, page):
    ids = page.ids()
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"', source)) | set(re.findall(r"url\(#([^)]+)\)", source))
    assert wanted <= set(ids)


def test_funnel_counts_each_document_once(run, page):
    documents = corpus.read_documents(str(run), report.require_run(str(run)))
    counted = documents.frame.group_by("outcome").len()
    assert dict(counted.iter_rows()) == {
        "filter": 24, "dedup": 12, "decontaminate": 12, "validation": 12, "train": 60
    }  # fmt: skip
    assert documents.note == ""
    head = ["", "all", "rejected", "filtered", "duplicates", "contaminated", "train", "validation"]
    at = page.rows.index(head)
    assert page.rows[at + 1 : at + 3] == [
        ["python", "61", "1", "12", "6", "6", "30", "6"],
        ["web", "61", "1", "12", "6", "6", "30", "6"],
    ]


def test_every_pair_of_source_and_language_is_counted_by_outcome(run, page):
    documents = corpus.read_documents(str(run), report.require_run(str(run))).frame
    stages = ["filter", "dedup", "decontaminate", "train", "validation"]
    expected = []
    for (source, language), pair in documents.group_by("source", "language"):
        outcomes = pair["outcome"].to_list()
        numbers = [len(outcomes), *map(outcomes.count, stages)]
        expected.append([source, report._name_of("language", language), *map(str, numbers)])
    names = ["filtered", "duplicates", "contaminated", "train", "validation"]
    at = page.rows.index(["source", "language", "extracted", *names])
    assert sorted(page.rows[at + 1 : at + 9]) == sorted(expected)


def test_small_pairs_are_summed_up_in_one_row(run, monkeypatch):
    manifests = report.require_run(str(run))
    documents = corpus.read_documents(str(run), manifests)
    whole = report._by_source_and_language(documents, manifests).rows
    monkeypatch.setattr(report, "PAIRS_SHOWN", 3)
    some = report._by_source_and_language(documents, manifests).rows
    assert some[:3] == whole[:3] and len(some) == 4 and some[3][0] == "5 others"
    assert some[3][2:] == [sum(column) for column in list(zip(*whole[3:]))[2:]]


def test_reasons_are_counted_by_source_and_language(page):
    at = page.rows.index(["stage", "reason", "documents", "share", "python", "web", "languages most hit"])
    assert page.rows[at + 1 : at + 6] == [
        ["extract", "encrypted", "2", "1.6 %", "1", "1", "–"],
        # Rows whose last digit is 1 are German and of another language, 6 a shard, by turns.
        ["filter", "language_score.min", "12", "10.0 %", "6", "6", "German 6, another language 6"],
        ["filter", "words.min", "12", "10.0 %", "6", "6", "English 6, Chinese (Simplified) 6"],
        ["dedup", "near_duplicate", "12", "10.0 %", "6", "6", "English 6, Chinese (Simplified) 6"],
        ["decontaminate", "benchmark.gsm8k", "12", "10.0 %", "6", "6", "German 6, another language 6"],
    ]


def test_cells_beyond_the_largest_are_summed_up():
    cells = {f"cell-{number:02}": {"before": number / 210, "after": (20 - number) / 210} for number in range(21)}
    found = report._largest_cells(cells)
    assert len(found) == report.MIXTURE_CELLS + 1 and list(found)[:3] == ["cell-00", "cell-20", "cell-01"]
    assert found["9 others"] == pytest.approx((100 * sum(range(6, 15)) / 210,) * 2)
    assert [sum(column) for column in zip(*found.values())] == pytest.approx([100, 100])
    assert list(report._largest_cells(dict(list(cells.items())[:2]))) == ["cell-00", "cell-01"]


def test_samples_are_the_smallest_ids_of_their_reason(run, page):
    expected = []
    for path in sorted((run / "extract" / "documents").iterdir()):
        table = pq.read_table(path, columns=["document_id", "locator"])
        expected += [(key.as_py(), locator.as_py()) for key, locator in zip(table["document_id"], table["locator"])]
    near = sorted(pair for pair in expected if int(pair[1].removeprefix("line=")) % 10 == 2)[:3]
    text = "".join(page.text)
    part = text[text.index("dedup · near_duplicate") : text.index("decontaminate · benchmark.gsm8k")]
    assert re.findall(r"line=\d+", part) == [locator for _, locator in near]


def test_bytes_go_over_tokens_without_the_end_of_document(page):
    at = page.rows.index(["language", "documents", "bytes", "tokens", "bytes per token"])
    rows = {row[0]: row[1:] for row in page.rows[at + 1 : at + 5]}
    assert set(rows) == {"English", "German", "Chinese (Simplified)", "another language"}
    assert all(row[3] == "4.000" for row in rows.values())  # as many bytes as the made tokens were given
    assert sum(int(row[0]) for row in rows.values()) == 72


@pytest.mark.parametrize("until", ["extract", "filter", "tokenize"])
def test_a_run_that_has_come_this_far(until, tmp_path):
    page = Page(Path(write_report(str(made_runs.make_run(tmp_path, until)))).read_text("utf-8"))
    assert ("training" in page.ids(), "lengths" in page.ids()) == (False, until == "tokenize")
    assert "funnel" in page.ids()


def test_a_training_under_way_shows_its_curve(tmp_path):
    made_runs.make_run(tmp_path, "pack")
    folder = tmp_path / "unfinished" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "key").write_text("k")
    (folder / "metrics.jsonl").write_text(made_runs.metrics(5) + '{"step": 6, "los')
    page = Page(Path(write_report(str(tmp_path))).read_text("utf-8"))
    assert "training" in page.ids()
    assert "The training is not finished" in "".join(page.text)


def test_stale_datasets_are_left_out_and_named(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    text = (folder / "annotate" / "manifest.json").read_text()
    (folder / "annotate" / "manifest.json").write_text(text.replace('"annotators": {}', '"annotators": {"x": 2}'))
    page = Page(Path(write_report(str(folder))).read_text("utf-8"))
    shown = "".join(page.text)
    assert "annotate has changed since" in shown
    assert "languages" in page.ids() and "training" not in page.ids() and "mixture" not in page.ids()


def test_no_run_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        write_report(str(tmp_path))


def test_the_same_run_gives_the_same_page(run, source):
    assert Path(write_report(str(run))).read_text("utf-8") == source


def test_long_metrics_are_thinned_and_validations_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(made_runs.metrics(400))
    everything = list(read_metrics(str(path)))
    assert len(everything) == 401
    some = list(read_metrics(str(path), limit=path.stat().st_size // 10))
    assert 30 < len(some) < 120
    validations = [line["step"] for line in everything if "validation_bits_per_byte" in line]
    assert [line["step"] for line in some if "validation_bits_per_byte" in line] == validations


def test_shards_are_chosen_by_hash_up_to_a_number_of_rows():
    entries = [FileEntry(path=f"documents/{n:05d}.parquet", rows=100, bytes=1, hash="") for n in range(50)]
    some = corpus.choose_shards(entries, 1000)
    assert len(some) == 10 and some == sorted(some) and some != list(range(10))
    assert corpus.choose_shards(entries, 1) == [some[0]] or len(corpus.choose_shards(entries, 1)) == 1
    assert corpus.choose_shards(entries, 10**9) == list(range(50))


def test_a_sample_of_shards_is_said_to_be_one(run, monkeypatch):
    monkeypatch.setattr(corpus.choose_shards, "__defaults__", (60,))
    documents = corpus.read_documents(str(run), report.require_run(str(run)))
    assert documents.note == "Counted in 1 of 2 shards, chosen by hash: 60 documents."
    assert documents.frame["shard"].n_unique() == 1


def test_smoothing_is_a_mean_inside_the_curve():
    values = np.random.default_rng(0).normal(size=300)
    smooth = report._smooth(values, 10)
    for place in (0, 3, 150, 299):
        low, high = max(0, place - 5), min(300, place + 6)
        assert smooth[place] == pytest.approx(values[low:high].mean())


def test_names_in_plots_are_escaped_and_no_formula():
    svg = plots.bars({"<b>$x$</b> & co": 3.0, "plain": 1.0}, "documents", 'an "alt" <text>')
    root = ET.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter("text")]
    assert "<b>$x$</b> & co" in texts
    assert root.attrib["aria-label"] == 'an "alt" <text>' and root.attrib["role"] == "img"
    assert "var(--series-1)" in svg and "#01c0de" not in svg


def test_a_legend_reads_row_by_row_and_fits():
    names = ["rejected", "filtered", "duplicates", "contaminated", "train", "validation"]
    rows = {"web": dict.fromkeys(names, 1)}
    svg = plots.stacked_shares(rows, dict(zip(names, (8, 2, 3, 4, 1, 6))), "share", "outcomes")
    places = {}
    for element in ET.fromstring(svg).iter("text"):
        attributes = element.attrib
        places["".join(element.itertext())] = (round(float(attributes["y"])), float(attributes["x"]))
    assert sorted(names, key=lambda name: places[name]) == names
    assert len({places[name][0] for name in names}) == 2 and max(places[name][1] for name in names) < 290


def test_curves_that_have_one_point_or_none():
    one = {"a": (np.array([1.0]), np.array([2.0]))}
    assert "<svg" in plots.curves(one, "tokens", "loss", "one point", logarithmic=True)
    assert "<svg" in plots.bars({}, "documents", "nothing at all")


def test_labels_of_a_logarithmic_axis_are_plain_numbers():
    x = np.arange(1.0, 50.0)
    svg = plots.curves({"norm": (x, x)}, "tokens", "norm", "a norm", logarithmic=True)
    texts = ["".join(element.itertext()) for element in ET.fromstring(svg).iter("text")]
    assert {"1", "2", "5", "10", "20"} <= set(texts) and "$" not in "".join(texts)


def test_broken_versions_and_samples_do_not_stop_a_report(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "versions.json").write_text("{")
    (folder / "export" / "samples.json").write_text(json.dumps({"no": "list"}))
    (folder / "recipe.yaml").write_text("a: [")
    page = Page(Path(write_report(str(folder))).read_text("utf-8"))
    assert "software" not in page.ids() and "samples" not in page.ids() and "training" in page.ids()


def test_the_command_line_starts_without_the_report():
    import subprocess

    probe = "import sys, sluice.cli, sluice.text; sys.exit(bool({'polars', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", probe]).returncode == 0


def test_experts_and_bad_steps_are_shown(page):
    text = " ".join(page.text)
    for title in ("Balancing loss", "Busiest expert", "Entropy of the routers", "Load of the experts", "Bad steps (1)"):
        assert title in text
    assert ["5", "s1", "the norm of the gradient is <nan>"] in page.rows
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    assert any("Load of 4 experts in 3 layers at step 24" in label and "3 got no token" in label for label in labels)
