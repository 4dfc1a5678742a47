"""The schema of a run, its steps, plan, memory estimate and folder. Imports no torch."""
