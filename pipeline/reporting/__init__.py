"""The report of runs as a page, from their folders alone: no MLflow, no torch, no data."""
