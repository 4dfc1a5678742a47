"""Scores of a fine-tuned model on the dev files of its tasks and on held-out packed rows."""

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import MLM_HEAD
from model.parallel.json_exchange import gather_json
from pipeline.data.heldout import HeldoutRows, load_heldout
from pipeline.engine.evaluation import EvaluatedModel, heldout_scores
from pipeline.finetuning.batches import FinetuneBatches, heldout_batch
from pipeline.finetuning.plan import FinetunePlan
from pipeline.tracking.label_tables import LabelTable

logger = logging.getLogger(__name__)


def evaluate(
    plan: FinetunePlan,
    engine: EvaluatedModel,
    batches: FinetuneBatches,
    heldout: HeldoutRows | None,
    tables: dict[str, LabelTable] | None = None,
) -> dict[str, float]:
    """``dev_METRIC/TASK`` of every task with dev files, and the metrics of `heldout`.

    `heldout` are packed rows for masked language modelling, None without. `tables` is given the
    table of each task with labels. Also logs the scores in one line. A collective.
    """
    values: dict[str, float] = {}
    for name, file in plan.dev.items():
        task, kept = plan.config.tasks[name], dev_scores(engine, plan, batches, name)
        table = task.label_table(file.examples, kept)
        if tables is not None and table is not None:
            tables[name] = table
        for metric, value in task.metrics_of_kept(file.examples, kept).items():
            if math.isfinite(value):  # the correlation of equal predictions is not
                values[f"dev_{metric}/{name}"] = value
    if heldout is not None:
        values |= heldout.metrics(
            heldout_scores(engine, heldout, plan.config.micro_rows, heldout_batch)
        )
    logger.info(_summary_line(plan, values))
    return values


def dev_scores(
    engine: EvaluatedModel, plan: FinetunePlan, batches: FinetuneBatches, name: str
) -> list[NDArray[np.float64]]:
    """What the metrics of a task need of the scores of every example in its dev files (its
    `kept_scores`), in their order, on all ranks."""
    task, examples = plan.config.tasks[name], plan.dev[name].examples
    engine.start_evaluation()
    grid = engine.grid
    mine: dict[int, NDArray[np.float64]] = {}
    rows = task.rows_per_example
    with torch.no_grad():
        for numbers, batch, counts in batches.dev_batches(name):
            segments = None if batch.segments is None else batch.segments.to(grid.device)
            scores = engine.model(batch.tokens.to(grid.device), None, segments=segments)[name]
            by_row = scores.double().cpu().numpy()
            for place, number in enumerate(numbers if counts else []):
                one = by_row[place * rows : (place + 1) * rows]
                mine[number] = task.kept_scores(examples[number], one if rows > 1 else one[0])
    parts = gather_json([[n, s.tolist()] for n, s in mine.items()] if grid.tp_rank == 0 else [])
    together = {number: np.array(scores) for part in parts for number, scores in part}
    return [together[number] for number in sorted(together)]


def load_mlm_heldout(plan: FinetunePlan) -> HeldoutRows | None:
    """The held-out packed rows; None for a run without masked language modelling."""
    mlm = plan.config.mlm
    if plan.mlm is None or mlm is None:
        return None
    return load_heldout(mlm.data, plan.mlm.manifest, mlm.objective, mlm.heldout_rows_per_source)


def mean_error(plan: FinetunePlan, scores: Mapping[str, float]) -> float | None:
    """1 - the mean main metric of the tasks with a dev file, by which checkpoints are compared.

    None without such tasks, and where a metric is not defined (a correlation of equal predictions):
    the mean of the remaining tasks would be compared with means of all.
    """
    names = _main_metrics(plan)
    if not names or not scores.keys() >= set(names):
        return None
    return 1 - sum(scores[name] for name in names) / len(names)


def _main_metrics(plan: FinetunePlan) -> list[str]:
    """The name of the main metric of each task that is evaluated."""
    return [f"dev_{plan.config.tasks[name].main_metric}/{name}" for name in plan.dev]


def _summary_line(plan: FinetunePlan, scores: Mapping[str, float]) -> str:
    parts = [
        f"{name.removeprefix('dev_')} {scores[name]:.3f}"
        for name in _main_metrics(plan)
        if name in scores
    ]
    if "heldout_loss" in scores:
        parts.append(f"{MLM_HEAD} loss {scores['heldout_loss']:.3f}")
    return "evaluated: " + ("  ".join(parts) or "no task has a dev file")
