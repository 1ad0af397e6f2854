"""The order in which a reader takes the pieces of a page.

The order of the file is right for nearly all files, and what geometry says is a guess. So pieces are only sorted where
the file jumps back: up in the same column, or up to a column that was read before.

Source of the sort: T. M. Breuel, High Performance Document Layout Analysis, 2003, section on reading order.
"""

from collections.abc import Sequence
from itertools import pairwise

from pipelines.extract.page import Box

_MOST_PIECES = 300  # the sort compares all pairs
_COLUMN_HEIGHT = 30.0  # points: what is lower is no column that could be read too late
_OVERLAP = 0.25  # of the narrower piece: less is taken for side by side


def jumps_back(boxes: Sequence[Box], rtl: bool = False) -> bool:
    """Whether the file's order of these boxes reads against the page somewhere."""
    for before, after in pairwise(boxes):
        if (after[1] + after[3]) / 2 < before[1]:  # up
            if _overlap(before, after) > 0:
                return True
        else:  # below or beside: only from one column to another that should have been read before it
            beside = min(before[3], after[3]) - max(before[1], after[1])
            heights = before[3] - before[1], after[3] - after[1]
            if min(heights) < _COLUMN_HEIGHT or beside < min(heights) / 2 or _overlap(before, after) > 0:
                continue
        if (after[0] > before[0]) if rtl else (after[0] < before[0]):
            return True
    return False


def reading_order(boxes: Sequence[Box], rtl: bool = False) -> list[int]:
    """The indexes of the boxes in reading order: columns after each other, between the pieces that span them.

    The order of the file is kept where geometry says nothing, and for more boxes than `_MOST_PIECES`.
    """
    count = len(boxes)
    if count > _MOST_PIECES:
        return list(range(count))
    if rtl:
        boxes = [(-right, top, -left, bottom) for left, top, right, bottom in boxes]
    shares = [{b for b in range(count) if a != b and _overlap(boxes[a], boxes[b]) > 0} for a in range(count)]
    after: list[set[int]] = [set() for _ in boxes]
    waits = [0] * count
    for a in range(count):
        for b in range(count):
            if a != b and _precedes(boxes, shares, a, b):
                after[a].add(b)
                waits[b] += 1
    order: list[int] = []
    left = set(range(count))
    while left:
        free = [index for index in left if waits[index] == 0]
        if not free:  # should the rules run in a circle, the highest piece goes first
            chosen = min(left, key=lambda index: (boxes[index][1], boxes[index][0]))
        else:
            # Go on where the last piece leads before anything else that is free.
            near = [index for index in free if order and index in after[order[-1]]]
            chosen = min(near or free, key=lambda index: (boxes[index][1], boxes[index][0]))
        order.append(chosen)
        left.remove(chosen)
        for index in after[chosen]:
            waits[index] -= 1
    return order


def _overlap(a: Box, b: Box) -> float:
    """The width that two boxes share, 0 where it is too little to count."""
    shared = min(a[2], b[2]) - max(a[0], b[0])
    return shared if shared > _OVERLAP * min(a[2] - a[0], b[2] - b[0]) else 0.0


def _precedes(boxes: Sequence[Box], shares: Sequence[set[int]], a: int, b: int) -> bool:
    first, second = boxes[a], boxes[b]
    if b in shares[a]:
        middle_a, middle_b = first[1] + first[3], second[1] + second[3]
        return middle_a < middle_b or (middle_a == middle_b and a < b)
    if first[0] >= second[0]:
        return False
    # Side by side: the left one first, unless it lies below a piece that spans both and the right one above that.
    low, high = (first[1] + first[3]) / 2 + 1, (second[1] + second[3]) / 2 - 1
    if high >= low:
        return True
    return not any(boxes[index][3] < low and boxes[index][1] > high for index in shares[a] & shares[b])
