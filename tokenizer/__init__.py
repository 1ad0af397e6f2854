"""Byte-level BPE with Qwen's pattern: training, encoding, quality."""
