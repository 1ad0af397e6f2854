"""The manifest: what makes a folder of files a dataset, and chains it back to its sources.

A manifest is byte-stable: the same inputs, configuration and stage version give the same bytes on every machine.
Times, hosts and durations belong in `run.json`, which no comparison reads.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas import paths
from schemas.errors import DataError
from schemas.hashing import digest

MANIFEST = "manifest.json"
FORMAT = 1


class FileEntry(BaseModel):
    """One file of a dataset; `path` is relative to the dataset's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    rows: int
    bytes: int
    hash: str
    tokens: int | None = None


class Manifest(BaseModel):
    """See the module. `counts` holds documents or tokens per outcome, `reasons` counts per reason or error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    stage: str
    version: int
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: list[FileEntry]
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    extra: dict[str, Any] = {}

    def select(self, folder: str) -> list[FileEntry]:
        """The files under one sub-folder of the dataset, in the manifest's order (sorted by path)."""
        return [entry for entry in self.files if entry.path.startswith(folder + "/")]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, exclude_none=True) + "\n"

    @property
    def hash(self) -> str:
        """Identity of the dataset: of its manifest, and so of everything behind it."""
        return digest(self.model_dump(mode="json", exclude_none=True))


def stage_key(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str]) -> str:
    """What a stage's output depends on; equal keys mean equal outputs."""
    return digest({"stage": stage, "version": version, "config": config, "inputs": inputs})


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of a dataset, or None if the folder holds no finished dataset."""
    path = paths.join(folder, MANIFEST)
    if not paths.exists(path):
        return None
    try:
        return Manifest.model_validate_json(paths.read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: not a manifest of format {FORMAT} ({where}: {first['msg']}); remove the folder to make it again"
        ) from error


def require_manifest(folder: str, stage: str) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(f"{folder}: no {MANIFEST}, so no finished '{stage}' dataset is here")
    if manifest.stage != stage:
        raise DataError(f"{folder}: holds a '{manifest.stage}' dataset where '{stage}' is needed")
    return manifest


def write_manifest(folder: str, manifest: Manifest) -> None:
    paths.write_text(paths.join(folder, MANIFEST), manifest.to_json())
