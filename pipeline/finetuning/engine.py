"""The model of a fine-tuning run under DeepSpeed, at its start or resumed from a checkpoint."""

import logging

from model.multi_task import MultiTaskModel, build_multi_task
from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.engine.deepspeed_engine import Engine, resume_engine
from pipeline.finetuning.head_weights import load_heads
from pipeline.finetuning.layer_decay import declare_layer_decay
from pipeline.finetuning.plan import FinetunePlan
from pipeline.finetuning.start_heads import find_heads
from pipeline.start.start import read_start
from pipeline.start.weights import load_start

logger = logging.getLogger(__name__)


def build_finetune_model(plan: FinetunePlan, grid: Grid, seed: int | None) -> MultiTaskModel:
    """The fp32 model of the run, its weights from `seed` as `build_masked_lm` describes.

    What no task trains is frozen.
    """
    config = plan.config
    heads = {
        name: task.head().model_copy(update={"class_weights": plan.class_weights[name]})
        if name in plan.class_weights
        else task.head()
        for name, task in config.tasks.items()
    }
    compute = config.model_compute
    model = build_multi_task(plan.model, heads, plan.start.vocab_size, grid, seed, compute)
    if plan.mlm is None:
        model.head.requires_grad_(False)
    if not any(task.reads_pooled for task in config.tasks.values()):
        model.pooler.requires_grad_(False)
    if config.layerwise_lr_decay is not None:
        declare_layer_decay(model, config.layerwise_lr_decay)
    return model


def build_finetune_engine(
    plan: FinetunePlan, grid: Grid, checkpoint: Checkpoint | None, accumulation: int
) -> Engine:
    """The model under DeepSpeed, with the pretrained weights or in the state of `checkpoint`.

    `accumulation` is the number of micro-batches of a rank in a step. Raises UserError if the
    checkpoint is of a different model or tokenizer.
    """
    seed = plan.config.seed if checkpoint is None else None
    model = build_finetune_model(plan, grid, seed)
    if checkpoint is not None:
        tokenizer_sha256 = plan.start.tokenizer_sha256
        return resume_engine(model, plan.config, accumulation, grid, checkpoint, tokenizer_sha256)
    start = plan.start
    if not start.has_weights:  # the run has checkpoints, but none of them verifies
        start = read_start(plan.config.start)
    missing = load_start(start, model, grid)
    if start.checkpoint is not None:
        load_heads(find_heads(plan.config, start), start.checkpoint, model, grid)
    if plan.mlm is not None and any(name.startswith("head.") for name in missing):
        logger.info(
            "the pretrained weights have no masked-language-model head: it starts at random"
        )
    return Engine(model, plan.config, accumulation, grid)
