"""What a run keeps so that later runs can be compared with it, and the earlier runs that a run is compared with.

    index/keys/<partition>.parquet     KEY records, sorted; at most IN_BUCKET documents of each key
    index/documents/<shard>.parquet    what choosing a survivor needs, of every document that took part
    index/shingles/<shard>.bin         where the run verifies candidates: see shingle_sets

Documents of earlier runs are referred to as those of further shards, behind the run's own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.dedup import kernels
from schemas import paths
from schemas.errors import ConfigError
from schemas.hashing import ID
from schemas.manifest import Manifest, read_manifest
from schemas.recipe import Dedup
from schemas.tables import read_table

INDEX = "index"
FORMAT = 1  # of the files below; a run tells it in its manifest
KEYS, DOCUMENTS, SHINGLES = f"{INDEX}/keys", f"{INDEX}/documents", f"{INDEX}/shingles"
IN_BUCKET = 16

KEY_TABLE = pa.schema([pa.field(name, pa.uint64(), nullable=False) for name in kernels.KEY.names or ()])
RANK = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the document shard
        pa.field("document_id", ID, nullable=False),
        pa.field("exact", ID, nullable=False),
        pa.field("address", ID, nullable=False),
        pa.field("priority", pa.int64(), nullable=False),
        pa.field("quality", pa.float64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("date", pa.string()),
    ]
)

SAME_SETTINGS = ("exact", "urls", "near", "ngram", "bands", "rows", "threshold", "permutations", "scope")


@dataclass(frozen=True)
class Earlier:
    """An earlier run; its shards are `first_shard`, `first_shard` + 1, ..."""

    folder: str
    first_shard: int
    documents: tuple[str, ...]  # relative paths, in the order of its shards
    decisions: tuple[str, ...]
    keys: dict[int, str]  # partition -> relative path; partitions without keys have none
    partitions: int


def find_index(path: str, config: Dedup, seed: int) -> tuple[str, Manifest]:
    """The folder and manifest of a `dedup` dataset with an index; `path` is that folder or the run that it is in.

    Raises ConfigError if there is none, or if it was made with other settings.
    """
    for folder in (path.rstrip("/"), paths.join(path, "dedup")):
        manifest = read_manifest(folder)
        if manifest is not None and manifest.stage == "dedup":
            break
    else:
        raise ConfigError(f"dedup.against: {path}: holds no duplicates of a finished run; give its folder")
    if INDEX not in manifest.extra:
        raise ConfigError(f"dedup.against: {path}: has no index; make it with `dedup.index: true` (--index)")
    if manifest.extra[INDEX]["format"] != FORMAT:
        raise ConfigError(f"dedup.against: {path}: its index is of another version of Sluice; make it again")
    mine: dict[str, Any] = {**config.model_dump(include=set(SAME_SETTINGS)), "seed": seed}
    for name, value in mine.items():
        if manifest.config.get(name) != value:
            raise ConfigError(
                f"dedup.against: {path}: was made with {name} {manifest.config.get(name)}, this run has {value}; "
                "only runs with equal settings can be compared"
            )
    if config.verify is not None and manifest.config.get("verify") is None:
        raise ConfigError(
            f"dedup.against: {path}: was made without `verify`, so it kept no shingles to verify candidates with"
        )
    return folder, manifest


def earlier_runs(config: Dedup, seed: int, first_shard: int, labelled: bool) -> tuple[Earlier, ...]:
    """The runs that `config.against` names; `labelled` says whether this run has labels of languages.

    Raises ConfigError where keys would differ because only one of two runs kept languages apart.
    """
    found = []
    for path in config.against:
        folder, manifest = find_index(path, config, seed)
        if config.near and config.verify is None and manifest.extra[INDEX]["languages"] != labelled:
            with_labels, without = ("this run", path) if labelled else (path, "this run")
            raise ConfigError(
                f"dedup.against: {with_labels} has labels of languages and {without} has none, so no near-duplicates "
                "would be found; annotate both or neither, or verify candidates in both"
            )
        documents = tuple(entry.path for entry in manifest.select(DOCUMENTS))
        decisions = tuple(entry.path for entry in manifest.select("decisions"))
        keys = {_partition(entry.path): entry.path for entry in manifest.select(KEYS)}
        found.append(Earlier(folder, first_shard, documents, decisions, keys, manifest.extra[INDEX]["partitions"]))
        first_shard += len(documents)
    return tuple(found)


def key_file(partition: int) -> str:
    return f"{KEYS}/{partition:05d}.parquet"


def _partition(path: str) -> int:
    """The inverse of `key_file`."""
    return int(path.removeprefix(f"{KEYS}/").removesuffix(".parquet"))


def key_table(keys: np.ndarray, opens: np.ndarray) -> pa.Table:
    """The table of an index of sorted KEY records; `opens` says where a key begins."""
    begins = np.flatnonzero(opens)
    place = np.arange(len(keys)) - begins[np.cumsum(opens) - 1]
    keys = keys[place < IN_BUCKET]
    return pa.table([np.ascontiguousarray(keys[name]) for name in KEY_TABLE.names], schema=KEY_TABLE)


def matching_keys(run: Earlier, keys: np.ndarray, partition: int, partitions: int) -> np.ndarray:
    """KEY records of an earlier run whose key may be among `keys`, the records of one of `partitions` partitions."""
    first = partition * run.partitions // partitions
    last = ((partition + 1) * run.partitions - 1) // partitions
    found = [np.empty(0, kernels.KEY)]
    for number in range(first, last + 1):
        if number not in run.keys:
            continue
        table = read_table(paths.join(run.folder, run.keys[number]))
        part = np.empty(table.num_rows, kernels.KEY)
        for name in KEY_TABLE.names:
            part[name] = table[name].to_numpy()
        part = part[np.isin(part["high"], keys["high"])]
        part["document"] += np.uint64(run.first_shard << 32)
        found.append(part)
    return np.concatenate(found)
