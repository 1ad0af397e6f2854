"""Lines in other languages, from trees like those of the packages and repositories they are read from."""

import random
from collections import Counter
from pathlib import Path

import pytest

from annotators import other_text
from annotators.other_text import LINES, other_lines


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


ARABIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ابتثجحخدذرزسشصضطظعغفقكلمنه")


def sentence(language: str, number: int) -> str:
    return f"{language} mbari kundu wose {'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10 % 10]} zuva {number}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    news = tmp_path / "NTREX-128"
    write(tmp_path / "DOCUMENT_IDS.tsv", *(f"article-{number // 10}" for number in range(400)))
    for code in ("sna-Latn", "deu", "mey"):
        write(news / f"newstest2019-ref.{code}.txt", *(sentence(code, number) for number in range(400)))
    for pair in ("en-rw", "rw-fr"):
        write(tmp_path / pair / "tico19-test.rw", *(sentence("kinya", number) for number in range(90)))
        write(tmp_path / pair / "tico19-test.rw.labels", *["rw"] * 90)
    pairs = tmp_path / "sna-eng"
    write(pairs / "tatoeba-test-v2021-08-07.sna", *(sentence("shona", number) for number in range(5000)))
    write(pairs / "tatoeba-test-v2021-08-07.eng", *(sentence("english", number) for number in range(100)))
    mixed = [*(sentence("ladino", number) for number in range(80)), "דאס איז אַן אַנדערע שריפֿט"]
    write(tmp_path / "lad-eng" / "tatoeba-test-v2021-08-07.lad_Latn", *mixed)
    for number in range(80):
        licence = "CC-BY-NC" if number % 2 else "CC-BY"
        pages = [f"##\n{sentence(licence, number)}\n*{number}*" for number in range(number, number + 2)]
        write(
            tmp_path / "sn" / f"{number:04}_story.md", "# A title", *pages, "##", f"* License: [{licence}]", "* Text: A"
        )
    write(tmp_path / "ki" / "0001_story.md", "# Few", "##", sentence("kikuyu", 1), "##", "* License: [CC-BY]")
    return tmp_path


def test_lines_are_of_other_languages_and_of_free_licences(folder: Path) -> None:
    chosen, beyond, rare = other_lines([folder])
    rows = [*chosen, *beyond]
    assert {label for _, label, _, _ in rows} == {"sn_Latn", "rw_Latn", "lad_Latn"}
    assert [label for _, label, _, _ in rare] == ["ki_Latn"]
    assert {licence for _, _, _, licence in rows} == {"CC-BY-SA-4.0", "CC0-1.0", "CC-BY-2.0-FR", "CC-BY-4.0"}
    texts = [text for text, _, _, _ in rows]
    assert len(set(texts)) == len(texts) and not any("CC-BY-NC" in text or "deu" in text for text in texts)
    assert sum(label == "rw_Latn" for _, label, _, _ in rows) == 90  # the same text beside two languages
    assert not any("שריפֿט" in text for text in texts)  # neither the script of its label nor of any other


