"""CUDA graphs as a CPU can have them: the operators of a function, run again on the same tensors.

As in a CUDA graph, Python does not run again. What it decided stays as it was: a branch, a number,
a tensor made from numpy's values, a seed. So whatever the host changes from one micro-batch to the
next is seen as other bits than those of eager.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import cross_entropy, layer
from pipeline.engine.cuda_graphs import Results


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """In this block a CPU computes by torch's operators alone, layers that are to be compiled with
    dropout masks from counters."""
    layers = mock.patch.object(layer, "_compiled_layer", return_value=layer.run_layer)
    keeps_logits = mock.patch.object(cross_entropy, "keeps_logits", return_value=True)
    plain = mock.patch.object(cross_entropy, "_compiled", lambda body, _: body)
    with layers, keeps_logits, plain:
        yield


class RecordedGraphs:
    """See `pipeline.engine.cuda_graphs.Graphs`."""

    def __init__(self, draws: bool = False) -> None:
        """`draws`: operators may draw from torch's generator, as they may in a CUDA graph."""
        self._draws = draws
        self.num_captures = 0
        self.num_replays = 0

    def run(self, function: Callable[[], Results]) -> Results:
        return function()

    def capture(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        recorder = Recorder(self._draws)
        with recorder:
            results = function()
        self.num_captures += 1

        def replay() -> None:
            self.num_replays += 1
            recorder.run_again()

        return results, replay


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators of a ``with`` block; raises AssertionError for one that the host waits
    for or, unless it `draws`, one that draws from a generator."""

    def __init__(self, draws: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = draws
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        assert not waits(func, args), f"the host waits for {name} in a graph"
        is_drawn = torch.Tag.nondeterministic_seeded in func.tags
        assert self._draws or not is_drawn, f"{name} draws in a graph"
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def run_again(self) -> None:
        """Runs the operators in their order; each writes its result where it was at first."""
        for func, args, kwargs, first in self._calls:
            inputs = {x.untyped_storage().data_ptr() for x in tensors_in((args, kwargs))}
            now = func(*args, **kwargs)
            for old, new in zip(tensors_in(first), tensors_in(now), strict=True):
                # Views of inputs, and inputs that are written to, are there already.
                if old.untyped_storage().data_ptr() not in inputs:
                    old.detach().copy_(new)


def waits(func: Any, args: Any) -> bool:
    """Whether the host waits for the values of tensors, or how many of them are true."""
    is_value = torch.Tag.data_dependent_output in func.tags
    has_own_shape = torch.Tag.dynamic_output_shape in func.tags
    is_index = func.overloadpacket._qualified_op_name == "aten::index"
    selects = not is_index or any(x.dtype == torch.bool for x in tensors_in(args[1]))
    return is_value or (has_own_shape and selects)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
