"""Texts as bytes: normal form, scrubbing, and batches whose words numpy finds and hashes."""
