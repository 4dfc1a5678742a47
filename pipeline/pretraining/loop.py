"""The training loop: every part of a step, from rows to checkpoint, in the order it runs in."""

from contextlib import closing

from configs.load import UserError
from model.parallel.grid import Grid, make_grid
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.writer import Saver
from pipeline.data.heldout import load_heldout
from pipeline.data.loader import StepBatch
from pipeline.data.position import RowWindow
from pipeline.engine.deepspeed_engine import Engine, StepResult, build_engine
from pipeline.engine.start import start_distributed
from pipeline.engine.throughput import StepMeter
from pipeline.fault_tolerance.loss_spikes import StabilityWatch, Trouble
from pipeline.fault_tolerance.watchdog import watchdog
from pipeline.launch.environment import Launch
from pipeline.launch.signals import StopRequest
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.resume import Position, describe_checkpoint, plan_segments, start_position
from pipeline.run import run_folder
from pipeline.run.plan import RunPlan
from pipeline.tracking.record import Record, describe_run, open_record


def train(plan: RunPlan, launch: Launch, follow_arguments: list[str]) -> None:
    """Trains to the last row or to a stop signal; every rank calls it.

    Raises UserError when the run went wrong more often than `stability.max_rollbacks` allows.
    """
    start_distributed(launch)
    grid = make_grid(plan.config.parallel.tensor)
    record = open_record(plan.config, grid.rank, follow_arguments)
    meter = StepMeter(grid.device, plan.config.precision)
    stop = StopRequest()
    skipped: tuple[RowWindow, ...] = ()
    trouble = _train_from_newest_checkpoint(plan, grid, record, meter, stop, skipped)
    while trouble is not None:
        skipped = (*skipped, trouble.rows)
        if len(skipped) > plan.config.stability.max_rollbacks:
            record.end("failed")
            raise UserError(
                f"{trouble.reason}; the run went back stability.max_rollbacks times before, so it "
                "stops here: look at its record, lower the learning rate, or clip gradients"
            )
        record.say(
            f"{trouble.reason}: going back to the newest checkpoint and passing over the rows "
            f"{trouble.rows.start_row:,} to {trouble.rows.end_row - 1:,}"
        )
        trouble = _train_from_newest_checkpoint(plan, grid, record, meter, stop, skipped)


def _train_from_newest_checkpoint(
    plan: RunPlan,
    grid: Grid,
    record: Record,
    meter: StepMeter,
    stop: StopRequest,
    skipped: tuple[RowWindow, ...],
) -> Trouble | None:
    """Trains until the end, a stop signal, or trouble that only going back can mend."""
    config = plan.config
    checkpoint = newest_checkpoint(config, grid)
    engine = build_engine(plan, grid, checkpoint)
    start = start_position(checkpoint, skipped)
    step, consumed_rows, skipped = start.step, start.consumed_rows, start.skipped
    last_row = plan.steps.end_row(skipped)
    segments = plan_segments(plan, checkpoint)
    saver = Saver(run_folder.checkpoints_folder(config), config.checkpoint, grid)
    heldouts = [
        load_heldout(phase, config.objective, config.evaluation.rows_per_source)
        for phase in plan.phases
    ]
    watch = StabilityWatch(config.stability, start.recent_losses)
    record.begin(step, describe_run(plan))
    for line in plan.sentences(step):
        record.say(line)
    scores: dict[str, float] = {}
    stopping, trouble = False, None
    meter.leave_out()  # all that was done so far

    with (
        closing(run_batches(plan, segments, skipped, grid.dp_rank, consumed_rows)) as batches,
        watchdog(config.hang_timeout_s) as dog,
    ):
        for batch in batches:
            dog.alive()
            meter.data_arrived()
            step += 1
            rows = RowWindow(start_row=consumed_rows, end_row=batch.consumed_rows)
            consumed_rows = batch.consumed_rows
            is_last = consumed_rows == last_row
            phase = plan.phases[batch.phase]
            result, values = _take_step(plan, engine, meter, batch)
            if result.skipped:
                record.say(_skipped_sentence(step, result, rows))
            is_finite = not result.skipped or result.overflowed
            trouble = watch.look(result.loss, is_finite, rows)
            if trouble is not None:
                break
            if step % config.log_every_steps == 0 or is_last:
                rows_left = phase.steps.total_rows - batch.step.end_row
                record.say(meter.progress_line(step, plan.steps.total_steps, rows_left, values))
                slow_ranks = meter.stragglers()
                if slow_ranks:
                    record.say(slow_ranks)
            if step % config.evaluation.every_steps == 0 or is_last:
                heldout = heldouts[batch.phase]
                scores = heldout.metrics(engine.evaluate(heldout, phase.config.batch.micro_rows))
                values |= scores
                record.say(heldout.sentence(scores))
            record.metrics(step, values)
            stopping = engine.any_rank(stop.seen)
            if step % config.checkpoint.every_steps == 0 or is_last or stopping:
                engine.check_replicas()
                heldout_loss = scores.get("heldout_loss", start.heldout_loss)
                position = Position(step, consumed_rows, heldout_loss, skipped, watch.recent_losses)
                saver.save(describe_checkpoint(plan, engine, segments, position), engine.snapshot)
            saver.report_errors(record.say)
            if stopping:
                break
            meter.leave_out()

    saver.finish()
    if trouble is not None:
        return trouble
    finished = consumed_rows >= last_row
    if finished and grid.rank == 0:
        run_folder.mark_done(config, step, plan.steps.total_rows)
    record.end("finished" if finished else "stopped")
    record.say(
        f"finished: {step:,} steps; checkpoints in {run_folder.checkpoints_folder(config)}"
        if finished
        else f"stopped after step {step:,} by a signal; the same command goes on from there"
    )
    return None


def _take_step(
    plan: RunPlan, engine: Engine, meter: StepMeter, batch: StepBatch
) -> tuple[StepResult, dict[str, float]]:
    """An optimizer step on `batch`, and what is recorded of it."""
    phase, rows = plan.phases[batch.phase], batch.step.global_rows
    learning_rate = phase.config.schedule.learning_rate(
        plan.config.optimizer.lr, batch.step.end_row, phase.steps.total_rows
    )
    result = engine.step(batch, learning_rate)
    flops = phase.training_flops(plan.config.model, rows, result.masked_tokens)
    figures = meter.step_ended(rows, phase.manifest.row_tokens, flops, engine.forward_s)
    position = {"learning_rate": learning_rate, "rows": batch.consumed_rows}
    return result, result.metrics() | position | figures


def _skipped_sentence(step: int, result: StepResult, rows: RowWindow) -> str:
    if result.overflowed:
        return f"step {step}: overflow at loss scale {result.loss_scale:.0f}, which is halved"
    return (
        f"step {step}: a gradient was not finite; no weight was changed (rows "
        f"{rows.start_row:,} to {rows.end_row - 1:,})"
    )
