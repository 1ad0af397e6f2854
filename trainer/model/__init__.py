"""The Qwen3 architecture. It knows nothing of parallelism, data or checkpoints."""
