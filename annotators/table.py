"""Annotators by name. A module is imported when it is asked for, because the models come with fastText."""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

import pyarrow as pa

from schemas.errors import ConfigError
from schemas.labels import ANNOTATORS


def annotator(name: str) -> ModuleType:
    """The module of an annotator: it offers `VERSION` and `annotate(batch, ...) -> batch`.

    A module that judges by the labels of others names them in `NEEDS`; `annotate` takes their sidecars of the batch.
    Raises ConfigError for a name that is not in schemas.labels.ANNOTATORS.
    """
    if name not in ANNOTATORS:
        raise ConfigError(f"there is no annotator {name!r}; choose from {', '.join(ANNOTATORS)}")
    return import_module(f"annotators.{name}")


def needs(name: str) -> tuple[str, ...]:
    """The annotators whose labels an annotator judges by."""
    return getattr(annotator(name), "NEEDS", ())


def with_needs(names: Iterable[str]) -> list[str]:
    """`names` and all annotators that they need, sorted."""
    return sorted({needed for name in names for needed in (name, *with_needs(needs(name)))})


def annotate(batch: pa.RecordBatch, names: Iterable[str]) -> dict[str, pa.RecordBatch]:
    """Sidecars of `batch` (columns as in DOCUMENTS) by annotator: of `names`, and of those that they need."""
    done: dict[str, pa.RecordBatch] = {}

    def sidecar(name: str) -> pa.RecordBatch:
        if name not in done:
            done[name] = annotator(name).annotate(batch, *map(sidecar, needs(name)))
        return done[name]

    for name in names:
        sidecar(name)
    return done
