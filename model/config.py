"""The architecture of an encoder as a frozen config. Imports no torch: the planner reads it too.

The vocabulary size is not here: it comes with the tokenizer, from the data set's manifest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from configs.differences import Difference, differences
from configs.load import Config
from model.compute import MOVED_KEYS
from model.head_options import (
    HeadActivation,
    HeadTransform,
    NoHeadTransform,
    NoPooler,
    Pooler,
)
from model.objectives.head_names import MLM_HEAD as MLM_HEAD
from model.options import (
    Activation,
    AllVisible,
    AttendAcross,
    AttentionPattern,
    Biases,
    FullAttention,
    Gelu,
    LayerNormConfig,
    LearnedPositions,
    Norm,
    NormPlacement,
    NoSharing,
    PackedRows,
    ParameterSharing,
    PerPhase,
    Positions,
    PostNorm,
    Visibility,
)
from model.weight_options import EmbeddingStart, Frozen, NothingFrozen, RandomEmbeddings


@dataclass(frozen=True)
class TrainingChoice:
    """Marks a field of `ModelConfig` that any weights can be trained on with.

    It changes no weight's shape and not what the network computes from a document; a run that
    starts from the weights of a folder may choose it freely.
    """


class ModelConfig(Config):
    """An encoder; the defaults apart from the sizes are RoBERTa's (Liu et al. 2019, table 9)."""

    num_layers: int = Field(gt=0, le=10_000)
    """Transformer layers."""
    hidden_size: int = Field(gt=0, le=100_000)
    """Width of the residual stream."""
    num_attention_heads: int = Field(gt=0, le=100_000)
    """Attention heads of a layer, over all tensor-parallel ranks."""
    num_key_value_heads: int | None = Field(None, gt=0, le=100_000)
    """Heads of keys and values, each of which serves num_attention_heads / num_key_value_heads
    query heads (grouped-query attention, Ainslie et al. 2023); one for each if not given."""
    ffn_hidden_size: int = Field(gt=0, le=500_000)
    """Width of the MLP's inner layer; 4 x hidden_size if not given."""
    embedding_size: int | None = Field(None, gt=0, le=100_000)
    """Width of the embeddings and of the decoder, with a linear layer from there to hidden_size
    (ALBERT's factorised embedding); hidden_size, without that layer, if not given."""
    max_row_tokens: int = Field(512, gt=0, le=65536)
    """The longest row in tokens, <s> and </s> included."""
    type_vocab_size: int = Field(1, ge=0, le=100_000)
    """Segment embeddings: 1 in RoBERTa (a constant vector), 2 in BERT, 0 for none."""

    norm_placement: NormPlacement = PostNorm()
    """Where the norms sit."""
    norm: Norm = LayerNormConfig()
    """Which normalisation."""
    layer_norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance."""
    embedding_norm: bool = True
    """Whether the embedding is normalised."""
    first_norm: bool = True
    """Whether the first layer normalises the input of its attention; false in ModernBERT, whose
    embedding is normalised. Only with pre-norm."""
    query_key_norm: bool = False
    """Whether each head's query and key are normalised before the rotary positions (Henry et al.
    2020); one weight of the head's size for all queries of a layer, one for all keys."""
    bias: Biases = Biases()
    """Which parts add a bias."""
    activation: Activation = Gelu()
    """The MLP's activation."""
    head_activation: HeadActivation = "gelu"
    """The activation of the masked-language-model head; silu in NomicBERT."""
    head_layers: bool = True
    """Whether the masked-language-model head has a dense layer, an activation and a norm before its
    decoder; false in EuroBERT."""
    tied_decoder: bool = True
    """Whether the decoder's matrix is the word embedding, or one of its own."""
    positions: Positions = LearnedPositions()
    """How the network learns the position of a token."""

    attention_pattern: Annotated[AttentionPattern, PerPhase()] = FullAttention()
    """Which tokens a token attends to."""
    packed_rows: Annotated[PackedRows, TrainingChoice(), PerPhase()] = AttendAcross()
    """Whether the documents that share a row see each other."""
    visibility: Annotated[Visibility, TrainingChoice(), PerPhase()] = AllVisible()
    """Keys hidden in training to imitate shorter texts; off in evaluation."""

    parameter_sharing: ParameterSharing = NoSharing()
    """Layers that share their weights."""
    pooler: Annotated[Pooler, TrainingChoice()] = NoPooler()
    """How a row becomes one vector, for heads that need one."""
    head_transform: Annotated[HeadTransform, TrainingChoice()] = NoHeadTransform()
    """Layers between the encoder and the output layer of every task head."""
    embedding_start: EmbeddingStart = RandomEmbeddings()
    """The word vectors before training."""
    frozen: Annotated[Frozen, TrainingChoice()] = NothingFrozen()
    """Parts whose weights are not trained."""

    hidden_dropout: Annotated[float, TrainingChoice(), PerPhase()] = Field(0.1, ge=0, lt=1)
    """Dropout rate of the embedding and of each block's output."""
    attention_dropout: Annotated[float, TrainingChoice(), PerPhase()] = Field(0.1, ge=0, lt=1)
    """Dropout rate of the attention probabilities."""
    initializer_range: Annotated[float, TrainingChoice()] = Field(0.02, gt=0)
    """Standard deviation of the initial weights."""

    pad_token_id: int = Field(1, ge=0)
    """The id of <pad>: such tokens are never attended to."""
    begin_token_id: Annotated[int, TrainingChoice()] = Field(0, ge=0)
    """The id of <s>, which starts every document of a packed row."""

    @model_validator(mode="before")
    @classmethod
    def _default_ffn_hidden_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("ffn_hidden_size") is None:
            hidden_size = values.get("hidden_size")
            if isinstance(hidden_size, int):
                values = {**values, "ffn_hidden_size": 4 * hidden_size}
        return values

    @model_validator(mode="before")
    @classmethod
    def _one_key_value_head_each(cls, values: Any) -> Any:
        """As many key/value heads as heads is the same network as none given."""
        if isinstance(values, dict):
            given = values.get("num_key_value_heads")
            if given is not None and given == values.get("num_attention_heads"):
                values = {**values, "num_key_value_heads": None}
        return values

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads:
            near = nearest_multiples(self.hidden_size, self.num_attention_heads)
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}; nearest hidden sizes that are: {near}"
            )
        return self

    @model_validator(mode="after")
    def _options_agree(self) -> "ModelConfig":
        errors = list(_disagreements(self))
        if errors:
            raise ValueError("; ".join(errors))
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values, over all tensor-parallel ranks."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings and of the decoder."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies a gate with a value, which takes two inner matrices."""
        return self.activation.type in ("geglu", "swiglu")

    def layer_group(self, layer: int) -> int:
        """Which set of weights layer `layer` uses: its own, or that of its group."""
        if self.parameter_sharing.type == "none":
            return layer
        return layer * self.parameter_sharing.num_groups // self.num_layers

    @classmethod
    def from_stored(cls, tree: Mapping[str, Any]) -> "ModelConfig":
        """The config of a stored run or checkpoint; keys that have moved to `compute` are left out.

        Raises pydantic's ValidationError for a tree that is no model's.
        """
        moved = {path.removeprefix("model.") for path in MOVED_KEYS}
        return cls.model_validate({key: tree[key] for key in tree if key not in moved})

    def for_loaded_weights(self) -> "ModelConfig":
        """The same network for weights that are loaded: no file of word vectors is read."""
        return self.model_copy(update={"embedding_start": RandomEmbeddings()})


def _disagreements(config: ModelConfig) -> Iterator[str]:
    pattern, sharing, frozen = config.attention_pattern, config.parameter_sharing, config.frozen
    if config.num_attention_heads % config.key_value_heads:
        heads = config.num_attention_heads
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        yield (
            f"num_key_value_heads {config.num_key_value_heads} does not divide num_attention_heads "
            f"{heads}: use one of {divisors}"
        )
    if config.positions.type == "rotary" and config.head_size % 2:
        yield f"rotary positions need an even head size, not {config.head_size}"
    if not config.first_norm:
        if config.norm_placement.type != "pre":
            yield "first_norm false needs norm_placement.type pre"
        if sharing.type == "groups":
            yield "first_norm false does not go with layers that share their weights"
    if config.embedding_size is not None and not config.head_layers:
        yield "head_layers false does not go with embedding_size"
    if config.embedding_size is not None and config.head_transform.type != "none":
        yield f"head_transform {config.head_transform.type} does not go with embedding_size"
    if config.positions.type == "rotary" and config.positions.local_base and pattern.type == "full":
        yield "positions.local_base needs an attention_pattern with windows"
    if pattern.type != "full" and pattern.neighbours >= config.max_row_tokens:
        yield (
            f"attention_pattern.neighbours {pattern.neighbours} reaches beyond a row of "
            f"max_row_tokens {config.max_row_tokens}: use at most {config.max_row_tokens - 1}, or "
            "type: full"
        )
    if sharing.type == "groups":
        if sharing.num_groups > config.num_layers:
            yield (
                f"parameter_sharing.num_groups {sharing.num_groups} is more than num_layers "
                f"{config.num_layers}"
            )
        if sharing.pooler and config.pooler.type == "none":
            yield "parameter_sharing.pooler needs a pooler: set pooler.type to first or mean"
        if sharing.pooler and config.head_transform.type != "none":
            yield "parameter_sharing.pooler does not go with head_transform, which has no pooler"
        if frozen.type == "all_but_last" or (frozen.type == "lower" and frozen.num_layers):
            yield "layers that share their weights cannot be frozen one by one"
    if frozen.type != "nothing" and frozen.num_layers > config.num_layers:
        yield f"frozen.num_layers {frozen.num_layers} is more than num_layers {config.num_layers}"


def architecture_differences(before: ModelConfig, now: ModelConfig) -> list[Difference]:
    """What differs in two configs, training choices left out."""
    return [found for found in differences(before, now) if not found.has_mark(TrainingChoice)]


def nearest_multiples(value: int, divisor: int) -> str:
    """The multiples of `divisor` right below and above `value`, as text for a message."""
    below = value // divisor * divisor
    return " and ".join(str(n) for n in (below, below + divisor) if n > 0)
