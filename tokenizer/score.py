"""How well a vocabulary fits a text: the numbers the report shows, by language."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenizer.qwen import Tokenizer


@dataclass(frozen=True)
class Score:
    """Totals over some documents; `bytes` is the UTF-8 length of their NFC, `single_bytes` as in `score`."""

    documents: int
    bytes: int
    tokens: int
    single_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """Higher is a shorter sequence; 0 for no tokens."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def single_byte_share(self) -> float:
        """Share of tokens that are one byte of a longer character: what a vocabulary does with a script it lacks."""
        return self.single_bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_document(self) -> float:
        """On parallel documents, the ratio of two languages is their parity."""
        return self.tokens / self.documents if self.documents else 0.0


def score(texts: Sequence[str], languages: Sequence[str], tokenizer: Tokenizer) -> dict[str, Score]:
    """Score per language, in alphabetical order. Raises ValueError when the two sequences differ in length.

    A token counts as a single byte when its byte is 0x80 or more, so never a letter, digit or sign of its own.
    """
    if len(texts) != len(languages):
        raise ValueError(f"{len(texts)} texts but {len(languages)} languages")
    names, group = np.unique(np.asarray(languages, dtype=object), return_inverse=True)
    ids = tokenizer.encode_batch(texts)
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    flat = np.concatenate([*ids, np.empty(0, np.uint32)])
    group_of_token = np.repeat(group, lengths)
    sizes = tokenizer.bytes_per_token[flat]
    fragment = np.array([len(t) == 1 and t[0] >= 0x80 for t in map(tokenizer.token_bytes, range(256))])
    is_fragment = (flat < 256) & fragment[np.minimum(flat, 255)]
    documents = np.bincount(group, minlength=len(names))
    tokens = np.bincount(group_of_token, minlength=len(names))
    total_bytes = np.bincount(group_of_token, weights=sizes, minlength=len(names))
    fragments = np.bincount(group_of_token, weights=is_fragment, minlength=len(names))
    return {
        name: Score(int(documents[i]), int(total_bytes[i]), int(tokens[i]), int(fragments[i]))
        for i, name in enumerate(names)
    }


def total(scores: dict[str, Score]) -> Score:
    """All languages together."""
    parts = scores.values()
    return Score(
        documents=sum(s.documents for s in parts),
        bytes=sum(s.bytes for s in parts),
        tokens=sum(s.tokens for s in parts),
        single_bytes=sum(s.single_bytes for s in parts),
    )
