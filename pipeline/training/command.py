"""What the commands train.py and finetune.py do alike before a model is built. Imports no torch."""

import argparse
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from configs import command, folder_lock, log
from pipeline.engine.profiler import ProfiledSteps, profiled_steps
from pipeline.launch.environment import Launch
from pipeline.launch.shared_error import ReportOnce
from pipeline.run import run_folder
from pipeline.run.config import RunConfig
from pipeline.run.output_folder import check_output
from pipeline.tracking.sender_process import send_rest
from pipeline.tracking.tracked_run import tracked_run

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class TrainingCommand(Generic[ConfigT]):
    """The command line of a training command, with its config read."""

    config: ConfigT
    launch: Launch
    profile: ProfiledSteps | None
    """The steps to profile."""

    @property
    def is_done(self) -> bool:
        """Whether the run is finished; logs that it is, and sends what is left of its record."""
        if run_folder.is_done(self.config):
            logger.info("%s: this run is finished (its DONE file says so)", self.config.output)
            if self.launch.rank == 0 and self.config.tracking.enabled:
                send_rest(tracked_run(self.config))
            return True
        return False

    def claim_folder(self, errors: ReportOnce, data_fingerprint: str) -> None:
        """Makes the run's folder and locks it, or checks that it holds this run, on rank 0.

        After it, `errors` shares the ranks' errors in the folder. Raises UserError that names every
        difference if the folder holds a different run, and the process that uses it if one does.
        """
        if self.launch.rank == 0:
            folder_lock.hold(self.config.output)
            for change in run_folder.claim(self.config, data_fingerprint):
                logger.info("changed since the last start: %s", change)
        errors.share(self.config.output)


def read_command(
    description: str, load: Callable[[str, Sequence[str]], ConfigT], launch: Launch
) -> TrainingCommand[ConfigT]:
    """The command line of this rank of `launch`, with the config that it names, read by `load`."""
    if launch.world_size > 1:
        log.configure(launch.rank)  # srun's ranks are known only now
    arguments = _parser(description).parse_args()
    # megatron-core says so at import; the model uses neither.
    warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
    config = load(arguments.config, arguments.overrides)
    check_output(config.output)
    return TrainingCommand(
        config=config,
        launch=launch,
        profile=arguments.profile_steps,
    )


def _parser(description: str) -> argparse.ArgumentParser:
    parser = command.parser(description)
    parser.add_argument("--local_rank", help="set by the deepspeed launcher; not used")
    parser.add_argument(
        "--profile-steps",
        metavar="A:B",
        type=profiled_steps,
        help="write a trace of torch's profiler of the optimizer steps A to B of the run, one file "
        "per rank, to RUN/profile/",
    )
    return parser
