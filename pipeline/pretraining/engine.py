"""The model of a pretraining run under DeepSpeed, at its start or resumed from a checkpoint."""

import logging

from model.attention_masks import check_trainable
from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.loader import special_ids
from pipeline.data.words import read_vocabulary
from pipeline.engine.cuda_graphs import CudaGraphs
from pipeline.engine.deepspeed_engine import Engine, resume_engine
from pipeline.pretraining.model import build_pretraining_model
from pipeline.pretraining.start import restore_moments, take_start
from pipeline.run.later_phases import changes_in_words
from pipeline.run.plan import RunPlan

logger = logging.getLogger(__name__)


def build_engine(plan: RunPlan, grid: Grid, checkpoint: Checkpoint | None) -> Engine:
    """The model of the run under DeepSpeed, with its first weights or in the state of `checkpoint`.

    Raises UserError if the checkpoint is of a different model or tokenizer, and for an attention
    backend or CUDA graphs that this device does not have.
    """
    check_trainable(plan.config.compute, grid.device)
    graphs = CudaGraphs(grid.device) if plan.config.compute.cuda_graphs == "on" else None
    engine = _kernel_by_kernel(plan, grid, checkpoint)
    if graphs is not None:
        engine.use_graphs(graphs)
    return engine


def _kernel_by_kernel(plan: RunPlan, grid: Grid, checkpoint: Checkpoint | None) -> Engine:
    """The engine of `build_engine`, without graphs."""
    config = plan.config
    model_config, vocabulary = config.model, None
    if checkpoint is not None:
        model_config = model_config.for_loaded_weights()
    elif model_config.embedding_start.type != "random":
        vocabulary = read_vocabulary(config.data, plan.phases[0].manifest)
    special = special_ids(plan.phases[0].manifest)
    seed = config.seed if checkpoint is None else None
    model = build_pretraining_model(config, model_config, special, grid, seed, vocabulary)
    if model.word_vectors is not None:
        logger.info("word vectors: %s", model.word_vectors)
    optimizers = [phase.config.optimizer for phase in plan.phases]
    if checkpoint is None:
        start = take_start(plan, model, grid)
        engine = Engine(model, config, plan.max_accumulation, grid, optimizers)
        restore_moments(plan, engine, start)
        return engine
    return resume_engine(
        *(model, config, plan.max_accumulation, grid, checkpoint, plan.tokenizer_sha256, optimizers)
    )


class PhaseSwitch:
    """Gives the engine the settings of each phase, before its first step of this launch."""

    def __init__(self, plan: RunPlan, engine: Engine) -> None:
        self._plan, self._engine = plan, engine
        self._phase: int | None = None

    def enter(self, number: int) -> None:
        """Call before each step with the number of its phase, from 0."""
        if number == self._phase:
            return
        phase = self._plan.phases[number].config
        self._engine.enter_phase(phase.model, phase)
        if self._phase is not None:
            changes = changes_in_words(self._plan.phases[self._phase].config, phase)
            logger.info("phase %d starts; changed: %s", number + 1, changes or "nothing")
        self._phase = number
