"""Damaged copies of lines, from which the fluency models learn what real text does not look like."""

import numpy as np

MISREADINGS = (
    ("utf-8", "latin-1"),
    ("utf-8", "cp1252"),
    ("utf-8", "cp1251"),
    ("utf-8", "cp1250"),
    ("utf-8", "cp437"),
    ("utf-8", "koi8-r"),
    ("utf-8", "mac-roman"),
    ("utf-8", "gbk"),
    ("utf-8", "big5"),
    ("utf-8", "shift-jis"),
)
"""(encoding of the bytes, encoding they are taken for)."""

LEGACY = {
    "Latn": ("latin-1", "cp1252", "cp1250", "cp1254", "cp437"),
    "Cyrl": ("cp1251", "koi8-r", "iso8859-5", "cp866"),
    "Grek": ("cp1253",),
    "Hebr": ("cp1255",),
    "Arab": ("cp1256", "iso8859-6"),
    "Thai": ("cp874",),
    "Hang": ("euc-kr",),
    "Jpan": ("shift-jis", "euc-jp"),
    "Hans": ("gbk",),
    "Hant": ("big5",),
}
"""Encodings before Unicode of the scripts that had some."""

TAKEN_FOR = ("latin-1", "cp1252", "cp1250", "cp1251", "cp1254", "koi8-r")


def shuffle_characters(text: str, random: np.random.Generator) -> str:
    return "".join(np.array(list(text))[random.permutation(len(text))])


def shuffle_inside_words(text: str, random: np.random.Generator) -> str:
    return " ".join(shuffle_characters(word, random) for word in text.split(" "))


def shuffle_words(text: str, random: np.random.Generator) -> str:
    words = text.split(" ")
    return " ".join(words[place] for place in random.permutation(len(words)))


def delete_characters(text: str, rate: float, random: np.random.Generator) -> str:
    kept = random.random(len(text)) >= rate
    return "".join(character for character, keep in zip(text, kept) if keep)


def replace_characters(text: str, rate: float, random: np.random.Generator) -> str:
    """Every character becomes, with probability `rate`, one drawn from the same text."""
    characters = np.array(list(text))
    return "".join(np.where(random.random(len(text)) < rate, random.permutation(characters), characters))


def misread(text: str, written: str, read: str) -> str:
    """The bytes of `text` in the encoding `written`, taken for `read`; what does not exist in either is replaced."""
    return text.encode(written, "replace").decode(read, "replace")


def wrong_encoding(text: str, script: str, random: np.random.Generator) -> str:
    """UTF-8 or a legacy encoding of the script (ISO 15924) taken for another; UTF-8 also twice.

    ASCII is the same in all of these: such a text is taken for UTF-16 or loses its zero bytes' order.
    """
    kind = random.random()
    legacy = LEGACY.get(script, ("utf-16-le",))
    if kind < 0.45:
        result = misread(text, *MISREADINGS[random.integers(2)])
    elif kind < 0.75:
        result = misread(text, *MISREADINGS[random.integers(len(MISREADINGS))])
    elif kind < 0.85:
        result = misread(misread(text, "utf-8", "cp1252"), "utf-8", "cp1252")
    else:
        result = misread(text, legacy[random.integers(len(legacy))], TAKEN_FOR[random.integers(len(TAKEN_FOR))])
    if result != text:
        return result
    if random.random() < 0.5:
        return text.encode("utf-8").decode("utf-16-le", "replace")
    return misread(text, "utf-16-le", "latin-1")


def damage(text: str, script: str, ordered: bool, random: np.random.Generator) -> str:
    """A copy of `text` with one kind of damage, words shuffled only if `ordered`; the text itself where it holds."""
    kind = random.random()
    if kind < 0.16 and ordered:
        return shuffle_words(text, random)
    if kind < 0.22:
        return shuffle_characters(text, random)
    if kind < 0.26:
        return shuffle_inside_words(text, random)
    if kind < 0.80:
        return delete_characters(text, random.uniform(0.08, 0.32), random)
    if kind < 0.88:
        return replace_characters(text, random.uniform(0.08, 0.3), random)
    return wrong_encoding(text, script, random)
