"""What models answered, kept on disk, so that no question is paid for twice.

One small JSON file an answer, in a local folder or behind an `fsspec` URL. A file appears whole under its final name,
so any number of workers may share a folder: whoever writes last writes the same question's answer. A file that is
damaged counts as absent.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.hashing import digest

_LARGEST_BYTES = 64 << 20  # of a file that is looked at


@dataclass(frozen=True)
class Answer:
    """What a model said, why it stopped (`stop`, `length`, ...), and the tokens that the server counted."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class AnswerFolder:
    """Answers by the hash of the question.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        try:
            filesystem, inner = paths.filesystem(folder)
            filesystem.makedirs(inner, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"extract.answers: {folder} cannot be used for answers: {error.strerror or error}"
            ) from error

    def _path(self, key: str) -> str:
        return paths.join(self.folder, key[:2], f"{key}.json")

    def get(self, key: str) -> Answer | None:
        """The answer to the question with this hash; None if there is none, or only a damaged one."""
        try:
            with paths.open_read(self._path(key)) as file:
                data = file.read(_LARGEST_BYTES + 1)
            if len(data) > _LARGEST_BYTES:
                return None
            entry = json.loads(data)
            answer = Answer(**entry["answer"])
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return None
        return answer if entry == _entry(key, answer) else None

    def put(self, key: str, answer: Answer) -> None:
        """Raises DataError when it cannot be written: what was paid for would be lost."""
        try:
            with paths.write_atomic(self._path(key)) as file:
                file.write(json.dumps(_entry(key, answer), ensure_ascii=True).encode())
        except OSError as error:
            raise DataError(f"{self.folder}: an answer cannot be kept: {error.strerror or error}") from error


def _entry(key: str, answer: Answer) -> dict[str, Any]:
    # The hash covers the question too: a file under another question's name is damaged.
    value = asdict(answer)
    return {"answer": value, "hash": digest([key, json.dumps(value, sort_keys=True)])}
