import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.recipe import Recipe, check_recipe, load_recipe, training_of

GOOD = """\
name: small
sources:
  - name: docs
    path: documents
filter:
  language_score: 0.4
  rules:
    words: {min: 10}
pretrain:
  model: qwen3-0.6b
  stages:
    - name: s1
      tokens: 1e6
      sequence_length: 256
      batch_size: 4
      learning_rate: {peak: 3e-4, end: 1e-5}
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text=GOOD):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_a_good_recipe_loads_and_its_paths_are_relative_to_it(recipe, tmp_path):
    loaded = load_recipe(recipe())
    assert loaded.sources[0].path == str(tmp_path / "documents")
    assert loaded.pretrain.stages[0].tokens == 1_000_000
    assert loaded.pretrain.stages[0].learning_rate.peak == 3e-4  # YAML 1.1 would call it text


def test_a_recipe_without_training_says_so_where_one_is_needed(recipe):
    loaded = load_recipe(recipe())
    assert training_of(loaded) is loaded.pretrain
    with pytest.raises(ConfigError, match="no section `pretrain`"):
        training_of(loaded.model_copy(update={"pretrain": None}))


def test_the_resolved_recipe_loads_to_the_same_recipe(recipe, tmp_path):
    loaded = load_recipe(recipe())
    again = tmp_path / "resolved.yaml"
    again.write_text(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False))
    assert load_recipe(again) == loaded


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("language_score: 0.4", "language_scor: 0.4", 6, ["filter.language_scor", "unknown key", "language_score"]),
        ("language_score: 0.4", "language_score: 1.4", 6, ["filter.language_score", "1.4", "1"]),
        ("language_score: 0.4", "language_score: high", 6, ["filter.language_score", "number", "'high'"]),
        ("words: {min: 10}", "words: {min: 10, max: 3}", 8, ["filter.rules.words", "above max"]),
        ("words: {min: 10}", "wards: {min: 10}", 5, ["filter", "unknown label column 'wards'", "words"]),
        ("tokens: 1e6", "tokens: -1", 13, ["pretrain.stages.0.tokens", "greater than 0", "-1"]),
        ("tokens: 1e6", "token: 1", 13, ["pretrain.stages.0.token", "unknown key", "tokens"]),
        ("qwen3-0.6b", "qwen3-0.5b", 10, ["pretrain.model", "'qwen3-0.6b'", "'qwen3-0.5b'"]),
        ("qwen3-0.6b", "{layers: 3}", 10, ["pretrain.model", "missing"]),
        ("qwen3-0.6b", "{layer: 3}", 10, ["pretrain.model.layer:", "unknown key", "hidden_size", "layers"]),
        ("qwen3-0.6b", "{path: q, layers: 3}", 10, ["pretrain.model.layers", "unknown key; allowed here: path"]),
        ("qwen3-0.6b", "{path: 3}", 10, ["pretrain.model.path", "string", "3"]),
        ("    path: documents\n", "", 3, ["sources.0", "needs a `path`"]),
        ("name: small", "name: Small Run", 1, ["name", "pattern"]),
        ("name: small", "name: [", 3, ["not valid YAML"]),
        ("language_score: 0.4", "language_score: 0.4\n  language_score: 0.5", 7, ["twice"]),
        ("peak: 3e-4, ", "", 9, ["peak"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_file_line_key_and_what_is_allowed(recipe, old, new, line, words):
    assert old in GOOD
    path = recipe(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_model_to_train_on_from_brings_its_tokenizer(recipe):
    path = recipe(GOOD.replace("qwen3-0.6b", "{path: ../qwen3}"))
    folder = str(path.parent / "../qwen3")
    loaded = load_recipe(path)
    assert (loaded.pretrain.model.path, loaded.tokenizer.path) == (folder, folder)
    assert loaded.pretrain.stages[0].rope_base is None  # its own
    other = load_recipe(path, ("tokenizer.path=mine",))
    assert (other.pretrain.model.path, other.tokenizer.path) == (folder, str(path.parent / "mine"))


def test_a_file_that_is_no_recipe(tmp_path):
    for content in (b"", b"- a\n- b\n", b"\xff\xfe\x00", b"just text"):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            load_recipe(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_recipe(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("filter.language_score=0.5", lambda r: r.filter.language_score == 0.5),
        ("pretrain.stages.s1.tokens=2e6", lambda r: r.pretrain.stages[0].tokens == 2_000_000),
        ("pretrain.stages.0.batch_size=8", lambda r: r.pretrain.stages[0].batch_size == 8),
        ("dedup.near=false", lambda r: r.dedup.near is False),
        ("filter.languages=[eng_Latn]", lambda r: r.filter.languages == ["eng_Latn"]),
    ],
)
def test_overrides(recipe, setting, read):
    assert read(load_recipe(recipe(), (setting,)))


@pytest.mark.parametrize("setting", ["filter", "=3", "pretrain.stages.s9.tokens=1", "name.x=1", "filter.nothing=1"])
def test_bad_overrides_are_configuration_errors(recipe, setting):
    with pytest.raises(ConfigError):
        load_recipe(recipe(), (setting,))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Recipe.model_fields, "rules", "path", "stages", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_value_is_a_recipe_or_a_configuration_error(tmp_path_factory, value):
    node = yaml.compose("a: 1")
    try:
        check_recipe(value if isinstance(value, dict) else {"name": value}, tmp_path_factory.getbasetemp(), "r", node)
    except ConfigError as error:
        assert "\n" not in str(error)
