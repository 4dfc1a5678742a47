"""An optimizer that is not Adam: what it declares is all that checkpoint, planner, resume need."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field, PositiveFloat

from configs.load import validate
from pipeline.checkpoint.manifest import CheckpointManifest, find_checkpoint
from pipeline.engine import zero_state
from pipeline.optim.adamw import AdamWConfig
from pipeline.optim.optimizer import OptimizerSettings
from pipeline.run.config import TrainConfig
from pipeline.run.memory import estimate_memory
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.pretraining.test_training import pretrain_until_signalled
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)


class MomentumConfig(OptimizerSettings):
    """Gradient descent with momentum: one moment, and no count of its steps."""

    MOMENTS = ("momentum_buffer",)

    type: Literal["momentum"]
    lr: PositiveFloat = 1e-2

    def build(
        self, parameters: list[torch.nn.Parameter], device: torch.device
    ) -> torch.optim.Optimizer:
        """torch's SGD."""
        return torch.optim.SGD(self.parameter_groups(parameters), lr=self.lr, momentum=0.9)


class MomentumTrainConfig(TrainConfig):
    """A run with one more optimizer in its union."""

    optimizer: Annotated[  # type: ignore[assignment]
        AdamWConfig | MomentumConfig, Field(discriminator="type")
    ]


def momentum_run(
    rows: Path, output: Path, optimizer: str = "momentum", **changes: Any
) -> TrainConfig:
    tree = make_config(rows, output, **changes).model_dump(mode="json")
    return validate({**tree, "optimizer": {"type": optimizer}}, MomentumTrainConfig, origin="test")


def newest(config: TrainConfig) -> CheckpointManifest:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint.manifest


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.mark.parametrize(
    ("world_size", "zero_stage", "precision"),
    [
        (1, 1, "fp32"),
        (2, 3, "bf16"),
        pytest.param(2, 1, "bf16", marks=pytest.mark.slow),
        pytest.param(2, 2, "fp32", marks=pytest.mark.slow),
    ],
)
def test_its_state_is_saved_and_resumed_bit_equal(
    rows: Path, tmp_path: Path, world_size: int, zero_stage: int, precision: str
) -> None:
    settings: dict[str, Any] = {"precision": precision, "parallel": {"zero_stage": zero_stage}}
    whole = momentum_run(rows, tmp_path / "whole", **settings)
    run_ranks(pretrain, world_size, whole)
    assert metrics(whole, "loss")[-1] < metrics(whole, "loss")[0]
    assert newest(whole).state_keys == ("weight", "momentum_buffer")
    assert newest(whole).optimizer_step == 0
    state = final_state(whole)
    assert {name.split("/")[0] for name in state} == {"weight", "momentum_buffer"}
    assert any(t.any() for name, t in state.items() if name.startswith("momentum_buffer"))
    stopped = momentum_run(rows, tmp_path / "stopped", **settings)
    run_ranks(pretrain_until_signalled, world_size, stopped, 7)
    assert 7 <= newest(stopped).step < 20
    run_ranks(pretrain, world_size, stopped)
    assert_same_bits(state, final_state(stopped))


def test_its_checkpoints_are_resumed_at_a_different_grid(rows: Path, tmp_path: Path) -> None:
    one = momentum_run(rows, tmp_path / "one")
    run_ranks(pretrain, 1, one)
    other = momentum_run(rows, tmp_path / "other", parallel={"tensor": 2, "zero_stage": 2})
    run_ranks(pretrain_until_signalled, 2, other, 7)
    resumed = momentum_run(rows, tmp_path / "other", parallel={"tensor": 1, "zero_stage": 1})
    run_ranks(pretrain, 1, resumed)
    assert metrics(resumed, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-5)


def test_the_planner_counts_its_bytes(rows: Path, tmp_path: Path) -> None:
    adam = estimate_memory(plan_run(make_config(rows, tmp_path / "adam"), 1))
    momentum = estimate_memory(plan_run(momentum_run(rows, tmp_path / "momentum"), 1))
    assert momentum.optimizer * 12 == adam.optimizer * 8
    assert momentum.weights == adam.weights


def test_a_change_of_the_optimizer_starts_its_state_at_zero(rows: Path, tmp_path: Path) -> None:
    first = momentum_run(rows, tmp_path / "run")
    run_ranks(pretrain_until_signalled, 1, first, 7)
    step = newest(first).step
    then = momentum_run(rows, tmp_path / "run", optimizer="adamw")
    (messages,) = run_ranks(pretrain_and_collect_warnings, 1, then)
    assert len(messages) == 1
    assert "was written with a different optimizer and has no exp_avg, exp_avg_sq" in messages[0]
    assert newest(then).state_keys == ("weight", "exp_avg", "exp_avg_sq")
    assert newest(then).optimizer_step == 20 - step


def pretrain_and_collect_warnings(config: TrainConfig) -> list[str]:
    """`pretrain` on a rank; the warnings about the optimizer's state."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    zero_state.logger.addHandler(handler)
    pretrain(config)
    return messages
