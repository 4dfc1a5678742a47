"""Exports the tasks of a fine-tuned run: one Hugging Face folder each, which AutoModel... loads."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import ConfigError
from model.heads import MultiTaskModel, build_multi_task
from model.hugging_face.families import family_of_model, task_errors
from model.hugging_face.family import auto_class
from model.parallel.grid import single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.hugging_face.compared_rows import compared_rows
from pipeline.hugging_face.comparison import largest_difference
from pipeline.hugging_face.folder import (
    ExportedTokenizer,
    ExportSource,
    is_exported,
    load_auto_model,
)
from pipeline.hugging_face.publish import publish, read_state
from pipeline.run.trained_model import TrainedModel, read_trained
from pipeline.start.start import read_start

NUM_COMPARED = 4
"""Examples whose scores are compared."""


def export_tasks(config: FinetuneConfig, checkpoint: Checkpoint, folder: Path) -> dict[str, float]:
    """Writes `folder`/TASK for every task whose export is not of `checkpoint` already.

    Returns the largest difference of a score to the trained model, by exported task. Raises
    UserError for a config that disagrees with the checkpoint, and, leaving older exports as they
    were, if a difference is more than rounding; ConfigError, after the others are exported, that
    names every task without a class in transformers.
    """
    trained = read_trained(config, checkpoint, lambda: _tokenizer_of_start(config))
    tasks = trained.config.tasks
    errors = task_errors(trained.model, {name: task.head().type for name, task in tasks.items()})
    refused = {name for names in errors.values() for name in names}
    wanted = [n for n in tasks if n not in refused and not is_exported(folder / n, checkpoint)]
    state = read_state(checkpoint) if wanted else {}
    exported = {name: _export_task(trained, state, name, folder / name) for name in wanted}
    if errors:
        lines = [f"{', '.join(names)}: cannot be exported: {e}" for e, names in errors.items()]
        raise ConfigError("\n".join(lines))
    return exported


def _tokenizer_of_start(config: FinetuneConfig) -> Path:
    """The tokenizer that the config names, which older checkpoints do not carry."""
    return read_start(config.start, check_hashes=False).tokenizer


def _export_task(
    trained: TrainedModel[FinetuneConfig], state: dict[str, Tensor], name: str, folder: Path
) -> float:
    task = trained.config.tasks[name]
    head = task.head().type
    family = family_of_model(trained.model)
    return publish(
        folder,
        tensors=family.task_to_hf(state, trained.model, name, head),
        config={
            **family.hf_config(trained.model, trained.vocab_size),
            "dtype": "float32",
            "architectures": [family.task_class(head)],
            **task.exported_settings(),
        },
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, trained.model),
        source=ExportSource.of(trained.checkpoint),
        quantity="score",
        compare=partial(_largest_difference, trained, name),
    )


def _largest_difference(trained: TrainedModel[FinetuneConfig], name: str, folder: Path) -> float:
    checkpoint, config, model = trained.checkpoint, trained.config, trained.model
    task = config.tasks[name]
    head = task.head().type
    heads = {name: task.head() for name, task in config.tasks.items()}
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_multi_task(model, heads, trained.vocab_size, grid, config.seed).eval()
        check_checkpoint(
            checkpoint.manifest, parameter_specs(ours), checkpoint.manifest.tokenizer_sha256
        )
        load_weights(ours, TensorReader(checkpoint), grid)
        theirs = load_auto_model(folder, auto_class(head)).to(grid.device)
        return largest_difference(
            ours,
            theirs,
            outputs=lambda: [_scores(ours, theirs, name, task)],
            to_hf=lambda state: family_of_model(model).task_to_hf(state, model, name, head),
            quantity="score",
        )


def _scores(
    ours: MultiTaskModel, theirs: Any, name: str, task: TaskConfig
) -> tuple[Tensor, Tensor]:
    """The scores of both models on the same rows, without those of padding."""
    rows = compared_rows(ours.config, ours.vocab_size, NUM_COMPARED * task.rows_per_example)
    tokens = torch.from_numpy(rows).to(next(ours.parameters()).device)
    is_text = (tokens != ours.config.pad_token_id).long()
    scores = ours.scores(tokens, [name])[name]
    expected = task.exported_scores(theirs, tokens, is_text)
    if scores.dim() == 3:
        return scores[is_text.bool()], expected[is_text.bool()]
    return scores, expected
