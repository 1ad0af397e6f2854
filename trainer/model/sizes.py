"""The shapes of the Qwen3 family (arXiv 2505.09388, table 1, with the widths of the published configurations).

No torch here: the recipe and the planner count parameters without it.
"""

from dataclasses import dataclass, fields, replace

from schemas.errors import ConfigError
from schemas.recipe import Pretrain


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One dense Qwen3 model. `rope_base` is the base of the first stage; the model may change it later.

    Raises:
        ConfigError: a size is not positive, `heads` is no multiple of `kv_heads`, or `head_dim` is odd.
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    tied_embeddings: bool
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    max_position: int = 32_768
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "tied_embeddings" and not value > 0:
                raise ConfigError(f"model: {field.name} is {value}; it must be positive")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model: {self.heads} heads cannot share {self.kv_heads} kv_heads; make heads a multiple of kv_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim is {self.head_dim}; rotary embeddings need an even number")


def _published(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> ModelConfig:
    # 151,936 rows are the 151,669 tokens of the vocabulary, padded.
    return ModelConfig(
        vocabulary_size=151_936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=8,
        tied_embeddings=tied,
    )


SIZES: dict[str, ModelConfig] = {
    "qwen3-0.6b": _published(1024, 3072, 28, 16, True),
    "qwen3-1.7b": _published(2048, 6144, 28, 16, True),
    "qwen3-4b": _published(2560, 9728, 36, 32, True),
    "qwen3-8b": _published(4096, 12_288, 36, 32, False),
    "qwen3-14b": _published(5120, 17_408, 40, 40, False),
    "qwen3-32b": _published(5120, 25_600, 64, 64, False),
}


def model_config(pretrain: Pretrain, vocabulary_rows: int) -> ModelConfig:
    """The recipe's model with as many rows of vocabulary as the tokenizer needs and room for its longest sequence."""
    longest = max(stage.sequence_length for stage in pretrain.stages)
    base = pretrain.stages[0].rope_base
    if isinstance(pretrain.model, str):
        published = SIZES[pretrain.model]
        longest = max(longest, published.max_position)
        return replace(published, vocabulary_size=vocabulary_rows, max_position=longest, rope_base=base)
    return ModelConfig(
        vocabulary_size=vocabulary_rows, max_position=longest, rope_base=base, **pretrain.model.model_dump()
    )


def parameter_count(config: ModelConfig) -> tuple[int, int]:
    """Parameters in all, and without the embedding and the head (the N of scaling laws)."""
    query = config.heads * config.head_dim
    key_value = config.kv_heads * config.head_dim
    attention = config.hidden_size * (2 * query + 2 * key_value) + 2 * config.head_dim
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    block = attention + feed_forward + 2 * config.hidden_size
    body = config.layers * block + config.hidden_size
    embeddings = (1 if config.tied_embeddings else 2) * config.vocabulary_size * config.hidden_size
    return body + embeddings, body
