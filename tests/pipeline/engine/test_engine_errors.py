"""What an engine cannot compute is an error when it is built, not at the first micro-batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.load import ConfigError
from model.heads import build_masked_lm
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
    grid = make_grid(1)
    model = build_masked_lm(config.model, 250, grid, config.seed, config.compute)
    on_a_gpu = replace(grid, device=torch.device("cuda"))
    with pytest.raises(ConfigError, match="varlen has no kernels for fp32: set precision to bf16"):
        Engine(model, config, 1, on_a_gpu)
