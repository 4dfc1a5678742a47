"""``sweep.json`` in the folder of a sweep: what became of each child, and which one is the best."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from configs.load import Config, UserError
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import first_error, read_json
from pipeline.checkpoint.manifest import list_checkpoints
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sweep.children import Child, all_children, child_of, first_seeds, sweep_of
from pipeline.finetuning.sweep.config import SweepConfig
from pipeline.run.run_folder import checkpoints_folder

RESULTS_NAME = "sweep.json"
BEST_NAME = "best"


class ChildResult(Config):
    """What became of one child."""

    name: str
    setting: dict[str, Any]
    seed: int
    state: Literal["finished", "diverged", "out_of_memory"]
    score: float | None = None
    """1 - the lowest dev error: the mean of the tasks' main metrics. None: there was none."""
    best_step: int | None = None
    """The step of it."""
    stopped_early: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    """The dev metrics of that step."""
    error: str | None = None
    """Why it has no score."""


class SettingResult(Config):
    """The scores of one setting over its seeds."""

    setting: dict[str, Any]
    seeds: int
    """Children that finished with a score."""
    failed: int
    """Children that diverged, ran out of memory or have no score; they count as the lowest."""
    median: float | None
    min: float | None
    max: float | None
    std: float | None
    """Sample standard deviation; None for fewer than two seeds."""
    best: str | None
    """The child with the highest score."""


class SweepResults(Config):
    """The content of sweep.json."""

    num_children: int
    """Children of the whole sweep."""
    children: tuple[ChildResult, ...] = ()
    """Those that have ended."""
    settings: tuple[SettingResult, ...] = ()
    """The best first."""
    best: str | None = None
    """The best child of the best setting, once all have ended."""
    is_finished: bool = False

    def of(self, name: str) -> ChildResult | None:
        """The result of a child."""
        return next((child for child in self.children if child.name == name), None)


def read_results(config: FinetuneConfig) -> SweepResults:
    """What is known of the sweep of `config`; raises UserError for a damaged file.

    Children whose folder was deleted are forgotten, and will be trained again. So is the best
    child where its checkpoints were deleted, as when more seeds or values made it the best.
    """
    path = config.output / RESULTS_NAME
    try:
        found = SweepResults.model_validate(read_json(path))
    except FileNotFoundError:
        found = SweepResults(num_children=0)
    except (ValidationError, ValueError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else error
        raise UserError(
            f"{path}: damaged: {reason}: delete it; the children that are finished are not repeated"
        ) from None
    wanted = {child.name: child for child in all_children(config)}
    kept = [
        one
        for one in found.children
        if one.name in wanted and wanted[one.name].config.output.exists()
    ]
    results = with_children(config, kept)
    best = results.best
    if best is not None and not list_checkpoints(checkpoints_folder(wanted[best].config)):
        return with_children(config, [one for one in kept if one.name != best])
    return results


def with_children(config: FinetuneConfig, children: Sequence[ChildResult]) -> SweepResults:
    """The results that follow from those of `children`."""
    settings = sorted(
        (
            setting_result(s, [c for c in children if c.setting == s])
            for s in sweep_of(config).settings
        ),
        key=lambda one: _rank(sweep_of(config), one, children),
        reverse=True,
    )
    wanted = wanted_children(config, children)
    ended = {child.name for child in children}
    is_finished = all(child.name in ended for child in wanted)
    return SweepResults(
        num_children=len(wanted),
        children=tuple(children),
        settings=tuple(settings),
        best=settings[0].best if is_finished else None,
        is_finished=is_finished,
    )


def setting_result(setting: Mapping[str, Any], children: Sequence[ChildResult]) -> SettingResult:
    """Median and spread of the scores of a setting."""
    scores = {child.name: child.score for child in children if child.score is not None}
    values = list(scores.values())
    return SettingResult(
        setting=dict(setting),
        seeds=len(values),
        failed=len(children) - len(values),
        median=statistics.median(values) if values else None,
        min=min(values, default=None),
        max=max(values, default=None),
        std=statistics.stdev(values) if len(values) > 1 else None,
        best=max(scores, key=scores.__getitem__) if scores else None,
    )


def _rank(
    sweep: SweepConfig, one: SettingResult, children: Sequence[ChildResult]
) -> tuple[bool, float, float]:
    """Median over the seeds, those without a score the lowest; then the mean of the others.

    Where only the best setting gets all seeds, it stays the best.
    """
    scores = [child.score for child in children if child.setting == one.setting]
    found = [score for score in scores if score is not None]
    median = statistics.median(
        [-math.inf if score is None else score for score in scores] or [-math.inf]
    )
    has_all = sweep.seeds_of == "every_setting" or len(scores) == sweep.seeds
    return has_all, median, statistics.mean(found) if found else -math.inf


def wanted_children(config: FinetuneConfig, ended: Sequence[ChildResult]) -> list[Child]:
    """The children of the sweep, as far as they follow from those that have `ended`."""
    sweep = sweep_of(config)
    if sweep.seeds_of == "every_setting" or sweep.seeds == 1:
        return all_children(config)
    first = first_seeds(config)
    results = [one for child in first for one in ended if one.name == child.name]
    if len(results) < len(first):
        return first
    scores = [-math.inf if one.score is None else one.score for one in results]
    best = first[scores.index(max(scores))].setting
    more = [child_of(config, best, config.seed + n) for n in range(1, sweep.seeds)]
    return first + more


def write_results(config: FinetuneConfig, results: SweepResults) -> None:
    """Writes sweep.json, and the link to the best child once there is one; for rank 0."""
    text = results.model_dump_json(indent=1) + "\n"
    write_atomic(config.output / RESULTS_NAME, text)
    link = config.output / BEST_NAME
    if results.best is not None:
        partial = config.output / f".{BEST_NAME}"
        partial.unlink(missing_ok=True)
        partial.symlink_to(Path("children") / results.best)
        partial.replace(link)
    else:
        link.unlink(missing_ok=True)


def best_child(config: FinetuneConfig) -> FinetuneConfig:
    """The config of the best child of a finished sweep; raises UserError if it is not finished."""
    results = read_results(config)
    if not results.is_finished:
        raise UserError(
            f"{config.output}: {len(results.children)} of {results.num_children} children of this "
            "sweep have ended: start it again to finish it, or name a child's folder and settings"
        )
    if results.best is None:
        raise UserError(f"{config.output}: no child of this sweep has a score: see {RESULTS_NAME}")
    (chosen,) = (c for c in all_children(config) if c.name == results.best)
    return chosen.config
