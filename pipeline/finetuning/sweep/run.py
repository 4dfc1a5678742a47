"""Trains the children of a sweep, one after another, in one launch.

All ranks of the launch train each child, so the command, the launchers and the Slurm scripts are
those of a single run. The same command continues a sweep: children that have ended are not
repeated, and the one that was interrupted resumes from its newest checkpoint.
"""

import logging
import shutil
from dataclasses import dataclass

from configs import folder_lock
from configs.load import UserError
from model.parallel.grid import close_grid
from model.parallel.json_exchange import broadcast_json
from pipeline.checkpoint.manifest import list_checkpoints
from pipeline.engine.out_of_memory import OutOfMemory
from pipeline.engine.profiler import ProfiledSteps
from pipeline.engine.start import process_group
from pipeline.fault_tolerance.loss_spikes import DivergedError
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.loop import finetune
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.finetuning.read_files import ReadFiles
from pipeline.finetuning.sweep.check import check_changes
from pipeline.finetuning.sweep.children import Child, all_children
from pipeline.finetuning.sweep.outcome import (
    delete_checkpoints,
    mark_out_of_memory,
    out_of_memory,
    outcome_of,
)
from pipeline.finetuning.sweep.record import SweepRecord
from pipeline.finetuning.sweep.results import (
    ChildResult,
    SweepResults,
    read_results,
    wanted_children,
    with_children,
    write_results,
)
from pipeline.finetuning.sweep.table import child_line, table_lines
from pipeline.launch.environment import Launch
from pipeline.launch.shared_error import ReportOnce
from pipeline.launch.signals import StopRequest
from pipeline.run import run_folder
from pipeline.tracking.parent_run import ParentRun

logger = logging.getLogger(__name__)


def run_sweep(
    config: FinetuneConfig, launch: Launch, errors: ReportOnce, profile: ProfiledSteps | None
) -> None:
    """Trains every child that has not ended; every rank calls it.

    Raises UserError, before the first child starts, for children whose config is not valid, for
    what `plan_finetuning` finds in the first of them, and for children that were trained with
    other settings than they have now.
    """
    children = all_children(config)
    files: ReadFiles = {}
    plan = plan_finetuning(children[0].config, launch.world_size, launch.rank == 0, files)
    if not plan.dev:
        raise UserError(
            "sweep: no task has a dev file, whose scores choose the best: set tasks.*.dev"
        )
    if launch.rank == 0:
        check_changes(config, children, plan.data_fingerprint)
        folder_lock.hold(config.output)
    errors.share(config.output)
    stop = StopRequest()
    with process_group(launch, tp_size=config.parallel.tensor):
        _Sweep(config, launch, profile, files, stop).run()


@dataclass
class _Sweep:
    """A sweep in the process group of its launch."""

    config: FinetuneConfig
    launch: Launch
    profile: ProfiledSteps | None
    files: ReadFiles
    """What was read, for the children that read the same."""
    stop: StopRequest

    def run(self) -> None:
        is_first = self.launch.rank == 0
        record = SweepRecord(self.config) if is_first else None
        parent = ParentRun(**broadcast_json(record.start().describe() if record else None))
        results = self._results()
        while child := _next_child(self.config, results):
            if is_first:
                done, total = len(results.children), results.num_children
                logger.info("sweep: child %d of %d: %s", done + 1, total, child.name)
            outcome = self._train(child, parent, is_first_child=not results.children)
            if outcome is None:  # a stop signal
                break
            results = with_children(self.config, [*results.children, outcome])
            if record is not None:
                logger.info("sweep: %s", child_line(outcome))
                record.child(len(results.children), outcome)
                self._keep(results)
            results = self._results()
        if record is not None:
            self._report(record, results)

    def _results(self) -> SweepResults:
        """What rank 0 knows of the children, on all ranks."""
        found = read_results(self.config).model_dump(mode="json") if self.launch.rank == 0 else None
        return SweepResults.model_validate(broadcast_json(found))

    def _train(self, child: Child, parent: ParentRun, is_first_child: bool) -> ChildResult | None:
        """What became of a child; None: a stop signal came before its end.

        A child that runs out of memory ends the launch, since other ranks may wait for this one in
        a collective. The next launch records it and continues with the next child, unless it was
        the first: then all of them would probably end like that.
        """
        is_first = self.launch.rank == 0
        error = None
        if not broadcast_json(is_first and _has_ended(child)):
            plan = plan_finetuning(child.config, self.launch.world_size, is_first, self.files)
            try:
                error = self._finetune(plan, parent)
            except OutOfMemory as reason:
                if not is_first_child:
                    mark_out_of_memory(child, str(reason))
                raise
            is_done = broadcast_json(is_first and run_folder.is_done(plan.config))
            if not is_done and error is None:
                return None
        found = outcome_of(child, error).model_dump(mode="json") if is_first else None
        return ChildResult.model_validate(broadcast_json(found))

    def _finetune(self, plan: FinetunePlan, parent: ParentRun) -> str | None:
        """Trains a child to its end or to a stop signal; the error if it diverged."""
        lock = None
        if self.launch.rank == 0:
            lock = folder_lock.hold(plan.config.output)
            for change in run_folder.claim(plan.config, plan.data_fingerprint):
                logger.info("changed since the last start: %s", change)
        try:
            finetune(plan, self.launch, self.profile, self.stop, parent)
        except DivergedError as error:  # alike on all ranks
            close_grid()
            return str(error)
        finally:
            if lock is not None:
                lock.release()
        return None

    def _keep(self, results: SweepResults) -> None:
        """Writes the results, then deletes the checkpoints that are not wanted any more."""
        write_results(self.config, results)
        delete_checkpoints(self.config, results)

    def _report(self, record: SweepRecord, results: SweepResults) -> None:
        self._keep(results)
        for line in table_lines(results):
            logger.info(line)
        record.end(results)
        ended, total = len(results.children), results.num_children
        if not results.is_finished:
            message = "sweep: stopped after %d of %d children; the same command continues"
            logger.info(message, ended, total)
        else:
            logger.info("sweep: finished: %d children; results in %s", total, self.config.output)


def _has_ended(child: Child) -> bool:
    """Whether a child is done. Without its checkpoints it is trained again, in a new folder."""
    if out_of_memory(child) is not None:
        return True
    if not run_folder.is_done(child.config):
        return False
    if list_checkpoints(run_folder.checkpoints_folder(child.config)):
        return True
    logger.info(
        "sweep: %s is the best now, but its checkpoints were deleted: it is trained again",
        child.name,
    )
    shutil.rmtree(child.config.output)
    return False


def _next_child(config: FinetuneConfig, results: SweepResults) -> Child | None:
    """The first child that has not ended."""
    wanted = wanted_children(config, results.children)
    return next((child for child in wanted if results.of(child.name) is None), None)
