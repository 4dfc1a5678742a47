"""The encoder: architecture, tensor parallelism, objectives. Imports no torch by itself."""

import warnings

# At import megatron-core tells that optional CUDA packages are missing, which nothing here uses.
warnings.filterwarnings("ignore", module=r"megatron\.")
