"""The charts of one run, and those that lay the curves of several runs over each other."""

from collections.abc import Iterator, Sequence

import numpy as np

from configs.pages.lines import Chart, Line, Mark, line_chart
from configs.pages.table import table
from pipeline.reporting.catalogue import OTHER, SECTIONS, Group, groups
from pipeline.reporting.curve import Curve, Floats
from pipeline.reporting.positions import AXES, Positions
from pipeline.reporting.run_record import RunRecord
from pipeline.reporting.system import SHOWN
from pipeline.reporting.values import number

RESTART_COLOUR, ROLLBACK_COLOUR = 4, 3
MAX_MARKS = 100


def chart_sections(runs: Sequence[RunRecord], axis: str) -> Iterator[tuple[str, str]]:
    """(title, HTML) of each section of charts; `axis` is one of `positions.AXES`.

    One run has several metrics in a chart, and its restarts and rollbacks as vertical lines. With
    several runs a chart has one metric, and a line for each run.
    """
    names = dict.fromkeys(name for run in runs for name in run.curves if _has(run, name))
    found = groups(names)
    constants = [
        group.metrics[0][0]
        for group in found
        if group.section == OTHER and len(group.metrics) == 1 and _is_constant(runs, group)
    ]
    drawing = _Drawing(runs, axis)
    for section in SECTIONS:
        of_section = [group for group in found if group.section == section]
        drawn = [group for group in of_section if group.metrics[0][0] not in constants]
        parts = [_plots([f for group in drawn for f in drawing.figures(group)])] if drawn else []
        if section == OTHER and constants:
            parts.append(_constants(runs, constants))
        if parts:
            yield section, "".join(parts)
    if figures := list(drawing.system_figures()):
        yield "Nodes", _plots(figures)


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run; runs of one name are distinguished by their folders."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.folder})"
        for name, run in zip(names, runs, strict=True)
    ]


class _Drawing:
    """Draws metrics of all runs, over one x axis with the same range in every chart."""

    def __init__(self, runs: Sequence[RunRecord], axis: str) -> None:
        self._runs, self._names, self._axis = runs, run_names(runs), axis
        self._positions = [Positions(axis, run.curves) for run in runs]
        ends = [
            float(np.nanmax(places.of(np.array([run.last_step], dtype=np.float64))))
            for run, places in zip(runs, self._positions, strict=True)
            if run.times.num_values and places.is_known
        ]
        self._range = (0.0, max(ends)) if ends and max(ends) > 0 else None

    def figures(self, group: Group) -> Iterator[str]:
        """The charts of a group."""
        if len(self._runs) == 1:
            run, places = self._runs[0], self._positions[0]
            lines = [
                _line(name, run.curves[metric], places, group.scale)
                for metric, name in group.metrics
                if _has(run, metric)
            ]
            yield self._figure(group, group.title, lines, _marks(run, places))
            return
        for metric, name in group.metrics:
            title = group.title if len(group.metrics) == 1 else f"{group.title}: {name}"
            lines = [
                _line(run_name, run.curves[metric], places, group.scale, colour)
                for colour, run_name, run, places in self._numbered()
                if _has(run, metric)
            ]
            yield self._figure(group, title, lines, ())

    def system_figures(self) -> Iterator[str]:
        """The charts of what the nodes sampled."""
        for name, title in SHOWN.items():
            lines = [
                _line(run_name, run.system[name], places, number=colour)
                for colour, run_name, run, places in self._numbered()
                if name in run.system
            ]
            if lines:
                group = Group("", title, (), from_zero=True)
                yield self._figure(group, title, lines, ())

    def _numbered(self) -> Iterator[tuple[int, str, RunRecord, Positions]]:
        """(number, name, run, positions) of each run."""
        rows = zip(self._names, self._runs, self._positions, strict=True)
        return ((colour, *row) for colour, row in enumerate(rows))

    def _figure(
        self, group: Group, title: str, lines: Sequence[Line], marks: Sequence[Mark]
    ) -> str:
        return line_chart(
            Chart(
                title=title,
                lines=lines,
                x_name=AXES[self._axis],
                y_name=group.unit,
                marks=marks,
                is_log=group.is_log,
                from_zero=group.from_zero,
                x_range=self._range,
            )
        )


def _plots(figures: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>'


def _has(run: RunRecord, name: str) -> bool:
    return name in run.curves and run.curves[name].num_values > 0


def _is_constant(runs: Sequence[RunRecord], group: Group) -> bool:
    """Whether the metric of `group` has one value in each run."""
    curves = [run.curves[name] for run in runs for name, _ in group.metrics if _has(run, name)]
    return all(
        curve.least is not None
        and curve.greatest is not None
        and curve.least.value == curve.greatest.value
        for curve in curves
    )


def _constants(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    rows = [
        [
            name,
            *(
                number(run.curves[name].mean if _has(run, name) else None, 12)
                for run in runs
            ),
        ]
        for name in names
    ]  # fmt: skip
    heading = "<h3>The same at every step</h3>"
    return heading + table(["metric", *run_names(runs)], rows, row_headers=True)


def _line(
    name: str, curve: Curve, positions: Positions, scale: float = 1.0, number: int | None = None
) -> Line:
    points = curve.points()
    places = positions.of(points.steps)
    known = np.isfinite(places)

    def shown(values: Floats) -> list[float]:
        kept: list[float] = (values[known] * scale).tolist()
        return kept

    has_band = bool((points.num_steps > 1).any())
    return Line(
        name=name,
        x=[round(place, 4) for place in places[known].tolist()],
        y=shown(points.mean),
        low=shown(points.low) if has_band else None,
        high=shown(points.high) if has_band else None,
        number=number,
    )


def _marks(run: RunRecord, positions: Positions) -> list[Mark]:
    """The restarts and rollbacks of a run; the last ones where there are very many."""
    marks = []
    for launch_number, launch in enumerate(run.launches.all[1:], 2):
        place = float(positions.of(np.array([launch.resumed_from], dtype=np.float64))[0])
        if not np.isfinite(place):
            continue
        if launch.rollback is not None:
            title = f"rolled back to step {launch.resumed_from:,}: {launch.rollback.reason}"
            marks.append(Mark(place, title, ROLLBACK_COLOUR))
        else:
            title = f"launch {launch_number} resumes from step {launch.resumed_from:,}"
            marks.append(Mark(place, title, RESTART_COLOUR))
    return marks[-MAX_MARKS:]
