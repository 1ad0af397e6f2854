"""A source tree as one document: its files joined, the readme first, each after the files that it imports.

A tree is read once. Texts wait in a temporary file until their order is known, so memory holds paths and imports only.
"""

import io
import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pipelines.extract.archives import is_hidden
from pipelines.extract.found import Extracted, Reject, Rejected, clean_text, clip
from pipelines.extract.imports import imports, in_import_order
from pipelines.extract.licences import stated_licence
from pipelines.extract.listing import files_below, is_archive
from pipelines.extract.names import printable
from pipelines.extract.packed import HEAD_BYTES, Budget, Unpacked, compression, peek
from pipelines.extract.source_code import code_flags, is_lock, is_vendored
from pipelines.extract.tars import Member, is_tar, tar_members
from pipelines.extract.zips import zip_members
from schemas import paths
from schemas.code import DATA, code_language
from schemas.recipe import Extract

_FILE_BYTES = 1 << 20  # of one file; people write smaller ones
_DATA_CHARACTERS = 100_000  # of a file of markup or data
_FILES = 200_000  # of one repository

_PROSE = frozenset({"", ".adoc", ".htm", ".html", ".markdown", ".md", ".mdx", ".org", ".rst", ".txt"})
_README = re.compile(r"readme(?:\.\w+)?", re.I)
_LICENCE = re.compile(r"(?:un)?licen[sc]e(?:[.-][\w.-]+)?|copying(?:[.-][\w.]+)?", re.I)
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class _Kept:
    begin: int  # bytes in the temporary file
    size: int
    characters: int
    language: str | None
    imports: tuple[str, ...]
    licence: str | None


class _LeftOut(Exception):
    """Why a file is no part of the document; the reason is counted."""


def extract_repository(location: str, options: Extract) -> Iterator[Extracted | Reject]:
    """The documents of the folder or archive at `location`, with locators `part=N`, each of `max_characters` or less.

    Every file begins with a line `==> path <==`. Binary, generated, minified, vendored, lock and hidden files, tables
    of data and whatever is neither source code nor prose are left out and counted in the metadata.
    """
    kept: dict[str, _Kept] = {}
    left_out: Counter[str] = Counter()
    whole = True
    with tempfile.TemporaryFile(prefix="sluice-") as store:
        try:
            for path, member in _members(location, options):
                try:
                    text = _text(path, member)
                    kept[path] = _keep(path, text, store)
                except _LeftOut as reason:
                    left_out[str(reason)] += 1
                except Rejected as rejected:
                    yield Reject(f"member={path}", rejected.error, clip(rejected.message))
                    if rejected.error in {"truncated", "broken_compression"}:
                        whole = False
                        break
                if len(kept) > _FILES:
                    raise Rejected("too_large", f"more than {_FILES} files")
        except Rejected as rejected:
            yield Reject("", rejected.error, clip(rejected.message))
            whole = False
        if not kept:
            if whole:  # else what is damaged has been told, and nobody knows what it held
                yield Reject("", "empty_text", "the repository holds no source code and no prose")
            return
        cut = _common_folder(kept) if is_archive(location) else 0
        metadata = _metadata(kept, left_out)
        licence = _licence(kept)
        parts: list[str] = []
        number = size = 0
        for path in _order(kept):
            file = kept[path]
            store.seek(file.begin)
            text = f"==> {clean_text(_SPACES.sub(' ', path[cut:]))} <==\n{store.read(file.size).decode('utf-8')}"
            if len(text) > options.max_characters:
                yield Reject(f"member={path}", "too_large", f"{len(text)} characters in one file")
                continue
            if parts and size + len(text) + 2 * len(parts) > options.max_characters:
                number += 1
                yield _part(number, parts, licence, metadata)
                parts, size = [], 0
            parts.append(text)
            size += len(text)
        if parts:
            yield _part(number + 1, parts, licence, metadata)


def _part(number: int, parts: list[str], licence: str | None, metadata: dict[str, str]) -> Extracted:
    return Extracted(f"part={number}", "\n\n".join(parts), licence=licence, metadata=metadata)


# --- files ----------------------------------------------------------------------------------------------------


def _members(location: str, options: Extract) -> Iterator[tuple[str, Member]]:
    """Path and bytes of every file, hidden ones aside."""
    if not is_archive(location):
        for path, (file, size) in sorted(files_below(location).items()):
            try:
                handle = paths.open_read(file)
            except PermissionError as error:
                yield path, Member(b"", size, io.BytesIO(), "unreadable", f"cannot be read: {error.strerror}")
                continue
            with handle:
                yield path, Member(b"", size, handle)
        return
    with paths.open_read(location) as packed:
        budget = Budget.of(packed, options)
        seen: set[str] = set()
        for member in _archived(packed, budget):
            path = printable(member.name)
            if is_hidden(member.name) or path in seen:
                continue
            seen.add(path)
            yield path, member


