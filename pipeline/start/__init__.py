"""The weights that a run starts from: a Hugging Face folder or a checkpoint of another run."""
