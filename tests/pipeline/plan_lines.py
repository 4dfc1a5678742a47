"""The lines that the planner prints of a pretraining run."""

from typing import Any

from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.report import summarize
from pipeline.planning.request import PlanRequest
from pipeline.planning.summary import PlanSummary
from pipeline.planning.text import text_lines
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig


def plan_of(
    config: TrainConfig,
    nodes: int,
    gpus: int,
    assumed: AssumedRows | None = None,
    accelerator: str | None = None,
    **known: Any,
) -> PlanSummary:
    """The plan in numbers; `known` are fields of `PlanRequest`."""
    found = None if accelerator is None else find_accelerator(accelerator)
    return summarize(config, PlanRequest(nodes, gpus, accelerator=found, **known), assumed)


def report(config: TrainConfig, nodes: int, gpus: int, **known: Any) -> list[str]:
    """The lines; `known` are those of `plan_of`."""
    return list(text_lines(plan_of(config, nodes, gpus, **known)))
