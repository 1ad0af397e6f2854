"""Web archives and archives: documents per CPU second beside a bare iteration over the same bytes in the same run.

    python -m benchmarks.containers [--records N] [--rounds N]

The peers only read the bytes of each record or member (fastwarc, tarfile, zipfile); Sluice gives documents. Rows of
plain text show the price of the container alone, rows of HTML that of the extractor behind it. CPU seconds are those of
this process and of the children that read HTML. Uses the shared data folder where it is, else the built-in corpus.
"""

import argparse
import gzip
import io
import random
import statistics
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipelines.extract.found import Extracted
from pipelines.extract.reader import extract_file
from schemas.recipe import Columns, Extract

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "html"
CORPUS = ROOT / "examples" / "quickstart" / "documents" / "html"


def cpu_seconds() -> float:
    process = psutil.Process()
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def record(body: bytes, media: str, number: int, kind: str) -> bytes:
    block, outer = body, media
    if kind == "response":
        outer = "application/http; msgtype=response"
        block = b"HTTP/1.1 200 OK\r\nContent-Type: " + media.encode() + b"\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number:08}>\r\n"
        "WARC-Date: 2024-05-01T10:00:00Z\r\n"
        f"WARC-Target-URI: http://a.example/{number}\r\nContent-Length: {len(block)}\r\n"
        f"Content-Type: {outer}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def ours(data: bytes, name: str) -> int:
    found = extract_file(data, name, Extract(), Columns())
    return sum(isinstance(one, Extracted) for one in found)


def bare_warc(data: bytes, name: str) -> int:
    kinds = WarcRecordType.response | WarcRecordType.conversion  # type: ignore[operator]
    records = ArchiveIterator(io.BytesIO(data), record_types=kinds, auto_decode="all")
    return sum(bool(one.reader.read()) for one in records)


def bare_tar(data: bytes, name: str) -> int:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
        return sum(bool(file.read()) for member in archive if (file := archive.extractfile(member)))


def bare_zip(data: bytes, name: str) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(bool(archive.read(name)) for name in archive.namelist())


def make_tar(bodies: list[bytes], suffix: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for number, body in enumerate(bodies):
            member = tarfile.TarInfo(f"{number:06}{suffix}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return out.getvalue()


def make_zip(bodies: list[bytes], suffix: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, body in enumerate(bodies):
            archive.writestr(f"{number:06}{suffix}", body)
    return out.getvalue()


def rate(work: Callable[[bytes, str], int], data: bytes, name: str, rounds: int) -> tuple[float, int]:
    documents = work(data, name)  # starts the child
    seconds = []
    for _ in range(rounds):
        start = cpu_seconds()
        work(data, name)
        seconds.append(cpu_seconds() - start)
    return documents / max(statistics.median(seconds), 1e-9), documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(SHARED.rglob("*.html")) or sorted(CORPUS.glob("*.html"))
    pages = [files[number % len(files)].read_bytes() for number in range(arguments.records)]
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmw", k=draw.randint(2, 9))) for _ in range(5000)]
    plain = [" ".join(draw.choices(words, k=700)).encode() for _ in range(arguments.records)]
    html = pages[: max(1, arguments.records // 5)]

    def packed(bodies: list[bytes], media: str, kind: str) -> bytes:
        return b"".join(gzip.compress(record(body, media, n, kind), 6) for n, body in enumerate(bodies))

    cases = (
        ("WET, text", packed(plain, "text/plain", "conversion"), "a.warc.wet.gz", bare_warc, "fastwarc"),
        ("WARC, text", packed(plain, "text/plain", "response"), "a.warc.gz", bare_warc, "fastwarc"),
        ("WARC, HTML", packed(html, "text/html", "response"), "b.warc.gz", bare_warc, "fastwarc"),
        ("tar.gz, text", make_tar(plain, ".txt"), "a.tar.gz", bare_tar, "tarfile"),
        ("tar.gz, HTML", make_tar(html, ".html"), "b.tar.gz", bare_tar, "tarfile"),
        ("zip, text", make_zip(plain, ".txt"), "a.zip", bare_zip, "zipfile"),
    )
    print(f"{'input':14} {'MB':>7} {'documents':>10} {'ours/s':>10} {'bare/s':>10} {'ratio':>7}  peer")
    for title, data, name, bare, peer in cases:
        mine, documents = rate(ours, data, name, arguments.rounds)
        theirs, _ = rate(bare, data, name, arguments.rounds)
        size = len(data) / 1e6
        print(f"{title:14} {size:7.1f} {documents:10,} {mine:10,.0f} {theirs:10,.0f} {mine / theirs:7.2f}  {peer}")


if __name__ == "__main__":
    main()
