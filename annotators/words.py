"""Splits texts into words and punctuation marks, for a whole array of code points at a time.

A *token* is what a run of characters without space falls into. The rules are those that matter of the English
tokenizer of spaCy, with which datatrove's English thresholds were set:
- Punctuation and symbols at either end of a run are taken off and are tokens of their own, mark by mark; dots in a row
  are one. `- / | \\ ~ ^ @` and other mathematical signs stay, so that options, paths and lines of tables are one token.
  `= %` and currency come off in front, `+ %` and currency after a digit; a full stop comes off behind, but not from an
  initial (`J.`) or from an abbreviation with a stop inside (`e.g.`).
- Dashes between a letter or digit and a letter divide, as do `: < > = /`, a comma between letters, a full stop between
  a small and a capital letter, an arithmetic sign between digits, and an ellipsis or a pictogram anywhere; in an
  address (`https://...`, `name@host`, `host.org/path`) nothing does.
- `'s 'm 'd 'll 're 've n't` are tokens of their own.

In scripts written without spaces (`schemas.languages.UNSPACED_SCRIPTS`) `annotators.segment` says where tokens begin;
punctuation between such letters is one as well. Combining marks and format characters belong to the letter before them.
Space is what Unicode says is white space, and U+200B (it ends words in Khmer and Thai).
"""

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt
import regex

from annotators.segment import begins_word
from annotators.text import assigned
from schemas.languages import UNSPACED_SCRIPTS

Codes = npt.NDArray[np.uint32]
Kinds = npt.NDArray[np.uint16]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Bits of a character's kind. A letter without case is both UPPER and LOWER.
SPACE, LETTER, DIGIT, UPPER, LOWER, NO_SPACES, MARK = (1 << bit for bit in range(7))
# Kinds of marks: come off the front or the end of a run, come off the end after a digit, divide wherever they stand.
FRONT, END, END_AFTER_DIGIT, DIVIDES = (1 << bit for bit in range(7, 11))

_STAY = "-/|\\~^@"
_SENTENCE_SIGNS = "<>`´"  # mathematical signs and accents to Unicode, quotation to those who write
_TSHEG = 0x0F0B  # ends a syllable of Tibetan
_NEVER_FIRST = "ーｰﾞﾟ"  # they lengthen or voice the kana before them
_KANA_MARKS = _NEVER_FIRST + "〆"  # letters of no script of their own that are written among those of UNSPACED_SCRIPTS


@cache
def kinds_of_characters() -> Kinds:
    """Kind of every code point: uint16 [0x110000]."""
    kinds = np.zeros(0x110000, dtype=np.uint16)
    for code in range(0x32400):  # no letters, marks or spaces are assigned above
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            kinds[code] = SPACE
        elif category[0] == "L":
            kinds[code] = LETTER | {"Ll": LOWER, "Lu": UPPER, "Lt": UPPER}.get(category, UPPER | LOWER)
        elif category[0] == "N":
            kinds[code] = DIGIT
        elif category in ("Sm", "Sk"):
            kinds[code] = MARK
        elif category == "Sc":
            kinds[code] = MARK | FRONT | END_AFTER_DIGIT
        elif category[0] in "PS":
            kinds[code] = MARK | FRONT | END | (DIVIDES if category == "So" else 0)
    scripts = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
    for match in regex.finditer(f"[{scripts}{_KANA_MARKS}]+", assigned()):
        letters = kinds[ord(match[0][0]) : ord(match[0][-1]) + 1]
        letters[letters & LETTER != 0] |= NO_SPACES
    special = {
        "\u200b": SPACE,
        chr(_TSHEG): 0,
        "…": MARK | FRONT | END | DIVIDES,
        "=": MARK | FRONT,
        "+": MARK | FRONT | END_AFTER_DIGIT,
        "%": MARK | FRONT | END_AFTER_DIGIT,
        ".": MARK | END,
        **dict.fromkeys(_STAY, MARK),
        **dict.fromkeys(_SENTENCE_SIGNS, MARK | FRONT | END),
    }
    for character, kind in special.items():
        kinds[ord(character)] = kind
    return kinds


def members(characters: str) -> Mask:
    """Which code points are among `characters`: bool [0x110000]."""
    found = np.zeros(0x110000, dtype=bool)
    found[[ord(character) for character in characters]] = True
    return found


_members = cache(members)


def runs(space: Mask) -> tuple[Positions, Positions]:
    """Begin and end of every run without space. The text must end with a space."""
    change = np.flatnonzero(space[1:] != space[:-1]) + 1
    if len(space) and not space[0]:
        change = np.concatenate([[0], change])
    return change[0::2], change[1::2]


