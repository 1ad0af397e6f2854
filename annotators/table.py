"""Annotators by name. A module is imported when it is asked for, because the models come with fastText."""

from importlib import import_module
from types import ModuleType

from schemas.errors import ConfigError
from schemas.labels import ANNOTATORS


def annotator(name: str) -> ModuleType:
    """The module of an annotator: it offers `VERSION` and `annotate(batch) -> batch`.

    Raises ConfigError for a name that is not in schemas.labels.ANNOTATORS.
    """
    if name not in ANNOTATORS:
        raise ConfigError(f"there is no annotator {name!r}; choose from {', '.join(ANNOTATORS)}")
    return import_module(f"annotators.{name}")
