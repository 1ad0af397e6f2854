"""Thresholds of label columns for each language: the file, what it may hold, and which bounds a document gets.

The file is YAML for people and programs: what was fitted, from how much text, by which method. A bound of a language
wins over that of its script, and this over the default.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas import paths
from schemas.errors import ConfigError
from schemas.hashing import digest
from schemas.languages import LANGUAGES, script_of
from schemas.recipe import NO_THRESHOLDS, NUMERIC_LABELS, SHIPPED_THRESHOLDS, Range, UniqueKeys

SHIPPED_FILE = Path(__file__).with_name("thresholds.yaml")

Method = Literal["published", "mean-sigma", "quantile", "median-ratio", "median-minus-sigma"]
Count = Annotated[int, Field(ge=0)]

SCRIPTS: tuple[str, ...] = tuple(sorted({script_of(label) for label in LANGUAGES}))
"""ISO 15924 codes of the scripts of the 119 languages."""


class Bound(Range):
    """Bounds of one column, and what they were fitted from: the values of documents of the language."""

    method: Method = "published"
    mean: float | None = None
    sigma: float | None = None
    median: float | None = None


class Fitted(BaseModel):
    """The bounds of one language or script; `documents` counts what was seen of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: Count = 0
    bounds: dict[str, Bound] = {}


class Thresholds(BaseModel):
    """A file of thresholds. `unit` says what one document of the reference text was; see annotators.thresholds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    unit: Literal["document", "sentence"]
    documents: Count
    default: dict[str, Bound]
    scripts: dict[str, Fitted]
    languages: dict[str, Fitted]

    @field_validator("scripts")
    @classmethod
    def _known_scripts(cls, value: dict[str, Fitted]) -> dict[str, Fitted]:
        return _known("script", value, SCRIPTS)

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: dict[str, Fitted]) -> dict[str, Fitted]:
        return _known("language", value, LANGUAGES)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every label column that the file bounds for some language, sorted."""
        sections = [self.default, *(one.bounds for part in (self.scripts, self.languages) for one in part.values())]
        return tuple(sorted({column for bounds in sections for column in bounds}))

    def bounds(self, key: str) -> dict[str, Bound]:
        """Column -> bounds of a document: `key` is one of the 119 labels, or the script of a text in none of them."""
        script = script_of(key) if key in LANGUAGES else key
        fitted = (self.scripts.get(script), self.languages.get(key))
        return {**self.default, **{column: bound for one in fitted if one for column, bound in one.bounds.items()}}

    @property
    def hash(self) -> str:
        """Identity of what the file decides: evidence may differ."""
        keys = [*SCRIPTS, *LANGUAGES, ""]
        return digest(
            {key: {column: [bound.min, bound.max] for column, bound in self.bounds(key).items()} for key in keys}
        )


def _known(what: str, value: dict[str, Any], allowed: Any) -> dict[str, Any]:
    for name in value:
        if name not in allowed:
            raise ValueError(f"unknown {what} '{name}'")
    return value


def needs(thresholds: Thresholds) -> set[str]:
    """The annotators whose labels the file speaks of, and `language`, which chooses the bounds."""
    return {"language", *(NUMERIC_LABELS[column] for column in thresholds.columns)}


def find_thresholds(name: str) -> Thresholds | None:
    """What `filter.thresholds` names: the shipped file, none, or the file at a path; ConfigError if that is wrong."""
    if name == NO_THRESHOLDS:
        return None
    return shipped_thresholds() if name == SHIPPED_THRESHOLDS else read_thresholds(name)


@lru_cache(maxsize=1)
def shipped_thresholds() -> Thresholds:
    return read_thresholds(str(SHIPPED_FILE))


class _Loader(UniqueKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The file has a thousand lines, which libyaml reads ten times as fast."""


def read_thresholds(path: str) -> Thresholds:
    """Read and check a file of thresholds; ConfigError of one line for whatever is wrong with it."""
    try:
        value = yaml.load(paths.read_text(path), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the thresholds: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: thresholds are a mapping of keys, as `sluice quality fit` writes them")
    try:
        found = Thresholds.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    if unknown := sorted(set(found.columns) - set(NUMERIC_LABELS)):
        known = ", ".join(sorted(NUMERIC_LABELS))
        raise ConfigError(f"{path}: unknown label column '{unknown[0]}'; known are {known}")
    return found


def write_thresholds(path: str, thresholds: Thresholds, head: str) -> None:
    """Write a file that `read_thresholds` reads, after `head` as a comment; equal thresholds give equal bytes."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += [f"format: {thresholds.format}", f"unit: {thresholds.unit}", f"documents: {thresholds.documents}"]
    lines += ["default:", *_bounds(thresholds.default, 1)] if thresholds.default else ["default: {}"]
    for title, part in (("scripts", thresholds.scripts), ("languages", thresholds.languages)):
        lines.append(f"{title}:" if part else f"{title}: {{}}")
        for name, one in part.items():
            lines += [f"  {name}:", f"    documents: {one.documents}"]
            lines += ["    bounds:", *_bounds(one.bounds, 3)] if one.bounds else []
    paths.write_text(path, "\n".join(lines) + "\n")


def _bounds(bounds: Mapping[str, Bound], depth: int) -> list[str]:
    lines = []
    for column, bound in bounds.items():
        values = bound.model_dump(exclude_none=True)
        shown = ", ".join(f"{key}: {_number(value)}" for key, value in values.items())
        lines.append(f"{'  ' * depth}{column}: {{{shown}}}")
    return lines


def _number(value: float | str) -> str:
    """The shortest spelling that reads back as the same number, without an exponent, which YAML takes for text."""
    if isinstance(value, str):
        return value
    return np.format_float_positional(value, trim="-")
