"""The work of a prediction, in parts that are kept until the whole is written.

A part holds the predictions of some lines of the input, and their scores where the lines have
labels. It appears whole or not at all, in a folder beside the output; the folder's plan names what
the parts were computed from. So the same command resumes where it was stopped.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import open_atomic, write_atomic

FOLDER_SUFFIX = ".parts"
PLAN_NAME = "plan.json"

logger = logging.getLogger(__name__)

Prediction = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What was computed for some lines."""

    predictions: list[Prediction]
    kept_scores: list[NDArray[np.float64]]
    """What metrics need of each example with a label."""


class Parts:
    """The finished parts of the prediction that is written to `output`."""

    def __init__(self, output: Path, plan: Mapping[str, Any]) -> None:
        """`plan`: what the parts are computed from.

        Parts of a different plan are deleted, which is logged.
        """
        self._folder = output.with_name(output.name + FOLDER_SUFFIX)
        self._plan = fingerprint(dict(plan))
        path = self._folder / PLAN_NAME
        if self._folder.exists():
            if not path.is_file():
                raise UserError(
                    f"{self._folder}: is in the way: a folder of this name keeps unfinished "
                    "predictions, but it holds none; move it, or choose another --output"
                )
            if path.read_text() == self._plan:
                return
            logger.info(
                "%s: left over from other text, another model or other settings: starting again",
                self._folder,
            )
            shutil.rmtree(self._folder)
        write_atomic(path, self._plan)

    def read(self, number: int) -> Part | None:
        """Part `number`; None where it is not finished."""
        path = self._path(number)
        if not path.is_file():
            return None
        predictions = json.loads(path.read_bytes())
        arrays = self._scores_path(number)
        if not arrays.is_file():
            return Part(predictions, [])
        with np.load(arrays, allow_pickle=False) as found:
            scores = [found[str(index)] for index in range(len(found.files))]
        return Part(predictions, scores)

    def write(self, number: int, part: Part) -> None:
        """Keeps part `number`."""
        if part.kept_scores:
            with open_atomic(self._scores_path(number)) as file:
                named = {str(index): one for index, one in enumerate(part.kept_scores)}
                np.savez(file, **named)  # type: ignore[arg-type]  # numpy's stub of **named
        write_atomic(self._path(number), json.dumps(part.predictions))

    def remove(self) -> None:
        """Deletes all parts: the whole is written."""
        shutil.rmtree(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.json"

    def _scores_path(self, number: int) -> Path:
        return self._path(number).with_suffix(".npz")


def parts_of_lines(lines: Sequence[int], lines_per_part: int) -> list[slice]:
    """Slices of the examples with these line numbers, each of at most `lines_per_part` whole
    lines."""
    starts = [i for i in range(len(lines)) if i == 0 or lines[i] != lines[i - 1]]
    bounds = [*starts[::lines_per_part], len(lines)]
    return [slice(first, last) for first, last in pairwise(bounds)]
