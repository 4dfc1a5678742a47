"""Pretrains an encoder: ``deepspeed pipeline/train.py CONFIG.yaml key.sub=value ...``.

The same command starts a run and resumes it after any interruption.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not pipeline/

from configs import command
from pipeline.data.shard_cache import check_sizes
from pipeline.launch.environment import read_launch
from pipeline.launch.heavy_imports import heavy_imports
from pipeline.launch.shared_error import ReportOnce
from pipeline.run.plan import plan_run
from pipeline.run.train_config import load_train
from pipeline.training.command import read_command


def main() -> None:
    """Checks everything that needs no model, then trains."""
    launch = read_launch()
    with ReportOnce(launch.rank) as errors:
        run = read_command("Pretrain a masked language model, or resume it.", load_train, launch)
        if run.is_done:
            return
        plan = plan_run(run.config, launch.world_size)
        if launch.rank == 0:
            for phase in plan.phases:
                check_sizes(phase.config.data, phase.manifest)
        run.claim_folder(errors, plan.data_fingerprint)
        # Late, so that --help and errors in the config do not wait for torch and DeepSpeed.
        with heavy_imports():
            from pipeline.pretraining.loop import train

        train(plan, launch, run.profile)


if __name__ == "__main__":
    command.run(main)
