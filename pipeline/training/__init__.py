"""What the loops of pretraining and fine-tuning share around an optimizer step."""
