"""The training loop of fine-tuning: everything that happens to a step, in the order it happens."""

from model.objectives.head_names import ADVERSARIAL
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.progress import Progress, start_progress
from pipeline.checkpoint.writer import Saver
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.profiler import ProfiledSteps
from pipeline.engine.step import StepResult
from pipeline.engine.throughput import StepMeter, log_if_skipped
from pipeline.fault_tolerance.loss_spikes import Instability, StabilityWatch
from pipeline.finetuning.adversary import passes_of
from pipeline.finetuning.batches import FinetuneBatches, FinetuneStep, run_steps
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.engine import build_finetune_engine
from pipeline.finetuning.evaluation import evaluate, load_mlm_heldout, mean_error
from pipeline.finetuning.own_start import record_start
from pipeline.finetuning.plan import FinetunePlan
from pipeline.finetuning.resume import describe_checkpoint, describe_run
from pipeline.finetuning.step import finetuning_step, step_flops, step_metrics
from pipeline.launch.environment import Launch
from pipeline.launch.stop_agreement import StepAbandoned
from pipeline.run import run_folder
from pipeline.training.session import Session, open_session
from pipeline.validation.watch import ValidationWatch


def finetune(
    plan: FinetunePlan,
    launch: Launch,
    profile: ProfiledSteps | None = None,
) -> None:
    """Trains to the last step or to a stop signal; every rank calls it.

    `profile`: the steps to profile.
    Raises UserError when training was unstable more often than `stability.max_rollbacks` allows.
    """
    if launch.rank == 0:
        record_start(plan.config, plan.start)
    data = {"files": plan.data_fingerprint, "start": plan.start.fingerprint}
    with open_session(plan.config, launch, profile, data) as session:
        while instability := _train_from_newest_checkpoint(plan, session):
            session.roll_back(instability, plan.config.stability)


def _train_from_newest_checkpoint(plan: FinetunePlan, session: Session) -> Instability | None:
    """Trains until the end, a stop signal, or an instability, which it returns."""
    config, grid, meter = plan.config, session.grid, session.meter
    checkpoint = newest_checkpoint(run_folder.checkpoints_folder(config), grid)
    batches = FinetuneBatches(plan, grid.dp_rank)
    passes = passes_of(config.adversarial)
    engine = build_finetune_engine(plan, grid, checkpoint, batches.per_step * passes)
    start = start_progress(checkpoint, session.skipped)
    validation = ValidationWatch(config.evaluation, start.validation, score_name="dev error")
    last_row = run_steps(plan).end_row(start.skipped)
    keep = config.checkpoint.for_validation(config.evaluation)
    saver = Saver(run_folder.checkpoints_folder(config), keep, grid, plan.start.tokenizer)
    heldout = load_mlm_heldout(plan)
    watch = StabilityWatch(config.stability, start.recent_losses)
    session.announce(start.step, describe_run(plan), plan.summary_lines(start.step))
    step, consumed_rows, dev_error = start.step, start.consumed_rows, start.score
    saved_step, instability = start.step, None
    first_row = last_row if validation.stop else consumed_rows
    with session.running() as (watchdog, profiler):
        meter.start_step()
        for batch in batches.steps_from(first_row, start.skipped):
            watchdog.alive()
            meter.data_arrived()
            learning_rate = validation.learning_rate(_learning_rate(config, batch), 0)
            try:
                with profiler.step(step + 1):
                    result = finetuning_step(
                        *(engine, batch, config.weights, learning_rate),
                        *(session.stop, meter.data_wait_s, config.adversarial, config.seed),
                    )
            except StepAbandoned:
                break
            step += 1
            consumed_rows = batch.rows.end_row
            is_last, dev_error = consumed_rows == last_row, None
            values = _step_values(plan, batch, learning_rate, result, meter)
            log_if_skipped(step, result, batch.rows)
            instability = watch.observe(result.loss, result.is_finite, batch.rows)
            if instability is not None:
                break
            if step % config.log_every_steps == 0 or is_last:
                meter.log_progress(
                    step, config.steps, last_row - consumed_rows, _losses(result), values
                )
            if step % config.evaluate_every_steps == 0 or is_last:
                scores = evaluate(plan, engine, batches, heldout)
                dev_error = mean_error(plan, scores)
                validation.observe(step, dev_error, 0, plan.dev_fingerprint)
                values |= scores
            session.record.metrics(step, values)
            is_best = keep.keep_best > 0 and validation.is_best(step)
            if step % keep.every_steps == 0 or is_last or is_best or validation.stop:
                at = start.at(step, consumed_rows, dev_error, watch.recent_losses, validation.state)
                saved_step = _save(plan, engine, saver, at)
            saver.report_errors()
            if result.stop_requested or validation.stop:
                break
            meter.start_step()
        if instability is None and step > saved_step:  # a signal between two saves
            at = start.at(step, consumed_rows, dev_error, watch.recent_losses, validation.state)
            _save(plan, engine, saver, at)
    saver.finish()
    engine.close()
    if instability is None:
        session.end(step, consumed_rows, consumed_rows >= last_row, validation)
    return instability


def _save(plan: FinetunePlan, engine: Engine, saver: Saver, at: Progress) -> int:
    """Starts to save the state at `at`, and returns its step."""
    saver.save(describe_checkpoint(plan, engine, at), engine.snapshot)
    return at.step


def _learning_rate(config: FinetuneConfig, batch: FinetuneStep) -> float:
    return config.schedule.learning_rate(config.optimizer.lr, batch.rows.end_row, config.end_row)


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
