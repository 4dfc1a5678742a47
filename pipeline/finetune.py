"""Fine-tunes a pretrained encoder: ``deepspeed pipeline/finetune.py CONFIG.yaml key=value ...``.

Any number of tasks are trained together, with or without masked language modelling. The same
command starts a run and resumes it after any interruption.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not pipeline/

from configs import command
from pipeline.finetuning.run_config import load_finetuning
from pipeline.launch.environment import read_launch
from pipeline.launch.heavy_imports import heavy_imports
from pipeline.launch.shared_error import ReportOnce
from pipeline.training.command import read_command


def main() -> None:
    """Checks config and data files, then trains."""
    launch = read_launch()
    with ReportOnce(launch.rank) as errors:
        run = read_command("Fine-tune a pretrained encoder, or resume it.", load_finetuning, launch)
        if run.config.sweep is not None:
            with heavy_imports():
                from pipeline.finetuning.sweep.run import run_sweep

            run_sweep(run.config, launch, errors, run.profile)
            return
        if run.is_done:
            return
        # Late, so that --help and errors in the config do not wait for torch and DeepSpeed.
        with heavy_imports():
            from pipeline.finetuning.loop import finetune
            from pipeline.finetuning.plan import plan_finetuning

        plan = plan_finetuning(run.config, launch.world_size, is_first=launch.rank == 0)
        run = replace(run, config=plan.config)  # with the steps that its epochs come to
        run.claim_folder(errors, plan.data_fingerprint)
        finetune(plan, launch, run.profile)


if __name__ == "__main__":
    command.run(main)
