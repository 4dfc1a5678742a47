"""Model cards of exports: what the checkpoint and the record of a run say of a model."""
