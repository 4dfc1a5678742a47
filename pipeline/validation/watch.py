"""Early stopping, and the learning rate on a plateau: what a run's evaluations decide.

The decisions are a function of the evaluations so far, whose state every checkpoint records: a
resumed run, and one that rolled back, decides as if it had never been interrupted.
"""

import logging
import math
from dataclasses import dataclass

from pipeline.validation.config import PlateauConfig, ValidationConfig
from pipeline.validation.state import ValidationState, Waiting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlyStop:
    """Why a run ends before its last row."""

    evaluations: int
    """Evaluations in a row without an improvement."""
    best_step: int | None
    """The step of the best one; None where no score was finite."""
    best_score: float | None
    """Its score."""
    score_name: str
    """What the score is."""

    def __str__(self) -> str:
        best = f"none of which had a finite {self.score_name}"
        if self.best_step is not None:
            best = f"the best was step {self.best_step:,}: {self.score_name} {self.best_score:.4f}"
        return f"{self.evaluations} evaluations in a row without an improvement; {best}"


class ValidationWatch:
    """Observes every evaluation of a run."""

    def __init__(
        self,
        config: ValidationConfig,
        state: ValidationState | None,
        num_phases: int = 1,
        score_name: str = "held-out loss",
    ) -> None:
        """`state` is what the newest checkpoint records."""
        self._config, self._score_name = config, score_name
        self._last_phase = num_phases - 1
        self.state = state

    def learning_rate(self, scheduled: float, phase: int) -> float:
        """The learning rate of a step of `phase` for which the schedule says `scheduled`."""
        plateau, state = self._config.plateau, self.state
        if plateau is None or state is None or state.phase != phase:
            return scheduled
        return max(scheduled * state.factor, min(scheduled, plateau.min_lr))

    def observe(self, step: int, score: float | None, phase: int, measured_on: str) -> None:
        """Takes note of the evaluation after `step`, with the same arguments on all ranks.

        `score`: lower is better; None and non-finite ones count as not improved. `measured_on`
        hashes what it was measured on: where that changes, waiting starts again.
        """
        before = self.state
        if before is None or before.phase != phase:
            before = ValidationState(phase=phase, measured_on=measured_on)
        elif before.measured_on != measured_on:
            before = ValidationState(phase=phase, measured_on=measured_on, factor=before.factor)
        value = score if score is not None and math.isfinite(score) else math.inf
        changes: dict[str, object] = {}
        if value < (math.inf if before.best_score is None else before.best_score):
            changes |= {"best_score": value, "best_step": step}
        stopping = self._config.early_stopping
        if stopping is None or phase != self._last_phase:
            changes["early_stopping"] = Waiting()
        else:
            changes["early_stopping"] = _waited(before.early_stopping, value, stopping.min_delta)
        changes |= self._plateau_changes(self._config.plateau, before, value, step)
        self.state = before.model_copy(update=changes)

    def end_tags(self, step: int, is_early: bool) -> dict[str, str]:
        """What the record of a run holds that finished after `step`; `is_early`: by `stop`."""
        tags = {"stopped_early": f"step {step}" if is_early else "no"}
        if self.state is not None and self.state.best_step is not None:
            best = {
                "best_step": str(self.state.best_step),
                "best_score": repr(self.state.best_score),
            }
            tags |= best
        return tags

    def is_best(self, step: int) -> bool:
        """Whether the evaluation after `step` is the best so far."""
        return self.state is not None and self.state.best_step == step

    @property
    def stop(self) -> EarlyStop | None:
        """Why the run ends now; None: it continues."""
        stopping, state = self._config.early_stopping, self.state
        if stopping is None or state is None or state.phase != self._last_phase:
            return None
        if state.early_stopping.evaluations < stopping.patience:
            return None
        return EarlyStop(
            state.early_stopping.evaluations, state.best_step, state.best_score, self._score_name
        )

    def _plateau_changes(
        self, plateau: PlateauConfig | None, before: ValidationState, value: float, step: int
    ) -> dict[str, object]:
        if plateau is None:
            return {"plateau": Waiting(), "cooldown": 0, "factor": 1.0}
        waited = _waited(before.plateau, value, plateau.min_delta)
        if before.cooldown and waited.evaluations:
            waited = waited.model_copy(update={"evaluations": 0})
        cooldown, factor = max(0, before.cooldown - 1), before.factor
        if waited.evaluations >= plateau.patience:
            factor *= plateau.factor
            logger.info(
                "no improvement in %d evaluations: the learning rate is the schedule's times %.4g "
                "(not below %g) from step %s on",
                *(waited.evaluations, factor, plateau.min_lr, f"{step + 1:,}"),
            )
            cooldown = plateau.cooldown
            waited = waited.model_copy(update={"evaluations": 0})
        return {"plateau": waited, "cooldown": cooldown, "factor": factor}


def _waited(before: Waiting, value: float, min_delta: float) -> Waiting:
    """`before` after one more evaluation, whose score is `value` (infinite: not improved)."""
    reference = math.inf if before.reference is None else before.reference
    if value < math.inf and value < reference - min_delta:
        return Waiting(reference=value)
    return Waiting(reference=before.reference, evaluations=before.evaluations + 1)
