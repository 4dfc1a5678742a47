"""Pretrains an encoder: ``deepspeed pipeline/train.py CONFIG.yaml key.sub=value ...``.

The same command starts a run and goes on with it after any interruption.
"""

import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not pipeline/

from configs import command
from configs.load import load
from pipeline.data.shard_cache import verify_data_set
from pipeline.launch import shared_error as mistakes
from pipeline.launch.environment import read_launch
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run


def main() -> None:
    """Checks everything that needs no model, then trains."""
    parser = command.parser("Pretrain a masked language model, or go on with it.")
    parser.add_argument("--local_rank", help="set by the deepspeed launcher; not used")
    arguments = parser.parse_args()
    launch = read_launch()  # first: then a mistake in the config is told by rank 0 alone
    config = load(arguments.config, TrainConfig, arguments.overrides)
    if run_folder.is_done(config):
        if launch.rank == 0:
            print(f"{config.output}: this run is finished (its DONE file says so)")
        return
    plan = plan_run(config, launch.world_size)
    if launch.rank == 0:
        for phase in plan.phases:
            verify_data_set(phase.config.data, phase.manifest)
        for change in run_folder.claim(config, plan.data_fingerprint):
            print(f"changed since the last start: {change}", flush=True)
        mistakes.forget(config.output)
    warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
    # Late, so that --help and mistakes in the config do not wait 15 s for torch and its friends.
    from pipeline.pretraining.loop import train

    with mistakes.told_once(config.output, launch.rank):
        train(plan, launch, [arguments.config, *arguments.overrides])


if __name__ == "__main__":
    command.run(main)
