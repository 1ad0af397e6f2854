"""Bits per byte: what a model needs to write down a text, comparable between tokenizers and models.

All numbers are sums over labels, divided once at the end: a mean of batch means would weigh tokens unequally.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from schemas.documents import TRAIN
from tokenizer.qwen import Tokenizer
from trainer.data import Batch, Sequences, epoch_order, prefetch
from trainer.loss import chunked_cross_entropy
from trainer.model.moe import Routing
from trainer.model.qwen3 import Qwen3
from trainer.parallel import Ranks
from trainer.shards import TokenShards

UNIGRAM_TOKENS = 1 << 28  # training tokens counted; more would not move a unigram model

SCORES = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # total, or one of the columns that group documents
        pa.field("name", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),  # of the predicted text
        pa.field("tokens", pa.int64(), nullable=False),  # predicted, ends of documents among them
        pa.field("nll", pa.float64(), nullable=False),  # sum over the tokens, in nats
        pa.field("bits_per_byte", pa.float64()),  # null where there is no byte
        pa.field("unigram_nll", pa.float64(), nullable=False),
        pa.field("unigram_bits_per_byte", pa.float64()),
    ]
)


def hidden_states(model: Qwen3, batch: Batch, routings: list[Routing] | None = None) -> torch.Tensor:
    """(B, T, C); `routings` gets what each layer's router did with tokens that are no padding."""
    # bfloat16 for the matrix products of a GPU, float32 for the weights and whatever is summed.
    with torch.autocast("cuda", torch.bfloat16, enabled=batch.tokens_BT.is_cuda):
        documents = batch.document_BT if batch.document_mask else None
        counted = batch.real_BT if routings is not None and model.config.experts else None
        hidden: torch.Tensor = model(
            batch.tokens_BT, batch.positions_BT, documents, counted_BT=counted, routings=routings
        )
    return hidden


