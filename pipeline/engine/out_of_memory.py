"""Running out of memory, as an error that says what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.load import UserError

OTHER_TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Texts of errors that have no class of their own: of host memory, of pinned memory, of cuBLAS."""


class OutOfMemory(UserError):
    """An accelerator, or the host, has too little memory for a run."""


@contextmanager
def named_out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory where PyTorch finds no memory in this block.

    A user's error and none of the machine: the same launch would end in the same way, so it is not
    worth another try.
    """
    try:
        yield
    except RuntimeError as error:
        is_other = any(text in str(error) for text in OTHER_TEXTS)
        if not isinstance(error, torch.OutOfMemoryError) and not is_other:
            raise
        reason = str(error).splitlines()[0]
        raise OutOfMemory(
            f"out of memory: {reason}\nOther processes on this machine may hold memory. Else set "
            "smaller micro-batches (batch.micro_rows, in fine-tuning micro_rows: the global batch "
            "stays as it is), compute.activation_checkpointing.type to selective or layers, or a "
            "higher parallel.zero_stage or parallel.tensor; `python -m pipeline.plan CONFIG` shows "
            "what each of them needs"
        ) from error
