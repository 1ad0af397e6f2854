"""Statistics of the lines of texts: Gopher's, FineWeb's and C4's; definitions in `annotators.quality`."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import regex

from annotators.repetition import Hashes, Numbers, hash_spans, repeated_spans, share
from annotators.text import assigned
from annotators.words import LOWER, MARK, NO_SPACES, SPACE, Codes, Kinds, Mask, Positions, members

SHORT_LINE = 30  # characters, as in FineWeb
FEW_WORDS = 3  # C4: a line of fewer is no sentence
LONG_WORD = 1000  # characters; C4's code: a line with a longer one is no text
BULLETS = "•‣⁃◦∙▪▫■□●○◆▶►-–—*·"
ELLIPSIS = ord("…")
QUOTES = "\"'”’»›」』"
"""Quotation marks that may follow the end of a sentence."""

POLICY = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),  # C4's
    *("datenschutzerklärung", "nutzungsbedingungen", "cookie-richtlinie", "verwendet cookies", "verwenden cookies"),
    *("politique de confidentialité", "conditions d'utilisation", "utilise des cookies", "utilisation de cookies"),
    *("política de privacidad", "términos de uso", "política de cookies", "utiliza cookies", "uso de cookies"),
    *("termos de uso", "usa cookies", "informativa sulla privacy", "termini di utilizzo", "utilizza cookie"),
    *("privacybeleid", "gebruiksvoorwaarden", "gebruik van cookies", "polityka prywatności", "plików cookie"),
    *("политика конфиденциальности", "пользовательское соглашение", "файлы cookie", "gizlilik politikası"),
    *("kullanım koşulları", "çerez politikası", "سياسة الخصوصية", "شروط الاستخدام", "隐私政策", "使用条款"),
    *(
        "隱私政策",
        "隱私權政策",
        "使用條款",
        "プライバシーポリシー",
        "利用規約",
        "개인정보처리방침",
        "개인정보 처리방침",
    ),
    *("이용약관", "chính sách bảo mật", "điều khoản sử dụng", "kebijakan privasi", "ketentuan penggunaan"),
    *("นโยบายความเป็นส่วนตัว", "गोपनीयता नीति"),
)
"""Phrases of notices about terms and cookies: C4's, and the same in other languages."""


def line_statistics(
    codes: Codes,
    kinds: Kinds,
    texts: list[str],
    begins: Positions,
    run_ends: Positions,
    tokens: tuple[Positions, Positions],
    prefix: Hashes,
    size: npt.NDArray,
) -> dict[str, Numbers]:
    """The columns about lines, a value a text; `size` has the characters of which shares are."""
    first, last, number = _bounds(codes, kinds)
    document = np.searchsorted(begins, first, side="right") - 1
    documents = len(begins)
    count = np.bincount(document, minlength=documents).astype(np.float64)

    def of_lines(mask: Mask) -> Numbers:
        return share(np.bincount(document[mask], minlength=documents).astype(np.float64), count)

    def total(values: npt.NDArray) -> Numbers:
        return np.bincount(document, values, minlength=documents).astype(np.float64)

    end = codes[last - 1]
    dots = (end == ord(".")) & (last - first >= 3)
    dots[dots] &= (codes[last[dots] - 2] == ord(".")) & (codes[last[dots] - 3] == ord("."))
    ellipsis = dots | (end == ELLIPSIS)
    punctuated = sentence_ends()[end]
    terminal = (punctuated | _quotes()[end]) & ~ellipsis
    few = _words(kinds, run_ends, tokens, first, last) < FEW_WORDS
    script, policy = _mentions(texts, number)
    sentences = terminal & ~few
    kept = sentences & ~script & ~policy
    ends = _count(_sentence_marks(codes, kinds, tokens), first, last)
    new_paragraph = (np.diff(number, prepend=-2) != 1) | (np.diff(document, prepend=-1) != 0)
    head = np.flatnonzero(new_paragraph)
    tail = np.append(head[1:], len(first))[: len(head)] - 1
    lines = repeated_spans(hash_spans(prefix, first, last), last - first, document, size)
    paragraphs = repeated_spans(
        hash_spans(prefix, first[head], last[tail]), last[tail] - first[head], document[head], size
    )
    return {
        "lines": count,
        "bullet_line_ratio": of_lines(_bullets()[codes[first]]),
        "ellipsis_line_ratio": of_lines(ellipsis),
        "duplicate_line_ratio": lines[0],
        "duplicate_line_character_ratio": lines[1],
        "duplicate_paragraph_ratio": paragraphs[0],
        "duplicate_paragraph_character_ratio": paragraphs[1],
        "terminal_line_ratio": of_lines(terminal),
        "few_word_line_ratio": of_lines(few),
        "javascript_line_ratio": of_lines(script),
        "policy_line_ratio": of_lines(policy),
        "sentences": total(np.where(kept, np.maximum(ends, 1), 0)),
        "curly_brackets": total(np.where(sentences, _count(np.flatnonzero(codes == ord("{")), first, last), 0)),
        "punctuated_line_ratio": of_lines(punctuated),
        "short_line_ratio": of_lines(last - first <= SHORT_LINE),
    }


