"""The best checkpoint of a run by its held-out loss (fine-tuning: dev error). Imports no torch.

Scores are compared only where they were measured on the same rows: those of the newest checkpoint
that was evaluated, so in a run of several phases those of the last phase that has one.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from configs.load import UserError
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
    list_checkpoints,
    read_manifest,
    verify,
)

logger = logging.getLogger(__name__)


def find_best(folder: Path, check_files: bool = True) -> Checkpoint | None:
    """The checkpoint in `folder` with the lowest score; None where none was evaluated.

    Of equal ones the first. Damaged ones are logged and left out; without `check_files` only their
    manifests are checked.
    """
    complete = {}
    for path in list_checkpoints(folder):
        try:
            complete[path] = read_manifest(path)
        except UserError as error:
            logger.warning("%s; skipped", error)
    for path in by_score(complete):
        try:
            best = Checkpoint(path, verify(path) if check_files else complete[path])
        except UserError as error:
            logger.warning("%s; skipped", error)
            continue
        _report_a_better_one(best, complete.values())
        return best
    return None


def by_score(manifests: Mapping[Path, CheckpointManifest]) -> list[Path]:
    """The checkpoints whose scores can be compared with the newest score, the best first.

    `manifests` are in ascending order of their steps.
    """
    scores = {path: manifest.selection_score for path, manifest in manifests.items()}
    scored = {
        path: score for path, score in scores.items() if score is not None and math.isfinite(score)
    }
    if not scored:
        return []
    newest = manifests[list(scored)[-1]]
    comparable = [path for path in scored if _are_comparable(manifests[path], newest)]
    return sorted(comparable, key=lambda path: scored[path])


def _are_comparable(one: CheckpointManifest, other: CheckpointManifest) -> bool:
    """Whether two scores were measured on the same rows.

    Checkpoints of version 0.1.0 do not say on which: their phase is compared.
    """
    if _phase_of(one) != _phase_of(other):
        return False
    if one.validation is None or other.validation is None:
        return True
    return one.validation.measured_on == other.validation.measured_on


def _phase_of(manifest: CheckpointManifest) -> int:
    if manifest.validation is not None:
        return manifest.validation.phase
    end_row = 0
    phases = [manifest.config, *manifest.config.get("then", ())]
    for number, phase in enumerate(phases[:-1]):
        end_row += phase.get("total_rows", 0)
        if manifest.consumed_rows <= end_row:
            return number
    return len(phases) - 1


def _report_a_better_one(best: Checkpoint, manifests: Iterable[CheckpointManifest]) -> None:
    """Logs if the run had a better evaluation than `best`, whose checkpoint is not there."""
    *_, newest = manifests
    known, score = newest.validation, best.manifest.selection_score
    if known is None or known.best_score is None or score is None:
        return
    if known.phase == _phase_of(best.manifest) and known.best_score < score:
        logger.warning(
            "the best evaluation of the run is %.4f at step %s, whose checkpoint is not there "
            "(checkpoint.keep_best keeps it); step %s with %.4f is taken",
            *(known.best_score, f"{known.best_step:,}", f"{best.manifest.step:,}", score),
        )
