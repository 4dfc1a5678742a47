"""The passes of a micro-batch as one launch: forward, backward and the sum of its gradients.

    host      tokens, positions, labels, seeds     the numbers of every micro-batch
                 | copied, without waiting
    device    buffers  ->  graph of one form  ->  losses, and gradients added to their sums

What a graph launches does not change: whatever differs between micro-batches is in its buffers, or
makes another form. The first micro-batches of a form run kernel by kernel, so that all is compiled
and allocated, with the same results.

H heads.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from model.dropout import seeded
from model.task_heads import LossAndCounts
from model.transfer import copy_into
from pipeline.engine.cuda_graphs import Graphs, Results

logger = logging.getLogger(__name__)
WARM_UPS = 3
"""Micro-batches of a form before it is captured, as torch's documentation says."""
MAX_FORMS = 8
"""Graphs at a time. A phase of pretraining has two forms: with and without padding."""


@dataclass(frozen=True)
class HostInputs:
    """All that the host decides of one micro-batch."""

    tensors: Mapping[str, Tensor]
    """By name, in host memory."""
    form: Hashable
    """What else decides about kernels; the shapes of `tensors` do, too."""
    seed: int | None
    """Of torch's generator, from which kernels of the forward pass draw; None: none does."""


@runtime_checkable
class GraphedMicroBatch(Protocol):
    """A micro-batch whose passes can be captured."""

    def host_inputs(self, model: Any) -> HostInputs:
        """What the host decides of it for `model`."""

    def forward_of(self, model: Any, inputs: Mapping[str, Tensor]) -> Mapping[str, LossAndCounts]:
        """By head, what `model` gives for `inputs`, the tensors of `host_inputs` on the device.

        Nothing else of this micro-batch may be used but its form.
        """


class GraphedPasses:
    """The passes of micro-batches of `model`, whose hooks add gradients to their sums."""

    def __init__(self, model: nn.Module, device: torch.device, graphs: Graphs) -> None:
        self._model, self._device, self._graphs = model, device, graphs
        self._forms: dict[Hashable, _Form] = {}
        self._has_warned = False

    def run(
        self, micro_batch: GraphedMicroBatch, heads: Sequence[str], scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        """([H] loss sums, [H] numbers predicted right); gradients of the losses times `scales` [H]
        are added to their sums.

        The results hold until the next call.
        """
        inputs = micro_batch.host_inputs(self._model)
        shapes = tuple((name, x.shape, x.dtype) for name, x in inputs.tensors.items())
        key = (inputs.form, shapes, tuple(heads))
        form = self._forms.get(key)
        if form is None:
            form = _Form(self._passes_of(micro_batch, heads), inputs, scales)
            if len(self._forms) < MAX_FORMS:
                self._forms[key] = form
            else:
                self._warn_of_many_forms()
        with seeded(self._device, inputs.seed):
            losses, num_right = form.run(self._graphs, inputs, scales)
        return losses, num_right

    def forget(self) -> None:
        """Frees all graphs. For changes of settings that are part of them, as dropout rates are."""
        self._forms.clear()

    def _passes_of(
        self, micro_batch: GraphedMicroBatch, heads: Sequence[str]
    ) -> Callable[[Mapping[str, Tensor], Tensor], Results]:
        def passes(inputs: Mapping[str, Tensor], scales: Tensor) -> Results:
            # Not called as a module: DeepSpeed's hooks on it are for its own forward pass.
            results = micro_batch.forward_of(self._model.forward, inputs)
            losses, num_right = loss_sums(results, heads)
            (losses * scales).sum().backward()  # type: ignore[no-untyped-call]
            return losses.detach(), num_right

        return passes

    def _warn_of_many_forms(self) -> None:
        if not self._has_warned:
            logger.warning(
                "compute.cuda_graphs: micro-batches of more than %d forms (shapes, with and "
                "without padding): further ones run kernel by kernel, which is slower",
                MAX_FORMS,
            )
            self._has_warned = True


class _Form:
    """The buffers of micro-batches of one form and, in time, their graph."""

    def __init__(
        self,
        passes: Callable[[Mapping[str, Tensor], Tensor], Results],
        inputs: HostInputs,
        scales: Tensor,
    ) -> None:
        device = scales.device
        self._passes = passes
        self._buffers = {
            name: torch.empty_like(tensor, device=device) for name, tensor in inputs.tensors.items()
        }
        self._scales = torch.empty_like(scales)
        self._num_runs = 0
        self._results: Results = ()
        self._replay: Callable[[], None] | None = None

    def run(self, graphs: Graphs, inputs: HostInputs, scales: Tensor) -> Results:
        for name, tensor in inputs.tensors.items():
            copy_into(self._buffers[name], tensor)
        self._scales.copy_(scales)
        if self._replay is not None:
            self._replay()
            return self._results
        if self._num_runs < WARM_UPS:
            self._num_runs += 1
            return graphs.run(self._compute)
        self._results, self._replay = graphs.capture(self._compute)
        return self._results

    def _compute(self) -> Results:
        return self._passes(self._buffers, self._scales)


def loss_sums(results: Mapping[str, LossAndCounts], heads: Sequence[str]) -> tuple[Tensor, Tensor]:
    """([H] loss sums, [H] numbers predicted right) of `heads`."""
    losses = torch.stack([results[head][0] for head in heads])
    return losses, torch.stack([results[head][2] for head in heads])
