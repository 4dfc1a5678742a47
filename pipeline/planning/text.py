"""A plan as lines of text, short: details are in its JSON and its page."""

from collections.abc import Iterator

from pipeline.planning.costs import HOURS_OF_A_FAILURE, Cost
from pipeline.planning.step_time import StepTime
from pipeline.planning.summary import Comparison, PlanSummary

PART_WORDS = {
    "matrix": "matrix products",
    "traffic": "other operators",
    "host": "waiting for the host",
    "tensor": "tensor-parallel communication",
    "data": "data-parallel communication",
    "optimizer": "optimizer",
}


def text_lines(plan: PlanSummary) -> Iterator[str]:
    """The plan, a line each."""
    yield from plan.heading
    parameters = f"parameters {plan.parameters:,}"
    if plan.trained_parameters != plan.parameters:
        parameters += f", of which {plan.trained_parameters:,} are trained"
    yield f"{parameters}; memory about {plan.memory.summary()}"
    yield from plan.notes
    yield f"tokens {plan.tokens:,.0f}{plan.token_words} in {plan.num_steps:,} steps"
    if plan.stages:
        yield _split_line(plan)
    if plan.cost is not None:
        yield from _cost_lines(plan, plan.cost)
    yield f"checkpoints of {plan.checkpoint_bytes / 1e9:,.2f} GB{_saving(plan)}"
    if plan.comparison is not None:
        yield from _comparison_lines(plan, plan.comparison)
    yield from plan.changes


def in_percent(time: StepTime, least: float = 0.005) -> str:
    """The parts of a time, those of less than `least` left out."""
    shares = ((PART_WORDS[name], seconds / time.total) for name, seconds in time.parts().items())
    return ", ".join(f"{words} {100 * share:.0f} %" for words, share in shares if share >= least)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:,.0f} ms"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _split_line(plan: PlanSummary) -> str:
    request, longest = plan.request, max(plan.stages, key=lambda stage: stage.whole.total)
    assert request.accelerator is not None
    where = f" of {longest.name}" if len(plan.stages) > 1 else ""
    return (
        f"a step{where} takes {duration(longest.step.total)} on {request.world_size:,} x "
        f"{request.accelerator.name} by count: {in_percent(longest.step)}"
    )


def _cost_lines(plan: PlanSummary, cost: Cost) -> Iterator[str]:
    request, rate = plan.request, plan.tokens_per_s
    assert rate is not None
    how = "" if request.tokens_per_s is not None else " computed"
    hours = f"{cost.hours:,.1f}" if cost.hours >= 10 else f"{cost.hours:.2f}"
    line = (
        f"time about {hours} h at {rate:,.0f}{how} tokens/s an accelerator"
        f"{_peak(plan)}, {cost.accelerator_hours:,.0f} accelerator hours"
    )
    if cost.energy_kwh is not None:
        line += f", {cost.energy_kwh:,.0f} kWh of accelerators at their limit"
    if cost.price is not None:
        line += f", price {cost.price:,.0f}"
    yield line
    yield (
        f"failures of hardware in that time: about {cost.failures.expected:,.1f} "
        f"(one in {HOURS_OF_A_FAILURE:,} accelerator hours, Dubey et al. 2024)"
    )


def _peak(plan: PlanSummary) -> str:
    return "" if plan.peak_share is None else f" ({100 * plan.peak_share:.0f} % of its peak)"


def _saving(plan: PlanSummary) -> str:
    if plan.cost is None:
        return ""
    failures = plan.cost.failures
    if failures.interval_s / 3600 > plan.cost.hours:
        return ", of which one at the end is enough"
    return (
        f", {duration(failures.save_s)} each; to lose least (Daly 2006), save every "
        f"{duration(failures.interval_s)}: checkpoint.every_minutes="
        f"{max(1, round(failures.interval_s / 60))}"
    )


def _comparison_lines(plan: PlanSummary, comparison: Comparison) -> Iterator[str]:
    best, request = comparison.best, plan.request
    if best is not None:
        gain = 1 - best.time.total / plan.step_time.total
        words = f"{100 * gain:.0f} % less time" if gain >= 0.005 else "this config is as fast"
        yield f"fastest layout that fits: {comparison.settings} ({words})"
    useful = comparison.useful
    if useful is not None:
        now = f", {request.world_size:,} are planned" if request.world_size != 1 else ""
        yield (
            f"accelerators are useful up to {useful.world_size:,} "
            f"({request.launch(useful.num_nodes, useful.gpus_per_node)}: {useful.hours:,.1f} h, "
            f"{useful.accelerator_hours:,.0f} accelerator hours){now}"
        )
