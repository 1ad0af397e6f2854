"""What the runner hands to a stage and what it gets back."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileEntry, Manifest, require_manifest
from schemas.recipe import Recipe


class Progress(Protocol):
    """Where a stage shows how far it is; the face decides how that looks."""

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        """`done` of `total` units so far; may be called often and from another thread."""


@dataclass(frozen=True)
class Job:
    """One execution of one stage."""

    recipe: Recipe
    inputs: dict[str, str]  # name of a stage -> folder of its dataset
    output: str  # folder to write into; it becomes the dataset when the stage returns
    progress: Progress
    beam_options: tuple[str, ...] = ()

    def manifest(self, stage: str) -> Manifest:
        if stage not in self.inputs:
            raise DataError(f"stage '{stage}' has no dataset in this run")
        return require_manifest(self.inputs[stage], stage)

    def files(self, stage: str, folder: str) -> list[str]:
        """Full paths of the files of one sub-folder of an input dataset, in shard order."""
        return [paths.join(self.inputs[stage], entry.path) for entry in self.manifest(stage).select(folder)]

    def document_shards(self) -> list[str]:
        return self.files("extract", "documents")

    def sidecars(self, stage: str, folder: str) -> list[str] | None:
        """Sidecar files in the order of the document shards; None if the run has no such stage or folder."""
        if stage not in self.inputs:
            return None
        found = self.files(stage, folder)
        if not found:
            return None
        if len(found) != len(self.document_shards()):
            raise DataError(f"{self.inputs[stage]}/{folder}: {len(found)} sidecars for another number of shards")
        return found


@dataclass(frozen=True)
class Output:
    """What a stage says of its dataset; it goes into the manifest, so nothing in it may depend on time or place.

    Except `spent`: what this execution used up, such as the tokens of a model. It goes to run.json.
    """

    files: list[FileEntry]
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict, compare=False)
