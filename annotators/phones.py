"""Phone numbers among other numbers, by their form and by what is said before them.

What is judged is a run of digits with what may stand between the digits of one number, in ASCII, and the text around
it. `+` and a country with one of its lengths is a phone number; so is the grouping of North America, Russia, China or
Brazil, an area in brackets, a leading 0 with groups. Any other number of 7 to 15 digits is one only after a word such
as `phone` or `call`, in some forty languages. Dates, ranges of years, decimals and lists of numbers are none.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import re2

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
NO_WORDS = re.compile(f"[{_UNSPACED}\uac00-\ud7af]")
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
LEAST_DIGITS = 7  # of a number that is no extension or short code
LONGEST_RUN = 200  # characters of a run in which phone numbers are looked for
_COUNTRY_LENGTHS = {
    int(code): (int(least), int(most))
    for least, most, codes in re.findall(
        r"(\d+)-(\d+):([\d,]+)",
        # Digits after each country code, from the public numbering plans (ITU-T E.164).
        "4-5:290 4-7:683,690 4-10:98 4-11:352 4-12:598 4-13:43,49 5-5:500,682 5-6:247 5-7:676,677,678,688 "
        "5-8:47,386,686 5-10:27,64,685 5-11:31,852 5-12:61,358,971 5-13:82 6-6:298,299,672,687 6-7:597 "
        "6-9:40,252,355,376,421,508,681,689 6-10:48,53,95,880 6-11:375,595 6-12:39,46,359,381 6-13:63 "
        "7-7:238,239,246,248,269,291,297,592,673,674,680,691,692 7-8:241,599,670,675,853,961,965,975 "
        "7-9:220,231,245,265,354,385,423,967,968 7-10:44,84,230,243,254,263,267,353,372,960 "
        "7-11:501,503,507,679,886,974 7-12:86,882,972 7-13:62,90 "
        "8-8:45,216,222,223,226,227,228,232,235,236,253,257,266,350,356,357,370,371,373,374 "
        "8-8:389,505,509,800,808,973,993 8-9:32,36,51,213,224,233,237,250,258,264,268,377,382,387,591,962,963 "
        "8-10:20,60,378,506,850,855,856,964,970,976 8-11:55,57,65,502,504,593,977 8-12:92,383,883 8-13:66,81,91 "
        "9-9:33,34,93,94,211,212,218,221,240,242,244,249,251,255,256,260,261,262,351,590 "
        "9-9:594,596,979,992,994,995,998 9-10:380,881,966,996 9-11:56 9-12:41,420,870 10-10:1,7,52,58,225,229 "
        "10-11:54 10-12:30,234 11-11:888 12-12:878 ",
    )
    for code in codes.split(",")
}
_EXTENSION = re.compile(r"(?i) ?(?:x|ext\.? ?|extension |#) ?[0-9]{1,6}(?![0-9])")
_GROUP = re.compile(r"\d+")
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_SAYS_PHONE = re2.compile(
    r"(?i)(?:\b(?:tel|tele?(?:ph?|f)?on[aeio]?|telephones?|tél|tél[ée]ph(?:one)?|teléf(?:ono)?s?|telef|tlf|tlfno|tfno|phones?|ph|"
    r"mob(?:ile|il|iel|ilni)?|móvil|movil|celular|cel|cell(?:phone|ulare)?|call(?:ing|ed)?|fax|faks|hotline|helpline|"
    r"whats ?app|sms|text|dial|ring|contact|contacto|contato|contatti|kontakt|handy|gsm|puh(?:elin)?|telepon|hp|simu|"
    r"rufen|anrufen|appeler|appelez|llam(?:ar|e|ame|enos)|lig(?:ar|ue)|chiam(?:a|are)|bel(?:len)?|desk|landline|"
    r"voicemail|pager|reach|answering|messages? to|telefoon(?:nummer)?|telefonnummer|rufnummer)\b"
    r"|điện thoại|[^a-z]đt|di động|телефон|тел[.:\s]|моб[.:\s]|факс|звоните|звонить|мобильн"
    r"|电话|電話|手机|手機|传真|傳真|热线|致电|拨打|携帯|ファックス"
    r"|전화|휴대폰|휴대전화|팩스|연락처|هاتف|واتساب|جوال|موبايل|تلفن|تليفون|فاكس|اتصل"
    r"|ٹیلی فون|فون|फ़ोन|फोन|दूरभाष|मोबाइल|मो[.०]|ফোন"
    r"|โทร|แฟกซ์|τηλ|κιν|טלפון|טל['׳.]|נייד|פקס|ტელ|հեռ)[^\d\n]{0,24}\n?[^\d\n]{0,3}$"
)


def says_phone(before: bytes) -> bool:
    """Whether the text before a number says that it is one of a phone; part of a character at its begin is harmless."""
    return _SAYS_PHONE.search(before) is not None


_SAYS_OTHER = re2.compile(
    r"(?i)(?:\b(?:isbn(?:-1[03])?|issn|doi|pmid|arxiv|oclc|ssn|social security|iban|account|konto|licen[cs]e|passport|"
    r"order|invoice|serial|patent|tracking|vin|sku|imei|card|cc|id)\b)[^\d\n]{0,16}$"
)


class Run(NamedTuple):
    """Digits with what may stand between those of a number, and the text around them."""

    text: str
    before: str
    after: str


def is_word(sign: str) -> bool:
    """Whether a character beside a number makes it part of a word; in scripts without spaces it does not."""
    return sign.isalnum() and not NO_WORDS.match(sign)


def phones(run: Run) -> Iterator[tuple[int, int]]:
    if len(run.text) > LONGEST_RUN:
        return
    named = says_phone(run.before.encode())
    before = run.before[-1:]
    if before and (is_word(before) or before in "_$€£¥=#%&@\\") and not (named and before in "=#"):
        return
    if re.search(r"\d[.,:]$", run.before):  # the rest of a decimal or a time
        return
    if (before in ("/", "-") and not named) or is_word(run.after[:1]) or _GOES_ON.match(run.after):
        extended = _EXTENSION.match(run.after)
        if before in ("/", "-") or extended is None:
            return
    if not named and _SAYS_OTHER.search(run.before):
        return
    text, place, free = run.text, 0, True
    while place < len(text):
        stop = border.start() if (border := _BORDER.search(text, place)) else len(text)
        size = _phone(text[place:], named, free) or _phone(text[place:stop], named, free)
        if size:
            end = place + size
            extension = _EXTENSION.match(run.after) if end == len(text) else None
            yield place, end + (extension.end() if extension else 0)
            place = _SEPARATORS.match(text, end).end()  # type: ignore[union-attr]
            free = True
        elif further := _NEXT.search(text, place + 1):
            place, free = further.end(), further.end() > stop
        else:
            return


_BORDER = re.compile(r" ?/ | /| {2,}| - ")  # may stand between two numbers
_SEPARATORS = re.compile(r"[\s/.-]*")
_NEXT = re.compile(r"[ /]+(?=[+(0-9])")
_GOES_ON = re.compile(r"[_%]|[.,]\d|[-/:][0-9a-z]|\.[0-9A-Za-z]")


def _phone(text: str, named: bool, free: bool) -> int:
    """Length of the phone number that `text` begins with, 0 if it begins with none.

    `named`: a word before says that it is one; `free`: no other number stands right before it.
    """
    if not text[-1:].isdigit():
        text = text.rstrip("(+ ./-)")
    groups = [match.span() for match in _GROUP.finditer(text)]
    lengths = [end - begin for begin, end in groups]
    if text.startswith(("+", "(+")) or (text.startswith("00") and text[2:3] not in ("0", "")):
        if end := _international(text, groups, named):
            return end
        if text.startswith(("+", "(+")):
            return 0
    for form in _FORMS:
        match = form.match(text)
        # Groups between spaces may be part of a row of a table.
        alone = match is not None and (re.search("[(.-]", match[0]) or named or (free and match.end() == len(text)))
        if match and alone and not _is_date(match[0]):
            return match.end()
    apart = any(end - begin > 3 for (_, begin), (end, _) in pairwise(groups))
    if not free or not groups or len(groups) > 7 or apart or IPV4.fullmatch(text):
        return 0
    if named:
        return _named(text, groups, lengths)
    leads = text[0] == "0" and text[1:2] != "0" and 2 <= lengths[0] <= 6
    grouped = 1 < len(groups) <= 6 and min(lengths[1:]) >= 2 and 9 <= sum(lengths) <= 12
    other = _is_date(text) or _NO_PHONE.match(text) or _climbs(text, groups)
    return len(text) if leads and grouped and not other else 0


def _international(text: str, groups: list[tuple[int, int]], named: bool) -> int:
    plus = "+" in text[:2]
    digits = re.sub(r"\D", "", text[:40].replace("(0)", ""))[0 if plus else 2 :]
    if not plus and (len(groups) == 1 or all(end - begin == 2 for begin, end in groups)) and not named:
        return 0  # a number padded with zeros, or bytes
    if plus and re.fullmatch(r"\+\d+\.\d+", text):
        return 0
    code = next((int(digits[:size]) for size in (1, 2, 3) if int(digits[:size] or 0) in _COUNTRY_LENGTHS), None)
    if code is None:
        return 0
    least, most = _COUNTRY_LENGTHS[code]
    for _, end in reversed(groups):
        part = text[:end]
        size = len(re.sub(r"\D", "", part.replace("(0)", ""))) - len(str(code)) - (0 if plus else 2)
        whole = size + len(str(code))
        if least <= size <= most and whole >= 8 - (len(groups) > 1) and part.count("(") == part.count(")"):
            return end
    return 0


_FORMS = [
    re.compile(form + r"(?!\d|[./-]\d|[ .-]?\d{4})")
    for form in (
        r"(?:1[ .-]?)?\(\d{3}\) ?\d{3}[ .-]?\d{4}",  # (212) 555 0123
        r"(?:1[ .-])?\d{3}([.-])\d{3}\1\d{4}",  # 212-555-0123
        r"(?:1 )?[2-9]\d\d [2-9]\d\d[ -]\d{4}",
        r"8[ -]?(?:\(\d{3}\)[ -]?\d{3}|\d{3}[ -]\d{3}|\(?\d{4}\)?[ -]\d{2})[ -]\d{2}[ -]\d{2}",  # 8 (495) 123-45-67
        r"8 ?\(\d{3}\) ?\d{7}",
        r"\(\d{3,5}\) ?\d{1,3}-\d{2}-\d{2}",
        r"1[3-9]\d([ -])\d{4}\1\d{4}",  # 138 0013 8000
        r"\d\d 9?(?!(?:1[5-9]|20)\d\d-)\d{4}-\d{4}",  # 11 91234-5678
        r"\((?!(?:1[5-9]|20)\d\d\))0?\d{1,4}\) ?\d{4,5}[ .-]?\d{4}",  # (11) 91234-5678
        r"\(0\d{1,5}\) ?\d{2,8}(?:[ ./-]\d{2,5}){0,4}",  # (030) 123 45 67
        r"\((?!(?:1[5-9]|20)\d\d\))\d{2,4}\) ?\d{3}[ .-]\d{3,4}",  # (37) 788-063
    )
]


def _is_date(text: str) -> bool:
    return bool(_DATE.match(text))


_DATE = re.compile(
    r"\(?(?:(?:1[5-9]|20)\d\d[./ -](?:0?[1-9]|1[0-2])[./ -](?:[0-2]?\d|3[01])(?!\d)"
    r"|(?:[0-2]?\d|3[01])[./ -](?:[0-2]?\d|3[01])[./ -](?:1[5-9]|20)\d\d(?!\d)"
    r"|(?:1[5-9]|20)\d\d ?[/-] ?(?:1[5-9]|20)\d\d(?!\d)|[01]?\d[./-](?:1[5-9]|20)\d\d(?!\d))"
)


_NO_PHONE = re.compile(r"\d{5} ?- ?\d{4}$|\d+\.\d+$|.*\(")  # a ZIP code, a decimal


def _climbs(text: str, groups: list[tuple[int, int]]) -> bool:
    """Whether the groups are a list of rising numbers of equal length, such as a draw of a lottery, or padded."""
    numbers = [int(text[begin:end]) for begin, end in groups]
    same = len({end - begin for begin, end in groups}) == 1
    padded = all(text[begin] == "0" for begin, _ in groups)
    return same and (padded or (len(numbers) >= 4 and all(a < b for a, b in pairwise(numbers))))


def _named(text: str, groups: list[tuple[int, int]], lengths: list[int]) -> int:
    """A number after a word that says so: as many groups as it may have."""
    if _is_date(text) or (len(groups) == 1 and lengths[0] > 13) or (len(groups) > 1 and max(lengths) > 11):
        return 0
    if len(groups) == 2 and all(_YEAR.fullmatch(text[begin:end]) for begin, end in groups):
        return 0
    most = 13 if text[0] in "0(" else 12
    total = 0
    best = 0
    for (_, end), size in zip(groups, lengths):
        total += size
        if total > most:
            break
        if total >= LEAST_DIGITS and text[:end].count("(") == text[:end].count(")"):
            best = end
    return best
