"""The families that descend from BERT's code in transformers: they differ in names and details."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.activations import PLAIN, error_of, function_of, name_of
from model.hugging_face.family import PairedFamily
from model.hugging_face.settings import number_errors, value_errors
from model.hugging_face.tensors import TensorPair, interleaved, layer_norm, linear
from model.hugging_face.tied_head import NOT_TIED, HeadNames
from model.objectives.vocabulary import SpecialIds

if TYPE_CHECKING:
    from torch import Tensor

# Settings that change what the network computes, and the value that our network supports.
_SUPPORTED: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
}
# What a folder may hold besides the encoder and its masked-language-model head: buffers, and the
# parts that masked language modelling does not use.
_IGNORED = re.compile(
    r"(.*\.position_ids|.*\.token_type_ids|(\w+\.)?pooler\.dense\.(weight|bias)"
    r"|cls\.seq_relationship\.(weight|bias))$"
)


@dataclass(frozen=True)
class PooledHeadNames:
    """Names of the parts of a head for whole rows."""

    pooler: str
    """The dense layer before the last, with tanh."""
    output: str
    """The last layer."""


@dataclass(frozen=True)
class BertStyle(PairedFamily):
    """A family with BERT's embeddings, layers and heads under names of its own."""

    model_type: str
    class_prefix: str
    norm_placement: Literal["post", "pre"]
    default_pad_token_id: int
    """Where config.json does not say."""
    positions_start_after_pad: bool
    """Whether position 0 is row pad_token_id + 1 of the position matrix, or row 0."""
    layer_norms: tuple[str, str]
    """The norms of attention and MLP, inside a layer."""
    head: HeadNames
    pooled_head: PooledHeadNames
    """Of sequence classification and regression; multiple choice uses BERT's everywhere."""
    head_has_its_activation: bool = False
    """Whether hidden_act is the activation of the masked-language-model head too, not only of the
    layers; else the head has GELU."""
    encoder_name: str | None = None
    """transformers' name of the encoder inside its models; None: `model_type`."""

    @property
    def prefix(self) -> str:
        """What the names of the encoder's tensors start with."""
        return self.encoder_name or self.model_type.replace("-", "_")

    @property
    def positions_depend_on_padding(self) -> bool:
        return self.positions_start_after_pad

    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        if hf.get("model_type") is not None:
            return bool(hf["model_type"] == self.model_type)
        return any(name.split(".")[0] == self.prefix for name in tensor_names)

    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        errors = list(value_errors(hf, _SUPPORTED))
        if hf.get("tie_word_embeddings", True) is not True:
            errors.append(NOT_TIED)
        function = hf.get("hidden_act", "gelu")
        if error := error_of("hidden_act", function, PLAIN):
            errors.insert(0, error)
        required = (*_SIZES.values(), "max_position_embeddings", "vocab_size")
        optional = {"pad_token_id": 0, "bos_token_id": 0, "type_vocab_size": 1}
        errors += number_errors(hf, required, optional)
        if errors:
            raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
        given = hf.get("pad_token_id")
        pad_token_id = self.default_pad_token_id if given is None else given
        offset = self._offset(pad_token_id)
        tree = {
            **{ours: hf[theirs] for ours, theirs in _SIZES.items()},
            "max_row_tokens": hf["max_position_embeddings"] - offset,
            "positions": {"type": "learned", "offset": offset},
            "type_vocab_size": hf.get("type_vocab_size", 2),
            "norm_placement": {"type": self.norm_placement},
            "layer_norm_eps": hf.get("layer_norm_eps", 1e-12),
            "activation": {"type": PLAIN[function_of(function)]},
            "head_activation": function_of(function) if self.head_has_its_activation else "gelu",
            "hidden_dropout": hf.get("hidden_dropout_prob", 0.1),
            "attention_dropout": hf.get("attention_probs_dropout_prob", 0.1),
            "initializer_range": hf.get("initializer_range", 0.02),
            "pad_token_id": pad_token_id,
            "begin_token_id": hf.get("bos_token_id") or 0,
        }
        return validate(tree, ModelConfig, origin), int(hf["vocab_size"])

    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        special = SpecialIds.of(vocab_size)
        return {
            "architectures": [self.masked_lm_class],
            "model_type": self.model_type,
            "vocab_size": vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_attention_heads,
            "intermediate_size": config.ffn_hidden_size,
            "hidden_act": name_of(config.activation.type, PLAIN),
            "hidden_dropout_prob": config.hidden_dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "max_position_embeddings": config.max_row_tokens + self._offset(config.pad_token_id),
            "type_vocab_size": max(config.type_vocab_size, 1),
            "initializer_range": config.initializer_range,
            "layer_norm_eps": config.layer_norm_eps,
            "bos_token_id": special.begin,
            "pad_token_id": config.pad_token_id,
            "eos_token_id": special.end,
            "tie_word_embeddings": True,
        }

    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        return self.head.is_among(tensor_names)

    def task_to_hf(
        self, state: Mapping[str, "Tensor"], config: ModelConfig, name: str, head: HeadType
    ) -> dict[str, "Tensor"]:
        self.check_task(config, head)
        body = f"{self.prefix}."
        tensors = {key: t for key, t in self.to_hf(state, config).items() if key.startswith(body)}
        pooler, output = None, "classifier"
        if head == "multiple_choice":
            pooler = f"{self.prefix}.pooler.dense"
        elif head in ("sequence_classification", "sequence_regression"):
            pooler, output = self.pooled_head.pooler, self.pooled_head.output
        elif head == "span_question_answering":
            output = "qa_outputs"
        for kind in ("weight", "bias"):
            if pooler is not None:
                tensors[f"{pooler}.{kind}"] = state[f"pooler.dense.{kind}"]
            tensors[f"{output}.{kind}"] = state[f"task_heads.{name}.output.{kind}"]
        return tensors

    def _offset(self, pad_token_id: int) -> int:
        return pad_token_id + 1 if self.positions_start_after_pad else 0

    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        assert config.positions.type == "learned"
        hidden, inner = config.hidden_size, config.ffn_hidden_size
        embeddings = f"{self.prefix}.embeddings"
        for ours, theirs, rows in (
            ("word", "word_embeddings", vocab_size),
            ("position", "position_embeddings", config.max_row_tokens + config.positions.offset),
            ("segment", "token_type_embeddings", config.type_vocab_size),
        ):
            name = f"{embeddings}.{theirs}.weight"
            yield TensorPair(f"encoder.embeddings.{ours}.weight", (name,), (rows, hidden))
        yield from layer_norm("encoder.embeddings.norm", f"{embeddings}.LayerNorm", hidden)
        for number in range(config.num_layers):
            mine = f"encoder.layers.{config.layer_group(number)}"
            its = f"{self.prefix}.encoder.layer.{number}"
            attention = f"{its}.attention"
            projections = tuple(f"{attention}.self.{name}" for name in ("query", "key", "value"))
            yield from interleaved(
                f"{mine}.attention.qkv",
                projections,
                (hidden, hidden),
                num_matrices=3,
                num_blocks=config.num_attention_heads,
            )
            yield from linear(
                f"{mine}.attention.output", f"{attention}.output.dense", hidden, hidden
            )
            yield from linear(f"{mine}.mlp.up", f"{its}.intermediate.dense", inner, hidden)
            yield from linear(f"{mine}.mlp.down", f"{its}.output.dense", hidden, inner)
            attention_norm, mlp_norm = self.layer_norms
            yield from layer_norm(f"{mine}.attention_norm", f"{its}.{attention_norm}", hidden)
            yield from layer_norm(f"{mine}.mlp_norm", f"{its}.{mlp_norm}", hidden)
        if self.norm_placement == "pre":
            yield from layer_norm("encoder.norm", f"{self.prefix}.LayerNorm", hidden)
        if with_head:
            yield from self.head.pairs(hidden, hidden, vocab_size)

    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Names may lack the model prefix ("roberta.") and may end in the old "gamma", "beta"."""
        result = {}
        for name, tensor in state.items():
            if name.startswith(("embeddings.", "encoder.", "pooler.", "LayerNorm.")):
                name = f"{self.prefix}.{name}"  # saved without a head
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
            result[name] = tensor
        self.head.take_bias_of_decoder(result)
        return result

    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        """A decoder that is not tied to the embedding is an error too."""
        embedding = f"{self.prefix}.embeddings.word_embeddings.weight"
        kept = {name: tensor for name, tensor in state.items() if not _IGNORED.match(name)}
        return self.head.superfluous(kept, state, expected, embedding)
