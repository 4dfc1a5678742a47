"""The encoder: architecture, tensor parallelism, objectives. Imports no torch by itself."""

import os
import warnings

# At import megatron-core reports that optional CUDA packages are missing, which nothing here uses.
warnings.filterwarnings("ignore", module=r"megatron\.")

# megatron-core has torch find out, at import, whether there is CUDA. With this it asks the driver's
# library; else it would start CUDA, and no process forked later could use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
