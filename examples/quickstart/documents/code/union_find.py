"""Disjoint sets with union by size and path halving.

A collection of items starts as singletons. `union` merges the sets of two items and `find` names the set of an
item. A sequence of m operations on n items takes time almost proportional to m, because every search flattens
the path that it walks.
"""

from collections.abc import Iterable


class DisjointSets:
    """Sets over the items 0 .. count - 1."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))
        self.size = [1] * count

    def find(self, item: int) -> int:
        """The representative of the set that holds `item`; it is the same for all members of a set."""
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halve the path for the next search
            item = parent[item]
        return item

    def union(self, left: int, right: int) -> bool:
        """Merge two sets; return False if both items were in the same one already."""
        left, right = self.find(left), self.find(right)
        if left == right:
            return False
        if self.size[left] < self.size[right]:
            left, right = right, left
        self.parent[right] = left
        self.size[left] += self.size[right]
        return True


def components(count: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The connected components of an undirected graph, each in ascending order, ordered by smallest member."""
    sets = DisjointSets(count)
    for left, right in edges:
        sets.union(left, right)
    groups: dict[int, list[int]] = {}
    for item in range(count):
        groups.setdefault(sets.find(item), []).append(item)
    return sorted(groups.values())


def minimum_spanning_forest(count: int, edges: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Kruskal's algorithm: take edges from light to heavy unless they would close a cycle."""
    sets = DisjointSets(count)
    return [edge for edge in sorted(edges) if sets.union(edge[1], edge[2])]


if __name__ == "__main__":
    print(components(6, [(0, 1), (1, 2), (4, 5)]))
    print(minimum_spanning_forest(4, [(1.0, 0, 1), (4.0, 0, 2), (2.0, 1, 2), (3.0, 2, 3)]))
