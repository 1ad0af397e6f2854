"""Fitting: bounds of a language lie among its values as the English ones among the English values."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.thresholds import (
    DEFAULT,
    ENGLISH_ONLY,
    METHODS,
    SENTENCES,
    columns_needed,
    fit,
    methods_for,
)
from schemas.errors import ConfigError
from schemas.hashing import text_hash
from schemas.labels import QUALITY
from schemas.languages import LANGUAGES
from schemas.recipe import NUMERIC_LABELS
from schemas.thresholds import shipped_thresholds


def labels(columns=None, **languages):
    """One row a value: `languages` maps a label to the values of mean_word_length, `columns` are for all rows."""
    names = [name for name, values in languages.items() for _ in values]
    lengths = [value for values in languages.values() for value in values]
    table = {name: [1.0] * len(names) for name in columns_needed(METHODS)}
    table |= {"language": names, "language_score": [0.99] * len(names), "mean_word_length": lengths}
    table["document_id"] = [text_hash(str(number)) for number in range(len(names))]
    return pa.table({**table, **(columns or {})})


def draws(center, sigma, count=400, seed=0):
    return np.random.default_rng(seed).normal(center, sigma, count).tolist()


ONLY_LENGTH = {"mean_word_length": "median-ratio"}


def test_a_language_with_longer_words_gets_bounds_that_are_longer_by_the_ratio_of_the_medians():
    table = labels(eng_Latn=[4.0, 5.0, 9.0], fin_Latn=[7.0, 7.5, 30.0])
    bound = fit(table, ONLY_LENGTH, "document", least=3).languages["fin_Latn"].bounds["mean_word_length"]
    assert (bound.min, bound.max, bound.method) == (4.5, 15.0, "median-ratio")
    assert (bound.mean, bound.median) == (14.83, 7.5)


def test_mean_sigma_is_as_many_deviations_from_the_mean():
    table = labels(eng_Latn=draws(5, 0.5), tur_Latn=draws(7, 1, seed=1))
    fitted = fit(table, {"mean_word_length": "mean-sigma"}, "document", least=1)
    english, turkish = (fitted.languages[name].bounds["mean_word_length"] for name in ("eng_Latn", "tur_Latn"))
    assert (turkish.max - turkish.mean) / turkish.sigma == pytest.approx((10 - english.mean) / english.sigma, rel=1e-3)
    assert (turkish.min - turkish.mean) / turkish.sigma == pytest.approx((3 - english.mean) / english.sigma, rel=1e-3)


def test_a_quantile_leaves_as_large_a_share_beyond():
    english, other = draws(8, 2, 5000), draws(12, 4, 5000, seed=1)
    fitted = fit(labels(eng_Latn=english, deu_Latn=other), {"mean_word_length": "quantile"}, "document", least=1)
    bound = fitted.languages["deu_Latn"].bounds["mean_word_length"]
    for side in (
        lambda values, low, high: np.mean(np.array(values) < low),
        lambda values, low, high: np.mean(np.array(values) > high),
    ):
        assert side(other, bound.min, bound.max) == pytest.approx(side(english, 3, 10), abs=3e-4)


def test_a_quantile_of_nothing_keeps_the_english_bound():
    fitted = fit(
        labels(eng_Latn=draws(5, 0.1), deu_Latn=draws(6, 0.1)), {"mean_word_length": "quantile"}, "document", 1
    )
    bound = fitted.languages["deu_Latn"].bounds["mean_word_length"]
    assert (bound.min, bound.max, bound.method) == (3, 10, "published")


@pytest.mark.parametrize("method", ["median-ratio", "mean-sigma", "quantile"])
def test_a_language_that_is_like_english_keeps_the_english_bounds(method):
    values = draws(8, 2, 1000)
    bound = fit(labels(eng_Latn=values, sco=values, deu_Latn=values), {"mean_word_length": method}, "document", 1)
    bound = bound.languages["deu_Latn"].bounds["mean_word_length"]
    # A quantile lies between two values, so the bound may move to the one that is next to it.
    assert (bound.min, bound.max) == (pytest.approx(3, abs=0.1), pytest.approx(10, abs=0.1))


def test_english_keeps_the_published_bounds_with_evidence():
    bounds = fit(labels(eng_Latn=draws(6, 1)), METHODS, "document", least=1).languages["eng_Latn"].bounds
    assert (bounds["mean_word_length"].min, bounds["mean_word_length"].max) == (3, 10)
    assert bounds["mean_word_length"].mean == pytest.approx(6, abs=0.2)
    assert {column: (bound.min, bound.max) for column, bound in bounds.items() if column in ENGLISH_ONLY} == {
        column: (bound.min, bound.max) for column, bound in ENGLISH_ONLY.items()
    }


@given(st.lists(st.floats(0, 1), min_size=3, max_size=40))
def test_the_least_probability_is_the_median_less_a_deviation_within_bounds(scores):
    table = labels({"language_score": [0.9] * 3 + scores}, eng_Latn=[5.0] * 3, deu_Latn=[6.0] * len(scores))
    least = fit(table, {}, "document", least=1).languages["deu_Latn"].bounds["language_score"].min
    assert least == pytest.approx(max(0.3, min(0.9, np.median(scores) - np.std(scores))), rel=1e-3)


def test_probabilities_of_text_that_the_model_has_seen_are_told_and_not_asked_for():
    table = labels({"language_score": [0.99] * 4 + [0.8, 0.85, 0.9]}, eng_Latn=[5.0] * 4, bos_Latn=[5.0] * 3)
    for seen, least in ((False, 0.8092), (True, 0.3)):
        bosnian = fit(table, {}, "document", 1, seen).languages["bos_Latn"].bounds["language_score"]
        assert (bosnian.min, bosnian.median) == (least, 0.85)


def test_scores_that_are_null_count_for_nothing():
    table = labels({"language_score": [0.9] * 3 + [0.8, None, None]}, eng_Latn=[5.0] * 3, deu_Latn=[6.0] * 3)
    german = fit(table, {}, "document", least=1).languages["deu_Latn"]
    assert (german.documents, german.bounds["language_score"].min) == (3, 0.8)
    table = labels({"language_score": [0.9] * 3 + [None] * 3}, eng_Latn=[5.0] * 3, deu_Latn=[6.0] * 3)
    assert fit(table, {}, "document", 1).languages["deu_Latn"].bounds["language_score"].min == 0.3


def test_thin_languages_get_the_bounds_of_their_script_which_all_languages_of_it_make():
    table = labels(eng_Latn=[5.0] * 8, arb_Arab=[4.0] * 8, arz_Arab=[9.0], zho_Hans=[2.0] * 4, yue_Hant=[2.0] * 4)
    fitted = fit(table, ONLY_LENGTH, "document", least=5)
    assert fitted.languages["arz_Arab"].documents == 1 and not fitted.languages["arz_Arab"].bounds
    assert fitted.bounds("arz_Arab")["mean_word_length"].max == 8.0
    assert fitted.scripts["Arab"].documents == 9
    assert fitted.bounds("yue_Hant")["mean_word_length"].max == fitted.bounds("Hani")["mean_word_length"].max == 4.0
    assert fitted.bounds("kat_Geor")["mean_word_length"].max == 10  # nothing was seen of it
    assert "Geor" not in fitted.scripts and "deu_Latn" not in fitted.languages


def test_text_in_no_language_counts_for_nothing():
    alone = fit(labels(eng_Latn=[5.0] * 3, deu_Latn=[6.0] * 3), METHODS, "document", least=1)
    mixed = fit(labels(eng_Latn=[5.0] * 3, deu_Latn=[6.0] * 3, other=[50.0], und=[0.0]), METHODS, "document", least=1)
    assert alone.hash == mixed.hash and mixed.documents == 8


def test_without_english_there_is_nothing_to_compare_with():
    with pytest.raises(ConfigError, match=r"0 English documents .* 3 are needed"):
        fit(labels(deu_Latn=[6.0] * 9), METHODS, "document", least=3)


@settings(max_examples=20)
@given(st.permutations(range(60)))
def test_the_order_of_documents_does_not_matter(order):
    table = labels(eng_Latn=draws(5, 1, 20), deu_Latn=draws(6, 1, 40, seed=2))
    assert fit(table, ONLY_LENGTH, "sentence", 1) == fit(table.take(list(order)), ONLY_LENGTH, "sentence", 1)


def test_sentences_are_taken_together_as_a_document_of_all_their_words():
    rows = 2 * SENTENCES
    lengths = np.arange(rows) % 7 + 2.0
    words = np.arange(rows) % 5 + 1.0
    table = labels({"words": words.tolist() * 2}, eng_Latn=lengths.tolist(), deu_Latn=lengths.tolist())
    bounds = fit(table, methods_for("sentence", {}), "sentence", least=1).languages["deu_Latn"].bounds
    ids = np.argsort([text_hash(str(number)) for number in range(rows, 2 * rows)], kind="stable")
    letters = (lengths * words)[ids].reshape(2, SENTENCES).sum(axis=1)
    expected = letters / words[ids].reshape(2, SENTENCES).sum(axis=1)
    assert bounds["mean_word_length"].mean == pytest.approx(expected.mean(), rel=1e-3)
    assert bounds["mean_word_length"].sigma == pytest.approx(expected.std(), rel=1e-2)
    assert set(bounds) == {"language_score", "mean_word_length", "alpha_word_ratio", "punctuated_line_ratio"}


def test_where_marks_do_not_end_sentences_lines_need_none():
    marks = [0.8] * 4 + [0.5] * 4 + [0.3] * 4
    table = labels({"punctuated_line_ratio": marks}, eng_Latn=[5.0] * 4, deu_Latn=[5.0] * 4, tha_Thai=[5.0] * 4)
    fitted = fit(table, METHODS, "document", least=1)
    bounds = [fitted.bounds(name)["punctuated_line_ratio"].min for name in ("eng_Latn", "deu_Latn", "tha_Thai")]
    assert bounds == [0.12, 0.075, 0.0]


def test_methods_are_checked():
    assert methods_for("document", {"words": "median-ratio"})["words"] == "median-ratio"
    with pytest.raises(ConfigError, match="no English bound of 'characters'"):
        methods_for("document", {"characters": "quantile"})
    with pytest.raises(ConfigError, match="say nothing about 'top_2gram_ratio'"):
        methods_for("sentence", {"top_2gram_ratio": "quantile"})
    assert set(METHODS) <= set(DEFAULT) and set(DEFAULT) | set(ENGLISH_ONLY) <= set(NUMERIC_LABELS)
    assert set(columns_needed(METHODS)) <= {*QUALITY.names, "language", "language_score"}


def test_the_shipped_file_has_bounds_for_every_language():
    shipped = shipped_thresholds()
    assert set(shipped.languages) == set(LANGUAGES) and shipped.unit == "sentence"
    for name in LANGUAGES:
        bounds = shipped.bounds(name)
        assert set(DEFAULT) <= set(bounds)
        assert bounds["words"].max == 100_000 and 0.3 <= bounds["language_score"].min <= 0.9
        length = bounds["mean_word_length"]
        assert length.method != "published" or name == "eng_Latn"
        assert length.min < length.median < length.max
        letters = bounds["alpha_word_ratio"]
        assert letters.min < letters.median - 2.5 * letters.sigma  # a page of sentences passes
    thin = [name for name, one in shipped.languages.items() if not one.bounds]
    assert all(shipped.languages[name].documents < 500 for name in thin)
    for column, bound in {**DEFAULT, **ENGLISH_ONLY}.items():
        if column != "language_score":
            assert (bound.min, bound.max) == (
                shipped.bounds("eng_Latn")[column].min,
                shipped.bounds("eng_Latn")[column].max,
            )
