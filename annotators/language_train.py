"""Training of the model of language identification from labelled lines.

Rows have `text`, `label` and `source`. Labels outside the 119 of schemas.languages teach what `other` is: each stays a
class of its own, and only the answer is `other`.

What keeps the model from learning sources and lengths instead of languages: rare labels of the 119 are repeated; whole
lines, pieces of 20-60 letters and several lines of a source together are all trained on; inside groups of look-alikes
every label weighs the same, and each of its sources by the square root of its lines, and a line that stands there in
several languages is told only from the versions of it that are there.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from scipy.optimize import minimize
from scipy.sparse import coo_matrix, csr_matrix, diags, vstack
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from annotators.classifier import PREFIX
from annotators.language_model import (
    BUCKETS,
    LENGTH_POWER,
    Floats,
    Group,
    Integers,
    LanguageModel,
    gram_buckets,
    word_buckets,
)
from annotators.ngrams import LONGEST, characters, composed, fold, framed, ngrams, normal_form, words
from schemas.errors import ConfigError
from schemas.languages import LANGUAGES

SEED = 1
REPEATED_TO, MOST_REPEATS = 4_000, 4  # lines of a label
PIECE = (20, 60)  # letters
TOGETHER = (2, 8)  # lines

DIMENSIONS, EPOCHS, RATE, LEAST_WORD_COUNT = 24, 10, 1.0, 20
KEPT = 130_000  # n-grams and words of the first step
KEPT_IN_GROUP = 45_000  # n-grams and words of the second step
LEAST_LINES = 3  # that hold a feature of a group
UNIT = 3.0  # brings the inputs of a line near length 1, so that the penalty means the same for all groups
PENALTY, ITERATIONS = 1e-5, 80
ALIKE = 0.35  # cosine from which two lines may be versions of one
COMPARED, COMPARABLE = 512, 10_000  # lines at once, and of a label and source; more would take too long

LOOK_ALIKES = (
    "arb_Arab ars_Arab apc_Arab arz_Arab ary_Arab acm_Arab acq_Arab aeb_Arab",
    "pes_Arab prs_Arab",
    "hin_Deva awa_Deva bho_Deva mag_Deva mai_Deva hne_Deva npi_Deva mar_Deva",
    "ben_Beng asm_Beng",
    "glg_Latn por_Latn spa_Latn ast_Latn cat_Latn oci_Latn",
    "ita_Latn lmo_Latn lij_Latn vec_Latn scn_Latn fur_Latn srd_Latn",
    "dan_Latn nob_Latn nno_Latn swe_Latn",
    "deu_Latn ltz_Latn nld_Latn lim_Latn afr_Latn",
    "bos_Latn hrv_Latn slv_Latn ces_Latn slk_Latn pol_Latn szl_Latn",
    "rus_Cyrl ukr_Cyrl bel_Cyrl bul_Cyrl mkd_Cyrl srp_Cyrl",
    "ind_Latn zsm_Latn jav_Latn sun_Latn min_Latn ban_Latn bjn_Latn",
    "tgl_Latn ceb_Latn war_Latn ilo_Latn pag_Latn",
    "kaz_Cyrl bak_Cyrl tat_Cyrl",
    "tur_Latn azj_Latn uzn_Latn",
    "zho_Hans zho_Hant yue_Hant",
    "est_Latn fin_Latn",
)
"""Groups of labels that the second step tells apart; all of one script, each label in one group at most."""


@dataclass(frozen=True)
class Lines:
    """Labelled lines, as columns."""

    texts: list[str]
    labels: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]


def read_lines(paths: Iterable[Path]) -> Lines:
    """The rows of Parquet or JSONL files with `text`, `label` and, if there is one, `source`.

    Raises ConfigError where a file cannot be read or has no such columns.
    """
    texts: list[str] = []
    labels: list[str] = []
    sources: list[str] = []
    for path in paths:
        try:
            table = pq.read_table(path) if path.suffix == ".parquet" else pa.json.read_json(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such file") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise ConfigError(f"{path}: is neither Parquet nor JSONL ({str(error).splitlines()[0]})") from error
        missing = {"text", "label"} - set(table.column_names)
        if missing:
            raise ConfigError(f"{path}: there is no column '{sorted(missing)[0]}'; text and label are needed")
        if "source" not in table.column_names:
            table = table.append_column("source", pa.array([""] * table.num_rows, pa.string()))
        for column, values in (("text", texts), ("label", labels), ("source", sources)):
            found = table[column].to_pylist()
            wrong = next((row for row, value in enumerate(found) if not isinstance(value, str)), None)
            if wrong is not None:
                raise ConfigError(f"{path}: row {wrong}: '{column}' is {found[wrong]!r:.40} and has to be text")
            values += found
    if not texts:
        raise ConfigError("there are no lines")
    return Lines(texts, np.array(labels, str), np.array(sources, str))


def train(lines: Lines, threads: int, tell: Callable[[str], None]) -> LanguageModel:
    """Both steps; `tell` hears what is under way. With one thread the same lines give the same model.

    Raises ConfigError for lines that no model can be made from.
    """
    if len(lines.texts) < LEAST_WORD_COUNT or len(np.unique(lines.labels)) < 2:
        raise ConfigError(f"a model needs at least {LEAST_WORD_COUNT} lines of at least two labels")
    if not set(lines.labels.tolist()) & set(LANGUAGES):
        raise ConfigError(
            f"no label is one of the 119, such as {min(LANGUAGES)} (ISO 639-3 code and script); "
            f"the first line has {str(lines.labels[0])!r:.40}"
        )
    tell(f"fastText on {len(lines.texts):,} lines")
    first = train_first(lines, threads)
    groups = []
    names = list(first.labels)
    for members in LOOK_ALIKES:
        present = [label for label in members.split() if label in names]
        if len(present) > 1:
            tell(f"between {', '.join(present)}")
            numbers = np.array([names.index(label) for label in present])
            with threadpool_limits(threads):  # sums of several threads would depend on how many there are
                groups.append(train_group(lines, present, numbers))
    return LanguageModel(first.labels, first.buckets, first.vectors, first.end, first.output, tuple(groups))


def train_first(lines: Lines, threads: int) -> LanguageModel:
    """fastText's classifier, reduced to its KEPT most telling features."""
    import fasttext

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "lines.txt"
        with corpus.open("w", encoding="utf-8") as file:
            for label, text in _examples(lines):
                file.write(f"{PREFIX}{label} {text}\n")
        model = fasttext.train_supervised(
            str(corpus),
            loss="softmax",
            dim=DIMENSIONS,
            epoch=EPOCHS,
            lr=RATE,
            minn=1,
            maxn=LONGEST,
            bucket=BUCKETS,
            minCount=LEAST_WORD_COUNT,
            minCountLabel=1,
            thread=threads,
            seed=SEED,
            verbose=0,
        )
    return of_fasttext(model, lines)


