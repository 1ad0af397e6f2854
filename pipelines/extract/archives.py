"""Documents of the files in a tar or zip archive. Nothing is written to disk, so no path in one can do harm."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

import xxhash

from pipelines.extract.found import Found, Reject, Rejected, clip
from pipelines.extract.names import inside, printable
from pipelines.extract.tars import Member

Read = Callable[[IO[bytes], str], Iterator[Found]]  # a file and its name -> what is in it

_MEMBERS = 2_000_000  # the names seen so far are remembered, by eight bytes each
_ENDINGS = frozenset({"truncated", "broken_compression", "too_large"})  # after which an archive may not go on


def is_hidden(name: bytes) -> bool:
    """Whether a path leads through a hidden file or folder; those are left out, as below folders."""
    return any(part.startswith(b".") and part not in (b".", b"..") for part in name.split(b"/")) or (
        b"__MACOSX" in name.split(b"/")
    )


def extract_members(members: Iterator[Member], read: Read) -> Iterator[Found]:
    """What `read` finds in every member, with `member=PATH` in front of its locators."""
    names: set[int] = set()
    last = ""
    try:
        for number, member in enumerate(members, 1):
            if number > _MEMBERS:
                raise Rejected("too_large", f"more than {_MEMBERS} members")
            if is_hidden(member.name):
                continue
            path = printable(member.name)
            locator = f"member={path}"
            # Only the first of several is the same document whatever else is in the archive.
            key = xxhash.xxh3_64_intdigest(member.name)
            if key in names:
                yield Reject(f"entry={number}", "repeated_member", clip(f"{path} stands earlier in the archive"))
                continue
            names.add(key)
            if member.error:
                yield Reject(locator, member.error, clip(member.message))
                continue
            last = ""
            for found in read(member.data, path):
                last = found.error if isinstance(found, Reject) else ""
                yield replace(found, locator=inside(locator, found.locator))
    except Rejected as rejected:
        if last not in _ENDINGS:  # else the member has said already that the file is cut or its bytes are spent
            yield Reject("", rejected.error, clip(rejected.message))
