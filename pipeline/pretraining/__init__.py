"""Pretraining: batches, step, loop, resume, export."""
