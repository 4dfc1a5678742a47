"""A rank never loads torch's compiler, and what was done for that changes no result."""

import subprocess
import sys
from pathlib import Path

import torch
import yaml

from model.parallel.light_torch import AdamW, without_compiler
from tests.pipeline.training_run import make_config, make_rows

ROOT = Path(__file__).parents[3]


def test_a_training_rank_never_loads_the_compiler(tmp_path):
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(tmp_path / "rows", tmp_path / "run", total_rows=32, schedule={})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code = (
        f"import runpy, sys; sys.argv = ['train.py', {str(path)!r}]\n"
        "try: runpy.run_path('pipeline/train.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "loaded = [m for m in ('torch._dynamo', 'torch._inductor', 'mlflow') if m in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_the_optimizer_steps_as_torchs_own():
    results = []
    for optimizer_class in (AdamW, torch.optim.AdamW):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = optimizer_class([weight], lr=1e-2, weight_decay=0.1, fused=True)
        for step in range(5):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()
        results.append(weight.detach())
    assert torch.equal(*results)


def test_functions_are_handed_back_as_they_are():
    real = torch.compile

    def double(x):
        return 2 * x

    with without_compiler():
        assert torch.compile(double) is double
        assert torch.compile(dynamic=True)(double) is double
    assert torch.compile is real
