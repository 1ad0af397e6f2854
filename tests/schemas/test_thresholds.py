"""The file of thresholds: what is written is read, and what is wrong is told in one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.languages import LANGUAGES, script_of
from schemas.recipe import NUMERIC_LABELS
from schemas.thresholds import (
    SCRIPTS,
    SHIPPED_FILE,
    Bound,
    Fitted,
    Thresholds,
    find_thresholds,
    needs,
    read_thresholds,
    write_thresholds,
)

GOOD = """\
format: 1
unit: document
documents: 3
default:
  words: {min: 50}
scripts: {}
languages:
  deu_Latn:
    documents: 3
    bounds:
      words: {min: 40, max: 90, method: quantile, mean: 60.5}
"""


def bounds():
    numbers = st.floats(0, 1e6, allow_nan=False).map(lambda value: float(f"{value:.4g}"))
    bound = st.tuples(numbers, numbers, numbers).map(
        lambda three: Bound(min=min(three[:2]), max=max(three[:2]), method="mean-sigma", mean=three[2], sigma=0.0)
    )
    return st.dictionaries(st.sampled_from(sorted(NUMERIC_LABELS)), bound, max_size=3)


def fitted(names):
    one = st.builds(Fitted, documents=st.integers(0, 10**9), bounds=bounds())
    return st.dictionaries(st.sampled_from(names), one, max_size=3)


@settings(max_examples=25)  # every file is flushed to the disk
@given(
    st.builds(
        Thresholds,
        format=st.just(1),
        unit=st.sampled_from(["document", "sentence"]),
        documents=st.integers(0, 10**9),
        default=bounds(),
        scripts=fitted(SCRIPTS),
        languages=fitted(sorted(LANGUAGES)),
    )
)
def test_what_is_written_is_read(tmp_path_factory, thresholds):
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    write_thresholds(str(path), thresholds, "A head: of two\n\nlines # and signs")
    assert read_thresholds(str(path)) == thresholds
    first = path.read_bytes()
    write_thresholds(str(path), read_thresholds(str(path)), "A head: of two\n\nlines # and signs")
    assert path.read_bytes() == first


def test_the_shipped_file_is_as_it_would_be_written(tmp_path):
    lines = SHIPPED_FILE.read_text().splitlines()
    head = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    write_thresholds(str(tmp_path / "again.yaml"), read_thresholds(str(SHIPPED_FILE)), head)
    assert (tmp_path / "again.yaml").read_bytes() == SHIPPED_FILE.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("deu_Latn", "deu_Lat", "languages: unknown language 'deu_Lat'"),
        ("scripts: {}", "scripts: {Latin: {}}", "scripts: unknown script 'Latin'"),
        ("words: {min: 50}", "wards: {min: 50}", "unknown label column 'wards'"),
        ("words: {min: 50}", "words: {}", "default.words: give `min`, `max` or both"),
        ("words: {min: 50}", "words: {min: .inf}", "default.words.min: .*finite"),
        ("min: 40, max: 90", "min: 40, max: 9", "languages.deu_Latn.bounds.words: min 40.0 is above max 9.0"),
        ("method: quantile", "method: guess", "languages.deu_Latn.bounds.words.method"),
        ("mean: 60.5", "means: 60.5", "languages.deu_Latn.bounds.words.means"),
        ("format: 1", "format: 2", "format: "),
        ("documents: 3\ndefault", "documents: -3\ndefault", "documents: "),
        ("unit: document\n", "", "unit: "),
        ("documents: 3\ndefault", "documents: 3\ndocuments: 4\ndefault", ":4: .*'documents' stands here twice"),
        (GOOD, "- a\n- b\n", "a mapping of keys"),
        (GOOD, "", "a mapping of keys"),
        (GOOD, "a: [", "not valid YAML"),
        (GOOD, "? [1, 2]\n: 3\n", "not valid YAML"),
        (GOOD, "a: \x00", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, old, new, told):
    path = tmp_path / "thresholds.yaml"
    path.write_text(GOOD)
    assert read_thresholds(str(path)).bounds("deu_Latn")["words"].max == 90
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=told) as caught:
        read_thresholds(str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot read the thresholds: No such file"):
        find_thresholds(str(tmp_path / "nothing.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the thresholds"):
        find_thresholds(str(tmp_path / "bytes.yaml"))


def test_the_hash_is_of_the_bounds_alone(tmp_path):
    path = tmp_path / "thresholds.yaml"
    hashes = []
    for text in (GOOD, GOOD.replace("mean: 60.5", "mean: 61"), "# a word\n" + GOOD, GOOD.replace("max: 90", "max: 91")):
        path.write_text(text)
        hashes.append(read_thresholds(str(path)).hash)
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


def test_the_annotators_that_a_file_needs(tmp_path):
    path = tmp_path / "thresholds.yaml"
    path.write_text(GOOD.replace("words: {min: 50}", "unsafe_score: {max: 0.5}"))
    assert needs(read_thresholds(str(path))) == {"language", "quality", "safety"}
    assert (
        find_thresholds("none") is None and find_thresholds("shipped").hash == find_thresholds(str(SHIPPED_FILE)).hash
    )


def test_scripts_are_those_of_the_column():
    from annotators.language import SCRIPTS as OF_LETTERS

    assert set(SCRIPTS) <= set(OF_LETTERS)
    assert script_of("zho_Hant") == script_of("zho_Hans") == "Hani" and script_of("deu_Latn") == "Latn"
