"""Prepares rows from sources: ``python -m data_prep.run CONFIG.yaml [key.sub=value ...]``.

A run that was interrupted resumes where it stopped; finished work is not repeated.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from configs import command, folder_lock
from configs.load import load
from configs.terminal import visible
from data_prep.checks import Findings, check
from data_prep.config import DataConfig
from data_prep.dry_run import describe
from data_prep.engine.execution import StageRunner, restart_from
from data_prep.engine.interrupts import Stopped, end_at_once, stops_at_signals
from data_prep.engine.progress import ProgressReporter
from data_prep.finished import is_finished_without_work, write_request
from data_prep.job_state import has_restarted, note_restart
from data_prep.kernels.build import build
from data_prep.limits import Limits
from data_prep.packing.rows import RowsStage
from data_prep.preparation import Preparation
from data_prep.publish import is_published, publish, withdraw, withdraw_if_different
from data_prep.report.terminal import end_of_run, stage_line
from data_prep.stages import READ_FOR_REPORT, STAGES, names_from
from data_prep.tokenization.tokenizer import TokenizerStage

logger = logging.getLogger(__name__)


def main() -> int:
    """Runs data preparation as the command line says; returns the exit code."""
    names = [entry.name for entry in STAGES]
    parser = command.parser(__doc__ or "")
    parser.add_argument(
        "--restart-from",
        metavar="STAGE",
        choices=names,
        help=f"repeat this stage and all later ones ({', '.join(names)})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config and files, print the plan and first documents, and do nothing",
    )
    parser.add_argument(
        "--scheduler-file",
        metavar="FILE",
        help="run the parts on the workers of the Dask scheduler that wrote this file",
    )
    arguments = parser.parse_args()
    overrides = list(arguments.overrides)
    if arguments.scheduler_file:
        overrides.append(
            f"engine={{type: scheduler, scheduler_file: {json.dumps(arguments.scheduler_file)}}}"
        )
    config = load(arguments.config, DataConfig, overrides)
    if arguments.dry_run:
        print(visible(describe(config)))
        return 0
    lock = None
    try:
        with stops_at_signals():
            lock = folder_lock.hold(config.work)
            findings = None
            stage = arguments.restart_from
            if stage and not has_restarted(config.work, stage):
                findings = check(config, only_new=True, again=names_from(stage))
                restart(config, stage)
                note_restart(config.work, stage)
            prepare(config, findings=findings)
            print(end_of_run(config.output), flush=True)
    except Stopped as stop:
        logger.info("%s: finished parts are kept, and the same command resumes", stop)
        sys.stdout.flush()
        if lock is not None:
            lock.release()
        end_at_once(stop.exit_code)
    return 0


def restart(config: DataConfig, stage: str) -> None:
    """Removes the work of `stage` and all later ones, and the manifest of what they made."""
    withdraw(config.output)
    restart_from(config.work, names_from(stage))


def prepare(
    config: DataConfig,
    limits: Limits | None = None,
    around_stage: Callable[[str], AbstractContextManager[object]] = nullcontext,
    findings: Findings | None = None,
) -> None:
    """Prepares the rows of `config`, or finds them finished.

    `limits` decide memory and speed. Each stage runs inside `around_stage` of its name (benchmarks
    measure it so). `findings` are those of checks that were done already. Raises UserError for an
    error that the user can fix.
    """
    started_at = time.monotonic()
    if is_finished_without_work(config):
        logger.info("%s: finished before and whole, nothing to do", config.output)
        return
    run = Preparation(config, limits)
    run.notice((findings or check(config, only_new=True)).notices)
    build()
    num_parts_run = 0
    with config.engine.build() as engine:
        stages = StageRunner(config.work, engine, ProgressReporter.for_standard_output())
        for entry in STAGES:
            if not entry.condition.holds(config):
                continue
            stage = entry.build(run)
            if isinstance(stage, RowsStage):
                withdraw_if_different(config.output, stage)
            stage_started_at = time.monotonic()
            with around_stage(stage.name):
                result = stages.run(stage, entry.reads_in(run))
            if result.num_parts_run and not sys.stdout.isatty():
                seconds = time.monotonic() - stage_started_at
                did = stage_line(stage.name, result.records)
                logger.info("%s: %s, %.1f s", stage.name, did, seconds)
            run.add(stage, result)
            entry.check(run)
            num_parts_run += result.num_parts_run
            if isinstance(stage, TokenizerStage):
                stages.check([stage.name])  # the stages after it are built from its content
        if not is_published(config.output):
            stages.check(stage.name for stage in READ_FOR_REPORT if run.has(stage))
            publish(run)
        write_request(run)
    seconds = time.monotonic() - started_at
    if num_parts_run:
        logger.info("finished in %.1f s: %s", seconds, config.output / "report.html")
    else:
        logger.info("%s: finished before, nothing to do (%.1f s)", config.output, seconds)


if __name__ == "__main__":
    command.run(main)
