"""Personal data that has a form: e-mail addresses, phone numbers, IP addresses, IBANs and payment cards, as spans.

A span is begin and end in UTF-8 bytes of the text and a kind. Spans are sorted, do not overlap and cut no character.
The whole text is looked at. RE2 finds candidates in time linear in its length; the candidates, a few for each kilobyte,
are then read with the characters around them, a bounded number.

What counts
- *email*: a local part, @ and a domain with a dot; also in letters of other alphabets, and disguised as `name [at] host
  dot org`. What is called like a picture (`logo@2x.png`) or a version (`left-pad@1.3.0`) is none.
- *ip*: IPv4 and IPv6 addresses that can be somebody's. Private, loopback, link-local, multicast and documentation
  addresses say nothing about anyone. Four numbers after `v`, `version` or a name and a slash are a version; four of at
  most 49 are a section of a text, unless something around them speaks of addresses.
- *iban*: a country of the registry with its length and the check digits of ISO 7064 (mod 97), with spaces or without.
- *credit_card*: the prefix and the commonest length of a network and the check digit of Luhn, unbroken or in the groups
  of a card; after a word such as `card` any 12 to 19 digits with that check digit.
- *phone*: `+` and a country with one of its lengths; the grouping of North America, Russia, China; an area in brackets;
  a leading 0 and groups. Other numbers of 7 to 15 digits are one only after a word such as `phone` or `call`, in some
  forty languages. Dates, ranges, decimals, ISBNs and lists of numbers are none.

Digits of all scripts are read. What has no form, names above all, is not found.
"""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import re2

from annotators.phones import IPV4, LEAST_DIGITS, LONGEST_RUN, NO_WORDS, Run, is_word, phones, says_phone
from annotators.sidecar import sidecar
from schemas.labels import PII, PII_KINDS
from schemas.tables import struct_lists

VERSION = "1"


class Span(NamedTuple):
    begin: int
    end: int
    kind: str


