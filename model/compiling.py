"""Functions in a few kernels by torch.compile, and what to say where it fails."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import torch

logger = logging.getLogger(__name__)
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
MAX_GRAPHS = 64
"""Compiled forms of a layer, or of a part of one, in one process."""


def fused(
    function: Callable[[*Arguments], Result],
    what: str,
    *example: *Arguments,
    dynamic: bool = True,
) -> Callable[[*Arguments], Result]:
    """`function` compiled for all shapes; where torch cannot compile it, as it is, with a warning.

    Not `dynamic`: for each shape, the first `MAX_GRAPHS` of them; further ones run as it is.

    It is tried on the arguments `example`. `what` names it in the warning. Nothing is chosen by
    timing kernels, so that every start has the same bits.
    """
    compiled: Any = torch.compile(function, dynamic=dynamic, options={"deterministic": True})
    if not dynamic:
        allow_many_graphs()
    try:
        compiled(*example)
    except torch._dynamo.exc.TorchDynamoException as error:
        message = failed_to_compile(what, error)
        logger.warning("%s; %s takes many kernels instead, which is slower", message, what)
        return function
    kernel: Callable[[*Arguments], Result] = compiled
    return kernel


def allow_many_graphs() -> None:
    """Lets one function be compiled in `MAX_GRAPHS` forms; torch's limit is 8."""
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, MAX_GRAPHS)


def failed_to_compile(what: str, error: Exception) -> str:
    """Two lines of a message: what torch could not compile, and what it needs for that."""
    reason = " ".join(str(error).strip().splitlines()[:2])
    needed = "It needs a C++ compiler on CPUs, Triton on GPUs"
    return f"torch.compile failed on {what}: {reason}\n{needed}"
