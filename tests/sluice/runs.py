"""A small recipe for runs through the command line, and how run folders are compared."""

import hashlib
from pathlib import Path

CORPUS = Path(__file__).parents[2] / "examples" / "quickstart" / "documents"

RECIPE = """\
name: tiny
seed: 3
sources:
  - name: corpus
    path: "{corpus}/[!r]*/*"
    licence: CC0-1.0
  - name: records
    path: "{corpus}/records"
    columns: {{text: body, id: doc, url: link, date: published, licence: rights}}
extract: {{shard_bytes: 60_000, ocr: none}}
split: {{validation: 0.15}}
tokenizer: {{vocabulary_size: 600}}
mix: {{cell_tokens: 2000}}
pretrain:
  model: {{hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 16}}
  threads: 1
  device: cpu
  micro_batch_tokens: 512
  checkpoint_every: 4
  validate_every: 8
  validation_tokens: 1024
  stages:
    - name: s1
      tokens: 6144
      sequence_length: 64
      batch_size: 8
      learning_rate: {{peak: 3.0e-3, end: 1.5e-3, warmup: 0.2}}
    - name: s2
      tokens: 3072
      sequence_length: 64
      batch_size: 8
      mixture: {{domain: {{mathematics: 3}}}}
      learning_rate: {{shape: linear, end: 3.0e-4}}
    - name: s3
      tokens: 2048
      sequence_length: 256
      batch_size: 2
      mixture: {{lengths: {{share: 0.75, boundary: 128, minimum: 32}}}}
      packing: best-fit
      rope_base: 1_000_000
      learning_rate: {{shape: linear, peak: 5.0e-4, end: 0, warmup: 0.2}}
evaluate: {{max_tokens: 4096}}
export: {{dtype: float32, prompts: ["The "]}}
"""

LOGS = {"run.json", "report.html", "metrics.jsonl", ".lock"}  # times and places; no comparison reads them


def write_recipe(folder: Path, corpus: Path = CORPUS, text: str = RECIPE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(text.format(corpus=corpus))
    return path


def contents(run: Path) -> dict[str, str]:
    """Relative path -> hash of every file of a run that is not a log."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in LOGS and "tensorboard" not in path.parts
    }
