"""The split: what is dropped, what is validation, what is training."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.documents import DROPPED, SPLIT, TRAIN, VALIDATION
from schemas.hashing import uniform
from schemas.labels import check_sidecar


def assign(keys: pa.Table, decisions: dict[str, pa.Table], validation: float, seed: int) -> pa.Table:
    """SPLIT of one shard, whose rows are those of `keys` (document_id, id, text_hash).

    `decisions` maps a stage (in the order of the road) to its decisions on this shard. The first stage that dropped a
    document is named in `dropped_by`. Whole clusters go to validation, chosen by a hash of the cluster, so that no
    near-duplicate of a validation document is ever trained on; without `dedup` a document is its own cluster.
    """
    dropped_by = np.full(keys.num_rows, None, dtype=object)
    for stage, table in decisions.items():
        check_sidecar(keys, table)
        drops = ~pc.fill_null(table["keep"], False).to_numpy().astype(bool)
        dropped_by[drops & (dropped_by == None)] = stage  # noqa: E711 - elementwise
    cluster = decisions["dedup"]["cluster_id"] if "dedup" in decisions else keys["document_id"]
    chosen = uniform(cluster.to_pylist(), seed, "split") < validation
    split = np.where(dropped_by != None, DROPPED, np.where(chosen, VALIDATION, TRAIN))  # noqa: E711
    return pa.table(
        [
            keys["document_id"],
            keys["id"],
            keys["text_hash"],
            pa.array(split.tolist(), pa.string()),
            pa.array(dropped_by.tolist(), pa.string()),
        ],
        schema=SPLIT,
    )
