"""A resumed run on one GPU: bit-equal, or on the other device with its numbers."""

from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.gpu.gpu_runs import (
    NEEDS_GPU,
    NO_DROPOUT,
    WINDOW,
    assert_agree,
    forget_after,
    run_on,
)
from tests.pipeline.training_run import assert_same_bits, final_state, metrics, pretrain

pytestmark = NEEDS_GPU
WINDOW_WITHOUT_DROPOUT = {**WINDOW, "attention_dropout": 0.0}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 1}}),
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 2}}),
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 3}}),
        ({}, {"precision": "fp32"}),
        ({}, {"precision": "bf16", "compute": {"compile": "off"}}),
        ({}, {"precision": "bf16", "compute": {"compile": "on", "cuda_graphs": "on"}}),
        ({}, {"precision": "bf16", "compute": {"attention_backend": "explicit"}}),
        (WINDOW, {"precision": "bf16"}),
        (
            WINDOW_WITHOUT_DROPOUT,
            {"precision": "bf16", "compute": {"attention_backend": "flex"}},
        ),
        (
            {**WINDOW_WITHOUT_DROPOUT, "packed_rows": {"type": "inside"}},
            {"precision": "bf16", "compute": {"attention_backend": "varlen"}},
        ),
        ({}, {"precision": "bf16", "compute": {"activation_checkpointing": {"type": "layers"}}}),
        ({}, {"precision": "bf16", "compute": {"activation_checkpointing": {"type": "selective"}}}),
        (
            WINDOW_WITHOUT_DROPOUT,
            {
                "precision": "bf16",
                "compute": {
                    "attention_backend": "flex",
                    "activation_checkpointing": {"type": "selective"},
                },
            },
        ),
        ({}, {"precision": "bf16", "optimizer": {"type": "lamb", "lr": 1e-2}}),
        ({}, {"precision": "fp16", "loss_scale": {"initial": 2.0**24, "window_steps": 4}}),
        (
            {},
            {"precision": "bf16", "parallel": {"zero_stage": 2, "offload_optimizer": True}},
        ),
    ],
    ids=str,
)
def test_a_resumed_run_is_equal_to_the_last_bit(
    long_rows: Path, tmp_path: Path, model: dict[str, Any], settings: dict[str, Any]
) -> None:
    whole = run_on(
        "cuda", long_rows, tmp_path / "whole", model, checkpoint={"every_steps": 10}, **settings
    )
    resumed = forget_after(whole, tmp_path / "resumed", step=10)
    run_ranks(pretrain, 1, resumed, device="cuda")
    assert metrics(resumed, "loss") == metrics(whole, "loss")
    assert_same_bits(final_state(resumed), final_state(whole))
    if settings["precision"] == "fp16":
        assert metrics(whole, "skipped")[0] == 1.0  # 2^24 is more than fp16 can hold
        assert 0 < sum(metrics(whole, "skipped")) < 10


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_resumes_on_the_other_device(
    rows: Path,
    on_cpu: TrainConfig,
    tmp_path: Path,
    first: Literal["cpu", "cuda"],
    second: Literal["cpu", "cuda"],
) -> None:
    started = on_cpu
    if first == "cuda":
        settings = {"checkpoint": {"every_steps": 10}, "parallel": {"zero_stage": 3}}
        started = run_on("cuda", rows, tmp_path / "cuda", NO_DROPOUT, **settings)
    moved = forget_after(started, tmp_path / "moved", step=10)
    run_ranks(pretrain, 1, moved, device=second)
    assert_agree(moved, on_cpu)
