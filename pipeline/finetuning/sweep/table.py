"""The results of a sweep as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from pipeline.finetuning.sweep.children import text_of
from pipeline.finetuning.sweep.results import ChildResult, SweepResults


def table_lines(results: SweepResults) -> list[str]:
    """A row for each setting, the best first: seeds, median and spread of the dev score."""
    header = ["setting", "seeds", "failed", "median", "min", "max", "std", "best child's seed"]
    seeds = {child.name: str(child.seed) for child in results.children}
    rows = [
        [
            in_words(one.setting) or "(as in the config)",
            str(one.seeds),
            str(one.failed),
            *(_number(value) for value in (one.median, one.min, one.max, one.std)),
            seeds[one.best] if one.best else "-",
        ]
        for one in results.settings
    ]
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    lines += [f"failed: {c.name}: {c.error}" for c in results.children if c.error]
    if results.best is not None:
        child = results.of(results.best)
        assert child is not None
        lines.append(f"best: {child_line(child)}")
    return lines


def child_line(child: ChildResult) -> str:
    """The result of one child."""
    if child.score is None:
        return f"{child.name}: {child.state}, without a score"
    metrics = "  ".join(
        f"{name.removeprefix('dev_')} {value:.4f}" for name, value in child.metrics.items()
    )
    step = "" if child.best_step is None else f" at step {child.best_step:,}"
    return f"{child.name}: dev score {child.score:.4f}{step}  {metrics}".rstrip()


def in_words(setting: Mapping[str, Any]) -> str:
    """The values of a setting."""
    return " ".join(f"{name}={text_of(value)}" for name, value in setting.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
