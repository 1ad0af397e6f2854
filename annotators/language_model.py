"""The model of language identification: fastText's classifier, then one for each group of languages that look alike.

First step, as in fastText (Joulin et al. 2017): a text is the mean of the vectors of its n-grams, its known words and
the end of the line, and a softmax over all labels. Second step, where the likeliest label belongs to a group: the
probability of the group is shared out anew by multinomial logistic regression on the same n-grams and on words. Both
are sums over words, so every word of a batch is looked up once, however many texts it stands in.

The file is an `npz` archive without pickled objects: buckets of hashed n-grams and words, ascending, with vectors and
weights in steps of each column's scale. In memory they are float32.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from annotators.ngrams import Words, ngrams
from schemas.errors import DataError

BUCKETS = 1 << 21  # of hashed n-grams; as many again of whole words

LEVELS = 31  # steps between 0 and the largest value of a column in the file
LENGTH_POWER = 0.75
"""How the sums of the second step shrink with the length of a text: between a mean and a vector of length 1."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Logistic regression between some labels: sum of the weights / (n-grams and words)**LENGTH_POWER + bias."""

    members: Integers  # [k] numbers of labels
    buckets: Integers  # [n] ascending
    weights: Floats  # [n, k]
    bias: Floats  # [k]


@dataclass(frozen=True)
class LanguageModel:
    """Weights of both steps."""

    labels: tuple[str, ...]
    buckets: Integers  # [n] ascending; a whole word's is BUCKETS above that of its hash
    vectors: Floats  # [n, dimensions]
    end: Floats  # [dimensions] vector of the end of a line
    output: Floats  # [labels, dimensions]
    groups: tuple[Group, ...]

    @cached_property
    def rows(self) -> npt.NDArray[np.int32]:
        """Bucket -> 1 + place among all buckets that any step knows, or 0."""
        table = np.zeros(2 * BUCKETS, np.int32)
        known = np.unique(np.concatenate([self.buckets, *(group.buckets for group in self.groups)]))
        table[known] = np.arange(1, len(known) + 1)
        return table

    @cached_property
    def tables(self) -> tuple[Floats, ...]:
        """What each step adds up for a row: vectors, then the weights of each group; row 0 is zeros."""
        steps = [(self.buckets, self.vectors), *((group.buckets, group.weights) for group in self.groups)]
        return tuple(self._table(buckets, values) for buckets, values in steps)

    def _table(self, buckets: Integers, values: Floats) -> Floats:
        table = np.zeros((len(self.in_first_step), values.shape[1]), np.float32)
        table[self.rows[buckets]] = values
        return table

    @cached_property
    def in_first_step(self) -> npt.NDArray[np.bool_]:
        """Whether the first step knows a row."""
        known = np.zeros(int(self.rows.max()) + 1, bool)
        known[self.rows[self.buckets]] = True
        return known

    @cached_property
    def group_of(self) -> Integers:
        """Label -> number of its group, or -1."""
        found = np.full(len(self.labels), -1)
        for number, group in enumerate(self.groups):
            found[group.members] = number
        return found


def word_buckets(found: Words) -> Integers:
    """The bucket of every different word as a whole."""
    return (found.keys % np.uint64(BUCKETS)).astype(np.int64) + BUCKETS


