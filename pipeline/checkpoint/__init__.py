"""Checkpoints: manifest (without torch), reader, writer, the newest one of a run."""
