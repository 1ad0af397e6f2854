"""The model of language identification: fastText's classifier, then one for each group of languages that look alike.

First step, as in fastText (Joulin et al. 2017): a text is the mean of the vectors of its n-grams, its known words and
the end of the line, and a softmax over all labels. Second step, where the likeliest label belongs to a group and is not
the only one of it with any probability: that of the group is shared out anew by multinomial logistic regression on the
same n-grams and on words. Both are sums over words, so every word of a batch is looked up once, however many texts it
stands in.

The file is an `npz` archive without pickled objects: buckets of hashed n-grams and words, ascending, with vectors and
weights in whole steps of each column's own size. In memory they are float32.
"""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from annotators.ngrams import LONGEST, Words, framed, ngrams
from schemas.errors import ConfigError, DataError

BUCKETS = 1 << 21  # of hashed n-grams; as many again of whole words

NOWHERE = 2 * BUCKETS  # the bucket of no n-gram and no word; so is every higher one

STEP = 0.3  # of the values in the file, as a share of the root mean square of their column
STEPS = (40, 127)  # of the largest value of a column, at least and at most
TEXTS, WORDS = 256, 4096  # that are worked on together
ROWS = 16  # products of this size stay on one thread; starting others costs three times what they do
LARGEST = 1 << 28  # bytes of a file's arrays
SURE = 0.9999  # of the probability of a group
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


@dataclass(frozen=True, eq=False)  # a model is itself, so that what is derived from it can be kept
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
        """Bucket -> 1 + place among all buckets that any step knows, those of the first step before others, or 0."""
        table = np.zeros(NOWHERE + 1, np.int32)
        for group in self.groups:
            table[group.buckets] = 1
        table[self.buckets] = 0
        others = np.flatnonzero(table)
        table[self.buckets] = np.arange(1, len(self.buckets) + 1)
        table[others] = np.arange(len(others)) + len(self.buckets) + 1
        return table

    @cached_property
    def known(self) -> int:
        """Buckets that any step knows."""
        return int(self.rows.max())

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.int32], ...]:
        """For each group: row -> row of its table, 0 where the group does not know it."""
        found = []
        for group in self.groups:
            place = np.zeros(self.known + 1, np.int32)
            place[self.rows[group.buckets]] = np.arange(1, len(group.buckets) + 1)
            found.append(place)
        return tuple(found)

    @cached_property
    def tables(self) -> tuple[Floats, ...]:
        """What each step adds up: vectors, then the weights of each group; the first and the last row are zeros."""
        steps = (self.vectors, *(group.weights for group in self.groups))
        return tuple(np.pad(values, ((1, 1), (0, 0))) for values in steps)

    def sums(self, step: int, parts: csr_matrix) -> Floats:
        """Sum of what a step has for the rows of each line of `parts`."""
        table = self.tables[step]
        if step:
            indices = self.places[step - 1].take(parts.indices, mode="clip")
        else:
            indices = np.minimum(parts.indices, len(table) - 1)
        return csr_matrix((parts.data, indices, parts.indptr), (parts.shape[0], len(table))) @ table

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
    return hashes & np.uint32(BUCKETS - 1)


