import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.quality import annotate, statistics
from tests.annotators.documents import documents


def of(text: str) -> dict[str, float]:
    return {name: float(values[0]) for name, values in statistics([text]).items()}


def test_words_and_marks() -> None:
    found = of("One two,  three\t4\n!!")  # seven tokens, four of them words
    assert found["words"] == 4
    assert found["mean_word_length"] == pytest.approx((3 + 3 + 5 + 1) / 4)
    assert found["alpha_word_ratio"] == pytest.approx(3 / 7)
    assert found["longest_word"] == 5


def test_symbols_per_word_take_the_larger_of_number_signs_and_ellipses() -> None:
    assert of("#a #b d e")["symbol_word_ratio"] == pytest.approx(2 / 6)
    assert of("a... b…  c.... d ..")["symbol_word_ratio"] == pytest.approx(3 / 8)


def test_lines_are_judged_without_outer_space_and_blank_ones_do_not_count() -> None:
    found = of("  • first point here, which is long enough.  \r\n\n - second...\n \t \nthe third line ends…\n")
    assert found["lines"] == 3
    assert found["bullet_line_ratio"] == pytest.approx(2 / 3)
    assert found["ellipsis_line_ratio"] == pytest.approx(2 / 3)
    assert found["punctuated_line_ratio"] == pytest.approx(2 / 3)
    assert found["terminal_line_ratio"] == pytest.approx(1 / 3)
    assert found["short_line_ratio"] == pytest.approx(2 / 3)
    assert found["newline_word_ratio"] == pytest.approx(5 / 18)


def test_short_line_has_at_most_30_characters() -> None:
    assert of("x" * 30 + "\n" + "y" * 31)["short_line_ratio"] == 0.5


def test_duplicate_lines_and_paragraphs_leave_out_the_first_occurrence() -> None:
    found = of("same\nother\n\nsame\n other \n\nlast words\nsame")
    assert found["duplicate_line_ratio"] == pytest.approx(3 / 6)
    assert found["duplicate_line_character_ratio"] == pytest.approx(13 / (4 + 5 + 4 + 7 + 10 + 4 + 7))
    # "same\nother", "same\n other", "last words\nsame": inner space tells the first two apart.
    assert found["duplicate_paragraph_ratio"] == 0
    found = of("a\nb\n\n\nccc\n\na\nb")
    assert found["duplicate_paragraph_ratio"] == pytest.approx(1 / 3)
    assert found["duplicate_paragraph_character_ratio"] == pytest.approx(3 / 14)


def test_top_ngram_covers_its_occurrences() -> None:
    found = of("to be or not to be that is")
    assert found["top_2gram_ratio"] == pytest.approx(2 * 5 / 26)
    assert found["top_3gram_ratio"] == 0
    # Equally common: the first one counts.
    assert of("a b cc dd a b cc dd")["top_2gram_ratio"] == pytest.approx(2 * 3 / 19)
    assert of("a a a a")["top_2gram_ratio"] == 1


def test_a_repeated_passage_counts_in_whole_ngrams() -> None:
    text = "one two three four five six " * 2 + "seven"
    total = 2 * 28 + 5
    found = of(text)
    assert found["duplicate_5gram_ratio"] == pytest.approx(19 / total)
    assert found["duplicate_6gram_ratio"] == pytest.approx(22 / total)
    for n in (7, 8, 9, 10):
        assert found[f"duplicate_{n}gram_ratio"] == 0


def test_stop_words_count_once_in_three_spellings_and_only_whole() -> None:
    assert of("The the THE thE with, WITH of offer be")["stop_words"] == 4
    assert of("a b c")["stop_words"] == 0


def test_quality_score_is_the_mean_of_its_parts() -> None:
    clean = "This line of prose is long enough to be a line.\nAnd this one is long enough as well, it seems."
    assert of(clean)["quality_score"] == 1
    found = of(clean + "\n# menu\nmenu 1\nmenu 1")
    parts = (
        24 / 26,  # words have a letter, all but two
        1 - found["symbol_word_ratio"],
        1 - found["duplicate_line_character_ratio"],
        1 - found["duplicate_5gram_ratio"],
        found["punctuated_line_ratio"],
        1 - found["short_line_ratio"],
    )
    assert found["quality_score"] == pytest.approx(sum(parts) / 6)
    assert found["quality_score"] < 1
    assert of("")["quality_score"] == 0


