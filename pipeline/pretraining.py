"""The training loop: every part of a step, from rows to checkpoint, in the order it runs in."""

from contextlib import closing

from model.parallel import make_grid
from pipeline import run_folder
from pipeline.checkpoint_writer import Saver
from pipeline.deepspeed_engine import build_engine, start_distributed
from pipeline.heldout import load_heldout
from pipeline.launch import Launch
from pipeline.loader import build_objective, run_batches
from pipeline.metrics import StepTimer
from pipeline.plan import RunPlan
from pipeline.record import describe_run, open_record
from pipeline.resume import Position, describe_checkpoint, newest_checkpoint, plan_segments
from pipeline.signals import StopRequest


def train(plan: RunPlan, launch: Launch, follow_arguments: list[str]) -> None:
    """Trains to the last row or to a stop signal; every rank calls it."""
    config = plan.config
    start_distributed(launch)
    grid = make_grid(config.parallel.tensor)
    record = open_record(config, grid.rank, follow_arguments)
    checkpoint = newest_checkpoint(config, grid)
    engine = build_engine(plan, grid, checkpoint)
    step = checkpoint.manifest.step if checkpoint else 0
    consumed_rows = checkpoint.manifest.consumed_rows if checkpoint else 0
    segments = plan_segments(plan, checkpoint)
    saver = Saver(run_folder.checkpoints_folder(config), config.checkpoint.keep_last, grid)
    heldouts = [
        load_heldout(
            phase.config.data.path,
            phase.manifest,
            build_objective(config.objective, phase),
            config.evaluation.rows_per_source,
        )
        for phase in plan.phases
    ]
    total_steps = plan.steps.total_steps
    record.begin(step, describe_run(plan))
    for line in plan.sentences(step):
        record.say(line)
    scores: dict[str, float] = {}
    stop = StopRequest()
    timer = StepTimer()

    with closing(run_batches(plan, segments, grid.dp_rank, consumed_rows)) as batches:
        for batch in batches:
            timer.data_arrived()
            step += 1
            consumed_rows = batch.consumed_rows
            is_last = consumed_rows == plan.steps.total_rows
            phase = plan.phases[batch.phase]
            learning_rate = phase.config.schedule.learning_rate(
                config.optimizer.lr, batch.step.end_row, phase.steps.total_rows
            )
            result = engine.step(batch, learning_rate)
            values = {**result.metrics(), "learning_rate": learning_rate, "rows": consumed_rows}
            values |= timer.step_ended(batch.step.global_rows, phase.manifest.row_tokens)
            if result.skipped:
                record.say(
                    f"step {step}: a gradient was not finite; no weight was changed (rows "
                    f"{batch.step.start_row:,} to {batch.step.end_row - 1:,} of the stream)"
                )
            if step % config.log_every_steps == 0 or is_last:
                rows_left = phase.steps.total_rows - batch.step.end_row
                record.say(timer.progress_line(step, total_steps, rows_left, values))
            if step % config.evaluation.every_steps == 0 or is_last:
                heldout = heldouts[batch.phase]
                scores = heldout.metrics(engine.evaluate(heldout, phase.config.batch.micro_rows))
                values |= scores
                record.say(heldout.sentence(scores))
            record.metrics(step, values)
            stopping = engine.any_rank(stop.seen)
            if step % config.checkpoint.every_steps == 0 or is_last or stopping:
                position = Position(step, consumed_rows, scores.get("heldout_loss"))
                saver.save(describe_checkpoint(plan, engine, segments, position), engine.snapshot())
            saver.report_errors(record.say)
            if stopping:
                break
            timer.leave_out()

    saver.finish()
    finished = consumed_rows == plan.steps.total_rows
    if finished and grid.rank == 0:
        run_folder.mark_done(config, step, consumed_rows)
    record.end("finished" if finished else "stopped")
    record.say(
        f"finished: {step:,} steps; checkpoints in {run_folder.checkpoints_folder(config)}"
        if finished
        else f"stopped after step {step:,} by a signal; the same command goes on from there"
    )
