"""A finished extraction of PDF files, written with the contracts of `schemas` alone, for tests of what reads one.

Files: `paper.pdf` is drawn for real, `scan.pdf` is gone, `bad.pdf` is no PDF, and one lies inside an archive.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymupdf
import yaml

from schemas.documents import DOCUMENTS, PAGES, REFINEMENTS, REJECTS
from schemas.hashing import document_id, text_hash
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import check_recipe
from schemas.tables import write_table
from sluice.road import STAGES
from tests.sluice.made_runs import EVIL

COUNTS = {"text_layer": 42, "ocr": 6, "vlm": 3, "blank": 2, "unreadable": 3}
SPENT = {
    "vision_requests": 7,
    "vision_retries": 2,
    "vision_kept_answers": 1,
    "vision_unanswered": 0,
    "vision_prompt_tokens": 12_000,
    "vision_completion_tokens": 3_000,
}


@dataclass(frozen=True)
class MadePage:
    path: str
    page: int
    route: str
    confidence: float
    reason: str
    text: str = ""
    locator: str = ""
    error: str | None = None


def made_pages() -> list[MadePage]:
    pages = [
        MadePage("paper.pdf", number, "text_layer", 0.5 + number / 100, "clean", f"# Page {number}\n\nText {EVIL}")
        for number in range(1, 43)
    ]
    pages += [MadePage("paper.pdf", 43 + n, "blank", 1.0, "nothing on it") for n in range(2)]
    pages += [
        MadePage("scan.pdf", 1 + n, "ocr", 0.3 + n / 10, f"no text layer <i>{EVIL}</i>", f"Read {n} of a scan.")
        for n in range(6)
    ]
    pages += [
        MadePage("box.zip", n, "vlm", 0.9, "outlines", f"From an archive {n}", "member=in.pdf") for n in range(1, 4)
    ]
    pages += [MadePage("bad.pdf", n, "ocr", 0.0, "no engine is installed", error="needs_ocr") for n in range(1, 3)]
    return [*pages, MadePage("bad.pdf", 3, "text_layer", 0.0, "not read in time", error="timeout")]


def draw_pdf(path: Path, pages: int, text: bool = True, empty: bool = False) -> None:
    """Pages with a text layer; without `text` they are pictures of such pages."""
    with pymupdf.open() as pdf:
        for number in range(1, pages + 1):
            page = pdf.new_page()
            if empty:
                continue
            page.insert_text((72, 100), f"Page {number}", fontsize=24)
            page.insert_textbox((72, 130, 520, 700), "The quick brown fox jumps over the lazy dog. " * 60, fontsize=11)
        if text or empty:
            pdf.save(path)
            return
        with pymupdf.open() as scan:
            for page in pdf:
                scan.new_page().insert_image(page.rect, pixmap=page.get_pixmap(dpi=72))
            scan.save(path)


def make_extraction(folder: Path, shards: int = 2, refined: bool = True) -> Path:
    """A run folder `folder/run` with its source `folder/docs`."""
    docs, run = folder / "docs", folder / "run"
    docs.mkdir(parents=True)
    draw_pdf(docs / "paper.pdf", 44)
    (docs / "bad.pdf").write_bytes(b"%PDF-1.7 no more than that")
    value = {"name": "made", "sources": [{"name": "pdf", "path": str(docs)}]}
    value["extract"] = {"vision": {"url": "http://localhost/v1", "model": f"eye {EVIL}", "input_price": 50}}
    recipe = check_recipe(value, folder)
    files = []
    for shard in range(shards):
        mine = [page for page in made_pages() if len(page.path) % shards == shard]
        for name, schema, rows in (
            ("documents", DOCUMENTS, _documents(mine)),
            ("pages", PAGES, [_page(page) for page in mine]),
            ("rejects", REJECTS, _rejects(mine)),
            ("refinements", REFINEMENTS, _refinements(shard) if refined else []),
        ):
            table = pa.Table.from_pylist(rows, schema)
            files.append(write_table(str(run / "extract"), f"{name}/{shard:05d}.parquet", table))
    stage = STAGES["extract"]
    manifest = Manifest(
        stage="extract",
        version=stage.version,
        key="0" * 32,
        config=json.loads(json.dumps(stage.config(recipe))),
        inputs={},
        files=sorted(files, key=lambda entry: entry.path),
        counts={"documents": 3, "files": 4, "pages": sum(COUNTS.values()), "rejects": 4},
        reasons={"needs_ocr": 2, "timeout": 1, "encrypted": 1},
        extra={
            **{f"pages_{route}": number for route, number in COUNTS.items()},
            "rejected_pages_needs_ocr": 2,
            "rejected_pages_timeout": 1,
        },
    )
    write_manifest(str(run / "extract"), manifest)
    execution = {"stage": "extract", "key": manifest.key, "started": "2026-01-02T03:04:05+00:00", "spent": SPENT}
    (run / "run.json").write_text(json.dumps({"executions": [execution]}))
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return run


def _key(page: MadePage) -> dict[str, Any]:
    identity = document_id("pdf", page.path, page.locator)
    return {"document_id": identity, "source": "pdf", "path": page.path, "locator": page.locator}


def _page(page: MadePage) -> dict[str, Any]:
    rest = {name: getattr(page, name) for name in ("page", "route", "reason", "confidence", "error")}
    return _key(page) | rest | {"characters": len(page.text)}


def _documents(pages: list[MadePage]) -> list[dict[str, Any]]:
    rows = []
    for path in sorted({page.path for page in pages if page.text}):
        mine = [page for page in pages if page.path == path and page.text]
        text, spans = "", []
        for page in mine:
            begin = len(text) + 2 * bool(text)
            text += "\n\n" * bool(text) + page.text
            spans.append({"page": page.page, "begin": begin, "end": len(text)})
        metadata = [("kind", "pdf")]
        rows.append(_key(mine[0]) | {"text_hash": text_hash(text), "text": text, "metadata": metadata, "pages": spans})
    return rows


def _rejects(pages: list[MadePage]) -> list[dict[str, Any]]:
    rows = [
        _key(page) | {"locator": f"page={page.page}", "stage": "extract", "error": page.error, "message": page.reason}
        for page in pages
        if page.error
    ]
    if rows:
        closed = MadePage("closed.pdf", 0, "", 0.0, "needs a password")
        rows.append(_key(closed) | {"stage": "extract", "error": "encrypted", "message": closed.reason})
    return rows


def _refinements(shard: int) -> list[dict[str, Any]]:
    rows = []
    for chunk in range(6):
        before = f"Teh first word of chunk {chunk} is wrong, and " + "much that follows is right, " * 20 + "teh end."
        accepted = chunk % 3 != 2
        rows.append(
            {
                "document_id": document_id("pdf", f"{shard}.pdf", ""),
                "chunk": chunk,
                "begin": 0,
                "end": len(before),
                "before": before,
                "after": before.replace("Teh", f"The {EVIL}").replace("teh", "the") if chunk else before,
                "accepted": accepted,
                "reason": "" if accepted else f"numbers: lost {chunk} {EVIL}",
                "model": "repairer",
            }
        )
    return rows
