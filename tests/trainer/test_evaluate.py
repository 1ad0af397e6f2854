"""Bits per byte against sums taken document by document, and the export that ends a run."""

import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import DataError
from schemas.job import Job
from schemas.manifest import Manifest, write_manifest
from tokenizer.qwen import Tokenizer
from trainer import stages
from trainer.data import Sequences
from trainer.evaluate import measure, sample, token_bytes, unigram_nats
from trainer.model.qwen3 import build
from trainer.model.sizes import model_config
from trainer.parallel import Ranks
from trainer.shards import TokenShards

CPU = Ranks(0, 1, torch.device("cpu"))


def trained(toy: Any, **recipe: Any) -> Job:
    """A job whose inputs hold a finished pretrain dataset."""
    toy.recipe |= recipe
    job = toy.job("pretrain")
    output = stages.pretrain(job)
    manifest = Manifest(
        stage="pretrain", version=1, key="k", config={}, inputs={}, files=output.files, extra=output.extra
    )
    write_manifest(job.output, manifest)
    (toy.root / "later").mkdir()
    return replace(job, inputs=job.inputs | {"pretrain": job.output}, output=str(toy.root / "later"))


def documents(toy: Any) -> list[tuple[str, str, list[int]]]:
    """Language, domain and positions of the validation documents: the first of each shard, cut at a sequence."""
    found = []
    for sequence in toy.packs["validation"]:
        for shard, row, _, length in sequence:
            language = "eng_Latn" if shard % 2 else "deu_Latn"
            found.append((language, "code" if row % 2 else "prose", [*toy.shards[shard][row], 256][:length]))
    return found


def test_scores_equal_sums_over_single_documents(toy: Any) -> None:
    job = trained(toy)
    output = stages.evaluate(job)
    model, step = stages.trained_model(job, torch.device("cpu"))
    assert step == 12
    counts = Counter(
        token for shard in toy.shards for row, tokens in enumerate(shard) if row for token in [*tokens, 256]
    )
    everything = sum(counts.values()) + 282
    wanted: Counter[tuple[str, str, str]] = Counter()
    for language, domain, ids in documents(toy):
        logits = model.logits(model(torch.tensor([ids[:-1]])))[0]
        nll = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        for kind, name in (("total", "all"), ("language", language), ("domain", domain)):
            wanted[kind, name, "nll"] += nll
            wanted[kind, name, "tokens"] += len(ids) - 1
            wanted[kind, name, "bytes"] += sum(token < 256 for token in ids[1:])
            wanted[kind, name, "unigram_nll"] -= sum(math.log((counts[token] + 1) / everything) for token in ids[1:])
    table = pq.read_table(Path(job.output) / "bits_per_byte.parquet").to_pylist()
    assert [(row["kind"], row["name"]) for row in table] == [
        ("total", "all"),
        ("language", "deu_Latn"),
        ("language", "eng_Latn"),
        ("domain", "prose"),
    ]
    for row in table:
        for value in ("nll", "tokens", "bytes", "unigram_nll"):
            assert row[value] == pytest.approx(wanted[row["kind"], row["name"], value], rel=1e-5)
        assert row["bits_per_byte"] == pytest.approx(row["nll"] / row["bytes"] / math.log(2))
        assert row["unigram_bits_per_byte"] == pytest.approx(row["unigram_nll"] / row["bytes"] / math.log(2))
    assert output.extra["bits_per_byte"] == round(table[0]["bits_per_byte"], 4)
    assert output.counts == {"tokens": table[0]["tokens"], "bytes": table[0]["bytes"]}
    assert stages.evaluate(job) == output  # and the same bytes again


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(toy: Any) -> None:
    job = toy.job()
    shards = TokenShards(job)
    model = build(model_config(job.recipe.pretrain, 384), 0)
    with torch.no_grad():
        model.embed_tokens.weight.zero_()
    sequences = Sequences(job, "validation", shards)
    size = token_bytes(Tokenizer.load(job.inputs["tokenizer"]), 384)
    sums = measure(model, sequences, np.arange(sequences.count), size, CPU, 64)
    assert sums.nll.sum() / sums.tokens.sum() == pytest.approx(math.log(384), rel=1e-6)
    assert sums.bytes.sum() == sum(token < 256 for _, _, ids in documents(toy) for token in ids[1:])


