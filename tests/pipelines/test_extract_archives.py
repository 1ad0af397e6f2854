"""Archives, well made, cut, damaged and hostile, with the standard library's writers as the other side."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract import records
from pipelines.extract.found import Extracted, Reject
from pipelines.extract.listing import list_source
from pipelines.extract.names import SEPARATOR, inside, printable
from pipelines.extract.reader import extract_file
from schemas import paths
from schemas.recipe import Columns, Extract, Source

PROSE = "The tide rises twice a day because the earth turns beneath two bulges of water. "
HTML = f"<!DOCTYPE html><html><head><title>Tides</title></head><body><p>{PROSE * 3}</p></body></html>"
LINES = "".join(json.dumps({"text": f"{PROSE}{number}", "id": str(number)}) + "\n" for number in range(3))
FILES = {
    "a.txt": PROSE.encode(),
    "deep/b.html": HTML.encode(),
    "deep/c.jsonl": LINES.encode(),
    "deep/d.py": b"x = 1\n",
    "empty.txt": b"",
    "e.txt.gz": gzip.compress(b"packed words"),
    "f.bin": b"ab\0cd",
}
Found = list[Extracted | Reject]


def extract(data: bytes | Path | io.BytesIO, path: str, **limits: float) -> Found:
    return list(extract_file(data, path, Extract.model_validate(limits), Columns()))


def texts(found: Found) -> dict[str, str]:
    return {one.locator: one.text for one in found if isinstance(one, Extracted)}


def errors(found: Found) -> dict[str, str]:
    return {one.locator: one.error for one in found if isinstance(one, Reject)}


def make_tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


class Unseekable(io.RawIOBase):
    """What `zipfile` and a network give: no way back, and sizes that follow the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def make_streamed_zip(files: dict[str, bytes]) -> bytes:
    out = Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return bytes(out.data)


# --- what is in them --------------------------------------------------------------------------------------------


def expected() -> tuple[dict[str, str], dict[str, str]]:
    """Every file read on its own, its place put in front."""
    good, bad = {}, {}
    for name, data in FILES.items():
        found = extract(data, name)
        good |= {inside(f"member={name}", locator): text for locator, text in texts(found).items()}
        bad |= {inside(f"member={name}", locator): error for locator, error in errors(found).items()}
    return good, bad


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.tar", make_tar(FILES)),
        ("x.tar", make_tar(FILES, tarfile.GNU_FORMAT)),
        ("x.tar", make_tar(FILES, tarfile.USTAR_FORMAT)),
        ("x.tgz", gzip.compress(make_tar(FILES))),
        ("x.tar.gz", gzip.compress(make_tar(FILES))),
        ("x.tar.zst", zstandard.compress(make_tar(FILES))),
        ("x.tar.bz2", bz2.compress(make_tar(FILES))),
        ("x.tar.xz", lzma.compress(make_tar(FILES))),
        ("no-extension", make_tar(FILES)),
        ("x.zip", make_zip(FILES)),
        ("x.zip", make_zip(FILES, zipfile.ZIP_STORED)),
        ("x.zip", make_zip(FILES, zipfile.ZIP_BZIP2)),
        ("x.zip", make_streamed_zip(FILES)),
        ("x.zip.gz", gzip.compress(make_zip(FILES))),
    ],
)
def test_members_are_read_like_files_of_their_own(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)
    found = extract(data, name)
    assert (texts(found), errors(found)) == expected()
    assert extract(path, name) == extract(io.BytesIO(data), name) == found
    kinds = {one.locator: one.metadata["kind"] for one in found if isinstance(one, Extracted)}
    assert kinds["member=deep/b.html"] == "html"


