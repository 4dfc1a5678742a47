"""Deduplication: exact and near-duplicates, repeated lines and ids; decontamination."""
