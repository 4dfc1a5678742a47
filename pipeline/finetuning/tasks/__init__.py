"""The task types of fine-tuning, one file each, and their union."""