def probabilities(model: LanguageModel, found: Words, members: csr_matrix) -> Floats:
    """Probability of every label for each text, float32 [texts, labels].

    `members` says how often each text has each different word of `found`, float32 [texts, words]. A text without
    words has a row of zeros.
    """
    if not len(found.keys) or not members.shape[0]:
        return np.zeros((members.shape[0], len(model.labels)), np.float32)
    parts, sizes = _parts(model, found)
    rows = model.rows[word_buckets(found)]
    lengths = members @ (sizes + ((rows > 0) & (rows <= len(model.buckets))))
    hidden = np.zeros((-(-len(lengths) // ROWS) * ROWS, len(model.end)), np.float32)
    hidden[: len(lengths)] = (members @ model.sums(0, parts) + model.end) / (lengths + 1)[:, None]
    table = np.empty((len(hidden), len(model.labels)), np.float32)
    for begin in range(0, len(hidden), TEXTS):  # a few texts at a time, so that they stay in the processor's cache
        scores = table[begin : begin + TEXTS]
        some = hidden[begin : begin + TEXTS].reshape(-1, ROWS, hidden.shape[1])
        np.matmul(some, model.output.T, out=scores.reshape(len(some), ROWS, -1))
        _softmax(scores)
    table = table[: len(lengths)]
    table[lengths == 0] = 0
    _share_out(model, table, members, parts, sizes + 1)
    return table


def _parts(model: LanguageModel, found: Words) -> tuple[csr_matrix, Floats]:
    """The rows that each different word is made of, row 0 left out, and the n-grams of each word."""
    whole = model.rows[word_buckets(found)]
    indices, stops, sizes = [], [np.zeros(1, np.int64)], []
    total = 0
    for begin in range(0, len(found.keys), WORDS):
        some = slice(begin, begin + WORDS)
        codes, ends = framed(found, some)
        rows = np.empty((len(codes), LONGEST), np.int32)
        count, size = np.zeros((2, len(codes)), np.uint8)
        for column, (hashes, after) in enumerate(ngrams(codes, ends)):
            # Numbers below 0 have the bit of NOWHERE, words are too short for others to have it.
            buckets = after.view(np.uint32) & np.uint32(NOWHERE)
            buckets |= gram_buckets(hashes)
            own = model.rows.take(buckets, mode="clip")
            if not column:
                own[np.append(0, ends[:-1])] = whole[some]  # in the place of `<`
            rows[:, column] = own
            count += own != 0
            size += after >= 0
        flat = rows.ravel()
        indices.append(np.compress(flat != 0, flat))  # half the time of flat[flat != 0]
        stops.append(np.cumsum(count, dtype=np.int64)[ends - 1] + total)
        sizes.append(np.diff(np.cumsum(size, dtype=np.int64)[ends - 1], prepend=0))
        total = int(stops[-1][-1])
    shape = (len(whole), model.known + 1)
    parts = csr_matrix((np.ones(total, np.float32), np.concatenate(indices), np.concatenate(stops)), shape)
    return parts, np.concatenate(sizes).astype(np.float32)


def _share_out(model: LanguageModel, table: Floats, members: csr_matrix, parts: csr_matrix, sizes: Floats) -> None:
    """Second step, in place: inside the group of a text's likeliest label, unless the first step is SURE of it."""
    chosen = np.where(table.any(axis=1), model.group_of[table.argmax(axis=1)], -1)
    for number, group in enumerate(model.groups):
        texts = np.flatnonzero(chosen == number)
        given = table[np.ix_(texts, group.members)]
        texts = texts[given.max(axis=1, initial=0) < SURE * given.sum(axis=1)]
        if not len(texts):
            continue
        part = members[texts]
        words = np.flatnonzero(np.bincount(part.indices, minlength=len(sizes)))
        place = np.zeros(len(sizes), np.int32)
        place[words] = np.arange(len(words))
        part = csr_matrix((part.data, place[part.indices], part.indptr), (len(texts), len(words)))
        sums = model.sums(1 + number, parts[words])
        scores = part @ sums / (part @ sizes[words])[:, None] ** LENGTH_POWER + group.bias
        mass = table[np.ix_(texts, group.members)].sum(axis=1, keepdims=True)
        table[np.ix_(texts, group.members)] = _softmax(scores) * mass


def _softmax(scores: Floats) -> Floats:
    """In place."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


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
    """Distances between buckets byte by byte, and values in steps, column by column: both compress well so.

    Steps of values are deflated here, by Huffman codes alone: of the repetitions that the archive would look for, those
    that are there by chance make them longer.
    """
    magnitude = np.sqrt((values**2).sum(axis=0) / max(1, len(values)))
    largest = np.abs(values).max(axis=0, initial=1e-12)
    scale = np.clip(STEP * magnitude, largest / STEPS[1], largest / STEPS[0])
    steps = np.diff(buckets, prepend=0).astype("<u4")
    codes = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    content = codes.compress(np.round(values / scale).astype(np.int8).T.tobytes()) + codes.flush()
    return {
        f"{name}.steps": steps.view(np.uint8).reshape(-1, 4).T,
        f"{name}.scale": scale.astype(np.float32),
        f"{name}.values": np.frombuffer(content, np.uint8),
    }


def load(path: Path) -> LanguageModel:
    """The model of a file; nothing in it can run or grow without bound.

    Raises ConfigError where there is no file, DataError for a file that is no model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise ValueError("the arrays are too large")
            arrays = {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
        labels = tuple(arrays["labels"].tobytes().decode().split("\n"))
        end, output = arrays["end"].astype(np.float32), arrays["output"].astype(np.float32)
        buckets, vectors = _unpacked(arrays, "first")
        groups: list[Group] = []
        while f"group{len(groups)}.members" in arrays:
            name = f"group{len(groups)}"
            members, bias = arrays[f"{name}.members"].astype(np.int64), arrays[f"{name}.bias"].astype(np.float32)
            groups.append(Group(members, *_unpacked(arrays, name), bias))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (
        LookupError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        SyntaxError,
    ) as error:
        raise DataError(f"{path}: is not a language model of this version") from error
    fits = end.shape == (vectors.shape[1],) and output.shape == (len(labels), len(end)) and len(labels) > 1
    for group in groups:
        fits &= group.bias.shape == group.members.shape == (group.weights.shape[1],)
        fits &= bool(np.isin(group.members, np.arange(len(labels))).all())
    every = (end, output, vectors, *(values for group in groups for values in (group.weights, group.bias)))
    if not fits or not all(np.isfinite(values).all() for values in every):
        raise DataError(f"{path}: the arrays of this language model do not fit together")
    return LanguageModel(labels, buckets, vectors, end, output, tuple(groups))


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """A member without objects, no larger than the file says that it is."""
    with archive.open(member) as file:
        content = io.BytesIO(file.read())
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ValueError("another version of arrays")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(content)
    if kind.kind not in "iuf" or kind.itemsize * math.prod(shape) != len(content.getbuffer()) - content.tell():
        raise ValueError("an array is not what its header says")
    values = np.frombuffer(content.getbuffer()[content.tell() :], kind)
    return values.reshape(shape, order="F" if fortran else "C")


def _unpacked(arrays: dict[str, npt.NDArray[Any]], name: str) -> tuple[Integers, Floats]:
    steps, scale, content = (arrays[f"{name}.{part}"] for part in ("steps", "scale", "values"))
    if steps.dtype != np.uint8 or content.dtype != np.uint8 or scale.ndim != 1 or not np.isfinite(scale).all():
        raise ValueError(f"{name}: steps and values are bytes and scales are numbers")
    distances = np.ascontiguousarray(steps.T).view("<u4").ravel()
    buckets = np.cumsum(distances.astype(np.int64))
    size = len(buckets) * len(scale)
    values = zlib.decompressobj().decompress(content.tobytes(), size + 1) if 0 < size <= LARGEST else b""
    if len(values) != size or not (distances[1:] > 0).all() or buckets.max(initial=0) >= 2 * BUCKETS:
        raise ValueError(f"{name}: buckets and values do not match")
    table = np.frombuffer(values, np.int8).reshape(len(scale), len(buckets)).T * scale.astype(np.float32)
    return buckets, np.ascontiguousarray(table)
