"""Runs the pretrain stage of a toy in a process of its own: pretrain_worker.py ROOT OUTPUT [SLEEP_SECONDS].

SLEEP_SECONDS makes every step last, so that a signal finds the training in the middle.
"""

import sys
import time
from pathlib import Path

from schemas.errors import Interrupted
from schemas.job import Job
from schemas.recipe import Recipe
from trainer.stages import pretrain


class Slow:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        print(note, flush=True)
        time.sleep(self.seconds)


def main() -> int:
    root, output = Path(sys.argv[1]), sys.argv[2]
    recipe = Recipe.model_validate_json((root / "recipe.json").read_text())
    inputs = {name: str(root / name) for name in ("tokenizer", "tokenize", "pack")}
    try:
        pretrain(Job(recipe, inputs, output, Slow(float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)))
    except Interrupted as stop:
        print(stop, flush=True)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
