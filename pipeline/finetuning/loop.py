"""The training loop of fine-tuning: everything that happens to a step, in the order it happens."""

from typing import Any

from model.objectives.head_names import ADVERSARIAL
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.progress import Progress, start_progress
from pipeline.checkpoint.writer import Saver
from pipeline.data.heldout import HeldoutRows
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.profiler import ProfiledSteps
from pipeline.engine.step import StepResult
from pipeline.engine.throughput import StepMeter
from pipeline.fault_tolerance.loss_spikes import Instability
from pipeline.finetuning.account import log_account
from pipeline.finetuning.adversary import passes_of
from pipeline.finetuning.batches import FinetuneBatches, FinetuneStep
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.engine import build_finetune_engine
from pipeline.finetuning.evaluation import evaluate, load_mlm_heldout, mean_error
from pipeline.finetuning.own_start import record_start
from pipeline.finetuning.plan import FinetunePlan
from pipeline.finetuning.resume import describe_checkpoint, describe_run
from pipeline.finetuning.step import finetuning_step, step_flops, step_metrics
from pipeline.launch.environment import Launch
from pipeline.launch.signals import StopRequest
from pipeline.launch.stop_agreement import StepAbandoned
from pipeline.run import run_folder
from pipeline.tracking.label_plots import keep_plots
from pipeline.tracking.label_tables import LabelTable
from pipeline.tracking.parent_run import ParentRun
from pipeline.training.session import Session, open_session
from pipeline.training.state import TrainingState
from pipeline.validation.watch import ValidationWatch


def finetune(
    plan: FinetunePlan,
    launch: Launch,
    profile: ProfiledSteps | None = None,
    stop: StopRequest | None = None,
    parent: ParentRun | None = None,
) -> None:
    """Trains to the last step or to a stop signal; every rank calls it.

    `profile`: the steps to profile. `stop` and `parent`: of the sweep that the run belongs to.
    Raises UserError when training was unstable more often than `stability.max_rollbacks` allows.
    """
    if launch.rank == 0:
        record_start(plan.config, plan.start)
    data = {"files": plan.data_fingerprint, "start": plan.start.fingerprint}
    data_sets = [(plan.mlm.config.data, plan.mlm.manifest)] if plan.mlm else []
    # The children of a sweep train on the same rows: the folder that holds theirs remembers.
    memory = plan.config.output.parent if parent else plan.config.output
    with open_session(plan.config, launch, profile, data, data_sets, memory, stop) as session:
        while session and (instability := _train_from_newest_checkpoint(plan, session, parent)):
            session.roll_back(instability, plan.stability)
    if launch.rank == 0 and run_folder.is_done(plan.config):
        keep_plots(plan.config.output)


def _train_from_newest_checkpoint(
    plan: FinetunePlan, session: Session, parent: ParentRun | None
) -> Instability | None:
    """Trains until the end, a stop signal, or an instability, which it returns."""
    config, grid, meter = plan.config, session.grid, session.meter
    checkpoint = newest_checkpoint(run_folder.checkpoints_folder(config), grid)
    batches = FinetuneBatches(plan, grid.dp_rank)
    passes = passes_of(config.adversarial)
    engine = build_finetune_engine(plan, grid, checkpoint, batches.per_step * passes)
    start = start_progress(checkpoint, session.skipped)
    validation = ValidationWatch(config.evaluation, start.validation, score_name="dev error")
    last_row = plan.steps.end_row(start.skipped)
    keep = config.checkpoint.for_validation(config.evaluation)
    saver = Saver(run_folder.checkpoints_folder(config), keep, grid, plan.start.tokenizer)
    heldout = load_mlm_heldout(plan)

    def save(at: Progress) -> None:
        session.record.wait()
        saver.save(describe_checkpoint(plan, engine, at), engine.snapshot)

    state = TrainingState(start, last_row, keep, plan.stability, validation, save)
    session.announce(start.step, describe_run(plan, parent), plan.summary_lines(start.step))
    with session.running() as (watchdog, profiler):
        meter.start_step()
        for batch in batches.steps_from(state.first_row, start.skipped):
            watchdog.alive()
            meter.data_arrived()
            learning_rate = validation.learning_rate(_learning_rate(config, batch), 0)
            try:
                with profiler.step(state.step + 1):
                    result = finetuning_step(
                        *(engine, batch, config.weights, learning_rate),
                        *(session.stop, meter.data_wait_s, config.adversarial, config.seed),
                    )
            except StepAbandoned:
                break
            values = _step_values(plan, batch, learning_rate, result, meter)
            state.add_step(result, batch.rows)
            if state.instability is not None:
                break
            if state.is_due(config.log_every_steps):
                rows_left = _rows_between(plan, state.consumed_rows, last_row)
                meter.log_progress(state.step, config.num_steps, rows_left, _losses(result), values)
            if state.is_due(config.evaluate_every_steps):
                scores, tables = _evaluate(plan, engine, batches, heldout)
                session.record.tables(state.step, tables)
                state.add_evaluation(mean_error(plan, scores), 0, plan.dev_fingerprint)
                values |= scores
            session.record.metrics(state.step, values)
            if state.save_is_due:
                state.save()
            saver.report_errors()
            if result.stop_requested or validation.stop:
                break
            meter.start_step()
        if state.has_unsaved_steps:
            state.save()
    saver.finish()
    engine.close()
    session.end(state)
    if state.instability is None:
        log_account(plan.splits)
    return state.instability


def _evaluate(
    plan: FinetunePlan, engine: Engine, batches: FinetuneBatches, heldout: HeldoutRows | None
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """The metrics on the dev files and held-out rows; by task, the counts of each label."""
    tables: dict[str, LabelTable] = {}
    scores = evaluate(plan, engine, batches, heldout, tables)
    return scores, {name: table.to_json() for name, table in tables.items()}


def _learning_rate(config: FinetuneConfig, batch: FinetuneStep) -> float:
    return config.schedule.learning_rate(config.optimizer.lr, batch.rows.end_row, config.end_row)


def _rows_between(plan: FinetunePlan, start_row: int, end_row: int) -> int:
    """About how many rows the steps between two positions take."""
    return round((end_row - start_row) / plan.config.rows_per_step * plan.mean_step_rows)


def _losses(result: StepResult) -> str:
    losses = result.losses.items()
    return "  ".join(
        f"{head} {loss:.3f}" for head, loss in losses if not head.startswith(ADVERSARIAL)
    )


def _step_values(
    plan: FinetunePlan,
    batch: FinetuneStep,
    learning_rate: float,
    result: StepResult,
    meter: StepMeter,
) -> dict[str, float]:
    """All that is recorded of a step, by name."""
    values = step_metrics(result)
    values |= {"learning_rate": learning_rate, "rows": batch.rows.end_row}
    flops = step_flops(plan, batch)
    return values | meter.step_finished(result, batch.num_rows, batch.num_tokens, flops)
