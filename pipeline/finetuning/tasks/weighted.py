"""Tasks with one class for each item, whose losses may be weighted by class."""

from typing import Any, Literal, Self

from pydantic import PositiveFloat, field_validator, model_validator

from pipeline.finetuning.tasks.task import LabelledTask


class WeightedTask(LabelledTask):
    """A task with named classes, of which each item has one."""

    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Factor on the loss of each class, by label. balanced: examples / (classes x examples of the
    class), so that all classes weigh the same (default: 1 for all)."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _named_by_text(cls, weights: Any) -> Any:
        is_mapping = isinstance(weights, dict)
        return {str(label): w for label, w in weights.items()} if is_mapping else weights

    @model_validator(mode="after")
    def _weights_fit_the_labels(self) -> Self:
        if isinstance(self.class_weights, dict):
            missing = [label for label in self.labels if label not in self.class_weights]
            unknown = [label for label in self.class_weights if label not in self.labels]
            if missing or unknown:
                raise ValueError(
                    "class_weights: give one for each label"
                    + (f"; missing {', '.join(missing)}" if missing else "")
                    + (f"; unknown {', '.join(unknown)}" if unknown else "")
                )
        return self
