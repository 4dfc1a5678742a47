"""The schema of a training run: one file holds everything that decides what comes out."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from configs.load import Config
from model.config import ModelConfig
from model.objectives import ObjectiveConfig
from pipeline.data.config import DataConfig
from pipeline.fault_tolerance.loss_spikes import StabilityConfig
from pipeline.optim.loss_scale import LossScaleConfig
from pipeline.optim.optimizers import AdamWConfig, OptimizerConfig
from pipeline.optim.schedule import LinearSchedule, ScheduleConfig


class BatchStage(Config):
    """A stretch of training with a smaller global batch."""

    until_row: PositiveInt
    """Row of the phase at which the next stage begins, rounded up to a whole step."""

    global_rows: PositiveInt
    """Rows of one optimizer step until then."""


class BatchConfig(Config):
    """Batch sizes in rows; the number of accumulated micro-batches follows from them."""

    global_rows: PositiveInt = 8192
    """Rows of one optimizer step over all ranks (8192: Liu et al. 2019, Table 9)."""

    micro_rows: PositiveInt = 8
    """Rows of one forward and backward pass on one rank."""

    warmup: tuple[BatchStage, ...] = ()
    """Smaller global batches at the start of the phase, in their order."""

    @model_validator(mode="after")
    def _stages_ascend(self) -> "BatchConfig":
        ends = [stage.until_row for stage in self.warmup]
        if ends != sorted(set(ends)):
            raise ValueError(f"warmup: until_row must grow from stage to stage, not {ends}")
        return self


class ParallelConfig(Config):
    """How the model is laid out over the ranks; data parallelism takes what is left."""

    tensor: PositiveInt = 1
    """Ranks that share one copy of the model (tensor-parallel size)."""

    zero_stage: Literal[1, 2, 3] = 1
    """What data-parallel ranks share out: 1 optimizer state, 2 gradients too, 3 weights too."""

    offload_optimizer: bool = False
    """True keeps master weights and moments in host memory and steps there."""


class EvaluationConfig(Config):
    """Held-out loss during training, with masks that never change."""

    every_steps: PositiveInt = 1000
    """Optimizer steps between evaluations; the last step is always evaluated."""

    rows_per_source: PositiveInt = 512
    """Held-out rows of every source (fewer where it has fewer)."""


class CheckpointConfig(Config):
    """When the state is saved, and which saves are kept: those that any of the rules keeps."""

    every_steps: PositiveInt = 1000
    """Optimizer steps between saves; the last step is always saved."""

    keep_last: PositiveInt = 3
    """Newest checkpoints that stay on disk."""

    keep_every_steps: PositiveInt | None = None
    """Checkpoints whose step is a multiple of this stay (default: none)."""

    keep_best: NonNegativeInt = 0
    """Checkpoints with the lowest held-out loss that stay."""


class TrackingConfig(Config):
    """Where metrics go besides the run's own folder."""

    uri: str | None = None
    """MLflow tracking URI (default: the SQLite file mlflow.db beside the run's folder)."""

    experiment: str = "pretraining"
    """MLflow experiment name."""

    enabled: bool = True
    """False keeps the metrics in the run's folder only."""


class PhaseConfig(Config):
    """A part of a run with its own data, row width, batch and schedule."""

    data: DataConfig
    """The rows to train on."""

    total_rows: PositiveInt
    """Rows to train on, repeats included; rounded down to whole optimizer steps."""

    batch: BatchConfig = BatchConfig()
    """Batch sizes."""

    schedule: ScheduleConfig = LinearSchedule()
    """The learning rate as a function of the rows of this phase."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        warmup_rows = max((stage.until_row for stage in self.batch.warmup), default=0)
        if self.total_rows < self.batch.global_rows + warmup_rows:
            raise ValueError(
                f"total_rows {self.total_rows} is less than one optimizer step of "
                f"batch.global_rows {self.batch.global_rows}"
                + (f" after the batch warm-up of {warmup_rows} rows" if warmup_rows else "")
            )
        end = self.schedule.total_rows or self.total_rows
        if self.schedule.warmup_rows > end:
            raise ValueError(
                f"schedule.warmup_rows {self.schedule.warmup_rows} is longer than the schedule "
                f"of {end} rows"
            )
        return self


class RunConfig(Config):
    """What every run has, pretraining and fine-tuning alike."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("seed",)
    """Config keys that a run keeps for life: with others it would be another run."""

    name: str
    """Name of the run in MLflow."""

    output: Path
    """Folder of the run: checkpoints, metrics, exported model. One run a folder."""

    seed: NonNegativeInt = 1
    """Decides initial weights, row order, masks and dropout."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of weights and activations; master weights and sums are always fp32."""

    loss_scale: LossScaleConfig = LossScaleConfig()
    """The factor on losses under fp16, which small gradients would be lost in without it."""

    gradient_clipping: NonNegativeFloat = 0.0
    """Largest gradient norm; 0: no clipping, as in RoBERTa."""

    deterministic: bool = True
    """True takes only CUDA kernels that give the same bits every time, so that a resumed run is
    equal to an undisturbed one; False the fastest, whose sums come in any order."""

    hang_timeout_s: PositiveInt = 1800
    """Seconds without a finished step after which a rank shows its stacks and exits with 1."""

    log_every_steps: PositiveInt = 10
    """Optimizer steps between progress lines; metrics are recorded for every step."""

    optimizer: OptimizerConfig = AdamWConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def end_row(self) -> int:
        """The position behind the last row of the run."""
        raise NotImplementedError


class TrainConfig(RunConfig, PhaseConfig):
    """One pretraining run: its only or first phase, those that follow, and what all share."""

    IDENTITY = ("seed", "model", "objective", "batch.global_rows", "data.shuffle_unit")

    then: tuple[PhaseConfig, ...] = ()
    """Phases after the first, for instance on longer rows; weights and moments go on."""

    model: ModelConfig
    objective: ObjectiveConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    stability: StabilityConfig = StabilityConfig()

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases in their order, the first included."""
        return (self, *self.then)

    @property
    def end_row(self) -> int:
        """The position behind the last row of the last phase."""
        from pipeline.run.steps import run_steps

        return run_steps(self).total_rows