def tokens(codes: Codes, kinds: Kinds, begins: Positions, ends: Positions) -> tuple[Positions, Positions]:
    """Begin and end of every token of the runs from `begins` to `ends`, in order; the text must end with a space."""
    cuts = []
    if np.any(kinds & MARK):
        cuts += _cuts_at_marks(codes, kinds)
    if np.any(kinds & NO_SPACES):
        cuts.append(_cuts_without_spaces(codes, kinds))
    if not cuts:
        return begins, ends
    starts = np.zeros(len(codes), dtype=bool)
    starts[np.concatenate(cuts)] = True
    starts &= (kinds & SPACE) == 0
    starts[begins] = False
    inner = np.flatnonzero(starts)
    starts[begins] = True
    first = np.flatnonzero(starts)
    stops = np.zeros(len(codes), dtype=bool)
    stops[inner] = True
    stops[ends] = True
    return first, np.flatnonzero(stops)


def _cuts_at_marks(codes: Codes, kinds: Kinds) -> list[Positions]:
    """Where a token begins because of punctuation, apart from the beginnings of runs; may name places of space."""
    at = np.flatnonzero(kinds & MARK)
    mark, code = kinds[at], codes[at]
    left = kinds[at - 1]
    left[at == 0] = SPACE
    right = kinds[at + 1]
    new = np.diff(at, prepend=-2) != 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(at)) - 1
    group = np.cumsum(new) - 1

    dot = code == ord(".")
    after_dot, before_dot = ~new & np.append(False, dot[:-1]), np.append(~new[1:], False) & np.append(dot[1:], False)
    dots = dot & (after_dot | before_dot)
    further_dot, unfinished_dots = dot & after_dot, dot & before_dot

    front = ((mark & FRONT) != 0) | dots
    front &= ~((code == ord("+")) & ((right & DIGIT) != 0))
    end = ((mark & END) != 0) | ((mark & END_AFTER_DIGIT) != 0) & ((left & DIGIT) != 0)
    end &= ~dot | dots | _ends_sentence(codes, kinds, at, left)
    # A mark comes off if all marks from it to the space do.
    held = np.concatenate([[0], np.cumsum(~front)])
    place = np.arange(len(at))
    front = ((left[first] & SPACE) != 0)[group] & (held[place + 1] == held[first][group])
    held = np.concatenate([[0], np.cumsum(~end)])
    end = ((right[last] & SPACE) != 0)[group] & (held[place] == held[last + 1][group])

    inside = ~front & ~end
    divides = inside & (((mark & DIVIDES) != 0) | dots)
    begin_here = at[(end | divides) & ~further_dot]
    begin_behind = at[(front | divides) & ~unfinished_dots] + 1

    letter_left, letter_right = (left & LETTER) != 0, (right & LETTER) != 0
    digit_left, digit_right = (left & DIGIT) != 0, (right & DIGIT) != 0
    written_left = letter_left | digit_left
    apart = inside & new & np.append(new[1:], True)
    joint = apart & (
        _members("-–—~:<>=/")[code] & written_left & letter_right
        | (code == ord(",")) & letter_left & letter_right
        | dot & ((left & LOWER) != 0) & ((right & UPPER) != 0)
        | _members("+-*^")[code] & digit_left & digit_right
    )
    same = np.append(code[1:] == code[:-1], False)  # as the next mark
    size = last - first
    dashes = ((size == 1) | (size == 2) & same[np.minimum(first + 1, len(at) - 1)]) & same[first]
    dashes &= _members("-—")[code[first]] & written_left[first] & letter_right[last]
    unspaced = inside & ((left | right) & NO_SPACES != 0)
    joint_begin = np.concatenate([at[joint], at[first[dashes]]])
    joint_end = np.concatenate([at[joint], at[last[dashes]]]) + 1
    if len(joint_begin):
        starts = np.sort(np.concatenate([begin_here, begin_behind]))
        free = ~_in_address(codes, kinds, at, starts, joint_begin)
        joint_begin, joint_end = joint_begin[free], joint_end[free]
    quote = at[apart & _members("'’")[code] & letter_left & letter_right]
    return [
        *(begin_here, begin_behind, joint_begin, joint_end),
        *(at[unspaced], at[unspaced] + 1),
        _clitics(codes, kinds, quote),
    ]


def _ends_sentence(codes: Codes, kinds: Kinds, at: Positions, left: Kinds) -> Mask:
    """Whether a full stop at `at` comes off: not from an initial, an abbreviation with stops, or a mark that stays."""
    second = kinds[at - 2]
    second[at < 2] = SPACE
    initial = ((left & (UPPER | LOWER)) == UPPER) & ((second & UPPER) == 0)
    abbreviation = ((left & LETTER) != 0) & (codes[at - 2] == ord(".")) & (at >= 2)
    stays = ((left & MARK) != 0) & ((left & (END | END_AFTER_DIGIT)) == 0) & (codes[at - 1] != ord("-"))
    return ~(initial | abbreviation | stays | ((left & SPACE) != 0))


