"""Exports the tasks of a fine-tuned run: one Hugging Face folder each, which AutoModel... loads."""

from pathlib import Path

import torch
from torch import Tensor

from model.hugging_face.families import family_of_model
from model.hugging_face.family import auto_class
from model.parallel.grid import single_rank_grid
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, load_weights
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.engine import build_finetune_model
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.hugging_face.folder import ExportSource, load_auto_model, read_parity
from pipeline.hugging_face.publish import publish, read_state

NUM_COMPARED = 16
"""Examples whose scores are compared."""


def export_tasks(config: FinetuneConfig, checkpoint: Checkpoint, folder: Path) -> dict[str, float]:
    """Writes `folder`/TASK for every task whose export is not of `checkpoint` already.

    Returns the largest difference of a score to the trained model, by exported task. Raises
    ConfigError for a model that Hugging Face has no architecture for, and UserError, leaving older
    exports as they were, if a difference is more than rounding.
    """
    source = ExportSource.of(checkpoint)
    parities = {name: read_parity(folder / name) for name in config.tasks}
    wanted = [name for name, found in parities.items() if found is None or found.source != source]
    if not wanted:
        return {}
    plan = plan_finetuning(_on_one_rank(config), 1, is_first=True)
    state = read_state(checkpoint)
    return {name: _export_task(plan, checkpoint, state, name, folder / name) for name in wanted}


def _export_task(
    plan: FinetunePlan, checkpoint: Checkpoint, state: dict[str, Tensor], name: str, folder: Path
) -> float:
    task = plan.config.tasks[name]
    head = task.head().type
    family = family_of_model(plan.model)
    return publish(
        folder,
        tensors=family.task_to_hf(state, plan.model, name, head),
        config={
            **family.hf_config(plan.model, plan.start.vocab_size),
            "dtype": "float32",
            "architectures": [family.task_class(head)],
            **task.exported_settings(),
        },
        tokenizer=plan.start.tokenizer,
        max_row_tokens=plan.model.max_row_tokens,
        source=ExportSource.of(checkpoint),
        quantity="score",
        compare=lambda unfinished: _largest_difference(plan, checkpoint, name, unfinished),
    )


def _on_one_rank(config: FinetuneConfig) -> FinetuneConfig:
    parallel = config.parallel.model_copy(update={"tensor": 1})
    return config.model_copy(update={"parallel": parallel})


def _largest_difference(
    plan: FinetunePlan, checkpoint: Checkpoint, name: str, folder: Path
) -> float:
    task = plan.config.tasks[name]
    files = plan.dev.get(name, plan.train[name])
    batch = FinetuneBatches(plan, 0).task_batch(name, files.examples[:NUM_COMPARED], key=0)
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_finetune_model(plan, grid).eval()
        load_weights(ours, TensorReader(checkpoint), grid)
        theirs = load_auto_model(folder, auto_class(task.head().type)).to(grid.device)
        tokens = batch.tokens.to(grid.device)
        is_text = (tokens != plan.model.pad_token_id).long()
        scores = ours.scores(tokens, [name])[name]
        expected = task.exported_scores(theirs, tokens, is_text)
        if scores.dim() == 3:  # the scores of padding tokens are never read
            scores, expected = scores[is_text.bool()], expected[is_text.bool()]
        return float((scores - expected).abs().max())
