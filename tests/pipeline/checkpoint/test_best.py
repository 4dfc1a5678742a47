"""The best checkpoint of a run, by the scores in the manifests."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.build import build_manifest
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    manifest_json,
)
from pipeline.checkpoint.writer import superfluous
from pipeline.validation.state import ValidationState
from tests.pipeline.checkpoint.saving import ORIGIN, SPECS


def write(
    folder: Path,
    step: int,
    score: float | None,
    phase: int | None = 0,
    measured_on: str = "a",
    best: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """A manifest without files; `phase` None: of version 0.1.0."""
    validation = None
    if phase is not None:
        validation = ValidationState(
            phase=phase, measured_on=measured_on, best_score=best or score, best_step=step
        )
    manifest = build_manifest(
        dataclasses.replace(ORIGIN, config=dict(config or {})),
        SPECS,
        step=step,
        optimizer_step=step,
        consumed_rows=step * 4,
        heldout_loss=score,
        validation=validation,
    )
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / MANIFEST_NAME).write_text(manifest_json(manifest))


def best_step(folder: Path) -> int | None:
    found = find_best(folder)
    return None if found is None else found.manifest.step


def test_the_lowest_score_wins_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    assert find_best(tmp_path / "none") is None
    for step, score in enumerate((3.0, 2.0, 2.0, 2.5, None), start=1):
        write(tmp_path, step, score)
    assert best_step(tmp_path) == 2
    assert [path.name[-1] for path in superfluous(tmp_path, CheckpointConfig(keep_last=1))] == [
        *"1234"
    ]
    keep = CheckpointConfig(keep_last=1, keep_best=2)
    assert [path.name[-1] for path in superfluous(tmp_path, keep)] == ["1", "4"]


def test_only_scores_on_the_same_rows_are_compared(tmp_path: Path) -> None:
    write(tmp_path, 1, 1.0, phase=0)
    write(tmp_path, 2, 3.0, phase=1, measured_on="b")
    write(tmp_path, 3, 2.5, phase=1, measured_on="c")
    write(tmp_path, 4, 2.7, phase=1, measured_on="c")
    write(tmp_path, 5, None, phase=1, measured_on="c")
    assert best_step(tmp_path) == 3
    write(tmp_path, 6, 9.0, phase=2)
    assert best_step(tmp_path) == 6


def test_a_phase_without_an_evaluation_leaves_the_best_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 1, 1.0, phase=0)
    write(tmp_path, 2, 2.0, phase=0)
    write(tmp_path, 3, None, phase=1)
    assert best_step(tmp_path) == 1


def test_checkpoints_of_older_versions_are_compared_by_their_phase(tmp_path: Path) -> None:
    config = {"total_rows": 8, "then": [{"total_rows": 100}, {"total_rows": 100}]}
    for step, score in enumerate((1.0, 1.5, 3.0, 2.0, 2.5), start=1):
        write(tmp_path, step, score, phase=None, config=config)
    assert best_step(tmp_path) == 4
    write(tmp_path, 6, 2.2, phase=1)  # the same run, resumed with this version
    assert best_step(tmp_path) == 4


def test_damaged_and_missing_ones_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step, score in enumerate((3.0, 1.0, 2.0), start=1):
        write(tmp_path, step, score, best=0.5)
    (tmp_path / "step-00000002" / MANIFEST_NAME).write_text("{")
    assert best_step(tmp_path) == 3
    assert "step-00000002" in caplog.text
    assert "best evaluation of the run is 0.5000" in caplog.text
    write(tmp_path, 4, None)
    (tmp_path / "step-00000003" / MANIFEST_NAME).unlink()
    (tmp_path / "step-00000001" / MANIFEST_NAME).unlink()
    assert find_best(tmp_path) is None
