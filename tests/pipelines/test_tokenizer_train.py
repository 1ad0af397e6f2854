"""The stage that makes the tokenizer: what it is trained on, and what it takes over."""

import base64
import json
import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.tokenizer_train import stage
from pipelines.tokenizer_train.kernels import choose
from schemas.documents import DOCUMENTS, SPLIT
from schemas.errors import ConfigError, DataError
from schemas.hashing import document_id, text_hash
from schemas.job import Job
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import write_table
from tokenizer.qwen import ADDED_TOKENS, Tokenizer

WORDS = ["the", "river", "runs", "under", "an", "old", "stone", "bridge", "where", "children", "play", "every", "night"]


class Silent:
    def update(self, done, total, unit, note=""):
        assert 0 <= done <= total


def recipe(**tokenizer):
    tokenizer = {"vocabulary_size": 512} | tokenizer
    return Recipe.model_validate({"name": "test", "sources": [{"name": "here", "path": "."}], "tokenizer": tokenizer})


def text(i):
    return " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(20 + i % 30)) + f"\nÜber {i}.\n"


def dataset(folder, name, files):
    write_manifest(str(folder), Manifest(stage=name, version=1, key="k", config={}, inputs={}, files=files))
    return str(folder)


def corpus(folder, shards, split=None):
    """Inputs of a job; `shards`: lists of (name, text); `split`: name -> split."""
    documents, splits = [], []
    for i, shard in enumerate(shards):
        rows = [
            {"document_id": document_id("here", name, ""), "text_hash": text_hash(body), "text": body, "source": "here"}
            | {"path": name, "locator": "", "metadata": [], "pages": []}
            for name, body in shard
        ]
        documents.append(
            write_table(f"{folder}/extract", f"documents/{i:05d}.parquet", pa.Table.from_pylist(rows, DOCUMENTS))
        )
        labels = [
            {"document_id": row["document_id"], "text_hash": row["text_hash"], "split": (split or {})[row["path"]]}
            for row in rows
            if split
        ]
        splits.append(write_table(f"{folder}/split", f"split/{i:05d}.parquet", pa.Table.from_pylist(labels, SPLIT)))
    inputs = {"extract": dataset(folder / "extract", "extract", documents)}
    return inputs | ({"split": dataset(folder / "split", "split", splits)} if split else {})


def make(folder, inputs, a_recipe):
    done = stage.run(Job(a_recipe, inputs, str(folder / "out"), Silent()))
    return done, [(folder / "out" / entry.path).read_bytes() for entry in done.files]


DOCUMENTS_HERE = [(f"{i:03d}", text(i)) for i in range(60)]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.25, 0.5])), max_size=30),
    st.integers(1, 600),
    st.randoms(use_true_random=False),
)
@example([(0, 0.25), (1, 0.0)], 1, random.Random(1))  # an empty document after the limit is reached
def test_choice_is_the_shortest_prefix_by_hash_in_any_order(documents, most, order):
    keyed = [(draw, f"{i:016d}".encode(), size) for i, (size, draw) in enumerate(documents)]
    expected, total = set(), 0
    for _, key, size in sorted(keyed):
        if total < most:
            expected.add(key)
        total += size
    order.shuffle(keyed)
    draws, ids, sizes = ([one[i] for one in keyed] for i in range(3))
    chosen = choose(np.array(sizes, int), np.array(draws), np.array(ids, "S16"), most)
    assert {key for key, use in zip(ids, chosen) if use} == expected


def test_same_bytes_whatever_the_shards(tmp_path):
    one, first = make(tmp_path / "a", corpus(tmp_path / "a", [DOCUMENTS_HERE]), recipe(max_bytes=3000))
    shards = [DOCUMENTS_HERE[40:], [], DOCUMENTS_HERE[:40][::-1]]
    two, second = make(tmp_path / "b", corpus(tmp_path / "b", shards), recipe(max_bytes=3000))
    assert first == second
    assert one == two
    assert [entry.path for entry in one.files] == ["tokenizer.json", "tokenizer_config.json"]
    assert 3000 <= one.extra["text_bytes"] < 3300
    assert one.extra["documents"] < one.extra["documents_available"] == 60
    tokenizer = Tokenizer.load(tmp_path / "a" / "out")
    assert tokenizer.vocabulary_size == one.extra["vocabulary_size"] <= one.extra["requested_vocabulary_size"] == 512
    assert tokenizer.decode(tokenizer.encode(text(3))) == text(3)


@pytest.mark.parametrize("other", ["validation", "dropped"])
def test_only_training_documents_are_read(tmp_path, monkeypatch, other):
    secret = [(f"x{i}", "zyzzyva quokka xylophone " * 40) for i in range(20)]
    split = {name: "train" for name, _ in DOCUMENTS_HERE} | {name: other for name, _ in secret}
    shards = [DOCUMENTS_HERE[:30] + secret[:10], secret[10:] + DOCUMENTS_HERE[30:]]
    seen = []
    train = stage.train

    def watched(texts, size, folder):
        return train((seen.append(one) or one for one in texts), size, folder)

    monkeypatch.setattr(stage, "train", watched)
    done, with_others = make(tmp_path / "a", corpus(tmp_path / "a", shards, split), recipe())
    assert sorted(seen) == sorted(body for _, body in DOCUMENTS_HERE)
    assert done.extra["text_bytes"] == sum(len(body.encode()) for _, body in DOCUMENTS_HERE)
    _, alone = make(tmp_path / "b", corpus(tmp_path / "b", [DOCUMENTS_HERE]), recipe())
    assert with_others == alone


