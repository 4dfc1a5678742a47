"""Runs stages: frozen plans, atomic parts, worker processes, progress."""
