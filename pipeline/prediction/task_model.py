"""A fine-tuned model that scores rows: an exported folder by transformers, or a run's checkpoint.

B rows, S tokens in a row.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids
from model.hugging_face.family import auto_class
from model.multi_task import build_multi_task
from model.parallel.grid import single_rank_grid
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.engine.evaluation import PlainModel
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import stored_run
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.task_file import (
    MAX_ROW_TOKENS,
    NOT_EXPORTED,
    changed_task,
    read_task,
)
from pipeline.hugging_face.folder import CONFIG_NAME, load_auto_model
from pipeline.run.trained_model import read_trained

Precision = Literal["fp32", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TaskModel:
    """A model of one task, ready to score rows."""

    name: str
    task: TaskConfig
    tokenizer: Path
    special: SpecialTokens
    pad_token_id: int
    max_row_tokens: int
    num_segments: int
    """Segment ids that the model knows; 0 or 1: it is given none."""
    fingerprint: str
    """Hash of its weights, tokenizer and task."""
    scores: Callable[[Tensor, Tensor | None], Tensor]
    """The scores of rows [B, S], with segment ids [B, S] or None, in the shape of the task's head;
    fp32 on the CPU."""


@contextmanager
def open_exported(
    folder: Path, input_files: str, changes: Mapping[str, Any], precision: Precision
) -> Iterator[TaskModel]:
    """The task model in an exported folder, by transformers.

    `changes` are keys of the task. Raises UserError for a folder that is none of a task, or that
    has no tokenizer.json.
    """
    name, task, max_row_tokens = read_task(folder, input_files, changes)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise UserError(
            f"{folder}: no tokenizer.json: AutoTokenizer.from_pretrained(FOLDER).save_pretrained("
            "FOLDER) writes it"
        )
    loaded = load_tokenizer(tokenizer)
    special = find_special_tokens(loaded, tokenizer, vocab_size=num_ids(loaded))
    device = _device()
    model = load_auto_model(folder, auto_class(task.head().type)).to(device, DTYPES[precision])
    pad = model.config.pad_token_id
    pad = special.pad if pad is None else pad
    num_segments = getattr(model.config, "type_vocab_size", None) or 0

    def scores(tokens: Tensor, segments: Tensor | None) -> Tensor:
        inputs = {"input_ids": tokens, "attention_mask": (tokens != pad).long()}
        if num_segments > 1:
            inputs["token_type_ids"] = torch.zeros_like(tokens) if segments is None else segments
        placed = {key: value.to(device) for key, value in inputs.items()}
        with torch.inference_mode():
            return task.exported_scores(model, placed).float().cpu()

    weights = [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    yield TaskModel(
        name,
        task,
        tokenizer,
        special,
        pad,
        max_row_tokens,
        num_segments,
        fingerprint([weights, file_sha256(tokenizer), _settings(task), max_row_tokens]),
        scores,
    )


@contextmanager
def open_checkpoint(
    checkpoint: Checkpoint,
    name: str | None,
    input_files: str,
    changes: Mapping[str, Any],
    precision: Precision,
) -> Iterator[TaskModel]:
    """The model of the task `name` in a checkpoint of fine-tuning, as it was trained.

    Raises UserError for a checkpoint of pretraining, and, where it has several tasks, without
    `name`.
    """
    config = stored_run(checkpoint)
    if not isinstance(config, FinetuneConfig):
        raise UserError(
            f"{checkpoint.path}: the checkpoint of a pretraining run, which has no task: fine-tune "
            "it first (docs/finetune.md)"
        )
    trained = read_trained(config, checkpoint, lambda: _no_tokenizer(checkpoint))
    name = _chosen_task(config, name, checkpoint)
    stored = config.tasks[name].model_dump(mode="json", exclude=NOT_EXPORTED)
    task = changed_task(stored, input_files, changes, str(checkpoint.path))
    longest = changes.get(MAX_ROW_TOKENS, config.max_row_tokens or trained.model.max_row_tokens)
    with single_rank_grid() as grid:
        heads = {other: found.head() for other, found in config.tasks.items()}
        module = build_multi_task(trained.model, heads, trained.vocab_size, grid, None)
        PlainModel.of(module, grid, checkpoint)
        model = module.to(DTYPES[precision]).eval()

        def scores(tokens: Tensor, segments: Tensor | None) -> Tensor:
            placed = None if segments is None else segments.to(grid.device)
            with torch.inference_mode():
                found = model.scores(tokens.to(grid.device), [name], placed)[name]
            return found.float().cpu()

        yield TaskModel(
            name,
            task,
            trained.tokenizer,
            trained.special,
            trained.model.pad_token_id,
            longest,
            trained.model.type_vocab_size,
            fingerprint([checkpoint.manifest.sha256, _settings(task), longest]),
            scores,
        )


def exported_tasks(folder: Path) -> list[str]:
    """The names of the exported tasks in the folder of an export (``RUN/hf``)."""
    return sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_NAME}"))


def _chosen_task(config: FinetuneConfig, name: str | None, checkpoint: Checkpoint) -> str:
    names = list(config.tasks)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        given = "it has several tasks" if name is None else f"it has no task {name!r}"
        raise UserError(f"{checkpoint.path}: {given}: give --task with one of {', '.join(names)}")
    return name


def _settings(task: TaskConfig) -> dict[str, Any]:
    return task.model_dump(mode="json", exclude=NOT_EXPORTED)


def _no_tokenizer(checkpoint: Checkpoint) -> Path:
    raise UserError(
        f"{checkpoint.path}: of version 0.1.0, which carries no tokenizer: export the run and "
        "predict with its folder"
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
