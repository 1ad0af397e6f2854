"""What is masked or cut is gone from the tokens and from the text of the tokenizer; everything else stays."""

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import pii
from pipelines.masking import REPLACEMENTS, all_cuts, count_cuts, cut_texts
from pipelines.tokenize import stage as tokenize
from pipelines.tokenizer_train import stage as tokenizer_train
from schemas.cuts import CUT_FILE, CUTS
from schemas.documents import DOCUMENTS
from schemas.errors import ConfigError, DataError
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.labels import PII_KINDS
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import read_table, write_table
from sluice import road
from tests.annotators.documents import documents
from tokenizer.qwen import Tokenizer
from tokenizer.train import train

ALL = list(PII_KINDS)
TEXT = (
    "Jané <jane@example.net>, 電話 +49 30 1234567, 86.121.97.248 und 2a00:1450:4001:81b::200e,\n"
    "DE89 3704 0044 0532 0130 00; Karte 4012 8888 8888 1881."
)
MASKED = (
    "Jané <email@example.com>, 電話 +1 202-555-0100, 192.0.2.1 und 2001:db8::1,\n"
    "GB82WEST12345698765432; Karte 4111 1111 1111 1111."
)


def spans_of(texts: list[str]) -> pa.ListArray:
    return pii.annotate(documents(texts))["pii"]


def cuts_for(texts: pa.Array, spans: pa.ListArray, kinds: list[str]) -> pa.ListArray:
    return all_cuts(texts, pa.table({"pii": spans}), kinds)


def masked(texts: pa.Array, spans: pa.ListArray, kinds: list[str]) -> pa.LargeStringArray:
    return cut_texts(texts, cuts_for(texts, spans, kinds))


def test_each_kind_has_a_value_of_its_own() -> None:
    texts = pa.array([TEXT, "", "no data"], pa.large_string())
    spans = spans_of(texts.to_pylist())
    assert masked(texts, spans, ALL).to_pylist() == [MASKED, "", "no data"]
    assert masked(texts, spans, ["email"]).to_pylist()[0] == TEXT.replace("jane@example.net", "email@example.com")
    assert count_cuts(cuts_for(texts, spans, ["ip", "email"]), texts) == {"masked/email": 1, "masked/ip": 2}
    assert set(REPLACEMENTS) == set(PII_KINDS)


PARTS = st.sampled_from(
    [
        "jane@example.net",
        " ",
        "\n",
        "é",
        "日本",
        "+49 30 1234567",
        "86.121.97.248",
        "word",
        "4012 8888 8888 1881",
        "Tel. 1234567",
    ]
)


