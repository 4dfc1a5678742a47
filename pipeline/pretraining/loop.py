"""The training loop of pretraining: everything that happens to a step, in the order it happens."""

import logging
from contextlib import closing
from functools import partial

from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.progress import Progress, start_progress
from pipeline.checkpoint.writer import Saver
from pipeline.data.heldout import HeldoutRows, load_heldout
from pipeline.data.loader import StepBatch
from pipeline.data.position import RowWindow
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.evaluation import heldout_scores_of_heads
from pipeline.engine.profiler import ProfiledSteps
from pipeline.engine.step import StepResult
from pipeline.engine.throughput import StepMeter
from pipeline.fault_tolerance.loss_spikes import Instability
from pipeline.launch.environment import Launch
from pipeline.launch.stop_agreement import StepAbandoned
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.engine import PhaseSwitch, build_engine
from pipeline.pretraining.heldout_metrics import heldout_metrics, summary_line
from pipeline.pretraining.resume import describe_checkpoint, describe_run, plan_segments
from pipeline.pretraining.step import MaskedMicroBatch, pretraining_step, step_metrics
from pipeline.run import run_folder
from pipeline.run.plan import PhasePlan, RunPlan
from pipeline.start.record import write_record
from pipeline.training.session import Session, open_session
from pipeline.training.state import TrainingState
from pipeline.validation.watch import ValidationWatch

logger = logging.getLogger(__name__)


def train(
    plan: RunPlan,
    launch: Launch,
    profile: ProfiledSteps | None = None,
) -> None:
    """Trains to the last row or to a stop signal; every rank calls it.

    `profile`: the steps to profile.
    Raises UserError when training was unstable more often than `stability.max_rollbacks` allows.
    """
    data = {"rows": plan.data_fingerprint, "tokenizer": plan.tokenizer_sha256}
    if plan.start_record is not None:
        data["start"] = plan.start_record.fingerprint
    if launch.rank == 0 and plan.start is not None:
        write_record(plan.config.output, plan.start.record)
    data_sets = [(phase.config.data, phase.manifest) for phase in plan.phases]
    memory = plan.config.output
    with open_session(plan.config, launch, profile, data, data_sets, memory) as session:
        while session and (instability := _train_from_newest_checkpoint(plan, session)):
            session.roll_back(instability, plan.config.stability)


def _train_from_newest_checkpoint(plan: RunPlan, session: Session) -> Instability | None:
    """Trains until the end, a stop signal, or an instability, which it returns."""
    config, grid, meter = plan.config, session.grid, session.meter
    checkpoint = newest_checkpoint(run_folder.checkpoints_folder(config), grid)
    engine = build_engine(plan, grid, checkpoint)
    phases = PhaseSwitch(plan, engine)
    segments = plan_segments(plan, checkpoint)
    start = start_progress(checkpoint, session.skipped)
    validation = ValidationWatch(config.evaluation, start.validation, len(plan.phases))
    last_row = plan.steps.end_row(start.skipped)
    keep = config.checkpoint.for_validation(config.evaluation)
    saver = Saver(run_folder.checkpoints_folder(config), keep, grid, plan.tokenizer)
    heldouts = [_load_heldout(plan, phase) for phase in plan.phases]

    def save(at: Progress) -> None:
        session.record.wait()
        saver.save(describe_checkpoint(plan, engine, segments, at), engine.snapshot)

    state = TrainingState(start, last_row, keep, config.stability, validation, save)
    session.announce(start.step, describe_run(plan), plan.summary_lines(start.step))
    if checkpoint is None and config.start.type != "scratch":
        scores = _evaluate(engine, plan.phases[0], heldouts[0])
        session.record.metrics(0, scores)
        state.save(scores.get("heldout_loss"))
    loading = run_batches(plan, segments, start.skipped, grid.dp_rank, state.first_row)
    with closing(loading) as batches, session.running() as (watchdog, profiler):
        meter.start_step()
        for batch in batches:
            watchdog.alive()
            meter.data_arrived()
            phases.enter(batch.phase)
            learning_rate = validation.learning_rate(_learning_rate(plan, batch), batch.phase)
            try:
                with profiler.step(state.step + 1):
                    result = pretraining_step(
                        *(engine, batch, learning_rate, session.stop, meter.data_wait_s),
                        *(plan.phases[batch.phase].config.adversarial, config.seed),
                    )
            except StepAbandoned:
                break
            values = _step_values(plan, batch, learning_rate, result, meter)
            rows = RowWindow(start_row=state.consumed_rows, end_row=batch.consumed_rows)
            state.add_step(result, rows)
            if state.instability is not None:
                break
            if state.is_due(config.log_every_steps):
                _log_progress(plan, batch, meter, state.step, values)
            if state.is_due(config.evaluation.every_steps):
                heldout = heldouts[batch.phase]
                scores = _evaluate(engine, plan.phases[batch.phase], heldout)
                state.add_evaluation(scores.get("heldout_loss"), batch.phase, heldout.fingerprint)
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
    return state.instability


def _learning_rate(plan: RunPlan, batch: StepBatch) -> float:
    phase = plan.phases[batch.phase]
    return phase.config.schedule.learning_rate(
        phase.config.optimizer.lr, batch.step.end_row, phase.steps.total_rows
    )


def _step_values(
    plan: RunPlan, batch: StepBatch, learning_rate: float, result: StepResult, meter: StepMeter
) -> dict[str, float]:
    """All that is recorded of a step, by name."""
    phase, rows = plan.phases[batch.phase], batch.step.global_rows
    values = step_metrics(result)
    values |= {"learning_rate": learning_rate, "rows": batch.consumed_rows}
    masked_tokens = int(values["masked_tokens"])
    flops = phase.training_flops(phase.config.model, rows, masked_tokens, batch.is_causal)
    return values | meter.step_finished(result, rows, rows * phase.manifest.row_tokens, flops)


def _log_progress(
    plan: RunPlan, batch: StepBatch, meter: StepMeter, step: int, values: dict[str, float]
) -> None:
    phase, later = plan.phases[batch.phase], plan.phases[batch.phase + 1 :]
    # A row of a later phase counts by its length, so that the time left is that of the whole run.
    later_tokens = sum(other.steps.total_rows * other.manifest.row_tokens for other in later)
    rows_left = phase.steps.total_rows - batch.step.end_row
    rows_left += later_tokens // phase.manifest.row_tokens
    meter.log_progress(step, plan.steps.total_steps, rows_left, f"{values['loss']:.3f}", values)


def _load_heldout(plan: RunPlan, phase: PhasePlan) -> HeldoutRows:
    rows_per_source = plan.config.evaluation.rows_per_source
    return load_heldout(phase.config.data, phase.manifest, phase.config.objective, rows_per_source)


def _evaluate(engine: Engine, phase: PhasePlan, heldout: HeldoutRows) -> dict[str, float]:
    """The held-out metrics, which it also logs."""
    micro_batch = partial(MaskedMicroBatch, is_causal=heldout.is_causal)
    micro_rows = phase.config.batch.micro_rows
    scores = heldout_scores_of_heads(engine, heldout, micro_rows, micro_batch)
    values = heldout_metrics(heldout, scores)
    logger.info(summary_line(heldout, values))
    return values
