"""A launch of a training run, from its process group to its last log line."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import UserError
from model.parallel.grid import Grid, make_grid
from pipeline.data.position import RowWindow
from pipeline.data.verification import DataSet, verify_contents
from pipeline.engine.out_of_memory import named_out_of_memory
from pipeline.engine.profiler import ProfiledSteps, StepProfiler, step_profiler
from pipeline.engine.start import process_group
from pipeline.engine.throughput import StepMeter
from pipeline.fault_tolerance.loss_spikes import Instability, StabilityConfig, roll_back
from pipeline.fault_tolerance.watchdog import Watchdog, watchdog
from pipeline.launch.environment import Launch
from pipeline.launch.rendezvous import launch_store
from pipeline.launch.signals import StopRequest
from pipeline.launch.stop_agreement import StopAgreement
from pipeline.run import run_folder
from pipeline.run.config import RunConfig
from pipeline.tracking.record import Record, open_record
from pipeline.training.equal_ranks import check_equal_ranks
from pipeline.training.state import TrainingState

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """What a launch keeps from its start to its end, also when the run rolls back."""

    config: RunConfig
    grid: Grid
    record: Record
    meter: StepMeter
    stop: StopAgreement
    profile: ProfiledSteps | None
    skipped: tuple[RowWindow, ...] = ()
    """The rows that made training unstable in this launch."""

    def announce(self, step: int, content: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Records and logs that training starts or resumes after `step`."""
        self.record.start(step, content)
        for line in lines:
            logger.info(line)

    @contextmanager
    def running(self) -> Iterator[tuple[Watchdog, StepProfiler]]:
        """The watchdog and the profiler of the steps in this block, which a stop signal ends."""
        with (
            self.stop.watching(),
            watchdog(self.config.hang_timeout_s) as dog,
            step_profiler(self.profile, self.config.output, self.grid.rank) as profiler,
        ):
            yield dog, profiler

    def roll_back(self, instability: Instability, config: StabilityConfig) -> None:
        """Adds the rows of `instability` to those that are skipped after a rollback.

        Raises UserError if the run has rolled back as often as `config` allows.
        """
        try:
            self.skipped = roll_back(instability, self.skipped, config)
        except UserError:
            self.record.end("failed")
            raise
        rows = instability.rows
        self.record.rollback(instability.reason, rows.start_row, rows.end_row)

    def end(self, state: TrainingState) -> None:
        """Marks the run as finished, at its last row or by early stopping, or else as stopped by a
        signal; does nothing where it rolls back."""
        if state.instability is not None:
            return
        step, validation = state.step, state.validation
        early_stop = None if state.is_at_end else validation.stop
        consumed_rows = self.config.end_row if state.is_at_end else state.consumed_rows
        is_early = early_stop is not None
        is_finished = state.is_at_end or is_early
        if is_finished and self.grid.rank == 0:
            run_folder.mark_done(self.config, step, consumed_rows, is_early)
        tags = validation.end_tags(step, is_early) if is_finished else {}
        self.record.end("finished" if is_finished else "stopped", tags)
        folder = run_folder.checkpoints_folder(self.config)
        if early_stop:
            message = "finished early: stopped at step %s after %s; checkpoints in %s"
            logger.info(message, f"{step:,}", early_stop, folder)
        elif is_finished:
            logger.info("finished: %s steps; checkpoints in %s", f"{step:,}", folder)
        else:
            logger.info(
                "stopped after step %s by a signal; the same command resumes from there",
                f"{step:,}",
            )


@contextmanager
def open_session(
    config: RunConfig,
    launch: Launch,
    profile: ProfiledSteps | None,
    data: Mapping[str, str],
    data_sets: Sequence[DataSet],
    memory: Path,
    stop: StopRequest | None = None,
) -> Iterator[Session | None]:
    """The process group of `launch` and what is kept over the whole launch; a collective.

    None if a stop signal comes while shards are verified. `data`: fingerprints of what it is
    trained on. `data_sets`: whose shards are verified, and `memory`: the folder where that is
    remembered. `stop`: that of a launch of several runs. The process group ends with the block,
    unless by an error (`process_group`). Raises UserError if the ranks differ in anything that
    decides what they compute, if shards are damaged, and where memory does not suffice.
    """
    with process_group(launch, tp_size=config.parallel.tensor):
        check_equal_ranks(config, data)
        stop = stop or StopRequest()  # not before: the wait for other ranks ends by a signal
        if not verify_contents(data_sets, memory, stop):
            logger.info("stopped by a signal while shards were verified; the same command resumes")
            yield None
            return
        grid = make_grid(config.parallel.tensor)
        session = Session(
            config,
            grid,
            record=open_record(config, grid.rank),
            meter=StepMeter(grid.device, config.precision),
            stop=StopAgreement(stop, launch_store(), grid.rank, grid.world_size),
            profile=profile,
        )
        with named_out_of_memory():
            yield session