@cache
def sentence_ends() -> Mask:
    """Which code points end a sentence: bool [0x110000]; Unicode leaves out those of Tibetan, Georgian and Khmer."""
    return members("".join(regex.findall(r"\p{Sentence_Terminal}", assigned())) + "།༎჻៖")


@cache
def _quotes() -> Mask:
    return members(QUOTES)


@cache
def _bullets() -> Mask:
    return members(BULLETS)


def _bounds(codes: Codes, kinds: Kinds) -> tuple[Positions, Positions, Positions]:
    """Begin, end and number (blank lines counted) of the lines that are not blank, without outer space."""
    feeds = np.flatnonzero(codes == ord("\n"))
    ink = np.flatnonzero((kinds & SPACE) == 0)
    if len(ink) == 0:
        return ink, ink, ink
    first = np.searchsorted(ink, np.concatenate([[0], feeds[:-1] + 1]))
    last = np.searchsorted(ink, feeds) - 1
    number = np.flatnonzero(first <= last)
    return ink[first[number]], ink[last[number]] + 1, number


def _count(places: Positions, first: Positions, last: Positions) -> Positions:
    """How many of the places lie in each span."""
    return np.searchsorted(places, last) - np.searchsorted(places, first)


def _words(
    kinds: Kinds, run_ends: Positions, tokens: tuple[Positions, Positions], first: Positions, last: Positions
) -> Positions:
    """Words of each line as C4 counts them, runs without space; in scripts without spaces every token is a word."""
    begins, ends = tokens
    unspaced = (kinds[begins] & NO_SPACES) != 0
    unspaced[np.searchsorted(ends, run_ends)] = False  # the last of a run is the run's one
    return _count(run_ends, first, last + 1) + _count(begins[unspaced], first, last)


def _sentence_marks(codes: Codes, kinds: Kinds, tokens: tuple[Positions, Positions]) -> Positions:
    """Where a sentence ends: at a token of marks that end one, if space or closing marks and then space follow.

    Marks of other scripts than Latin's need no space behind. A full stop before a small letter ends nothing.
    """
    begins, ends = tokens
    mark = sentence_ends()[codes[ends - 1]] & ((kinds[begins] & MARK) != 0)
    where = np.flatnonzero(mark)
    following = np.append(mark[1:], False)[where] & (np.append(begins[1:], 0)[where] == ends[where])
    where = where[~following]  # the last of several in a row counts
    behind = ends[where]
    closed = (kinds[behind] & MARK) != 0
    behind = behind + closed
    spaced = (kinds[np.minimum(behind, len(kinds) - 1)] & SPACE) != 0
    goes_on = np.append((kinds[begins] & LOWER) != 0, False)[np.minimum(where + 1 + closed, len(begins))]
    goes_on &= np.append((kinds[begins] & NO_SPACES) == 0, False)[np.minimum(where + 1 + closed, len(begins))]
    foreign = codes[ends[where] - 1] > 0x7F
    return ends[where[foreign | (spaced & ~goes_on)]] - 1


_SCRIPT = "javascript"
_POLICY = "|".join(POLICY)
_MENTIONS = f"{_SCRIPT}|{_POLICY}"


def _mentions(texts: list[str], number: Positions) -> tuple[Mask, Mask]:
    """Which of the lines `number` (of all texts joined by line feeds) speak of JavaScript, and of terms or cookies."""
    lines = np.array([text.count("\n") + 1 for text in texts], dtype=np.int64)
    begins = np.cumsum(lines) - lines
    found = np.zeros((2, int(lines.sum())), dtype=bool)
    some = pc.match_substring_regex(pa.array(texts, pa.large_string()), _MENTIONS, ignore_case=True)
    for row in np.flatnonzero(some.to_numpy(zero_copy_only=False)):
        text = pa.array(texts[row].split("\n"), pa.large_string())
        span = slice(begins[row], begins[row] + lines[row])
        found[0, span] = pc.match_substring(text, _SCRIPT, ignore_case=True)
        found[1, span] = pc.match_substring_regex(text, _POLICY, ignore_case=True)
    return found[0, number], found[1, number]
