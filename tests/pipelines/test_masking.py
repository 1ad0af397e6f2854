"""What is masked is gone from the tokens and from the text of the tokenizer; everything else stays."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import pii
from pipelines.masking import REPLACEMENTS, count_masked, masked
from pipelines.tokenize import stage as tokenize
from pipelines.tokenizer_train import stage as tokenizer_train
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


def test_each_kind_has_a_value_of_its_own() -> None:
    texts = pa.array([TEXT, "", "no data"], pa.large_string())
    spans = spans_of(texts.to_pylist())
    assert masked(texts, spans, ALL).to_pylist() == [MASKED, "", "no data"]
    assert masked(texts, spans, ["email"]).to_pylist()[0] == TEXT.replace("jane@example.net", "email@example.com")
    assert count_masked(spans, ["ip", "email"]) == {"masked/email": 1, "masked/ip": 2}
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
