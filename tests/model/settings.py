"""Test settings in one mapping: the model's, with those of `compute` under that key."""

from typing import Any

from model.compute import ComputeConfig
from model.config import ModelConfig


def configs_of(settings: dict[str, Any]) -> tuple[ModelConfig, ComputeConfig]:
    """The configs that `settings` describe."""
    model = {key: value for key, value in settings.items() if key != "compute"}
    return ModelConfig(**model), ComputeConfig(**settings.get("compute", {}))
