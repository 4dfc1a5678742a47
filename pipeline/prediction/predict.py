"""Predictions for all lines of a file, in its order, with metrics where the lines have labels."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.load import UserError
from pipeline.finetuning.examples import Example, ExampleFile, RowEncoder
from pipeline.finetuning.padding import padded, padded_width, segments_of
from pipeline.prediction.parts import Part, Parts, Prediction, parts_of_lines
from pipeline.prediction.task_model import Precision, TaskModel

LINES_PER_PART = 2048
LOG_EVERY_S = 10.0
"""Seconds between two lines about the progress."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """What was predicted for a file."""

    predictions: list[Prediction]
    """One for each line, in the order of the file."""
    metrics: dict[str, float]
    """Of the lines with labels; empty where there are none."""
    num_labelled: int
    file: ExampleFile


def read_input(model: TaskModel) -> ExampleFile:
    """The examples of the files of its task, which may have no labels.

    Raises UserError that names every bad record.
    """
    encoder = RowEncoder(model.tokenizer, model.special, model.max_row_tokens)
    try:
        return model.task.read(model.task.train, encoder, needs_labels=False)
    except UserError as error:
        form = model.task.format.type
        if form in ("auto", "lines") or not model.task.train[0].endswith(".txt"):
            raise
        raise UserError(
            f"{error}\nread as {form}, as in training: for plain text, a text a line, add "
            "format='{type: lines}'"
        ) from None


def predict(
    model: TaskModel, file: ExampleFile, output: Path, batch_tokens: int, precision: Precision
) -> tuple[Predicted, Parts]:
    """What `model` predicts for the examples of `file`, and the parts that it was computed in.

    `batch_tokens` are those of one forward pass, padding included. Parts that an interrupted
    prediction for `output` left are not computed again.
    """
    plan = {"model": model.fingerprint, "file": file.sha256, "precision": precision}
    parts = Parts(output, {**plan, "lines": LINES_PER_PART})
    predictions: list[Prediction] = []
    kept: list[NDArray[np.float64]] = []
    slices = parts_of_lines([example.line for example in file.examples], LINES_PER_PART)
    started = logged = time.monotonic()
    num_kept = 0
    for number, which in enumerate(slices):
        part = parts.read(number)
        if part is None:
            part = _part_of(model, file.examples[which], batch_tokens)
            parts.write(number, part)
        else:
            num_kept += len(part.predictions)
        predictions += part.predictions
        kept += part.kept_scores
        now = time.monotonic()
        if now - logged > LOG_EVERY_S:
            logged = now
            rate = (len(predictions) - num_kept) / (now - started)
            logger.info("%s lines, %.1f lines/s", f"{len(predictions):,}", rate)
    if num_kept:
        logger.info("%s lines were predicted before", f"{num_kept:,}")
    labelled = [example for example in file.examples if example.label is not None]
    assert len(labelled) == len(kept)
    metrics = model.task.metrics_of_kept(labelled, kept) if labelled else {}
    num_labelled = len({example.line for example in labelled})
    return Predicted(predictions, metrics, num_labelled, file), parts


def _part_of(model: TaskModel, examples: Sequence[Example], batch_tokens: int) -> Part:
    scores = scores_of(model, examples, batch_tokens)
    predictions = [
        {"line": example.line, **({} if example.id is None else {"id": example.id}), **found}
        for example, found in model.task.predictions(examples, scores)
    ]
    kept = [
        model.task.kept_scores(example, one)
        for example, one in zip(examples, scores, strict=True)
        if example.label is not None
    ]
    return Part(predictions, kept)


def scores_of(
    model: TaskModel, examples: Sequence[Example], batch_tokens: int
) -> list[NDArray[np.float64]]:
    """The scores of every example, in their order, as `TaskConfig.predictions` takes them.

    A batch holds examples of about equal length, so that little of it is padding.
    """
    rows = model.task.rows_per_example
    found: list[NDArray[np.float64] | None] = [None] * len(examples)
    for numbers in _batches(examples, model.max_row_tokens, rows, batch_tokens):
        chosen = [examples[number] for number in numbers]
        width = padded_width(chosen, model.max_row_tokens)
        tokens = padded([row for e in chosen for row in e.rows], width, model.pad_token_id)
        segments = segments_of(chosen, width, model.num_segments)
        by_row = model.scores(tokens, segments).double().numpy()
        for place, number in enumerate(numbers):
            one = by_row[place * rows : (place + 1) * rows]
            # A copy, without padding: the batch is freed.
            found[number] = np.array(one if rows > 1 else one[0][: _length(examples[number], one)])
    return [one for one in found if one is not None]


def _length(example: Example, scores: NDArray[np.float64]) -> int:
    """The tokens that scores [1, S, L] are kept of; all of scores [1, L]."""
    return len(example.rows[0]) if scores.ndim == 3 else scores.shape[1]


def _batches(
    examples: Sequence[Example], longest: int, rows: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Numbers of examples, the longest first: what does not fit into memory fails at once."""
    lengths = np.array([max(len(row) for row in example.rows) for example in examples])
    order = np.argsort(-lengths, kind="stable").tolist()
    first = 0
    while first < len(order):
        width = padded_width([examples[order[first]]], longest)
        count = max(1, batch_tokens // (width * rows))
        yield order[first : first + count]
        first += count
