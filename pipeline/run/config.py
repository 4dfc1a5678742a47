"""The schema of a training run: one file holds everything that decides its results.

What is computed (`model`, `objective`, `seed` and the other parts of `identity()`) never changes
within a phase. How it is computed (`compute`, `parallel`, `precision`) may change whenever the run
is resumed; after a change of a field marked with `BreaksBitEquality` the resumed run is no longer
bit-equal to an uninterrupted one.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from configs.load import Config, validate
from configs.moved_keys import move_keys
from configs.paths import ConfigPath
from model.compute import MOVED_KEYS, BreaksBitEquality, ComputeConfig
from model.grid_check import compute_errors
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.fault_tolerance.loss_spikes import StabilityConfig
from pipeline.optim.loss_scale import LossScaleConfig
from pipeline.run.graph_errors import graph_errors
from pipeline.run.later_phases import complete_phases, phase_errors
from pipeline.run.phases import LaterPhaseConfig, PhaseConfig, UpdateConfig
from pipeline.start.config import START_PATHS, PretrainingStart, Scratch
from pipeline.validation.config import ValidationConfig

logger = logging.getLogger(__name__)
ZERO_3_COMPILED = (
    "compute.compile on does not go with parallel.zero_stage 3, which gathers the weights of each "
    "module as it runs: set it to auto, or the stage to 1 or 2"
)


class ParallelConfig(Config):
    """How the model is laid out over the ranks.

    The data-parallel size is not configured: it is the number of ranks divided by `tensor`.
    """

    tensor: Annotated[PositiveInt, BreaksBitEquality()] = 1
    """Tensor-parallel size: ranks that share one copy of the model."""

    zero_stage: Annotated[Literal[1, 2, 3], BreaksBitEquality()] = 1
    """What is sharded over data-parallel ranks: 1 optimizer state, 2 gradients too, 3 weights
    too."""

    zero_gather_ranks: Annotated[int, Field(ge=2)] | None = None
    """ZeRO 3: neighbouring data-parallel ranks, those of a node, that keep a copy of the weights
    together: only the first gathering after a step is over all ranks (hpZ of ZeRO++, Wang et al.
    2023). Has to divide the data-parallel ranks; None: there is no copy, all gather from all."""

    reduce_gradients: Annotated[Literal["auto", "step"], BreaksBitEquality()] = "auto"
    """step: at ZeRO 3, a rank adds up the gradients of its micro-batches (4 bytes a parameter) and
    they are reduced once a step, as at ZeRO 1; auto: ZeRO 2 and 3 reduce in each micro-batch."""

    offload_optimizer: Annotated[bool, BreaksBitEquality()] = False
    """True keeps master weights and moments in host memory and steps there."""

    @model_validator(mode="after")
    def _goes_with_the_stage(self) -> Self:
        if self.reduce_gradients == "step" and self.zero_stage == 2:
            raise ValueError(
                "reduce_gradients step with zero_stage 2 would keep whole gradients on every rank, "
                "which is zero_stage 1: set that, and reduce_gradients to auto"
            )
        if self.zero_gather_ranks is not None and self.zero_stage != 3:
            raise ValueError(
                f"zero_gather_ranks {self.zero_gather_ranks} needs zero_stage 3 (now "
                f"{self.zero_stage}), under which weights are gathered"
            )
        return self


class EvaluationConfig(ValidationConfig):
    """Held-out loss during training, with masks that never change, and what it decides."""

    every_steps: PositiveInt = 1000
    """Optimizer steps between evaluations; the last step is always evaluated."""

    rows_per_source: PositiveInt = 512
    """Held-out rows of every source (fewer where it has fewer)."""


class TrackingConfig(Config):
    """Where metrics go besides the run's own folder."""

    uri: str | None = None
    """MLflow tracking URI (default: the SQLite file mlflow.db beside the run's folder)."""

    experiment: str = "pretraining"
    """MLflow experiment name."""

    enabled: bool = True
    """False keeps the metrics in the run's folder only."""


