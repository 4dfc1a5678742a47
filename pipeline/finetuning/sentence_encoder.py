"""The vector of a text by a fine-tuned encoder: its trained pooler, or a plain choice of tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.multi_task import MultiTaskModel
from pipeline.finetuning.config import FinetuneConfig
from pipeline.hugging_face.comparison import largest_of
from pipeline.hugging_face.outputs import embedding_outputs
from pipeline.hugging_face.sentence_encoder import PoolingKind, SentenceEncoder, plain_pooler
from pipeline.run.trained_model import TrainedModel


def sentence_encoder(
    trained: TrainedModel[FinetuneConfig], state: Mapping[str, Tensor], kind: PoolingKind
) -> SentenceEncoder:
    """The trained pooler with its dense layer, if that is what it reads and a task trained it;
    otherwise the plain vector of the `kind`."""
    model = trained.model
    is_trained = any(task.reads_pooled for task in trained.config.tasks.values())
    dense = None
    if is_trained and model.pooler.type == kind and model.head_transform.type == "none":
        sharing = model.parameter_sharing
        owner = "pooler.dense"
        if sharing.type == "groups" and sharing.pooler:
            owner = f"encoder.layers.{model.layer_group(model.num_layers - 1)}.attention.output"
        weight = state[f"{owner}.weight"]
        bias = state.get(f"{owner}.bias", torch.zeros(len(weight)))
        dense = (weight, bias)
    return SentenceEncoder(kind, model.hidden_size, model.max_row_tokens, dense)


def embedding_difference(
    ours: MultiTaskModel, theirs: Any, folder: Path, encoder: SentenceEncoder
) -> float:
    """The largest difference of a vector by `folder` to the one of our trained model."""
    plain = plain_pooler(ours.config, encoder.pooling)
    pooler = plain if encoder.dense is None else ours.pooler
    pairs = embedding_outputs(
        *(ours, theirs, folder), pool=lambda hidden, tokens: pooler(hidden, tokens, ours.encoder)
    )
    return largest_of(pairs)