def test_nothing_to_train_on_is_an_error(tmp_path):
    split = {name: "dropped" for name, _ in DOCUMENTS_HERE}
    with pytest.raises(DataError, match=r"no training document has any text.*tokenizer\.path"):
        make(tmp_path, corpus(tmp_path, [DOCUMENTS_HERE], split), recipe())


def test_an_existing_tokenizer_is_taken_over_as_it_is(tmp_path):
    inputs = corpus(tmp_path / "a", [DOCUMENTS_HERE])
    _, original = make(tmp_path / "a", inputs, recipe())
    folder = tmp_path / "a" / "out"
    done, copied = make(tmp_path / "b", inputs, recipe(path=str(folder)))
    assert copied == original
    assert done.extra == {"vocabulary_size": Tokenizer.load(folder).vocabulary_size}
    # A tokenizer.json alone, under any name: the configuration is that of training.
    (tmp_path / "mine.json").write_bytes(original[0])
    _, made = make(tmp_path / "c", inputs, recipe(path=str(tmp_path / "mine.json")))
    assert made == original


def test_a_rank_file_becomes_the_tokenizer_it_was_made_of(tmp_path):
    inputs = corpus(tmp_path, [DOCUMENTS_HERE])
    trained, original = make(tmp_path / "a", inputs, recipe())
    size = trained.extra["vocabulary_size"] - len(ADDED_TOKENS)
    tokens = [Tokenizer.load(tmp_path / "a" / "out").token_bytes(rank) for rank in range(size)]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (tmp_path / "own.tiktoken").write_text("".join(lines))
    done, made = make(tmp_path / "b", inputs, recipe(path=str(tmp_path / "own.tiktoken")))
    assert made == original
    assert [entry.path for entry in done.files] == ["tokenizer.json", "tokenizer_config.json"]
    assert done.extra == {"vocabulary_size": trained.extra["vocabulary_size"]}
    (tmp_path / "own.tiktoken").write_text("".join(lines[:300] + lines[301:]))
    with pytest.raises(ConfigError, match=r"own\.tiktoken:301: rank 301 where 300 was expected"):
        make(tmp_path, inputs, recipe(path=str(tmp_path / "own.tiktoken")))
    with pytest.raises(ConfigError, match=r"tokenizer\.path: there is no .*none\.tiktoken"):
        make(tmp_path, inputs, recipe(path=str(tmp_path / "none.tiktoken")))


def test_a_tokenizer_that_cannot_be_used_is_an_error(tmp_path):
    inputs = corpus(tmp_path, [DOCUMENTS_HERE])
    with pytest.raises(ConfigError, match=r"tokenizer\.path: there is no .*nowhere/tokenizer\.json"):
        make(tmp_path, inputs, recipe(path=str(tmp_path / "nowhere")))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        make(tmp_path, inputs, recipe(path=str(tmp_path)))
    _, (good, _) = make(tmp_path / "good", inputs, recipe())
    content = json.loads(good)
    assert [token["content"] for token in content["added_tokens"]] == [name for name, _ in ADDED_TOKENS]
    content["added_tokens"][5]["content"] = "<|something_else|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match=r"other added tokens than Qwen3, so its tokenizer_config\.json must lie beside"
    ):
        make(tmp_path, inputs, recipe(path=str(tmp_path)))


def test_a_bad_file_of_a_tokenizer_is_named_where_it_lies(tmp_path):
    inputs = corpus(tmp_path, [DOCUMENTS_HERE])
    own = tmp_path / "own"
    own.mkdir()
    (own / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=rf"{own}/tokenizer\.json: not JSON"):
        make(tmp_path / "a", inputs, recipe(path=str(own)))
    _, (good, _) = make(tmp_path / "good", inputs, recipe())
    (own / "tokenizer.json").write_bytes(good)
    (own / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ConfigError, match=rf"{own}/tokenizer_config\.json: .*not a JSON object"):
        make(tmp_path / "b", inputs, recipe(path=str(own)))


def test_training_text_is_normalised(tmp_path):
    composed = [(name, unicodedata.normalize("NFC", body)) for name, body in DOCUMENTS_HERE]
    decomposed = [(name, unicodedata.normalize("NFD", body)) for name, body in DOCUMENTS_HERE]
    assert composed != decomposed
    _, one = make(tmp_path / "a", corpus(tmp_path / "a", [composed]), recipe())
    _, two = make(tmp_path / "b", corpus(tmp_path / "b", [decomposed]), recipe())
    assert one == two
