"""Largest size of real training processes on this machine, beside what the planner computes.

``python -m benchmarks.plan_memory [--only NAME ...]``

Each run is started as a user would start it (one rank: python, two: torchrun), trains a few steps,
evaluates and saves. The size is the VmHWM of the largest rank, read until its end; the estimate is
that of ``python -m pipeline.plan --cpu``.
"""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.launched import Launched
from configs import command
from configs.load import validate
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.memory import estimate_finetuning
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run.config import TrainConfig
from pipeline.run.memory import MemoryEstimate, estimate_memory
from pipeline.run.plan import plan_run
from tests.pipeline.training_run import make_config, make_rows

ROW_TOKENS = 256
SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
MODEL = {"num_layers": 6, "hidden_size": 512, "num_attention_heads": 8, "max_row_tokens": 256}
LARGE = {**MODEL, "num_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
AGAIN = {"activation_checkpointing": {"type": "layers"}}
FROZEN = {"frozen": {"type": "all_but_last", "num_layers": 2}}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "bf16": (1, {}),
    "saved before its end": (1, {"checkpoint": {"every_steps": 2}}),
    "base, 2 rows": (1, {"model": LARGE, "micro_rows": 2}),
    "fp32": (1, {"precision": "fp32"}),
    "computed again": (1, {"compute": AGAIN}),
    "ZeRO 1, two ranks": (2, {}),
    "ZeRO 2, two ranks": (2, {"parallel": {"zero_stage": 2}}),
    "ZeRO 3, two ranks": (2, {"parallel": {"zero_stage": 3}}),
    "tensor parallel 2": (2, {"parallel": {"tensor": 2}}),
    "fine-tuning": (1, {}),
    "fine-tuning, fp32": (1, {"precision": "fp32"}),
    "fine-tuning, frozen": (1, {"model": FROZEN}),
}
"""Ranks, and what is changed of a run of 6 layers of 512 with micro-batches of 8 rows of 256."""


def main() -> None:
    """Prints a line for each run."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="these runs")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([SENTENCE] * 60, 270)
        make_rows(folder / "rows", 256, tokenizer=tokenizer, row_tokens=ROW_TOKENS)
        make_rows(folder / "wide", 256, row_tokens=ROW_TOKENS, vocab_size=8192)
        for run in arguments.only:
            ranks, changes = RUNS[run]
            if run.startswith("fine-tuning"):
                measured, planned = finetuned(folder, run, changes)
            else:
                measured, planned = pretrained(folder / "wide", folder, run, ranks, changes)
            ratio = planned.total_gb * 1e9 / measured
            print(
                f"{run:20} measured {measured / 1e9:.2f} GB, planned {planned.total_gb:.2f} GB "
                f"({ratio - 1:+.0%}); {planned.summary()}",
                flush=True,
            )


def pretrained(
    rows: Path, folder: Path, name: str, ranks: int, changes: dict[str, Any]
) -> tuple[int, MemoryEstimate]:
    """(bytes of the largest rank, estimate) of a pretraining run."""
    config = config_of(rows, _output(folder, name), **changes)
    return _largest("pipeline/train.py", config, ranks), estimate_memory(
        plan_run(config, ranks), on_cpu=True
    )


def config_of(rows: Path, output: Path, micro_rows: int = 8, **changes: Any) -> TrainConfig:
    """Four steps of four micro-batches."""
    kept = {"precision": "bf16", "model": MODEL, **changes}
    return make_config(
        rows,
        output,
        batch={"global_rows": 4 * micro_rows, "micro_rows": micro_rows},
        total_rows=16 * micro_rows,
        schedule={"type": "constant"},
        evaluation={"every_steps": 2},
        **kept,
    )


def finetuned(folder: Path, name: str, changes: dict[str, Any]) -> tuple[int, MemoryEstimate]:
    """(bytes of the largest rank, estimate) of a classification from a pretrained model."""
    start = config_of(folder / "rows", folder / "start", micro_rows=2, precision="fp32")
    if not start.output.exists():
        _largest("pipeline/train.py", start, 1)
    lines = [{"text": " ".join([SENTENCE] * 8), "label": str(number % 2)} for number in range(32)]
    (folder / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "name": "task",
        "output": str(_output(folder, name)),
        "start": {"type": "run", "path": str(start.output)},
        "tasks": {
            "one": {
                "type": "classification",
                "labels": ["0", "1"],
                "train": str(folder / "task.jsonl"),
                "dev": str(folder / "task.jsonl"),
                "examples_per_step": 16,
            }
        },
        "steps": 4,
        "micro_rows": 8,
        "precision": "bf16",
        "tracking": {"enabled": False},
        **changes,
    }
    config = validate(tree, FinetuneConfig, origin="benchmark")
    measured = _largest("pipeline/finetune.py", config, 1)
    return measured, estimate_finetuning(plan_finetuning(config, 1, is_first=True), on_cpu=True)


def _output(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-").replace(",", "")


def _largest(script: str, config: TrainConfig | FinetuneConfig, ranks: int) -> int:
    """VmHWM of the largest process of a launch that trains."""
    path = config.output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = [script, str(path)]
    if ranks > 1:
        arguments = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", *arguments]
    launched = Launched(arguments, config.output.with_suffix(".log"))
    largest = 0
    while launched.poll() is None:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(launched.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error, OSError, StopIteration):
                    largest = max(largest, _high_water(process.pid))
        time.sleep(0.05)
    launched.finish()
    return largest


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    command.run(main)