def of_fasttext(model: object, lines: Lines | None = None) -> LanguageModel:
    """The first step of a fastText model with BUCKETS buckets; with `lines`, only its most telling features."""
    known = model.get_words()  # type: ignore[attr-defined]
    matrix = model.get_input_matrix()  # type: ignore[attr-defined]
    end = matrix[known.index("</s>")]
    named = [number for number, word in enumerate(known) if word != "</s>"]
    text = " ".join(known[number] for number in named)
    found = words(fold(characters(text)))
    # The words of a text are in order, so the first place of each is its number.
    whole = word_buckets(found)[found.word]
    vectors = np.concatenate([matrix[len(known) :], np.zeros((BUCKETS, matrix.shape[1]), np.float32)])
    vectors[whole] = matrix[named]
    if lines is None:
        kept = np.flatnonzero(vectors.any(axis=1))
    else:
        weight = np.linalg.norm(vectors, axis=1) * _reach(lines)
        kept = np.sort(np.argsort(-weight, kind="stable")[:KEPT])
        kept = kept[weight[kept] > 0]
    labels = tuple(label.removeprefix(PREFIX) for label in model.get_labels())  # type: ignore[attr-defined]
    return LanguageModel(labels, kept, vectors[kept], end, model.get_output_matrix(), ())  # type: ignore[attr-defined]


