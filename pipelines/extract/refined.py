"""What became of a text that a language model was asked to repair, piece by piece, and where its places went."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Chunk:
    """A piece of the old text, `before` = text[begin:end], and what came of it.

    `after` is the model's last answer even where it was not accepted; then `reason` begins with a short class
    (numbers, addresses, structure, length, distance, preface, empty, cut off, no_answer, refused, too_long).
    """

    begin: int
    end: int
    before: str
    after: str
    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class Refined:
    """A text after refinement, and its pieces in their order."""

    text: str
    chunks: list[Chunk] = field(default_factory=list)

    def place(self, offset: int) -> int:
        """Where the character at `offset` of the old text is in the new one; never falls as `offset` rises.

        Inside a piece it is the place by the shortest edit from before to after.
        """
        begins, shifts = self._shifts
        index = bisect_right(begins, offset) - 1
        if index < 0:
            return offset
        chunk = self._accepted[index]
        if offset >= chunk.end:
            return offset + shifts[index + 1]
        start = chunk.begin + shifts[index]
        for edit in self._edits(index):
            if edit.src_start <= offset - chunk.begin < edit.src_end:
                return start + min(edit.dest_start + offset - chunk.begin - edit.src_start, edit.dest_end)
        raise AssertionError(f"{offset} is in no part of a piece")  # the parts cover all of it

    def move(self, spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """(page, begin, end) in characters of the old text -> the same of the new text."""
        return [(page, self.place(begin), self.place(end)) for page, begin, end in spans]

    @cached_property
    def _accepted(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.accepted]

    @cached_property
    def _shifts(self) -> tuple[list[int], list[int]]:
        shifts = [0]
        for chunk in self._accepted:
            shifts.append(shifts[-1] + len(chunk.after) - len(chunk.before))
        return [chunk.begin for chunk in self._accepted], shifts

    @cached_property
    def _known_edits(self) -> dict[int, Any]:
        return {}

    def _edits(self, index: int) -> Any:
        if index not in self._known_edits:
            chunk = self._accepted[index]
            self._known_edits[index] = Levenshtein.opcodes(chunk.before, chunk.after)
        return self._known_edits[index]
