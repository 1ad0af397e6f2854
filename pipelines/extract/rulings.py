"""Drawn lines and rectangles of a page become the frames in which its tables stand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.extract.page import Box

_THIN = 3.0  # points: what is thinner is a line, what is thicker has edges
_SHORTEST = 4.0
_NEAR = 2.0  # points between lines that count as one, or as touching
_MOST = 800  # lines in one direction; a page with more is a drawing
_MOST_PIECES = 8000  # the same before pieces of one line are joined
_SAME_ENDS = 6.0  # points by which parallel lines of one table may differ at their ends
_FARTHEST = 0.6  # of the page's height between two parallel lines of one table
_HEADING = 30.0  # points between a frame and a line of its width above or below it


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line: its place across, and where it begins and ends along its direction."""

    at: float
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Lines that belong together: across (from left to right) and down."""

    box: Box
    across: list[Rule]
    down: list[Rule]


def frames(boxes: Iterable[Box], width: float, height: float) -> list[Frame]:
    """The frames on a page of that size: lines that touch, and parallel lines of one length."""
    across: list[Rule] = []
    down: list[Rule] = []
    for left, top, right, bottom in boxes:
        wide, high = right - left, bottom - top
        if wide > 0.97 * width and high > 0.97 * height:
            continue  # the paper
        if high <= _THIN:
            if wide >= _SHORTEST:
                across.append(Rule((top + bottom) / 2, left, right))
        elif wide <= _THIN:
            if high >= _SHORTEST:
                down.append(Rule((left + right) / 2, top, bottom))
        else:
            across += (Rule(top, left, right), Rule(bottom, left, right))
            down += (Rule(left, top, bottom), Rule(right, top, bottom))
    if len(across) < 2 or len(across) > _MOST_PIECES or len(down) > _MOST_PIECES:
        return []
    across, down = _merged(across), _merged(down)
    if len(across) > _MOST or len(down) > _MOST:
        return []
    if not down:
        return _stacked(across, height)
    meets = _meets(across, down)
    free = [across[index] for index in np.flatnonzero(~meets.any(axis=1)).tolist()]
    found = _touching(across, down, meets)
    if not free:
        return found
    return [_extended(frame, free) for frame in found] + _stacked(free, height)


def _merged(rules: list[Rule]) -> list[Rule]:
    """Pieces of one line as one."""
    merged: list[Rule] = []
    for group in _near([rule.at for rule in rules]):
        pieces = sorted((rules[index] for index in group), key=lambda rule: rule.begin)
        at = sum(rule.at for rule in pieces) / len(pieces)
        begin, end = pieces[0].begin, pieces[0].end
        for piece in pieces[1:]:
            if piece.begin > end + _NEAR:
                merged.append(Rule(at, begin, end))
                begin, end = piece.begin, piece.end
            end = max(end, piece.end)
        merged.append(Rule(at, begin, end))
    return [rule for rule in merged if rule.end - rule.begin >= 2 * _SHORTEST]


def _near(values: Sequence[float]) -> list[list[int]]:
    """Indices of values in groups that lie close together."""
    groups: list[list[int]] = []
    for index in sorted(range(len(values)), key=values.__getitem__):
        if groups and values[index] - values[groups[-1][0]] <= _NEAR:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def levels(values: Sequence[float]) -> list[float]:
    """Values in order, those that lie close together as one."""
    return [sum(values[index] for index in group) / len(group) for group in _near(values)]


def _meets(across: list[Rule], down: list[Rule]) -> npt.NDArray[np.bool_]:
    """Which lines across meet which lines down: [lines across, lines down]."""
    rows = np.array([(rule.at, rule.begin, rule.end) for rule in across])
    columns = np.array([(rule.at, rule.begin, rule.end) for rule in down])
    meets = (rows[:, 1, None] - _NEAR <= columns[None, :, 0]) & (columns[None, :, 0] <= rows[:, 2, None] + _NEAR)
    meets &= (columns[None, :, 1] - _NEAR <= rows[:, 0, None]) & (rows[:, 0, None] <= columns[None, :, 2] + _NEAR)
    return meets


def _touching(across: list[Rule], down: list[Rule], meets: npt.NDArray[np.bool_]) -> list[Frame]:
    """Lines that touch one another, directly or through others."""
    parent = list(range(len(across) + len(down)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row, column in zip(*(found.tolist() for found in np.nonzero(meets))):
        parent[root(row)] = root(len(across) + column)
    groups: dict[int, tuple[list[Rule], list[Rule]]] = {}
    for index, rule in enumerate(across + down):
        groups.setdefault(root(index), ([], []))[index >= len(across)].append(rule)
    return [_frame(*group) for group in groups.values() if len(group[0]) > 1 and group[1]]


def _extended(frame: Frame, across: list[Rule]) -> Frame:
    """A frame with the lines of its width shortly above and below it, such as that over the heading."""
    left, top, right, bottom = frame.box
    near = [
        rule
        for rule in across
        if abs(rule.begin - left) <= _NEAR
        and abs(rule.end - right) <= _NEAR
        and (0 < top - rule.at <= _HEADING or 0 < rule.at - bottom <= _HEADING)
    ]
    return _frame(frame.across + near, frame.down) if near else frame


def _stacked(free: list[Rule], height: float) -> list[Frame]:
    """Parallel lines of one length, one below the other, which no line crosses."""
    stacks: list[list[Rule]] = []
    for rule in sorted(free, key=lambda rule: (rule.at, rule.begin)):
        for stack in stacks:
            last = stack[-1]
            alike = abs(last.begin - rule.begin) <= _SAME_ENDS and abs(last.end - rule.end) <= _SAME_ENDS
            if alike and rule.at - last.at <= _FARTHEST * height:
                stack.append(rule)
                break
        else:
            stacks.append([rule])
    return [_frame(stack, []) for stack in stacks if len(stack) > 1]


def _frame(across: list[Rule], down: list[Rule]) -> Frame:
    left = min([rule.begin for rule in across] + [rule.at for rule in down])
    right = max([rule.end for rule in across] + [rule.at for rule in down])
    top = min([rule.at for rule in across] + [rule.begin for rule in down])
    bottom = max([rule.at for rule in across] + [rule.end for rule in down])
    return Frame((left, top, right, bottom), across, down)
