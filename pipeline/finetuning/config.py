"""The schema of a fine-tuning run: where it starts, what it is trained on. Imports no torch."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.load import Config
from model.config import ModelConfig
from model.objectives import MaskedLanguageModelConfig, ObjectiveConfig
from model.options import ActivationCheckpointing, FirstTokenPooler, Frozen, Pooler
from pipeline.data.config import DataConfig
from pipeline.finetuning.tasks.union import FinetuneTask
from pipeline.optim.schedule import LinearSchedule, ScheduleConfig
from pipeline.run.config import AdamWConfig, OptimizerConfig, RunConfig

MLM = "mlm"
"""The name of the masked language model among the heads."""


class FromRun(Config):
    """The weights of a pretraining run."""

    type: Literal["run"] = "run"

    path: Path
    """Folder of the run."""

    step: PositiveInt | None = None
    """Optimizer step of the checkpoint (default: the newest)."""

    tokenizer: Path | None = None
    """The tokenizer.json (default: the one beside the rows that the run was trained on)."""


class FromHuggingFace(Config):
    """The weights of a Hugging Face folder (RoBERTa, BERT or pre-LN RoBERTa layout)."""

    type: Literal["hugging_face"] = "hugging_face"

    path: Path
    """Folder with config.json and weights."""

    tokenizer: Path | None = None
    """The tokenizer.json (default: the one in the folder)."""

    leave_out: tuple[str, ...] = ("classifier.", "qa_outputs.")
    """Beginnings of the names of tensors that are passed over: heads of other tasks."""


StartConfig = Annotated[FromRun | FromHuggingFace, Field(discriminator="type")]


class ModelChanges(Config):
    """What may differ from the pretrained model; what is not given stays as it was."""

    hidden_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the embedding and of each block's output, and before the heads."""

    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the attention probabilities."""

    pooler: Pooler = FirstTokenPooler()
    """How a row becomes one vector."""

    frozen: Frozen | None = None
    """Parts of the encoder that keep their weights."""

    activation_checkpointing: ActivationCheckpointing | None = None
    """Memory saved by computing layers again in the backward pass."""

    sequence_parallel: bool | None = None
    """Between blocks, cut hidden states by tokens over tensor-parallel ranks."""

    def of(self, pretrained: ModelConfig) -> ModelConfig:
        """The config of the model that is fine-tuned."""
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        return ModelConfig.model_validate({**pretrained.model_dump(), **changes})


class MlmConfig(Config):
    """Masked language modelling beside the tasks, on packed rows."""

    data: DataConfig
    """The rows; their tokenizer must be the model's."""

    objective: ObjectiveConfig = MaskedLanguageModelConfig()
    """How rows are masked."""

    rows_per_step: PositiveInt = 32
    """Rows of one optimizer step over all ranks."""

    weight: PositiveFloat = 1.0
    """Factor of its mean loss in the sum that is trained on."""

    heldout_rows_per_source: PositiveInt = 128
    """Held-out rows of every source that are evaluated."""


class FinetuneConfig(RunConfig):
    """One fine-tuning run: any number of tasks on one encoder, and masked language modelling."""

    IDENTITY: ClassVar[tuple[str, ...]] = (
        "seed",
        "start",
        "tasks",
        "mlm",
        "model",
        "max_row_tokens",
    )

    start: StartConfig
    """Where the weights come from."""

    tasks: dict[str, FinetuneTask] = Field(min_length=1)
    """The tasks by name; a name is part of the names of its metrics."""

    mlm: MlmConfig | None = None
    """Masked language modelling in the same run (default: none)."""

    model: ModelChanges = ModelChanges()
    """What differs from the pretrained model."""

    max_row_tokens: PositiveInt | None = Field(None, ge=8)
    """Longest row of a task in tokens (default: the model's positions)."""

    steps: PositiveInt
    """Optimizer steps; every one trains on all tasks."""

    micro_rows: PositiveInt = 8
    """Rows of one forward and backward pass on one rank."""

    evaluate_every_steps: PositiveInt = 100
    """Optimizer steps between evaluations; the last step is always evaluated."""

    optimizer: OptimizerConfig = AdamWConfig(lr=3e-5)
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest gradient norm; 0: no clipping."""

    schedule: ScheduleConfig = LinearSchedule()
    """The learning rate as a function of the rows of all tasks together."""

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all tasks and ranks."""
        rows = sum(t.examples_per_step * t.rows_per_example for t in self.tasks.values())
        return rows + (self.mlm.rows_per_step if self.mlm else 0)

    @property
    def end_row(self) -> int:
        """The rows of all steps."""
        return self.steps * self.rows_per_step

    @property
    def weights(self) -> dict[str, float]:
        """The factor of every head's mean loss."""
        mlm = {MLM: self.mlm.weight} if self.mlm else {}
        return {**{name: task.weight for name, task in self.tasks.items()}, **mlm}

    @model_validator(mode="after")
    def _names_and_sizes_fit(self) -> Self:
        for name, task in self.tasks.items():
            if name == MLM or not name.isidentifier():
                raise ValueError(
                    f"tasks.{name}: a name is made of letters, digits and _, and is not {MLM!r}"
                )
            if task.rows_per_example > self.micro_rows:
                raise ValueError(
                    f"micro_rows {self.micro_rows} is less than the {task.rows_per_example} rows "
                    f"of one example of tasks.{name}"
                )
        if self.schedule.warmup_rows > (self.schedule.total_rows or self.end_row):
            raise ValueError(
                f"schedule.warmup_rows {self.schedule.warmup_rows} is longer than the schedule of "
                f"{self.schedule.total_rows or self.end_row} rows"
            )
        return self


def is_finetuning(tree: dict[str, Any]) -> bool:
    """Whether the mapping of a config file is of a fine-tuning run."""
    return "tasks" in tree