def brute_force(text: str) -> dict[str, float]:
    """The repetition and line statistics again, with dictionaries and loops, for text whose tokens stand apart."""
    words = text.split()
    total = len(text)
    result: dict[str, float] = {}
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        gram, count = counts.most_common(1)[0] if grams else ((), 0)
        if n <= 4:
            result[f"top_{n}gram_ratio"] = min(1, count * len(" ".join(gram)) / total) if count > 1 else 0
        else:
            seen: set[tuple[str, ...]] = set()
            repeated, i = 0, 0
            while i < len(grams):
                again = grams[i] in seen
                repeated += again * len("".join(grams[i]))
                seen.add(grams[i])
                i += n if again else 1
            result[f"duplicate_{n}gram_ratio"] = repeated / total if total else 0
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    first = set(lines)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    result["duplicate_line_ratio"] = 1 - len(first) / len(lines) if lines else 0
    repeated_characters = sum(map(len, lines)) - sum(map(len, first))
    result["duplicate_line_character_ratio"] = repeated_characters / total if total else 0
    result["duplicate_paragraph_ratio"] = 1 - len(set(paragraphs)) / len(paragraphs) if paragraphs else 0
    result["words"], result["lines"] = len([word for word in words if word != ";"]), len(lines)
    result["few_word_line_ratio"] = sum(len(line.split()) < 3 for line in lines) / len(lines) if lines else 0
    return result


pieces = ["a", "bb", "c", "Dé", " ; ", " ", " ", " ", "\n", "\n\n"]
repetitive = st.lists(st.sampled_from(pieces), max_size=120).map("".join)


@given(st.lists(repetitive, min_size=1, max_size=4))
@settings(max_examples=60)
def test_statistics_agree_with_a_brute_force_count(texts: list[str]) -> None:
    found = statistics(texts)
    for row, text in enumerate(texts):
        for name, expected in brute_force(text).items():
            assert found[name][row] == pytest.approx(expected, abs=1e-9), (name, text)


def test_c4_counts_in_lines_that_end_a_sentence() -> None:
    text = (
        "Enable JavaScript to see this page.\n"
        "See our Privacy Policy for all that.\n"
        "Mr. J. Smith came, e.g. by train. He left at 5 p.m. though!? It “rained.”\n"
        "Lorem ipsum dolor { sit } amet.\n"
        "if (a) {\n"
        "Yes.\n"
        "And so on...\n"
    )
    found = of(text)
    assert found["javascript_line_ratio"] == pytest.approx(1 / 7)
    assert found["policy_line_ratio"] == pytest.approx(1 / 7)
    assert found["terminal_line_ratio"] == pytest.approx(5 / 7)
    assert found["few_word_line_ratio"] == pytest.approx(1 / 7)
    assert found["sentences"] == 4 + 1  # one ends behind "Mr.": titles are not known here
    assert found["lorem_ipsum"] == found["curly_brackets"] == 1


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("今天天气很好。我们去公园！你呢？", 3),
        ("यह एक वाक्य है। यह दूसरा है।", 2),
        ("هل هذا سؤال؟ نعم هذا سؤال.", 2),
        ("Δύο προτάσεις εδώ. Και άλλη μία.", 2),
        ("ဒါက စာကြောင်း ပါ။ နောက်တစ်ကြောင်းပါ။", 2),
        ("ประโยคนี้ไม่มีเครื่องหมายจบ", 0),
    ],
)
def test_sentences_of_other_scripts(text: str, sentences: int) -> None:
    assert of(text)["sentences"] == sentences


@pytest.mark.parametrize("phrase", ["Datenschutzerklärung", "POLÍTICA DE PRIVACIDAD", "隐私政策", "이용약관"])
def test_notices_of_other_languages(phrase: str) -> None:
    found = statistics(["one line", f"first\n\nand {phrase}, too\nlast", "third"])["policy_line_ratio"]
    assert found.tolist() == [0, pytest.approx(1 / 3), 0]


@given(st.lists(st.text(max_size=60), max_size=5))
@settings(max_examples=60)
def test_any_text_gives_finite_values_in_range(texts: list[str]) -> None:
    labels = annotate(documents(texts)).to_pylist()
    for text, row in zip(texts, labels):
        assert row["characters"] == len(text)
        assert row["bytes"] == len(text.encode())
        for name, value in row.items():
            if isinstance(value, float):
                assert math.isfinite(value) and value >= 0
            if name.endswith("_ratio") and name not in ("symbol_word_ratio", "newline_word_ratio"):
                assert value <= 1
        assert 0 <= row["quality_score"] <= 1


def test_what_stands_around_a_text_in_the_batch_does_not_matter() -> None:
    texts = ["same words\nsame words", "same words", "", "今天天气 same", "same words\nsame words" * 40_000]
    together = statistics(texts)
    for row, text in enumerate(texts):
        alone = statistics([text])
        assert {name: values[row] for name, values in together.items()} == {
            name: values[0] for name, values in alone.items()
        }


def test_judges_only_the_first_two_million_characters_but_counts_all() -> None:
    row = annotate(documents(["ab " * 1_000_000])).to_pylist()[0]
    assert row["characters"] == 3_000_000
    assert row["words"] == math.ceil((1 << 21) / 3)
    assert np.isclose(row["duplicate_10gram_ratio"], 2 / 3, atol=1e-4)