def test_ranks_and_micro_batches_do_not_change_the_sums(toy: Any) -> None:
    job = toy.job()
    shards = TokenShards(job)
    sequences = Sequences(job, "s1", shards)
    model = build(model_config(job.recipe.pretrain, 384), 0)
    size = np.ones(384, np.int64)
    chosen = np.arange(sequences.count)
    whole = measure(model, sequences, chosen, size, CPU, 1 << 20)
    parts = [measure(model, sequences, chosen[rank::3], size, CPU, 1) for rank in range(3)]
    assert sum(part.nll for part in parts) == pytest.approx(whole.nll, rel=1e-6)
    assert (sum(part.tokens for part in parts) == whole.tokens).all()


def test_after_an_error_nothing_reads_on(toy: Any) -> None:
    sequences = Sequences(toy.job(), "s1", TokenShards(toy.job()))
    model = build(model_config(toy.job().recipe.pretrain, 384), 0)
    with torch.no_grad():
        model.embed_tokens.weight = torch.nn.Parameter(model.embed_tokens.weight[:8])  # no row for most tokens
    with pytest.raises(IndexError) as error:
        measure(model, sequences, np.arange(sequences.count), np.ones(384, np.int64), CPU, 1)
    assert error.tb  # its frames live as long as it does, and the generator with them
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_sample_is_bounded_fixed_and_spread(toy: Any) -> None:
    job = toy.job()
    sequences = Sequences(job, "s1", TokenShards(job))
    some = sample(sequences, 5 * sequences.length + 1)
    assert len(some) == len(set(some.tolist())) == 5
    assert (some == sample(sequences, 5 * sequences.length)).all()
    assert len(sample(sequences, 1)) == 1
    assert sample(sequences, 1 << 40).tolist() == list(range(sequences.count))


def test_token_bytes_add_up_to_the_text(toy: Any) -> None:
    tokenizer = Tokenizer.load(toy.inputs["tokenizer"])
    size = token_bytes(tokenizer, 384)
    text = "Größe 東京 🙂"
    assert size[tokenizer.encode(text)].sum() == len(text.encode())
    assert size[256:].sum() == 0


def test_the_unigram_model_is_a_distribution_over_real_tokens(toy: Any) -> None:
    nats = unigram_nats(TokenShards(toy.job()))
    assert np.exp(-nats).sum() == pytest.approx(1)
    assert np.isinf(nats[282:]).all()


def test_a_missing_last_checkpoint_is_refused(toy: Any) -> None:
    job = trained(toy)
    (Path(job.inputs["pretrain"]) / "checkpoints/step-0000012/state.json").unlink()
    with pytest.raises(DataError, match="the checkpoint of step 12 is missing or damaged"):
        stages.evaluate(job)


def test_export_is_what_transformers_loads(toy: Any) -> None:
    prompts = ["the sea ", ""]
    job = trained(toy, export={"dtype": "float32", "prompts": prompts})
    output = stages.export(job)
    folder = Path(job.output)
    model, _ = stages.trained_model(job, torch.device("cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    assert theirs.config.rope_parameters["rope_theta"] == 50_000.0  # that of the last stage
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = torch.tensor([tokenizer.encode("the sea of light")])
    torch.testing.assert_close(theirs(ids).logits, model.logits(model(ids)), rtol=1e-5, atol=1e-5)
    samples = json.loads((folder / "samples.json").read_text())
    assert [entry["prompt"] for entry in samples] == prompts
    generated = theirs.generate(torch.tensor([tokenizer.encode("the sea ")]), max_new_tokens=32, do_sample=False)
    assert samples[0]["greedy"] == tokenizer.decode(generated[0, 8:], skip_special_tokens=True)
    assert {entry.path for entry in output.files} == {
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "samples.json",
    }
    assert stages.export(job) == output


def test_without_validation_sequences_a_run_goes_through(toy_factory: Callable[..., Any]) -> None:
    toy = toy_factory(validation=False)
    job = trained(toy)
    assert json.loads((Path(job.inputs["pretrain"]) / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0
    output = stages.evaluate(job)
    assert output.extra == {"step": 12, "bits_per_byte": None, "unigram_bits_per_byte": None}