def test_hidden_files_folders_links_and_devices_are_left_out() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("etc", tarfile.DIRTYPE), ("p", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name, kind in (("d", tarfile.CHRTYPE), ("b", tarfile.BLKTYPE), ("f", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        for name in ("/absolute.txt", "../up.txt", ".hidden/x.txt", "a/.x.txt", "__MACOSX/a.txt"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"words"))
    assert extract(out.getvalue(), "a.tar") == [
        Extracted("member=/absolute.txt", "words", metadata={"kind": "text"}),
        Extracted("member=../up.txt", "words", metadata={"kind": "text"}),
    ]
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.mkdir("folder")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../up.txt", "words")
    assert texts(extract(packed.getvalue(), "a.zip")) == {"member=../up.txt": "words"}


def test_long_names_large_numbers_and_shared_headers() -> None:
    long = "/".join(["folder" * 10] * 30) + "/ü.txt"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert texts(extract(make_tar({long: b"words"}, form), "a.tar")) == {f"member={long}": "words"}
    data = bytearray(make_tar({"a.txt": b"words"}))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")  # base 256
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 256 + sum(data[156:512]))
    assert texts(extract(bytes(data), "a.tar")) == {"member=a.txt": "words"}


# --- archives in archives ---------------------------------------------------------------------------------------


def test_one_archive_inside_another_is_read_and_no_deeper() -> None:
    inner = make_zip({"x.txt": b"words", "c.jsonl": LINES.encode()})
    nested = make_tar({"in.zip": inner, "in.tar.gz": gzip.compress(make_tar({"x.txt": b"words"}))})
    found = extract(nested, "a.tar")
    assert texts(found)["member=in.zip!/member=c.jsonl!/line=2"] == f"{PROSE}1".strip("\n")
    assert texts(found)["member=in.tar.gz!/member=x.txt"] == "words"
    deeper = make_zip({"a.tar": nested, "z.txt": b"words"})
    assert texts(extract(deeper, "b.zip")) == {"member=z.txt": "words"}
    assert set(errors(extract(deeper, "b.zip")).values()) == {"nested_archive"}


# --- names ------------------------------------------------------------------------------------------------------

PIECES = st.lists(st.sampled_from([b"\\", b"x", b"41", b"\xff", b"ff", b"!", b"/", b"21", "é".encode(), b"\xc3"]))


@given(st.sets(PIECES.map(b"".join), max_size=60))
def test_no_two_names_read_alike(names: set[bytes]) -> None:
    shown = {printable(name) for name in names}
    assert len(shown) == len(names)
    assert not any(SEPARATOR in name for name in shown)
    for name in names:
        if b"\\" not in name and SEPARATOR.encode() not in name and name.decode("utf-8", "replace").encode() == name:
            assert printable(name) == name.decode()


def test_members_of_any_name_have_locators_of_their_own() -> None:
    names = [b"\xff.txt", rb"\xff.txt", rb"\\xff.txt", "ü.txt".encode(), "ü.txt".encode("latin-1"), b"a!/line=1", b"a"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(os.fsdecode(name))
            data = f"text {number}".encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = texts(extract(out.getvalue(), "a.tar"))
    assert list(found.values()) == [f"text {number}" for number in range(len(names))]
    assert all(locator.encode() for locator in found)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_is_told() -> None:
    for data in (
        make_tar({"a.txt": b"one"})[:1024] + make_tar({"a.txt": b"two"}),
        make_zip({"a.txt": b"one", "b.txt": b"two"}).replace(b"b.txt", b"a.txt"),
    ):
        found = extract(data, "x")
        assert texts(found) == {"member=a.txt": "one"}
        assert errors(found) == {"entry=2": "repeated_member"}


# --- damage -----------------------------------------------------------------------------------------------------


TEN = {f"{number:02}.txt": f"text {number} ".encode() * 400 for number in range(10)}


@given(st.integers(1, 1 << 20), st.sampled_from(["tar", "tar.gz", "tar.zst", "zip", "streamed.zip"]))
@settings(max_examples=30)
def test_a_cut_archive_gives_what_came_before_and_one_reject(cut: int, kind: str) -> None:
    whole = {
        "tar": lambda: make_tar(TEN),
        "tar.gz": lambda: gzip.compress(make_tar(TEN), mtime=0),
        "tar.zst": lambda: zstandard.compress(make_tar(TEN)),
        "zip": lambda: make_zip(TEN, zipfile.ZIP_STORED),
        "streamed.zip": lambda: make_streamed_zip(TEN),
    }[kind]()
    all_texts = texts(extract(whole, kind))
    assert len(all_texts) == 10
    data = whole[: 512 + cut % (len(whole) - 512)]
    found = extract(data, kind)
    good = texts(found)
    assert good.items() <= all_texts.items()
    assert list(good) == list(all_texts)[: len(good)]
    rejects = [one for one in found if isinstance(one, Reject)]
    assert len(rejects) == 1 or len(good) == 10 or (kind == "tar" and len(data) % 512 == 0)
    if kind in {"tar", "zip"}:
        assert len(good) >= len(data) // 5200 - 1


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=30), st.booleans())
@settings(max_examples=60)
def test_no_damage_raises_or_hangs(changes: list[tuple[int, int]], is_zip: bool) -> None:
    data = bytearray(make_zip(TEN) if is_zip else make_tar(TEN))
    for place, value in changes:
        data[place % len(data)] = value
    start = time.process_time()
    found = extract(bytes(data), "a.zip" if is_zip else "a.tar")
    assert found
    assert time.process_time() - start < 5
    locators = [one.locator for one in found if isinstance(one, Extracted)]
    assert len(set(locators)) == len(locators)


