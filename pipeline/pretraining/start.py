"""The first weights of a pretraining run that continues a pretrained model."""

import logging

from torch import nn

from configs.load import UserError
from model.extended_vocabulary import AuxiliaryVectors
from model.parallel.grid import Grid
from pipeline.checkpoint.reader import TensorReader
from pipeline.engine.deepspeed_engine import Engine
from pipeline.run.plan import RunPlan
from pipeline.start.auxiliary import auxiliary_vectors
from pipeline.start.config import ContinueHuggingFace, ContinueRun
from pipeline.start.pretrained import with_tokenizer
from pipeline.start.record import read_record
from pipeline.start.start import Start, read_start
from pipeline.start.weights import EVERYTHING, NewVocabulary, load_start

logger = logging.getLogger(__name__)


def take_start(plan: RunPlan, model: nn.Module, grid: Grid) -> Start | None:
    """Puts the weights that the run starts from into `model`; None: it keeps its random ones.

    Parameters that the start lacks keep their initial values. Raises UserError if the weights are
    not those that the run was planned with.
    """
    config = plan.config.start
    if config.type == "scratch":
        return None
    start = _read(plan)
    new = load_start(
        *(start, model, grid, EVERYTHING),
        now=plan.config.model,
        vocabulary=_new_vocabulary(plan),
    )
    if new:
        logger.info("new, since %s has none: %s", start.description, ", ".join(new))
    if new and isinstance(config, ContinueRun) and config.moments:
        raise UserError(
            f"start.moments: {start.description} has no {', '.join(new)}: set start.moments: false "
            "to take the weights only"
        )
    return start


def restore_moments(plan: RunPlan, engine: Engine, start: Start | None) -> None:
    """Takes over the optimizer state of `start`, with its step count, if the run asks for it."""
    config = plan.config.start
    if start is None or not isinstance(config, ContinueRun) or not config.moments:
        return
    assert start.checkpoint is not None
    engine.restore(TensorReader(start.checkpoint), start.checkpoint.manifest)


def _new_vocabulary(plan: RunPlan) -> NewVocabulary | None:
    """The vocabulary of the rows, if it may differ from that of the start."""
    start = plan.config.start
    if start.type == "scratch" or start.new_tokens is None:
        return None
    return NewVocabulary(
        plan.tokenizer,
        plan.vocab_size,
        plan.special_tokens,
        method=start.new_tokens,
        auxiliary=_auxiliary(plan) if start.new_tokens == "focus" else None,
        seed=plan.config.seed,
    )


def _auxiliary(plan: RunPlan) -> AuxiliaryVectors:
    """Vectors of the new vocabulary's tokens, from the rows of the first phase."""
    first = plan.phases[0]
    return auxiliary_vectors(first.config.data, first.manifest, plan.config.seed)


def _read(plan: RunPlan) -> Start:
    """The start with its weights, which the plan does not keep in memory."""
    recorded = plan.start_record or read_record(plan.config.output)
    if recorded is None:
        raise UserError(
            f"{plan.config.output}: no checkpoint that verifies, and no record of what the run "
            "started from: choose a new output folder"
        )
    config = plan.config.start
    assert isinstance(config, ContinueHuggingFace | ContinueRun)
    return read_start(with_tokenizer(config, plan.tokenizer), recorded=recorded)
