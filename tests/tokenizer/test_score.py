"""Scores, against sums over single documents."""

import pytest

from tokenizer.qwen import BYTE_ORDER, Tokenizer, write_tokenizer
from tokenizer.score import Score, score, total


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("small")
    a, b = BYTE_ORDER.index(b"a"), BYTE_ORDER.index(b"b")
    write_tokenizer(folder, [*(bytes([x]) for x in BYTE_ORDER), b"ab"], [(a, b)])
    return Tokenizer.load(folder)


def test_counts_by_language(tokenizer: Tokenizer) -> None:
    scores = score(["abab", "中", "a", "é", ""], ["eng", "zho", "eng", "fra", "fra"], tokenizer)
    assert list(scores) == ["eng", "fra", "zho"]
    assert scores["eng"] == Score(documents=2, bytes=5, tokens=3, single_bytes=0)
    assert scores["zho"] == Score(documents=1, bytes=3, tokens=3, single_bytes=3)
    assert scores["fra"] == Score(documents=2, bytes=2, tokens=2, single_bytes=2)
    assert scores["eng"].bytes_per_token == pytest.approx(5 / 3)
    assert scores["zho"].single_byte_share == 1.0
    assert scores["fra"].tokens_per_document == 1.0
    assert total(scores) == Score(documents=5, bytes=10, tokens=8, single_bytes=5)


def test_nothing_to_score(tokenizer: Tokenizer) -> None:
    assert score([], [], tokenizer) == {}
    empty = score([""], ["eng"], tokenizer)["eng"]
    assert (empty.bytes_per_token, empty.single_byte_share, empty.tokens_per_document) == (0.0, 0.0, 0.0)


def test_lengths_must_agree(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="2 texts but 1 languages"):
        score(["a", "b"], ["eng"], tokenizer)
