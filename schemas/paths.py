"""Local paths and `fsspec` URLs behind one small set of functions.

A dataset becomes visible whole or not at all: it is written under a temporary name and renamed. On a local disk
the rename is atomic; on an object store, which has no rename, the files are copied and the manifest, without which
nothing counts as a dataset, is copied last.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import xxhash
from fsspec.core import url_to_fs

from schemas.errors import ConfigError

CHUNK = 1 << 20


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith("file://")


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


def filesystem(path: str) -> tuple[Any, str]:
    """The `fsspec` filesystem of a path and the path inside it."""
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def exists(path: str) -> bool:
    fs, inner = filesystem(path)
    return bool(fs.exists(inner))


def open_read(path: str) -> IO[bytes]:
    if is_local(path):
        return Path(path.removeprefix("file://")).open("rb")
    return fsspec.open(path, "rb").open()


@contextlib.contextmanager
def local_folder(path: str) -> Iterator[str]:
    """A small folder as a local one: itself, or a copy of a remote one that is gone when the block ends."""
    if is_local(path):
        yield path.removeprefix("file://")
        return
    fs, inner = filesystem(path)
    with tempfile.TemporaryDirectory() as local:
        fs.get(f"{inner.rstrip('/')}/", f"{local}/", recursive=True)
        yield local


@contextlib.contextmanager
def write_atomic(path: str) -> Iterator[IO[bytes]]:
    """Open `path` for writing under a temporary name; it appears when the block ends without an error."""
    fs, inner = filesystem(path)
    fs.makedirs(inner.rsplit("/", 1)[0], exist_ok=True)
    temporary = f"{inner}.{secrets.token_hex(4)}.writing"
    try:
        with fs.open(temporary, "wb") as handle:
            yield handle
            if is_local(path):
                handle.flush()
                os.fsync(handle.fileno())
        if is_local(path):
            os.replace(temporary, inner)
        else:
            fs.mv(temporary, inner)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rm(temporary)
        raise


def write_text(path: str, text: str) -> None:
    with write_atomic(path) as handle:
        handle.write(text.encode())


def read_text(path: str) -> str:
    with open_read(path) as handle:
        return handle.read().decode()


def remove(path: str) -> None:
    """Remove a file or a folder; nothing there is fine."""
    if is_local(path):
        target = Path(path.removeprefix("file://"))
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        return
    fs, inner = filesystem(path)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


def publish(temporary: str, final: str, last: str) -> None:
    """Make the folder `temporary` appear as `final`, replacing what was there; the file `last` appears last."""
    if is_local(final):
        old = f"{temporary}.old"
        remove(old)
        if Path(final).exists():
            os.replace(final, old)
        os.replace(temporary, final)
        remove(old)
        return
    fs, inner = filesystem(final)
    _, source = filesystem(temporary)
    remove(final)
    names = sorted(name[len(source) :].lstrip("/") for name in fs.find(source))
    for name in [name for name in names if name != last] + [last]:
        fs.makedirs(f"{inner}/{name}".rsplit("/", 1)[0], exist_ok=True)
        fs.mv(f"{source}/{name}", f"{inner}/{name}")
    remove(temporary)


def file_hash(path: str) -> str:
    """Hex xxh3-128 of a file's bytes."""
    state = xxhash.xxh3_128()
    with open_read(path) as handle:
        while chunk := handle.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


def content_key(path: str) -> str:
    """What tells one version of an input file from the next: its bytes if local, the store's checksum if remote."""
    if is_local(path):
        return file_hash(path)
    fs, inner = filesystem(path)
    return f"{fs.checksum(inner):x}"


def glob(pattern: str) -> list[str]:
    """Files that a path or glob names, sorted; URLs stay URLs."""
    fs, inner = filesystem(pattern)
    found = fs.glob(inner) if any(character in inner for character in "*?[") else [inner] * bool(fs.exists(inner))
    return sorted(str(fs.unstrip_protocol(name)) if not is_local(pattern) else str(name) for name in found)


def rename(old: str, new: str) -> None:
    """Move a folder; atomic on a local disk."""
    if is_local(old):
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        os.replace(old, new)
        return
    fs, inner = filesystem(old)
    fs.mv(inner, filesystem(new)[1], recursive=True)
