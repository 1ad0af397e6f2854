import itertools
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
import xxhash
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import words
from pipelines.dedup import kernels, stage
from pipelines.dedup.stage import run
from pipelines.sidecars import id_array
from schemas.errors import DataError
from schemas.hashing import document_id, scramble
from schemas.job import Job, Output
from schemas.tables import read_table, write_table

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")

# ------------------------------------------------------------------------------------------------------- shingles


def words_of(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text).lower()
    alone = r"[\p{Han}\p{Hiragana}\p{Thai}&&[\p{L}\p{M}\p{N}]]"
    return regex.findall(rf"(?V1){alone}|(?:(?!{alone})[\p{{L}}\p{{M}}\p{{N}}])+", text)


def shingle_sets(texts: list[str], ngram: int) -> list[list[int]]:
    hashes, counts = kernels.shingles(kernels.split_words(texts), ngram)
    return [part.tolist() for part in np.split(hashes, np.cumsum(counts)[:-1])]


letters = st.text(alphabet="abÀé̈ 漢か.\n,กี7한" + "𝒳𠀀", max_size=40)


@settings(max_examples=80)
@given(st.lists(letters, min_size=1, max_size=8), st.integers(1, 4))
def test_shingles_are_the_ngrams_of_the_words(texts: list[str], ngram: int) -> None:
    names: dict[tuple[str, ...], int] = {}
    for text, hashes in zip(texts, shingle_sets(texts, ngram)):
        found = words_of(text)
        spaceless = sum(bool(regex.fullmatch(r"[\p{Han}\p{Hiragana}\p{Thai}]", word)) for word in found)
        size = 2 * ngram if 2 * spaceless > len(found) else ngram
        size = min(size, len(found))
        expected = [tuple(found[begin : begin + size]) for begin in range(len(found) - size + 1)] if found else []
        assert len(hashes) == len(expected)
        for name, number in zip(expected, hashes):
            assert names.setdefault(name, number) == number
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("text", ["東京都", "ひらが", "カタカ", "ไทย", "ລາວ", "កខគ", "မြန", "བཡག"])
def test_every_character_of_scripts_without_spaces_is_a_word(text: str) -> None:
    found = words.split([text, "a b"], str)
    assert found.lengths.tolist() == [3, 2]
    assert found.spaceless_counts().tolist() == [3, 0]


def test_shingles_do_not_depend_on_neighbours_or_length() -> None:
    draw = random.Random(1)
    long = " ".join(draw.choice(["alpha", "beta", "gámma", "δέλτα"]) + str(draw.randrange(99)) for _ in range(60_000))
    texts = ["short one", long, "another short text with some words"]
    assert shingle_sets(texts, 5) == [shingle_sets([text], 5)[0] for text in texts]
    assert len(shingle_sets([long], 5)[0]) == len(words_of(long)) - 4


def test_exact_keys_fold_white_space_and_normal_forms_only() -> None:
    texts = ["caf\u00e9  au\n lait ", "cafe\u0301 au lait", "Café au lait", "café au, lait"]
    keys = kernels.exact_keys(texts)
    assert (keys[0] == keys[1]).all()
    assert len({tuple(key) for key in keys.tolist()}) == 3


@settings(max_examples=200)
@given(
    st.lists(
        st.text(st.sampled_from("ab\u00e9e\u0301 \t\n\x0b\x1c\x1f\x85\xa0\u1680\u2003\u2019\u2028\u202f\u3000\u3001")),
        max_size=5,
    )
)
def test_exact_keys_are_those_of_words_and_single_spaces(texts: list[str]) -> None:
    plain = [xxhash.xxh3_128_digest(" ".join(unicodedata.normalize("NFC", text).split()).encode()) for text in texts]
    assert id_array(kernels.exact_keys(texts)).to_pylist() == plain


# -------------------------------------------------------------------------------------------------------- MinHash