def annotate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Label the documents of `batch` (columns as in DOCUMENTS); rows follow schema PII."""
    found = [spans(text.as_buffer().to_pybytes()) for text in batch["text"]]
    counts = np.array([len(one) for one in found], np.int32)
    flat = [span for one in found for span in one]
    kinds = np.array([PII_KINDS.index(span.kind) for span in flat], np.int8)
    places = np.array([(span.begin, span.end) for span in flat], np.int32).reshape(-1, 2)
    names = pa.DictionaryArray.from_arrays(pa.array(kinds), pa.array(PII_KINDS))
    fields = [pa.array(places[:, 0]), pa.array(places[:, 1]), names]
    lists = struct_lists(PII.field("pii").type, fields, counts)
    return sidecar(batch, PII, VERSION, {"pii_count": counts, "pii": lists})


def spans(text: bytes) -> list[Span]:
    """The personal data in UTF-8 text, in its order; of two finds that overlap the kind named first above wins."""
    found: list[Span] = []
    for finder in (_emails, _lettered, _numbers):
        found += _apart(found, sorted(finder(text)))
    return sorted(found)


def _apart(known: list[Span], new: list[Span]) -> list[Span]:
    """Those of `new`, in order, that overlap neither a span of `known` nor one another."""
    known = sorted(known)
    begins = [span.begin for span in known]
    kept: list[Span] = []
    for span in new:
        place = bisect_right(begins, span.begin)
        before = place > 0 and known[place - 1].end > span.begin
        after = place < len(known) and known[place].begin < span.end
        if not before and not after and not (kept and kept[-1].end > span.begin):
            kept.append(span)
    return kept


# --- e-mail -----------------------------------------------------------------------------------------------------

_LOCAL = r"[\p{L}\p{M}\p{N}._%+'-]+"
_LABEL = r"[\p{L}\p{M}\p{N}-]+"
_AT = r"(?:\s?[\[({<]\s?(?:at|AT|At|@|ät|arroba)\s?[\])}>]\s?| [-_*](?:at|AT)[-_*] )"
_DOT = r"(?:\.|\s?[\[({<]\s?(?:dot|DOT|Dot|\.|punkt|punto|point)\s?[\])}>]\s?| [-_*](?:dot|DOT)[-_*] )"
_PLAIN_EMAIL = re2.compile(rf"{_LOCAL}[@＠]{_LABEL}(?:[.．]{_LABEL})+".encode())
_DISGUISED_EMAIL = re2.compile(
    rf"{_LOCAL}{_AT}{_LABEL}(?:{_DOT}{_LABEL})+|{_LOCAL} (?:at|AT) {_LABEL}(?: (?:dot|DOT) {_LABEL})+"
    rf"|{_LOCAL}@{_LABEL}(?:\s?[\[(]\s?(?:dot|DOT)\s?[\])]\s?{_LABEL})+".encode()
)
_MAY_BE_DISGUISED = re2.compile(rb"(?i)[\[({<]\s?(?:at|@|\xc3\xa4t|arroba|dot)\s?[\])}>]| [-_*]at[-_*] | at \S+ dot ")
_FOREIGN = re.compile(r"[^\W_A-Za-z0-9\u00aa-\u024f\u0300-\u036f\u1e00-\u1eff]")  # no Latin letter and no digit
_LOCAL_FORM = re.compile(r"[^\W_](?:[\w.%+'-]{0,62}[\w%+-])?|_[\w.%+-]{0,62}\w")
_DOMAIN_FORM = re.compile(r"(?:(?!-)[\w-]{1,63}(?<!-)\.){1,8}(?!-)(?:[^\W\d_]{2,24}|[xX][nN]--[A-Za-z0-9-]{2,59})")
_NO_TOP_DOMAINS = frozenset(
    "bmp css csv doc docx exe gif htm html ico jpeg jpg js json jsx lock log pdf php png service svg tif tiff tsx txt "
    "webp xml yaml yml".split()
)


def _emails(text: bytes) -> Iterator[Span]:
    if b"@" in text or "＠".encode() in text:
        for match in _PLAIN_EMAIL.finditer(text):
            yield from _email(match.group().decode(), match.start(), re.compile("[@＠]"))
    if _MAY_BE_DISGUISED.search(text):
        for match in _DISGUISED_EMAIL.finditer(text):
            yield from _email(match.group().decode(), match.start(), _DISGUISE)


_DISGUISE = re.compile(r"\s?[\[({<]\s?(?:at|@|ät|arroba)\s?[\])}>]\s?| [-_*]?at[-_*]? |@", re.IGNORECASE)
_DISGUISED_DOT = re.compile(r"\s?[\[({<]\s?(?:dot|\.|punkt|punto|point)\s?[\])}>]\s?| [-_*]?dot[-_*]? ", re.IGNORECASE)


def _email(candidate: str, begin: int, sign: re.Pattern[str]) -> Iterator[Span]:
    at = sign.search(candidate)
    if at is None:
        return
    local = candidate[: at.start()]
    if _FOREIGN.search(local[-64:]) and re.search("[A-Za-z0-9]", local[-64:]):
        # Text without spaces before the address, or a particle: the address begins after it.
        local = _FOREIGN.split(local[-64:])[-1]
    elif NO_WORDS.search(local[-64:]):
        return
    local = local[-64:].lstrip(".%+'-")
    domain = _domain(candidate[at.end() :])
    if not domain or not _LOCAL_FORM.fullmatch(local) or ".." in local or local == "git":
        return
    start = begin + len(candidate[: at.start()].encode()) - len(local.encode())
    yield Span(start, begin + len(candidate[: at.end()].encode()) + len(domain.encode()), "email")


def _domain(text: str) -> str:
    """The longest beginning of `text` that is a domain, disguised dots and all; "" if there is none."""
    text = text[:300]
    foreign = _FOREIGN.search(text)
    if foreign and re.match("[A-Za-z0-9]", text):
        text = text[: foreign.start()]
    elif foreign and NO_WORDS.search(text):
        return ""
    plain, places = "", []  # the text with its dots, and where each character of it ends in the original
    done = 0
    for dot in _DISGUISED_DOT.finditer(text):
        places += [*range(done + 1, dot.start() + 1), dot.end()]
        plain += text[done : dot.start()] + "."
        done = dot.end()
    places += range(done + 1, len(text) + 1)
    plain = (plain + text[done:]).replace("．", ".")
    match = _DOMAIN_FORM.match(plain)
    if match is None:
        return ""
    top = match.group().rpartition(".")[2].lower()
    rest = plain[match.end() : match.end() + 1]
    if top in _NO_TOP_DOMAINS or (rest and (rest.isalnum() or rest in "_-")):
        return ""
    return text[: places[match.end() - 1]]


# --- IBAN and IPv6 ----------------------------------------------------------------------------------------------

_LETTERED = re2.compile(
    rb"\b[A-Z]{2}[0-9]{2}(?:(?:[ -]?[0-9A-Z]{4}){2,7}(?:[ -]?[0-9A-Z]{1,3})?|(?:[ -]?[0-9A-Z]){11,30})\b"
    rb"|\b[a-z]{2}[0-9]{2}(?:[ -]?[0-9a-z]{4}){2,7}(?:[ -]?[0-9a-z]{1,3})?\b"
    rb"|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*(?:\.[0-9]{1,3}){0,3}"
)
IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
"""Characters of an IBAN by country: SWIFT's registry of IBANs."""


