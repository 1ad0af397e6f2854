"""Data parallelism: every rank holds the whole model and a part of each global batch, and gradients are summed.

Ranks come from the environment that `torchrun` sets; without it there is one rank and nothing here communicates.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from schemas.errors import ConfigError

BUCKET = 1 << 25  # numbers per all-reduce


@dataclass(frozen=True)
class Ranks:
    """This process among `count`, and the device it computes on."""

    rank: int
    count: int
    device: torch.device

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum over the ranks in place, many small tensors per message."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
                tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, any small picklable one, on every rank."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite each tensor by rank 0's."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[Sequence[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


@contextlib.contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the other ranks, if there are any; `device` is auto, cpu or cuda.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("pretrain.device: 'cuda' is asked for but torch sees no GPU; use 'auto' or 'cpu'")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device == "cpu" or not available:
        chosen = torch.device("cpu")
    else:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if count == 1:
        yield Ranks(0, 1, chosen)
        return
    # Checkpoints are written from the CPU, which DCP wants a backend for.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, count, chosen)
    finally:
        dist.destroy_process_group()
