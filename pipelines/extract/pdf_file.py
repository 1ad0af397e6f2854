"""One PDF file: its pages are read range by range, and then become one document.

    read_range: child process -> Page; pages whose text layer will not do go to a vision model or to recognition
    make_documents: all pages of the file -> text in Markdown, page table, rejects

Ranges have a fixed size, so that the pages come out the same whether one worker reads all ranges of a file or many
workers read one each.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from annotators.served_model import ServedModel
from pipelines.extract.assemble import assemble
from pipelines.extract.found import Extracted, Found, PageFact, Reject, Repair, clean_text, clip, make_document
from pipelines.extract.isolate import Isolated
from pipelines.extract.judge import judge_document
from pipelines.extract.ocr import LEAST_CONFIDENCE, Missing, engine_of_process
from pipelines.extract.page import WRAPPED_HYPHEN, Page, Unreadable
from pipelines.extract.refine import refine_text
from pipelines.extract.vision import Failure, PageRequest, read_pages, too_many_fallbacks
from schemas import paths
from schemas.recipe import Extract, Server

PAGES_PER_RANGE = 64
_FAULTS = 3  # pages of a range that may hang or crash the child before the rest is given up
_FATAL = {"timeout", "crashed", "out_of_memory"}


@dataclass(frozen=True)
class PdfInfo:
    page_count: int
    title: str


def open_pdf(path: str, options: Extract) -> PdfInfo | Reject:
    """What the file says of itself, or why it cannot be read."""
    with Isolated() as isolated:
        answer, _ = isolated.ask("pdf_open", _request(path, options), seconds=options.file_seconds)
    if "error" in answer:
        return Reject("", _file_error(answer["error"]), clip(answer["message"]))
    count = answer["page_count"]
    if count == 0:
        return Reject("", "no_pages", "the file has no page")
    if count > options.max_pages:
        return Reject("", "too_large", f"{count} pages; the limit is {options.max_pages}")
    return PdfInfo(count, answer["title"])


def page_ranges(count: int) -> list[tuple[int, int]]:
    """First and last page of every range of a file of `count` pages, from 1."""
    return [(first, min(first + PAGES_PER_RANGE - 1, count)) for first in range(1, count + 1, PAGES_PER_RANGE)]


def read_range(path: str, options: Extract, first: int, last: int) -> Iterator[Page]:
    """The pages `first` to `last`, in order; each with text, blank, or with an error."""
    with Isolated() as isolated:
        yield from _Reader(isolated, path, options).pages(first, last)


def extract_pdf(path: str, options: Extract, metadata: dict[str, str]) -> Iterator[Found]:
    """The document of a local PDF file, its page table and the rejects of its pages."""
    info = open_pdf(path, options)
    if isinstance(info, Reject):
        yield info
        return
    pages = [page for first, last in page_ranges(info.page_count) for page in read_range(path, options, first, last)]
    yield from make_documents(pages, info, options, metadata)


def _request(path: str, options: Extract) -> dict[str, Any]:
    return {"path": path, "backend": options.pdf_backend, "passwords": options.passwords}


def _file_error(error: str) -> str:
    return "broken_pdf" if error == "crashed" else error


_served: dict[str, ServedModel] = {}
_serving = threading.Lock()


def served_model(server: Server | None, answers: str | None) -> ServedModel | None:
    """The one client of this process for a server; its limit on requests holds for all threads together."""
    if server is None:
        return None
    key = f"{server.model_dump_json()} {answers}"
    with _serving:
        if key not in _served:
            _served[key] = ServedModel(server, answers)
        return _served[key]


def take_spent(options: Extract) -> dict[str, int]:
    """What this process has asked of models since the last call, by role: `vision_requests`, `refine_retries`, ..."""
    spent: dict[str, int] = {}
    for role, server in (("vision", options.vision), ("refine", options.refine)):
        if model := served_model(server, options.answers):
            spent |= {f"{role}_{name}": count for name, count in model.take_counts().items() if count}
    return spent


def check_models(options: Extract) -> None:
    """Ask the servers for their models before the first file is read; ConfigError if one is not as the recipe says.

    Not where answers are kept already: a rerun may need no server at all.
    """
    if options.answers and paths.exists(options.answers):
        return
    for server in (options.vision, options.refine):
        if server is not None:
            with ServedModel(server) as model:
                model.check()


def close_models() -> None:
    """Let go of the clients of this process; one that has stopped would stop the next run too."""
    with _serving:
        models = list(_served.values())
        _served.clear()
    for model in models:
        model.close()


class _Reader:
    """The pages of one range, through one borrowed child."""

    def __init__(self, isolated: Isolated, path: str, options: Extract) -> None:
        self.isolated = isolated
        self.lock = threading.Lock()  # the threads that ask a vision model render through the same child
        self.request = _request(path, options)
        self.options = options
        self.vision = served_model(options.vision, options.answers)
        self.faults = 0
        self.opened = False  # by the child that will be asked next
        self.packs: tuple[str, ...] = ()  # of languages, that read the page before

    def pages(self, first: int, last: int) -> Iterator[Page]:
        layers = map(self.text_layer, range(first, last + 1))
        for page in self._by_vision(layers) if self.vision else layers:
            yield self.recognise(page) if page.route == "ocr" and not page.error else page

    def text_layer(self, number: int) -> Page:
        """A page by its text layer; its route is `ocr` where that will not do."""
        if self.faults >= _FAULTS:
            return _bad_page(number, "given_up", f"{_FAULTS} pages before it hung or crashed the reader")
        answer, _ = self._ask("pdf_page", number)
        if "number" not in answer:
            return _bad_page(number, _file_error(answer["error"]), f"page {number}: {answer['message']}")
        return Page.from_json(answer)

    def _by_vision(self, layers: Iterator[Page]) -> Iterator[Page]:
        """Pages in order; those that the vision model should read and did keep their route `ocr` or their text."""
        assert self.vision and self.options.vision
        waiting: deque[tuple[Page, bool]] = deque()
        readings = read_pages(self.vision, self._requests(layers, waiting), self.options.vision)
        for reading in readings:
            while not waiting[0][1]:
                yield waiting.popleft()[0]
            page, _ = waiting.popleft()
            yield reading if isinstance(reading, Page) else _fallen_back(page, reading)
        yield from (page for page, _ in waiting)

    def _requests(self, layers: Iterator[Page], waiting: deque[tuple[Page, bool]]) -> Iterator[PageRequest]:
        """What to ask the vision model; every page also joins the queue, with whether it was asked for."""
        assert self.options.vision
        for page in layers:
            sound = page.route == "text_layer" and not page.error
            wanted = (page.route == "ocr" and not page.error) or (sound and self.options.vision.pages == "all")
            waiting.append((page, wanted))
            if wanted:
                layer = "\n\n".join(block.text for block in page.blocks) if sound else ""
                render = partial(self._picture, page.number)
                yield PageRequest(page.number, page.width, page.height, render, layer)

    def recognise(self, page: Page) -> Page:
        """A page whose text layer will not do, read by character recognition."""
        if self.options.ocr == "none":
            return replace(page, error="needs_ocr")
        engine = engine_of_process(self.options.ocr, tuple(self.options.ocr_languages))
        if isinstance(engine, Missing):
            return replace(page, error="needs_ocr", reason=clip(f"{page.reason}; {engine.message}"))
        try:
            render = partial(self.render, page.number)
            read = engine.read(render, page.width, page.height, self.packs, self.options.ocr_seconds)
        except Unreadable as unreadable:
            return replace(page, error=unreadable.error, reason=clip(f"{page.reason}; {unreadable.message}"))
        reason = clip(f"{page.reason}; {read.reason}")
        if not any(block.text.strip() for block in read.blocks):
            return replace(page, route="blank", reason=reason, confidence=0.5)
        if read.confidence < LEAST_CONFIDENCE:
            message = f"{reason}; the letters are unsure: confidence {read.confidence:.2f} of {LEAST_CONFIDENCE}"
            return replace(page, error="unreadable_page", reason=clip(message), confidence=read.confidence)
        self.packs = read.packs
        return replace(
            page,
            reason=reason,
            confidence=read.confidence,
            width=read.width,
            height=read.height,
            blocks=read.blocks,
        )

    def _picture(self, number: int, longest_side: int, rotate: int) -> bytes:
        return self.render(number, longest_side=longest_side, rotate=rotate)

    def render(self, number: int, **picture: Any) -> bytes:
        """The page as PNG; see `Document.render`. Raises Unreadable."""
        answer, data = self._ask("pdf_render", number, **picture)
        if "error" in answer:
            raise Unreadable(_file_error(answer["error"]), answer["message"])
        return data

    def _ask(self, reader: str, number: int, **more: Any) -> tuple[dict[str, Any], bytes]:
        request = {**self.request, "number": number, **more}
        with self.lock:
            if not self.opened:  # the time that it takes to open a large or damaged file is no page's
                self.isolated.ask("pdf_open", self.request, seconds=self.options.file_seconds)
            answer, data = self.isolated.ask(reader, request, seconds=self.options.page_seconds)
            self.opened = answer.get("error") not in _FATAL
            if reader == "pdf_page" or not self.vision:  # threads draw for a vision model: theirs would count at random
                self.faults += not self.opened
        return answer, data


def _fallen_back(page: Page, failure: Failure) -> Page:
    reason = clip(f"{page.reason}; the vision model did not read it: {failure.message}")
    return replace(page, reason=reason, fallback=True)


def _bad_page(number: int, error: str, message: str) -> Page:
    return Page(number, "text_layer", clip(message), 0.0, error=error)


def make_documents(pages: list[Page], info: PdfInfo, options: Extract, metadata: dict[str, str]) -> Iterator[Found]:
    """All pages of a file become one document; one of more than `max_characters` is split between pages."""
    good = [page for page in pages if not page.error and page.route != "blank"]
    for page in good:
        for block in page.blocks:
            block.text = WRAPPED_HYPHEN.join(map(clean_text, block.text.split(WRAPPED_HYPHEN)))
    bad = [page for page in pages if page.error]
    text, spans = assemble(good)
    spans = [(page, end - len(text[begin:end].lstrip()), end) for page, begin, end in spans]
    spans = [span for span in spans if span[1] < span[2]]  # a page may hold nothing but a running title
    characters = {page: end - begin for page, begin, end in spans}
    parts = _parts(spans, options.max_characters)
    place = {page: locator for locator, group in parts for page, _, _ in group}
    for page in pages:
        yield PageFact(
            place.get(page.number, ""),
            page.number,
            page.route,
            page.reason,
            page.confidence,
            characters.get(page.number, 0),
            page.error or None,
        )
    fallbacks = sum(page.fallback for page in pages)
    if options.vision and too_many_fallbacks(fallbacks, len(pages), options.vision):
        message = f"the vision model did not read {fallbacks} of {len(pages)} pages"
        yield Reject("", "vision_failed", message)
        return
    if not spans and bad:
        # One reject stands for the file, with the reason that most of its pages share.
        error = Counter(page.error for page in bad).most_common(1)[0][0]
        reason = next(page.reason for page in bad if page.error == error)
        yield Reject("", error, clip(f"none of {info.page_count} pages has readable text: {reason}"))
        return
    if not parts:
        yield Reject("", "empty_text", "no page has any text")
        return
    metadata = {**metadata, "page_count": str(info.page_count), **_how_read(good, characters)}
    if warning := judge_document(text, info.page_count - len(bad)):
        metadata["warning"] = warning
    if info.title:
        metadata["title"] = clip(info.title)
    for locator, group in parts:
        yield from _part(locator, text, group, options, dict(metadata))
    for page in bad:
        yield Reject(f"page={page.number}", page.error, page.reason)


def _part(
    locator: str, text: str, group: list[tuple[int, int, int]], options: Extract, metadata: dict[str, str]
) -> Iterator[Found]:
    """The document of some pages, repaired by the language model where the recipe names one."""
    begin = group[0][1]
    piece = text[begin : group[-1][2]]
    spans = [(page, start - begin, end - begin) for page, start, end in group]
    model = served_model(options.refine, options.answers)
    if model and options.refine and len(piece) <= options.max_characters:
        refined = refine_text(piece, model, options.refine)
        yield Repair(locator, refined, model.server.model)
        if len(refined.text) <= options.max_characters:
            piece, spans = refined.text, refined.move(spans)
    document = make_document(locator, piece, options, metadata)
    if isinstance(document, Extracted):
        if document.mended:
            piece, spans = document.mended.text, document.mended.move(spans)
        cut = len(piece) - len(piece.lstrip("\n\ufeff"))  # what `clean_text` takes off
        moved = ((page, max(0, start - cut), min(end - cut, len(document.text))) for page, start, end in spans)
        document.pages.extend(span for span in moved if span[1] < span[2])
    yield document


def _how_read(pages: list[Page], characters: dict[int, int]) -> dict[str, str]:
    """Routes with their pages, and the mean confidence of a character."""
    routes = Counter(page.route for page in pages)
    total = sum(characters.get(page.number, 0) for page in pages)
    if not total:
        return {}
    confidence = sum(page.confidence * characters.get(page.number, 0) for page in pages) / total
    told = ", ".join(f"{route} {count}" for route, count in sorted(routes.items()))
    return {"routes": told, "confidence": f"{confidence:.2f}"}


def _parts(spans: list[tuple[int, int, int]], limit: int) -> list[tuple[str, list[tuple[int, int, int]]]]:
    """The pages of a document in groups of at most `limit` characters, each with its locator."""
    groups: list[list[tuple[int, int, int]]] = []
    for span in spans:
        if groups and span[2] - groups[-1][0][1] <= limit:
            groups[-1].append(span)
        else:
            groups.append([span])
    if len(groups) <= 1:
        return [("", group) for group in groups]
    return [(f"part={number}", group) for number, group in enumerate(groups, 1)]