def _lettered(text: bytes) -> Iterator[Span]:
    for match in _LETTERED.finditer(text):
        candidate = match.group().decode("ascii")
        if ":" in candidate:
            yield from _ipv6(candidate, match.start(), text)
        else:
            yield from _iban(candidate, match.start(), text)


def _iban(candidate: str, begin: int, text: bytes) -> Iterator[Span]:
    length = IBAN_LENGTHS.get(candidate[:2].upper())
    if length is None:
        return
    compact = re.sub("[ -]", "", candidate)[:length].upper()
    if len(compact) < length or not iban_is_valid(compact):
        return
    ends = [place for place, sign in enumerate(candidate, 1) if sign not in " -"]
    end = ends[length - 1]
    if candidate[end : end + 1].isalnum() or _is_inside(text, begin, begin + end):
        return
    yield Span(begin, begin + end, "iban")


def iban_is_valid(compact: str) -> bool:
    """Whether the check digits of an upper-case IBAN without spaces are right: ISO 7064, mod 97-10."""
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


_IPV6_HEX_DIGITS = 3  # of a compressed address's longest group, so that `a::b` and `1::2` are code


def _ipv6(candidate: str, begin: int, text: bytes) -> Iterator[Span]:
    stripped = candidate.rstrip(".")
    if stripped.endswith(":") and not stripped.endswith("::"):
        stripped = stripped[:-1]
    if not ("::" in stripped or stripped.count(":") >= 6) or len(stripped) > 45:
        return
    end = begin + len(stripped)
    if _is_inside(text, begin, end):
        return
    try:
        address = ipaddress.IPv6Address(stripped)
    except ValueError:
        return
    groups = [group for group in stripped.split(":") if group]
    longest = max(map(len, groups), default=0)
    if longest < _IPV6_HEX_DIGITS or not any(sign.isdigit() for sign in stripped) or (len(groups) < 3 and longest < 4):
        return
    if "." in stripped and address.ipv4_mapped is None:
        return
    if not stripped.endswith("::") and _says_something(address.ipv4_mapped or address):
        yield Span(begin, end, "ip")


def _says_something(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.version == 4 and address.is_reserved)
    )


def _is_inside(text: bytes, begin: int, end: int) -> bool:
    """Whether the stretch is part of a longer word."""
    before, after = text[begin - 1 : begin] if begin else b"", text[end : end + 1]
    return bool(_WORD.match(before) or _WORD.match(after))


_WORD = re.compile(rb"[A-Za-z0-9_]")

# --- numbers ----------------------------------------------------------------------------------------------------

_DASHES = r"\x{2010}-\x{2015}\x{2212}\x{ff0d}"
_SPACES = r" \x{a0}\x{2007}\x{2009}\x{202f}\x{3000}"
_SEPARATOR = rf"[{_SPACES}{_DASHES}().\-/\x{{ff08}}\x{{ff09}}\x{{ff0e}}]"
_NUMBER = re2.compile(
    rf"(?:[+\x{{ff0b}}]|[(\x{{ff08}}][+\x{{ff0b}}]?)?\p{{Nd}}(?:{_SEPARATOR}{{0,3}}\p{{Nd}}){{6,}}"
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}".encode()
)
_ASCII = str.maketrans(
    dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d", "-")
    | {"（": "(", "）": ")", "．": ".", "＋": "+"}
)
_OTHER_DIGIT = re.compile(r"[^\W0-9]")
_BEFORE, _AFTER = 80, 16  # bytes of text around a number that are read

_VERSION = re2.compile(r"(?i)(?:\bv|\bver|version|release|build|section|chapter|§|[\w)]/|[=~^_#-])[\s.:]*$")
_MOST_OF_A_SECTION = 49
_SAYS_IP = re2.compile(
    r"(?i)(?://|@|\b(?:ips?|ipv4|addr(?:ess)?|hosts?|server|client|dns|gateway|router|ping|ssh|inet)\b[^\n]{0,24})$"
)
_PORT = re.compile(r":\d{2,5}\b|/(?:[89]|[12]\d|3[0-2])\b| - - \[")

_SHORTEST_CARD = 12
_CARD = re.compile(
    r"(?<!\d)(?:\d{12,19}"  # in one piece, 4-4-4-4(-3), 4-6-5 or 4-6-4, 4-4-5
    r"|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}|\d{4}([ -])\d{4}\3\d{5})(?!\d)"
)
_NETWORKS = re.compile(
    r"4\d{15}"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}"  # Discover
    r"|3(?:0[0-5]|09|[689]\d)\d{11}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14}"  # UnionPay
    r"|220[0-4]\d{12}"  # Mir
)
_ANY_NETWORK = re.compile(r"[1-9]\d{11,18}")
_SAYS_CARD = re2.compile(r"(?i)\b(?:card|carte|karte|tarjeta|cart[aã]o|carta|visa|mastercard|amex|cc)\b[^\d\n]{0,24}$")


