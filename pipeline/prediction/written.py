"""Predictions as a file: JSON lines, or a table in CSV or TSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic
from pipeline.prediction.parts import Prediction

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", ".json", *DELIMITERS)


def check_suffix(path: Path) -> None:
    """Raises UserError for a file name that no format belongs to."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"--output {path}: the end of the name says the format: {', '.join(SUFFIXES)}"
        )


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes `path`, whole or not at all; its name says the format.

    In a table the scores of labels are columns of their own, ``scores.LABEL``, and lists are JSON.
    """
    with open_atomic(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        if path.suffix in DELIMITERS:
            _write_table(text, predictions, DELIMITERS[path.suffix])
        else:
            for one in predictions:
                text.write(json.dumps(one, ensure_ascii=False) + "\n")
        text.detach()  # flushed; closing it would close the file


def _write_table(text: io.TextIOWrapper, predictions: Sequence[Prediction], delimiter: str) -> None:
    rows = [_flat(one) for one in predictions]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _flat(prediction: Prediction) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in prediction.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": one for key, one in value.items()}
        else:
            is_list = isinstance(value, list)
            flat[name] = json.dumps(value, ensure_ascii=False) if is_list else value
    return flat
