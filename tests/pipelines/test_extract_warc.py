"""Web archives, well made, cut, damaged and hostile; fastwarc is the other opinion on well-made ones."""

import functools
import gzip
import io
import json
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pymupdf
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract.found import Extracted, Reject
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

PROSE = "The tide rises twice a day because the earth turns beneath two bulges of water. "
HTML = f"<!DOCTYPE html><html><head><title>Tides</title></head><body><p>{PROSE * 3}</p></body></html>".encode()
DATE = "2024-05-01T10:00:00Z"


def http(body: bytes, media: str = "text/plain", status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n{headers}\r\n".encode() + body


def record(block: bytes, url: str = "http://a.example/x", kind: str = "response", **more: str) -> bytes:
    """One record; keywords are headers, with `_` for `-`, and win over the usual ones."""
    media = "application/http; msgtype=response" if kind == "response" else "text/plain"
    headers = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{zlib.crc32(block):08x}>",
        "WARC-Date": DATE,
        "WARC-Target-URI": url,
        "Content-Type": media,
        "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


def extract(data: bytes | Path, path: str = "a.warc", **limits: float) -> list[Extracted | Reject]:
    return list(extract_file(data, path, Extract.model_validate(limits), Columns()))  # type: ignore[arg-type]


def texts(found: list[Extracted | Reject]) -> dict[str, str]:
    return {one.locator: one.text for one in found if isinstance(one, Extracted)}


def errors(found: list[Extracted | Reject]) -> dict[str, str]:
    return {one.locator: one.error for one in found if isinstance(one, Reject)}


def only(data: bytes, **limits: float) -> Extracted:
    (found,) = extract(data, **limits)
    assert isinstance(found, Extracted), found
    return found


RECORDS = [
    record(b"software: test\r\n", "", "warcinfo"),
    record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
    record(http(HTML, "text/html; charset=utf-8"), "https://a.example/page?q=1"),
    record(http(b"plain words"), "https://a.example/b.txt"),
    record(http(b"x = 1\n", "text/plain"), "https://a.example/src/c.py"),
    record(b"fetchTimeMs: 5", kind="metadata"),
    record(http(b"", status="404 Not Found"), "https://a.example/gone"),
    record(http(b"", status="301 Moved"), "https://a.example/moved"),
    record(http(b"\x89PNG", "image/png"), "https://a.example/d.png"),
    record(http(b"User-agent: *"), "https://a.example/robots.txt"),
    record(http(b"revisited"), kind="revisit"),
    record("a text, grün".encode(), "https://a.example/e", "conversion"),
    record(b"a resource", "<https://a.example/f>", "resource"),
    record(b"dns", "dns:a.example", "resource"),
]
WHOLE = b"".join(RECORDS)
EXPECTED = {
    "record=3": (PROSE * 3).strip(),
    "record=4": "plain words",
    "record=5": "x = 1",
    "record=12": "a text, grün",
    "record=13": "a resource",
}


def with_dictionary(compressed: bool) -> bytes:
    """As the draft of the IIPC has it: the dictionary in a frame that others skip, then a frame a record."""
    words = b"".join(RECORDS)[:4000]
    dictionary = zstandard.ZstdCompressionDict(words, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    stored = dictionary.as_bytes()
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    packed = zstandard.compress(stored) if compressed else stored
    head = b"\x5d\x2a\x4d\x18" + len(packed).to_bytes(4, "little") + packed
    return head + b"".join(compressor.compress(one) for one in RECORDS)


# --- what is in them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.warc", WHOLE),
        ("anything", WHOLE),
        ("a.warc.gz", b"".join(gzip.compress(one) for one in RECORDS)),
        ("a.warc.gz", gzip.compress(WHOLE)),
        ("a.warc.zst", b"".join(zstandard.compress(one) for one in RECORDS)),
        ("a.warc.zst", with_dictionary(compressed=False)),
        ("a.warc.zst", with_dictionary(compressed=True)),
    ],
)
def test_records_become_documents(path: str, data: bytes, tmp_path: Path) -> None:
    found = extract(data, path)
    assert texts(found) == EXPECTED
    page = next(one for one in found if one.locator == "record=3")
    assert isinstance(page, Extracted)
    assert (page.url, page.date) == ("https://a.example/page?q=1", DATE)
    assert page.metadata["title"] == "Tides"
    assert page.metadata["kind"] == "html"
    assert page.metadata["content_type"] == "text/html"
    assert page.metadata["warc_record_id"].startswith("<urn:uuid:")
    assert [(one.locator, one.error, one.message) for one in found if isinstance(one, Reject)] == [
        (
            "",
            "skipped_records",
            "4 records hold no page to read: image/png: 1, robots.txt: 1, status 301: 1, status 404: 1",
        )
    ]
    local = tmp_path / "archive"
    local.write_bytes(data)
    assert extract(local, path) == found


