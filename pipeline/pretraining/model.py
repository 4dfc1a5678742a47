"""The model that a pretraining run trains: its objective decides what stands beside the encoder."""

from collections.abc import Sequence

from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.objectives import SpecialIds
from model.parallel.grid import Grid
from model.replaced_tokens import build_replaced_tokens
from pipeline.run.config import TrainConfig


def build_pretraining_model(
    config: TrainConfig,
    model: ModelConfig,
    special: SpecialIds,
    grid: Grid,
    seed: int | None,
    vocabulary: Sequence[str] | None = None,
) -> MaskedLanguageModel:
    """An fp32 model on the grid's device with initial weights; arguments as of `build_masked_lm`.

    `model` is the architecture of `config`, or that of a checkpoint of its run.
    """
    if config.objective.type == "replaced_tokens":
        return build_replaced_tokens(
            model, special, grid, seed, config.objective, config.model_compute, vocabulary
        )
    return build_masked_lm(model, special.vocab_size, grid, seed, config.model_compute, vocabulary)
