"""Configs and tensors of Hugging Face models, both ways; one file per family."""
