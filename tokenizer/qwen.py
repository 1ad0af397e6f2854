"""Qwen's tokenizer: its pattern, its added tokens, its files, and a fast encoder that reads them.

Text goes through NFC, is split by `PATTERN`, and every piece is merged by byte-level BPE. The 26 added tokens follow
the BPE vocabulary (the published models: 151,643 BPE tokens, so `<|endoftext|>` is 151643). `tokenizer.json` is the
format of Hugging Face `tokenizers`, and `AutoTokenizer.from_pretrained(folder)` gives the same ids; encoding here
runs on `tiktoken`, several times faster. Source: the Qwen3 technical report (arXiv:2505.09388), section 2, and the
tokenizer files published with the models.
"""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from schemas.errors import ConfigError

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_DOCUMENT = "<|endoftext|>"

# In the order of their ids. The flag says whether decoders may leave the token out (`skip_special_tokens`).
ADDED_TOKENS: tuple[tuple[str, bool], ...] = (
    (END_OF_DOCUMENT, True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# Byte-level BPE writes a byte as a printable character. 188 bytes are Latin-1 letters and signs and stand for
# themselves; the others take U+0100, U+0101, ... in turn. Ids 0-255 are the bytes in the order of these characters.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + [b for b in range(256) if b not in set(_PRINTABLE)])
_CHARACTERS = [chr(b) for b in _PRINTABLE] + [chr(0x100 + i) for i in range(256 - len(_PRINTABLE))]
_TO_CHARACTER = {byte: ord(character) for byte, character in zip(BYTE_ORDER, _CHARACTERS)}
_TO_BYTE = {ord(character): byte for byte, character in zip(BYTE_ORDER, _CHARACTERS)}

# Two steps below cost more than they should on text no one writes: tiktoken's regular expressions keep a backtracking
# state per white-space character and panic at about a million, and the standard library orders a run of combining
# marks in quadratic time. Longer runs than these are cut, so time per document stays proportional to its length.
_LONGEST_SPACE = 50_000
_LONGEST_MARKS = 1_000
_LONG_SPACE = regex.compile(rf"(?<![^\S\r\n])[^\S\r\n]{{{_LONGEST_SPACE + 1},}}+")
_LONG_MARKS = regex.compile(rf"(?<!\p{{M}})\p{{M}}{{{_LONGEST_MARKS + 1},}}+")


class Tokenizer:
    """Encodes text to ids and back; made by `Tokenizer.load`.

    Encoding never yields an added token: `<|endoftext|>` inside a document is ordinary text. Callers put the ids of
    added tokens in by themselves (`end_of_document`, `added_tokens`).

    Ids equal those of Hugging Face `tokenizers` on the exported file, with two exceptions: text that spells out an
    added token, and runs of more than 50,000 spaces (or tabs, not newlines) or 1,000 combining marks, which are cut at
    these lengths. Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
    """

    def __init__(self, tokens: list[bytes], added_tokens: dict[str, int]) -> None:
        """`tokens[i]` is the token of BPE rank and id i; `added_tokens` maps a name to its id."""
        self.added_tokens = added_tokens
        self.vocabulary_size = len(tokens) + len(added_tokens)
        self.end_of_document = added_tokens[END_OF_DOCUMENT]
        #: int32 [vocabulary_size]: UTF-8 bytes a token stands for, 0 for added tokens (for bits per byte).
        self.bytes_per_token = np.array([len(token) for token in tokens] + [0] * len(added_tokens), dtype=np.int32)
        self._encoding = tiktoken.Encoding(
            "sluice",
            pat_str=PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens=added_tokens,
        )

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.json`, or the one in a folder. Raises ConfigError when it is not of this kind."""
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        try:
            content = json.loads(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"{file}: cannot read the tokenizer ({error.strerror})") from error
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON ({error})") from error
        try:
            _check_pipeline(file, content)
            tokens = _read_tokens(file, content["model"])
            added = {token["content"]: token["id"] for token in content["added_tokens"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file}: not a tokenizer.json of Hugging Face tokenizers ({error!r})") from error
        if sorted(added.values()) != list(range(len(tokens), len(tokens) + len(added))):
            raise ConfigError(f"{file}: the ids of the added tokens do not follow the {len(tokens)} BPE tokens")
        if END_OF_DOCUMENT not in added:
            raise ConfigError(f"{file}: no added token {END_OF_DOCUMENT}")
        return cls(tokens, added)

    def encode(self, text: str) -> list[int]:
        """Ids of NFC(text)."""
        return self._encode(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One uint32 array of ids per text; read-only."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        text = to_nfc(text)
        if len(text) > _LONGEST_SPACE and len(parts := _cut_runs(text, _LONG_SPACE, _LONGEST_SPACE)) > 1:
            return np.concatenate([self._encode(part) for part in parts])
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            return self._encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids. Bytes that are not UTF-8 become U+FFFD; ids beyond the vocabulary (padding rows) say nothing."""
        known = np.asarray(ids, dtype=np.int64)
        known = known[(known >= 0) & (known < self.vocabulary_size)]
        return self._encoding.decode(known.tolist(), errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; for an added token its name in UTF-8."""
        return self._encoding.decode_single_token_bytes(token)


def to_nfc(text: str) -> str:
    """NFC of `text` in linear time: a run of more than 1,000 combining marks is ordered 1,000 at a time."""
    if text.isascii():
        return text
    parts = _cut_runs(text, _LONG_MARKS, _LONGEST_MARKS) if len(text) > _LONGEST_MARKS else [text]
    normal = [p if unicodedata.is_normalized("NFC", p) else unicodedata.normalize("NFC", p) for p in parts]
    return "".join(normal)


def _cut_runs(text: str, long_run: regex.Pattern, limit: int) -> list[str]:
    """`text` cut after every `limit` characters of the runs that `long_run` finds."""
    cuts = [at for run in long_run.finditer(text) for at in range(run.start(), run.end(), limit)[1:]]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]


def _check_pipeline(file: Path, content: dict[str, Any]) -> None:
    """The encoder below runs one fixed pipeline: a file that asks for another would give other ids."""
    expected = _pipeline()
    for step in ("normalizer", "pre_tokenizer"):
        if _without_offsets(content[step]) != _without_offsets(expected[step]):
            raise ConfigError(f"{file}: its {step} is not Qwen's; only Qwen's pipeline is supported")
    model = content["model"]
    if model["type"] != "BPE" or any(model.get(k) for k in ("unk_token", "byte_fallback", "dropout", "ignore_merges")):
        raise ConfigError(f"{file}: not a byte-level BPE model without unknown token, byte fallback and dropout")


def _without_offsets(step: Any) -> Any:
    """`step` without `trim_offsets`, which differs between writers and changes no id."""
    if isinstance(step, dict):
        return {key: _without_offsets(value) for key, value in step.items() if key != "trim_offsets"}
    return [_without_offsets(item) for item in step] if isinstance(step, list) else step


def _read_tokens(file: Path, model: dict[str, Any]) -> list[bytes]:
    """Tokens in the order of their ids, after checking that the merges make exactly these, in this order."""
    vocabulary: dict[str, int] = model["vocab"]
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[name] for name in names] != list(range(len(names))):
        raise ConfigError(f"{file}: the ids of the vocabulary are not 0 to {len(names) - 1}")
    if names[:256] != _CHARACTERS:
        raise ConfigError(f"{file}: the first 256 tokens are not the 256 bytes")
    merges = model["merges"]
    if len(merges) != len(names) - 256:
        raise ConfigError(f"{file}: {len(merges)} merges, but {len(names) - 256} tokens besides the 256 bytes")
    for rank, (merge, name) in enumerate(zip(merges, names[256:]), 256):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left + right != name or vocabulary.get(left, rank) >= rank or vocabulary.get(right, rank) >= rank:
            raise ConfigError(f"{file}: merge {rank - 256} ({left} {right}) does not make token {rank} ({name})")
    try:
        return [bytes(map(_TO_BYTE.__getitem__, map(ord, name))) for name in names]
    except KeyError as error:
        raise ConfigError(f"{file}: a token holds {chr(error.args[0])!r}, which stands for no byte") from error


def write_tokenizer(folder: Path | str, tokens: list[bytes], merges: list[tuple[int, int]]) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; equal arguments give equal bytes.

    tokens: BPE tokens by id, first the bytes in `BYTE_ORDER`; merges[i]: the two ids that make token 256 + i.
    """
    names = [token.decode("latin-1").translate(_TO_CHARACTER) for token in tokens]
    added = [
        {"id": len(tokens) + i, "content": name, **_PLAIN, "special": special}
        for i, (name, special) in enumerate(ADDED_TOKENS)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {name: i for i, name in enumerate(names)},
        "merges": [f"{names[a]} {names[b]}" for a, b in merges],
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **_pipeline(),
        "model": model,
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": [name for name, special in ADDED_TOKENS[1:] if special],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_DOCUMENT,
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": END_OF_DOCUMENT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _pipeline() -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
    }
