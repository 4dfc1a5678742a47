"""The parts of `benchmarks.learning`."""
