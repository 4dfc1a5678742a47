"""Imports of large packages without Python's cyclic garbage collector.

torch, DeepSpeed and megatron-core make millions of objects while they are imported, nearly all of
which live as long as the process. The collector walks through them again and again and frees next
to nothing: a third of the processor time of a rank's start.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """In this block no garbage is collected; later collections leave out what it has made.

    For import statements only: cyclic garbage that is made in the block is never freed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # also spares training a walk through all modules at each full collection
        if was_enabled:
            gc.enable()
