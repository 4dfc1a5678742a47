"""The schema of a phase of a run: its data, row width, batch, schedule, objective and settings.

A later phase names only what it changes (`pipeline.run.later_phases`). Imports no torch.
"""

from typing import Annotated, Self

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from configs.load import Config
from model.adversarial_options import NoAdversary, PretrainingAdversary
from model.compute import BreaksBitEquality
from model.config import ModelConfig
from model.objectives import ObjectiveConfig
from pipeline.data.config import DataConfig
from pipeline.data.position import PhaseSteps
from pipeline.optim.adamw import AdamWConfig
from pipeline.optim.schedule import LinearSchedule, ScheduleConfig
from pipeline.optim.union import OptimizerConfig
from pipeline.run.steps import phase_steps


class BatchStage(Config):
    """A segment of training with a smaller global batch."""

    until_row: PositiveInt
    """Row of the phase at which the next stage starts, rounded up to a whole step."""

    global_rows: PositiveInt
    """Rows of one optimizer step until then."""


class BatchConfig(Config):
    """Batch sizes in rows (packed sequences); gradient accumulation follows from them."""

    global_rows: PositiveInt = 8192
    """Rows of one optimizer step over all ranks (8192: Liu et al. 2019, Table 9)."""

    micro_rows: Annotated[PositiveInt, BreaksBitEquality()] = 8
    """Micro-batch size: rows of one forward and backward pass on one rank."""

    warmup: tuple[BatchStage, ...] = ()
    """Smaller global batches at the start of the phase, in their order."""

    def repeated(self) -> "BatchConfig":
        """The same sizes for the phase after, without a warm-up."""
        return self.model_copy(update={"warmup": ()})

    @model_validator(mode="after")
    def _stages_ascend(self) -> "BatchConfig":
        ends = [stage.until_row for stage in self.warmup]
        if ends != sorted(set(ends)):
            raise ValueError(f"warmup: until_row must grow from stage to stage, not {ends}")
        return self


class UpdateConfig(Config):
    """How the gradients of an optimizer step change the weights."""

    optimizer: OptimizerConfig = AdamWConfig()
    """The optimizer of all trained parameters."""

    gradient_clipping: NonNegativeFloat = 0.0
    """Largest gradient norm; 0: no clipping, as in RoBERTa."""


class PhaseConfig(UpdateConfig):
    """A part of a run with its own data, row width, batch, schedule, objective and settings."""

    data: DataConfig
    """The rows to train on."""

    total_rows: PositiveInt
    """Rows to train on, repeats included; rounded down to whole optimizer steps."""

    batch: BatchConfig = BatchConfig()
    """Batch sizes."""

    schedule: ScheduleConfig = LinearSchedule()
    """The learning rate as a function of the rows of this phase."""

    model: ModelConfig
    """What is computed: the architecture. It belongs to the identity of the run."""

    objective: ObjectiveConfig
    """Which tokens are masked, and what is predicted."""

    adversarial: PretrainingAdversary = NoAdversary()
    """Adversarial training on the word vectors, beside an objective that masks tokens."""

    @property
    def steps(self) -> PhaseSteps:
        """The optimizer steps of the phase."""
        warmup = [(stage.until_row, stage.global_rows) for stage in self.batch.warmup]
        return phase_steps(self.total_rows, self.batch.global_rows, warmup)

    @model_validator(mode="after")
    def _adversary_fits(self) -> Self:
        if self.adversarial.type != "none" and self.objective.type in ("causal", "replaced_tokens"):
            raise ValueError(
                f"adversarial {self.adversarial.type} does not go with objective "
                f"{self.objective.type}, only with objectives that mask tokens: set adversarial: "
                "{type: none}"
            )
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        errors, fitting = _too_long(self)
        if errors:
            raise ValueError(f"{'; '.join(errors)}; for a run of this length: {' '.join(fitting)}")
        return self


def _too_long(phase: PhaseConfig) -> tuple[list[str], list[str]]:
    """(what does not fit into the rows of a phase, the overrides with which all of it does)."""
    errors, fitting = [], []
    rows, batch, schedule = phase.total_rows, phase.batch, phase.schedule
    warmup_rows = max((stage.until_row for stage in batch.warmup), default=0)
    if rows < batch.global_rows + warmup_rows:
        errors.append(
            f"total_rows {rows} is less than one optimizer step of batch.global_rows "
            f"{batch.global_rows}"
            + (f" after the batch warm-up of {warmup_rows} rows" if warmup_rows else "")
        )
        if warmup_rows:
            fitting.append("batch.warmup=[]")
        if rows < batch.global_rows:
            micro_rows = min(batch.micro_rows, rows)
            fitting.append(f"batch.global_rows={micro_rows}")
            if micro_rows < batch.micro_rows:
                fitting.append(f"batch.micro_rows={micro_rows}")
    end = schedule.total_rows or rows
    if schedule.warmup_rows > end:
        errors.append(
            f"schedule.warmup_rows {schedule.warmup_rows} is longer than the schedule of {end} rows"
        )
        fitting.append(f"schedule.warmup_rows={end // 10}")
    return errors, fitting


class LaterPhaseConfig(PhaseConfig):
    """A later phase. What it does not give is as in the phase before; a mapping that it gives is
    merged into that of the phase before, key by key."""

    data: DataConfig
    """The rows to train on, as in the phase before if not given. With a `path` of its own it has
    `weights`, `url` and `shuffle_unit` of its own too."""

    batch: BatchConfig
    """Batch sizes, as in the phase before if not given; a batch warm-up is not repeated."""

    schedule: ScheduleConfig
    """The learning rate as a function of the rows of this phase, of the kind of the phase before if
    not given; its `warmup_rows` and `total_rows` are not repeated."""

    model: ModelConfig
    """The model, as in the phase before if not given. Only what shapes no weight may differ:
    `positions.base` and `positions.local_base`, `attention_pattern`, `packed_rows`, `visibility`,
    `hidden_dropout`, `attention_dropout`; without learned positions `max_row_tokens` too."""

    objective: ObjectiveConfig
    """The objective with its mask rate, as in the phase before if not given."""

    adversarial: PretrainingAdversary
    """Adversarial training, as in the phase before if not given."""

    optimizer: OptimizerConfig
    """Settings of the optimizer, as in the phase before if not given; its `type` is that of the
    run, to which the moments belong."""

    gradient_clipping: NonNegativeFloat
    """Largest gradient norm; 0: no clipping; as in the phase before if not given."""
