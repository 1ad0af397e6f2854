"""Pages read by a vision model behind an OpenAI-compatible server: the role of Qwen2.5-VL in the Qwen3 report.

A page goes out as a picture of 1,288 pixels on its longest side and comes back as Markdown, below three lines in
which the model says how the page is turned and what it is written in. An answer is never believed as it is: it must
have ended by itself, must not loop, refuse or hold more letters than the picture has ink for, and must agree with a
sound text layer where there is one. An answer that fails is asked for again at the next temperature of a ladder
(olmOCR, Poznanski et al. 2025); a page that no answer will do for is the caller's to read in another way.
"""

import base64
import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from annotators.answers import Answer
from annotators.served_model import Message, ServedModel, Unanswered, in_order
from pipelines.extract.found import clean_text
from pipelines.extract.page import Block, Page, Unreadable
from schemas.recipe import Vision

LONGEST_SIDE = 1288  # pixels

PROMPT = """\
Write down the text of this page in Markdown.

Begin your answer with these five lines, with the values for this page:
---
turn: 0
language: en
text: yes
---
turn: by how many degrees the picture must be turned clockwise for its text to stand upright: 0, 90, 180 or 270.
language: the ISO 639-1 code of the language that most of the text is in.
text: yes, or no if the page has no text that can be read. After no, stop.

Then write the text of the page, and nothing else:
- Write what is printed, letter by letter, in its own language and script. Translate, correct, shorten, complete and \
explain nothing. Leave out what cannot be read.
- Follow the order in which a person reads: column after column, from top to bottom or as the script runs; footnotes \
at the end.
- Put each paragraph on one line, with words mended that were broken at the ends of lines, and an empty line between \
paragraphs.
- Mark headings with #, and lists with - or the numbers that are printed. Write tables as Markdown tables, formulas \
in LaTeX between $ signs, and program code between ``` lines.
- Leave out the headers and footers that repeat from page to page, and page numbers.
- Of pictures and charts write only the text in them. Do not describe them, and do not link to them.
"""

# Measured on pages with a sound text layer: a letter has 15 to 60 pixels of ink at this size, and loops of sample text
# repeat up to 0.77 of themselves.
_INK_PER_LETTER = 6
_SPARE_LETTERS = 50
_INK_CONTRAST = 40  # grey levels from the background
_WINDOW = 40  # letters
_MOST_REPEATED = 0.85
_LEAST_AGREEMENT = 0.5
_GRAM = 5  # letters
_SHORT_REFUSAL = 400  # characters

_HEADER = re.compile(r"\s*---[ \t]*\n((?:[^\n]{0,200}\n){1,8}?)---[ \t]*(?:\n|$)")
_FENCE = re.compile(r"\s*```(?:markdown|md)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)
_PICTURE_LINK = re.compile(r"!\[[^\]\n]{0,500}\]\([^)\n]{0,2000}\)")
_REFUSALS = [
    r"(?:(?:I['’]?m|I am|we are) )?(?:really |very )?(?:sorry|afraid)\b",
    r"I (?:can ?not|can['’]t|won['’]t|am unable|am not able)\b",
    r"(?:as|being) an? (?:AI|language model|assistant)",
    r"unable to (?:read|process|transcribe|extract|assist)",
    r"(?:the|this) (?:image|picture|page) (?:shows|depicts|contains|appears|is (?:blank|empty|too))",
    r"there is no (?:legible |readable |visible )?text|no text (?:is|was|can be)",
    r"here(?: is|['’]s) the|sure[,!]|certainly[,!]",
    r"抱歉|对不起|對不起|很遗憾|我无法|我無法|作为(?:一个)?(?:AI|人工智能)|申し訳|すみません|죄송|извините|к сожалению",
    r"lo siento|je suis désolé|désolé|es tut mir leid|entschuldigung|desculpe|mi dispiace",
]
_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)


