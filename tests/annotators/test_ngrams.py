import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.ngrams import LONGEST, _order, characters, composed, fold, framed, ngrams, normal_form, words

ALPHABET = "aàbcß İıΣж中あ한नि\u0301𐌰\u200f-9 \n"


def fnv(gram: str) -> int:
    """FNV-1a over UTF-8 with bytes as signed characters, as in fastText's dictionary.cc."""
    value = 2166136261
    for byte in gram.encode():
        value = (value ^ (byte | 0xFFFFFF00 if byte >= 128 else byte)) * 16777619 & 0xFFFFFFFF
    return value


def grams(word: str) -> list[list[int]]:
    """Hashes by length, the plain way."""
    framed = f"<{word}>"
    found = [[fnv(framed[at : at + size]) for at in range(len(framed) - size + 1)] for size in range(1, LONGEST + 1)]
    found[0] = found[0][1:-1]
    return found


@given(st.text(ALPHABET, max_size=60))
def test_words_and_ngrams_are_those_of_the_plain_definition(text: str) -> None:
    spoken = normal_form(text).split()
    found = words(fold(characters(text)))
    different = [found.codes[a:b].tobytes().decode("utf-32-le") for a, b in zip(found.first, found.last)]
    assert [different[number] for number in found.word] == spoken
    assert len(set(different)) == len(different)
    codes, ends = framed(found)
    assert codes.tobytes().decode("utf-32-le") == "".join(f"<{word}>" for word in different)
    for size, (hashes, after) in enumerate(ngrams(codes, ends)):
        pieces = zip(np.split(hashes, ends[:-1]), np.split(after >= 0, ends[:-1])) if len(ends) else ()
        assert [own[some].tolist() for own, some in pieces] == [grams(word)[size] for word in different]
    some = slice(1, 3)
    assert framed(found, some)[0].tobytes().decode("utf-32-le") == "".join(f"<{word}>" for word in different[some])


def test_hashes_that_differ_in_their_lowest_bits_are_put_in_order_all_the_same() -> None:
    hashes = np.array([5, 4, 1 << 60, 5, 3, 4, 7], np.uint64)
    assert hashes[_order(hashes)].tolist() == sorted(hashes.tolist())
    apart = np.array([3 << 40, 1 << 40, 3 << 40, 2 << 40], np.uint64)
    assert apart[_order(apart)].tolist() == sorted(apart.tolist())


def test_words_are_lower_case_letters_and_marks() -> None:
    assert normal_form("Ünïcode_2 ΣΑΣ, l’été\t中文!\u200bend") == "ünïcode σασ l été 中文 end"
    assert normal_form("12 … \x00 😀") == ""


@pytest.mark.parametrize("text", ["plain", "e\u0301te\u0301", "한국", ""])
def test_composed_is_nfc(text: str) -> None:
    import unicodedata

    assert composed(text) == unicodedata.normalize("NFC", text)


def test_lone_surrogates_are_no_letters() -> None:
    assert len(words(fold(characters("ab\ud800cd"))).word) == 2
