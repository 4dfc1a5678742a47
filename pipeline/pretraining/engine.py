"""The model of a pretraining run under DeepSpeed, at its start or resumed from a checkpoint."""

import logging

from model.heads import build_masked_lm
from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.loader import read_vocabulary
from pipeline.engine.deepspeed_engine import Engine, resume_engine
from pipeline.run.plan import RunPlan

logger = logging.getLogger(__name__)


def build_engine(plan: RunPlan, grid: Grid, checkpoint: Checkpoint | None) -> Engine:
    """The model of the run under DeepSpeed, with new weights or in the state of `checkpoint`.

    Raises UserError if the checkpoint is of a different model or tokenizer.
    """
    config = plan.config
    model_config, vocabulary = config.model, None
    if checkpoint is not None:
        model_config = model_config.for_loaded_weights()
    elif model_config.embedding_start.type != "random":
        vocabulary = read_vocabulary(config.data, plan.phases[0].manifest)
    model = build_masked_lm(
        model_config,
        plan.vocab_size,
        grid,
        config.seed,
        config.compute,
        vocabulary=vocabulary,
    )
    if model.word_vectors is not None:
        logger.info("word vectors: %s", model.word_vectors)
    if checkpoint is None:
        return Engine(model, config, plan.max_accumulation, grid)
    return resume_engine(
        model, config, plan.max_accumulation, grid, checkpoint, plan.tokenizer_sha256
    )
