"""torch without its compiler, which nothing here uses and which takes a rank 1.5 s to load.

megatron-core and DeepSpeed decorate functions with `torch.compile` while they are imported, and
torch's optimizers ask the compiler to leave them alone when they are made.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """In this block `torch.compile` gives the function that it is handed, as it is."""
    compile_ = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


def _as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In place of `torch.compile`, plain or with arguments: the function itself."""
    return function if function is not None else _as_it_is


def keep_compiler_out_of_optimizers() -> None:
    """Optimizers are made without a call of the compiler.

    torch 2.13 keeps on each function that is hidden from the compiler what the compiler gave for
    it (``torch._compile._disable_dynamo``). Put there first, it is not asked; a torch that keeps it
    elsewhere only loads its compiler again.
    """
    for method in vars(torch.optim.Optimizer).values():
        hidden = getattr(method, "__wrapped__", None)
        if hidden is not None and not hasattr(hidden, "__dynamo_disable"):
            hidden.__dynamo_disable = hidden


class AdamW(torch.optim.AdamW):
    """torch's AdamW; its step, which torch wraps in calls of the compiler, is taken bare."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, to the bit that of torch's own."""
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)
