"""How the C library of a process gives memory back to the system."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Of mallopt, in glibc's malloc.h."""
KEPT_BYTES = 256 << 20
MAPPED_BYTES = 32 << 20
"""glibc's own limit, from which on a block is mapped by itself."""


@functools.cache  # once in a process
def keep_freed_memory(everything: bool = False) -> bool:
    """Makes malloc keep up to `KEPT_BYTES` that were freed; whether the C library can.

    Without it the system clears the pages of each table or tensor that is made: Dask
    starts workers with a limit of 64 KB, which cost a third of the processor time of `ingest`.

    `everything`: no memory is given back, that of large blocks too. For training on CPUs, where
    each micro-batch makes the same large tensors again: glibc maps each by itself.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is None:
        return False
    if everything:
        return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES)) and bool(
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
    )
