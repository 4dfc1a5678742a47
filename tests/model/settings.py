"""Test settings in one mapping: the model's, with those of `compute` under that key."""

from typing import Any

from torch import nn

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.encoder import Encoder


def configs_of(settings: dict[str, Any]) -> tuple[ModelConfig, ComputeConfig]:
    """The configs that `settings` describe."""
    model = {key: value for key, value in settings.items() if key != "compute"}
    return ModelConfig(**model), ComputeConfig(**settings.get("compute", {}))


def set_parts(model: nn.Module, compiled: bool) -> None:
    """Whether the layers of `model` compile what lies between their linears, as they were built to
    do; the masks are the same without it."""
    for module in model.modules():
        if hasattr(module, "compiles_parts") and not isinstance(module, Encoder):
            setattr(module, "compiles_parts", compiled)  # noqa: B010 (mypy takes it for a tensor)
