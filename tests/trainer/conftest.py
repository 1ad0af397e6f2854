"""A small corpus with its tokenizer, token shards and packs on disk, made as plainly as possible."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from schemas.job import Job
from schemas.manifest import Manifest, write_manifest
from schemas.recipe import Recipe
from schemas.tables import table_writer
from schemas.tokens import PACK, TOKENS
from tokenizer.qwen import BYTE_ORDER, Tokenizer, write_tokenizer

torch.set_num_threads(1)

Segment = tuple[int, int, int, int]
WORDS = ("the", "sea", "of", "rivers", "runs", "under", "stones", "and", "light", "while", "birds", "count", "slow")
MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "init_std": 0.1,
}


class Quiet:
    """Shows nothing and remembers the last note."""

    note = ""

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.note = note


class StopAfter:
    """Asks for a stop, as SIGTERM does, when a step has ended."""

    def __init__(self, step: int) -> None:
        self.left = step

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@dataclass
class Toy:
    """Datasets under `root`; `shards[i][j]` are the stored tokens of a document."""

    root: Path
    shards: list[list[list[int]]]
    packs: dict[str, list[list[Segment]]]
    recipe: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    end_of_document: int = 256

    def job(self, output: str | Path = "out", **pretrain: Any) -> Job:
        """A job on these datasets; keywords replace keys of the recipe's `pretrain`."""
        value = self.recipe | {"pretrain": self.recipe["pretrain"] | pretrain}
        (self.root / "recipe.json").write_text(json.dumps(value))
        folder = self.root / output
        folder.mkdir(exist_ok=True)
        return Job(Recipe.model_validate(value), self.inputs, str(folder), Quiet())

    def add_mix(self, **extra: Any) -> None:
        """Put a mix without plans among the inputs."""
        self.inputs["mix"] = str(self.root / "mix")
        manifest = Manifest(stage="mix", version=1, key="k", config={}, inputs={}, files=[], extra=extra)
        write_manifest(self.inputs["mix"], manifest)


def document(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choice(WORDS) for _ in range(words))


def concatenate(shards: list[list[list[int]]], length: int) -> list[list[Segment]]:
    """Sequences of length + 1 positions, each sharing one position with the next; what is left over is dropped."""
    positions = [
        (shard, row, at)
        for shard, documents in enumerate(shards)
        for row, tokens in enumerate(documents)
        for at in range(len(tokens) + 1)
    ]
    found = []
    for begin in range(0, len(positions) - length, length):
        segments: list[Segment] = []
        for shard, row, at in positions[begin : begin + length + 1]:
            if segments and segments[-1][:2] == (shard, row):
                segments[-1] = (*segments[-1][:3], segments[-1][3] + 1)
            else:
                segments.append((shard, row, at, 1))
        found.append(segments)
    return found


def whole_documents(shards: list[list[list[int]]], length: int) -> list[list[Segment]]:
    """Next-fit: documents stay whole, or are cut off where they are longer than a sequence; sequences may be short."""
    found: list[list[Segment]] = []
    room = 0
    for shard, documents in enumerate(shards):
        for row, tokens in enumerate(documents):
            size = min(len(tokens) + 1, length + 1)
            if size > room:
                found.append([])
                room = length + 1
            found[-1].append((shard, row, 0, size))
            room -= size
    return found


def best_fit(shards: list[list[list[int]]], length: int) -> list[list[Segment]]:
    """Pieces of at most length + 1 positions, consecutive ones share one; each goes where least room is left for it."""
    pieces = [
        (shard, row, begin, min(length + 1, len(tokens) + 1 - begin))
        for shard, documents in enumerate(shards)
        for row, tokens in enumerate(documents)
        for begin in range(0, len(tokens), length)
    ]
    found: list[list[Segment]] = []
    for piece in sorted(pieces, key=lambda piece: -piece[3]):
        room = [length + 1 - sum(size for *_, size in sequence) for sequence in found]
        fitting = [number for number, free in enumerate(room) if free >= piece[3]]
        if not fitting:
            found.append([])
            fitting, room = [len(found) - 1], [*room, 0]
        found[min(fitting, key=lambda number: room[number])].append(piece)
    return found


