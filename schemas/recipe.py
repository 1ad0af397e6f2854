"""The recipe: everything a run does, in one YAML file, checked before any work.

Every key here is documented by its description; `sluice recipe schema` prints them as JSON Schema and
`docs/recipe.md` is generated from them.
"""

import re
from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from schemas import paths
from schemas.errors import ConfigError
from schemas.labels import ANNOTATORS, DOMAINS, EDUCATIONAL_BINS
from schemas.languages import GROUPS
from schemas.languages import LABELS as LANGUAGE_LABELS

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Temperature = Annotated[float, Field(ge=0, le=2)]

ModelName = Literal[
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "qwen3-32b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
]

Checkpointing = Literal["none", "selective", "full"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


NUMERIC_LABELS = {
    column.name: annotator
    for annotator, schema in ANNOTATORS.items()
    for column in schema
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
}
"""Label columns that a rule can bound, with the annotator that makes them."""


def _must_be_known(what: str, names: Iterable[Any], known: Iterable[Any]) -> None:
    allowed = sorted(known)
    for name in names:
        if name not in allowed:
            near = get_close_matches(str(name), [str(one) for one in allowed], 1)
            shown = ", ".join(str(one) for one in allowed[:30]) + (", ..." if len(allowed) > 30 else "")
            meant = f", did you mean '{near[0]}'?" if near else ";"
            raise ValueError(f"unknown {what} '{name}'{meant} known are {shown}")


class Columns(Section):
    """Names of the columns or JSON fields of user files; the defaults are used when the file has them."""

    text: str = Field("text", description="Column that holds the text. The only one a file must have.")
    id: str = Field("id", description="The user's own id; must be unique inside a source where present.")
    url: str = Field("url", description="Address of the document.")
    date: str = Field("date", description="Date of the document.")
    licence: str = Field("licence", description="Licence of the document; wins over the source's licence.")


class Source(Section):
    """One place that documents come from."""

    name: Name = Field(description="Name of the source; part of every document id, so keep it stable.")
    kind: Literal["files", "repositories", "python-environment"] = Field(
        "files",
        description="`files`: PDF, HTML, WARC, EPUB, DOCX, Markdown, text, source code, JSONL and Parquet, also inside "
        "tar and zip. `repositories`: every folder or archive directly below `path` is a repository and becomes one "
        "document. `python-environment`: the READMEs, licences, docstrings and source files of the running Python and "
        "its packages.",
    )
    path: str | None = Field(
        None, description="A folder, a file, a glob or an fsspec URL; relative to the recipe file."
    )
    columns: Columns = Field(default_factory=Columns, description="Column mapping for JSONL and Parquet.")
    licence: str | None = Field(None, description="Licence of documents that do not state their own.")
    priority: int = Field(0, description="Among duplicates the source with the higher priority survives.")
    max_bytes: int = Field(
        12_000_000, ge=10_000, description="For `python-environment`: size of the files chosen by path hash."
    )

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Source":
        if self.kind != "python-environment" and not self.path:
            raise ValueError(f"a source of kind '{self.kind}' needs a `path`")
        if self.kind == "python-environment" and self.path:
            raise ValueError("a source of kind 'python-environment' takes no `path`")
        return self


class Server(Section):
    """A model behind an OpenAI-compatible server, for example vLLM."""

    url: str = Field(description="Address of the server, for example http://localhost:8000/v1.")
    model: str = Field(min_length=1, description="Name by which the server knows the model.")
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable with the key; may be unset.")
    concurrency: int = Field(8, ge=1, le=1024, description="Requests under way at a time, for each worker.")
    seconds: float = Field(300.0, gt=0, le=86_400, description="Time limit for one answer.")
    attempts: int = Field(
        8, ge=1, le=100, description="Tries of one request while the server is busy, fails or is not there."
    )
    max_tokens: int = Field(8_000, ge=1, description="Longest answer in tokens.")
    input_price: float = Field(0.0, ge=0, description="Price of a million tokens sent; for the sum in the report.")
    output_price: float = Field(0.0, ge=0, description="Price of a million tokens answered.")

    @model_validator(mode="after")
    def _address(self) -> "Server":
        scheme, _, rest = self.url.partition("://")
        host = rest.partition("/")[0]
        if scheme not in ("http", "https") or not host or any(sign in self.url for sign in "?# \t\n"):
            raise ValueError("`url` must be the address of a server, for example http://localhost:8000/v1")
        if "@" in host:  # a recipe is copied into every run
            raise ValueError(f"`url` holds a password; put it into the environment variable {self.key_variable}")
        return self


class Vision(Server):
    """A vision model that reads pages without a usable text layer."""

    pages: Literal["needed", "all"] = Field(
        "needed", description="`needed`: pages whose text layer will not do. `all`: every page but blank ones."
    )
    temperatures: list[Temperature] = Field(
        [0.1, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0],
        min_length=1,
        max_length=20,
        description="A page whose answer will not do is asked again, one answer for each of these at most.",
    )
    max_fallback: Share = Field(
        0.004, description="A PDF is rejected when a larger share of its pages fell back from the model."
    )


class Refine(Server):
    """A language model that repairs extracted PDF text; what it changes too much is rejected."""

    chunk_characters: int = Field(4_000, ge=200, le=20_000, description="Longest piece of text sent at a time.")
    overlap_characters: int = Field(
        300, ge=0, le=20_000, description="Text before a chunk that is sent along as context."
    )
    temperatures: list[Temperature] = Field(
        [0.0, 0.3],
        min_length=1,
        max_length=20,
        description="A piece whose answer is rejected is asked again, one answer for each of these at most.",
    )
    max_length_change: Share = Field(0.15, description="Largest change of length, as a share.")
    max_edit_distance: Share = Field(0.25, description="Largest edit distance, as a share of the length.")


class Extract(Section):
    """How files are read, and bounds on untrusted ones; what exceeds them becomes a reject."""

    pdf_backend: Literal["pymupdf", "pypdfium2"] = Field("pymupdf", description="Library that opens PDF files.")
    passwords: list[str] = Field([], description="Passwords to try on encrypted PDF files.")
    ocr: Literal["none", "tesseract", "rapidocr"] = Field(
        "tesseract", description="Character recognition for pages without a usable text layer."
    )
    ocr_languages: list[str] = Field(
        [], description="Language packs, for example [deu, fra]; without any, by the script that is detected."
    )
    vision: Vision | None = Field(None, description="A vision model that reads such pages before recognition is tried.")
    refine: Refine | None = Field(None, description="A language model that repairs the text of PDF files.")
    answers: str | None = Field(
        None, description="Folder that keeps the answers of models, so that a rerun asks nothing twice."
    )
    html: Literal["careful", "fast"] = Field(
        "careful",
        description="How the main text of a page is found: `careful` asks a second extractor for its opinion, `fast` "
        "does without.",
    )
    repair_encoding: bool = Field(
        False,
        description="Mend mojibake, which is UTF-8 that was read in another encoding (`Ã©` for `é`), with ftfy; source "
        "code stays as it is. Every line before and after is in the dataset `refinements`.",
    )
    max_file_bytes: int = Field(
        2 << 30,
        ge=1,
        description="Largest file of one document, and most bytes that a compressed file may unpack to; tar, zip and "
        "WARC may unpack to 100 times their size. Plain JSONL and Parquet are streamed and may be larger.",
    )
    max_characters: int = Field(5_000_000, ge=1, description="Largest document in characters.")
    max_pages: int = Field(20_000, ge=1, description="Largest PDF in pages.")
    file_seconds: float = Field(
        60.0, gt=0, le=86_400, description="Time limit for one HTML, EPUB or DOCX file, and for opening a PDF."
    )
    page_seconds: float = Field(20.0, gt=0, le=86_400, description="Time limit for one page of a PDF.")
    ocr_seconds: float = Field(120.0, gt=0, le=86_400, description="Time limit for recognising one page.")
    shard_bytes: int = Field(
        8 << 20, ge=1, description="Input files are grouped to about this many bytes per document shard."
    )


_HOW_A_SERVER_IS_ASKED = {
    *("url", "key_variable", "concurrency", "seconds", "attempts", "input_price", "output_price"),
}
HOW_EXTRACTION_RUNS: dict[str, Any] = {
    "answers": True,
    "vision": _HOW_A_SERVER_IS_ASKED,
    "refine": _HOW_A_SERVER_IS_ASKED,
}
"""Keys of `extract` that say how answers are come by and not what is asked; changing them makes nothing anew."""


class Annotate(Section):
    """Which labels are made."""

    labels: list[Literal["language", "quality", "educational", "domain", "safety", "pii", "stop_words", "fluency"]] = (
        Field(
            ["language", "quality", "educational", "domain", "safety", "pii", "stop_words", "fluency"],
            min_length=1,
            description="Annotators that run.",
        )
    )

    @model_validator(mode="after")
    def _each_once(self) -> "Annotate":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` names an annotator twice")
        return self


class Range(Section):
    """Bounds on one label column; a missing bound does not bind."""

    min: float | None = Field(None, description="Values below are dropped.")
    max: float | None = Field(None, description="Values above are dropped.")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


SHIPPED_THRESHOLDS, NO_THRESHOLDS = "shipped", "none"
"""Values of `filter.thresholds` that are no path."""


def _between(low: float | None = None, high: float | None = None) -> Range:
    return Range(min=low, max=high)


def _code_rules() -> dict[str, Range]:
    return {"characters": _between(100, 200_000), "duplicate_line_character_ratio": _between(high=0.5)}


class Filter(Section):
    """Which documents are kept. Every reason that fired is recorded as `<column>.min` or `<column>.max`.

    Documents that are not code are judged by the bounds of their language; what `rules` say of a column wins over
    these for every language. docs/quality.md tells where the shipped bounds are from.
    """

    thresholds: str = Field(
        SHIPPED_THRESHOLDS,
        min_length=1,
        description="Bounds for each language: `shipped`, `none`, or a file that `sluice quality fit` wrote, relative "
        "to the recipe file.",
    )
    rules: dict[str, Range | None] = Field(
        {},
        description="Label column -> bounds that replace those of the thresholds for every language; null takes "
        "the column's bounds away.",
    )
    code_rules: dict[str, Range] = Field(
        default_factory=_code_rules, description="Label column -> bounds, for documents of domain `code`."
    )
    languages: list[str] | None = Field(
        None, description="Keep only these labels, for example [eng_Latn, deu_Latn]; all if absent."
    )
    language_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least probability of the language label (not for code); absent: that of the thresholds, or 0.3 "
        "without any.",
    )

    @model_validator(mode="after")
    def _known(self) -> "Filter":
        for rules in (self.rules, self.code_rules):
            _must_be_known("label column", rules, NUMERIC_LABELS)
        _must_be_known("language", self.languages or [], LANGUAGE_LABELS)
        if self.language_score is not None and "language_score" in self.rules:
            raise ValueError("`language_score` is bounded twice; give the key, or the rule of this name")
        return self

    def needs(self) -> set[str]:
        """The annotators whose labels the section speaks of; those of the thresholds come on top."""
        bounded = [column for column, bounds in self.rules.items() if bounds is not None]
        needed = {NUMERIC_LABELS[column] for column in (*bounded, *self.code_rules)}
        if self.languages is not None:
            needed.add("language")
        if self.code_rules:
            needed.add("domain")
        return needed


class Dedup(Section):
    """Exact and near-duplicates (MinHash-LSH); the best document of a cluster survives."""

    exact: bool = Field(True, description="Drop exact copies (NFC, white space folded).")
    urls: bool = Field(False, description="Drop documents with the address of a better one.")
    near: bool = Field(True, description="Drop near-duplicates.")
    scope: Literal["all", "source"] = Field(
        "all",
        description="`all`: whatever the documents come from. `source`: only documents of one source are compared.",
    )
    ngram: int = Field(5, ge=1, le=50, description="Words per shingle (characters x 2 without spaces).")
    bands: int = Field(14, ge=1, le=256, description="Bands of the signature.")
    rows: int = Field(8, ge=1, le=64, description="Rows per band.")
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Choose bands and rows for this similarity, from at most `permutations` values of a signature; "
        "`bands` and `rows` are not used then.",
    )
    permutations: int = Field(128, ge=2, le=1024, description="With `threshold`: values of a signature.")
    verify: Annotated[Share, Field(gt=0)] | None = Field(
        None,
        description="Least Jaccard similarity of the shingles of two documents; absent: sharing a band is enough. "
        "Costs disk space of about the size of the text while the stage runs.",
    )
    lines: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Cut lines that stand in more than this many of the kept documents out of all but one of them.",
    )
    paragraphs: Annotated[int, Field(ge=1)] | None = Field(None, description="The same for paragraphs.")
    substrings: Literal["none", "cut", "report"] = Field(
        "none",
        description="Passages of `substring_words` words or more that several kept documents share. `cut`: their whole "
        "sentences are cut out of all documents but one. `report`: they are listed.",
    )
    substring_words: int = Field(
        50, ge=10, le=10_000, description="Words of a passage (characters x 2 without spaces), at least."
    )
    index: bool = Field(False, description="Keep an index, so that later runs can be compared with this one.")
    against: list[str] = Field(
        [],
        description="Earlier runs with an index, relative to the recipe file. What they kept stays kept; their "
        "documents are not written again.",
    )
    component_memory: int = Field(
        4 << 30,
        ge=0,
        description="Bytes that one worker may take to find the clusters; with more pairs it is done in rounds over "
        "all workers, with the same result.",
    )

    @model_validator(mode="after")
    def _verifies_something(self) -> "Dedup":
        if self.verify is not None and not self.near:
            raise ValueError("`verify` speaks of near-duplicates, which `near: false` switches off")
        return self


HOW_DEDUP_RUNS = frozenset({"component_memory", "against"})
"""Keys of `dedup` that change nothing in what it writes; what `against` names is told by the hash of its dataset."""


class Decontaminate(Section):
    """Overlap with evaluation sets."""

    benchmarks: list[str] = Field(
        [], description="JSONL or Parquet files of items; relative to the recipe file, globs allowed."
    )
    question: list[str] = Field(
        "instruction Body question Question question_stem query problem Problem prompt goal premise ctx sentence text "
        "code input".split(),
        description="Fields of an item that ask, joined in this order where present; passages that stand elsewhere too "
        "(context, passage) are better left out.",
    )
    choices: list[str] = Field(
        "choices options endings option1 option2 sol1 sol2 choice1 choice2".split(),
        description="Fields with what there is to choose from: texts, lists or dictionaries.",
    )
    answer: list[str] = Field(
        "answer answers Answer answerKey label correct correct_answer best_answer target output solution "
        "canonical_solution rationale long_answer".split(),
        description="Fields that answer; the number or letter of a choice stands for its text.",
    )
    ngram: int = Field(13, ge=8, le=50, description="Words in a row that make a candidate: docs/decontamination.md.")
    overlap: Share = Field(0.5, gt=0, description="An item is found when at least this share of its words is found.")
    common: int = Field(
        10, ge=1, description="Words that more documents than this hold without the rest of the item are a formula."
    )
    action: Literal["drop", "cut", "report"] = Field(
        "drop", description="Drop the document, cut the words of the item out of what is trained on, or only report."
    )


class Mask(Section):
    """What the model does not read. Documents stay as they are; spans of them are replaced on the way to tokens."""

    pii: list[Literal["email", "phone", "ip", "iban", "credit_card"]] = Field(
        [],
        description="Kinds of personal data that are replaced by values reserved for examples (email@example.com, "
        "192.0.2.1, ...), in the text of the tokenizer and in the token shards; needs the labels `pii`.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> "Mask":
        if len(set(self.pii)) != len(self.pii):
            raise ValueError("`pii` names a kind twice")
        return self


class Split(Section):
    """The validation split: whole clusters, chosen by hash."""

    validation: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.005, description="Share of the clusters.")


class TokenizerSection(Section):
    """Trains a byte-level BPE tokenizer on the kept training documents, or takes an existing one."""

    path: str | None = Field(
        None, description="An existing tokenizer: its folder, tokenizer.json or .tiktoken ranks; trains none."
    )
    vocabulary_size: int = Field(151_669, ge=512, le=2_000_000, description="With the 26 added tokens.")
    max_bytes: int = Field(
        1 << 30, ge=1, description="Training text: documents are chosen by hash up to about this size."
    )


class LongMixture(Section):
    """Shares by document length, as in the long-context stage of the Qwen3 report; lengths are in tokens."""

    share: Share = Field(0.75, description="Share of the tokens from documents longer than `boundary`.")
    boundary: int = Field(gt=0, description="Tokens; the Qwen3 report uses half the sequence length.")
    minimum: int = Field(gt=0, description="Shorter documents are not used; the Qwen3 report uses an eighth.")

    @model_validator(mode="after")
    def _ordered(self) -> "LongMixture":
        if self.minimum > self.boundary:
            raise ValueError(f"minimum ({self.minimum}) is above boundary ({self.boundary})")
        return self


class Mixture(Section):
    """A document's weight is the product of the weights of its labels; a label not named weighs 1."""

    language: dict[str, Weight] = Field({}, description="Language label -> weight.")
    group: dict[str, Weight] = Field({}, description="Language group -> weight.")
    domain: dict[str, Weight] = Field({}, description="Domain -> weight.")
    educational: dict[int, Weight] = Field({}, description="Educational bin (0 to 3) -> weight.")
    source: dict[str, Weight] = Field({}, description="Source name -> weight.")
    cluster_size: dict[Annotated[int, Field(ge=1)], Weight] = Field(
        {},
        description="Least size of a cluster of duplicates -> weight of the document that stands for it; a smaller "
        "cluster weighs 1. FineWeb-2 takes {1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}; `mix.max_copies` still holds.",
    )
    lengths: LongMixture | None = Field(None, description="Shares by length; absent: any length.")

    def needs(self) -> set[str]:
        """The annotators whose labels the weights speak of."""
        named = {"language": self.language or self.group, "domain": self.domain, "educational": self.educational}
        return {label for label, weights in named.items() if weights}

    @model_validator(mode="after")
    def _known(self) -> "Mixture":
        _must_be_known("language", self.language, LANGUAGE_LABELS)
        _must_be_known("language group", self.group, GROUPS)
        _must_be_known("domain", self.domain, DOMAINS)
        _must_be_known("educational bin", self.educational, range(len(EDUCATIONAL_BINS)))
        return self


class LearningRate(Section):
    """One stage's part of the schedule; it starts where the stage before it ended (the first at zero).

    Warm-up, the peak held, and the decay: with a short `decay` this is WSD, without one the decay follows the warm-up.
    """

    shape: Literal["cosine", "linear", "1-sqrt", "constant"] = Field("cosine", description="Shape of the decay.")
    peak: float | None = Field(None, gt=0, description="Top after warm-up; absent: the end of the stage before.")
    end: float = Field(ge=0, description="Learning rate at the end of the stage (not for `constant`).")
    warmup: Share = Field(0.0, lt=1, description="Share of the stage's tokens in which it climbs to the peak.")
    decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the stage's tokens, at its end, in which it falls (WSD: 0.1 to 0.2); absent: all that "
        "follow the warm-up.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "LearningRate":
        if self.decay is not None and self.shape == "constant":
            raise ValueError("the shape `constant` has no `decay`; choose another shape or leave `decay` out")
        if self.decay is not None and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) are more than the whole stage")
        return self


class BatchRamp(Section):
    """Smaller batches at the beginning of a stage, in equal plateaus of 1, 2, 3, ... times `start` sequences."""

    start: int = Field(gt=0, description="Sequences of the first steps; `batch_size` must be a multiple of it.")
    share: Share = Field(gt=0, description="Share of the stage's tokens before the full batch size is reached.")


class TrainingStage(Section):
    """One of the stages of pre-training (S1 general, S2 reasoning, S3 long context)."""

    name: Name = Field(description="Name of the stage, also of its plan and pack.")
    tokens: int = Field(gt=0, description="Training tokens; rounded down to whole steps.")
    sequence_length: int = Field(ge=8, le=1 << 20, description="Tokens per sequence.")
    batch_size: int = Field(gt=0, description="Sequences per optimizer step, over all ranks.")
    batch_ramp: BatchRamp | None = Field(None, description="Smaller batches at first; absent: all are equal.")
    mixture: Mixture = Field(default_factory=Mixture, description="What the stage is trained on.")
    packing: Literal["concatenate", "best-fit"] = Field(
        "concatenate",
        description="`concatenate`: documents are joined and cut; `best-fit`: documents stay whole, gaps are padding.",
    )
    document_mask: bool = Field(True, description="Attention stays inside a document.")
    rope_base: float | None = Field(
        None,
        gt=1,
        description="Base of the rotary embedding; absent: that of the stage before, for the first stage 10,000 or the "
        "imported model's own.",
    )
    learning_rate: LearningRate

    @model_validator(mode="after")
    def _ramp_reaches(self) -> "TrainingStage":
        if self.batch_ramp and self.batch_size % self.batch_ramp.start:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of batch_ramp.start ({self.batch_ramp.start})"
            )
        return self


class Optimizer(Section):
    """AdamW, and the losses beside the cross-entropy."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="Not applied to norms.")
    decay_embedding: bool = Field(True, description="Weight decay of the embedding, and so of a tied head.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    z_loss: float = Field(
        0.0, ge=0, description="Coefficient of the squared log-normaliser of the logits; off at 0, 1e-5 is usual."
    )
    router_z_loss: float = Field(
        0.0, ge=0, description="The same of each layer's router (models with experts); off at 0, 1e-5 is usual."
    )
    balance_loss: float = Field(
        1e-3, ge=0, description="Coefficient of each layer's balancing loss over the global batch, which is 1 at best."
    )
    balance_exact: bool = Field(
        False,
        description="Count the use of experts over the whole global batch by a forward pass of its own, a third more "
        "work; otherwise over the micro-batches so far.",
    )


class ModelFolder(Section):
    """A Qwen3 to train on from: a Hugging Face folder, dense or mixture of experts."""

    path: str = Field(
        min_length=1,
        description="The folder, relative to the recipe file: config.json, safetensors and, unless `tokenizer.path` "
        "names another, the tokenizer. Shape, weights, rows of vocabulary and the rotary base come from it.",
    )


class Guard(Section):
    """What counts as a bad step and what happens then. Loss or gradient that is not finite always counts.

    Every bad step is written to bad_steps.jsonl with its documents and the norms of the gradient per layer.
    """

    policy: Literal["stop", "skip", "roll-back"] = Field(
        "stop",
        description="`stop`: the run fails; `skip`: the step's update is left out; `roll-back`: weights and optimizer "
        "go back to the last scheduled checkpoint and all data since is passed over.",
    )
    deviations: float | None = Field(
        None,
        gt=0,
        description="Also bad: loss or gradient norm this many standard deviations above its mean over the last steps "
        "(6 is usual); absent: only what is not finite.",
    )
    window: int = Field(
        128, ge=16, le=10_000, description="Steps of the stage that the mean and the deviation are taken of."
    )
    most: int = Field(20, ge=1, description="Bad steps after which the run fails whatever the policy.")


class ModelFields(Section):
    """A Qwen3 model by its fields; the vocabulary comes from the tokenizer, padded to 128 rows."""

    hidden_size: int = Field(ge=8)
    intermediate_size: int = Field(ge=8, description="Width of the feed-forward layer, or of one expert.")
    layers: int = Field(ge=1, le=1000)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(128, ge=4)
    tied_embeddings: bool = True
    init_std: float = Field(0.02, gt=0)
    experts: int = Field(0, ge=0, le=4096, description="Experts in every layer (128 in Qwen3); 0 is a dense model.")
    experts_per_token: int = Field(0, ge=0, description="Experts that a token goes through (8 in Qwen3).")

    @model_validator(mode="after")
    def _divides(self) -> "ModelFields":
        if bool(self.experts) != bool(self.experts_per_token) or self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token ({self.experts_per_token}) must be from 1 to experts ({self.experts})")
        if self.experts and (self.hidden_size % 8 or self.intermediate_size % 8):
            raise ValueError(
                "hidden_size and intermediate_size of a model with experts must be multiples of 8 (a GPU's)"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: the rotary embedding turns pairs")
        return self


HOW_IT_RUNS = frozenset(
    {
        "guard",
        "micro_batch_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "validate_every",
        "validation_tokens",
        "activation_checkpointing",
        "compile",
        "device",
        "threads",
        "cache_bytes",
        "cache_folder",
    }
)
"""Keys of `pretrain` that say how a training is run and watched, not what is trained: they may change in mid-run."""


def _kind_of_model(value: Any) -> str:
    if isinstance(value, dict):
        return "ModelFolder" if "path" in value else "ModelFields"
    return type(value).__name__ if isinstance(value, ModelFolder | ModelFields) else "ModelName"


class Pretrain(Section):
    """The model and its stages of training."""

    model: Annotated[
        Annotated[ModelName, Tag("ModelName")]
        | Annotated[ModelFields, Tag("ModelFields")]
        | Annotated[ModelFolder, Tag("ModelFolder")],
        Discriminator(_kind_of_model),
    ] = Field(description="A published size by name, the fields of a model, or the `path` of one to train on from.")
    stages: list[TrainingStage] = Field(min_length=1, description="Stages of training, in order.")
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer())
    guard: Guard = Field(default_factory=lambda: Guard())
    micro_batch_tokens: int = Field(
        16_384, gt=0, description="Tokens per forward pass and rank, at least one sequence; smaller needs less memory."
    )
    checkpoint_every: int = Field(1000, gt=0, description="Steps between checkpoints; stages end with one too.")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints kept; ends of stages are always kept.")
    keep_every: int | None = Field(
        None,
        gt=0,
        description="Checkpoints at multiples of so many steps, of step 0 too, are kept for good; a multiple of "
        "`checkpoint_every`. Absent: none of them.",
    )
    validate_every: int = Field(500, gt=0, description="Steps between validations.")
    validation_tokens: int = Field(1 << 20, gt=0, description="Largest number of tokens per validation.")
    activation_checkpointing: Checkpointing = Field(
        "none",
        description="What the backward pass computes again: nothing, all but matrix products, or whole blocks.",
    )
    compile: bool = Field(False, description="torch.compile each block (on a GPU).")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU where there is one.")
    threads: int | None = Field(None, ge=1, description="Threads of torch on a CPU; absent: torch decides.")
    cache_bytes: int = Field(
        64 << 30,
        gt=0,
        description="Remote token shards and packs are copied to the machine when they are first read; the least "
        "recently used copies go when all take more than this.",
    )
    cache_folder: str | None = Field(
        None,
        description="Where these copies lie, for all runs and processes of the machine; relative to the recipe file. "
        "Absent: sluice/shards in the user's cache folder.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "Pretrain":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages of training have the same name: {', '.join(names)}")
        if "validation" in names:
            raise ValueError("a stage of training cannot be named 'validation'")
        if self.stages[0].learning_rate.peak is None:
            raise ValueError("the first stage's learning_rate needs a `peak`")
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"keep_every ({self.keep_every}) must be a multiple of checkpoint_every ({self.checkpoint_every}): "
                "there is no checkpoint to keep at other steps"
            )
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Mix(Section):
    """Turns weights into a plan: how often each document is used."""

    max_copies: float = Field(4.0, gt=0, description="No document is used more often than this per stage.")
    cell_tokens: int = Field(100_000, ge=0, description="Cells with fewer tokens are merged with their neighbours.")
    exclude: Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])] = Field(
        [],
        description="Files with ids of documents that no plan may use, also none for validation: document ids in hex "
        "or the users' own. A .txt holds one a line; of .jsonl and .parquet `document_id` is read, or `id`. Relative "
        "to the recipe file. A change makes mix and what follows anew, and tokenizes nothing.",
    )


class Evaluate(Section):
    """Bits per byte on the validation split, per language and domain."""

    max_tokens: int = Field(4 << 20, gt=0, description="Largest number of validation tokens read.")


class Export(Section):
    """The folder that `transformers` loads."""

    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the exported weights.")
    prompts: list[str] = Field([], description="Prompts of the sample continuations in the summary and the report.")


class Recipe(Section):
    """A run, from documents to a pre-trained model."""

    name: Name = Field(description="Name of the run; the default output folder is runs/<name>.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice.")
    sources: list[Source] = Field(min_length=1, description="Where documents come from.")
    extract: Extract = Field(default_factory=lambda: Extract())
    annotate: Annotate = Field(default_factory=lambda: Annotate())
    filter: Filter = Field(default_factory=lambda: Filter())
    dedup: Dedup = Field(default_factory=lambda: Dedup())
    decontaminate: Decontaminate = Field(default_factory=lambda: Decontaminate())
    split: Split = Field(default_factory=lambda: Split())
    mask: Mask = Field(default_factory=lambda: Mask())
    tokenizer: TokenizerSection = Field(default_factory=lambda: TokenizerSection())
    mix: Mix = Field(default_factory=lambda: Mix())
    pretrain: Pretrain | None = Field(None, description="Absent: the run ends with the tokenized shards.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    export: Export = Field(default_factory=lambda: Export())

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources have the same name: {', '.join(names)}")
        for stage in self.pretrain.stages if self.pretrain else []:
            _must_be_known(f"source in the mixture of stage '{stage.name}'", stage.mixture.source, names)
        return self


def training_of(recipe: Recipe) -> Pretrain:
    """The section `pretrain`; ConfigError if the recipe has none."""
    if recipe.pretrain is None:
        raise ConfigError("the recipe has no section `pretrain`, which this stage needs; add it or stop at `tokenize`")
    return recipe.pretrain


# ---------------------------------------------------------------------------------------------------------------
# Reading a recipe, with the line of whatever is wrong


class UniqueKeys(yaml.constructor.SafeConstructor):
    """No silent loss of a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # a list or mapping as a key is refused below
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' stands here twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Loader(UniqueKeys, yaml.SafeLoader):
    """YAML with 1.2 numbers: `3e-4` is a number."""


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_Loader.add_implicit_resolver("!scientific", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
_Loader.add_constructor("!scientific", _float)


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read, override and check a recipe.

    `overrides` are `key=value` with dotted keys (`filter.language_score=0.5`, `pretrain.stages.s1.tokens=1e6`); list
    items go by position or by their `name`. Relative paths in the recipe become relative to its folder.
    Raises ConfigError with file, line, key and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot read the recipe: {reason}") from error
    try:
        node = yaml.compose(text, _Loader)
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: a recipe is a mapping of keys; see `sluice recipe schema`")
    return check_recipe(apply_overrides(value, overrides), path.parent, str(path), node)


def check_recipe(value: dict[str, Any], base: Path, name: str = "recipe", node: yaml.Node | None = None) -> Recipe:
    """Validate a recipe given as plain values; `base` is what relative paths are relative to."""
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_explain(error, name, node)) from None
    return _resolve_paths(recipe, base)


def _resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    def absolute(path: str) -> str:
        return path if not paths.is_local(path) or Path(path).is_absolute() else str((base / path).absolute())

    sources = [
        source.model_copy(update={"path": absolute(source.path)}) if source.path else source
        for source in recipe.sources
    ]
    quality = recipe.filter
    if quality.thresholds not in (SHIPPED_THRESHOLDS, NO_THRESHOLDS):
        quality = quality.model_copy(update={"thresholds": absolute(quality.thresholds)})
    decontaminate = recipe.decontaminate.model_copy(
        update={"benchmarks": [absolute(path) for path in recipe.decontaminate.benchmarks]}
    )
    dedup = recipe.dedup.model_copy(update={"against": [absolute(path) for path in recipe.dedup.against]})
    extract = recipe.extract
    if extract.answers:
        extract = extract.model_copy(update={"answers": absolute(extract.answers)})
    tokenizer, pretrain = recipe.tokenizer, recipe.pretrain
    if tokenizer.path:
        tokenizer = tokenizer.model_copy(update={"path": absolute(tokenizer.path)})
    if pretrain is not None and isinstance(pretrain.model, ModelFolder):
        folder = pretrain.model.model_copy(update={"path": absolute(pretrain.model.path)})
        pretrain = pretrain.model_copy(update={"model": folder})
        if tokenizer.path is None:  # other tokens would mean nothing to the weights
            tokenizer = tokenizer.model_copy(update={"path": folder.path})
    mix = recipe.mix.model_copy(update={"exclude": [absolute(path) for path in recipe.mix.exclude]})
    if pretrain is not None and pretrain.cache_folder:
        pretrain = pretrain.model_copy(update={"cache_folder": absolute(pretrain.cache_folder)})
    return recipe.model_copy(
        update={
            "extract": extract,
            "sources": sources,
            "filter": quality,
            "dedup": dedup,
            "decontaminate": decontaminate,
            "tokenizer": tokenizer,
            "mix": mix,
            "pretrain": pretrain,
        }
    )


def apply_overrides(value: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's plain values with `key=value` overrides put in; see `load_recipe`."""
    for override in overrides:
        _override(value, override)
    return value


def _override(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, for example filter.language_score=0.5")
    try:
        new = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    here: Any = value
    for part in parents:
        if isinstance(here, list):
            here = here[_position(here, part, override)]
        elif isinstance(here, dict):
            if here.get(part) is None:  # absent, or a section that is switched off
                here[part] = {}
            here = here[part]
        else:
            raise ConfigError(f"--set {override}: '{part}' is below a plain value, which has no keys")
    if isinstance(here, list):
        here[_position(here, last, override)] = new
    elif isinstance(here, dict):
        here[last] = new
    else:
        raise ConfigError(f"--set {override}: '{last}' is below a plain value, which has no keys")


def _position(items: list[Any], part: str, override: str) -> int:
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get("name") == part:
            return index
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [str(item.get("name", index)) for index, item in enumerate(items) if isinstance(item, dict)]
    raise ConfigError(f"--set {override}: no item '{part}' in this list; there are: {', '.join(names)}")


def _explain(error: ValidationError, name: str, node: yaml.Node | None) -> str:
    """One line for the first thing that is wrong: file, line, key, what is allowed."""
    details = error.errors()
    if node is not None:
        # A misspelt key is also a missing one; the misspelling is what its writer has to see.
        details.sort(key=lambda detail: (detail["type"] != "extra_forbidden", _line(node, list(detail["loc"]))))
    first = details[0]
    keys = [part for part in first["loc"] if not (isinstance(part, str) and _is_branch(part))]
    where = f"{name}:{_line(node, keys)}" if node is not None else name
    dotted = ".".join(str(part) for part in keys) or "recipe"
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        allowed = _allowed(list(first["loc"][:-1]))
        message = f"unknown key; allowed here: {', '.join(allowed)}"
    elif kind == "missing":
        message = "this key is missing"
    elif "input" in first and not isinstance(first["input"], dict | list):
        message = f"{message[0].lower()}{message[1:]}, not {first['input']!r}"
    others = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {dotted}: {message}{others}"


def _is_branch(part: str) -> bool:
    """pydantic names the branch of a union in the location; it is no key of the file."""
    return part.startswith(("literal[", "function-")) or part[:1].isupper()


def _allowed(keys: list[Any]) -> list[str]:
    """The keys that a section of the recipe allows; of a union that of the branch, which is named by its class."""
    model: Any = Recipe
    found: list[Any] = []
    for key in keys:
        if isinstance(key, int):
            continue
        if branch := [each for each in found if each.__name__ == key]:
            model = branch[0]
            continue
        annotation = model.model_fields[key].annotation if key in getattr(model, "model_fields", {}) else None
        found = _models(annotation)
        if not found:
            return []
        model = found[-1]
    return sorted(model.model_fields)


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]


def _line(node: yaml.Node, keys: list[Any]) -> int:
    """Line of the deepest part of the key path that the file holds."""
    line = node.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == str(key):
                    line, node = key_node.start_mark.line + 1, value_node
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            return line
    return line
