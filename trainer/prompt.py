"""From a place on disk to a model that goes on with a prompt."""

from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from tokenizer.qwen import Tokenizer
from trainer import checkpoint, hf
from trainer.generate import generate
from trainer.model.qwen3 import Qwen3, empty
from trainer.model.sizes import ModelConfig

TOKENIZER = "tokenizer.json"


def load_model(path: str) -> tuple[Qwen3, Tokenizer]:
    """The model and the tokenizer of a run, an exported folder or a checkpoint.

    A run stands for its exported model or, while it has none, for its newest whole checkpoint. The tokenizer of a
    checkpoint is that of the run that it lies in.

    Raises:
        ConfigError: there is nothing of the kind.
    """
    folder = Path(path).absolute()
    for exported in (folder, folder / "model", folder / "export" / "model"):
        if (exported / "config.json").exists():
            _, model = hf.load(exported)
            return model, Tokenizer.load(str(exported))
    if (folder / checkpoint.STATE).exists():
        return _of_checkpoint(folder, checkpoint.check(folder))
    for root in (
        folder,
        folder / "checkpoints",
        *(folder / name / "checkpoints" for name in ("pretrain", "unfinished/pretrain")),
    ):
        if found := checkpoint.newest(root):
            return _of_checkpoint(*found)
    raise ConfigError(f"{path}: is no run with a model, no exported folder (config.json) and no checkpoint")


def _of_checkpoint(folder: Path, state: dict[str, Any]) -> tuple[Qwen3, Tokenizer]:
    found = next(
        (parent / "tokenizer" for parent in folder.parents if (parent / "tokenizer" / TOKENIZER).exists()), None
    )
    if found is None:
        raise ConfigError(f"{folder}: lies in no run that has a tokenizer; give the run or an exported folder")
    model = empty(ModelConfig(**state["model"]))
    checkpoint.load(folder, model)
    return model, Tokenizer.load(str(found))


def continue_text(
    model: Qwen3,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """The prompt and at most `tokens` more tokens; an empty prompt starts as after a document.

    Of a prompt too long for the model its end is read. A `top_k` of 0 is none; see `trainer.generate.generate`.

    Raises:
        ConfigError: `tokens` leave no room for a prompt, or a sampling parameter is out of range.
    """
    ids = tokenizer.encode(prompt) or [tokenizer.end_of_document]
    room = model.config.max_position - tokens
    if room < 1:
        raise ConfigError(f"--tokens {tokens}: the model takes {model.config.max_position} positions in all")
    new = generate(
        model, ids[-room:], tokens, temperature, top_k or None, top_p, seed, stop_ids=(tokenizer.end_of_document,)
    )
    return prompt + tokenizer.decode(new)
