"""The training loop: every part of a step, from rows to checkpoint, in the order it runs in."""

from contextlib import closing

from data_prep.shards import read_manifest
from model.parallel import make_grid
from pipeline import run_folder
from pipeline.checkpoint_writer import Saver
from pipeline.config import TrainConfig
from pipeline.deepspeed_engine import build_engine, start_distributed
from pipeline.heldout import load_heldout
from pipeline.launch import Launch
from pipeline.loader import build_stream, step_batches
from pipeline.metrics import StepTimer
from pipeline.plan import check_run
from pipeline.record import describe_run, open_record
from pipeline.resume import Position, describe_checkpoint, newest_checkpoint
from pipeline.signals import StopRequest


def train(config: TrainConfig, launch: Launch, follow_arguments: list[str]) -> None:
    """Trains to the last row or to a stop signal; every rank calls it."""
    start_distributed(launch)
    grid = make_grid(config.parallel.tensor)
    manifest = read_manifest(config.data.path)
    plan = check_run(config, manifest, grid.world_size)
    record = open_record(config, grid.rank, follow_arguments)
    checkpoint = newest_checkpoint(config, grid)
    engine = build_engine(config, manifest, plan, grid, checkpoint)
    step = checkpoint.manifest.step if checkpoint else 0
    consumed_rows = checkpoint.manifest.consumed_rows if checkpoint else 0
    saver = Saver(run_folder.checkpoints_folder(config), config.checkpoint.keep_last, grid)
    objective = config.objective.build(manifest.vocab_size)
    stream = build_stream(config.data, manifest, objective, config.seed)
    heldout = load_heldout(config, manifest, objective)
    record.begin(step, describe_run(config, manifest, plan, grid.tp_size))
    record.say(plan.sentence(config, step))
    timer = StepTimer(plan, manifest.row_tokens)
    scores: dict[str, float] = {}
    stop = StopRequest()
    stopping = False

    with closing(
        step_batches(stream, config.data, plan, grid.dp_rank, consumed_rows, config.total_rows)
    ) as batches:
        for batch in batches:
            timer.data_arrived()
            step += 1
            consumed_rows = batch.start_row + plan.global_rows
            is_last = step == config.total_steps
            learning_rate = config.schedule.learning_rate(
                config.optimizer.lr, consumed_rows, config.total_rows
            )
            result = engine.step(batch, learning_rate)
            values = {**result.metrics(), "learning_rate": learning_rate, "rows": consumed_rows}
            values |= timer.step_ended()
            if result.skipped:
                record.say(
                    f"step {step}: a gradient was not finite; no weight was changed (rows "
                    f"{batch.start_row:,} to {consumed_rows - 1:,} of the stream)"
                )
            if step % config.log_every_steps == 0 or is_last:
                record.say(timer.progress_line(step, config.total_steps, values))
            if step % config.evaluation.every_steps == 0 or is_last:
                scores = heldout.metrics(engine.evaluate(heldout))
                values |= scores
                record.say(heldout.sentence(scores))
            record.metrics(step, values)
            stopping = engine.any_rank(stop.seen)
            if step % config.checkpoint.every_steps == 0 or is_last or stopping:
                position = Position(step, consumed_rows, scores.get("heldout_loss"))
                saver.save(
                    describe_checkpoint(config, manifest, engine, grid, position),
                    engine.snapshot(),
                )
            saver.report_errors(record.say)
            if stopping:
                break
            timer.leave_out()

    saver.finish()
    finished = step == config.total_steps
    if finished and grid.rank == 0:
        run_folder.mark_done(config, step, consumed_rows)
    record.end("finished" if finished else "stopped")
    record.say(
        f"finished: {step:,} steps; checkpoints in {run_folder.checkpoints_folder(config)}"
        if finished
        else f"stopped after step {step:,} by a signal; the same command goes on from there"
    )
