"""The files of every source, in an order that does not depend on the disk.

Imports no Beam: the runner lists the sources to tell whether anything changed.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from pipelines.extract import python_environment
from pipelines.extract.names import printable
from pipelines.extract.packed import COMPRESSED_SUFFIXES
from schemas import paths
from schemas.code import code_language
from schemas.errors import ConfigError
from schemas.recipe import Recipe, Source

WILDCARDS = "*?["
_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class InputFile:
    """A reference to one input file, or to a folder that is a repository.

    `path` is relative to the root of its source and names its documents; `size` is in bytes, of all files of a folder.
    """

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
    if source.kind == "repositories":
        found = _repositories(path)
        if not found:
            raise ConfigError(f"source '{source.name}': {path} holds no folder and no archive to read as a repository")
    else:
        found = _local(path) if paths.is_local(path) else _remote(path)
    if not found:
        raise ConfigError(f"source '{source.name}': {path} holds no file to read")
    return [InputFile(source.name, name, location, size) for name, (location, size) in sorted(found.items())]


def list_sources(recipe: Recipe, hashes: bool = False) -> dict[str, list[list[str | int]]]:
    """Per source the list of [path, size, version of the content]; sources in order of name."""
    return {
        source.name: [
            [file.path, file.size, _content(file.location, source.kind == "repositories") if hashes else ""]
            for file in list_source(source, recipe.seed)
        ]
        for source in sorted(recipe.sources, key=lambda source: source.name)
    }


def _content(location: str, repository: bool = False) -> str:
    if repository and not is_archive(location):
        state = xxhash.xxh3_128()
        for name, (file, _) in sorted(files_below(location).items()):
            state.update(f"{name}\0{_content(file)}\0".encode())
        return state.hexdigest()
    try:
        return paths.content_key(location)
    except OSError as error:  # it becomes a reject when it is read
        return f"unreadable: {error.strerror}"


def is_archive(path: str) -> bool:
    """Whether a name is that of a tar or zip archive."""
    return path.lower().endswith(_ARCHIVES)


def files_below(folder: str) -> dict[str, tuple[str, int]]:
    """Relative path -> (location, size) of the files below a local or remote folder, hidden ones aside."""
    if paths.is_local(folder):
        return _walk(Path(folder.removeprefix("file://")))
    return _remote(folder)


_NO_PDF = frozenset(".html .htm .json .jsonl .markdown .md .ndjson .parquet .txt .xhtml".split())


def may_hold_pdf(path: str) -> bool:
    """Whether a file of that name is likely to be or hold a PDF; what recognises pages matters to no other."""
    packed, name = PurePosixPath(path.lower()), path.lower()
    if packed.suffix in COMPRESSED_SUFFIXES:
        name = packed.stem
    return PurePosixPath(name).suffix not in _NO_PDF and code_language(name) is None


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
                found[printable(relative.encode("utf-8", "surrogateescape"))] = (str(file), file.stat().st_size)
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
        printable(relative.encode("utf-8", "surrogateescape")): (str(fs.unstrip_protocol(name)), int(info["size"] or 0))
        for name, info in matches.items()
        if info["type"] == "file" and not _is_hidden(relative := name[len(root) :].lstrip("/"))
    }


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _repositories(path: str) -> dict[str, tuple[str, int]]:
    """Folders and archives directly below a folder, or those that a glob finds, or the one archive at `path`."""
    fs, inner = paths.filesystem(path)
    local = paths.is_local(path)
    if any(character in inner for character in WILDCARDS):
        names = sorted(fs.glob(inner))
        first = min(inner.find(character) for character in WILDCARDS if character in inner)
        root = inner[:first].rpartition("/")[0]
    elif fs.isdir(inner):
        names = sorted(fs.ls(inner, detail=False))
        root = inner
    elif fs.exists(inner):
        names, root = [inner], inner.rpartition("/")[0]
    else:
        raise ConfigError(f"{path}: there is no such file or folder")
    found = {}
    for name in (name.rstrip("/") for name in names):
        relative = name[len(root.rstrip("/")) :].lstrip("/")
        location = name if local else str(fs.unstrip_protocol(name))
        if _is_hidden(relative) or not relative or (local and Path(name).is_symlink()):
            continue
        if is_archive(name) and fs.isfile(name):
            found[relative] = (location, int(fs.size(name) or 0))
        elif fs.isdir(name) and (files := files_below(location)):
            found[relative] = (location, sum(size for _, size in files.values()))
    return {printable(name.encode("utf-8", "surrogateescape")): place for name, place in found.items()}
