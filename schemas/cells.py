"""Label cells: language group x domain x educational bin, the unit of mixtures and of losses."""

from collections.abc import Mapping

ANY = "*"


def cell(group: str, domain: str, educational_bin: int) -> str:
    """The name of a cell, for example `english/mathematics/3`."""
    return f"{group}/{domain}/{educational_bin}"


def merge_small(tokens: Mapping[str, int], minimum: int) -> dict[str, str]:
    """Map every cell to itself or, if it holds fewer than `minimum` tokens, to a wider one.

    Cells of one group and domain are joined over the educational bins first (`english/mathematics/*`), then all
    domains of a group (`english/*/*`), then everything (`*/*/*`, kept whatever its size).
    """
    merged = {name: name for name in tokens}
    for level in (2, 1, 0):
        sizes: dict[str, int] = {}
        for name, target in merged.items():
            sizes[target] = sizes.get(target, 0) + tokens[name]
        for name, target in merged.items():
            if sizes[target] < minimum:
                parts = target.split("/")
                merged[name] = "/".join([*parts[:level], *[ANY] * (3 - level)])
    return merged
