"""Versions of what decides a run's results, read from package metadata: imports nothing heavy."""

import importlib.metadata
import platform

RECORDED_PACKAGES = (
    "torch",
    "deepspeed",
    "megatron-core",
    "tokenizers",
    "webdataset",
    "mlflow",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **found}
