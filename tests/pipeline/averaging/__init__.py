"""Tests of averages of checkpoints."""
