"""Sweeps: many fine-tuning runs on the values of some settings, and what follows from them."""