def test_a_document_is_held_back_whole_and_sources_have_equal_parts(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(other_text, "LINES", 600)
    chosen, beyond, _ = other_lines([folder])
    articles = [
        {int(text.rpartition(" ")[2]) // 10 for text, _, source, _ in rows if source == "ntrex-128"}
        for rows in (chosen, beyond)
    ]
    assert articles[0] and articles[1] and not articles[0] & articles[1]
    counts = Counter(source for _, label, source, _ in chosen if label == "sn_Latn")
    assert sum(counts.values()) == 600
    stories = sum(source == "storybooks" for _, _, source, _ in [*chosen, *beyond])
    assert counts["storybooks"] <= stories  # all that there are, and of the others as much of one as of the other
    assert abs(counts["ntrex-128"] - counts["tatoeba"]) <= 1
    assert LINES > 600 and other_lines([folder])[0] == chosen


def test_seed_has_scripts_and_a_lexicon_fills_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(other_text, "LINES", 150)
    seed, lists = tmp_path / "seed", tmp_path / "gatitos"
    write(seed / "knc_Latn", *(sentence("kanuri", number) for number in range(90)))
    write(seed / "knc_Arab", *(f"كنم وروم زلال {sentence('', number).translate(ARABIC)}" for number in range(900)))
    write(seed / "arz_Arab", *(f"مصر ام الدنيا {sentence('', number).translate(ARABIC)}" for number in range(90)))
    for code in ("dyu", "kr", "aeb", "bjn-Arab"):
        words = [
            f"{code.lower()}wo{first}{second}" for first in "abcdefghijklmnopqrstuvwxyz" for second in "klmnopqrstuvwx"
        ]
        script = ARABIC if code == "bjn-Arab" else {}
        write(lists / f"{code}_en.tsv", *(f"{word.translate(script)}\tword" for word in words), "without a translation")
    write(lists / "en_dyu.tsv", *(f"english{number}\tword" for number in range(400)))
    chosen, beyond, _ = other_lines([tmp_path])
    counts = Counter((label, source) for _, label, source, _ in chosen)
    assert {label for label, _ in counts} == {"kr_Latn", "kr_Arab", "dyu_Latn", "bjn_Arab"}
    assert counts["dyu_Latn", "gatitos"] == 72  # 364 entries, five to a line
    assert counts["kr_Latn", "gatitos"] + counts["kr_Latn", "oldi-seed"] == 150
    assert all(text.count(" ") == 4 for text, _, source, _ in chosen if source == "gatitos")
    assert {source for _, _, source, _ in beyond} == {"oldi-seed"}
    assert not any("english" in text or "translation" in text for text, *_ in chosen)


def test_source_code_is_read_without_its_comments(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(other_text, "CODE_LINES", 20)
    write(tmp_path / "gnulib" / "lib" / "a.c", "/* A comment", "   of two lines.  */", "#include <stdio.h>", "")
    body = [f"  total += weights[{number}] * values[{number}];  // the sum" for number in range(40)]
    write(tmp_path / "gnulib" / "lib" / "b.c", "int", "sum (void)", "{", *body, "}")
    write(tmp_path / "go-1.20" / "src" / "os" / "x.go", *["\tif err != nil { return nil, err } // fails"] * 20)
    write(
        tmp_path / "mediawiki" / "maintenance" / "t.sql", *["-- Tables of pages", "DROP INDEX page_name ON page;"] * 20
    )
    (tmp_path / "mediawiki" / "resources" / "src" / "name.js").mkdir(parents=True)  # a folder is no file
    rows = list(other_text.code([tmp_path], random.Random(1)))
    texts = Counter(source for _, _, source, _ in rows)
    assert set(texts) == {"gnulib", "go", "mediawiki", "python-standard-library"}
    assert {label for _, label, _, _ in rows} == {"zxx"}
    for text, _, source, _ in rows:
        if source != "python-standard-library":
            assert not any(word in text for word in ("comment", "two lines", "the sum", "fails", "Tables"))
    assert any("total += weights[" in text for text, *_ in rows)
    assert rows == list(other_text.code([tmp_path], random.Random(1)))


def test_english_comes_from_definitions_and_examples(tmp_path: Path) -> None:
    gloss = 'a kettle with a long spout; "she put the kettle on the stove"; short'
    write(
        tmp_path / "wordnet" / "data.noun", "  1 The licence", f"00001 06 n 01 kettle 0 001 @ 00002 n 0000 | {gloss}  "
    )
    rows = other_text.english([tmp_path])
    assert {text for text, *_ in rows} == {"a kettle with a long spout", "she put the kettle on the stove"}
    assert {label for _, label, *_ in rows} == {"eng_Latn"} and other_text.english([]) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "other.parquet"
    monkeypatch.setattr("sys.argv", ["other_text", str(tmp_path / "absent"), "--output", str(output)])
    with pytest.raises(SystemExit, match="2"):
        other_text.main()
    assert f"{tmp_path / 'absent'}: there is no such folder" in capsys.readouterr().err and not output.exists()
