"""The folder of an evaluation: JSON, a page, and the single items of the probes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from configs.load import UserError
from configs.writable import check_folder as check_writable
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import read_json
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.page import render
from pipeline.evaluation.results import Evaluation

JSON_NAME, REPORT_NAME = "evaluation.json", "report.html"
DEFAULT_FOLDER = Path("evaluations")
MAX_NAME = 80
"""Characters of the models' names in the name of a folder."""


def results_folder(config: EvaluationConfig, names: Sequence[str], fingerprint: str) -> Path:
    """The folder to write: the configured one, or one of the models' names and the hash."""
    if config.results is not None:
        return config.results
    return DEFAULT_FOLDER / f"{_file_name('-'.join(names))[:MAX_NAME]}-{fingerprint[:8]}"


def check_folder(folder: Path, fingerprint: str) -> None:
    """Raises UserError if `folder` cannot be written or holds anything but the same evaluation."""
    check_writable(folder, "results")
    if not folder.exists():
        return
    try:
        found = read_json(folder / JSON_NAME)["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        if any(folder.iterdir()):
            raise UserError(
                f"results {folder}: holds something else; choose a new folder"
            ) from None
        return
    if found != fingerprint:
        raise UserError(
            f"results {folder}: holds an evaluation of other models, checks or texts; choose a new "
            "folder"
        )


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """Writes all files; the JSON last."""
    for model in evaluation.models:
        for check, result in model.checks.items():
            if result.items:
                lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in result.items)
                name = f"{_file_name(check)}-{_file_name(model.name)}.jsonl"
                write_atomic(folder / name, "".join(lines))
    write_atomic(folder / REPORT_NAME, render(evaluation))
    tree = evaluation.to_tree()
    write_atomic(folder / JSON_NAME, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.@+-]+", "_", text)