def test_another_reader_sees_the_same_records() -> None:
    pages = [record(http(f"page {n} ü".encode() * n, "text/html"), f"http://a.example/{n}") for n in range(1, 40)]
    packed = b"".join(gzip.compress(one) for one in pages)
    theirs = {
        one.headers["WARC-Target-URI"]: one.reader.read().decode()
        for one in ArchiveIterator(io.BytesIO(packed), record_types=WarcRecordType.response)
    }
    ours = {one.url: one.text for one in extract(packed, "a.warc.gz") if isinstance(one, Extracted)}
    assert ours == {url: text.strip() for url, text in theirs.items()}


def test_pdf_and_other_files_take_their_own_road() -> None:
    document = pymupdf.open()
    document.new_page().insert_textbox((72, 72, 500, 700), PROSE * 3)
    pdf = bytes(document.tobytes())
    found = extract(
        record(http(pdf, "application/pdf"), "http://a.example/a")
        + record(http(pdf, "application/octet-stream"), "http://a.example/b")
        + record(http(b"%PDF-1.4 broken", "application/pdf"), "http://a.example/c")
    )
    assert {name: " ".join(text.split()) for name, text in texts(found).items()} == {
        "record=1": (PROSE * 3).strip(),
        "record=2": (PROSE * 3).strip(),
    }
    assert set(errors(found)) == {"record=3"}
    (page,) = (one for one in extract(record(http(pdf, "text/html"))) if isinstance(one, Extracted))
    assert page.metadata["kind"] == "pdf"
    assert page.metadata["declared"] == "html"
    assert page.pages


def test_an_archive_in_a_tar_is_read(tmp_path: Path) -> None:
    import tarfile

    data = gzip.compress(RECORDS[3])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("crawl/a.warc.gz")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    assert texts(extract(out.getvalue(), "a.tar")) == {"member=crawl/a.warc.gz!/record=1": "plain words"}


# --- encodings of bodies ----------------------------------------------------------------------------------------


