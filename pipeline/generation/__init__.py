"""Sequence-to-sequence models that start from an exported encoder (translation, summaries)."""