def _in_address(codes: Codes, kinds: Kinds, at: Positions, starts: Positions, joints: Positions) -> Mask:
    """Whether each of the places `joints` is in an address; `at` are the marks, `starts` where tokens begin so far."""
    space = np.flatnonzero(kinds & SPACE)
    which = np.searchsorted(space, joints)
    end = space[which]
    begin = np.where(which > 0, space[which - 1] + 1, 0)
    if len(starts):
        near = np.searchsorted(starts, joints, side="right")
        begin = np.maximum(begin, np.where(near > 0, starts[near - 1], 0))
        end = np.where(near < len(starts), np.minimum(end, starts[np.minimum(near, len(starts) - 1)]), end)
    # The host's name reaches to the first mark that is not of a name; before it stand a full stop and small letters.
    breaks = at[~_members("-_.")[codes[at]]]
    near = np.searchsorted(breaks, begin)
    host = np.minimum(end, np.append(breaks, len(codes))[near])
    stop = np.searchsorted(at, host) - 1
    stop = np.where(stop < 0, 0, at[stop])
    named = (stop > begin) & (codes[stop] == ord(".")) & (host - stop > 2)
    named &= ((kinds[host - 1] & LOWER) != 0) & ((kinds[stop + 1] & LOWER) != 0)
    behind = codes[host]
    named &= (host == end) | _members("/?#:")[behind]
    last = len(codes) - 1
    protocol = (behind == ord(":")) & (codes[np.minimum(host + 1, last)] == ord("/"))
    protocol &= codes[np.minimum(host + 2, last)] == ord("/")
    return named | ((host < end) & (host > begin) & (protocol | (behind == ord("@"))))


def _clitics(codes: Codes, kinds: Kinds, quotes: Positions) -> Positions:
    """Where `'s`, `n't` and the like begin, of apostrophes between letters."""
    last = len(codes) - 1
    one, two = codes[quotes + 1] | 32, codes[np.minimum(quotes + 2, last)] | 32  # in lower case
    written = LETTER | DIGIT
    second, third = kinds[np.minimum(quotes + 2, last)], kinds[np.minimum(quotes + 3, last)]
    single = (second & written) == 0
    double = ((second & LETTER) != 0) & ((third & written) == 0)
    short = single & _members("smd")[one & 0xFFFF]
    long = double & ((one == ord("l")) & (two == ord("l")) | _members("rv")[one & 0xFFFF] & (two == ord("e")))
    negated = single & (one == ord("t")) & (codes[quotes - 1] | 32 == ord("n"))
    return np.concatenate([quotes[short | long], quotes[negated] - 1])


def unspaced_characters(codes: Codes) -> Codes:
    """The code points, 0 where neither a letter of a script without spaces nor a mark or format character."""
    kinds = kinds_of_characters()[codes]
    return np.where((kinds == 0) | ((kinds & NO_SPACES) != 0), codes, 0)


def places_between_letters(codes: Codes) -> Positions:
    """Letters of scripts without spaces before which, apart from marks of their own, stands another such letter."""
    return _letters_without_spaces(kinds_of_characters()[codes])[0]


def _letters_without_spaces(kinds: Kinds) -> tuple[Positions, Positions]:
    """Letters of scripts without spaces that follow such a letter, and places where such letters and others meet."""
    at = np.flatnonzero(kinds & (LETTER | DIGIT | MARK | SPACE))
    unspaced = (kinds[at] & NO_SPACES) != 0
    before = np.append(False, unspaced[:-1])
    return at[unspaced & before], at[unspaced != before]


def _cuts_without_spaces(codes: Codes, kinds: Kinds) -> Positions:
    """Where a token begins among letters of scripts without spaces, and where such letters meet others."""
    at, edges = _letters_without_spaces(kinds)
    characters = np.zeros(len(codes) + 1, dtype=np.uint32)  # one in front: a first letter has none before it
    characters[1:] = codes
    characters[1:][(kinds != 0) & ((kinds & NO_SPACES) == 0)] = 0
    tibetan = (codes[at] >= 0x0F00) & (codes[at] < 0x1000)
    begins = np.where(tibetan, codes[at - 1] == _TSHEG, begins_word(characters, at + 1))
    begins &= ~_members(_NEVER_FIRST)[codes[at]]
    return np.concatenate([at[begins], edges])
