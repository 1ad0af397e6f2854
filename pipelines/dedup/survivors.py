"""Which document of a component survives.

Workers that hold different documents of a component each say which of theirs is the best, in one SUMMARY record; the
best of these is the best of all. So a component of any size costs no worker more than one record of every shard.
"""

import numpy as np

from pipelines.groups import borders

NO_DATE = b"\xff"  # sorts after every date

SUMMARY = np.dtype(
    [
        ("component", "<u8"),
        ("shard", "<u8"),
        ("run", "<i4"),  # 1, 2, ...: of this one of the earlier runs; 0: of this run
        ("priority", "<i8"),
        ("quality", "<f8"),
        ("length", "<i8"),  # characters
        ("date", "S32"),
        ("id", "<u8", 2),
        ("exact", "<u8", 2),
        ("address", "<u8", 2),  # zeros for none
        ("cluster", "<u8", 2),  # smallest id, or the cluster of an earlier run
        ("size", "<i8"),  # documents
    ]
)

CHOICE = np.dtype(
    [
        ("component", "<u8"),
        ("run", "<i4"),  # of the survivor
        ("survivor", "<u8", 2),
        ("exact", "<u8", 2),
        ("address", "<u8", 2),
        ("cluster", "<u8", 2),
        ("size", "<i8"),
    ]
)


def best(members: np.ndarray) -> np.ndarray:
    """One SUMMARY record for each component, sorted: its best document, its size and its cluster's name.

    The best document has the highest source priority, then the highest quality, then most characters, then the earliest
    date (NO_DATE comes last), then the smallest document id. One of an earlier run is better than any of this run, the
    first of several runs winning: what they kept stays kept. Its cluster is joined then, and the size is that of this
    cluster and of the documents of this run.
    """
    members = members[
        np.lexsort(
            (
                members["id"][:, 1],
                members["id"][:, 0],
                members["date"],
                -members["length"],
                -members["quality"],
                -members["priority"],
                members["run"],
                members["run"] == 0,
                members["component"],
            )
        )
    ]
    opens = borders(members["component"])
    begins, group = np.flatnonzero(opens), np.cumsum(opens) - 1
    found = members[begins]
    new = np.where(members["run"] > 0, 0, members["size"])
    found["size"] = np.bincount(group, new, len(begins)).astype(np.int64) + np.where(found["run"] > 0, found["size"], 0)
    by_name = np.lexsort((members["cluster"][:, 1], members["cluster"][:, 0], members["component"]))
    smallest = members["cluster"][by_name][begins]
    found["cluster"] = np.where(found["run"][:, None] > 0, found["cluster"], smallest)
    return found


def choices(summaries: np.ndarray) -> np.ndarray:
    """A CHOICE record for each of the SUMMARY records, which are all of their components, in their order."""
    winners = best(summaries)
    place = np.searchsorted(winners["component"], summaries["component"])
    found = np.empty(len(summaries), CHOICE)
    for name in ("component", "run", "exact", "address", "cluster", "size"):
        found[name] = winners[name][place]
    found["survivor"] = winners["id"][place]
    return found
