"""Kernels that are launched together: CUDA graphs, and what others need of them.

No GPU has run this yet.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from configs.load import ConfigError

Results = tuple[Tensor, ...]


class Graphs(Protocol):
    """Runs functions of tensors, and notes what kernels they launch."""

    def run(self, function: Callable[[], Results]) -> Results:
        """What `function` returns, of which nothing is noted."""

    def capture(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        """(what `function` returns, how to launch its kernels again); it has run once.

        The same kernels then read and write the same memory, the results included. Python does not
        run again: all that changes from time to time has to be in tensors.
        """


class CudaGraphs:
    """Graphs of one GPU. They share their memory: results are to be read before the next launch."""

    def __init__(self, device: torch.device) -> None:
        """Raises ConfigError without a GPU."""
        if device.type != "cuda":
            raise ConfigError(
                "compute.cuda_graphs on needs a CUDA device, and this machine has none: set it to "
                "auto"
            )
        # Kernels cannot be captured on torch's default stream, and those of a backward pass run on
        # the stream where a parameter was first used: all passes are on this one.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Results]) -> Results:
        """See `Graphs`."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = function()
        current.wait_stream(self._stream)
        return results

    def capture(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        """See `Graphs`; raises ConfigError where torch cannot capture `function`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog, a save) may call CUDA meanwhile.
        mode = "thread_local"
        try:
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                results = function()
        except RuntimeError as error:
            # The end of a capture that failed raises an error of its own.
            cause = error.__context__ or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise ConfigError(
                f"compute.cuda_graphs on: CUDA cannot capture a micro-batch: {reason}\nSet it to "
                "auto, and please report this"
            ) from error
        graph.replay()  # kernels that are captured do not run
        return results, graph.replay
