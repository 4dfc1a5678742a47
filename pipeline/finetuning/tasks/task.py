"""What a fine-tuning task is: a frozen config that turns records into examples, examples into
targets for its head, and the head's scores into metrics. Imports no torch.

B rows, S tokens in a row, L classes or values; the target -100 leaves a place out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from tokenizers import Encoding

from configs.load import Config
from configs.paths import ConfigPathText
from pipeline.finetuning.examples import Example, ExampleFile, Line, RowEncoder
from pipeline.finetuning.inputs.fields import Fields, FieldSource, did_you_mean
from pipeline.finetuning.inputs.formats import Auto, InputFormat
from pipeline.finetuning.inputs.paths import files_of
from pipeline.finetuning.inputs.reading import Source, is_missing, read_examples
from pipeline.finetuning.inputs.record import BadRecord, Reason
from pipeline.tracking.label_tables import LabelTable

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig

UNUSED = -100
"""The target of a place without a label."""
Targets = NDArray[np.int64] | NDArray[np.float32]
"""Labels for a head; classes and positions are int64, values float32."""
Scores = Sequence[NDArray[np.float64]]
"""A head's scores of each example: [L]; [S, L] of a head that reads tokens; [C, 1] of C choices."""


class TaskConfig(Config):
    """What every task has."""

    LINE: ClassVar[type[Line]]
    """What a record of its files holds."""
    LABEL_FIELDS: ClassVar[tuple[str, ...]] = ("label",)
    """The fields of `LINE` that hold what is predicted."""
    MAIN_METRICS: ClassVar[tuple[str, ...]]
    """Metrics that can be its main metric, of which more is better; the first is the default."""
    EXPORTED_OUTPUTS: ClassVar[tuple[str, ...]] = ("logits",)
    """The scores in the result of transformers' model."""

    train: tuple[ConfigPathText, ...] = Field(min_length=1)
    """Files to train on: paths, globs, or folders of Hugging Face `datasets`."""

    dev: tuple[ConfigPathText, ...] | None = Field(None, min_length=1)
    """Files to evaluate on (default: no evaluation)."""

    format: InputFormat = Auto()
    """The format of all files of the task (default: by the endings of their names)."""

    fields: dict[str, FieldSource] = Field(default_factory=dict)
    """Where the fields of a record stand: the name of a column or key, its number, counting from 1,
    or a list of them (default: each under its own name)."""

    skip: tuple[Reason, ...] = ()
    """Bad records that are left out and counted, by reason (default: they are errors)."""

    metric: str | None = None
    """The main metric: of the progress line, of the best checkpoint and of early stopping (default:
    depends on the task)."""

    examples_per_step: PositiveInt = 32
    """Examples of one optimizer step over all ranks."""

    weight: PositiveFloat = 1.0
    """Factor of the task's mean loss in the sum that is trained on."""

    @property
    def main_metric(self) -> str:
        """The metric by which two models are compared; more is better."""
        return self.metric or self.MAIN_METRICS[0]

    @property
    def rows_per_example(self) -> int:
        """Rows that one prediction is made from."""
        return 1

    @property
    def reads_pooled(self) -> bool:
        """Whether the head reads one vector a row."""
        return True

    def head(self) -> "TaskHeadConfig":
        """The head of the model."""
        raise NotImplementedError

    def read(
        self,
        files: str | Path | Sequence[str | Path],
        encoder: RowEncoder,
        needs_labels: bool = True,
    ) -> ExampleFile:
        """The examples in `files`, which are named as in `train`.

        Without `needs_labels`, records may lack them. Raises UserError that names every bad record.
        """
        patterns = [files] if isinstance(files, str | Path) else files
        inputs = [name for name in self.LINE.model_fields if name not in self.LABEL_FIELDS]
        required = [name for name in inputs if self.LINE.model_fields[name].is_required()]
        labels = [name for name in self.LABEL_FIELDS if needs_labels]
        optional = [name for name in self.LINE.model_fields if name not in (*required, *labels)]
        may_lack = () if needs_labels else self.LABEL_FIELDS
        source: Source[Any] = Source(
            schema=self.LINE,
            label_fields=self.LABEL_FIELDS,
            needs_labels=needs_labels,
            format=self.format,
            fields=Fields((*required, *labels), tuple(optional), self.fields, may_lack),
            skip=self.skip,
        )
        return read_examples(
            *(files_of(patterns), source, encoder),
            lambda line, number: self.examples_of(line, number, encoder),
        )

    def examples_of(self, line: Any, number: int, encoder: RowEncoder) -> list[Example]:
        """The examples of record `number`, which holds `line`; more than one in windows.

        Raises BadRecord. What is cut or suspicious is added to `encoder.counts`.
        """
        raise NotImplementedError

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        """What the head compares its scores of `examples` with: [B], here the examples' labels.

        Other shapes are those that the head's `loss` takes; `row_tokens` is S of the micro-batch.
        """
        return np.array([example.label for example in examples], dtype=np.int64)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        """Targets, of the shape of `targets`, that leave out all rows of another task's batch."""
        return np.full(num_rows, UNUSED, dtype=np.int64)

    def num_used(self, targets: Targets) -> int:
        """The number that the head's loss sum is divided by."""
        return int((targets >= 0).sum())

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        """Metrics of all examples of a split, which have labels; `scores` are the head's, one array
        an example."""
        kept = [self.kept_scores(e, one) for e, one in zip(examples, scores, strict=True)]
        return self.metrics_of_kept(examples, kept)

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        """As `metrics`, from the `kept_scores` of each example."""
        raise NotImplementedError

    def kept_scores(self, example: Example, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `metrics_of_kept` needs of the scores of one example, which all ranks receive."""
        return scores

    def label_table(self, examples: Sequence[Example], kept: Scores) -> LabelTable | None:
        """What was predicted for the items of each label; None for a task without labels."""
        return None

    def predictions(
        self, examples: Sequence[Example], scores: Scores
    ) -> list[tuple[Example, dict[str, Any]]]:
        """For each record of a file, its (first) example and what is predicted for it, as JSON.

        `examples` are all of some records; `scores` are the head's, one array an example.
        """
        return [
            (example, self.prediction(example, one))
            for example, one in zip(examples, scores, strict=True)
        ]

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        """What is predicted for an example that is a record of its own."""
        raise NotImplementedError

    def exported_settings(self) -> dict[str, Any]:
        """What transformers' config.json says of the task, besides the model and its class."""
        return {}

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        """The scores of transformers' `model` in the shape of our head's.

        `inputs`, each int64 [B, S]: input_ids, attention_mask (1 where a token is no padding) and,
        for models with more than one segment, token_type_ids.
        """
        scores: Tensor = model(**inputs).logits
        return scores

    @field_validator("fields")
    @classmethod
    def _fields_exist(cls, fields: dict[str, FieldSource]) -> dict[str, FieldSource]:
        for name in fields:
            if name not in cls.LINE.model_fields:
                known = did_you_mean(name, tuple(cls.LINE.model_fields))
                raise ValueError(f"{name!r} is no field of this task{known}")
        return fields

    @model_validator(mode="after")
    def _metric_fits(self) -> Self:
        allowed = self.allowed_metrics()
        if self.metric is not None and self.metric not in allowed:
            raise ValueError(
                f"metric {self.metric!r} does not fit this task; choose one of {', '.join(allowed)}"
            )
        return self

    def allowed_metrics(self) -> tuple[str, ...]:
        """The metrics that can be the main one of this task."""
        return self.MAIN_METRICS


class LabelledTask(TaskConfig):
    """A task with named classes."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Names of the classes, in the order of their numbers."""

    label_names: dict[str, str] = Field(default_factory=dict)
    """Names of the labels that the files write differently, {"0": negative} for example; several
    may have one name."""

    @field_validator("labels", mode="before")
    @classmethod
    def _as_texts(cls, names: Any) -> Any:
        return [_label_text(name) for name in names] if isinstance(names, list | tuple) else names

    @field_validator("label_names", mode="before")
    @classmethod
    def _names_as_texts(cls, names: Any) -> Any:
        if not isinstance(names, dict):
            return names
        return {_label_text(key): _label_text(name) for key, name in names.items()}

    @field_validator("labels")
    @classmethod
    def _differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"a label is named twice: {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _names_are_labels(self) -> Self:
        unknown = sorted(set(self.label_names.values()) - set(self.labels))
        if unknown:
            raise ValueError(
                f"label_names: {', '.join(unknown)} not among labels: {', '.join(self.labels)}"
            )
        return self

    def number_of(self, label: Any) -> int:
        """The number of a class; BadRecord for an unknown one."""
        is_whole = isinstance(label, float) and label.is_integer()
        text = str(int(label) if is_whole else label)  # tables store whole numbers as 1.0
        text = self.label_names.get(text, text)
        if text not in self.labels:
            names = ", ".join(self.labels)
            raise BadRecord("unknown_label", f"label {text!r} is not one of {names}", value=text)
        return self.labels.index(text)

    def number_or_none(self, label: Any) -> int | None:
        """The number of a class, None where the record has none."""
        return None if is_missing(label) else self.number_of(label)

    def exported_settings(self) -> dict[str, Any]:
        return {
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
        }


def example_of(
    encodings: Sequence[Encoding], label: Any, number: int, line: Line, **fields: Any
) -> Example:
    """The example with a row for each of `encodings`, of record `number`, which holds `line`;
    `fields` are further ones of `Example`."""
    rows = tuple(np.array(encoding.ids, dtype=np.int64) for encoding in encodings)
    segments = tuple(np.array(encoding.type_ids, dtype=np.int64) for encoding in encodings)
    return Example(rows, label, number, segments=segments, id=line.id, **fields)


def _label_text(label: Any) -> str:
    if isinstance(label, bool):
        word = "yes, on or true" if label else "no, off or false"
        raise ValueError(f"YAML reads {word} as {label}: put the label in quotation marks")
    return str(label)
