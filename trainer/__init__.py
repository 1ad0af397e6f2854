"""The Qwen3 model and the loop that trains it from packed shards."""