def test_a_wrong_checksum_is_found() -> None:
    data = bytearray(make_zip({"a.txt": b"words " * 10, "b.txt": b"more"}, zipfile.ZIP_STORED))
    data[data.index(b"words")] ^= 1
    found = extract(bytes(data), "a.zip")
    assert (texts(found), errors(found)) == ({"member=b.txt": "more"}, {"member=a.txt": "broken_archive"})


def test_encrypted_members_and_unknown_methods_are_rejected() -> None:
    whole = make_zip({"a.txt": b"words", "b.txt": b"more"}, zipfile.ZIP_STORED)
    for offset, value, error in ((6, b"\x01\0", "encrypted"), (8, b"\x63\0", "not_supported")):
        data = bytearray(whole)
        table = data.index(b"PK\x01\x02")
        data[offset : offset + 2] = data[table + offset + 2 : table + offset + 4] = value
        found = extract(bytes(data), "a.zip")
        assert (texts(found), errors(found)) == ({"member=b.txt": "more"}, {"member=a.txt": error})


# --- bombs ------------------------------------------------------------------------------------------------------


def test_bombs_stop_at_the_budget() -> None:
    limit = 1 << 17
    text = b"x" * (limit // 2) + b"\n"
    inner = make_zip({f"{number}.txt": text for number in range(9)})
    for data in (
        make_zip({f"{number}.txt": text for number in range(200)}),
        gzip.compress(make_tar({f"{number}.txt": text for number in range(200)})),
        make_zip({"in.zip": make_zip({f"{number}.txt": text for number in range(200)})}),
        make_zip({f"{number}.zip": inner for number in range(60)}),
    ):
        start = time.process_time()
        found = extract(data, "a", max_file_bytes=limit)
        assert time.process_time() - start < 20
        assert sum(len(one.text) for one in found if isinstance(one, Extracted)) <= max(limit, 100 * len(data))
        assert "too_large" in errors(found).values()


def test_overlapping_members_are_found() -> None:
    """Many entries of the table that lead to one kernel of data, as in a bomb without nesting."""
    packed = zlib.compress(bytes(1 << 20), 9)[2:-4]
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), 1 << 20, 1, 0) + b"a"
    checksum = zlib.crc32(bytes(1 << 20))
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, checksum, len(packed), 1 << 20, 2, 0, 0, 0, 0, 0, 0
    )
    table = b"".join(entry + b"%02d" % number for number in range(99))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 99, 99, len(table), len(local) + len(packed), 0)
    found = extract(local + packed + table + end, "a.zip")
    assert errors(found)[""] == "broken_archive"
    assert len(found) < 10


