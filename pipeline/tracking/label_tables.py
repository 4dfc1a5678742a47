"""What an evaluation found for each label of a task, as the record of a run keeps it.

An event of the kind ``tables`` holds `step` and, by task, the labels with their counts. All shares
are computed from these.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.tracking.event_log import LOG_NAME, read_events

TABLES_KIND = "tables"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelTable:
    """Counts of items (texts, words) by label."""

    labels: tuple[str, ...]
    num_labelled: NDArray[np.int64]
    """[L] items that have the label."""
    num_predicted: NDArray[np.int64]
    """[L] items that it was predicted for."""
    num_right: NDArray[np.int64]
    """[L] items that have it and that it was predicted for."""
    confusion: NDArray[np.int64] | None = None
    """[L, L] items by their label (row) and the predicted one (column); None where an item may have
    several labels."""

    @classmethod
    def of_classes(cls, labels: Sequence[str], true: ArrayLike, predicted: ArrayLike) -> Self:
        """The table of items with one label each, given as numbers."""
        size = len(labels)
        pairs = np.asarray(true, dtype=np.int64) * size + np.asarray(predicted, dtype=np.int64)
        confusion = np.bincount(pairs, minlength=size * size).reshape(size, size)
        return cls(
            tuple(labels),
            confusion.sum(axis=1),
            confusion.sum(axis=0),
            confusion.diagonal().copy(),
            confusion,
        )

    @classmethod
    def of_sets(
        cls, labels: Sequence[str], true: NDArray[np.bool_], predicted: NDArray[np.bool_]
    ) -> Self:
        """The table of items with any number of labels: [N, L] whether an item has each."""
        counts = (found.sum(axis=0) for found in (true, predicted, true & predicted))
        return cls(tuple(labels), *counts)

    @property
    def precision(self) -> NDArray[np.float64]:
        """[L] share of the predictions that are right; NaN for a label that is never predicted."""
        return _shares(self.num_right, self.num_predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """[L] share of the labelled items that were found; NaN for a label that none has."""
        return _shares(self.num_right, self.num_labelled)

    @property
    def f1(self) -> NDArray[np.float64]:
        """[L] harmonic mean of both; NaN for a label that is neither labelled nor predicted."""
        return _shares(2 * self.num_right, self.num_labelled + self.num_predicted)

    def to_json(self) -> dict[str, Any]:
        """As an event holds it; of the confusion only cells that are not 0."""
        counts = np.stack([self.num_labelled, self.num_predicted, self.num_right], axis=1)
        tree: dict[str, Any] = {"labels": list(self.labels), "counts": counts.tolist()}
        if self.confusion is not None:
            rows, columns = np.nonzero(self.confusion)
            cells = np.stack([rows, columns, self.confusion[rows, columns]], axis=1)
            tree["confusion"] = cells.tolist()
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The table in an event.

        Raises ValueError, KeyError, TypeError or IndexError for another shape.
        """
        labels = tuple(str(label) for label in tree["labels"])
        counts = np.array(tree["counts"], dtype=np.int64).reshape(len(labels), 3)
        confusion = None
        if "confusion" in tree:
            confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
            for row, column, count in tree["confusion"]:
                confusion[row, column] = count
        return cls(labels, counts[:, 0], counts[:, 1], counts[:, 2], confusion)


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def read_label_tables(
    output: Path, last_step: int | None = None
) -> dict[str, tuple[int, LabelTable]]:
    """(step, table) of the newest evaluation of each task, by task, in the run's folder `output`.

    `last_step`: of the evaluations up to this step. Those of steps that were trained again after a
    rollback do not count.
    """
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] == "start":
            kept = event.get("resumed_from", 0)
            for steps in found.values():
                for step in [step for step in steps if step > kept]:
                    del steps[step]
        elif event["kind"] == TABLES_KIND and isinstance(event.get("step"), int):
            if last_step is not None and event["step"] > last_step:
                continue
            for task, tree in event.get("tables", {}).items():
                found.setdefault(task, {})[event["step"]] = tree
    newest = {}
    for task, steps in found.items():
        if steps:
            step = max(steps)
            try:
                newest[task] = (step, LabelTable.from_json(steps[step]))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                logger.warning("%s: the table of %s cannot be read: %r", output, task, error)
    return newest
