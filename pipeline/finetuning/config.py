"""The schema of a fine-tuning run: start weights, tasks, optimizer. Imports no torch."""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.load import Config
from model.adversarial_options import FinetuningAdversary, NoAdversary
from model.compute import BreaksBitEquality, ComputeConfig
from model.config import MLM_HEAD, ModelConfig
from model.head_options import FirstTokenPooler, HeadTransform, Pooler
from model.hugging_face.families import head_transform_of
from model.objectives import MaskedLanguageModelConfig, MaskingObjective
from model.weight_options import Frozen
from pipeline.data.config import DataConfig
from pipeline.fault_tolerance.loss_spikes import StabilityConfig
from pipeline.finetuning.sweep.config import SweepConfig
from pipeline.finetuning.task_sampling import EveryTask, SampledTask, TaskSampling
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


class SourceHead(Config):
    """The head of a task in the run that is started from."""

    task: str
    """The task there."""

    labels: dict[str, str] = Field(default_factory=dict)
    """By label here, the label there whose row it starts from (default: that of the same name; a
    label without one starts at random)."""

    @classmethod
    def of(cls, given: "str | SourceHead") -> "SourceHead":
        """The head that the name of a task, or a mapping, stands for."""
        return cls(task=given) if isinstance(given, str) else given


class FromFinetunedRun(FromRun):
    """The weights in a checkpoint of another run, pretraining or fine-tuning."""

    heads: dict[str, str | SourceHead | None] = Field(default_factory=dict)
    """By task here, the task of the start whose head it takes, with the pooler; null: its head
    starts at random (default: taken where name, type and labels are the same)."""


StartConfig = Annotated[FromFinetunedRun | FromHuggingFace, Field(discriminator="type")]


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

    steps: PositiveInt | None = None
    """Optimizer steps. Give this or `epochs`."""

    epochs: PositiveFloat | None = None
    """Passes over the examples of `epochs_of`, instead of `steps`."""

    epochs_of: str | None = None
    """The task that `epochs` and `evaluate_every_epochs` count (default: the one with the most
    batches, so that every task is seen at least so often)."""

    task_sampling: TaskSampling = EveryTask()
    """Which tasks each step trains on."""

    layerwise_lr_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the learning rate for each layer below the heads (default: the same rate for all):
    pooler and heads have the full rate, the last layer of n this factor of it, the first one its
    n-th power, the embeddings its (n+1)-th (BEiT, Bao et al. 2022, after ELECTRA)."""

    micro_rows: Annotated[PositiveInt, BreaksBitEquality()] = 8
    """Micro-batch size: rows of one forward and backward pass on one rank."""

    evaluate_every_steps: PositiveInt = 100
    """Optimizer steps between evaluations. The last step is always evaluated."""

    evaluate_every_epochs: PositiveFloat | None = None
    """Epochs between evaluations, in place of `evaluate_every_steps`."""

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

    sweep: SweepConfig | None = None
    """Values of settings to try, each in a run of its own (default: one run)."""

    @property
    def model_compute(self) -> ComputeConfig:
        """Texts of many widths would each be compiled for a few steps: only if it is asked for."""
        if self.compute.compile == "auto":
            return self.compute.model_copy(update={"compile": "off"})
        return self.compute

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
            "task_sampling": self.task_sampling,
            "steps of annealed sampling": self.steps if self._is_annealed else None,
        }

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all tasks and ranks; with sampled tasks the most."""
        rows = [t.examples_per_step * t.rows_per_example for t in self.tasks.values()]
        of_tasks = sum(rows) if self.task_sampling.type == "all" else max(rows)
        return of_tasks + (self.mlm.rows_per_step if self.mlm else 0)

    @property
    def validation(self) -> ValidationConfig:
        """What follows from evaluations."""
        return self.evaluation

    @property
    def num_steps(self) -> int:
        """Optimizer steps, known once the files of a run in epochs are read."""
        assert self.steps is not None, "the config of a plan has steps"
        return self.steps

    @property
    def end_row(self) -> int:
        """Rows of all steps."""
        return self.num_steps * self.rows_per_step

    def with_length_of(self, stored: RunConfig | None) -> "FinetuneConfig | None":
        if self.steps is not None:
            return self
        if not isinstance(stored, FinetuneConfig) or stored.steps is None:
            return None
        if (stored.epochs, stored.epochs_of) != (self.epochs, self.epochs_of):
            return None
        return self.model_copy(update={"steps": stored.steps})

    @property
    def _is_annealed(self) -> bool:
        return isinstance(self.task_sampling, SampledTask) and self.task_sampling.annealed

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
        if self.compute.cuda_graphs == "on":
            raise ValueError(
                "compute.cuda_graphs on does not go with fine-tuning, whose texts have many widths"
            )
        self._check_length()
        return self

    def _check_length(self) -> None:
        """Raises ValueError for a length that is missing or cannot be computed."""
        is_swept = self.sweep is not None and {"epochs", "steps"} & self.sweep.axes.keys()
        if self.steps is None and self.epochs is None and not is_swept:
            raise ValueError("steps or epochs: one of them is required")
        if self.epochs_of is not None and self.epochs_of not in self.tasks:
            names = ", ".join(self.tasks)
            raise ValueError(f"epochs_of {self.epochs_of}: not one of the tasks {names}")
        if self.epochs is not None and self._is_annealed:
            raise ValueError(
                "epochs does not go with task_sampling.annealed, whose probabilities depend on the "
                "number of steps: give steps"
            )
        for error in self.length_errors():
            raise ValueError(error)

    def length_errors(self) -> Iterator[str]:
        """What does not fit the number of steps, if that is known."""
        if self.steps is None:
            return
        end, warmup = self.schedule.total_rows or self.end_row, self.schedule.warmup_rows
        if warmup > end:
            yield (
                f"schedule.warmup_rows {warmup} is longer than the schedule of {end} rows: lower "
                "it, or give schedule.warmup_share"
            )


def _without(config: Config, keys: set[str]) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=keys)


def is_finetuning(tree: dict[str, Any]) -> bool:
    """Whether `tree`, the mapping of a config file, describes a fine-tuning run."""
    return "tasks" in tree
