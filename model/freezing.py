"""Parts of the model that keep their weights."""

from model.config import ModelConfig
from model.encoder import Encoder


def freeze(encoder: Encoder, config: ModelConfig) -> None:
    """Marks the parameters that `config.frozen` names as not trained; the heads stay trained.

    The decoder is tied to the word embedding: with the embeddings, its matrix is frozen.
    """
    frozen = config.frozen
    if frozen.type == "nothing":
        return
    if frozen.type == "lower":
        num_layers, with_embeddings = frozen.num_layers, frozen.embeddings
    else:
        num_layers, with_embeddings = config.num_layers - frozen.num_layers, True
    if with_embeddings:
        encoder.embeddings.requires_grad_(False)
    for layer in list(encoder.layers)[:num_layers]:
        layer.requires_grad_(False)