def write_shards(folder: Path, shards: list[list[list[int]]], batch_rows: int = 3) -> Manifest:
    entries = []
    for number, documents in enumerate(shards):
        rows = [
            {
                "document_id": bytes([number] * 8 + [row] * 8),
                "id": None,
                "split": "train" if row else "validation",
                "source": "toy",
                "licence": None,
                "cell": f"english/{'code' if row % 2 else 'prose'}/{number % 2}",
                "language": "eng_Latn" if number % 2 else "deu_Latn",
                "domain": "code" if row % 2 else "prose",
                "educational_score": 1.0,
                "text_bytes": len(tokens),
                "tokens": tokens,
            }
            for row, tokens in enumerate(documents)
        ]
        with table_writer(str(folder), f"tokens/{number:05}.arrow", TOKENS) as writer:
            for begin in range(0, len(rows), batch_rows):
                writer.write(pa.RecordBatch.from_pylist(rows[begin : begin + batch_rows], schema=TOKENS))
        entries.append(writer.entry())
    extra = {"vocabulary_size": 282, "padded_vocabulary_size": 384, "end_of_document": 256}
    manifest = Manifest(stage="tokenize", version=1, key="k", config={}, inputs={}, files=entries, extra=extra)
    write_manifest(str(folder), manifest)
    return manifest


def write_packs(folder: Path, packs: dict[str, list[list[Segment]]], lengths: dict[str, int]) -> None:
    entries, described = [], {}
    names = [item.name for item in PACK.field("segments").type.value_type]
    for name, sequences in sorted(packs.items()):
        rows = [{"segments": [dict(zip(names, segment)) for segment in sequence]} for sequence in sequences]
        with table_writer(str(folder), f"{name}/pack.arrow", PACK) as writer:
            for begin in range(0, len(rows), 5):
                writer.write(pa.RecordBatch.from_pylist(rows[begin : begin + 5], schema=PACK))
        entries.append(writer.entry())
        described[name] = {"sequence_length": lengths[name], "sequences": len(sequences)}
    extra = {"validation": described.pop("validation"), "stages": described}
    manifest = Manifest(stage="pack", version=1, key="k", config={}, inputs={}, files=entries, extra=extra)
    write_manifest(str(folder), manifest)


def make_toy(
    root: Path,
    *,
    documents: int = 24,
    shards: int = 3,
    lengths: tuple[int, int] = (32, 64),
    packed: bool = False,
    validation: bool = True,
) -> Toy:
    """Two stages, s1 and s2, of some sequence lengths; `packed` keeps the documents of s2 whole where it can."""
    tokenizer_folder = root / "tokenizer"
    write_tokenizer(tokenizer_folder, [bytes([byte]) for byte in BYTE_ORDER], [])
    tokenizer = Tokenizer.load(tokenizer_folder)
    texts = [document(number, 3 + (7 * number) % 15) for number in range(documents)]
    tokens = [tokenizer.encode(text) for text in texts]
    by_shard = [tokens[number::shards] for number in range(shards)]
    write_shards(root / "tokenize", by_shard)
    sizes = {"s1": lengths[0], "s2": lengths[1], "validation": lengths[0]}
    packs = {
        "s1": concatenate(by_shard, lengths[0]),
        "s2": (best_fit if packed else concatenate)(by_shard, lengths[1]),
        "validation": whole_documents([documents[:1] for documents in by_shard], lengths[0]) if validation else [],
    }
    write_packs(root / "pack", packs, sizes)
    stages = [
        {
            "name": "s1",
            "tokens": 7 * 4 * lengths[0],
            "sequence_length": lengths[0],
            "batch_size": 4,
            "learning_rate": {"shape": "cosine", "peak": 0.01, "end": 0.004, "warmup": 0.3},
        },
        {
            "name": "s2",
            "tokens": 5 * 2 * lengths[1],
            "sequence_length": lengths[1],
            "batch_size": 2,
            "rope_base": 50_000.0,
            "packing": "best-fit" if packed else "concatenate",
            "learning_rate": {"shape": "linear", "end": 0.001},
        },
    ]
    pretrain = {
        "model": MODEL,
        "stages": stages,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
        "validate_every": 4,
        "device": "cpu",
        "threads": 1,
    }
    recipe = {"name": "toy", "seed": 3, "sources": [{"name": "toy", "path": "."}], "pretrain": pretrain}
    inputs = {name: str(root / name) for name in ("tokenizer", "tokenize", "pack")}
    return Toy(root, by_shard, packs, recipe, inputs)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


@pytest.fixture
def toy_factory(tmp_path: Path) -> Callable[..., Toy]:
    """`make_toy` in a folder of its own per call."""
    made = iter(range(1000))

    def make(**options: Any) -> Toy:
        root = tmp_path / f"toy{next(made)}"
        root.mkdir()
        return make_toy(root, **options)

    return make
