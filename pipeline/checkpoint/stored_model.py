"""The config of the model that a checkpoint holds. Imports no torch."""

from pydantic import ValidationError

from configs.load import UserError
from data_prep.dataset.files import first_error
from model.config import ModelConfig
from model.size import count_parameters
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.records import num_weights

SLACK = 2
"""A stored model without vocabulary head, for example, has fewer weights than are counted."""


def stored_model(checkpoint: Checkpoint) -> ModelConfig:
    """The config of the model in `checkpoint`, for loaded weights.

    Raises UserError if it cannot be read, and if it describes a much larger model than the weights
    in the checkpoint: before anything of that size is allocated.
    """
    manifest = checkpoint.manifest
    try:
        model = ModelConfig.from_stored(manifest.model_config_tree).for_loaded_weights()
    except (ValidationError, KeyError, TypeError) as error:
        what = first_error(error) if isinstance(error, ValidationError) else repr(error)
        raise UserError(f"{checkpoint.path}: its model cannot be read: {what}") from None
    wanted = count_parameters(model, manifest.vocab_size)
    found = num_weights(manifest.parameters)
    if wanted > SLACK * found:
        raise UserError(
            f"{checkpoint.path}: damaged checkpoint: its config describes a model of {wanted:,} "
            f"weights, but it holds {found:,}"
        )
    return model
