"""The tensor- and data-parallel grid of ranks, and what is used of megatron-core."""
