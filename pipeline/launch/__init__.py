"""Rank facts, signals, forked ranks, and errors reported once for all ranks."""
