"""Evaluation of models side by side: held-out text, probes, embeddings, speed."""