def _archived(packed: Any, budget: Budget) -> Iterator[Member]:
    head, file = peek(packed)
    if kind := compression(head):
        head, file = peek(Unpacked(file, kind, budget.limit, budget))
    if is_tar(head):
        yield from tar_members(file)
    elif head.startswith(b"PK") and file.seekable():
        yield from zip_members(file, budget)
    else:
        file.read(len(head) + 1)  # if it is damaged from here on, that is what is wrong with it
        raise Rejected("broken_archive", "neither a tar nor a zip")


def _text(path: str, member: Member) -> str:
    """A file's text. Raises _LeftOut for what is no part of a document, Rejected for what should be and cannot."""
    if member.error:
        raise Rejected(member.error, member.message)
    if is_lock(path):
        raise _LeftOut("lock")
    if is_vendored(path):
        raise _LeftOut("vendored")
    if member.size > _FILE_BYTES:
        raise _LeftOut("large")
    data = member.data.read(_FILE_BYTES + 1)
    if len(data) > _FILE_BYTES:
        raise _LeftOut("large")
    if b"\0" in data[:HEAD_BYTES]:
        raise _LeftOut("binary")
    try:
        text = clean_text(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        if not _is_wanted(path, ""):
            raise _LeftOut("binary") from None
        raise Rejected("invalid_utf8", f"not UTF-8: byte {error.start} cannot be decoded") from None
    if not text.strip():
        raise _LeftOut("empty")
    if not _is_wanted(path, text):
        raise _LeftOut("other")
    return text


def _is_wanted(path: str, text: str) -> bool:
    return bool(code_language(path, text)) or posixpath.splitext(path)[1].lower() in _PROSE


def _keep(path: str, text: str, store: IO[bytes]) -> _Kept:
    language = code_language(path, text)
    flags = code_flags(path, text, language) if language else []
    if flags:
        raise _LeftOut(flags[0])
    if language in DATA and len(text) > _DATA_CHARACTERS:
        raise _LeftOut("data")
    whole = bool(_LICENCE.fullmatch(posixpath.basename(path)))
    data = text.encode("utf-8")
    begin = store.seek(0, io.SEEK_END)
    store.write(data)
    licence = stated_licence(text, whole) if whole or language else None
    return _Kept(begin, len(data), len(text), language, tuple(imports(path, text, language)), licence)


# --- the document ---------------------------------------------------------------------------------------------


def _common_folder(kept: dict[str, _Kept]) -> int:
    """Characters of the one folder that holds everything in an archive, as archives of a release have."""
    tops = {path.partition("/")[0] for path in kept if "/" in path} | {"" for path in kept if "/" not in path}
    return len(tops.pop()) + 1 if len(tops) == 1 and "" not in tops else 0


def _depth(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _order(kept: dict[str, _Kept]) -> list[str]:
    readmes = [path for path in kept if _README.fullmatch(posixpath.basename(path))]
    return in_import_order(
        {path: (file.language, file.imports) for path, file in kept.items()},
        [min(readmes, key=_depth)] if readmes else [],
    )


def _licence(kept: dict[str, _Kept]) -> str | None:
    """What the outermost licence files state; without one, what all files agree on that state any."""
    found = [path for path in kept if _LICENCE.fullmatch(posixpath.basename(path)) and kept[path].licence]
    if found:
        outermost = min(path.count("/") for path in found)
        names = {kept[path].licence or "" for path in found if path.count("/") == outermost}
        return " OR ".join(sorted(names))
    stated = {file.licence for file in kept.values() if file.licence}
    return stated.pop() if len(stated) == 1 else None


def _metadata(kept: dict[str, _Kept], left_out: Counter[str]) -> dict[str, str]:
    languages: Counter[str] = Counter()
    for file in kept.values():
        if file.language:
            languages[file.language] += file.characters
    ranked = sorted(languages, key=lambda name: (name in DATA, -languages[name], name))
    metadata = {"kind": "repository", "files": str(len(kept))}
    if ranked:
        metadata |= {"code": ranked[0], "languages": ", ".join(ranked[:20])}
    if left_out:
        metadata["left_out"] = ", ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))
    return metadata
