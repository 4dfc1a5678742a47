"""What an engine cannot compute is an error when it is built, not at the first micro-batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from configs.load import ConfigError
from model.parallel.grid import make_grid
from pipeline.engine.deepspeed_engine import Engine
from tests.gloo import in_one_rank
from tests.pipeline.training_run import SMALL_MODEL, make_config


@in_one_rank
def test_varlen_in_fp32_is_refused_on_a_gpu() -> None:
    config = make_config(
        *(Path("rows"), Path("run")),
        model={**SMALL_MODEL, "attention_dropout": 0.0},
        precision="fp32",
        compute={"attention_backend": "varlen"},
    )
    grid = replace(make_grid(1), device=torch.device("cuda"))
    with pytest.raises(ConfigError, match="varlen has no kernels for fp32: set precision to bf16"):
        Engine(nn.Linear(2, 2), config, 1, grid)
