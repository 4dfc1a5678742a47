"""Data preparation: from sources of text to shards of rows. Imports no torch."""
