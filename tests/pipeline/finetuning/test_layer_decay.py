"""Layer-wise decay of the learning rate: every parameter's step, at every grid and optimizer."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.layer_decay import declare_layer_decay, depth_of
from pipeline.optim.lr_shares import split_by_lr_share
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.finetuning.test_finetune import final_state_weights
from tests.pipeline.training_run import final_state, metrics

DECAY = 0.5


def test_depths_are_those_of_beit() -> None:
    depths = {
        "encoder.embeddings.word.weight": 0,
        "encoder.layers.0.mlp.up.weight": 1,
        "encoder.layers.11.attention.qkv.bias": 12,
        "encoder.final_norm.weight": 13,
        "pooler.dense.weight": 13,
        "transforms.animal.dense.weight": 13,
        "task_heads.animal.output.weight": 13,
        "head.bias": 13,
    }
    assert {name: depth_of(name, 12) for name in depths} == depths


def test_groups_are_split_and_keep_their_settings() -> None:
    import torch

    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.embeddings = nn.Linear(2, 2)
    model.encoder.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model.head = nn.Linear(2, 2)
    declare_layer_decay(model, DECAY)
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in named.values() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in named.values() if p.dim() == 1], "lr_share": 0.25},
        ]
    )
    split_by_lr_share(optimizer)
    shares = {
        id(p): group.get("lr_share", 1.0)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert {name: shares[id(p)] for name, p in named.items()} == {
        "encoder.embeddings.weight": 0.125,
        "encoder.embeddings.bias": 0.125 / 4,
        "encoder.layers.0.weight": 0.25,
        "encoder.layers.0.bias": 0.25 / 4,
        "encoder.layers.1.weight": 0.5,
        "encoder.layers.1.bias": 0.5 / 4,
        "head.weight": 1.0,
        "head.bias": 0.25,
    }
    decays = {
        group["weight_decay"] for group in optimizer.param_groups if group["params"][0].dim() > 1
    }
    assert decays == {0.1}
    assert len(optimizer.param_groups) == 8


def one_step(pretrained: TrainConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """A run of one step without weight decay, whose steps then are in proportion to the rate."""
    tasks = make_tasks(output.parent / "tasks")
    return make_finetune_config(
        pretrained,
        output,
        **{
            "steps": 1,
            "schedule": {"type": "constant"},
            "optimizer": {"lr": 1e-3, "weight_decay": 0.0},
            "mlm": None,
            "tasks": {"animal": tasks["animal"]},
            **changes,
        },
    )


def changes_of(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far each parameter moved."""
    return {name: after[name] - before[name] for name in before if name in after}


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon"])
def test_a_step_is_in_proportion_to_the_share(
    pretrained: TrainConfig, tmp_path: Path, optimizer: str
) -> None:
    settings = {"optimizer": {"type": optimizer, "lr": 1e-3, "weight_decay": 0.0}}
    plain = one_step(pretrained, tmp_path / "plain", **settings)
    decayed = one_step(pretrained, tmp_path / "decayed", layerwise_lr_decay=DECAY, **settings)
    for config in (plain, decayed):
        run_ranks(run_finetuning, 1, config)
    start = final_state_weights(pretrained)
    full = changes_of(start, final_state_weights(plain))
    small = changes_of(start, final_state_weights(decayed))
    expected = {
        "encoder.embeddings.word.weight": DECAY**3,
        "encoder.layers.0.mlp.up.weight": DECAY**2,
        "encoder.layers.1.attention.output.bias": DECAY,
        "encoder.layers.1.mlp.down.weight": DECAY,
    }
    for name, share in expected.items():
        assert full[name].abs().max() > 0, name
        assert small[name] == pytest.approx(share * full[name], rel=1e-2, abs=1e-7), name


@pytest.mark.parametrize(
    ("optimizer", "ranks", "parallel"),
    [
        ("muon", 2, {"tensor": 2}),
        ("adamw", 2, {"zero_stage": 3}),
        pytest.param("muon", 2, {"zero_stage": 3}, marks=pytest.mark.slow),
        pytest.param("adamw", 2, {"zero_stage": 2}, marks=pytest.mark.slow),
        pytest.param("lamb", 2, {"tensor": 2}, marks=pytest.mark.slow),
        pytest.param("muon", 4, {"tensor": 2, "zero_stage": 2}, marks=pytest.mark.slow),
    ],
)
def test_every_grid_takes_the_same_steps(
    pretrained: TrainConfig, tmp_path: Path, optimizer: str, ranks: int, parallel: dict[str, int]
) -> None:
    def run(name: str, num_ranks: int, **changes: Any) -> FinetuneConfig:
        config = one_step(
            pretrained,
            tmp_path / name,
            steps=3,
            layerwise_lr_decay=DECAY,
            optimizer={"type": optimizer, "lr": 1e-3},
            **changes,
        )
        run_ranks(run_finetuning, num_ranks, config)
        return config

    one, many = run("one", 1), run("many", ranks, parallel=parallel)
    assert metrics(many, "loss") == pytest.approx(metrics(one, "loss"), rel=2e-5)
    assert final_state(one).keys() == final_state(many).keys()  # groups leave no trace