@dataclass(frozen=True)
class PageRequest:
    """A page to read.

    `render(longest_side, rotate)` gives it as PNG, turned clockwise by `rotate` degrees; it may raise `Unreadable`.
    `layer` is its text layer where that is known to be sound, else "": an answer has to agree with it.
    """

    number: int
    width: float
    height: float
    render: Callable[[int, int], bytes]
    layer: str = ""


@dataclass(frozen=True)
class Attempt:
    """One answer: temperature, turn of the picture in degrees clockwise, and what was wrong with it, if anything."""

    temperature: float
    rotate: int
    problem: str


@dataclass(frozen=True)
class Failure:
    """A page that the model did not read."""

    number: int
    error: str  # vision_failed, no_answer, refused, too_long, or the class of Unreadable
    message: str
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What an answer says: degrees clockwise to turn the page by, language, and the text in Markdown."""

    turn: int
    language: str
    text: str


def too_many_fallbacks(fallbacks: int, pages: int, options: Vision) -> bool:
    """Whether a document must go because too large a share of all its pages was not read by the model."""
    return fallbacks > options.max_fallback * pages


def read_pages(model: ServedModel, requests: Iterable[PageRequest], options: Vision) -> Iterator[Page | Failure]:
    """Pages in the order of the requests, several of them under way at a time.

    The file is used by one thread at a time: while a picture is drawn, neither another one is nor is the next request
    taken. After the iterator was closed nothing is drawn any more.
    """
    drawing = threading.Lock()
    closed = threading.Event()

    def one_by_one() -> Iterator[PageRequest]:
        waiting = iter(requests)
        while True:
            with drawing:
                request = next(waiting, None)
            if request is None:
                return
            yield request

    def work(request: PageRequest) -> Page | Failure:
        def render(longest_side: int, rotate: int) -> bytes:
            with drawing:
                if closed.is_set():
                    raise Unreadable("closed", "nobody waits for this page any more")
                return request.render(longest_side, rotate)

        guarded = PageRequest(request.number, request.width, request.height, render, request.layer)
        return read_page(model, guarded, options, closed)

    try:
        yield from in_order(work, one_by_one(), options.concurrency)
    finally:
        with drawing:
            closed.set()


def read_page(
    model: ServedModel, request: PageRequest, options: Vision, closed: threading.Event | None = None
) -> Page | Failure:
    """One page, asked for up to once for each of `options.temperatures`, and once more if it has to be turned."""
    attempts: list[Attempt] = []
    rotate = 0
    try:
        picture = request.render(LONGEST_SIDE, 0)
        ink = count_ink(picture)
        step = 0
        while step < len(options.temperatures) and not (closed and closed.is_set()):
            temperature = options.temperatures[step]
            answer = model.ask(_messages(picture), temperature, seed=step)
            reading, problem = judge_answer(answer, ink, request.layer)
            if reading and reading.turn and not rotate:
                rotate = reading.turn
                attempts.append(Attempt(temperature, 0, "turned"))
                picture = request.render(LONGEST_SIDE, rotate)
                continue
            if reading and reading.turn:
                problem = "still turned"
            if reading and not problem:
                return _page(request, reading, step, rotate)
            attempts.append(Attempt(temperature, rotate, problem))
            step += 1
    except (Unanswered, Unreadable) as error:
        return Failure(request.number, error.error, error.message, tuple(attempts))
    problems = Counter(attempt.problem for attempt in attempts)
    told = ", ".join(f"{problem} ({times})" for problem, times in sorted(problems.items()))
    return Failure(request.number, "vision_failed", f"no answer will do: {told}", tuple(attempts))


def _messages(picture: bytes) -> list[Message]:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": PROMPT}],
        }
    ]


def _page(request: PageRequest, reading: Reading, step: int, rotate: int) -> Page:
    """The confidence is the share of a sound text layer that came back; without one it only orders pages: 0.9 for a
    first answer, 0.1 less for each that was thrown away before, 0.5 at most where the page is said to have no text."""
    confidence = agreement(request.layer, reading.text) if request.layer else max(0.1, 0.9 - 0.1 * step)
    if not reading.text:
        confidence = min(0.5, confidence)
    told = [f"answer {step + 1} of the vision model"]
    if rotate:
        told.append(f"turned by {rotate} degrees")
    told.append(f"language {reading.language}" if reading.text else "no text on it")
    box = (0.0, 0.0, request.width, request.height)
    blocks = [Block("markdown", reading.text, box)] if reading.text else []
    return Page(request.number, "vlm", ", ".join(told), round(confidence, 3), request.width, request.height, blocks)


# --- answers ----------------------------------------------------------------------------------------------------


def read_answer(text: str) -> Reading | None:
    """The parts of an answer; None if it does not begin with the lines that were asked for."""
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    head = _HEADER.match(text)
    if not head:
        return None
    fields = dict(line.split(":", 1) for line in head[1].lower().splitlines() if ":" in line)
    values = {name.strip(): value.strip(" \t\"'°") for name, value in fields.items()}
    turn, has_text = values.get("turn", ""), values.get("text", "")
    if turn not in ("0", "90", "180", "270") or has_text not in ("yes", "no", "true", "false"):
        return None
    language = re.sub(r"[^a-z-]", "", values.get("language", ""))[:12] or "und"
    body = text[head.end() :]
    if fenced := _FENCE.fullmatch(body):
        body = fenced[1]
    body = clean_text(_PICTURE_LINK.sub("", body)).strip() if has_text in ("yes", "true") else ""
    if has_text in ("yes", "true") and not body and turn == "0":
        return None
    return Reading(int(turn), language, body)


def judge_answer(answer: Answer, ink: int, layer: str) -> tuple[Reading | None, str]:
    """What an answer says, and what is wrong with it ("" if nothing).

    Args:
        answer: of the model.
        ink: pixels of the picture that differ from its background.
        layer: the page's text layer if it is sound, else "".
    """
    if answer.finish_reason != "stop":
        return None, "cut off" if answer.finish_reason == "length" else f"ended by {answer.finish_reason[:20]}"
    reading = read_answer(answer.text)
    if reading is None:
        return None, "empty" if not answer.text.strip() else "not in the form asked for"
    letters = sum(map(str.isalnum, reading.text))
    if reading.turn:
        return reading, ""
    if len(reading.text) <= _SHORT_REFUSAL and _REFUSAL.match(reading.text):
        return reading, "speaks instead of reading"
    if reading.text and not letters:
        return reading, "empty"
    if repeated_share(reading.text) > _MOST_REPEATED:
        return reading, "repeats itself"
    if letters > ink / _INK_PER_LETTER + _SPARE_LETTERS:
        return reading, "more text than ink"
    if layer and agreement(layer, reading.text) < _LEAST_AGREEMENT:
        return reading, "disagrees with the text layer"
    return reading, ""


def count_ink(picture: bytes) -> int:
    """Pixels of a PNG that differ from its most frequent grey level, which is taken for the background."""
    try:
        with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
            levels = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable("broken_picture", f"the picture of the page cannot be read ({type(error).__name__})") from None
    counts = np.bincount(levels.ravel(), minlength=256)
    background = int(counts.argmax())
    paper = counts[max(0, background - _INK_CONTRAST) : background + _INK_CONTRAST + 1]
    return int(counts.sum() - paper.sum())


def repeated_share(text: str) -> float:
    """Share of the windows of 40 letters that were there before; 0 for a text too short to tell."""
    letters = "".join(filter(str.isalnum, text))
    windows = len(letters) - _WINDOW + 1
    if windows < 4 * _WINDOW:
        return 0.0
    return 1 - len({letters[begin : begin + _WINDOW] for begin in range(windows)}) / windows


def agreement(layer: str, text: str) -> float:
    """Share of the layer's letter 5-grams, counted, that the text has as well, whatever the order of its parts."""
    wanted, there = _grams(layer), _grams(text)
    return (wanted & there).total() / wanted.total() if wanted else 1.0


def _grams(text: str) -> Counter[str]:
    letters = "".join(filter(str.isalnum, text.casefold()))
    return Counter(letters[begin : begin + _GRAM] for begin in range(max(1, len(letters) - _GRAM + 1)) if letters)