def _examples(lines: Lines) -> Iterable[tuple[str, str]]:
    """(label, words) of whole lines, pieces and lines together, in random order."""
    dice = np.random.default_rng(SEED)
    forms = [normal_form(text) for text in lines.texts]
    examples: list[tuple[str, str]] = []
    for label in np.unique(lines.labels):
        rows = np.flatnonzero(lines.labels == label)
        repeats = min(MOST_REPEATS, max(1, REPEATED_TO // len(rows))) if label in LANGUAGES else 1
        for row in np.tile(rows, repeats):
            form = forms[row]
            examples.append((label, form))
            if len(form) > PIECE[1] and dice.random() < 0.4:
                examples.append((label, _piece(form, dice)))
        for source in np.unique(lines.sources[rows]):
            same = dice.permutation(rows[lines.sources[rows] == source])
            at = 0
            while at < len(same) // 3:
                count = int(dice.integers(*TOGETHER, endpoint=True))
                examples.append((label, " ".join(forms[row] for row in same[at : at + count])))
                at += count
    return [examples[number] for number in dice.permutation(len(examples)) if examples[number][1]]


def _piece(form: str, dice: np.random.Generator) -> str:
    """A stretch of whole words of a line, of letters where a word is longer."""
    size = int(dice.integers(*PIECE, endpoint=True))
    begin = int(dice.integers(0, len(form) - size))
    space = form.find(" ", begin, begin + size // 2) + 1
    end = form.rfind(" ", begin + size // 2, begin + size)
    return form[space or begin : end if end > 0 else begin + size].strip()


def _features(texts: list[str]) -> csr_matrix:
    """How often each text has each bucket: shape (texts, 2 * BUCKETS)."""
    parts = []
    for begin in range(0, len(texts), 20_000):
        block = [composed(text) for text in texts[begin : begin + 20_000]]
        ends = np.cumsum([len(text) + 1 for text in block])
        found = words(fold(characters("\n".join(block) + "\n")))
        text = np.searchsorted(ends, found.begins, side="right")
        members = csr_matrix((np.ones(len(text), np.float32), (text, found.word)), shape=(len(block), len(found.keys)))
        owners, buckets = [np.arange(len(found.keys))], [word_buckets(found)]
        codes, ends = framed(found)
        word = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        for hashes, after in ngrams(codes, ends):
            there = after >= 0
            owners.append(word[there])
            buckets.append(gram_buckets(hashes[there]).astype(np.int64))
        columns = np.concatenate(buckets)
        made_of = csr_matrix(
            (np.ones(len(columns), np.float32), (np.concatenate(owners), columns)), shape=(len(found.keys), 2 * BUCKETS)
        )
        parts.append((members @ made_of).tocsr())
    return vstack(parts, format="csr")


def _reach(lines: Lines) -> Floats:
    """For each bucket the largest share of a label's lines that have it: float32 [2 * BUCKETS]."""
    reach = np.zeros(2 * BUCKETS, np.float32)
    for label in np.unique(lines.labels):
        rows = np.flatnonzero(lines.labels == label)
        counts = np.bincount(_features([lines.texts[row] for row in rows]).indices, minlength=2 * BUCKETS)
        reach = np.maximum(reach, np.where(counts > 1, counts / len(rows), 0).astype(np.float32))
    return reach


def train_group(lines: Lines, members: list[str], numbers: Integers) -> Group:
    """Logistic regression between `members`, whose numbers among all labels are `numbers`."""
    rows = np.flatnonzero(np.isin(lines.labels, members))
    truth = np.array([members.index(label) for label in lines.labels[rows]])
    counts = _features([lines.texts[row] for row in rows])
    some = np.diff(counts.indptr) > 0
    rows, truth, counts = rows[some], truth[some], counts[some]
    have = np.bincount(counts.indices, minlength=2 * BUCKETS)
    buckets = np.flatnonzero(have >= LEAST_LINES)
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    rarity = np.log((1 + len(rows)) / (1 + have[buckets])).astype(np.float32)
    inputs = (diags(UNIT / sizes**LENGTH_POWER) @ counts[:, buckets] @ diags(rarity)).astype(np.float32).tocsr()
    sources = lines.sources[rows]
    told = _told_from(_versions(inputs, truth, sources), truth, sources, len(members))
    importance = _importance(lines, rows)
    weights, _ = _regression(inputs, truth, told, importance)
    # What a feature moves: how far its weights lie apart, as often and as much as it is met.
    moves = np.abs(weights - weights.mean(axis=1, keepdims=True)).max(axis=1)
    moves *= np.sqrt(np.asarray(inputs.multiply(inputs).sum(axis=0)).ravel())
    kept = np.sort(np.argsort(-moves, kind="stable")[:KEPT_IN_GROUP])
    weights, bias = _regression(inputs[:, kept], truth, told, importance)
    return Group(numbers, buckets[kept], UNIT * weights * rarity[kept, None], bias)


def _versions(inputs: csr_matrix, truth: Integers, sources: npt.NDArray[np.str_]) -> Integers:
    """Number of the text that each line is a version of.

    Two lines of a source, in different languages, are versions of one text if each is the other's most similar line.
    Where there are more than COMPARABLE lines, they are all taken for texts of their own.
    """
    norms = np.sqrt(np.asarray(inputs.multiply(inputs).sum(axis=1)).ravel())
    unit = (diags(1 / np.maximum(norms, 1e-9)) @ inputs).tocsr()
    begins, ends = [], []
    for source in np.unique(sources):
        own = [np.flatnonzero((sources == source) & (truth == label)) for label in np.unique(truth)]
        own = [rows for rows in own if 0 < len(rows) <= COMPARABLE]
        units = [unit[rows] for rows in own]
        for left, right in combinations(range(len(own)), 2):
            first, second = _nearest_pairs(units[left], units[right])
            begins.append(own[left][first])
            ends.append(own[right][second])
    if not begins:
        return np.arange(len(truth))
    edges = np.concatenate(begins), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(edges[0])), edges), shape=(len(truth), len(truth)))
    return connected_components(graph, directed=False)[1]


def _nearest_pairs(left: csr_matrix, right: csr_matrix) -> tuple[Integers, Integers]:
    """Rows of both that are each other's nearest, with a cosine of ALIKE at least; rows have length 1."""
    columns = right.T.tocsc()
    nearest, cosine = np.zeros(left.shape[0], np.int64), np.zeros(left.shape[0])
    backwards, best = np.full(right.shape[0], -1), np.zeros(right.shape[0])
    for begin in range(0, left.shape[0], COMPARED):
        cosines = (left[begin : begin + COMPARED] @ columns).toarray()
        here = slice(begin, begin + len(cosines))
        nearest[here], cosine[here] = cosines.argmax(axis=1), cosines.max(axis=1)
        highest = cosines.max(axis=0)
        better = highest > best
        backwards[better], best[better] = begin + cosines[:, better].argmax(axis=0), highest[better]
    mutual = np.flatnonzero((cosine >= ALIKE) & (backwards[nearest] == np.arange(len(nearest))))
    return mutual, nearest[mutual]


def _told_from(
    versions: Integers, truth: Integers, sources: npt.NDArray[np.str_], classes: int
) -> npt.NDArray[np.bool_]:
    """The labels that each line has to be told from: [lines, classes].

    Where a language has lines of a source but no version of this one, the version was held back or left out. The words
    of the text would then speak against that language, so nothing is learned of it. A line that stands alone is told
    from all.
    """
    there = np.zeros((versions.max() + 1, classes), bool)
    there[versions, truth] = True
    told = there[versions]
    told[np.bincount(versions)[versions] == 1] = True
    for source in np.unique(sources):
        own = sources == source
        told[np.ix_(own, np.bincount(truth[own], minlength=classes) == 0)] = True
    return told


def _importance(lines: Lines, rows: Integers) -> Floats:
    """Weight of each row: labels alike, sources inside a label by the square root of their lines; mean 1."""
    pairs = list(zip(lines.labels[rows], lines.sources[rows]))
    count = Counter(pairs)
    weight = np.array([count[pair] ** -0.5 for pair in pairs])
    for label in np.unique(lines.labels[rows]):
        own = lines.labels[rows] == label
        weight[own] /= weight[own].sum()
    return (weight / weight.mean()).astype(np.float32)


def _regression(
    inputs: csr_matrix, truth: Integers, told: npt.NDArray[np.bool_], importance: Floats
) -> tuple[Floats, Floats]:
    """Weights [features, classes] and bias [classes] of multinomial logistic regression with an L2 penalty.

    Each line is told from the labels of its row in `told`, its own among them.
    """
    (rows, features), classes = inputs.shape, told.shape[1]
    hidden = np.where(told, np.float32(0), np.float32(-np.inf))
    transposed = inputs.T.tocsr()
    expected = np.zeros((rows, classes), np.float32)
    expected[np.arange(rows), truth] = 1
    share = (importance / importance.sum()).astype(np.float32)

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, bias = flat[:-classes].reshape(features, classes).astype(np.float32), flat[-classes:]
        scores = inputs @ weights + bias.astype(np.float32) + hidden
        scores -= scores.max(axis=1, keepdims=True)
        raised = np.exp(scores)
        total = raised.sum(axis=1)
        value = float((share * (np.log(total) - scores[np.arange(rows), truth])).sum())
        error = (raised / total[:, None] - expected) * share[:, None]
        slope = transposed @ error + PENALTY * weights
        value += PENALTY / 2 * float((weights**2).sum())
        return value, np.concatenate([slope.ravel(), error.sum(axis=0)]).astype(np.float64)

    start = np.zeros((features + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "maxcor": 6}).x
    return found[:-classes].reshape(features, classes).astype(np.float32), found[-classes:].astype(np.float32)
