"""The timeline of a run by the clock: launches, saves, skipped steps, rollbacks, early stopping."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np

from configs.pages.axes import Axis, labels, tight_axis
from configs.pages.colours import colour
from configs.pages.table import table
from pipeline.reporting.launches import ROLLED_BACK, Launch
from pipeline.reporting.run_record import RunRecord
from pipeline.reporting.values import shown

_WIDTH, _LEFT, _LANE, _BAR = 720, 110, 24, 16
_STATE_COLOURS = {"finished": 2, "stopped": 0, "requeued": 0, "failed": 3, "killed": 3}
_STATE_COLOURS |= {ROLLED_BACK: 3}
MAX_ROWS = 200
"""Launches and changes that tables show, the last ones."""


def timeline(run: RunRecord) -> Iterator[str]:
    """The chart and the tables of the timeline; a sentence where the run was never started."""
    launches = run.launches.all
    if not launches:
        yield "<p>No start is recorded.</p>"
        return
    yield _chart(run)
    yield _launches_table(launches)
    rolled_back = [launch for launch in launches if launch.rollback is not None]
    if rolled_back:
        yield "<h3>Rollbacks</h3>"
        yield table(
            ["time (UTC)", "after step", "back to step", "because of", "rows skipped from here on"],
            [
                [
                    time_text(back.time_ms),
                    "–" if launch.removed_to is None else f"{launch.removed_to:,}",
                    f"{launch.resumed_from:,}",
                    back.reason,
                    f"{back.start_row:,} to {back.end_row - 1:,}",
                ]
                for launch in rolled_back[-MAX_ROWS:]
                if (back := launch.rollback)
            ],
        )  # fmt: skip
    if run.num_skipped:
        some = ", ".join(f"{step:,}" for step in run.skipped[:20])
        more = " ..." if run.num_skipped > 20 else ""
        yield (
            f"<p>{run.num_skipped:,} step(s) changed no weight, because a gradient was not finite "
            f"or overflowed: {some}{more}.</p>"
        )
    yield from _changes(launches)


def time_text(time_ms: float) -> str:
    """A time in UTC; as it is where it is none."""
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms"


def duration_text(seconds: float) -> str:
    """A duration in days, hours and minutes, or in seconds if it is short."""
    if not 0 <= seconds < 1e9:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    days, hours = divmod(minutes // 60, 24)
    parts = [f"{days} d" if days else "", f"{hours} h" if days or hours else ""]
    return " ".join([*filter(None, parts), f"{minutes % 60} min"])


def _launches_table(launches: Sequence[Launch]) -> str:
    head = ["launch", "started (UTC)", "from step", "to step", "computed again", "time", "end"]
    head += ["nodes", "tensor x data parallel", "Slurm job"]
    rows = [
        [
            str(number),
            time_text(launch.started_ms),
            f"{launch.resumed_from:,}",
            "–" if launch.last_step is None else f"{launch.last_step:,}",
            "–" if launch.removed_to is None else f"{launch.num_repeated_steps:,}",
            duration_text((launch.until_ms - launch.started_ms) / 1000),
            _end_text(launch),
            launch.host,
            launch.grid,
            launch.job,
        ]
        for number, launch in enumerate(launches, 1)
    ]
    if not any(launch.job for launch in launches):
        head, rows = head[:-1], [row[:-1] for row in rows]
    note = ""
    if len(rows) > MAX_ROWS:
        note = f"<p>The last {MAX_ROWS} of {len(rows):,} launches:</p>"
    return note + table(head, rows[-MAX_ROWS:])


def _end_text(launch: Launch) -> str:
    early = launch.end_tags.get("stopped_early", "no")
    return launch.state if early == "no" else f"{launch.state}, stopped early ({early})"


def _changes(launches: Sequence[Launch]) -> Iterator[str]:
    rows = [
        [str(number), change.key, shown(change.before), shown(change.now)]
        for number, launch in enumerate(launches, 1)
        for change in launch.changes
    ]
    if rows:
        yield "<h3>What changed at a restart</h3>"
        if len(rows) > MAX_ROWS:
            yield f"<p>The last {MAX_ROWS} of {len(rows):,} changes:</p>"
        yield table(["launch", "parameter", "before", "from here on"], rows[-MAX_ROWS:])


def _chart(run: RunRecord) -> str:
    launches = run.launches.all
    first = launches[0].started_ms
    last = max(launch.until_ms for launch in launches)
    hours = tight_axis(0.0, max((last - first) / 3.6e6, 1e-6), most_ticks=8)
    width = _WIDTH - _LEFT - 20

    def place(time_ms: float) -> float:
        return _LEFT + hours.share((time_ms - first) / 3.6e6) * width

    lanes = [("launches", "".join(_bars(launches, place)))]
    marks = {
        "checkpoints": ([float(save.step) for save in run.saves], 0),
        "skipped steps": ([float(step) for step in run.skipped], 1),
    }
    for name, (steps, number) in marks.items():
        if steps:
            times = 1000 * run.time_of(np.array(steps))
            lanes.append((name, "".join(_ticks(steps, times.tolist(), place, number))))
    if backs := [launch for launch in launches if launch.rollback is not None]:
        steps = [float(launch.resumed_from) for launch in backs]
        times_ms = [float(launch.started_ms) for launch in backs]
        lanes.append(("rollbacks", "".join(_ticks(steps, times_ms, place, 3))))
    height = len(lanes) * _LANE
    shapes = _hours(hours, width, height)
    for number, (name, content) in enumerate(lanes):
        label = f'<text x="{_LEFT - 8}" y="{_BAR - 3}" text-anchor="end">{name}</text>'
        shapes.append(f'<g transform="translate(0 {number * _LANE})">{label}{content}</g>')
    shapes.append(
        f'<text class="axis" x="{_LEFT + width / 2}" y="{height + 30}" text-anchor="middle">'
        f"hours since {time_text(first)} UTC</text>"
    )
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {height + 36}" role="img" aria-label="Timeline" class="wide">'
    )
    return f'<div class="scroll" tabindex="0">{svg}{"".join(shapes)}</svg></div>'


def _hours(hours: Axis, width: float, height: float) -> list[str]:
    """The lines and labels of the time axis."""
    shapes = []
    for tick, label in zip(hours.ticks, labels(hours.ticks), strict=True):
        x = _LEFT + hours.share(tick) * width
        shapes.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        shapes.append(
            f'<text class="axis" x="{x:.1f}" y="{height + 14}" text-anchor="middle">{label}</text>'
        )
    return shapes


def _bars(launches: Sequence[Launch], place: Callable[[float], float]) -> Iterator[str]:
    for number, launch in enumerate(launches, 1):
        start, end = place(launch.started_ms), place(launch.until_ms)
        title = (
            f"launch {number}: from step {launch.resumed_from:,} "
            f"to {launch.last_step or launch.resumed_from:,}, {_end_text(launch)}"
        )
        fill = _STATE_COLOURS.get(launch.state)
        look = 'fill="var(--quiet)"' if fill is None else f'fill="{colour(fill)}"'
        yield (
            f'<rect x="{start:.1f}" y="1" width="{max(end - start, 1.5):.1f}" height="{_BAR}" '
            f'rx="2" {look} stroke="var(--back)"><title>{escape(title)}</title></rect>'
        )
        if end - start > 8 * len(str(number)) + 4:
            yield (
                f'<text class="inside" x="{(start + end) / 2:.1f}" y="{_BAR - 3}" '
                f'text-anchor="middle">{number}</text>'
            )


def _ticks(
    steps: Sequence[float],
    times_ms: Sequence[float],
    place: Callable[[float], float],
    number: int,
) -> Iterator[str]:
    for step, time_ms in zip(steps, times_ms, strict=True):
        if np.isfinite(time_ms):
            x = place(time_ms)
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{_BAR}" stroke="{colour(number)}" '
                f'stroke-width="2"><title>step {step:,.0f}</title></line>'
            )
