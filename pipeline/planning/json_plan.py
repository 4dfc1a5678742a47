"""A plan as a JSON object, with all that was computed and where its figures come from."""

import json
from typing import Any

from pipeline.planning.costs import Cost
from pipeline.planning.scaling import ScalePoint
from pipeline.planning.search import Outcome
from pipeline.planning.step_time import StepTime
from pipeline.planning.summary import Comparison, PlanSummary, StageTime
from pipeline.run.memory import MemoryEstimate


def plan_json(plan: PlanSummary) -> str:
    """The object as text; times in seconds and hours, sizes in bytes, rates of one accelerator."""
    request, comparison = plan.request, plan.comparison
    found: dict[str, Any] = {
        "name": plan.name,
        "summary": list(plan.heading),
        "launch": {
            "nodes": request.num_nodes,
            "gpus_per_node": request.gpus_per_node,
            "cpu": request.on_cpu,
        },
        "steps": plan.num_steps,
        "tokens": plan.tokens,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained_parameters,
        "memory_bytes": _memory(plan.memory),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "notes": [*plan.notes, *plan.changes],
        "accelerator": _accelerator(plan),
        "tokens_per_s": plan.tokens_per_s,
        "peak_share": plan.peak_share,
        "stages": [_stage(stage) for stage in plan.stages],
        "cost": None if plan.cost is None else _cost(plan.cost),
        "layouts": None if comparison is None else _layouts(comparison),
        "scaling": None if comparison is None else _scaling(comparison),
    }
    return json.dumps(found, indent=2)


def _memory(memory: MemoryEstimate) -> dict[str, float]:
    parts = {name: getattr(memory, name) for name in MEMORY_PARTS}
    return parts | {"total": memory.total_gb * 1e9}


MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "buffers", "overhead")


def _accelerator(plan: PlanSummary) -> dict[str, Any] | None:
    found = plan.request.accelerator
    if found is None:
        return None
    figures = {name: figure._asdict() for name, figure in found.sources().items()}
    return {
        "name": found.name,
        "title": found.title,
        "utilization": plan.request.utilization,
        "figures": figures,
    }


def _stage(stage: StageTime) -> dict[str, Any]:
    return {
        "name": stage.name,
        "steps": stage.num_steps,
        "tokens": stage.tokens,
        "step_s": _time(stage.step),
        "whole_s": _time(stage.whole),
    }


def _time(time: StepTime) -> dict[str, float]:
    return time.parts() | {"total": time.total}


def _cost(cost: Cost) -> dict[str, Any]:
    failures = cost.failures
    return {
        "hours": cost.hours,
        "accelerator_hours": cost.accelerator_hours,
        "energy_kwh": cost.energy_kwh,
        "price": cost.price,
        "expected_failures": failures.expected,
        "hours_between_failures": failures.hours_between,
        "save_s": failures.save_s,
        "save_interval_s": failures.interval_s,
        "lost_share": failures.lost_share,
    }


def _layouts(comparison: Comparison) -> dict[str, Any]:
    return {
        "overrides": comparison.overrides,
        "compared": [_outcome(outcome) for outcome in comparison.outcomes],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    variant = outcome.variant
    result: dict[str, Any] = {
        "tensor": variant.tp_size,
        "zero_stage": variant.zero_stage,
        "zero_gather_ranks": variant.gather_ranks,
        "reduce_gradients": "step" if variant.reduces_once else "auto",
        "activation_checkpointing": variant.recomputed,
        "refusal": outcome.refusal or None,
    }
    if outcome.fits:
        result |= {
            "micro_rows": [stage.micro_rows for stage in outcome.stages],
            "memory_gb": outcome.memory_gb,
            "whole_s": _time(outcome.time),
        }
    return result


def _scaling(comparison: Comparison) -> dict[str, Any]:
    useful = comparison.useful
    return {
        "useful_accelerators": None if useful is None else useful.world_size,
        "points": [_point(point) for point in comparison.scaling],
    }


def _point(point: ScalePoint) -> dict[str, Any]:
    return {
        "accelerators": point.world_size,
        "nodes": point.num_nodes,
        "hours": point.hours,
        "accelerator_hours": point.accelerator_hours,
        **_outcome(point.outcome),
    }