class RunConfig(UpdateConfig):
    """What every run has, pretraining and fine-tuning alike."""

    name: str
    """Name of the run in MLflow."""

    output: ConfigPath
    """Folder of the run: checkpoints, metrics, exported model. One folder for each run."""

    seed: int = Field(1, ge=0, lt=1 << 64)
    """Decides initial weights, row order, masks and dropout."""

    precision: Annotated[Literal["bf16", "fp16", "fp32"], BreaksBitEquality()] = "bf16"
    """Number format of weights and activations; master weights and sums are always fp32."""

    loss_scale: LossScaleConfig = LossScaleConfig()
    """The factor on losses under fp16, without which small gradients become zero."""

    hang_timeout_s: PositiveInt = 1800
    """Seconds without a finished step after which a rank prints the stacks of its threads and exits
    with code 1."""

    log_every_steps: PositiveInt = 10
    """Optimizer steps between progress lines; metrics are recorded for every step."""

    compute: ComputeConfig = ComputeConfig()
    """How the model is computed; may change at every restart."""

    parallel: ParallelConfig = ParallelConfig()
    """How the model is laid out over the ranks; may change at every restart."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved and which are kept."""

    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go besides the folder of the run."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_keys(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        result, moved = move_keys(tree, MOVED_KEYS)
        for old, new in moved:
            logger.warning("config key %s is now called %s; the old name still works", old, new)
        return result

    @model_validator(mode="after")
    def _can_be_compiled(self) -> Self:
        if self.compiles_under_zero_3:
            raise ValueError(ZERO_3_COMPILED)
        return self

    @property
    def compiles_under_zero_3(self) -> bool:
        """Whether layers are to be compiled that ZeRO 3 cannot run so."""
        return self.compute.compile == "on" and self.parallel.zero_stage == 3

    @classmethod
    def from_stored(cls, tree: Mapping[str, Any], origin: str) -> Self:
        """The config that a run stored, perhaps with keys of an older version.

        Raises ConfigError, which names `origin`, for a tree that this version cannot read.
        """
        return validate(move_keys(tree, MOVED_KEYS)[0], cls, origin)

    def identity(self) -> dict[str, Any]:
        """By dotted path, the parts of the config that never change during a run."""
        return {"seed": self.seed}

    @property
    def model_compute(self) -> ComputeConfig:
        """How the model is computed where DeepSpeed runs it: ZeRO 3 compiles no layers."""
        if self.parallel.zero_stage == 3 and self.compute.compile == "auto":
            return self.compute.model_copy(update={"compile": "off"})
        return self.compute

    @property
    def has_flat_gradients(self) -> bool:
        """Whether the engine reduces the sums of gradients in place, once a step.

        That is `pipeline.engine.flat_gradients`. Elsewhere DeepSpeed copies them into its bucket.
        """
        return self.parallel.zero_stage == 1 and not self.parallel.offload_optimizer

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def end_row(self) -> int:
        """The position after the last row of the run."""
        raise NotImplementedError

    def with_length_of(self, stored: "RunConfig | None") -> "RunConfig | None":
        """This config with an `end_row`, where that depends on data: that of `stored`, the config
        of the last start, if it asked for the same length. None: not known yet."""
        return self

    @property
    def validation(self) -> ValidationConfig:
        """What follows from evaluations."""
        raise NotImplementedError


class TrainConfig(RunConfig, PhaseConfig):
    """One pretraining run: its first phase, the later phases, and what all phases share."""

    start: PretrainingStart = Scratch()
    """The weights before the first step. Unless they are random, the model section may be left out
    or name training choices only: the model is that of the start."""

    then: tuple[LaterPhaseConfig, ...] = ()
    """Later phases, for instance on longer rows; weights and moments carry over."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """When the held-out loss is computed, and what follows from it."""

    stability: StabilityConfig = StabilityConfig()
    """When the run rolls back to its newest checkpoint."""

    export: Literal["hugging_face", "none"] = "hugging_face"
    """Whether the result has to be exportable: a model that no Hugging Face class computes is
    refused before the training. none: any model."""

    @model_validator(mode="before")
    @classmethod
    def _phases_inherit(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or not isinstance(tree.get("then"), list | tuple):
            return tree
        return {**tree, "then": complete_phases(move_keys(tree, MOVED_KEYS)[0])}

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        errors = list(compute_errors(self.model, self.compute))
        errors += phase_errors(self.phases, self.compute)
        errors += self.graph_errors
        if self.precision == "fp16" and any(p.adversarial.type != "none" for p in self.phases):
            errors.append(
                "precision fp16 does not go with adversarial, whose small gradients are zero in "
                "it: use bf16 or fp32"
            )
        if errors:
            raise ValueError("; ".join(errors))
        return self

    @property
    def graph_errors(self) -> tuple[str, ...]:
        """A line for each setting that does not go with `compute.cuda_graphs` on."""
        flat, tp_size = self.has_flat_gradients, self.parallel.tensor
        return tuple(graph_errors(self.phases, self.compute, flat, tp_size))

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "start": self.start.model_dump(mode="json", exclude=START_PATHS),
            "model": self.model,
            "objective": self.objective,
            "adversarial": self.adversarial,
            "batch.global_rows": self.batch.global_rows,
            "data.shuffle_unit": self.data.shuffle_unit,
        }

    @property
    def validation(self) -> ValidationConfig:
        return self.evaluation

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases in their order, the first included."""
        return (self, *self.then)

    @property
    def end_row(self) -> int:
        """The position after the last row of the last phase."""
        return sum(phase.steps.total_rows for phase in self.phases)
