"""Tests of what evaluations do to training."""
