"""Functions in a few kernels by torch.compile, and what to say where it fails."""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

logger = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def fused(
    function: Callable[Arguments, Result],
    what: str,
    *example: Arguments.args,
    **more: Arguments.kwargs,
) -> Callable[Arguments, Result]:
    """`function` compiled for all shapes; where torch cannot compile it, as it is, with a warning.

    It is tried on the arguments `example`. `what` names it in the warning. Nothing is chosen by
    timing kernels, so that every start has the same bits.
    """
    compiled: Any = torch.compile(function, dynamic=True, options={"deterministic": True})
    try:
        compiled(*example, **more)
    except torch._dynamo.exc.TorchDynamoException as error:
        message = failed_to_compile(what, error)
        logger.warning("%s; %s takes many kernels instead, which is slower", message, what)
        return function
    kernel: Callable[Arguments, Result] = compiled
    return kernel


def failed_to_compile(what: str, error: Exception) -> str:
    """Two lines of a message: what torch could not compile, and what it needs for that."""
    reason = " ".join(str(error).strip().splitlines()[:2])
    needed = "It needs a C++ compiler on CPUs, Triton on GPUs"
    return f"torch.compile failed on {what}: {reason}\n{needed}"
