"""A plan in numbers, of pretraining and fine-tuning alike: what text, JSON and page show."""

import json
import shlex
from dataclasses import dataclass

from pipeline.planning.costs import Cost
from pipeline.planning.request import PlanRequest
from pipeline.planning.scaling import ScalePoint, largest_useful
from pipeline.planning.search import Outcome, fastest
from pipeline.planning.step_time import StepTime
from pipeline.run.memory import MemoryEstimate


@dataclass(frozen=True)
class StageTime:
    """The steps of a phase, or of a whole fine-tuning run, with equal rows."""

    name: str
    num_steps: int
    tokens: float
    """Of all its steps."""
    step: StepTime
    """Of one step, of the largest batch."""
    whole: StepTime
    """Of all its steps."""
    model_flops: float
    """Operations that the model needs for all its steps, what is computed again counted once."""


@dataclass(frozen=True)
class Comparison:
    """The layouts of a run, and how it scales."""

    outcomes: tuple[Outcome, ...]
    """On this launch, the fastest first."""
    overrides: dict[str, object]
    """The config keys that change for the one to use; empty if none fits."""
    scaling: tuple[ScalePoint, ...]
    """Empty where it was not computed."""

    @property
    def settings(self) -> str:
        """The overrides as they are given on a command line."""
        words = (
            f"{key}={json.dumps(value) if isinstance(value, dict) else value}"
            for key, value in self.overrides.items()
        )
        return shlex.join(words) or "that of this config"

    @property
    def best(self) -> Outcome | None:
        """The one to use."""
        return fastest(self.outcomes)

    @property
    def useful(self) -> ScalePoint | None:
        """The largest useful number of accelerators."""
        return largest_useful(list(self.scaling))


@dataclass(frozen=True)
class PlanSummary:
    """The plan of one run on one launch."""

    request: PlanRequest
    name: str
    heading: tuple[str, ...]
    """What the run does, a line each."""
    num_steps: int
    tokens: float
    parameters: int
    trained_parameters: int
    memory: MemoryEstimate
    checkpoint_bytes: float
    stages: tuple[StageTime, ...] = ()
    """Without an accelerator: none."""
    cost: Cost | None = None
    """None without an accelerator and a throughput."""
    comparison: Comparison | None = None
    """With other layouts; None without an accelerator."""
    notes: tuple[str, ...] = ()
    """Lines after that on memory."""
    token_words: str = ""
    """Words after the number of tokens."""
    changes: tuple[str, ...] = ()
    """What changed since the last start of the run."""

    @property
    def step_time(self) -> StepTime:
        """Seconds of all steps, by what they go to."""
        return sum((stage.whole for stage in self.stages), StepTime())

    @property
    def tokens_per_s(self) -> float | None:
        """Of one accelerator: as measured, or as computed."""
        if self.request.tokens_per_s is not None:
            return self.request.tokens_per_s
        seconds = self.step_time.total
        return self.tokens / seconds / self.request.world_size if seconds else None

    @property
    def peak_share(self) -> float | None:
        """Operations that the model needs over those of the datasheet's peak (MFU)."""
        found, rate = self.request.accelerator, self.tokens_per_s
        if found is None or rate is None:
            return None
        flops = sum(stage.model_flops for stage in self.stages)
        return flops / self.tokens * rate / found.peak_flops
