"""The options of what stands on the encoder, as in `model.options`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from configs.load import Config


class NoPooler(Config):
    """Heads for whole rows read the first token's hidden state."""

    type: Literal["none"] = "none"


class FirstTokenPooler(Config):
    """tanh(dense(hidden state of <s>)), as in BERT and RoBERTa's classification head."""

    type: Literal["first"] = "first"


class MeanPooler(Config):
    """tanh(dense(mean of the hidden states of all tokens that are not padding))."""

    type: Literal["mean"] = "mean"


class NoHeadTransform(Config):
    """A task head is one linear layer (after the pooler, for whole rows)."""

    type: Literal["none"] = "none"


class PredictionTransform(Config):
    """Dense layer, GELU and norm before the output layer of every task head, as in the
    masked-language-model head, from whose weights they start; the pooler is then a plain choice or
    mean of hidden states (ModernBERT)."""

    type: Literal["prediction"] = "prediction"


class DenseTransform(Config):
    """Dense layer and GELU before the output layer of heads for whole rows, which start at random
    where the masked-language-model head has no such layer; the pooler is then a plain choice or
    mean of hidden states (EuroBERT)."""

    type: Literal["dense"] = "dense"


HeadActivation = Literal["gelu", "gelu_tanh", "silu"]
Pooler = Annotated[NoPooler | FirstTokenPooler | MeanPooler, Field(discriminator="type")]
HeadTransform = Annotated[
    NoHeadTransform | PredictionTransform | DenseTransform, Field(discriminator="type")
]
