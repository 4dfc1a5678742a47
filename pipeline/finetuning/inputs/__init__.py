"""Files of fine-tuning tasks -> records: one file for each kind of format, and their union."""
