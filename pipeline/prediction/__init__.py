"""Predictions of fine-tuned models for new text, from an exported folder or from a run."""
