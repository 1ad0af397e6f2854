import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from annotators.language import label
from annotators.language_model import LENGTH_POWER, LanguageModel, load, probabilities, save
from annotators.language_scores import evaluate
from annotators.language_train import LOOK_ALIKES, Lines, _features, of_fasttext, read_lines, train, train_group
from annotators.ngrams import characters, fold, normal_form, words
from schemas.errors import ConfigError, DataError
from schemas.languages import LANGUAGES

STEMS = {
    "deu_Latn": "haus wald der die schnell gegangen über straße",
    "rus_Cyrl": "дом лес быстро пошёл через улицу они",
    "pes_Arab": "خانه جنگل رفت خیابان کتاب می‌خواند است",
    "prs_Arab": "خانه جنگل رفت سرک کتاب میخواند است",
    "ha_Latn": "gida daji ya tafi da sauri titi littafi",
}


@pytest.fixture(scope="module")
def lines() -> Lines:
    dice = random.Random(3)
    rows = [(label, " ".join(dice.choices(stems.split(), k=7))) for label, stems in STEMS.items() for _ in range(80)]
    dice.shuffle(rows)
    return Lines([text for _, text in rows], np.array([label for label, _ in rows]), np.array(["made"] * len(rows)))


@pytest.fixture(scope="module")
def fasttext_model(lines: Lines, tmp_path_factory: pytest.TempPathFactory) -> object:
    import fasttext

    file = tmp_path_factory.mktemp("model") / "lines.txt"
    rows = (f"__label__{label} {normal_form(text)}\n" for label, text in zip(lines.labels, lines.texts))
    file.write_text("".join(rows), "utf-8")
    settings = {"dim": 8, "epoch": 8, "lr": 0.5, "minn": 1, "maxn": 5, "bucket": 1 << 21, "minCount": 10}
    return fasttext.train_supervised(str(file), thread=1, seed=1, verbose=0, **settings)


@pytest.fixture(scope="module")
def model(lines: Lines, fasttext_model: object) -> LanguageModel:
    first = of_fasttext(fasttext_model, lines)
    members = LOOK_ALIKES[1].split()
    group = train_group(lines, members, np.array([first.labels.index(name) for name in members]))
    return LanguageModel(first.labels, first.buckets, first.vectors, first.end, first.output, (group,))


def test_the_first_step_gives_the_probabilities_of_fasttext(fasttext_model: object) -> None:
    first = of_fasttext(fasttext_model)
    texts = ["der Wald", "новый ДОМ", "gida haus дом", "خانه", "Straße 12, über-alles", "𐌰𐌱 中文"]
    found = words(fold(characters("\n".join(texts))))
    owner = np.searchsorted(np.cumsum([len(text) + 1 for text in texts]), found.begins, side="right")
    members = csr_matrix((np.ones(len(owner), np.float32), (owner, found.word)), (len(texts), len(found.keys)))
    table = probabilities(first, found, members)
    names, scores = fasttext_model.predict([normal_form(text) for text in texts], k=len(first.labels))  # type: ignore[attr-defined]
    for row, (ranked, values) in enumerate(zip(names, scores)):
        expected = {name.removeprefix("__label__"): value for name, value in zip(ranked, values)}
        assert table[row] == pytest.approx([expected[name] for name in first.labels], abs=3e-5)


