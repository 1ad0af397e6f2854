"""The files of every source, in an order that does not depend on the disk.

Imports no Beam: the runner lists the sources to tell whether anything changed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.extract import python_environment
from schemas import paths
from schemas.errors import ConfigError
from schemas.recipe import Recipe, Source

WILDCARDS = "*?["


@dataclass(frozen=True)
class InputFile:
    """A reference to one input file; `path` is relative to the root of its source and names its documents."""

    source: str
    path: str
    location: str
    size: int
    environment: python_environment.EnvironmentFile | None = None


def list_source(source: Source, seed: int) -> list[InputFile]:
    """Files of one source, sorted by path. Raises ConfigError if the place does not exist or holds no file."""
    if source.kind == "python-environment":
        return [
            InputFile(source.name, file.path, file.absolute, file.size, file)
            for file in python_environment.list_files(source.max_bytes, seed)
        ]
    path = str(source.path)
    found = _local(path) if paths.is_local(path) else _remote(path)
    if not found:
        raise ConfigError(f"source '{source.name}': {path} holds no file to read")
    return [InputFile(source.name, name, location, size) for name, (location, size) in sorted(found.items())]


def list_sources(recipe: Recipe, hashes: bool = False) -> dict[str, list[list[str | int]]]:
    """Per source the list of [path, size, version of the content]; sources in order of name."""
    return {
        source.name: [
            [file.path, file.size, _content(file.location) if hashes else ""]
            for file in list_source(source, recipe.seed)
        ]
        for source in sorted(recipe.sources, key=lambda source: source.name)
    }


def _content(location: str) -> str:
    try:
        return paths.content_key(location)
    except OSError as error:  # it becomes a reject when it is read
        return f"unreadable: {error.strerror}"


def local_root(source: Source) -> Path | None:
    """The local folder that a source reads from; None for URLs and for the Python environment."""
    if not source.path or not paths.is_local(source.path):
        return None
    root = Path(source.path.removeprefix("file://"))
    wild = next((i for i, part in enumerate(root.parts) if any(c in part for c in WILDCARDS)), None)
    return root if wild is None else Path(*root.parts[:wild])


def _local(path: str) -> dict[str, tuple[str, int]]:
    root = Path(path.removeprefix("file://"))
    if root.is_file():
        return {root.name: (str(root), root.stat().st_size)}
    if root.is_dir():
        return _walk(root)
    wild = next((i for i, part in enumerate(root.parts) if any(c in part for c in WILDCARDS)), None)
    if wild is None:
        raise ConfigError(f"{path}: there is no such file or folder")
    base = Path(*root.parts[:wild])
    if not base.is_dir():
        raise ConfigError(f"{base}: there is no such folder")
    matches = {str(match) for match in base.glob("/".join(root.parts[wild:]))}
    return {name: found for name, found in _walk(base).items() if found[0] in matches}


def _walk(root: Path) -> dict[str, tuple[str, int]]:
    """Regular files below a folder, and files that links lead to; hidden ones, pipes, devices and linked folders are
    left out."""
    found: dict[str, tuple[str, int]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder) / name
            if not name.startswith(".") and file.is_file():
                relative = file.relative_to(root).as_posix()
                found[_printable(relative)] = (str(file), file.stat().st_size)
    return found


def _remote(path: str) -> dict[str, tuple[str, int]]:
    fs, inner = paths.filesystem(path)
    if any(character in inner for character in WILDCARDS):
        matches = fs.glob(inner, detail=True)
        first = min(inner.find(character) for character in WILDCARDS if character in inner)
        root = inner[:first].rpartition("/")[0]
    else:
        matches = fs.find(inner, detail=True)
        root = inner if list(matches) != [inner] else inner.rpartition("/")[0]
    if not matches and not fs.exists(inner):
        raise ConfigError(f"{path}: there is no such file or folder")
    return {
        name[len(root) :].lstrip("/"): (str(fs.unstrip_protocol(name)), int(info["size"] or 0))
        for name, info in matches.items()
        if info["type"] == "file" and not name.rsplit("/", 1)[-1].startswith(".")
    }


def _printable(path: str) -> str:
    """File names may hold any bytes; those that are not UTF-8 are escaped, so that they can be columns."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
