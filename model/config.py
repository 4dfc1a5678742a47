"""The architecture of an encoder as a frozen config. Imports no torch: the planner reads it too.

The vocabulary size is not here: it comes with the tokenizer, from the data set's manifest.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.load import Config, ConfigError
from model.vocabulary import padded_vocab_size


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


class Gelu(Config):
    """GELU in its exact form with erf (Hendrycks and Gimpel 2016), as in BERT and RoBERTa."""

    type: Literal["gelu"] = "gelu"


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
    base: float = Field(10_000.0, gt=1)
    """theta of the wave lengths 2 pi theta^(2i/d)."""


class NoPositions(Config):
    """No position information at all."""

    type: Literal["none"] = "none"


NormPlacement = Annotated[PostNorm | PreNorm, Field(discriminator="type")]
Norm = Annotated[LayerNormConfig | RmsNormConfig, Field(discriminator="type")]
Activation = Annotated[Gelu | GeGlu | SwiGlu, Field(discriminator="type")]
Positions = Annotated[LearnedPositions | RotaryPositions | NoPositions, Field(discriminator="type")]


class ModelConfig(Config):
    """An encoder; the defaults beside the sizes are RoBERTa's (Liu et al. 2019, table 9)."""

    num_layers: int = Field(gt=0)
    """Transformer layers."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_attention_heads: int = Field(gt=0)
    """Attention heads of a layer, over all tensor-parallel ranks."""
    ffn_hidden_size: int = Field(gt=0)
    """Width of the MLP's inner layer; 4 x hidden_size if not given."""
    max_row_tokens: int = Field(512, gt=0, le=65536)
    """The longest row in tokens, <s> and </s> included."""
    type_vocab_size: int = Field(1, ge=0)
    """Segment embeddings: 1 in RoBERTa (a constant vector), 2 in BERT, 0 for none."""

    norm_placement: NormPlacement = PostNorm()
    """Where the norms sit."""
    norm: Norm = LayerNormConfig()
    """Which normalisation."""
    layer_norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance."""
    activation: Activation = Gelu()
    """The MLP's activation."""
    positions: Positions = LearnedPositions()
    """How the network learns where a token stands."""

    hidden_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate of the embedding and of each block's output."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate of the attention probabilities."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights."""

    sequence_parallel: bool = False
    """Between blocks, cut hidden states by tokens over tensor-parallel ranks (Korthikanti 2022)."""
    vocabulary_multiple: int = Field(128, gt=0)
    """The vocabulary is padded inside to a multiple of this, the same at every TP size."""
    pad_token_id: int = Field(1, ge=0)
    """The id of <pad>: such tokens are never attended to."""
    begin_token_id: int = Field(0, ge=0)
    """The id of <s>, with which every piece of a packed row begins."""

    @model_validator(mode="before")
    @classmethod
    def _default_ffn_hidden_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("ffn_hidden_size") is None:
            hidden_size = values.get("hidden_size")
            if isinstance(hidden_size, int):
                values = {**values, "ffn_hidden_size": 4 * hidden_size}
        return values

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads:
            near = nearest_multiples(self.hidden_size, self.num_attention_heads)
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}; nearest hidden sizes that are: {near}"
            )
        if self.positions.type == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_size}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies a gate with a value, which takes two inner matrices."""
        return self.activation.type != "gelu"

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Rows of the embedding matrix, over all tensor-parallel ranks."""
        return padded_vocab_size(vocab_size, self.vocabulary_multiple)


def check_grid(config: ModelConfig, tp_size: int) -> None:
    """Raises one ConfigError that lists every size of `config` that `tp_size` does not divide."""
    sizes = {
        "num_attention_heads": config.num_attention_heads,
        "ffn_hidden_size": config.ffn_hidden_size,
        "vocabulary_multiple": config.vocabulary_multiple,
    }
    errors = [
        f"model.{name} {size} is not divisible by tensor-parallel size {tp_size}; nearest values "
        f"that are: {nearest_multiples(size, tp_size)}; tensor-parallel sizes that divide {size}: "
        f"{', '.join(str(n) for n in range(1, min(size, 64) + 1) if size % n == 0)}"
        for name, size in sizes.items()
        if size % tp_size
    ]
    if errors:
        raise ConfigError("\n".join(errors))


def nearest_multiples(value: int, divisor: int) -> str:
    """The multiples of `divisor` right below and above `value`, as text for a message."""
    below = value // divisor * divisor
    return " and ".join(str(n) for n in (below, below + divisor) if n > 0)
