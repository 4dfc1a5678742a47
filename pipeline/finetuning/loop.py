"""The fine-tuning loop: every part of a step, from examples to checkpoint, in the order it runs."""

import math
import time
from collections.abc import Mapping
from typing import Any

from model.parallel.grid import make_grid
from pipeline.checkpoint.manifest import STATE_KEYS, CheckpointManifest, ParameterRecord
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.writer import Saver
from pipeline.data.heldout import HeldoutRows, load_heldout
from pipeline.engine.start import start_distributed
from pipeline.fault_tolerance.watchdog import watchdog
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import MLM
from pipeline.finetuning.engine import FinetuneEngine, build_finetune_engine
from pipeline.finetuning.plan import FinetunePlan
from pipeline.launch.environment import Launch
from pipeline.launch.signals import StopRequest
from pipeline.run import run_folder
from pipeline.run.versions import versions
from pipeline.tracking import lineage
from pipeline.tracking.record import open_record
from pipeline.tracking.sender import run_id_of


def finetune(plan: FinetunePlan, launch: Launch, follow_arguments: list[str]) -> None:
    """Trains to the last step or to a stop signal; every rank calls it."""
    config = plan.config
    start_distributed(launch)
    grid = make_grid(config.parallel.tensor)
    record = open_record(config, grid.rank, follow_arguments)
    stop = StopRequest()
    checkpoint = newest_checkpoint(config, grid)
    batches = FinetuneBatches(plan, grid.dp_rank)
    engine = build_finetune_engine(plan, grid, checkpoint, batches.per_step)
    saver = Saver(run_folder.checkpoints_folder(config), config.checkpoint, grid)
    heldout = None
    if plan.mlm is not None and config.mlm is not None:
        heldout = load_heldout(plan.mlm, config.mlm.objective, config.mlm.heldout_rows_per_source)
    step = checkpoint.manifest.step if checkpoint else 0
    dev_error = checkpoint.manifest.heldout_loss if checkpoint else None
    record.begin(step, describe_finetuning(plan))
    for line in plan.sentences(step):
        record.say(line)

    stopping = False
    with watchdog(config.hang_timeout_s) as dog:
        while step < config.steps and not stopping:
            dog.alive()
            began = time.monotonic()
            step += 1
            rows = step * config.rows_per_step
            learning_rate = config.schedule.learning_rate(config.optimizer.lr, rows, config.end_row)
            result = engine.finetune_step(batches.step(step - 1), config.weights, learning_rate)
            values = {**result.metrics(), "learning_rate": learning_rate, "rows": rows}
            values["step_s"] = time.monotonic() - began
            is_last = step == config.steps
            if result.skipped:
                record.say(f"step {step}: a gradient was not finite; no weight was changed")
            if step % config.log_every_steps == 0 or is_last:
                losses = "  ".join(f"{name} {loss:.3f}" for name, loss in result.losses.items())
                record.say(
                    f"step {step:,}/{config.steps:,}  loss {losses}  lr {learning_rate:.2e}  "
                    f"norm {result.gradient_norm:.2f}"
                )
            if step % config.evaluate_every_steps == 0 or is_last:
                scores = evaluate(plan, engine, heldout)
                values |= scores
                record.say(describe_scores(plan, scores))
                dev_error = mean_error(plan, scores)
            record.metrics(step, values)
            stopping = engine.any_rank(stop.seen)
            if step % config.checkpoint.every_steps == 0 or is_last or stopping:
                engine.check_replicas()
                saver.save(describe_checkpoint(plan, engine, step, dev_error), engine.snapshot)
            saver.report_errors(record.say)

    saver.finish()
    finished = step >= config.steps
    if finished and grid.rank == 0:
        run_folder.mark_done(config, step, config.end_row)
    record.end("finished" if finished else "stopped")
    record.say(
        f"finished: {step:,} steps; checkpoints in {run_folder.checkpoints_folder(config)}"
        if finished
        else f"stopped after step {step:,} by a signal; the same command goes on from there"
    )


def evaluate(
    plan: FinetunePlan, engine: FinetuneEngine, heldout: HeldoutRows | None
) -> dict[str, float]:
    """``dev_METRIC/TASK`` of every task with a file to evaluate on, and the held-out MLM's."""
    values = {}
    for name, file in plan.dev.items():
        scores = engine.dev_scores(plan, name)
        for metric, value in plan.config.tasks[name].metrics(file.examples, scores).items():
            if math.isfinite(value):  # the correlation of equal predictions is not
                values[f"dev_{metric}/{name}"] = value
    if heldout is not None:
        values |= heldout.metrics(engine.mlm_scores(heldout, plan.config.micro_rows))
    return values


def mean_error(plan: FinetunePlan, scores: Mapping[str, float]) -> float | None:
    """1 less the mean main metric of the tasks, by which checkpoints are compared; None of none."""
    found = [scores[name] for name in main_metrics(plan) if name in scores]
    return 1 - sum(found) / len(found) if found else None


def main_metrics(plan: FinetunePlan) -> list[str]:
    """The name of the main metric of each task that is evaluated."""
    return [f"dev_{plan.config.tasks[name].MAIN_METRIC}/{name}" for name in plan.dev]


def describe_scores(plan: FinetunePlan, scores: Mapping[str, float]) -> str:
    """The evaluation in one line."""
    parts = [
        f"{name.removeprefix('dev_')} {scores[name]:.3f}"
        for name in main_metrics(plan)
        if name in scores
    ]
    if "heldout_loss" in scores:
        parts.append(f"{MLM} loss {scores['heldout_loss']:.3f}")
    return "evaluated: " + ("  ".join(parts) or "no task has a dev file")


def describe_checkpoint(
    plan: FinetunePlan, engine: FinetuneEngine, step: int, dev_error: float | None
) -> CheckpointManifest:
    """The manifest of the state after `step`, its files still to be listed."""
    config = plan.config
    return CheckpointManifest(
        step=step,
        optimizer_step=engine.optimizer_steps(),
        loss_scale=engine.loss_scale,
        consumed_rows=step * config.rows_per_step,
        segments=(),
        seed=config.seed,
        tp_size=plan.tp_size,
        dp_size=plan.dp_size,
        zero_stage=config.parallel.zero_stage,
        config={**config.model_dump(mode="json"), "network": plan.model.model_dump(mode="json")},
        vocab_size=plan.start.vocab_size,
        data_fingerprint=plan.data_fingerprint,
        tokenizer_sha256=plan.start.tokenizer_sha256,
        tracking_run_id=run_id_of(config.output),
        heldout_loss=dev_error,
        versions=versions(),
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in engine.specs.items()
        },
        state_keys=STATE_KEYS,
    )


def describe_finetuning(plan: FinetunePlan) -> dict[str, Any]:
    """What a start tells MLflow: parameters, tags, data sets."""
    return {
        "params": {
            **lineage.describe_code(plan.config),
            "grid.tp_size": plan.tp_size,
            "grid.dp_size": plan.dp_size,
            "start.description": plan.start.description,
            "start.fingerprint": plan.start.fingerprint,
            "data.fingerprint": plan.data_fingerprint,
            "data.tokenizer_sha256": plan.start.tokenizer_sha256,
        },
        "tags": {"state": "running", **lineage.describe_launch()},
        "datasets": [
            lineage.describe_file(name, split, file.path, file.sha256, len(file.examples))
            for split, files in (("train", plan.train), ("dev", plan.dev))
            for name, file in files.items()
        ],
        "files": [],
        "status": "RUNNING",
    }
