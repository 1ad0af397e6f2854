"""A bounded folder of files copied from remote stores, shared by the processes of a machine and by its next runs.

    <hash>.arrow   a whole file under the hash of its content, which was verified while it was copied
    <hash>.part    a file that is being copied; of its full size from the start, so that it counts
    .lock          held while files are counted, renamed or removed, never while one is copied

Who reads a file holds a shared lock on it, who copies one an exclusive lock. The kernel drops both when a process ends,
however it ends. So what nobody has locked is nobody's: a whole file may go to make room, and a `.part` is what a kill
left behind.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import xxhash

from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileEntry

COPIED_AT_ONCE = 16 << 20  # bytes; a store answers each read with one request
_OURS = re.compile(r"[0-9a-f]{32}\.(arrow|part)")


@dataclass(frozen=True)
class StageFile:
    """A file of a dataset: where it lies, what the manifest says of it, and the stage that makes it."""

    stage: str
    path: str
    entry: FileEntry

    def check(self, size: int, content: str) -> None:
        """Raise DataError unless this many bytes with this hash are what the manifest speaks of."""
        if size != self.entry.bytes:
            self.refuse(f"has {size} bytes, not {self.entry.bytes}")
        if content != self.entry.hash:
            self.refuse(f"has hash {content}, not {self.entry.hash}")

    def refuse(self, why: str) -> NoReturn:
        raise DataError(
            f"{self.path}: differs from its manifest: it {why}; bring the file back or make it again with "
            f"`sluice run RECIPE --from {self.stage}`. A training then goes on from its last checkpoint"
        )


class Full(Exception):
    """Files that are in use leave no room for another one."""


class Lease:
    """A file of the cache that stays where it is until this is closed."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self.path = path
        self._handle = handle

    def close(self) -> None:
        if not self._handle.closed:
            _touch(self._handle)
            self._handle.close()


class ShardCache:
    """Copies of remote files, at most `limit` bytes together; the least recently used make room for new ones.

    Several threads may take files. Other files in the folder are left alone and not counted.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._verified: set[str] = set()  # hashes whose files this process has copied or read through
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._sweep()
        except OSError as error:
            raise self._unusable(error) from error

    def take(self, file: StageFile) -> Lease:
        """The local copy of a remote file, made now if there is none; a copy that an earlier run left is verified.

        Raises:
            DataError: the remote file cannot be read or differs from its manifest, or the copy cannot be written.
            Full: what other leases hold leaves no room for it.
        """
        try:
            while True:
                lease = self._lease(file) or self._copied(file)
                if lease is None:
                    continue  # another process came first
                content = file.entry.hash
                if content in self._verified or paths.file_hash(str(lease.path)) == content:
                    self._verified.add(content)
                    return lease
                self._remove(lease.path)
                lease.close()
        except OSError as error:
            raise self._unusable(error) from error

    def _lease(self, file: StageFile) -> Lease | None:
        path = self.folder / f"{file.entry.hash}.arrow"
        with self._locked():
            try:
                handle = path.open("rb")
            except FileNotFoundError:
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)  # nobody locks a whole file for longer than it holds the cache's lock
            _touch(handle)
        return Lease(path, handle)

    def _copied(self, file: StageFile) -> Lease | None:
        """A lease on a new copy; None if another process has made or removed what this one waited for."""
        part, whole = (self.folder / f"{file.entry.hash}.{ending}" for ending in ("part", "arrow"))
        with contextlib.ExitStack() as undo:
            handle = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            undo.callback(_let_go, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Waits for the process that is copying it. That one keeps a shared lock when it is done.
                fcntl.flock(handle, fcntl.LOCK_SH)
                return None
            with self._locked():
                if not _lies_at(handle, part):
                    return None
                undo.callback(self._remove, part)
                if whole.exists():
                    return None
                self._make_room(file.entry.bytes, part)
                handle.truncate(file.entry.bytes)
            self._copy(file, handle)
            with self._locked():
                part.rename(whole)
                fcntl.flock(handle, fcntl.LOCK_SH)
            undo.pop_all()
        return Lease(whole, handle)

    def _copy(self, file: StageFile, handle: IO[bytes]) -> None:
        state, size = xxhash.xxh3_128(), 0
        for chunk in _chunks(file.path):
            state.update(chunk)
            size += len(chunk)
            if size > file.entry.bytes:
                break
            handle.write(chunk)
        handle.flush()
        file.check(size, state.hexdigest())
        self._verified.add(file.entry.hash)

    def _make_room(self, needed: int, for_file: Path) -> None:
        """Remove the least recently used files that nobody reads until there is room. Needs the cache's lock."""
        self._sweep()
        files = [(file, file.stat()) for file in self._files() if file != for_file]
        total = needed + sum(stat.st_size for _, stat in files)
        for file, stat in sorted(files, key=lambda item: item[1].st_mtime_ns):
            if total <= self.limit:
                break
            if _remove_idle(file):
                total -= stat.st_size
        if total > self.limit:
            raise Full

    def _remove(self, file: Path) -> None:
        with self._locked():
            file.unlink(missing_ok=True)

    def _sweep(self) -> None:
        for file in self._files():
            if file.suffix == ".part":
                _remove_idle(file)

    def _files(self) -> list[Path]:
        return [file for file in self.folder.iterdir() if _OURS.fullmatch(file.name)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _unusable(self, error: OSError) -> DataError:
        reason = error.strerror or error
        return DataError(
            f"{self.folder}: cannot hold the copies of remote files: {reason}; make room, lower pretrain.cache_bytes "
            "or name another folder in pretrain.cache_folder"
        )


def _chunks(path: str) -> Iterator[bytes]:
    try:
        with paths.open_read(path) as source:
            while chunk := source.read(COPIED_AT_ONCE):
                yield chunk
    except Exception as error:  # every store raises exceptions of its own
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def _remove_idle(file: Path) -> bool:
    """Remove a file that no process has locked; whether it is gone."""
    with file.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        file.unlink()
    return True


def _lies_at(handle: IO[bytes], path: Path) -> bool:
    """Whether an open file still lies at a path."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _let_go(handle: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # of what a full disk has kept it from writing
        handle.close()


def _touch(handle: IO[bytes]) -> None:
    now = time.time_ns()  # finer than the clock of the file system
    with contextlib.suppress(PermissionError):  # of another user's copy
        os.utime(handle.fileno(), ns=(now, now))
