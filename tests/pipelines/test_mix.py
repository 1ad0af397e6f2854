"""Plans against bisection, against the budget, and against the order of the shards."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.mix.exclude import read_ids
from pipelines.mix.kernels import (
    cluster_classes,
    cluster_weights,
    draw_copies,
    label_weights,
    length_buckets,
    length_classes,
    named,
    solve_scale,
)
from pipelines.mix.stage import run
from schemas.cells import cell
from schemas.documents import DEDUP_DECISIONS
from schemas.errors import ConfigError, DataError
from schemas.hashing import ID, uniform
from schemas.job import Job
from schemas.languages import group
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Mixture, Recipe, check_recipe
from schemas.tables import read_table, write_table
from schemas.tokens import PLAN, TOKENS

LANGUAGES = ["eng_Latn", "deu_Latn", "jpn_Jpan", "und"]
DOMAINS = ["code", "mathematics", "news-politics"]


class Silent:
    def update(self, done, total, unit, note=""):
        assert 0 <= done <= total


def stage(name="s1", tokens=6000, mixture=None, **changes):
    base = {"sequence_length": 16, "batch_size": 2, "learning_rate": {"peak": 0.1, "end": 0.0}}
    return {"name": name, "tokens": tokens, "mixture": mixture or {}, **base, **changes}


def recipe(*stages, seed=3, **mix):
    model = {"hidden_size": 8, "intermediate_size": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 4}
    return Recipe.model_validate(
        {
            "name": "test",
            "seed": seed,
            "sources": [{"name": "web", "path": "."}, {"name": "books", "path": "."}],
            "mix": {"cell_tokens": 0, **mix},
            "pretrain": {"model": model, "stages": list(stages)},
        }
    )


def corpus(count=400, split="train", begin=0):
    rng = np.random.default_rng(begin)
    rows = []
    for i in range(begin, begin + count):
        language, domain = LANGUAGES[rng.integers(4)], DOMAINS[rng.integers(3)]
        score = float(rng.uniform(0, 4))
        rows.append(
            {
                "document_id": f"{i:016d}".encode(),
                "id": f"user-{i}",
                "split": split,
                "source": "web" if i % 3 else "books",
                "licence": None,
                "cell": cell(group(language), domain, min(3, int(score))),
                "language": language,
                "domain": domain,
                "educational_score": score,
                "text_bytes": 0,
                "tokens": [1] * int(rng.integers(1, 60)),
            }
        )
    return rows


def write_shards(folder, shards):
    files = [
        write_table(str(folder), f"tokens/{i:05d}.arrow", pa.Table.from_pylist(rows, TOKENS))
        for i, rows in enumerate(shards)
    ]
    write_manifest(str(folder), Manifest(stage="tokenize", version=1, key="k", config={}, inputs={}, files=files))
    return {"tokenize": str(folder)}


def mix(folder, shards, a_recipe):
    done = run(Job(a_recipe, write_shards(folder / "in", shards), str(folder / "out"), Silent()))
    plans = {}
    for entry in done.files:
        table = read_table(str(folder / "out" / entry.path))
        assert table.schema.equals(PLAN)
        plans[entry.path.removeprefix("plans/").removesuffix(".parquet")] = table.to_pylist()
    return done, plans


def used(plan):
    return sum(row["copies"] * row["tokens"] for row in plan)


WEIGHTS = st.lists(
    st.tuples(st.sampled_from([0.01, 0.5, 1.0, 1.5, 7.0, 1000.0]), st.integers(2, 500)), min_size=1, max_size=60
)


@given(WEIGHTS, st.floats(0.001, 0.999), st.sampled_from([0.5, 1.0, 4.0]))
def test_scale_is_that_of_bisection(documents, share, most):
    weights, tokens = (np.array(column) for column in zip(*documents))
    target = share * most * tokens.sum()
    scale = solve_scale(weights, tokens, target, most)
    assert math.isclose(np.sum(tokens * np.minimum(most, scale * weights)), target, rel_tol=1e-9)
    low, high = 0.0, most / weights.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sum(tokens * np.minimum(most, middle * weights)) < target else (low, middle)
    assert math.isclose(scale, high, rel_tol=1e-6)


@given(WEIGHTS, st.sampled_from([1.0, 4.0]))
def test_scale_beyond_the_corpus_gives_everything_all_copies(documents, most):
    weights, tokens = (np.array(column) for column in zip(*documents))
    scale = solve_scale(weights, tokens, 10.0 * most * tokens.sum(), most)
    assert np.allclose(np.minimum(most, scale * weights), most)


@given(st.lists(st.tuples(st.floats(0, 4), st.integers(2, 500)), min_size=1, max_size=60), st.integers(0, 9))
def test_copies_meet_the_target_within_one_document(documents, seed):
    expected, tokens = (np.array(column) for column in zip(*documents))
    ids = np.array([f"{i:016d}".encode() for i in range(len(tokens))], "S16")
    draws = np.random.default_rng(seed).random(len(tokens))
    target = float((expected * tokens).sum())
    copies = draw_copies(expected, tokens, target, draws, ids)
    assert set((copies - np.floor(expected)).tolist()) <= {0, 1}
    assert not (copies > np.ceil(expected)).any()
    total = int((copies * tokens).sum())
    assert target - 1e-6 * (1 + target) <= total <= target + tokens.max()
    order = np.random.default_rng(seed + 1).permutation(len(tokens))
    shuffled = draw_copies(expected[order], tokens[order], target, draws[order], ids[order])
    assert np.array_equal(shuffled, copies[order])


def test_extra_copies_come_with_the_probability_of_the_fraction():
    fraction = np.repeat([0.1, 0.5, 0.9], 4000)
    tokens = np.random.default_rng(0).integers(2, 100, len(fraction))
    ids = [f"{i:016d}".encode() for i in range(len(fraction))]
    copies = draw_copies(fraction, tokens, (fraction * tokens).sum(), uniform(ids, 1, "s"), np.array(ids, "S16"))
    assert np.allclose(copies.reshape(3, -1).mean(axis=1), [0.1, 0.5, 0.9], atol=0.02)


def test_weight_is_the_product_of_the_labels():
    rows = corpus(200)
    mixture = Mixture(
        language={"deu_Latn": 0.5},
        group={"english": 3, "other": 0},
        domain={"code": 2},
        educational={3: 10, 0: 0.1},
        source={"books": 1.5},
    )
    columns = [pa.array([row[name] for row in rows]) for name in ("cell", "language", "source")]
    expected = []
    for row in rows:
        weight = {"deu_Latn": 0.5, "eng_Latn": 3.0, "und": 0.0}.get(row["language"], 1.0)
        weight *= 2.0 if row["domain"] == "code" else 1.0
        weight *= 10.0 if row["educational_score"] >= 3 else 0.1 if row["educational_score"] < 1 else 1.0
        expected.append(weight * (1.5 if row["source"] == "books" else 1.0))
    assert np.allclose(label_weights(*columns, mixture), expected, rtol=1e-12)


def test_plan_meets_the_budget_within_the_cap(tmp_path):
    shards = [corpus(150), corpus(150, begin=150), [], corpus(30, "validation", 300)]
    mixture = {"domain": {"mathematics": 50.0, "code": 0.0}, "group": {"english": 2.0}}
    done, plans = mix(tmp_path, shards, recipe(stage(mixture=mixture), stage("s2", 900)))
    total = sum(len(row["tokens"]) + 1 for shard in shards[:2] for row in shard)
    for name, budget in (("s1", 6000), ("s2", 900)):
        plan = plans[name]
        assert budget <= used(plan) <= budget + 61
        assert math.isclose(sum(row["expected_copies"] * row["tokens"] for row in plan), budget, rel_tol=1e-5)
        assert all(
            row["copies"] in (math.floor(row["expected_copies"]), math.ceil(row["expected_copies"])) for row in plan
        )
        assert max(row["copies"] for row in plan) <= 4
        assert [(row["shard"], row["row"]) for row in plan] == sorted((row["shard"], row["row"]) for row in plan)
        for row in plan:
            document = shards[row["shard"]][row["row"]]
            assert document["split"] == "train"
            assert row["document_id"] == document["document_id"]
            assert row["id"] == document["id"]
            assert row["tokens"] == len(document["tokens"]) + 1
        summary = done.extra["stages"][name]
        assert summary["tokens"] == used(plan)
        assert summary["documents"] == sum(row["copies"] > 0 for row in plan)
        assert summary["missing"] == 0
        for shares in (summary["cells"], summary["lengths"]):
            assert math.isclose(sum(share["before"] for share in shares.values()), 1, abs_tol=1e-3)
            assert math.isclose(sum(share["after"] for share in shares.values()), 1, abs_tol=1e-3)
        here = [row for row in plan if row["cell"].startswith("english/mathematics/1")]
        share = summary["cells"]["english/mathematics/1"]
        assert math.isclose(share["after"], used(here) / used(plan), abs_tol=1e-6)
        assert math.isclose(
            share["before"],
            sum(len(r["tokens"]) + 1 for s in shards[:2] for r in s if r["cell"] == "english/mathematics/1") / total,
            abs_tol=1e-6,
        )
    assert not any("/code/" in row["cell"] for row in plans["s1"]), "weight 0 excludes"
    assert any("/code/" in row["cell"] for row in plans["s2"])
    weight = {row["document_id"]: row["expected_copies"] for row in plans["s1"]}
    for row in corpus(150):
        if row["domain"] != "code":
            expected = (50 if row["domain"] == "mathematics" else 1) * (2 if row["language"] == "eng_Latn" else 1)
            scale = done.extra["stages"]["s1"]["scale"]["all"]
            assert math.isclose(weight[row["document_id"]], min(4, scale * expected), rel_tol=1e-4)
    assert [(r["shard"], r["row"], r["copies"]) for r in plans["validation"]] == [(3, i, 1) for i in range(30)]
    assert done.counts == {"documents": 330, "train": 300, "validation": 30}


def test_copies_do_not_depend_on_the_order_of_the_shards(tmp_path):
    rows = corpus(300)
    a_recipe = recipe(stage(mixture={"group": {"english": 3.0}}), cell_tokens=500)
    _, one = mix(tmp_path / "a", [rows[:100], rows[100:]], a_recipe)
    _, two = mix(tmp_path / "b", [rows[220:], rows[:220][::-1]], a_recipe)

    def copies(plans):
        return {row["document_id"]: (row["copies"], row["expected_copies"], row["cell"]) for row in plans["s1"]}

    assert copies(one) == copies(two)
    _, other = mix(tmp_path / "c", [rows], recipe(stage(mixture={"group": {"english": 3.0}}), seed=4))
    assert copies(one) != copies(other)


def test_small_cells_are_merged_by_training_tokens_alone(tmp_path):
    train, validation = corpus(200), corpus(400, "validation", 200)
    a_recipe = recipe(stage(), stage("s2"), cell_tokens=400)
    done, plans = mix(tmp_path / "a", [train, validation], a_recipe)
    where = {}
    for name, rows in (("s1", [train]), ("s2", [train]), ("validation", [train, validation])):
        for row in plans[name]:
            where.setdefault(rows[row["shard"]][row["row"]]["cell"], set()).add(row["cell"])
    assert {name: {merged} for name, merged in done.extra["cells"].items()} == where, "one map for all plans"
    again, _ = mix(tmp_path / "b", [validation, train[::-1]], a_recipe)
    assert list(again.extra["cells"].items()) == list(done.extra["cells"].items())
    sizes = {}
    for row in train:
        (merged,) = where[row["cell"]]
        sizes[merged] = sizes.get(merged, 0) + len(row["tokens"]) + 1
    assert len(sizes) > 2
    assert all(size >= 400 for name, size in sizes.items() if name != "*/*/*")
    assert set(where[cell("english", "code", 0)]) != {cell("english", "code", 0)}


def test_length_buckets_get_their_shares(tmp_path):
    rows = corpus(400)
    lengths = {"share": 0.75, "boundary": 30, "minimum": 10}
    done, plans = mix(tmp_path, [rows], recipe(stage("s3", 8000, {"lengths": lengths})))
    assert min(row["tokens"] for row in plans["s3"]) == 10
    longer = used([row for row in plans["s3"] if row["tokens"] > 30])
    shorter = used([row for row in plans["s3"] if row["tokens"] <= 30])
    assert 6000 <= longer <= 6061
    assert 2000 <= shorter <= 2031
    buckets = done.extra["stages"]["s3"]["buckets"]
    assert buckets == {"longer": {"asked": 6000, "got": longer}, "shorter": {"asked": 2000, "got": shorter}}


@pytest.mark.parametrize("short", ["longer", "shorter"])
def test_a_bucket_fills_what_the_other_cannot(tmp_path, short):
    rows = corpus(300)
    few = [row for row in rows if (len(row["tokens"]) + 1 > 30) == (short == "longer")][:5]
    rest = [row for row in rows if (len(row["tokens"]) + 1 > 30) != (short == "longer")]
    lengths = {"share": 0.5, "boundary": 30, "minimum": 5}
    done, plans = mix(tmp_path, [few + rest], recipe(stage("s3", 8000, {"lengths": lengths})))
    summary = done.extra["stages"]["s3"]
    most = 4 * sum(len(row["tokens"]) + 1 for row in few if len(row["tokens"]) + 1 >= 5)
    assert summary["buckets"][short] == {"asked": 4000, "got": most}
    assert 8000 <= used(plans["s3"]) <= 8061
    assert summary["missing"] == 0


def test_buckets_that_no_document_fits():
    tokens = np.array([3, 9, 1, 40])
    mixture = Mixture.model_validate({"lengths": {"share": 1.0, "boundary": 20, "minimum": 5}})
    longer, shorter = length_buckets(np.array([1.0, 1.0, 1.0, 0.0]), tokens, 100, 4.0, mixture)
    assert (longer.documents.tolist(), longer.asked, longer.got) == ([], 100, 0)
    assert (shorter.documents.tolist(), shorter.asked, shorter.got) == ([1], 0, 36)


def test_a_corpus_too_small_for_the_budget_is_used_up_and_said(tmp_path):
    rows = corpus(50)
    done, plans = mix(tmp_path, [rows], recipe(stage(tokens=10**6)))
    have = 4 * sum(len(row["tokens"]) + 1 for row in rows)
    assert {row["copies"] for row in plans["s1"]} == {4}
    assert done.extra["stages"]["s1"]["tokens"] == have
    assert done.extra["stages"]["s1"]["missing"] == 10**6 - have


def test_errors_say_what_to_do(tmp_path):
    rows = corpus(20)
    with pytest.raises(DataError, match=r"no document is left to train on.*loosen the rules"):
        mix(tmp_path / "a", [corpus(5, "validation")], recipe(stage()))
    with pytest.raises(DataError, match=r"stage 's1' has nothing to train on: .* weight of 0; raise a weight"):
        mix(tmp_path / "b", [rows], recipe(stage(mixture={"source": {"web": 0, "books": 0}})))
    lengths = {"boundary": 2000, "minimum": 1000}
    with pytest.raises(DataError, match=r"has 1000 tokens or more; lower `mixture\.lengths\.minimum`"):
        mix(tmp_path / "c", [rows], recipe(stage(mixture={"lengths": lengths})))


def test_length_classes_are_powers_of_two():
    lengths = np.array([1, 2, 3, 4, 1023, 1024, 2**40 - 1, 2**40])
    assert length_classes(lengths).tolist() == [n.bit_length() - 1 for n in lengths.tolist()]


# ---------------------------------------------------------------------------------------------------------------
# Exclusion


def test_plans_are_those_of_a_corpus_without_the_excluded_documents(tmp_path, caplog):
    shards = [corpus(150), corpus(150, begin=150), corpus(60, "validation", 300)]
    out = [*range(40), *range(160, 190), 301, 305]
    ids = [f"user-{i}" if i % 2 else f"{i:016d}".encode().hex() for i in out] + ["user-x", "f" * 32]
    (tmp_path / "removed.txt").write_text("\n".join(ids))
    mixtures = ({"domain": {"code": 3.0}}, {"source": {"books": 0.0}, "lengths": {"boundary": 40, "minimum": 10}})
    stages = [stage(f"s{number}", 3000, mixture) for number, mixture in enumerate(mixtures, 1)]
    done, plans = mix(tmp_path / "a", shards, recipe(*stages, cell_tokens=300, exclude=str(tmp_path / "removed.txt")))
    gone = {f"{i:016d}".encode() for i in out}
    rest = [[row for row in rows if row["document_id"] not in gone] for rows in shards]
    without, expected = mix(tmp_path / "b", rest, recipe(*stages, cell_tokens=300))

    def copies(plan):
        return {row["document_id"]: (row["copies"], row["expected_copies"], row["cell"]) for row in plan}

    for name in ("s1", "s2", "validation"):
        assert copies(plans[name]) == copies(expected[name])
        assert not gone & set(copies(plans[name]))
    assert done.counts == {"documents": 360, "train": 230, "validation": 58, "excluded": 72, "unknown_ids": 2}
    found = {"train": 70, "validation": 2, "unknown": 2, "unknown_ids": sorted(["user-x", "f" * 32])}
    assert done.extra["excluded"] == found
    assert "mix.exclude: no document has 2 of the ids: ffff" in caplog.text
    removed = [row for rows in shards[:2] for row in rows if row["document_id"] in gone]
    usable = [row for row in removed if row["source"] != "books" and len(row["tokens"]) + 1 >= 10]
    for name, rows in (("s1", removed), ("s2", usable)):
        sizes = [len(row["tokens"]) + 1 for row in rows if len(row["tokens"]) > 0]
        assert done.extra["stages"][name]["excluded"] == {"documents": len(sizes), "tokens": sum(sizes)}
    assert set(done.extra["cells"]) == {row["cell"] for rows in shards for row in rows}, "token shards have them still"
    assert "excluded" not in without.counts and "excluded" not in without.extra


def test_everything_excluded_is_an_error(tmp_path):
    (tmp_path / "all.txt").write_text("".join(f"user-{i}\n" for i in range(20)))
    with pytest.raises(DataError, match=r"no document is left .* mix\.exclude"):
        mix(tmp_path / "a", [corpus(20)], recipe(stage(), exclude=str(tmp_path / "all.txt")))


IDS = st.lists(st.sampled_from(["a", "b", "c", "00" * 16, "01" * 16, "0A" * 16, "zz"]), unique=True)


@given(IDS, st.lists(st.tuples(st.sampled_from([0, 1, 10]), st.sampled_from([None, "a", "b", "01" * 16]))))
def test_names_stand_for_documents_of_either_id(names, rows):
    hashes, own = [bytes([number]) * 16 for number, _ in rows], [name for _, name in rows]
    found, unknown = named(pa.array(hashes, ID), pa.array(own, pa.string()), names)
    lower = {name.lower() for name in names}
    assert found.tolist() == [one.hex() in lower or other in names for one, other in zip(hashes, own)]
    known = {one.hex() for one in hashes}
    assert unknown == [name for name in names if name not in own and name.lower() not in known]


def test_lists_are_read_from_text_json_lines_and_parquet(tmp_path):
    ids = [bytes([i]) * 16 for i in range(4)]
    (tmp_path / "a.txt").write_text("\ufeff b \r\n\nurn:uuid:1\n" + ids[0].hex(), "utf-8")
    rows = [{"id": "x", "document_id": ids[1].hex()}, {"id": 17}, {"document_id": None, "id": "y", "text": "long"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"document_id": pa.array(ids[2:], ID), "id": ["no", "no"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"id": pa.array([5, 6])}), tmp_path / "d.parquet")
    files = [str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.parquet", "d.parquet", "a.txt")]
    assert read_ids(files) == sorted(["b", "urn:uuid:1", "17", "y", "5", "6", *(one.hex() for one in ids)])
    a_recipe = recipe(stage(), exclude=["lists/a.txt", "/b.txt", "gs://bucket/c.txt"]).model_dump()
    resolved = check_recipe(a_recipe, tmp_path).mix.exclude
    assert resolved == [str(tmp_path / "lists/a.txt"), "/b.txt", "gs://bucket/c.txt"]
    assert recipe(stage(), exclude="a.txt").mix.exclude == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.txt", None, "none.txt: cannot be read: No such file"),
        ("ids.csv", b"a,b", "ids.csv: must be a file that ends in .txt, .jsonl, .parquet"),
        ("bytes.txt", b"\xff\xfe\x00a", "bytes.txt: is not text in UTF-8"),
        ("ids.jsonl", b'{"id": "a"}\n{"id": "b"', "ids.jsonl, line 2: is no JSON object"),
        ("ids.jsonl", b'"a"\n', "ids.jsonl, line 1: is no JSON object"),
        ("ids.jsonl", b'\n{"name": "a"}\n', "ids.jsonl, line 2: needs a text in 'document_id' or 'id'"),
        ("ids.jsonl", b'{"id": true}\n', "ids.jsonl, line 1: needs a text"),
        ("ids.parquet", b"PAR1 and then nothing", "ids.parquet: cannot be read"),
        ("ids.parquet", {"name": ["a"]}, "ids.parquet: has no column 'document_id' or 'id'"),
        ("ids.parquet", {"id": ["a", None]}, "ids.parquet: column 'id' has 1 rows without an id"),
        ("ids.parquet", {"id": [1.5]}, "ids.parquet: column 'id' holds double, not ids"),
    ],
)
def test_a_malformed_list_is_a_config_error(tmp_path, name, data, words):
    if isinstance(data, dict):
        pq.write_table(pa.table(data), tmp_path / name)
    elif data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=r"^mix\.exclude: ") as error:
        read_ids([str(tmp_path / name)])
    assert words in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------
# Sizes of clusters

FINEWEB_2 = {1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}
CLASSES = st.dictionaries(st.integers(1, 50), st.floats(0, 1000), max_size=6)


@given(st.lists(st.integers(1, 60), max_size=40), CLASSES)
def test_a_cluster_weighs_what_the_largest_size_that_it_reaches_weighs(sizes, weights):
    expected = []
    for size in sizes:
        reached = [least for least in weights if least <= size]
        expected.append(weights[max(reached)] if reached else 1.0)
    assert cluster_weights(np.array(sizes, np.int32), weights).tolist() == expected
    least, classes = cluster_classes(np.array(sizes, np.int32), weights)
    for size, number in zip(sizes, classes.tolist()):
        above = least[number + 1] if number + 1 < len(least) else math.inf
        assert least[number] <= size < above


def write_decisions(folder, shards, sizes, dropped=3):
    """Decisions on the documents of `shards`, with `dropped` others before each that were never tokenized."""
    tables = []
    for rows in shards:
        ids = [[f"x{n}-{row['document_id'].decode()[4:]}".encode()[:16] for n in range(dropped)] for row in rows]
        flat = [(one, 99) for row, others in zip(rows, ids) for one in [*others, row["document_id"]]]
        tables.append(
            [
                {
                    "document_id": one.ljust(16, b"-"),
                    "id": None,
                    "text_hash": bytes(16),
                    "keep": one in sizes,
                    "reasons": [],
                    "cluster_id": one.ljust(16, b"-"),
                    "cluster_size": sizes.get(one, other),
                    "survivor_id": one.ljust(16, b"-"),
                }
                for one, other in flat
            ]
        )
    files = [
        write_table(str(folder), f"decisions/{i:05d}.parquet", pa.Table.from_pylist(rows, DEDUP_DECISIONS))
        for i, rows in enumerate(tables)
    ]
    write_manifest(str(folder), Manifest(stage="dedup", version=1, key="k", config={}, inputs={}, files=files))
    return {"dedup": str(folder)}


def mix_clusters(folder, shards, sizes, a_recipe):
    inputs = write_shards(folder / "in", shards) | write_decisions(folder / "dedup", shards, sizes)
    done = run(Job(a_recipe, inputs, str(folder / "out"), Silent()))
    return done, {
        entry.path: read_table(str(folder / "out" / entry.path)).to_pylist()
        for entry in done.files
        if "validation" not in entry.path
    }["plans/s1.parquet"]


def test_larger_clusters_are_used_more_often_up_to_the_cap(tmp_path):
    shards = [corpus(200), [], corpus(200, begin=200), corpus(20, "validation", 400)]
    drawn = np.random.default_rng(7).choice([1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**6], 420)
    sizes = {row["document_id"]: int(size) for row, size in zip((row for rows in shards for row in rows), drawn)}
    mixture = {"cluster_size": FINEWEB_2, "group": {"english": 2.0}}
    done, plan = mix_clusters(tmp_path, shards, sizes, recipe(stage(tokens=12_000, mixture=mixture)))
    summary = done.extra["stages"]["s1"]
    per_size = {1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 99: 5, 100: 8, 999: 8, 1000: 1, 10**6: 1}
    by_class = {}
    for row in plan:
        document = shards[row["shard"]][row["row"]]
        weight = per_size[sizes[row["document_id"]]] * (2 if document["language"] == "eng_Latn" else 1)
        assert math.isclose(row["expected_copies"], min(4, summary["scale"]["all"] * weight), rel_tol=1e-4)
        least = str(max(size for size in FINEWEB_2 if size <= sizes[row["document_id"]]))
        by_class[least] = by_class.get(least, 0) + row["tokens"] * row["copies"]
    assert max(row["copies"] for row in plan) == 4, "the cap holds"
    clusters = summary["clusters"]
    assert {name: share["tokens"] for name, share in clusters.items()} == by_class
    assert list(clusters) == [str(size) for size in sorted(FINEWEB_2)]
    assert math.isclose(sum(share["after"] for share in clusters.values()), 1, abs_tol=1e-4)
    assert 12_000 <= sum(by_class.values()) <= 12_061

    without, plain = mix(tmp_path / "plain", shards, recipe(stage(tokens=12_000, mixture={"group": {"english": 2.0}})))
    ones = dict.fromkeys(sizes, 1)
    _, same = mix_clusters(tmp_path / "ones", shards, ones, recipe(stage(tokens=12_000, mixture=mixture)))
    assert same == plain["s1"], "clusters of one change nothing"
    assert "clusters" not in without.extra["stages"]["s1"]


def test_a_size_of_weight_nothing_leaves_documents_out_and_counts_among_the_excluded(tmp_path):
    rows = corpus(60)
    sizes = {row["document_id"]: 1 + number % 3 for number, row in enumerate(rows)}
    (tmp_path / "removed.txt").write_text("\n".join(f"user-{number}" for number in range(6)))
    exclude = str(tmp_path / "removed.txt")
    mixture = {"cluster_size": {2: 0, 3: 1}}
    done, plan = mix_clusters(tmp_path / "a", [rows], sizes, recipe(stage(mixture=mixture), exclude=exclude))
    assert {sizes[row["document_id"]] for row in plan} == {1, 3}
    assert done.extra["stages"]["s1"]["clusters"]["2"]["after"] == 0
    assert done.extra["stages"]["s1"]["excluded"]["documents"] == 4, "those of a cluster of two had no weight anyway"


def test_decisions_that_are_not_of_these_documents_are_an_error(tmp_path):
    mixture = {"cluster_size": {2: 2}}
    inputs = write_shards(tmp_path / "in", [corpus(5), corpus(5, begin=5)])
    a_recipe = recipe(stage(mixture=mixture))
    other = write_decisions(tmp_path / "a", [corpus(5), corpus(4, begin=6)], {})
    with pytest.raises(DataError, match=r"00001\.parquet: has no decision on 1 documents"):
        run(Job(a_recipe, inputs | other, str(tmp_path / "out"), Silent()))
    fewer = write_decisions(tmp_path / "b", [corpus(10)], {})
    with pytest.raises(DataError, match="is for another number of shards"):
        run(Job(a_recipe, inputs | fewer, str(tmp_path / "out"), Silent()))


@pytest.mark.parametrize("weights", [{0: 1}, {-1: 1}, {1: -0.5}, {1: 1001}, {"many": 1}])
def test_sizes_and_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="cluster_size"):
        Mixture.model_validate({"cluster_size": weights})
