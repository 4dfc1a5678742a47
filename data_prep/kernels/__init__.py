"""Loops over the bytes and words of texts, compiled to machine code: one file a subject."""