def pairs_of_similarity(similarity: float, pairs: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shingle hashes of 2 * `pairs` sets whose unions have `size` elements; sets 2i and 2i + 1 are a pair."""
    shared = round(size * similarity)
    alone = (size - shared) // 2
    draws = scramble(np.arange(pairs * size, dtype=np.uint64) + np.uint64(seed << 32)).reshape(pairs, size)
    first, second = draws[:, : shared + alone], np.delete(draws, np.s_[shared : shared + alone], axis=1)
    sets = [part for pair in zip(first, second) for part in pair]
    return np.concatenate(sets), np.array([len(part) for part in sets])


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_the_estimate_is_as_good_as_that_of_datasketch(similarity: float) -> None:
    pairs, maps = 150, 128
    hashes, counts = pairs_of_similarity(similarity, pairs, 200, 1)
    ours = kernels.signatures(hashes, counts, kernels.permutations(0, maps))
    theirs = MinHash.bulk(
        [[number.tobytes() for number in part] for part in np.split(hashes, np.cumsum(counts)[:-1])],
        num_perm=maps,
    )
    error = np.sqrt(similarity * (1 - similarity) / maps)
    estimates = (ours[::2] == ours[1::2]).mean(axis=1)
    oracle = np.array([first.jaccard(second) for first, second in zip(theirs[::2], theirs[1::2])])
    assert abs(estimates.mean() - similarity) < 4 * error / np.sqrt(pairs)
    assert estimates.std() == pytest.approx(error, rel=0.25)
    assert estimates.std() < 1.3 * oracle.std()


@pytest.mark.parametrize(
    ("bands", "rows", "published"),
    [(14, 8, (0.21, 0.57, 0.92, 1.0)), (26, 11, (0.09, 0.41, 0.90, 1.0)), (20, 13, (0.03, 0.18, 0.68, 1.0))],
)
def test_candidates_follow_the_published_curves(bands: int, rows: int, published: tuple[float, ...]) -> None:
    pairs = 500
    for similarity, expected in zip((0.6, 0.7, 0.8, 0.9), published):
        hashes, counts = pairs_of_similarity(similarity, pairs, 200, 2)
        signature = kernels.signatures(hashes, counts, kernels.permutations(3, bands * rows))
        keys = kernels.band_keys(signature, bands, [""] * len(counts))
        recall = (keys[::2] == keys[1::2]).all(axis=2).any(axis=1).mean()
        exact = 1 - (1 - similarity**rows) ** bands
        assert exact == pytest.approx(expected, abs=0.015)
        assert abs(recall - exact) < 4 * np.sqrt(exact * (1 - exact) / pairs) + 1 / pairs


def test_signatures_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = scramble(np.arange(5000, dtype=np.uint64))
    counts = np.array([1, 63, 1, 64, 128, 2000, 1, 2742])
    maps = kernels.permutations(0, 16)
    whole = kernels.signatures(hashes, counts, maps)
    monkeypatch.setattr(kernels, "MINHASH_BLOCK", 64)
    assert (kernels.signatures(hashes, counts, maps) == whole).all()
    values = (hashes >> np.uint64(32)).astype(np.uint64)
    for text, part in enumerate(np.split(values, np.cumsum(counts)[:-1])):
        for number in (0, 15):
            a, b = int(maps[0][number]), int(maps[1][number])
            assert whole[text, number] == min((a * x + b) % 2**32 for x in part.tolist())


def test_texts_of_one_shingle_are_told_apart_by_all_of_its_bits() -> None:
    hashes = np.array([5 << 32 | 1, 5 << 32 | 2, 5 << 32 | 2, 5 << 32 | 3, 9], np.uint64)
    assert kernels.lone_shingles(hashes, np.array([1, 2, 2])).tolist() == [5 << 32 | 1, 5 << 32 | 2, 0]
    assert kernels.lone_shingles(hashes[:0], np.array([], np.int64)).tolist() == []


def test_documents_of_one_word_each_are_all_kept(make_job: Callable[..., Job]) -> None:
    # The upper halves of these two hashes are equal: found by trying.
    first, second = colliding_words()
    shard = [{"text": word, "path": str(number)} for number, word in enumerate([first, second, first.upper()])]
    assert run(make_job([shard], {})).counts == {"documents": 3, "kept": 2, "dropped": 1, "not_judged": 0}


def colliding_words() -> tuple[str, str]:
    seen: dict[int, str] = {}
    for block in itertools.count():
        names = [f"w{number}" for number in range(block * 20_000, (block + 1) * 20_000)]
        hashes, _ = kernels.shingles(kernels.split_words(names), 5)
        for name, upper in zip(names, (hashes >> np.uint64(32)).tolist()):
            if upper in seen:
                return seen[upper], name
            seen[upper] = name
    raise AssertionError


def test_salted_bands_never_meet() -> None:
    signature = np.repeat(np.arange(16, dtype=np.uint32)[None], 3, axis=0)
    keys = kernels.band_keys(signature, 4, ["eng_Latn", "deu_Latn", "eng_Latn"])
    assert (keys[0] == keys[2]).all()
    assert not (keys[0] == keys[1]).all(axis=1).any()
    same_rows = kernels.band_keys(np.zeros((1, 16), np.uint32), 4, [""])[0]
    assert len({tuple(key) for key in same_rows.tolist()}) == 4


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 40)), max_size=80), st.integers(1, 5))
def test_a_bucket_is_thinned_without_losing_anyone(found: list[tuple[int, int, int]], most: int) -> None:
    keys = np.array(sorted(set(found)), kernels.KEY)
    left, edges = kernels.thin(keys[::-1].copy(), most)
    for key in {(high, low) for high, low, _ in found}:
        everyone = sorted(document for high, low, document in set(found) if (high, low) == key)
        stays = sorted(int(k["document"]) for k in left if (k["high"], k["low"]) == key)
        assert stays == everyone[:most]
    rest = Counter((k[0], k[1]) for k in set(found))
    assert len(edges) == sum(max(0, count - most) for count in rest.values())
    for edge in edges:
        centre, other, sure = edge.tolist()
        assert any(
            {(high, low, centre), (high, low, other)} <= set(found) and sure == low % 2
            for high in range(3)
            for low in range(4)
        )


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.8, 0.9])
@pytest.mark.parametrize("permutations", [32, 112, 128])
def test_bands_and_rows_are_those_of_datasketch(threshold: float, permutations: int) -> None:
    oracle = MinHashLSH(threshold=threshold, num_perm=permutations)
    assert kernels.banding(threshold, permutations) == (oracle.b, oracle.r)


def test_one_address_has_many_spellings() -> None:
    same = ["http://Example.org:80/a?q=1#top", "https://example.ORG/a/?q=1", " HTTPS://example.org:443/a?q=1"]
    others = [
        "https://example.org/a?q=2",
        "https://example.org/A?q=1",
        "https://example.org:8080/a?q=1",
        "http://[",
        "x",
    ]
    keys = [tuple(key) for key in kernels.address_keys([*same, *others, None, ""]).tolist()]
    assert len(set(keys[:3])) == 1
    assert len(set(keys[2:8])) == 6
    assert keys[8] == keys[9] == (0, 0)


def test_partitions_are_ranges_that_nest() -> None:
    keys = np.zeros(5000, kernels.KEY)
    keys["high"] = scramble(np.arange(5000, dtype=np.uint64))
    for few, many in ((1, 4), (4, 12), (5, 4096)):
        coarse, fine = kernels.partition(keys, few), kernels.partition(keys, many)
        assert coarse.max() == few - 1
        assert (fine * np.uint64(few) // np.uint64(many) <= coarse).all()
        assert (coarse <= ((fine + np.uint64(1)) * np.uint64(few) - np.uint64(1)) // np.uint64(many)).all()


# ---------------------------------------------------------------------------------------------------------- stage


class UnionFind(dict[str, str]):
    def find(self, item: str) -> str:
        self.setdefault(item, item)
        while self[item] != item:
            item = self[item]
        return item

    def join(self, first: str, second: str) -> None:
        self[self.find(second)] = self.find(first)


def prose(seed: int, words: int = 120) -> str:
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(400)]
    return " ".join(draw.choices(vocabulary, k=words))


def corpus() -> list[list[dict]]:
    """Three shards of 30 documents. Texts 0 to 9 come back in every shard: as a copy, as a near-copy."""
    shards = []
    for shard in range(3):
        documents = []
        for number in range(30):
            text = prose(number if number < 10 else 1000 * (shard + 1) + number)
            if number < 10 and shard == 1:
                text = text.replace(" ", "\n\t", 3)
            if number < 10 and shard == 2:
                text += " with a tail"
            documents.append({"text": text, "path": f"{shard}/{number}", "date": f"20{20 - shard}-01-01"})
        shards.append(documents)
    shards[2].append({"text": "...", "path": "2/dots"})
    shards[2].append({"text": "", "path": "2/empty"})
    shards.append([{"text": "a text on its own", "path": "3/alone"}])
    return shards


def decisions(job: Job, output: Output) -> Iterator[dict]:
    for entry in output.files:
        yield from read_table(f"{job.output}/{entry.path}").to_pylist()


def by_path(shards: list[list[dict]], job: Job, output: Output) -> dict[str, dict]:
    paths = {document_id(d.get("source", "test"), d["path"], ""): d["path"] for shard in shards for d in shard}
    rows = {paths[row["document_id"]]: row for row in decisions(job, output)}
    for row in rows.values():
        row["cluster"], row["survivor"] = paths[row["cluster_id"]], paths[row["survivor_id"]]
    return rows


def file_bytes(job: Job) -> dict[str, bytes]:
    return {str(path.relative_to(job.output)): path.read_bytes() for path in Path(job.output).rglob("*.*")}


def test_stage_keeps_the_best_of_every_cluster(make_job: Callable[..., Job]) -> None:
    shards = corpus()
    job = make_job(shards, {})
    output = run(job)
    rows = by_path(shards, job, output)
    assert len(rows) == 93
    for number in range(10):
        for shard, reasons in ((0, ["near_duplicate"]), (1, ["near_duplicate"]), (2, [])):
            row = rows[f"{shard}/{number}"]
            assert row["reasons"] == reasons
            assert row["keep"] == (not reasons)
            assert row["survivor"] == f"2/{number}"  # the longest
            assert row["cluster_size"] == 3
            assert row["cluster_id"] == min(document_id("test", f"{i}/{number}", "") for i in range(3))
    for path, row in rows.items():
        if int(path[2:] if path[2:].isdigit() else 99) >= 10:
            assert (row["keep"], row["reasons"], row["cluster_size"]) == (True, [], 1)
            assert row["cluster"] == row["survivor"] == path
    assert output.counts == {"documents": 93, "kept": 73, "dropped": 20, "not_judged": 0}
    assert output.reasons == {"exact_duplicate": 0, "near_duplicate": 20}
    assert output.extra == {"clusters_of_3": 10}
    assert [entry.path for entry in output.files] == [f"decisions/0000{shard}.parquet" for shard in range(4)]
    assert sorted(path.name for path in Path(job.output).iterdir()) == ["decisions"]


def test_stage_ranks_by_source_then_quality_then_date(make_job: Callable[..., Job]) -> None:
    text = prose(1)
    shards = [
        [
            {"text": text, "path": "worse", "quality": 0.5, "source": "good", "date": "1999"},
            {"text": text, "path": "late", "quality": 0.75, "source": "good", "date": "2021"},
            {"text": text, "path": "undated", "quality": 0.75, "source": "good"},
        ],
        [
            {"text": text, "path": "early", "quality": 0.75, "source": "good", "date": "2020"},
            {"text": text + " and more", "path": "poor", "quality": 1.0, "source": "bad"},
        ],
    ]
    sources = [{"name": "good", "path": ".", "priority": 1}, {"name": "bad", "path": "."}]
    job = make_job(shards, {"sources": sources})
    output = run(job)
    rows = by_path(shards, job, output)
    assert {row["survivor"] for row in rows.values()} == {"early"}
    assert rows["poor"]["reasons"] == ["near_duplicate"]
    assert rows["late"]["reasons"] == rows["undated"]["reasons"] == rows["worse"]["reasons"] == ["exact_duplicate"]
    assert output.extra == {"clusters_of_5_to_99": 1}


def test_stage_leaves_dropped_documents_and_other_languages_alone(make_job: Callable[..., Job]) -> None:
    text, near = prose(1), prose(1) + " tail"
    shards = [
        [
            {"text": near, "path": "dropped", "keep": False, "language": "eng_Latn"},
            {"text": text, "path": "english", "keep": True, "language": "eng_Latn"},
            {"text": near, "path": "german", "keep": True, "language": "deu_Latn"},
        ],
        [{"text": text, "path": "copy", "keep": True, "language": "eng_Latn"}],
    ]
    job = make_job(shards, {})
    output = run(job)
    rows = by_path(shards, job, output)
    assert rows["dropped"]["keep"] and rows["dropped"]["cluster_size"] == 1
    assert rows["german"]["keep"] and rows["german"]["cluster_size"] == 1
    assert {rows["english"]["survivor"], rows["copy"]["survivor"]} == {rows["copy"]["survivor"]}
    assert output.counts == {"documents": 4, "kept": 2, "dropped": 1, "not_judged": 1}
    assert output.reasons == {"exact_duplicate": 1, "near_duplicate": 0}


@pytest.mark.parametrize(
    ("exact", "near", "dropped"), [(True, False, {"copy"}), (False, True, {"copy", "near"}), (False, False, set())]
)
def test_stage_does_what_the_recipe_says(
    make_job: Callable[..., Job], exact: bool, near: bool, dropped: set[str]
) -> None:
    text = prose(1)
    shard = [
        {"text": text, "path": "first", "date": "2000"},
        {"text": text, "path": "copy"},
        {"text": text.rsplit(" ", 1)[0], "path": "near"},
    ]
    job = make_job([shard], {"dedup": {"exact": exact, "near": near}})
    rows = by_path([shard], job, run(job))
    assert {path for path, row in rows.items() if not row["keep"]} == dropped
    assert {path for path, row in rows.items() if row["reasons"] == ["exact_duplicate"]} == {"copy"} & (
        dropped if exact else set()
    )


def test_scope_of_a_source_compares_within_sources(make_job: Callable[..., Job]) -> None:
    text = prose(1)
    shards = [
        [
            {"text": text, "path": "a1", "source": "a"},
            {"text": text + " tail", "path": "a2", "source": "a"},
            {"text": text, "path": "b1", "source": "b"},
        ],
        [{"text": text, "path": "b2", "source": "b"}],
    ]
    sources = [{"name": "a", "path": "."}, {"name": "b", "path": "."}]
    job = make_job(shards, {"sources": sources, "dedup": {"scope": "source"}})
    rows = by_path(shards, job, run(job))
    assert {path: row["cluster_size"] for path, row in rows.items()} == {"a1": 2, "a2": 2, "b1": 2, "b2": 2}
    assert rows["a1"]["survivor"] == "a2" and rows["b1"]["survivor"] == rows["b2"]["survivor"]


def test_documents_of_one_address_are_duplicates_if_asked(make_job: Callable[..., Job]) -> None:
    shards = [
        [
            {"text": prose(1), "path": "1", "url": "http://example.org/page"},
            {"text": prose(2, 200), "path": "2", "url": "https://EXAMPLE.org/page/"},
            {"text": prose(3), "path": "3", "url": "https://example.org/other"},
            {"text": prose(4), "path": "4"},
            {"text": prose(5), "path": "5", "url": ""},
            {"text": prose(6), "path": "7", "url": ""},
        ],
        [{"text": prose(2, 200), "path": "6", "url": "https://example.org/page", "date": "1999"}],
    ]
    job = make_job(shards, {"dedup": {"urls": True, "verify": 0.8}})
    output = run(job)
    rows = by_path(shards, job, output)
    assert {path for path, row in rows.items() if row["keep"]} == {"3", "4", "5", "6", "7"}
    assert rows["1"]["reasons"] == ["same_url"]
    assert rows["2"]["reasons"] == ["exact_duplicate", "same_url"]
    assert output.reasons == {"exact_duplicate": 1, "near_duplicate": 0, "same_url": 2}
    plain = make_job(shards, {})
    assert run(plain).counts["kept"] == 6


def test_verified_clusters_hold_what_is_similar(make_job: Callable[..., Job]) -> None:
    draw = random.Random(3)
    shards: list[list[dict]] = [[], []]
    for family in range(30):
        base = prose(100 + family, 80).split()
        for copy in range(6):
            edited = [draw.choice(base) if draw.random() < copy * 0.02 else word for word in base]
            shards[copy % 2].append({"text": " ".join(edited), "path": f"{family}/{copy}"})
    texts = {d["path"]: d["text"] for shard in shards for d in shard}
    sets = {path: set(shingle_sets([text], 5)[0]) for path, text in texts.items()}

    def jaccard(one: str, other: str) -> float:
        return len(sets[one] & sets[other]) / len(sets[one] | sets[other])

    job = make_job(shards, {"dedup": {"bands": 60, "rows": 3, "verify": 0.5}})
    rows = by_path(shards, job, run(job))
    oracle = UnionFind()
    for one, other in itertools.combinations(sorted(texts), 2):
        if jaccard(one, other) >= 0.5:
            oracle.join(one, other)
    clusters = {path: oracle.find(path) for path in texts}
    for one, other in itertools.combinations(sorted(texts), 2):
        assert (rows[one]["cluster"] == rows[other]["cluster"]) == (clusters[one] == clusters[other])
    loose = make_job(shards, {"dedup": {"bands": 60, "rows": 3}})
    assert run(loose).counts["kept"] < sum(row["keep"] for row in rows.values())


def test_a_text_in_no_known_language_may_be_a_copy_of_one_in_any(make_job: Callable[..., Job]) -> None:
    text = prose(1)
    shard = [
        {"text": text + " tail", "path": "english", "language": "eng_Latn"},
        {"text": text + " end", "path": "unknown", "language": "other"},
        {"text": prose(2), "path": "english 2", "language": "eng_Latn"},
        {"text": prose(2) + " end", "path": "german 2", "language": "deu_Latn"},
    ]
    for section, kept in (({"verify": 0.5}, 3), ({}, 4)):
        assert run(make_job([shard], {"dedup": section})).counts["kept"] == kept


def test_rounds_of_stars_decide_as_one_machine_does(make_job: Callable[..., Job]) -> None:
    one, rounds = make_job(corpus(), {}), make_job(corpus(), {"dedup": {"component_memory": 0}})
    assert run(one).files == run(rounds).files
    assert file_bytes(one) == file_bytes(rounds)


def test_a_run_that_was_stopped_goes_on_after_its_last_step(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = make_job(corpus(), {}), make_job(corpus(), {})
    expected = run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "decide", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "find_pairs", lambda *arguments: 1 / 0)  # is not run again
        assert run(stopped) == expected
    assert file_bytes(whole) == file_bytes(stopped)


def test_stage_gives_the_same_for_any_order_of_shards(make_job: Callable[..., Job]) -> None:
    shards = corpus()
    job = make_job(shards, {})
    turned = make_job([shard[::-1] for shard in reversed(shards)], {})
    first, second = (sorted(decisions(each, run(each)), key=lambda row: row["document_id"]) for each in (job, turned))
    assert first == second


@pytest.mark.slow
def test_stage_writes_the_same_bytes_with_two_workers(make_job: Callable[..., Job]) -> None:
    one, two = make_job(corpus(), {}), make_job(corpus(), {}, *TWO_WORKERS)
    assert run(one) == run(two)
    assert file_bytes(one) == file_bytes(two)


def test_stage_names_a_sidecar_of_other_documents(make_job: Callable[..., Job]) -> None:
    job = make_job([[{"text": "one", "path": "1", "keep": True}, {"text": "two", "path": "2", "keep": True}]], {})
    table = read_table(f"{job.inputs['filter']}/decisions/00000.parquet")
    write_table(job.inputs["filter"], "decisions/00000.parquet", pa.concat_tables([table.slice(1), table.slice(0, 1)]))
    with pytest.raises(DataError, match=r"decisions/00000\.parquet: row 0 of the label sidecar is of another document"):
        run(job)
