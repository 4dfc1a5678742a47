"""Hugging Face folders of a fine-tuned run: ``python -m pipeline.finetuning.export CONFIG.yaml``.

One folder for each task, ``hf/TASK``, that AutoModelForSequenceClassification and its like load. A
folder appears under its name only after its scores were compared with those of our own model.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs import command
from configs.load import UserError, load
from data_prep.dataset.atomic import fsync_folder, write_atomic
from model.config import ModelConfig
from model.hugging_face.families import family_of_model
from model.hugging_face.family import auto_class
from model.parallel.grid import single_rank_grid
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.checkpoint.reader import TensorReader, load_weights
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.engine import build_finetune_model
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.finetuning.tasks.union import FinetuneTask
from pipeline.hugging_face.folder import (
    PARITY_NAME,
    PARITY_TOLERANCE,
    checkpoint_source,
    load_auto_model,
    write_tokenizer,
)
from pipeline.run.run_folder import checkpoints_folder

NUM_COMPARED = 16
"""Examples whose scores are compared."""


def main() -> None:
    """``python -m pipeline.finetuning.export CONFIG.yaml key.sub=value ...``."""
    parser = command.parser("Export a fine-tuned run's newest checkpoint to Hugging Face.")
    arguments = parser.parse_args()
    config = load(arguments.config, FinetuneConfig, arguments.overrides)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    for problem in problems:
        print(f"warning: {problem}; passed over", flush=True)
    if checkpoint is None:
        raise UserError(f"{checkpoints_folder(config)}: no whole checkpoint; fine-tune first")
    for name, difference in export_tasks(config, checkpoint, config.output / "hf").items():
        print(
            f"{config.output / 'hf' / name}: step {checkpoint.manifest.step}, largest difference "
            f"of scores to the trained model {difference:.1e} (fp32)"
        )


def export_tasks(config: FinetuneConfig, checkpoint: Checkpoint, folder: Path) -> dict[str, float]:
    """Writes `folder`/TASK for every task; by task, the largest difference of a score.

    Raises ConfigError for a model that Hugging Face has no architecture for, and UserError, leaving
    older exports as they were, if a difference is more than rounding.
    """
    plan = plan_finetuning(_on_one_rank(config), 1, is_first=True)
    reader = TensorReader(checkpoint)
    state = {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}
    differences = {}
    for name, task in config.tasks.items():
        unfinished = folder / f".{name}-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        tensors = task_tensors(state, plan.model, name, task)
        save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
        tree = task_config(plan.model, plan.start.vocab_size, task)
        (unfinished / "config.json").write_text(json.dumps(tree, indent=2) + "\n")
        write_tokenizer(plan.start.tokenizer, plan.model.max_row_tokens, unfinished)
        difference = _largest_difference(plan, checkpoint, name, unfinished)
        if not difference <= PARITY_TOLERANCE:
            raise UserError(
                f"{unfinished}: not exported: its scores differ by {difference:.1e} from the "
                f"trained model's, more than {PARITY_TOLERANCE:.0e}"
            )
        record = {**checkpoint_source(checkpoint), "largest_score_difference": difference}
        write_atomic(unfinished / PARITY_NAME, json.dumps(record, indent=1) + "\n")
        shutil.rmtree(folder / name, ignore_errors=True)
        unfinished.rename(folder / name)
        fsync_folder(folder)
        differences[name] = difference
    return differences


def task_config(config: ModelConfig, vocab_size: int, task: FinetuneTask) -> dict[str, Any]:
    """config.json of the ...ForSequenceClassification (and so on) model of a task."""
    family = family_of_model(config)
    tree = {**family.hf_config(config, vocab_size), "dtype": "float32"}
    tree["architectures"] = [family.task_class(task.head().type)]
    if task.type in ("classification", "token_classification"):
        tree["id2label"] = {str(number): label for number, label in enumerate(task.labels)}
        tree["label2id"] = {label: number for number, label in enumerate(task.labels)}
    if task.type == "classification":
        tree["problem_type"] = "single_label_classification"
    if task.type == "regression":
        tree.update(problem_type="regression", num_labels=1)
    return tree


def task_tensors(
    state: Mapping[str, Tensor], config: ModelConfig, name: str, task: FinetuneTask
) -> dict[str, Tensor]:
    """Hugging Face's tensors of the encoder with the head of one task.

    Raises ConfigError where Hugging Face's head computes something else.
    """
    tensors = family_of_model(config).task_to_hf(state, config, name, task.head().type)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


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
        mine = ours.scores(tokens, [name])[name]
        is_text = (tokens != plan.model.pad_token_id).long()
        if task.type == "multiple_choice":
            shape = (-1, task.rows_per_example, tokens.shape[1])
            output = theirs(input_ids=tokens.view(shape), attention_mask=is_text.view(shape))
            expected = output.logits.reshape(mine.shape)
        else:
            output = theirs(input_ids=tokens, attention_mask=is_text)
            expected = (
                torch.stack([output.start_logits, output.end_logits], dim=-1)
                if task.type == "span_question_answering"
                else output.logits
            )
        if mine.dim() == 3:  # padding is nobody's concern
            is_kept = is_text.bool()
            mine, expected = mine[is_kept], expected[is_kept]
        return float((mine - expected).abs().max())


if __name__ == "__main__":
    command.run(main)