def test_a_saved_model_answers_alike(model: LanguageModel, lines: Lines, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save(model, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = load(tmp_path / "a.npz")
    before, after = (next(label(one, lines.texts)).documents for one in (model, again))
    assert (before.label == after.label).all()
    assert np.quantile(np.abs(before.score - after.score), [0.5, 1]).tolist() < [0.001, 0.1]  # eight bits


def test_look_alikes_are_told_apart_by_the_second_step(model: LanguageModel, lines: Lines) -> None:
    found = evaluate(model, lines)
    assert found.macro_f1 > 0.99
    assert found.accepted == 0
    assert {score.label for score in found.scores} == {*STEMS, "other"} - {"ha_Latn"}
    assert sum(count for _, _, count in found.confusions) == round((1 - found.accuracy) * len(lines.texts))


def test_a_missing_version_of_a_text_says_nothing_against_its_language() -> None:
    dice = random.Random(5)
    endings = {"hin_Deva": "है", "awa_Deva": "हवे", "mai_Deva": "अछि"}
    letters = [chr(code) for code in range(ord("क"), ord("ह"))]
    names = [["".join(dice.choices(letters, k=6)) for _ in range(12)] for _ in range(60)]  # of sixty articles
    articles = [[" ".join(dice.choices(words, k=20)) for _ in range(5)] for words in names]
    held_back = 20  # articles that the last language has no version of
    rows = [
        (language, f"{line} {ending if dice.random() < 0.6 else ''}")
        for language, ending in endings.items()
        for article in articles[held_back if language == "mai_Deva" else 0 :]
        for line in article
    ]
    labels = np.array([language for language, _ in rows])
    lines = Lines([text for _, text in rows], labels, np.array(["news"] * len(rows)))
    group = train_group(lines, list(endings), np.arange(3))
    unseen = _features([f"{line} {endings['mai_Deva']}" for article in articles[:held_back] for line in article])
    sizes = np.asarray(unseen.sum(axis=1))
    scores = unseen[:, group.buckets] @ group.weights / sizes**LENGTH_POWER + group.bias
    assert (scores.argmax(axis=1) == 2).all()


def test_a_text_has_no_label_of_another_script(model: LanguageModel) -> None:
    texts = ["xqz wvk jjq zzx qqq vvv", "жжж щщщ ъъъ ффф", "ککک ژژژ ڤڤڤ ححح", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"]
    given = next(label(model, texts)).documents.label
    for text, number in zip(texts, given):
        name = [*LANGUAGES, "other", "und"][number]
        assert name == "other" or {"x": "Latn", "ж": "Cyrl", "ک": "Arab"}[text[0]] == name[4:]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", b"\x93NUMPY"])
def test_what_is_no_model_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not a language model") as error:
        load(tmp_path / "bad.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("end", np.full(8, np.nan, np.float32)),
        ("end", np.zeros(3, np.float32)),
        ("end", np.array(["a"])),
        ("end", np.array([None])),
        ("labels", np.frombuffer(b"a\nb", np.uint8)),
        ("first.steps", np.zeros((4, 5), np.uint8)),
        ("first.steps", np.full((4, 5), 255, np.uint8)),
        ("first.scale", np.full(8, np.inf, np.float32)),
        ("first.scale", np.ones((2, 4), np.float32)),
        ("first.values", np.zeros(9, np.uint8)),
        ("first.values", np.frombuffer(zlib.compress(bytes(1 << 24)), np.uint8)),
        ("first.values", np.zeros(9, np.float32)),
        ("group0.members", np.array([0, 99], np.int16)),
        ("group0.bias", np.zeros(5, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(
    model: LanguageModel, tmp_path: Path, name: str, value: np.ndarray
) -> None:
    save(model, tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    assert name in arrays
    np.savez(tmp_path / "bad.npz", **(arrays | {name: value}))
    with pytest.raises(DataError, match="language model"):
        load(tmp_path / "bad.npz")


def test_bad_training_files_are_configuration_errors(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "lang": "b"}\n')
    (tmp_path / "y.parquet").write_bytes(b"nothing")
    (tmp_path / "z.jsonl").write_text("{broken\n")
    (tmp_path / "null.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": null, "label": "b"}\n')
    (tmp_path / "number.jsonl").write_text('{"text": "a", "label": 1}\n')
    for name in ("x.jsonl", "y.parquet", "z.jsonl", "absent.parquet", "null.jsonl: row 1", "number.jsonl: row 0"):
        with pytest.raises(ConfigError, match=name):
            read_lines([tmp_path / name.partition(":")[0]])


def test_too_little_to_learn_from_is_a_configuration_error() -> None:
    few = Lines(["hello world", "bonjour le monde"], np.array(["eng_Latn", "fra_Latn"]), np.array(["", ""]))
    alike = Lines(["hello world"] * 50, np.array(["eng_Latn"] * 50), np.array([""] * 50))
    for lines in (few, alike):
        with pytest.raises(ConfigError, match="at least 20 lines of at least two labels"):
            train(lines, 1, lambda step: None)


def test_labels_that_are_none_of_the_119_are_a_configuration_error() -> None:
    named = Lines(["hello world", "bonjour le monde"] * 20, np.array(["English", "French"] * 20), np.array([""] * 40))
    with pytest.raises(ConfigError, match=r"no label is one of the 119, .*English"):
        train(named, 1, lambda step: None)