def gram_buckets(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return hashes % np.uint32(BUCKETS)


def probabilities(model: LanguageModel, found: Words, members: csr_matrix) -> Floats:
    """Probability of every label for each text, float32 [texts, labels].

    `members` says how often each text has each different word of `found`, float32 [texts, words]. A text without
    words has a row of zeros.
    """
    if not len(found.keys) or not members.shape[0]:
        return np.zeros((members.shape[0], len(model.labels)), np.float32)
    grams = list(ngrams(found))
    whole = word_buckets(found)
    matrices = [_rows_of_words(model.rows[gram_buckets(hashes)], counts) for hashes, counts in grams]
    matrices.append(_rows_of_words(model.rows[whole], np.ones(len(whole), np.int64)))
    sizes = np.sum([counts for _, counts in grams], axis=0).astype(np.float32)

    lengths = members @ (sizes + model.in_first_step[matrices[-1].indices])
    hidden = (members @ _sums(matrices, model.tables[0]) + model.end) / (lengths + 1)[:, None]
    table = _softmax(hidden @ model.output.T)
    table[lengths == 0] = 0
    _share_out(model, table, members, matrices, sizes + 1)
    return table


def _share_out(
    model: LanguageModel, table: Floats, members: csr_matrix, matrices: list[csr_matrix], sizes: Floats
) -> None:
    """Second step, in place: inside the group of a text's likeliest label."""
    chosen = np.where(table.any(axis=1), model.group_of[table.argmax(axis=1)], -1)
    for number, group in enumerate(model.groups):
        texts = np.flatnonzero(chosen == number)
        if not len(texts):
            continue
        part = members[texts]
        words = np.flatnonzero(np.bincount(part.indices, minlength=len(sizes)))
        sums = _sums([matrix[words] for matrix in matrices], model.tables[1 + number])
        part = part[:, words]
        scores = part @ sums / (part @ sizes[words])[:, None] ** LENGTH_POWER + group.bias
        mass = table[np.ix_(texts, group.members)].sum(axis=1, keepdims=True)
        table[np.ix_(texts, group.members)] = _softmax(scores) * mass


def _rows_of_words(rows: npt.NDArray[np.int32], counts: Integers) -> csr_matrix:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    matrix = csr_matrix((len(counts), 1 << 31 - 1), dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = np.ones(len(rows), np.float32), rows, offsets
    return matrix


def _sums(matrices: list[csr_matrix], table: Floats) -> Floats:
    total = np.zeros((matrices[0].shape[0], table.shape[1]), np.float32)
    for matrix in matrices:
        part = csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], len(table)), copy=False)
        total += part @ table
    return total


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def save(model: LanguageModel, path: Path) -> None:
    """Write the file of a model; the same weights give the same bytes."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "labels": np.frombuffer("\n".join(model.labels).encode(), np.uint8),
        "end": model.end,
        "output": model.output.astype(np.float16),
        **_packed("first", model.buckets, model.vectors),
    }
    for number, group in enumerate(model.groups):
        arrays |= {f"group{number}.members": group.members.astype(np.int16), f"group{number}.bias": group.bias}
        arrays |= _packed(f"group{number}", group.buckets, group.weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue(), zipfile.ZIP_DEFLATED
            )


def _packed(name: str, buckets: Integers, values: Floats) -> dict[str, npt.NDArray[Any]]:
    """Distances between buckets byte by byte, and values in steps, column by column: both compress well so."""
    scale = np.maximum(np.abs(values).max(axis=0, initial=0), 1e-12) / LEVELS
    steps = np.diff(buckets, prepend=0).astype("<u4")
    return {
        f"{name}.steps": steps.view(np.uint8).reshape(-1, 4).T,
        f"{name}.scale": scale.astype(np.float32),
        f"{name}.values": np.round(values / scale).astype(np.int8).T,
    }


def load(path: Path) -> LanguageModel:
    """The model of a file. Raises DataError for a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        groups: list[Group] = []
        while f"group{len(groups)}.members" in arrays:
            name = f"group{len(groups)}"
            groups.append(
                Group(arrays[f"{name}.members"].astype(np.int64), *_unpacked(arrays, name), arrays[f"{name}.bias"])
            )
        labels = tuple(arrays["labels"].tobytes().decode().split("\n"))
        output = arrays["output"].astype(np.float32)
        return LanguageModel(labels, *_unpacked(arrays, "first"), arrays["end"], output, tuple(groups))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (
        KeyError,
        ValueError,
        OSError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: is not a language model of this version") from error


def _unpacked(arrays: dict[str, npt.NDArray[Any]], name: str) -> tuple[Integers, Floats]:
    steps = np.ascontiguousarray(arrays[f"{name}.steps"].T).view("<u4").ravel()
    buckets = np.cumsum(steps.astype(np.int64))
    if len(buckets) and buckets[-1] >= 2 * BUCKETS:
        raise ValueError(f"{name}: bucket {buckets[-1]} is too high")
    return buckets, np.ascontiguousarray(arrays[f"{name}.values"].T * arrays[f"{name}.scale"])
