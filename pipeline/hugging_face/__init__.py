"""Exported folders and their parity record; reading Hugging Face folders."""
