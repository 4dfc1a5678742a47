"""A plan as one HTML page without external files: bars of times and memory, tables of the rest."""

from collections.abc import Iterator
from html import escape

from configs.pages.bars import bars
from configs.pages.page import contents, page
from configs.pages.table import table
from configs.terminal import visible
from pipeline.planning.costs import HOURS_OF_A_FAILURE, Cost
from pipeline.planning.json_plan import MEMORY_PARTS
from pipeline.planning.search import Outcome
from pipeline.planning.step_time import StepTime
from pipeline.planning.summary import Comparison, PlanSummary
from pipeline.planning.text import PART_WORDS, duration, text_lines

CAVEAT = (
    "Computed from counts of this network's operators and the rates of the table below, not "
    "measured; docs/planner.md has the formulas and what they assume."
)


def plan_page(plan: PlanSummary) -> str:
    """The page."""
    sections = list(_sections(plan))
    parts = [f"<h1>Plan of {escape(plan.name)}</h1>", f'<p class="quiet">{CAVEAT}</p>']
    parts.append(contents((name, title) for name, title, _ in sections))
    for name, title, body in sections:
        parts.append(f'<h2 id="{name}">{escape(title)}</h2>{body}')
    return visible(page(f"Plan of {plan.name}", parts))


def _sections(plan: PlanSummary) -> Iterator[tuple[str, str, str]]:
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in text_lines(plan))
    yield "summary", "Summary", f"<ul>{lines}</ul>"
    if plan.stages:
        yield "time", "Where a step's time goes", _times(plan)
    where = "a rank" if plan.memory.on_cpu else "an accelerator"
    yield "memory", f"Memory of {where}", _memory(plan)
    if plan.cost is not None:
        yield "cost", "Cost", _costs(plan, plan.cost)
    if plan.comparison is not None:
        yield "layouts", "Other layouts", _layouts(plan.comparison)
        if plan.comparison.scaling:
            yield "scaling", "More accelerators", _scaling(plan.comparison)
    if plan.request.accelerator is not None:
        yield "rates", "Rates and their sources", _rates(plan)


def _times(plan: PlanSummary) -> str:
    series = {stage.name: _named(stage.step, 1.0) for stage in plan.stages}
    rows = [
        (
            *(stage.name, f"{stage.num_steps:,}", duration(stage.step.total)),
            f"{stage.whole.total / 3600:,.1f}",
        )
        for stage in plan.stages
    ]
    return bars(series, " s") + table(("steps of", "steps", "a step", "hours"), rows)


def _named(time: StepTime, scale: float) -> dict[str, float]:
    return {PART_WORDS[name]: seconds * scale for name, seconds in time.parts().items()}


def _memory(plan: PlanSummary) -> str:
    parts = {name: getattr(plan.memory, name) / 1e9 for name in MEMORY_PARTS}
    series = {"this config": parts}
    best = None if plan.comparison is None else plan.comparison.best
    if best is not None:
        most = max((stage.memory for stage in best.stages), key=lambda memory: memory.total_gb)
        series["fastest layout"] = {name: getattr(most, name) / 1e9 for name in MEMORY_PARTS}
    limit = plan.request.memory_gb
    text = "" if limit is None else f"<p>Of {limit:g} GB.</p>"
    return bars(series, " GB") + text


def _costs(plan: PlanSummary, cost: Cost) -> str:
    failures = cost.failures
    rows = [
        ("hours", f"{cost.hours:,.1f}"),
        ("accelerator hours", f"{cost.accelerator_hours:,.0f}"),
        ("expected failures", f"{failures.expected:,.1f}"),
        ("hours between failures", f"{failures.hours_between:,.0f}"),
        ("seconds to write a checkpoint", f"{failures.save_s:,.1f}"),
        ("minutes between checkpoints that lose least", f"{failures.interval_s / 60:,.0f}"),
        ("lost to saves, repeated steps and restarts", f"{failures.lost_share:.1%}"),
    ]
    if cost.energy_kwh is not None:
        rows.insert(2, ("kWh of the accelerators at their limit", f"{cost.energy_kwh:,.0f}"))
    if cost.price is not None:
        rows.insert(2, ("price", f"{cost.price:,.0f}"))
    note = (
        f"<p>One failure in {HOURS_OF_A_FAILURE:,} accelerator hours (Dubey et al. 2024); "
        f"checkpoints are written at {plan.request.storage_gb_s:g} GB/s.</p>"
    )
    return table(("", ""), rows, row_headers=True) + note


def _layouts(comparison: Comparison) -> str:
    fitting = [outcome for outcome in comparison.outcomes if outcome.fits]
    series = {_short(outcome): _named(outcome.time, 1 / 3600) for outcome in fitting}
    rows = [
        (outcome.variant.words(), *_reason(outcome, fitting)) for outcome in comparison.outcomes
    ]
    head = ("layout", "rows of a micro-batch", "GB", "hours", "why not")
    chosen = f"<p>Settings: <code>{escape(comparison.settings)}</code></p>" if fitting else ""
    return chosen + bars(series, " h") + table(head, rows)


def _short(outcome: Outcome) -> str:
    variant = outcome.variant
    again = {"none": "", "selective": ", selective", "layers": ", again"}[variant.recomputed]
    copies = ", copies" if variant.gather_ranks else ""
    return f"TP {variant.tp_size}, ZeRO {variant.zero_stage}{copies}{again}"


def _reason(outcome: Outcome, fitting: list[Outcome]) -> tuple[str, str, str, str]:
    if not outcome.fits:
        return "–", "–", "–", outcome.refusal
    slower = outcome.time.total / fitting[0].time.total - 1
    rows = ", ".join(str(stage.micro_rows) for stage in outcome.stages)
    reason = f"{slower:.0%} slower than the fastest" if slower >= 0.005 else ""
    return rows, f"{outcome.memory_gb:,.1f}", f"{outcome.time.total / 3600:,.1f}", reason


def _scaling(comparison: Comparison) -> str:
    useful = comparison.useful
    series = {f"{point.world_size:,}": {"hours": point.hours} for point in comparison.scaling}
    rows = [
        (
            f"{point.world_size:,}",
            f"{point.hours:,.1f}",
            f"{point.accelerator_hours:,.0f}",
            point.outcome.variant.words(),
        )
        for point in comparison.scaling
    ]
    text = (
        f"<p>Up to {useful.world_size:,} are useful: with more of them, more than half of the "
        "accelerator hours are lost, or a step takes no less time.</p>"
        if useful
        else ""
    )
    head = ("accelerators", "hours", "accelerator hours", "fastest layout")
    return text + bars(series, " h") + table(head, rows)


def _rates(plan: PlanSummary) -> str:
    found = plan.request.accelerator
    assert found is not None
    rows = [
        (name, f"{figure.value:g}", figure.kind, figure.source)
        for name, figure in found.sources().items()
    ]
    rows.append(
        (
            "utilization",
            f"{plan.request.utilization:g}",
            "assumed",
            "share of the rate above that the model's matrix products reach",
        )
    )
    return f"<p>{escape(found.title)}</p>" + table(("figure", "value", "kind", "source"), rows)
