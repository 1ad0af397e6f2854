"""The shapes of the Qwen3 family (arXiv 2505.09388, table 1, with the widths of the published configurations).

No torch here: the recipe and the planner count parameters without it.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from schemas.errors import ConfigError
from schemas.recipe import ModelFolder, Pretrain
from trainer.model import published

LOSS_CHUNK = 512  # tokens whose logits exist at the same time
MOST_PARAMETERS = 1 << 48  # a number that somebody wrote must not become the size of anything


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One Qwen3 model. `rope_base` is the base of the first stage; the model may change it later.

    A model with `experts` is a mixture of experts in every layer: `intermediate_size` is then the width of one expert,
    and every token goes through `experts_per_token` of them. A dense model has 0 of both.

    Raises:
        ConfigError: a size is not positive, `heads` is no multiple of `kv_heads`, `head_dim` is odd, or the experts of
            a token are none or more than there are.
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    tied_embeddings: bool
    experts: int = 0
    experts_per_token: int = 0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    max_position: int = 32_768
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name in ("tied_embeddings", "experts", "experts_per_token")
            if not (value > 0 or (may_be_zero and value == 0)):
                raise ConfigError(f"model: {field.name} is {value}; it must be positive")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model: {self.heads} heads cannot share {self.kv_heads} kv_heads; make heads a multiple of kv_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim is {self.head_dim}; rotary embeddings need an even number")
        if (count := parameter_count(self).total) > MOST_PARAMETERS:
            raise ConfigError(f"model: its shape makes {count:.3g} parameters, more than 2^48; a number in it is wrong")
        if bool(self.experts) != bool(self.experts_per_token) or self.experts_per_token > self.experts:
            raise ConfigError(
                f"model: experts_per_token is {self.experts_per_token} of {self.experts} experts; choose from 1 to all "
                "of them, or leave both out for a dense model"
            )


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. `body` is without embedding and head (the N of scaling laws); `active` are those that one
    token goes through, embedding and head among them."""

    total: int
    body: int
    active: int


def parameter_count(config: ModelConfig) -> Parameters:
    """Counted from the shapes alone."""
    query = config.heads * config.head_dim
    key_value = config.kv_heads * config.head_dim
    attention = config.hidden_size * (2 * query + 2 * key_value) + 2 * config.head_dim
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    router = config.hidden_size * config.experts
    block = attention + max(1, config.experts) * feed_forward + router + 2 * config.hidden_size
    body = config.layers * block + config.hidden_size
    total = body + (1 if config.tied_embeddings else 2) * config.vocabulary_size * config.hidden_size
    idle = config.layers * (config.experts - config.experts_per_token) * feed_forward
    return Parameters(total, body, total - idle)


def _published(
    hidden: int, intermediate: int, layers: int, heads: int, tied: bool = False, kv_heads: int = 8, experts: int = 0
) -> ModelConfig:
    # 151,936 rows are the 151,669 tokens of the vocabulary, padded.
    return ModelConfig(
        vocabulary_size=151_936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        tied_embeddings=tied,
        experts=experts,
        experts_per_token=8 if experts else 0,
    )


SIZES: dict[str, ModelConfig] = {
    "qwen3-0.6b": _published(1024, 3072, 28, 16, True),
    "qwen3-1.7b": _published(2048, 6144, 28, 16, True),
    "qwen3-4b": _published(2560, 9728, 36, 32, True),
    "qwen3-8b": _published(4096, 12_288, 36, 32),
    "qwen3-14b": _published(5120, 17_408, 40, 40),
    "qwen3-32b": _published(5120, 25_600, 64, 64),
    "qwen3-30b-a3b": _published(2048, 768, 48, 32, kv_heads=4, experts=128),
    "qwen3-235b-a22b": _published(4096, 1536, 94, 64, kv_heads=4, experts=128),
}


def folder_config(folder: Path) -> ModelConfig:
    """The shape of the model in a Hugging Face folder.

    Raises:
        ConfigError: it holds no config.json of a Qwen3, or one with impossible numbers.
    """
    found = published.read_fields(folder)
    try:
        return ModelConfig(**found)
    except ConfigError as error:
        raise ConfigError(f"{folder / published.FILE}: {error}") from error


def model_config(pretrain: Pretrain, vocabulary_rows: int) -> ModelConfig:
    """The recipe's model, with room for its longest sequence.

    A new model has as many rows of vocabulary as the tokenizer needs, one from a folder has its own. The rotary base is
    that of the first stage, where it states one.

    Raises:
        ConfigError: the folder holds no Qwen3.
    """
    longest = max(stage.sequence_length for stage in pretrain.stages)
    if isinstance(pretrain.model, ModelFolder):
        config = folder_config(Path(pretrain.model.path))
    elif isinstance(pretrain.model, str):
        config = replace(SIZES[pretrain.model], vocabulary_size=vocabulary_rows)
    else:
        config = ModelConfig(vocabulary_size=vocabulary_rows, max_position=longest, **pretrain.model.model_dump())
    base = pretrain.stages[0].rope_base
    return replace(
        config, max_position=max(longest, config.max_position), rope_base=config.rope_base if base is None else base
    )
