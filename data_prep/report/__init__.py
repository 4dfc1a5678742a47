"""The report of a run: what was kept and dropped, and why."""