def _numbers(text: bytes) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        begin, end = match.span()
        before = text[max(0, begin - _BEFORE) : begin]
        if end - begin < _SHORTEST_CARD and text[begin:end].isdigit() and not says_phone(before):
            continue  # most numbers
        raw = text[begin:end].decode()
        plain = raw if raw.isascii() else _in_ascii(raw)
        run = _Run(plain, before.decode(errors="ignore"), _after(text, end))
        for start, stop, kind in run.found():
            if raw is plain:
                yield Span(begin + start, begin + stop, kind)
            else:
                head = begin + len(raw[:start].encode())
                beyond = max(0, stop - len(raw))  # an extension, which is ASCII
                yield Span(head, head + len(raw[start:stop].encode()) + beyond, kind)


def _after(text: bytes, end: int) -> str:
    return text[end : end + _AFTER].decode(errors="ignore")


def _in_ascii(text: str) -> str:
    """Digits of other scripts, and spaces, dashes and brackets of other widths as those of ASCII, one for one."""
    return _OTHER_DIGIT.sub(lambda digit: str(int(digit[0])), text.translate(_ASCII))


class _Run(Run):
    def found(self) -> Iterator[tuple[int, int, str]]:
        taken: list[tuple[int, int, str]] = []
        if "." in self.text:
            taken += [(a, b, "ip") for a, b in self._ipv4()]
        taken += [(a, b, "credit_card") for a, b in self._cards()]
        if not taken:
            yield from ((a, b, "phone") for a, b in phones(self))
        elif len(self.text) <= LONGEST_RUN:
            # A phone number may stand right before or after a card or an address.
            yield from taken
            edges = [0, *(edge for a, b, _ in sorted(taken) for edge in (a, b)), len(self.text)]
            for a, b in zip(edges[::2], edges[1::2]):
                part = self.text[a:b].strip(" ")
                if sum(map(str.isdigit, part)) >= LEAST_DIGITS:
                    a = self.text.index(part, a)
                    about = _Run(part, self.before if a == 0 else " ", self.after if b == len(self.text) else " ")
                    yield from ((a + c, a + d, "phone") for c, d in phones(about))
        else:
            yield from taken

    def around(self, begin: int, end: int) -> tuple[str, str]:
        """The characters before and after a part of the run."""
        return (self.text[begin - 1] if begin else self.before[-1:]), (
            self.text[end] if end < len(self.text) else self.after[:1]
        )

    def _ipv4(self) -> Iterator[tuple[int, int]]:
        for match in IPV4.finditer(self.text):
            before, after = self.around(*match.span())
            if is_word(before) or before in ("_", ".") or is_word(after) or after == "_":
                continue
            if match.end() == len(self.text) and re.match(r"\.\d|-\w", self.after):
                continue
            parts = match.group().split(".")
            numbers = [int(part) for part in parts]
            if max(numbers) > 255 or any(part != str(number) for part, number in zip(parts, numbers)):
                continue
            about = f"{self.before}{self.text[: match.start()]}"[-_BEFORE:], self.text[match.end() :] + self.after
            if max(numbers) <= _MOST_OF_A_SECTION and not (_SAYS_IP.search(about[0]) or _PORT.match(about[1])):
                continue
            if _VERSION.search(about[0]) and not about[0].endswith("//"):
                continue
            if _says_something(ipaddress.IPv4Address(match.group())):
                yield match.span()

    def _cards(self) -> Iterator[tuple[int, int]]:
        for match in _CARD.finditer(self.text):
            begin, end = match.span()
            before, after = self.around(begin, end)
            if (
                is_word(before)
                or before in ("_", ".", ",", "/", "=", "-", "+")
                or is_word(after)
                or after in ("_", "-")
            ):
                continue
            if re.match(r"[.,]\d", self.text[end : end + 2] or self.after[:2]):
                continue
            group = match[1] or match[2] or match[3]
            if group and (
                re.search(rf"\d{group}$", self.text[max(0, begin - 2) : begin])
                or re.match(rf"{group}\d{{4}}(?!\d)", self.text[end : end + 6])
            ):
                continue  # a longer list of such groups
            digits = re.sub(r"\D", "", match.group())
            known = _NETWORKS if not _SAYS_CARD.search(self.before + self.text[:begin]) else _ANY_NETWORK
            if known.fullmatch(digits) and luhn_is_valid(digits):
                yield begin, end


def luhn_is_valid(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(number - 9 * (number > 9) for number in doubled)) % 10 == 0
