"""The commands on one GPU: training, export and replay."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.tokenization.train import train_tokenizer
from pipeline.export import export_run
from pipeline.hugging_face.folder import PARITY_NAME
from pipeline.launch.environment import free_port
from pipeline.run.run_folder import is_done
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import SENTENCE
from tests.pipeline.gpu.gpu_runs import NEEDS_GPU, NO_DROPOUT, SIZES, newest, used_gpu
from tests.pipeline.training_run import make_config, make_rows, metrics

pytestmark = NEEDS_GPU
ROOT = Path(__file__).parents[3]


def test_the_commands_train_export_and_replay_on_the_gpu(tmp_path: Path) -> None:
    """Under DeepSpeed's launcher, which meets in NCCL by itself; the export also on the CPU."""
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    make_rows(tmp_path / "rows", tokenizer=tokenizer, row_tokens=64)
    model = {**SIZES, **NO_DROPOUT}
    settings: dict[str, Any] = {"precision": "bf16", "checkpoint": {"every_steps": 10}}
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=1, model=model, **settings)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    launcher = ["deepspeed.launcher.runner", "--num_gpus", "1", "--master_port", str(free_port())]
    command("-m", *launcher, "pipeline/train.py", str(path))
    assert is_done(config)
    assert used_gpu(config)
    command("-m", "pipeline.export", str(path))
    parity = json.loads((config.output / "hf" / PARITY_NAME).read_text())
    assert parity["largest_logit_difference"] < 1e-5
    on_cpu = tmp_path / "hf-on-cpu"
    (differences,) = run_ranks(export_run, 1, config, newest(config), on_cpu)
    difference = differences[on_cpu]
    assert difference < 1e-5
    shown = command("-m", "pipeline.replay", str(path), "--step", "20")
    losses = [
        float(line.split("loss ")[1].split()[0]) for line in shown.splitlines() if "loss " in line
    ]
    # Of rows by themselves, in fp32, with the weights of step 10: near the loss of the step.
    assert len(losses) == 16
    assert sum(losses) / 16 == pytest.approx(metrics(config, "loss")[19], rel=0.1)


def command(*arguments: str) -> str:
    """The output of a Python command in the repository, which has to succeed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
