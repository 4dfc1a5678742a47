"""The page of a report, from the records of its runs."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from configs.pages.page import contents, page
from configs.terminal import visible
from pipeline.reporting import tables
from pipeline.reporting.charts import chart_sections, run_names
from pipeline.reporting.run_record import RunRecord
from pipeline.reporting.timeline import timeline

_EXPLANATION = (
    "Values of neighbouring steps share a point where there are many: the line is their mean, the "
    "band reaches from the least to the greatest. Vertical lines are restarts and rollbacks. Point "
    "at a chart, or choose it with Tab and use the arrow keys, to read its values."
)


def render(runs: Sequence[RunRecord], axis: str) -> str:
    """The HTML file for `runs`, one or several; `axis` is the x axis of its charts."""
    names = run_names(runs)
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}"
    sections = list(_sections(runs, axis))
    titles = [(f"s{number}", name) for number, (name, _) in enumerate(sections, 1)]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">Training report, {now}. {_EXPLANATION}</p>',
        *_problems(runs, names),
        contents(titles),
    ]
    for (identifier, name), (_, content) in zip(titles, sections, strict=True):
        parts.append(f'<section><h2 id="{identifier}">{escape(name)}</h2>{content}</section>')
    # Names may hold escape sequences, and bytes that are not UTF-8.
    return visible(page(f"Training: {title}", parts))


def _sections(runs: Sequence[RunRecord], axis: str) -> Iterator[tuple[str, str]]:
    yield "Results", tables.results(runs)
    if len(runs) > 1:
        yield "Differences of the settings", tables.differences(runs)
    yield from chart_sections(runs, axis)
    for run, name in zip(runs, run_names(runs), strict=True):
        of = f" of {name}" if len(runs) > 1 else ""
        yield f"Timeline{of}", "".join(timeline(run))
        yield f"Data and lineage{of}", "".join(tables.lineage(run))
        yield f"Checkpoints{of}", tables.checkpoints(run)
        yield f"Settings{of}", tables.settings(run)


def _problems(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[str]:
    for run, name in zip(runs, names, strict=True):
        if run.problems:
            lines = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems)
            yield f'<div class="warning"><b>{escape(name)}</b><ul>{lines}</ul></div>'
