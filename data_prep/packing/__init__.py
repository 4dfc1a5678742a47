"""Sequence packing: token ids to rows, and rows to shards."""
