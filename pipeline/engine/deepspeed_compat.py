"""Workarounds for DeepSpeed, each with its reason."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator

import torch


def _choose_accelerator(device: torch.device) -> None:
    """DeepSpeed's accelerator is that of `device`, also where it was imported before a fork.

    A parent that sees GPUs has chosen CUDA for its CPU ranks too.
    """
    from deepspeed.accelerator import get_accelerator, set_accelerator

    if device.type == "cpu" and get_accelerator().device_name() != "cpu":
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        set_accelerator(CPU_Accelerator())


def _allow_fp16_on_cpu() -> None:
    """Lets DeepSpeed take fp16 on CPUs without instructions for it, as tests do."""
    from deepspeed.accelerator import get_accelerator

    if not torch.cuda.is_available():
        get_accelerator().is_fp16_supported = lambda: True


def _quiet_logs() -> None:
    """DeepSpeed's and torch's progress chatter off; warnings and errors stay."""
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)


@contextlib.contextmanager
def _without_mlflow() -> Iterator[None]:
    """DeepSpeed's autotuner imports MLflow where it can, and pandas: a second for each rank."""
    if "mlflow" in sys.modules:
        yield
        return
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # so an import fails at once
    try:
        yield
    finally:
        del sys.modules["mlflow"]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drops what DeepSpeed prints while it starts.

    Memory figures, "built successfully", and that an optimizer of ours was not tested with ZeRO.
    """
    from deepspeed.utils import logger

    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
