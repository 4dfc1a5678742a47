"""Functions as machine code: the one door to numba.

A function is compiled at its first call, for the types of its declaration alone. The machine code
is kept in a folder, so that other processes load it in milliseconds instead of compiling for a
second: next to this file, or, where the package is installed read-only, in the user's cache, or in
a private temporary folder; NUMBA_CACHE_DIR replaces these. Where nothing can be written, each
process compiles.

The folder is named after everything that the code depends on (the sources of this package and
where they lie, by which numba finds it, the versions, the processor, numba's variables), so that
all processes that use it would write the same files, and none ever finds code of an older version
or of another processor.
"""

import hashlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from numba import types

P = ParamSpec("P")
R = TypeVar("R")

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.integer[Any]]
BYTE, HALF, INTEGER = types.uint8, types.uint32, types.int64
HASH, FLAG = types.uint64, types.boolean


def read(item: Any) -> Any:
    """The type of a contiguous array that a function reads."""
    return types.Array(item, 1, "C", readonly=True)


def written(item: Any) -> Any:
    """The type of a contiguous array that a function fills."""
    return types.Array(item, 1, "C")


UNALIGNED = types.Array(types.uint64, 1, "A", readonly=True, aligned=False)
"""Eight bytes from each byte of an array on, as a number."""

pread: Any = types.ExternalFunction(
    "pread", types.int64(types.int32, types.uintp, types.uintp, types.int64)
)
"""The system's: (file, where to, bytes, where from) to the bytes that were read; for compiled
functions."""

logger = logging.getLogger(__name__)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Declares a part of compiled functions, which only they call."""
    return cast(Callable[P, R], numba.njit(function))


class Kernel(Generic[P, R]):
    """A function that is compiled when it is first called."""

    def __init__(self, function: Callable[P, R], parameters: Sequence[Any]) -> None:
        self._function, self._parameters = function, parameters
        self._compiled: Callable[P, R] | None = None
        self.is_kept = False
        """Whether other processes find the compiled function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (self._compiled or self.compile())(*args, **kwargs)

    def compile(self) -> Callable[P, R]:
        """The compiled function: loaded, or else compiled and kept."""
        folder = cache_folder()
        if folder is not None and self._compiled is None:
            default, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
            try:
                self._compiled = numba.njit(self._parameters, cache=True)(self._function)
                self.is_kept = True
            except Exception as error:  # whatever a full or damaged folder raises
                logger.warning("%s: not used for compiled code: %s", folder, error)
            finally:
                numba.config.CACHE_DIR = default
        if self._compiled is None:
            self._compiled = numba.njit(self._parameters)(self._function)
        return self._compiled


def compiled(*parameters: Any) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Declares a function of arguments of these types, without Python objects, to be compiled."""
    return lambda function: Kernel(function, parameters)


def compiled_for_each(*parameters: tuple[Any, ...]) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """The same of a function of arguments of several types."""
    return lambda function: Kernel(function, list(parameters))


@cache
def cache_folder() -> Path | None:
    """The folder of the machine code of this version on this processor; None if none can be
    written."""
    for base in _bases():
        folder = base / f"numba-{_version()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _bases() -> Iterator[Path]:
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        yield Path(given)
        return
    yield Path(__file__).parent / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home):
        yield Path(home) / "encoder-pretraining"
    private = Path(tempfile.gettempdir()) / f"encoder-pretraining-{os.getuid()}"
    if _is_private(private):
        yield private


def _is_private(folder: Path) -> bool:
    """Whether nobody else can put code into a folder; it is made if it is missing."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return is_own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _version() -> str:
    """A name for what the machine code depends on."""
    processor = llvmlite.binding.get_host_cpu_name()
    features = llvmlite.binding.get_host_cpu_features().flatten()
    versions = [str(sys.implementation.cache_tag), numba.__version__, llvmlite.__version__]
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"
    ]
    package = Path(__file__).parent
    parts = [str(package), *versions, processor, features, *variables]
    digest = hashlib.sha256(os.fsencode("\0".join(parts)))
    for path in sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