def batch_loss(
    model: Qwen3, batch: Batch, z_loss: float = 0.0, routings: list[Routing] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss to differentiate, and each label's negative log-likelihood (B, T), 0 where ignored.

    `routings` as in `hidden_states`.
    """
    hidden_BTC = hidden_states(model, batch, routings)
    with torch.autocast("cuda", torch.bfloat16, enabled=batch.tokens_BT.is_cuda):
        loss, nll_N = chunked_cross_entropy(
            hidden_BTC.flatten(0, 1), model.head_weight, batch.labels_BT.flatten(), z_loss=z_loss
        )
    return loss, nll_N.view_as(batch.labels_BT)


@dataclass(frozen=True)
class Sums:
    """Sums over the labels of each group, (G,) float64."""

    nll: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    unigram_nll: np.ndarray


def bits_per_byte(nll: float, size: float) -> float | None:
    """From nats and bytes; None if there is no byte."""
    return nll / (math.log(2) * size) if size else None


def group_sums(batch: Batch, values: Sequence[torch.Tensor], groups: int) -> torch.Tensor:
    """Sums per group of (B, T) values over the valid labels, and their number: (len(values) + 1, G) float64."""
    # What does not count goes to a group that is dropped: picking out the rest would make the CPU wait for a GPU.
    group_N = torch.where(batch.labels_BT >= 0, batch.group_BT, groups).flatten()
    rows = torch.stack([*(value.flatten().double() for value in values), torch.ones_like(group_N, dtype=torch.float64)])
    sums = torch.zeros(len(rows), groups + 1, dtype=torch.float64, device=rows.device).index_add_(1, group_N, rows)
    return sums[:, :groups]


def sample(sequences: Sequences, tokens: int) -> np.ndarray:
    """The numbers of at most `tokens` tokens' worth of sequences, at least one: always the same ones."""
    some = max(1, tokens // sequences.length)
    return np.sort(epoch_order(np.zeros(sequences.count, np.int64), "sample", 0)[:some])


@torch.inference_mode()
def measure(
    model: Qwen3,
    sequences: Sequences,
    chosen: np.ndarray,
    token_bytes: np.ndarray,
    ranks: Ranks,
    micro_batch_tokens: int,
    unigram: np.ndarray | None = None,
) -> Sums:
    """Score some sequences, shared out among the ranks.

    Args:
        token_bytes: (vocabulary,) UTF-8 bytes of each token.
        unigram: (vocabulary,) nats of each token under a unigram model.
    """
    groups = len(sequences.shards.groups)
    sums = torch.zeros(4, groups, dtype=torch.float64, device=ranks.device)
    sizes = torch.from_numpy(token_bytes).to(ranks.device)
    nats = torch.from_numpy(np.zeros(len(token_bytes)) if unigram is None else unigram).to(ranks.device)
    mine = chosen[ranks.rank :: ranks.count]
    step = max(1, micro_batch_tokens // sequences.length)
    steps = -(-len(mine) // step)
    batches = prefetch(lambda number: sequences.read(mine[number * step : (number + 1) * step]), 0, steps)
    with contextlib.closing(batches):
        for read in batches:
            batch = read.to(ranks.device)
            _, nll_BT = batch_loss(model, batch)
            label_BT = batch.labels_BT.clamp(min=0)
            sums += group_sums(batch, (nll_BT, sizes[label_BT], nats[label_BT]), groups)
    ranks.sum([sums])
    nll, size, unigram_nll, count = sums.cpu().numpy()
    return Sums(nll, count, size, unigram_nll)


def token_bytes(tokenizer: Tokenizer, rows: int) -> np.ndarray:
    """Bytes of text behind each row of the vocabulary, (rows,) int64: 0 for added tokens and for rows without one."""
    table = np.zeros(rows, np.int64)
    table[: tokenizer.vocabulary_size] = tokenizer.bytes_per_token
    return table


def unigram_nats(shards: TokenShards) -> np.ndarray:
    """Nats per token of the unigram model of the training documents, add-one smoothed, (padded vocabulary,)."""
    counts = np.zeros(shards.padded_vocabulary_size, np.int64)
    for table, parts in shards.scan():
        train = np.asarray(table.column("split").to_numpy() == TRAIN)
        begin = 0
        for chunk, values in zip(table.column("tokens").chunks, parts):
            chosen = train[begin : begin + len(chunk)]
            begin += len(chunk)
            offsets = chunk.offsets.to_numpy()
            kept = values[offsets[0] : offsets[-1]][np.repeat(chosen, np.diff(offsets))]
            counts += np.bincount(kept, minlength=len(counts))[: len(counts)]
            counts[shards.end_of_document] += int(chosen.sum())
        if counts.sum() >= UNIGRAM_TOKENS:
            break
    real = counts[: shards.vocabulary_size] + 1
    nats = np.full(len(counts), np.inf)
    nats[: len(real)] = np.log(real.sum()) - np.log(real)
    return nats


def score_table(sums: Sums, columns: Sequence[str], groups: Sequence[str]) -> pa.Table:
    """Rows of `SCORES`: the total first, then the values of each column by name.

    Args:
        groups: names of the groups, the columns' values joined by a bar.
    """
    rows = [("total", "all", np.ones(len(groups), bool))]
    for number, column in enumerate(columns):
        values = np.array([group.split("|")[number] for group in groups])
        rows += [(column, str(value), values == value) for value in np.unique(values)]
    records = []
    for kind, name, chosen in rows:
        nll, unigram, tokens, size = (
            float(part[chosen].sum()) for part in (sums.nll, sums.unigram_nll, sums.tokens, sums.bytes)
        )
        if tokens or kind == "total":
            records.append(
                {
                    "kind": kind,
                    "name": name,
                    "bytes": int(size),
                    "tokens": int(tokens),
                    "nll": nll,
                    "bits_per_byte": bits_per_byte(nll, size),
                    "unigram_nll": unigram,
                    "unigram_bits_per_byte": bits_per_byte(unigram, size),
                }
            )
    return pa.Table.from_pylist(records, schema=SCORES)
