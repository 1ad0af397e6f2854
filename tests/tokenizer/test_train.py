"""Training, against the reference trainer of Hugging Face tokenizers and a plain count with `regex`."""

import json
import random
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

import tokenizer.train
from schemas.errors import ConfigError
from tokenizer.qwen import ADDED_TOKENS, BYTE_ORDER, PATTERN, Tokenizer, to_nfc
from tokenizer.train import count_all, count_pre_tokens, find_merges, merge_counts, train, train_from_counts

SHARED = Path(__file__).parents[3] / "shared" / "data"


def reference_merges(texts: list[str], wanted: int) -> list[tuple[str, str]]:
    reference = tokenizers.Tokenizer(models.BPE())
    reference.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=256 + wanted,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(texts, trainer)
    return [tuple(merge) for merge in json.loads(reference.to_str())["model"]["merges"]]


def written_merges(folder: Path) -> list[tuple[str, str]]:
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    return [tuple(merge.split(" ")) for merge in merges]


# Few letters make many ties, overlaps (aaaa) and chains of merges; one piece stays within the cap.
_WORDS = st.text(st.sampled_from("aaab c\n.é中\u0301"), max_size=60)


@settings(max_examples=150)
@given(texts=st.lists(_WORDS, max_size=12), wanted=st.integers(0, 80))
def test_merges_equal_the_reference_trainer(texts: list[str], wanted: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("trained")
    summary = train(texts, 256 + len(ADDED_TOKENS) + wanted, folder)
    expected = reference_merges(texts, wanted)
    assert written_merges(folder) == expected
    assert summary["merges"] == len(expected)
    assert summary["short_of_request"] == wanted - len(expected)


@pytest.mark.shared_data
def test_merges_equal_the_reference_trainer_on_119_languages(tmp_path: Path) -> None:
    path = SHARED / "languages" / "dev.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    texts = pl.read_parquet(path, columns=["text"])["text"].to_list()[:2500]
    texts = [t for t in texts if max(map(len, regex.findall(PATTERN, t))) <= tokenizer.train.PIECE_CHARACTERS]
    train(texts, 3000, tmp_path)
    assert written_merges(tmp_path) == reference_merges(texts, 3000 - 26 - 256)


_ANY = st.characters(codec="utf-8", exclude_characters="\U0010ffff") | st.sampled_from(" \n\r\t'sSa1.\u00a0\x1c")


@settings(max_examples=300)
@given(st.lists(st.text(_ANY, max_size=40), max_size=5))
def test_pieces_equal_the_pattern(texts: list[str]) -> None:
    """The automaton pattern cuts exactly where Qwen's pattern, with its look-ahead, does."""
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    expected = Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(to_nfc(text)))
    counts = count_pre_tokens(texts)
    assert dict(counts.rows()) == dict(expected)


def test_long_pieces_count_by_their_beginning() -> None:
    counts = merge_counts([count_pre_tokens(["中" * 1000 + " " + "x" * 100_000])])
    assert counts.rows() == [(" " + "x" * 63, 1), ("中" * 64, 1)]
    assert max(len(piece.encode()) for piece in counts["piece"]) <= 256


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    rng = random.Random(7)
    syllables = ["ka", "mi", "ро", "да", "中文", "ção", "ing", "th", "'s", "  ", "\n\n", "12", "न", "😀"]
    return ["".join(rng.choice(syllables) + rng.choice(["", " "]) for _ in range(60)) for _ in range(400)]


def test_order_and_batching_do_not_matter(corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(corpus, 700, tmp_path / "a")
    train(iter(corpus), 700, tmp_path / "b")
    shuffled = corpus.copy()
    random.Random(1).shuffle(shuffled)
    monkeypatch.setattr(tokenizer.train, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(tokenizer.train, "MERGE_ROWS", 500)
    train(shuffled, 700, tmp_path / "c")
    tables = [count_all(corpus[300:]), count_all(corpus[:300])]
    train_from_counts(merge_counts(tables), 700, tmp_path / "d")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(tmp_path / run / file).read_bytes() for run in "abcd"}) == 1


def test_trained_tokenizer_encodes(corpus: list[str], tmp_path: Path) -> None:
    summary = train(corpus, 700, tmp_path)
    ours = Tokenizer.load(tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.vocabulary_size == summary["vocabulary_size"] == reference.get_vocab_size()
    for text in [*corpus[:50], "never seen: žluťoučký ქართული \x00\x7f", ""]:
        assert ours.encode(text) == reference.encode(text).ids
        assert ours.decode(ours.encode(text)) == to_nfc(text)
    assert {ours.token_bytes(i) for i in range(256)} == {bytes([b]) for b in range(256)}
    assert [name for name, _ in ADDED_TOKENS] == sorted(ours.added_tokens, key=ours.added_tokens.__getitem__)
    assert ours.end_of_document == ours.vocabulary_size - 26


def test_little_text_gives_a_small_vocabulary(tmp_path: Path) -> None:
    summary = train(["low lower lowest"], 50_000, tmp_path)
    assert summary["vocabulary_size"] == 256 + 26 + summary["merges"] < 300
    assert summary["short_of_request"] == 50_000 - summary["vocabulary_size"]
    assert train([], 300, tmp_path)["merges"] == 0
    assert Tokenizer.load(tmp_path).encode("ab") == [BYTE_ORDER.index(b"a"), BYTE_ORDER.index(b"b")]


def test_counts_beyond_32_bits() -> None:
    """A web corpus holds more than 2**32 spaces; the most frequent pair must stay the first."""
    counts = pl.DataFrame({"piece": ["th", "xy"], "count": [3 * 2**32, 5]})
    assert find_merges(counts, 2) == [
        (BYTE_ORDER.index(b"t"), BYTE_ORDER.index(b"h")),
        (BYTE_ORDER.index(b"x"), BYTE_ORDER.index(b"y")),
    ]


def test_size_without_room_for_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 282"):
        train(["text"], 281, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
