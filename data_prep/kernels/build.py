"""Compiles all functions of this package ahead, once for all processes."""

import logging
from collections.abc import Iterator
from typing import Any

from data_prep.kernels import (
    files,
    hashing,
    joins,
    lines,
    normal_form,
    places,
    repeats,
    slots,
    tokens,
    words,
)
from data_prep.kernels.compiled import Kernel, cache_folder

_MODULES = (files, hashing, joins, lines, normal_form, places, repeats, slots, tokens, words)
_COMPLETE = "complete"
"""A file in the folder of the machine code, once it holds all functions."""

logger = logging.getLogger(__name__)


def kernels() -> Iterator[Kernel[Any, Any]]:
    """All compiled functions."""
    for module in _MODULES:
        yield from (value for value in vars(module).values() if isinstance(value, Kernel))


def build() -> None:
    """Fills the folder of the machine code unless an earlier process did.

    Worker processes that start together would else each compile the same functions.
    """
    folder = cache_folder()
    if folder is None:
        logger.warning(
            "no folder for compiled code can be written: each process compiles for about 8 s; "
            "name one in NUMBA_CACHE_DIR"
        )
        return
    if (folder / _COMPLETE).exists():
        return
    logger.info("compiling loops for this processor, once: %s", folder)
    for kernel in kernels():
        kernel.compile()
    if not all(kernel.is_kept for kernel in kernels()):  # each process compiles, and has warned
        return
    try:
        (folder / _COMPLETE).touch()
    except OSError as error:  # the next process tries again
        logger.warning("%s: %s", folder, error)