@settings(max_examples=100)
@given(
    st.lists(st.lists(PARTS | st.text(max_size=4), max_size=8).map("".join), max_size=4), st.sets(st.sampled_from(ALL))
)
def test_nothing_but_the_spans_changes(texts: list[str], kinds: set[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    spans = spans_of(texts)
    done = masked(pa.array(texts, pa.large_string()), spans, sorted(kinds))
    for text, found, result in zip(texts, spans.to_pylist(), done.to_pylist()):
        data, place = result.encode(), 0
        before = 0
        for span in (span for span in found if span["kind"] in kinds):
            kept = text.encode()[before : span["begin"]]
            assert data[place : place + len(kept)] == kept
            place += len(kept)
            values = {REPLACEMENTS[span["kind"]].encode()} | ({b"2001:db8::1"} if span["kind"] == "ip" else set())
            value = next(value for value in values if data[place:].startswith(value))
            place += len(value)
            before = span["end"]
        assert data[place:] == text.encode()[before:]


class Silent:
    def update(self, done, total, unit, note=""):
        assert 0 <= done <= total


def make_recipe(kinds: list[str], **sections) -> Recipe:
    return Recipe.model_validate(
        {"name": "test", "sources": [{"name": "here", "path": "."}], "mask": {"pii": kinds}, **sections}
    )


def dataset(folder, name, files=()):
    write_manifest(str(folder), Manifest(stage=name, version=1, key="k", config={}, inputs={}, files=list(files)))
    return str(folder)


def corpus(folder, shards: list[list[str]], labels: bool = True) -> dict[str, str]:
    files: dict[str, list] = {"extract": [], "annotate": []}
    for index, texts in enumerate(shards):
        batch = pa.RecordBatch.from_pylist(
            [
                {"document_id": document_id("here", str(index), str(row)), "text_hash": text_hash(text), "text": text}
                | {"source": "here", "path": str(index), "locator": str(row), "metadata": [], "pages": []}
                for row, text in enumerate(texts)
            ],
            schema=DOCUMENTS,
        )
        name = f"{index:05d}.parquet"
        files["extract"].append(write_table(f"{folder}/extract", f"documents/{name}", batch))
        files["annotate"].append(write_table(f"{folder}/annotate", f"pii/{name}", pii.annotate(batch)))
    wanted = files if labels else {"extract": files["extract"]}
    return {stage: dataset(folder / stage, stage, entries) for stage, entries in wanted.items()}


SHARDS = [[TEXT, "nothing here", TEXT + " More."], [], ["jane@example.net " * 3]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train([TEXT, MASKED] * 3, 400, folder)
    return dataset(folder, "tokenizer")


def tokens(folder, inputs, tokenizer, kinds, *options):
    folder.mkdir(parents=True, exist_ok=True)
    done = tokenize.run(Job(make_recipe(kinds), inputs | {"tokenizer": tokenizer}, str(folder), Silent(), options))
    decode = Tokenizer.load(tokenizer).decode
    texts = [
        [decode(np.array(row)) for row in read_table(str(folder / entry.path))["tokens"].to_pylist()]
        for entry in done.files
    ]
    return done, texts


def test_token_shards_hold_the_masked_text(tmp_path, tokenizer) -> None:
    inputs = corpus(tmp_path, SHARDS)
    plain, texts = tokens(tmp_path / "plain", inputs, tokenizer, [])
    assert texts == SHARDS and "masked" not in plain.extra
    one, texts = tokens(tmp_path / "one", inputs, tokenizer, ALL)
    assert texts == [[MASKED, "nothing here", MASKED + " More."], [], ["email@example.com " * 3]]
    assert one.extra["masked"] == {"credit_card": 2, "email": 5, "iban": 2, "ip": 4, "phone": 2}


@pytest.mark.slow
def test_two_workers_mask_the_same(tmp_path, tokenizer) -> None:
    inputs = corpus(tmp_path, SHARDS)
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert tokens(tmp_path / "two", inputs, tokenizer, ALL, *workers) == tokens(
        tmp_path / "one", inputs, tokenizer, ALL
    )


def test_a_tokenizer_never_sees_what_is_masked(tmp_path) -> None:
    inputs = corpus(tmp_path, [["jane@example.net wrote. " * 40], ["And email@example.com did. " * 40]])
    section = {"tokenizer": {"vocabulary_size": 512}}

    def pieces(kinds: list[str]) -> str:
        out = tmp_path / f"tokenizer{len(kinds)}"
        tokenizer_train.run(Job(make_recipe(kinds, **section), inputs, str(out), Silent()))
        return (out / "tokenizer.json").read_text()

    assert "jane" in pieces([]) and "jane" not in pieces(["email"])


def test_masking_without_the_labels_is_refused(tmp_path, tokenizer) -> None:
    inputs = corpus(tmp_path, SHARDS, labels=False)
    with pytest.raises(DataError, match="annotate"):
        tokens(tmp_path / "out", inputs, tokenizer, ["email"])
    with pytest.raises(DataError, match="annotate"):
        tokenizer_train.run(Job(make_recipe(["email"]), inputs, str(tmp_path / "tok"), Silent()))
    with pytest.raises(ConfigError, match="pii"):
        road.STAGES["tokenize"].config(make_recipe(["email"], annotate={"labels": ["language"]}))


def test_a_change_of_the_mask_makes_tokens_anew_and_labels_not() -> None:
    changed = {
        stage.name
        for stage in road.ROAD
        if stage.name in ("extract", "annotate", "filter", "dedup", "split", "tokenizer", "tokenize")
        and stage.config(make_recipe([])) != stage.config(make_recipe(["email"]))
    }
    assert changed == {"tokenizer", "tokenize"}


# ----------------------------------------------------------------------------------------------------------- cuts


def removal(text: str, part: str, reason: str) -> dict:
    begin = len(text[: text.index(part)].encode())
    return {"begin": begin, "end": begin + len(part.encode()), "reason": reason, "replacement": ""}


def with_cuts(folder, inputs: dict[str, str], stage: str, shards: list[list[list[dict]]]) -> dict[str, str]:
    """`inputs` and the dataset of a stage that cut these spans out of the documents."""
    files = []
    for index, cuts in enumerate(shards):
        name = f"{index:05d}.parquet"
        keys = read_table(f"{inputs['extract']}/documents/{name}", ["document_id", "id", "text_hash"])
        table = pa.table([*keys.columns, pa.array(cuts, CUTS)], schema=CUT_FILE)
        files.append(write_table(f"{folder}/{stage}", f"cuts/{name}", table))
    return inputs | {stage: dataset(folder / stage, stage, files)}


LINES = [["Début.\nMenu • Home\nThe tail.", "Menu • Home\n \n"], [], [TEXT]]


def cut_corpus(folder) -> dict[str, str]:
    inputs = corpus(folder, LINES)
    menus = [[[removal(text, "Menu • Home\n", "repeated_line")] for text in LINES[0]], [], [[]]]
    inputs = with_cuts(folder, inputs, "dedup", menus)
    item = [removal(LINES[0][0], "Home\nThe", "contaminated")]
    phone = [removal(TEXT, "30 1234567, 86", "contaminated")]  # the ends of two spans of personal data stand outside
    return with_cuts(folder, inputs, "decontaminate", [[item, []], [], [phone]])


def test_token_shards_are_without_the_cuts_of_earlier_stages(tmp_path, tokenizer) -> None:
    inputs = cut_corpus(tmp_path)
    done, texts = tokens(tmp_path / "out", inputs, tokenizer, ["phone", "ip"])
    half = TEXT.replace("+49 30 1234567, 86.121.97.248", "").replace("2a00:1450:4001:81b::200e", "2001:db8::1")
    assert texts == [["Début.\n tail.", ""], [], [half]]
    assert done.counts["documents"] == done.counts["train"] == 3
    assert done.extra["masked"] == {"phone": 0, "ip": 1}
    assert done.extra["cut"] == {
        "documents": 3,
        "emptied": 1,
        "spans": {"contaminated": 1, "repeated_line": 2},
        "bytes": {"contaminated": 29, "repeated_line": 14 + 17},
    }


def test_a_tokenizer_never_sees_what_was_cut(tmp_path) -> None:
    texts = ["jane@example.net " * 40 + "zyzzyva " * 9, "Another text. " * 40]
    inputs = corpus(tmp_path, [texts])
    inputs = with_cuts(tmp_path, inputs, "dedup", [[[removal(texts[0], "zyzzyva " * 9, "repeated_line")], []]])
    section = {"tokenizer": {"vocabulary_size": 512}}
    tokenizer_train.run(Job(make_recipe(["email"], **section), inputs, str(tmp_path / "tok"), Silent()))
    assert not {"zyz", "jane"} & set(regex.findall(r"zyz|jane|Another", (tmp_path / "tok/tokenizer.json").read_text()))


def test_cuts_of_other_documents_are_refused(tmp_path, tokenizer) -> None:
    inputs = cut_corpus(tmp_path)
    other = cut_corpus(tmp_path / "other")
    path = f"{other['dedup']}/cuts/00000.parquet"
    table = read_table(path)
    write_table(other["dedup"], "cuts/00000.parquet", table.take(pa.array([1, 0])))
    inputs["dedup"] = other["dedup"]
    with pytest.raises(DataError, match="cuts/00000"):
        tokens(tmp_path / "out", inputs, tokenizer, [])
    with pytest.raises(DataError, match="row 0"):
        section = {"tokenizer": {"vocabulary_size": 512}}
        tokenizer_train.run(Job(make_recipe([], **section), inputs, str(tmp_path / "tok"), Silent()))


def test_other_cuts_make_tokens_anew() -> None:
    for name in ("tokenizer", "tokenize"):
        assert {"dedup", "decontaminate"} <= set(road.STAGES[name].uses)
