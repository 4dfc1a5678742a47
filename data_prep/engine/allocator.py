"""How the C library of a worker gives memory back to the system."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt, in glibc's malloc.h."""
KEPT_BYTES = 256 << 20
MAPPED_BYTES = 32 << 20
"""glibc's own limit, from which on a block is mapped by itself."""


@functools.cache  # once in a process
def keep_freed_memory() -> bool:
    """Makes malloc keep up to `KEPT_BYTES` that were freed; whether the C library can.

    Dask starts workers with a limit of 64 KB, and the tables of a part come and go by the megabyte:
    the system then clears their pages for each again, a third of the processor time of `ingest`.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES)) and bool(
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
    )
