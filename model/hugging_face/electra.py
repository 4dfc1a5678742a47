"""ELECTRA's discriminator (Clark et al. 2020) in transformers, for replaced-token detection.

It is exported only. It computes BERT's kind of encoder, of any width of the embedding, with
positions that start at row 0 of their matrix; rows before our position 0 are left out.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from model.hugging_face.bert import BERT
from model.hugging_face.bert_style import BertStyle
from model.hugging_face.nearest import Change
from model.hugging_face.tensors import to_theirs
from model.options import LearnedPositions

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPE = "electra"
DISCRIMINATOR_CLASS = "ElectraForPreTraining"
AUTO_CLASS = "AutoModelForPreTraining"

_ENCODER = BertStyle(
    model_type=MODEL_TYPE,
    class_prefix="Electra",
    norm_placement="post",
    default_pad_token_id=0,
    positions_start_after_pad=False,
    layer_norms=BERT.layer_norms,
    head=BERT.head,
    pooled_head=BERT.pooled_head,
)


def discriminator_changes(config: ModelConfig) -> list[Change]:
    """The settings of `config` that ELECTRA's class does not compute; empty if it can hold it."""
    return _ENCODER.changes(_plain(config))


def discriminator_config(config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """config.json of the discriminator."""
    return {
        **_ENCODER.hf_config(_plain(config), vocab_size),
        "architectures": [DISCRIMINATOR_CLASS],
        "embedding_size": config.embedding_width,
    }


def discriminator_to_hf(state: Mapping[str, "Tensor"], config: ModelConfig) -> dict[str, "Tensor"]:
    """The tensors of `DISCRIMINATOR_CLASS` from our full `state` of encoder and head."""
    word, position = (state[f"encoder.embeddings.{name}.weight"] for name in ("word", "position"))
    assert config.positions.type == "learned"
    plain = {**state, "encoder.embeddings.position.weight": position[config.positions.offset :]}
    if not config.type_vocab_size:
        plain["encoder.embeddings.segment.weight"] = word.new_zeros(1, word.shape[1])
    pairs = _ENCODER.pairs(_plain(config), len(word), with_head=False)
    tensors = to_theirs(plain, pairs)
    for kind in ("weight", "bias"):
        tensors[f"discriminator_predictions.dense.{kind}"] = state[f"replaced_head.dense.{kind}"]
        output = state[f"replaced_head.output.{kind}"]
        tensors[f"discriminator_predictions.dense_prediction.{kind}"] = output
        if config.embedding_size is not None:
            projection = state[f"encoder.embeddings.projection.{kind}"]
            tensors[f"{MODEL_TYPE}.embeddings_project.{kind}"] = projection
    return tensors


def _plain(config: ModelConfig) -> ModelConfig:
    """`config` without what makes no difference to the discriminator's class: the vocabulary head,
    rows before the first position, and the width of the embedding."""
    changes: dict[str, Any] = {
        "embedding_size": None,
        "type_vocab_size": max(config.type_vocab_size, 1),
        "head_activation": "gelu",
        "bias": config.bias.model_copy(update={"head": True, "decoder": True}),
    }
    if config.positions.type == "learned":
        changes["positions"] = LearnedPositions(offset=0)
    return config.model_copy(update=changes)
