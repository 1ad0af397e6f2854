"""Train the tokenizer on the training documents, or take over the one that the recipe names.

The text is streamed to the trainer in the driver: what training keeps is a table of pre-token counts, and counting runs
on all cores. The table does not depend on the order of the text, so neither does the tokenizer.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import masking
from pipelines.tokenizer_train.kernels import choose
from schemas import paths
from schemas.documents import TRAIN
from schemas.errors import ConfigError, DataError
from schemas.hashing import uniform
from schemas.job import Job, Output
from schemas.labels import check_sidecar
from schemas.manifest import FileEntry
from schemas.tables import read_batches, read_table
from tokenizer.qwen import ADDED_TOKENS, Tokenizer, write_tokenizer
from tokenizer.train import from_tiktoken_ranks, train

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
RANKS = ".tiktoken"


def run(job: Job) -> Output:
    with tempfile.TemporaryDirectory() as folder:
        if job.recipe.tokenizer.path:
            extra = take_over(job.recipe.tokenizer.path, Path(folder))
        else:
            extra = train_on(job, Path(folder))
        files = [_publish(Path(folder, name), job.output, name) for name in (TOKENIZER, CONFIG)]
    counts = {"vocabulary": extra["vocabulary_size"]}
    if not job.recipe.tokenizer.path:
        counts["asked_for"] = job.recipe.tokenizer.vocabulary_size  # a small corpus may not support as many
    return Output(files, counts, extra=extra)


def take_over(path: str, folder: Path) -> dict[str, Any]:
    """Copy the two files of an existing tokenizer into `folder`, after loading it as a check.

    `path` is the folder of the tokenizer or its tokenizer.json. Where the configuration is absent, it is made. Of a
    `.tiktoken` rank file, the form in which Qwen publishes its own vocabulary, both are made.
    """
    if path.endswith(RANKS):
        ranks = folder / path.rpartition("/")[2]
        _copy(path, ranks)
        from_tiktoken_ranks(ranks, folder)
        return {"vocabulary_size": Tokenizer.load(folder).vocabulary_size}
    source, _, name = path.rpartition("/") if path.endswith(".json") else (path, "", TOKENIZER)
    for wanted, target in ((name, TOKENIZER), (CONFIG, CONFIG)):
        file = paths.join(source, wanted)
        if target == TOKENIZER or paths.exists(file):
            _copy(file, folder / target)
    try:
        tokenizer = Tokenizer.load(folder)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(folder / TOKENIZER), paths.join(source, name))) from error
    if (folder / CONFIG).exists():
        _must_be_an_object(folder / CONFIG, paths.join(source, CONFIG))
    else:
        (folder / CONFIG).write_bytes(_make_config(tokenizer, path))
    return {"vocabulary_size": tokenizer.vocabulary_size}


def _must_be_an_object(copied: Path, path: str) -> None:
    try:
        content = json.loads(copied.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is no configuration of a tokenizer: not a JSON object")


def _copy(path: str, target: Path) -> None:
    if not paths.exists(path):
        raise ConfigError(
            f"tokenizer.path: there is no {path}; name a folder with a {TOKENIZER}, or a {RANKS} file, or leave it out"
        )
    with paths.open_read(path) as handle:
        target.write_bytes(handle.read())


def _make_config(tokenizer: Tokenizer, path: str) -> bytes:
    """A tokenizer_config.json depends on the BPE vocabulary only by its size, where Qwen's added tokens follow it."""
    size = tokenizer.vocabulary_size - len(tokenizer.added_tokens)
    if tokenizer.added_tokens != {name: size + i for i, (name, _) in enumerate(ADDED_TOKENS)}:
        raise ConfigError(
            f"tokenizer.path: {path} has other added tokens than Qwen3, so its {CONFIG} must lie beside it"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(folder, [tokenizer.token_bytes(token) for token in range(size)], [])
        return Path(folder, CONFIG).read_bytes()


def train_on(job: Job, folder: Path) -> dict[str, Any]:
    """Train on the documents of the split `train`, up to about `tokenizer.max_bytes` bytes of them."""
    shards, splits = job.document_shards(), job.sidecars("split", "split")
    surveys = [survey(path, splits[index] if splits else None) for index, path in enumerate(shards)]
    sizes = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in surveys)])
    ids = [key for part in surveys for key in part[1]]
    usable = np.concatenate([np.zeros(0, bool), *(part[2] for part in surveys)])
    if not int(sizes[usable].sum()):
        raise DataError(
            "no training document has any text, so no tokenizer can be trained: loosen the rules of `filter`, "
            "add sources, or name an existing tokenizer in `tokenizer.path`"
        )
    keys = np.array(ids, "S16")
    chosen = np.zeros(len(ids), bool)
    draws = uniform((key for key, use in zip(ids, usable) if use), job.recipe.seed, "tokenizer")
    chosen[usable] = choose(sizes[usable], draws, keys[usable], job.recipe.tokenizer.max_bytes)
    total = int(sizes[chosen].sum())
    masks = np.split(chosen, np.cumsum([len(part[1]) for part in surveys])[:-1])
    summary = train(_texts(job, shards, masks, total), job.recipe.tokenizer.vocabulary_size, folder)
    return summary | {"text_bytes": total, "documents": int(chosen.sum()), "documents_available": int(usable.sum())}


def survey(documents: str, split: str | None) -> tuple[np.ndarray, list[bytes], np.ndarray]:
    """Bytes of text, ids, and which documents are training documents, of one shard."""
    sizes: list[pa.Array] = []
    ids: list[bytes] = []
    for batch in read_batches(documents, ["document_id", "text"]):
        sizes.append(pc.binary_length(batch["text"]).cast(pa.int64()))
        ids += batch["document_id"].to_pylist()
    if split is None:
        usable = np.ones(len(ids), bool)
    else:
        labels = read_table(split, ["document_id", "text_hash", "split"])
        check_sidecar(read_table(documents, ["document_id", "text_hash"]), labels)
        usable = pc.equal(labels["split"], TRAIN).to_numpy()
    return pa.chunked_array(sizes, pa.int64()).to_numpy(), ids, usable


def _texts(job: Job, shards: list[str], masks: list[np.ndarray], total: int) -> Iterator[str]:
    """The chosen texts as the model reads them: without what earlier stages cut or the recipe masks."""
    kinds: list[str] = sorted(job.recipe.mask.pii)
    files = {name: job.sidecars(*place) for name, place in masking.sidecars(kinds).items()}
    done = 0
    for index, (path, mask) in enumerate(zip(shards, masks)):
        if not mask.any():
            continue
        row = 0
        keys = read_table(path, ["document_id", "text_hash"])
        spans = masking.read_spans(keys, {name: found[index] for name, found in files.items() if found}, kinds)
        for batch in read_batches(path, ["text"]):
            chosen = pa.array(mask[row : row + len(batch)])
            texts = batch["text"].filter(chosen)
            done += pc.sum(pc.binary_length(texts)).as_py() or 0
            if spans.num_columns:
                cuts = masking.all_cuts(texts, spans.slice(row, len(batch)).filter(chosen), kinds)
                texts = masking.cut_texts(texts, cuts)
            yield from texts.to_pylist()
            row += len(batch)
            job.progress.update(done, total, "bytes")


def _publish(file: Path, output: str, name: str) -> FileEntry:
    content = file.read_bytes()
    with paths.write_atomic(paths.join(output, name)) as handle:
        handle.write(content)
    return FileEntry(path=name, rows=0, bytes=len(content), hash=paths.file_hash(str(file)))
