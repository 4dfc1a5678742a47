"""The architecture's options: each a frozen config with a literal `type`, in one union a choice.

The first of each union is RoBERTa's. Those of heads and of training are in `model.head_options` and
`model.weight_options`. Imports no torch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from configs.load import Config


@dataclass(frozen=True)
class PerPhase:
    """Marks a field that may differ between the phases of a run: it shapes no weight."""


class PostNorm(Config):
    """Normalise after each residual sum (BERT, RoBERTa)."""

    type: Literal["post"] = "post"


class PreNorm(Config):
    """Normalise each block's input, and once more after the last layer."""

    type: Literal["pre"] = "pre"


class LayerNormConfig(Config):
    """Layer normalisation with weight and bias (Ba et al. 2016)."""

    type: Literal["layer_norm"] = "layer_norm"


class RmsNormConfig(Config):
    """Root-mean-square normalisation, weight only (Zhang and Sennrich 2019)."""

    type: Literal["rms_norm"] = "rms_norm"


class Biases(Config):
    """Which parts add a bias; ModernBERT has it in the decoder only."""

    attention: bool = True
    """The projections to queries, keys and values, and of the output."""
    mlp: bool = True
    """Both matrices of the MLP."""
    mlp_up: bool = True
    """The first matrix of the MLP, where `mlp` is true; false in GTE, whose second has a bias."""
    norm: bool = True
    """Layer normalisations (RMS normalisation has none)."""
    head: bool = True
    """The dense layer of the masked-language-model head, where `head_layers` is true."""
    decoder: bool = True
    """The decoder of the masked-language-model head."""


class Gelu(Config):
    """GELU in its exact form with erf (Hendrycks and Gimpel 2016), as in BERT and RoBERTa."""

    type: Literal["gelu"] = "gelu"


class GeluTanh(Config):
    """GELU in its approximation with tanh, as in ALBERT (gelu_new in transformers)."""

    type: Literal["gelu_tanh"] = "gelu_tanh"


class GeGlu(Config):
    """GELU(gate) x value (Shazeer 2020, equation 6): the first MLP matrix is twice as large."""

    type: Literal["geglu"] = "geglu"


class SwiGlu(Config):
    """SiLU(gate) x value (Shazeer 2020, equation 6): the first MLP matrix is twice as large."""

    type: Literal["swiglu"] = "swiglu"


class LearnedPositions(Config):
    """One learned vector per position, added to the embedding."""

    type: Literal["learned"] = "learned"
    offset: int = Field(2, ge=0)
    """Rows of the matrix before position 0: 2 in RoBERTa (its pad id + 1), 0 in BERT."""


class RotaryPositions(Config):
    """Rotary position embedding of queries and keys (Su et al. 2021, equation 34)."""

    type: Literal["rotary"] = "rotary"
    base: Annotated[float, PerPhase()] = Field(10_000.0, gt=1)
    """theta of the wave lengths 2 pi theta^(2i/d)."""
    local_base: Annotated[float | None, PerPhase()] = Field(None, gt=1)
    """theta of layers that see a window only; as `base` if not given (ModernBERT: 160,000 and
    10,000)."""

    def base_of(self, window: int | None) -> float:
        """theta of a layer that sees `window` neighbours; None: all."""
        return self.base if window is None or self.local_base is None else self.local_base


class NoPositions(Config):
    """No position information at all."""

    type: Literal["none"] = "none"


class FullAttention(Config):
    """Every token attends to every token of its row."""

    type: Literal["full"] = "full"

    def window(self, layer: int) -> int | None:
        """Neighbours seen on each side in layer `layer`; None: all."""
        return None


class WindowAttention(Config):
    """A token attends to `neighbours` tokens on its left and as many on its right, and itself."""

    type: Literal["window"] = "window"
    neighbours: int = Field(12, gt=0)
    """Tokens seen on each side."""

    def window(self, layer: int) -> int | None:
        """Neighbours seen on each side in layer `layer`; None: all."""
        return self.neighbours


class AlternatingAttention(Config):
    """Windows, but every `global_every`-th layer is full, from the first on (ModernBERT)."""

    type: Literal["alternating"] = "alternating"
    neighbours: int = Field(64, gt=0)
    """Tokens seen on each side in local layers."""
    global_every: int = Field(3, gt=1)
    """Layers 0, n, 2n, ... attend to the whole row."""

    def window(self, layer: int) -> int | None:
        """Neighbours seen on each side in layer `layer`; None: all."""
        return None if layer % self.global_every == 0 else self.neighbours


class AttendAcross(Config):
    """Attention and positions run over all documents of a row, as in RoBERTa."""

    type: Literal["across"] = "across"


class AttendInside(Config):
    """Attention stays inside a document, from one <s> to the next (block-diagonal)."""

    type: Literal["inside"] = "inside"
    restart_positions: bool = True
    """Whether positions count from each document's <s>, or through the row."""


class AllVisible(Config):
    """No key is hidden."""

    type: Literal["all"] = "all"


class HideRandomKeys(Config):
    """In training, hides a random share of each row's tokens from all other tokens."""

    type: Literal["random_keys"] = "random_keys"
    max_share: float = Field(0.5, gt=0, lt=1)
    """A row's share is drawn uniformly between 0 and this; each token is hidden with it."""


class HideRandomSpan(Config):
    """In training, hides the end of each row, of a random length, to imitate shorter rows."""

    type: Literal["random_span"] = "random_span"
    max_share: float = Field(0.5, gt=0, lt=1)
    """The hidden span's length is drawn uniformly between 0 and this share of the row."""


class NoSharing(Config):
    """Each layer has its own weights."""

    type: Literal["none"] = "none"


class ShareInGroups(Config):
    """Neighbouring layers share their weights in groups (Lan et al. 2020, ALBERT)."""

    type: Literal["groups"] = "groups"
    num_groups: int = Field(1, gt=0)
    """Sets of weights; 1: all layers are the same."""
    pooler: bool = False
    """Whether the pooler uses the last layer's attention output matrix as its own."""


NormPlacement = Annotated[PostNorm | PreNorm, Field(discriminator="type")]
Norm = Annotated[LayerNormConfig | RmsNormConfig, Field(discriminator="type")]
Activation = Annotated[Gelu | GeluTanh | GeGlu | SwiGlu, Field(discriminator="type")]
Positions = Annotated[LearnedPositions | RotaryPositions | NoPositions, Field(discriminator="type")]

AttentionPattern = Annotated[
    FullAttention | WindowAttention | AlternatingAttention, Field(discriminator="type")
]
PackedRows = Annotated[AttendAcross | AttendInside, Field(discriminator="type")]
Visibility = Annotated[AllVisible | HideRandomKeys | HideRandomSpan, Field(discriminator="type")]
ParameterSharing = Annotated[NoSharing | ShareInGroups, Field(discriminator="type")]
