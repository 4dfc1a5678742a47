"""The schema of a fine-tuning run: start weights, tasks, optimizer. Imports no torch."""

from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.load import Config
from model.adversarial_options import FinetuningAdversary, NoAdversary
from model.compute import BreaksBitEquality
from model.config import MLM_HEAD, ModelConfig
from model.head_options import FirstTokenPooler, HeadTransform, Pooler
from model.hugging_face.families import head_transform_of
from model.objectives import MaskedLanguageModelConfig, MaskingObjective
from model.weight_options import Frozen
from pipeline.data.config import DataConfig
from pipeline.fault_tolerance.loss_spikes import StabilityConfig
from pipeline.finetuning.tasks.union import FinetuneTask
from pipeline.optim.adamw import AdamWConfig
from pipeline.optim.schedule import LinearSchedule, ScheduleConfig
from pipeline.optim.union import OptimizerConfig
from pipeline.run.config import RunConfig
from pipeline.start.config import START_PATHS, FromHuggingFace, FromRun
from pipeline.validation.config import ValidationConfig

TASK_PATHS = {"train", "dev"}
"""Keys of a task that may change: the content of `train` is compared, `dev` trains nothing."""

MLM_STREAM_KEYS = ("weights", "sampling_exponent", "shuffle_unit")
"""Keys of `mlm.data` that decide the order of the rows."""

StartConfig = Annotated[FromRun | FromHuggingFace, Field(discriminator="type")]


class ModelChanges(Config):
    """Changes to the pretrained model; a key that is not given keeps its value."""

    hidden_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the embedding and of each block's output, and before the heads."""

    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the attention probabilities."""

    pooler: Pooler = FirstTokenPooler()
    """How the hidden states of a row become one vector."""

    head_transform: HeadTransform | None = None
    """Layers between the encoder and the output layer of every task (default: those of the model's
    Hugging Face class)."""

    frozen: Frozen | None = None
    """Parts of the encoder whose weights are not trained."""

    def of(self, pretrained: ModelConfig) -> ModelConfig:
        """The config of the model that is fine-tuned."""
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        if self.head_transform is None:
            changes["head_transform"] = {"type": head_transform_of(pretrained)}
        return ModelConfig.model_validate({**pretrained.model_dump(), **changes})


class MlmConfig(Config):
    """Masked language modelling on packed rows, trained together with the tasks."""

    data: DataConfig
    """The packed rows; they must be made with the model's tokenizer."""

    objective: MaskingObjective = MaskedLanguageModelConfig()
    """How rows are masked."""

    rows_per_step: PositiveInt = 32
    """Rows of one optimizer step over all ranks (its part of the global batch)."""

    weight: PositiveFloat = 1.0
    """Factor of its mean loss in the total loss."""

    heldout_rows_per_source: PositiveInt = 128
    """Held-out rows per source for evaluation."""


class FinetuneConfig(RunConfig):
    """One fine-tuning run: any number of tasks on one encoder (multi-task learning)."""

    start: StartConfig
    """The weights to start from."""

    tasks: dict[str, FinetuneTask] = Field(min_length=1)
    """The tasks by name. The name is part of the names of the task's metrics."""

    mlm: MlmConfig | None = None
    """Masked language modelling as a further objective (default: none)."""

    model: ModelChanges = ModelChanges()
    """Changes to the pretrained model."""

    adversarial: FinetuningAdversary = NoAdversary()
    """Adversarial training on the word vectors, in all tasks and `mlm`."""

    max_row_tokens: int | None = Field(None, ge=8)
    """Maximum sequence length of the tasks in tokens (default: the model's positions)."""

    steps: PositiveInt
    """Optimizer steps; each trains on all tasks."""

    micro_rows: Annotated[PositiveInt, BreaksBitEquality()] = 8
    """Micro-batch size: rows of one forward and backward pass on one rank."""

    evaluate_every_steps: PositiveInt = 100
    """Optimizer steps between evaluations. The last step is always evaluated."""

    evaluation: ValidationConfig = ValidationConfig()
    """What follows from the scores on the dev files."""

    optimizer: OptimizerConfig = AdamWConfig(lr=3e-5)
    """The optimizer of all trained parameters."""

    gradient_clipping: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 disables clipping."""

    schedule: ScheduleConfig = LinearSchedule()
    """The learning rate as a function of the consumed rows of all tasks together."""

    stability: StabilityConfig = StabilityConfig()
    """When the run rolls back to its newest checkpoint."""

    def identity(self) -> dict[str, Any]:
        mlm = self.mlm
        return {
            **super().identity(),
            "start": _without(self.start, START_PATHS),
            "tasks": {name: _without(task, TASK_PATHS) for name, task in self.tasks.items()},
            "order of tasks": tuple(self.tasks),
            "mlm": mlm and _without(mlm, {"data", "heldout_rows_per_source"}),
            "mlm.data": mlm and {key: getattr(mlm.data, key) for key in MLM_STREAM_KEYS},
            "model": self.model,
            "adversarial": self.adversarial,
            "max_row_tokens": self.max_row_tokens,
        }

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all tasks and ranks."""
        rows = sum(t.examples_per_step * t.rows_per_example for t in self.tasks.values())
        return rows + (self.mlm.rows_per_step if self.mlm else 0)

    @property
    def validation(self) -> ValidationConfig:
        """What follows from evaluations."""
        return self.evaluation

    @property
    def end_row(self) -> int:
        """Rows of all steps."""
        return self.steps * self.rows_per_step

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each head's mean loss in the total loss, by head."""
        mlm = {MLM_HEAD: self.mlm.weight} if self.mlm else {}
        return {**{name: task.weight for name, task in self.tasks.items()}, **mlm}

    @model_validator(mode="after")
    def _names_and_sizes_fit(self) -> Self:
        for name, task in self.tasks.items():
            if name == MLM_HEAD or not name.isidentifier():
                raise ValueError(
                    f"tasks.{name}: a name is made of letters, digits and _, and is not "
                    f"{MLM_HEAD!r}"
                )
            if task.rows_per_example > self.micro_rows:
                raise ValueError(
                    f"micro_rows {self.micro_rows} is less than the {task.rows_per_example} rows "
                    f"of one example of tasks.{name}"
                )
        if self.precision == "fp16" and self.adversarial.type == "smart":
            raise ValueError(
                "precision fp16 does not go with adversarial smart, whose small gradients are zero "
                "in it: use bf16 or fp32"
            )
        if self.schedule.warmup_rows > (self.schedule.total_rows or self.end_row):
            raise ValueError(
                f"schedule.warmup_rows {self.schedule.warmup_rows} is longer than the schedule of "
                f"{self.schedule.total_rows or self.end_row} rows"
            )
        return self


def _without(config: Config, keys: set[str]) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=keys)


def is_finetuning(tree: dict[str, Any]) -> bool:
    """Whether `tree`, the mapping of a config file, describes a fine-tuning run."""
    return "tasks" in tree