def chunked(body: bytes, size: int = 7) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def bare_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": bare_deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@given(
    st.text(st.characters(exclude_characters="\0"), max_size=300),
    st.sampled_from(["", *ENCODINGS]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_bodies_are_decoded(text: str, encoding: str, in_chunks: bool, twice: bool) -> None:
    text = f"words {text}"
    body, names = text.encode("utf-8", "replace"), []
    for _ in range(1 + twice if encoding else 0):
        body = ENCODINGS[encoding](body)
        names.append(encoding)
    headers = f"Content-Encoding: {', '.join(names)}\r\n" if names else ""
    if in_chunks:
        body, headers = chunked(body), headers + "Transfer-Encoding: chunked\r\n"
    plain = only(record(text.encode("utf-8", "replace"), "http://a.example/", "conversion"))
    assert only(record(http(body, headers=headers), "http://a.example/")).text == plain.text


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_that_is_decoded_already_is_taken_as_it_is(encoding: str) -> None:
    headers = f"Content-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n"
    assert only(record(http(HTML, "text/html", headers=headers))).text == (PROSE * 3).strip()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_damaged_body_rejects_its_record_alone(encoding: str) -> None:
    noise = bytes(range(256)) * 2_000
    body = bytearray(ENCODINGS[encoding](b"words " * 40_000 + noise.translate(bytes.maketrans(b"\0", b" "))))
    headers = f"Content-Encoding: {encoding}\r\n"
    cut = record(http(bytes(body[: len(body) * 3 // 4]), headers=headers))
    found = extract(cut + RECORDS[3])
    assert texts(found) == {"record=2": "plain words"}
    assert errors(found) == {"record=1": "broken_record"}
    told = extract(
        record(
            http(gzip.compress(b"words " * 9_000)[:-20], headers="Content-Encoding: gzip\r\n"), WARC_Truncated="length"
        )
    )
    assert isinstance(told[0], Extracted)
    assert told[0].metadata["truncated"] == "length"


def test_the_character_set_of_the_server_counts() -> None:
    page = "<html><head><title>Прилив</title></head><body><p>" + "Луна тянет воду. " * 20 + "</p></body></html>"
    for charset in ("windows-1251", "koi8-r", "utf-8"):
        body = page.encode(charset)
        assert "Луна тянет воду." in only(record(http(body, f'text/html; charset="{charset}"'))).text
    assert only(record(http("grün".encode("latin-1"), "text/plain; charset=ISO-8859-1"))).text == "grün"
    for charset in ("rot13", "zlib_codec", "unicode_escape", "punycode", "no-such", "\x00"):
        (found,) = extract(record(http("grün".encode("latin-1"), f"text/plain; charset={charset}")))
        assert isinstance(found, Reject)


# --- damage -----------------------------------------------------------------------------------------------------

TEN = [record(http(f"text {n} ".encode() * 100), f"http://a.example/{n}") for n in range(10)]


@given(st.integers(0, 1 << 20), st.sampled_from(["plain", "gzip", "one gzip", "zstd"]))
@settings(max_examples=40)
def test_a_cut_file_gives_what_came_before_and_one_reject(cut: int, kind: str) -> None:
    whole = {
        "plain": lambda: b"".join(TEN),
        "gzip": lambda: b"".join(gzip.compress(one, mtime=0) for one in TEN),
        "one gzip": lambda: gzip.compress(b"".join(TEN), mtime=0),
        "zstd": lambda: b"".join(zstandard.compress(one) for one in TEN),
    }[kind]()
    data = whole[: 200 + cut % (len(whole) - 200)]
    complete = texts(extract(whole, "a.warc"))
    assert len(complete) == 10
    found = extract(data, "a.warc")
    good = texts(found)
    assert list(good) == list(complete)[: len(good)]
    assert good.items() <= complete.items()
    rejects = [one for one in found if isinstance(one, Reject)]
    ends = [sum(map(len, TEN[:n])) for n in range(1, 11)]
    # Without the empty lines behind it a record is whole; a packed file may end with a member.
    if kind == "plain":
        assert len(rejects) == (not any(end - 4 <= len(data) <= end for end in ends))
        assert len(good) == sum(end - 4 <= len(data) for end in ends)
    else:
        assert len(rejects) <= 1
        assert rejects or kind != "one gzip"


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=40))
@settings(max_examples=50)
def test_no_damage_raises_or_hangs(changes: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(TEN))
    for place, value in changes:
        data[place % len(data)] = value
    start = time.process_time()
    found = extract(bytes(data), "a.warc")
    assert time.process_time() - start < 5
    assert found
    assert len({one.locator for one in found}) == len(found)


@pytest.mark.parametrize("length", ["30", "900", "99999999999999999", "9" * 40, "-5", "abc", ""])
def test_a_wrong_length_costs_no_other_record_than_it_covers(length: str) -> None:
    tail = TEN[:3]
    found = extract(record(http(HTML, "text/html"), Content_Length=length) + b"".join(tail))
    assert "record=1" in errors(found)
    expected = list(texts(extract(b"".join(tail))).values())
    good = list(texts(found).values())
    assert good == expected[len(expected) - len(good) :]
    assert len(good) >= (2 if length == "900" else 3)


def test_endless_headers_are_given_up() -> None:
    for bad in (
        b"WARC/1.0\r\nX: " + b"a" * 3_000_000 + b"\r\n\r\n",
        b"WARC/1.0\r\n" + b"X: a\r\n" * 300_000 + b"\r\n",
        b"WARC/1.0\r\n" + b" a\r\n" * 300_000 + b"\r\n",
        record(http(b"x", headers="X: a\r\n" * 30_000)),
        record(b"HTTP/1.1 200 " + b"a" * 1_000_000),
        record(b"no http at all"),
        b"WARC/1.0 junk\r\n" * 1000,
    ):
        start = time.process_time()
        found = extract(bad + TEN[0], "a.warc")
        assert list(texts(found).values()) == list(texts(extract(TEN[0])).values())
        assert set(errors(found).values()) == {"broken_record"}
        assert time.process_time() - start < 3


def test_junk_between_records_costs_none() -> None:
    found = extract(TEN[0] + b"junk\r\n" * 1000 + TEN[1] + b"\r\n" * 1000 + TEN[2], "a.warc")
    assert list(texts(found)) == ["record=1", "record=3", "record=4"]
    assert errors(found) == {"record=2": "broken_record"}


# --- bombs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_in_a_record_is_given_up_at_the_limit(encoding: str) -> None:
    pack = functools.partial(brotli.compress, quality=5) if encoding == "br" else ENCODINGS[encoding]
    bomb = record(http(pack(bytes(32 << 20)), headers=f"Content-Encoding: {encoding}\r\n"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = extract(bomb + TEN[0], "a.warc")
    assert time.process_time() - start < 5
    assert list(texts(found)) == ["record=2"]
    assert errors(found) == {"record=1": "too_large"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes


def test_many_bombs_spend_the_budget_of_the_file() -> None:
    bomb = record(http(brotli.compress(bytes(8 << 20), quality=5), headers="Content-Encoding: br\r\n"))
    found = extract(bomb * 200 + TEN[0], "a.warc", max_file_bytes=32 << 20)
    assert not texts(found)
    assert list(errors(found).values())[-1] == "too_large"
    assert len(found) < 30


def test_a_dictionary_is_no_bomb_either() -> None:
    huge = zstandard.compress(bytes(32 << 20))
    for head in (
        b"\x5d\x2a\x4d\x18" + len(huge).to_bytes(4, "little") + huge,
        b"\x5d\x2a\x4d\x18\xff\xff\xff\xff",
        b"\x5d\x2a\x4d\x18\x04\0\0\0\x28\xb5\x2f\xfd",
    ):
        (found,) = extract(head + zstandard.compress(WHOLE), "a.warc.zst")
        assert isinstance(found, Reject)
        assert found.error in {"too_large", "broken_compression"}


def test_metadata_of_records_is_bounded() -> None:
    found = only(
        record(http(b"words"), "http://a.example/" + "x" * 9000, WARC_Date="yesterday", WARC_Record_ID="i" * 9000)
    )
    assert found.url is not None
    assert len(found.url) <= 2000
    assert found.date is None
    assert all(len(value) <= 300 for value in found.metadata.values())
    many = b"".join(record(http(b"x", f"image/x{number}")) for number in range(500))
    (skipped,) = extract(many)
    assert isinstance(skipped, Reject)
    assert len(skipped.message) <= 300
    assert json.dumps(skipped.message)
