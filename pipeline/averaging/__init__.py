"""The average of several checkpoints as a new one."""