def test_a_zip_that_holds_itself_ends() -> None:
    inner = make_zip({"a.txt": b"words"})
    for _ in range(6):
        inner = make_zip({"a.zip": inner, "b.zip": inner})
    start = time.process_time()
    found = extract(inner, "a.zip")
    assert not texts(found)
    assert set(errors(found).values()) == {"nested_archive"}
    assert time.process_time() - start < 5


def test_declared_sizes_are_not_believed() -> None:
    huge = bytearray(make_tar({"a.txt": b"words"}))
    huge[124:136] = b"\x80" + (1 << 70).to_bytes(11, "big")
    huge[148:156] = b"%06o\0 " % (sum(huge[:148]) + 256 + sum(huge[156:512]))
    assert errors(extract(bytes(huge), "a.tar")) == {"member=a.txt": "truncated"}
    header = bytearray(make_tar({"x" * 200: b"words"}, tarfile.GNU_FORMAT))
    header[124:136] = b"77777777777\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:512]))
    assert errors(extract(bytes(header), "a.tar")) == {"": "broken_archive"}
    data = bytearray(make_zip({"a.txt": b"words"}))
    table = data.index(b"PK\x01\x02")
    data[table + 24 : table + 28] = b"\xf0\xff\xff\xff"
    assert errors(extract(bytes(data), "a.zip")) == {"member=a.txt": "broken_archive"}
    many = make_tar({}, tarfile.USTAR_FORMAT)[:0] + make_tar({"a" * 200: b""}, tarfile.GNU_FORMAT)[:1024] * 3000
    assert errors(extract(many, "a.tar")) == {"": "broken_archive"}


def test_rejects_beyond_ten_thousand_are_summed() -> None:
    found = extract(b"[]\n" * 30_000 + b'{"text": "fine"}\n', "a.jsonl")
    *rejects, last = found
    assert len(rejects) == 10_001
    assert texts(found) == {"line=30001": "fine"}
    assert isinstance(last, Reject)
    assert (last.error, last.message) == ("more_rejects", "20000 more rejects in this file: invalid_json: 20000")


def test_a_file_of_bad_records_alone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_FRUITLESS", 1000)
    good = b'{"text": "fine"}\n'
    found = extract(b"[]\n" * 999 + good + b"[]\n" * 5000 + good, "a.jsonl")
    assert texts(found) == {"line=1000": "fine"}
    assert len(found) == 999 + 1 + 1000 + 1
    assert errors(found)[""] == "too_many_rejects"
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([None] * 5000, pa.string())}), sink)
    assert len(extract(sink.getvalue(), "a.parquet")) == 1001


# --- where files lie --------------------------------------------------------------------------------------------


def test_archives_behind_urls_and_globs_are_read() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/shelf/a/one.zip", make_zip({"x.txt": b"in a zip"}))
    fs.pipe("/shelf/b/two.tar.gz", gzip.compress(make_tar({"y.txt": b"in a tar"})))
    fs.pipe("/shelf/b/.hidden/three.zip", make_zip({"z.txt": b"hidden"}))
    listed = list_source(Source(name="in", path="memory://shelf/*/*"), seed=0)
    assert [file.path for file in listed] == ["a/one.zip", "b/two.tar.gz"]
    assert listed == list_source(Source(name="in", path="memory://shelf"), seed=0)
    found = []
    for file in listed:
        with paths.open_read(file.location) as handle:
            found += list(extract_file(handle, file.path, Extract(), Columns()))
    assert texts(found) == {"member=x.txt": "in a zip", "member=y.txt": "in a tar"}


def test_files_whose_names_escape_alike_do_not_collide(tmp_path: Path) -> None:
    names = [b"\xff.txt", rb"\xff.txt", rb"\\xff.txt", rb"plain\back.txt", "ü.txt".encode()]
    for name in names:
        (Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).write_bytes(b"words")
    listed = [file.path for file in list_source(Source(name="in", path=str(tmp_path)), seed=0)]
    assert len(set(listed)) == len(names)
    assert {r"\xff.txt", r"plain\back.txt", "ü.txt"} <= set(listed)  # as they were before two could collide
