import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.words import SPACE, kinds_of_characters, runs, tokens


def split(text: str) -> list[str]:
    joined = text + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    kinds = kinds_of_characters()[codes]
    begins, ends = tokens(codes, kinds, *runs((kinds & SPACE) != 0))
    return [joined[begin:end] for begin, end in zip(begins, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('One (two), "three".', 'One ( two ) , " three " .'),
        ("wait...what… or..so ....", "wait ... what … or .. so ...."),
        ("It's we'll don't I’m", "It 's we 'll do n't I ’m"),
        ("they've O'Brien's rock'n'roll", "they 've O'Brien 's rock'n'roll"),
        ("well-known and/or x=y a--b", "well - known and / or x = y a -- b"),
        ("well-known's", "well - known 's"),
        ("https://a.example/x-y=z, (me-you@host.org)", "https://a.example/x-y=z , ( me-you@host.org )"),
        ("a-b.example.org/c-d: [x-y](z-1.html)", "a-b.example.org/c-d : [ x - y](z-1.html )"),
        ("J. Smith, e.g. U.S. a.m. END.", "J. Smith , e.g. U.S. a.m. END ."),
        ("$5.00 10% C++ +7 3+4 25€", "$ 5.00 10 % C++ +7 3 + 4 25 €"),
        ("--option a|b /usr/bin C:\\x ~ ^ ----", "--option a|b /usr / bin C:\\x ~ ^ ----"),
        ("**bold** _x_ `y` <z>", "* * bold * * _ x _ ` y ` < z >"),
        ("small.Capital one,two 1,000 3.14 12:30", "small . Capital one , two 1,000 3.14 12:30"),
        ("good😀👍 •item", "good 😀 👍 • item"),
        ("e\u0301te\u0301, a\u200db", "e\u0301te\u0301 , a\u200db"),
        ("", ""),
        (" \n\u00a0", ""),
    ],
)
def test_tokens_of_spaced_scripts(text: str, expected: str) -> None:
    assert split(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气", "今天 天气"),
        ("今天天气好", "今天 天气 好"),
        ("今天好，天气。", "今天 好 ， 天气 。"),  # counting begins anew behind punctuation
        ("（你好）世界", "（ 你好 ） 世界"),
        ("用Python写", "用 Python 写"),
        ("Wi-Fi 무선", "Wi - Fi 무선"),
        ("コーヒー", "コー ヒー"),  # the mark of a long vowel is a letter of kana
        ("ｺｰﾋｰ", "ｺｰ ﾋｰ"),
        ("ສະບາຍ\u200bດີ", "ສະ ບາ ຍ ດີ"),
    ],
)
def test_tokens_of_scripts_without_spaces(text: str, expected: str) -> None:
    assert split(text) == expected.split()


rough = st.text(st.sampled_from("aB1 .,-/:'’@#(%+…今天あ。，é\u0301\n\u200b😀"), max_size=60)


@given(rough | st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_tokens_are_all_that_is_not_space_in_order(text: str) -> None:
    space = (kinds_of_characters() & SPACE) != 0
    assert "".join(split(text)) == "".join(character for character in text if not space[ord(character)])


@given(rough, rough)
@settings(max_examples=150, deadline=None)
def test_tokens_do_not_depend_on_what_stands_beyond_a_space(left: str, right: str) -> None:
    assert split(f"{left} {right}") == split(left) + split(right)
