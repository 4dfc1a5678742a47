"""The factors on the losses of the classes of a task, given or computed from its training file."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.load import UserError
from pipeline.finetuning.examples import Example, ExampleFile
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.weighted import WeightedTask

Int64 = NDArray[np.int64]


def class_weights(task: TaskConfig, file: ExampleFile) -> tuple[float, ...] | None:
    """The factor of each class, in the order of the labels; None: 1 for all.

    ``balanced`` is n / (L n_c) with n labelled items, L classes and n_c items of class c, as in
    scikit-learn's `compute_class_weight` (King and Zeng 2001). Raises UserError for a class that
    has no item.
    """
    if not isinstance(task, WeightedTask) or task.class_weights is None:
        return None
    if isinstance(task.class_weights, dict):
        return tuple(task.class_weights[label] for label in task.labels)
    counts = count_labels(file.examples, len(task.labels))
    absent = [label for label, count in zip(task.labels, counts, strict=True) if not count]
    if absent:
        raise UserError(
            f"{file.path}: class_weights balanced: no example of {', '.join(absent)}: remove it "
            "from labels, or give the weights"
        )
    return tuple(float(w) for w in counts.sum() / (len(counts) * counts))


def count_labels(examples: Sequence[Example], num_labels: int) -> Int64:
    """[L] how many rows, or words, have each label."""
    labels = np.concatenate([np.atleast_1d(example.label) for example in examples])
    return np.bincount(labels[labels >= 0].astype(np.int64), minlength=num_labels)
