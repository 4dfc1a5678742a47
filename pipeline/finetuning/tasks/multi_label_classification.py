"""Multi-label classification: any number of labels per text, each decided by itself.

B rows, L labels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, RowEncoder
from pipeline.finetuning.inputs.record import BadRecord
from pipeline.finetuning.tasks.classification import TextLine
from pipeline.finetuning.tasks.task import LabelledTask, Scores, Targets, example_of
from pipeline.tracking.label_tables import LabelTable

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig

_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "False": 0.0, "True": 1.0}


class TextWithLabels(TextLine):
    """A text with any number of classes."""

    labels: tuple[bool | int | float | str | None, ...] | str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _from_array(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class MultiLabelClassification(LabelledTask):
    """Any number of classes for each text or pair of texts."""

    type: Literal["multi_label_classification"] = "multi_label_classification"
    LINE = TextWithLabels
    LABEL_FIELDS = ("labels",)
    MAIN_METRICS = ("micro_f1", "macro_f1", "accuracy")

    labels_as: Literal["names", "flags"] = "names"
    """Whether a record lists the names of its labels, or holds 0 or 1 for each of `labels`, as it
    does where `fields` names several columns for its labels."""

    label_separator: str | None = Field(None, min_length=1)
    """What stands between the names of labels in one text, in tables (default: nothing: such a text
    is an error)."""

    threshold: float = Field(0.5, gt=0, lt=1)
    """The probability from which on a label is predicted."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        source = self.fields.get("labels")
        if isinstance(source, tuple) and len(source) != len(self.labels):
            raise ValueError(
                f"fields.labels names {len(source)} columns for {len(self.labels)} labels; each "
                "column holds 0 or 1 of the label in its place"
            )
        if self.has_flags and (self.label_names or self.label_separator):
            raise ValueError("label_names and label_separator are for names of labels, not flags")
        return self

    @property
    def has_flags(self) -> bool:
        """Whether a record holds 0 or 1 for each label."""
        return self.labels_as == "flags" or isinstance(self.fields.get("labels"), tuple)

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceClassification

        return SequenceClassification(num_labels=len(self.labels), is_multi_label=True)

    def examples_of(self, line: TextWithLabels, number: int, encoder: RowEncoder) -> list[Example]:
        label = None if line.labels is None else self._flags(line.labels)
        return [example_of([encoder.row(line.text, line.second_text)], label, number, line)]

    def _flags(self, labels: Any) -> NDArray[np.float32]:
        """[L] 1 for each label that the text has, 0 for others."""
        if isinstance(labels, str):
            labels = self._split(labels)
        if self.has_flags:
            if len(labels) != len(self.labels):
                message = f"labels: {len(labels)} values for {len(self.labels)} labels"
                raise BadRecord("value", message)
            for value in labels:
                if str(value) not in _FLAGS:
                    raise BadRecord("value", f"labels: 0 or 1 is expected, got {value!r}")
            return np.array([_FLAGS[str(value)] for value in labels], dtype=np.float32)
        flags = np.zeros(len(self.labels), dtype=np.float32)
        flags[[self.number_of(name) for name in labels]] = 1
        return flags

    def _split(self, labels: str) -> list[str]:
        if self.label_separator is None:
            raise BadRecord(
                "value",
                f"labels: a list is expected, got {labels!r}: set label_separator if names are "
                "separated by it",
            )
        parts = [part.strip() for part in labels.split(self.label_separator)]
        return [part for part in parts if part]

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        return np.stack([example.label for example in examples])  # [B, L]

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, len(self.labels)), np.nan, dtype=np.float32)

    def num_used(self, targets: Targets) -> int:
        return int((~np.isnan(targets)).sum())

    def predicted(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[L] whether each label is predicted, from its scores."""
        return np.asarray(scores >= np.log(self.threshold / (1 - self.threshold)))

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        labels = np.stack([example.label for example in examples]).astype(np.int64)
        predicted = np.stack([self.predicted(values) for values in kept]).astype(np.int64)
        return {
            "micro_f1": score.micro_f1(predicted, labels),
            "macro_f1": score.macro_f1(predicted, labels),
            "accuracy": score.accuracy(predicted, labels),
        }

    def label_table(self, examples: Sequence[Example], kept: Scores) -> LabelTable:
        true = np.stack([example.label for example in examples]) > 0
        return LabelTable.of_sets(
            self.labels, true, np.stack([self.predicted(values) for values in kept])
        )

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        found = self.predicted(scores)
        shares = 1 / (1 + np.exp(-scores))
        return {
            "labels": [name for name, is_found in zip(self.labels, found, strict=True) if is_found],
            "scores": dict(zip(self.labels, shares.tolist(), strict=True)),
        }

    def exported_settings(self) -> dict[str, Any]:
        return {**super().exported_settings(), "problem_type": "multi_label_classification"}
