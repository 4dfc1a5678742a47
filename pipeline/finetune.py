"""Fine-tunes a pretrained encoder: ``deepspeed pipeline/finetune.py CONFIG.yaml key=value ...``.

Any number of tasks are trained together, with or beside masked language modelling. The same command
starts a run and goes on with it after any interruption.
"""

import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not pipeline/

from configs import command
from configs.load import load
from pipeline.finetuning.config import FinetuneConfig
from pipeline.launch import shared_error as mistakes
from pipeline.launch.environment import read_launch
from pipeline.run import run_folder


def main() -> None:
    """Checks config and data files, then trains."""
    parser = command.parser("Fine-tune a pretrained encoder, or go on with it.")
    parser.add_argument("--local_rank", help="set by the deepspeed launcher; not used")
    arguments = parser.parse_args()
    launch = read_launch()  # first: then a mistake in the config is told by rank 0 alone
    config = load(arguments.config, FinetuneConfig, arguments.overrides)
    if run_folder.is_done(config):
        if launch.rank == 0:
            print(f"{config.output}: this run is finished (its DONE file says so)")
        return
    warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
    # Late, so that --help and mistakes in the config do not wait for torch and its friends.
    from pipeline.finetuning.loop import finetune
    from pipeline.finetuning.plan import plan_finetuning

    plan = plan_finetuning(config, launch.world_size, is_first=launch.rank == 0)
    if launch.rank == 0:
        for change in run_folder.claim(config, plan.data_fingerprint):
            print(f"changed since the last start: {change}", flush=True)
        mistakes.forget(config.output)
    with mistakes.told_once(config.output, launch.rank):
        finetune(plan, launch, [arguments.config, *arguments.overrides])


if __name__ == "__main__":
    command.run(main)
