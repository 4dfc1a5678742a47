"""Compares an exported model with ours: with the trained weights, then with random ones.

A model that was trained little attends almost evenly: its outputs hardly depend on the number of
heads, for example. With the random weights, every part of the network changes the outputs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.load import UserError
from model.parameters import parameter_specs, shard_tensor
from pipeline.hugging_face.folder import Quantity

SEED = 0
SPREAD = 0.3
"""Standard deviation of biases and of the weights of norms."""
RELATIVE_TOLERANCE = 1e-4
"""Largest difference of two fp32 outputs that is rounding, in parts of the largest output."""

Outputs = Iterable[tuple[Tensor, Tensor]]
"""Pairs of our outputs and Hugging Face's for the same tokens, of equal shape."""


def largest_difference(
    ours: nn.Module,
    theirs: Any,
    outputs: Callable[[], Outputs],
    to_hf: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    quantity: Quantity,
) -> float:
    """The largest absolute difference of the `outputs` of both models as they are.

    Then both get the same random weights, by `to_hf`. Raises UserError if their outputs differ by
    more than rounding, so that the two architectures differ.
    """
    trained, _ = _compare(outputs())
    state = random_state(ours)
    _load(ours, state)
    theirs.load_state_dict(to_hf(state), strict=False)  # without the tied decoder
    difference, largest = _compare(outputs())
    if not difference <= RELATIVE_TOLERANCE * largest:
        raise UserError(
            f"not exported: its {quantity}s differ by {difference:.1e} from our model's with "
            f"random weights, where they are at most {largest:.1f}: the architectures differ"
        )
    return trained


def largest_of(outputs: Outputs) -> float:
    """The largest absolute difference in pairs of outputs; nan where one is nan."""
    return _compare(outputs)[0]


def random_state(model: nn.Module) -> dict[str, Tensor]:
    """Full fp32 tensors for every parameter of `model`, by canonical name."""
    state = {}
    for number, (name, spec) in enumerate(sorted(parameter_specs(model).items())):
        generator = torch.Generator().manual_seed(SEED + number)
        values = torch.randn(spec.full_shape, generator=generator)
        if values.dim() == 1:
            values = SPREAD * values + (1.0 if name.endswith("norm.weight") else 0.0)
        elif ".embeddings." not in name:
            values = values / values.shape[1] ** 0.5
        state[name] = values
    return state


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies full tensors into a model on one rank."""
    specs = parameter_specs(model)
    for name, parameter in model.named_parameters():
        parameter.copy_(shard_tensor(specs[name], state[name], 0, 1))


def _compare(outputs: Outputs) -> tuple[float, float]:
    """(largest difference, largest of Hugging Face's outputs); nan where one is nan."""
    found = [(float((a - b).abs().max()), float(b.abs().max())) for a, b in outputs]
    difference, largest = np.max(found, axis=0)  # max() could lose a nan
    return float(difference), float(largest)
