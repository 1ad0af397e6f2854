"""The running Python as a corpus: sources, READMEs and licences of the standard library and installed packages.

It is at hand on every machine without a download and differs between machines, so nothing compares its bytes.
"""

import ast
import functools
import importlib.metadata
import inspect
import os
import stat
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import cast

from pipelines.extract.found import Extracted, Found
from pipelines.extract.reader import extract_file
from schemas.hashing import uniform
from schemas.recipe import Columns, Extract

_MAX_FILE_BYTES = 200_000
_SUFFIXES = frozenset({".py", ".md", ".rst", ".txt"})
_DOCUMENT_NAMES = ("AUTHORS", "CHANGES", "COPYING", "LICENCE", "LICENSE", "NOTICE", "README")
_FILE_LISTS = frozenset({"entry_points.txt", "SOURCES.txt", "top_level.txt", "requires.txt"})
_STDLIB, _STDLIB_LICENCE = "python-stdlib", "PSF-2.0"
_MINIMUM_DOCSTRING = 80  # characters; shorter ones are labels, not prose
_MINIMUM_DOCSTRINGS = 800  # characters of a module's docstrings together that make a document
_DOCSTRINGS_SHARE = 1 / 3  # of the modules with that many


@dataclass(frozen=True)
class EnvironmentFile:
    """One file of the environment; `path` is relative to the package folder and names the document."""

    absolute: str
    path: str
    package: str
    version: str
    licence: str
    size: int  # bytes


def _licence(metadata: Message) -> str:
    """SPDX expression, else the licence field if it is a name and not a whole text, else the classifiers."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    name = str(metadata.get("License") or "").strip()
    if name and name != "UNKNOWN" and len(name) <= 80 and "\n" not in name:
        return name
    prefix = "License :: "
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith(prefix)]
    return "; ".join(line.split(" :: ")[-1] for line in classifiers) or "unknown"


def _wanted(path: PurePosixPath) -> bool:
    if ".." in path.parts or "__pycache__" in path.parts or path.name in _FILE_LISTS:
        return False
    return path.suffix in _SUFFIXES or path.name == "METADATA" or path.name.upper().startswith(_DOCUMENT_NAMES)


def _candidates() -> Iterator[EnvironmentFile]:
    for distribution in importlib.metadata.distributions():
        metadata = cast(Message, distribution.metadata)  # parsed anew by every access
        package, version = str(metadata.get("Name")), str(metadata.get("Version"))
        licence = _licence(metadata)
        for file in distribution.files or []:
            path = PurePosixPath(file)
            if _wanted(path):
                yield EnvironmentFile(str(distribution.locate_file(file)), str(path), package, version, licence, 0)
    root = sysconfig.get_path("stdlib")
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in {"site-packages", "dist-packages", "__pycache__"}]
        for name in names:
            path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
            if _wanted(path):
                absolute, version = str(Path(folder, name)), sysconfig.get_python_version()
                yield EnvironmentFile(absolute, f"stdlib/{path}", _STDLIB, version, _STDLIB_LICENCE, 0)


@functools.lru_cache(maxsize=4)  # the runner asks more than once, and the environment of a process is what it is
def list_files(max_bytes: int = 12_000_000, seed: int = 0) -> list[EnvironmentFile]:
    """Text files of the environment, chosen by a hash of their path until `max_bytes`, in order of path.

    A file's place in the draw depends on its own path and `seed` alone: a package more or less shifts where the
    draw ends, and nothing else.
    """
    found = {file.path: file for file in _candidates()}
    ordered = sorted(found)
    draws = uniform([path.encode() for path in ordered], "python-environment", seed)
    chosen, total = [], 0
    for _, path in sorted(zip(draws.tolist(), ordered)):
        try:
            status = Path(found[path].absolute).lstat()
        except OSError:  # listed by its package, but not installed
            continue
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _MAX_FILE_BYTES:
            continue
        if total + status.st_size > max_bytes:
            break
        total += status.st_size
        chosen.append(replace(found[path], size=status.st_size))
    return sorted(chosen, key=lambda file: file.path)


def module_docstrings(source: str) -> str:
    """The long docstrings of a module, its classes and functions as one text; "" if they make no document."""
    if '"""' not in source and "'''" not in source:  # parsing is slow, and long docstrings have triple quotes
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    parts = []
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # statements only: most of a tree is expressions, and they hold no definitions
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
            if len(docstring) >= _MINIMUM_DOCSTRING:
                parts.append(docstring)
        for block in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):  # a lambda's or a conditional expression's body is no list
                nodes += inner
    text = "\n\n".join(dict.fromkeys(parts))
    return text if len(text) >= _MINIMUM_DOCSTRINGS else ""


def gives_docstrings(path: str) -> bool:
    """Whether the module at `path` gives its docstrings, if they make a document, and not its source."""
    return bool(uniform([path.encode()], "docstrings")[0] < _DOCSTRINGS_SHARE)


def extract_environment_file(file: EnvironmentFile, options: Extract) -> Iterator[Found]:
    """The one document of a file: its source (locator "source") or its docstrings (locator "docstrings").

    About every third module with enough docstrings gives those, chosen by a hash of its path. Never both, because one
    contains the other: they would be duplicates, and could lie on both sides of the split. Of a package's METADATA
    only the description is kept, which is its README.
    """
    about = {"package": file.package, "version": file.version}
    for found in extract_file(Path(file.absolute), file.path, options, Columns()):
        if not isinstance(found, Extracted):
            yield replace(found, locator="source")
            continue
        text, metadata = found.text, {**found.metadata, **about}
        if PurePosixPath(file.path).name == "METADATA":
            text = text.partition("\n\n")[2].strip("\n")
            if not text.strip():
                continue
        if metadata.get("code") == "Python" and gives_docstrings(file.path) and (prose := module_docstrings(text)):
            described = {"kind": "docstrings", **about}
            yield Extracted("docstrings", prose, licence=file.licence, metadata=described)
        else:
            yield replace(found, locator="source", text=text, licence=file.licence, metadata=metadata)
