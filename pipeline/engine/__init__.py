"""Training under DeepSpeed: start, engine, the optimizer step, throughput."""
