"""The shipped sizes are what they are called, and the parameter count is that of the real model."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import load
from model.grid_check import check_grid
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.parameters import parameter_specs
from model.size import count_parameters
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.model.parallel.test_tensor_parallel import OPTIONS, TINY, VOCAB_SIZE
from tests.model.settings import configs_of

CONFIGS = Path(__file__).parents[2] / "configs"
ROBERTA_VOCAB_SIZE = 50_265
MILLIONS = {"small": 39, "base": 125, "large": 355, "1.3b": 1_316, "3.9b": 3_912}


@pytest.mark.parametrize("name", MILLIONS)
def test_shipped_sizes_have_the_published_number_of_parameters(name: str) -> None:
    config = load(CONFIGS / f"{name}.yaml", TrainConfig)
    assert config.name == name
    check_grid(config.model, config.compute, config.parallel.tensor)
    check_grid(config.model, config.compute, 4)
    count = count_parameters(config.model, ROBERTA_VOCAB_SIZE)
    assert round(count / 1e6) == pytest.approx(MILLIONS[name], rel=0.005)


def numbers_of_elements(settings: dict[str, Any]) -> int:
    model = build_masked_lm(configs_of(settings)[0], VOCAB_SIZE, make_grid(1), seed=0)
    total = 0
    for spec in parameter_specs(model).values():
        size = 1
        for length in spec.full_shape:
            size *= length
        total += size
    return total


@pytest.mark.parametrize(
    "option",
    [
        "pre-norm",
        "rms-norm",
        "swiglu",
        "no-positions",
        "no-segments",
        "albert",
        "gte",
        "query-key-norm",
        "eurobert",
    ],
)
def test_the_count_is_that_of_the_model(option: str) -> None:
    settings = {**TINY, **OPTIONS[option]}
    [counted] = run_ranks(numbers_of_elements, 1, settings)
    assert count_parameters(configs_of(settings)[0], VOCAB_SIZE) == counted


def test_shared_layers_are_counted_once() -> None:
    settings = {**TINY, **OPTIONS["shared-layers"]}
    [counted] = run_ranks(numbers_of_elements, 1, settings)
    assert count_parameters(configs_of(settings)[0], VOCAB_SIZE) == counted
