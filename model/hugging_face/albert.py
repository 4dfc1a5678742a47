"""ALBERT (Lan et al. 2020) in transformers: shared layers, and a factorised embedding."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.activations import PLAIN, error_of, function_of, name_of
from model.hugging_face.family import WHOLE_ROW_HEADS, PairedFamily
from model.hugging_face.settings import number_errors, value_errors
from model.hugging_face.tensors import TensorPair, interleaved, layer_norm, linear
from model.hugging_face.tied_head import NOT_TIED, HeadNames
from model.objectives.vocabulary import SpecialIds

if TYPE_CHECKING:
    from torch import Tensor

_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "embedding_size": "embedding_size",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "max_row_tokens": "max_position_embeddings",
}
_DEFAULT_EMBEDDING_SIZE = 128
_DEFAULT_ACTIVATION = "gelu_new"
_EMBEDDINGS = "albert.embeddings"
_HEAD = HeadNames(
    "predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder"
)
_IGNORED = re.compile(
    r"(.*\.(position_ids|token_type_ids)|albert\.pooler\.(weight|bias)|sop_classifier\..*)$"
)
"""Buffers, and the parts that masked language modelling does not use."""


class Albert(PairedFamily):
    """ALBERT: BERT's layers in groups that share their weights, narrow embeddings."""

    model_type = "albert"
    class_prefix = "Albert"
    writes_shared_layers_apart = False

    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        if hf.get("model_type") is not None:
            return bool(hf["model_type"] == self.model_type)
        return any(name.startswith("albert.") for name in tensor_names)

    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        hf = {"embedding_size": _DEFAULT_EMBEDDING_SIZE, **hf}
        errors = list(_errors(hf))
        if errors:
            raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
        function = function_of(hf.get("hidden_act", _DEFAULT_ACTIVATION))
        groups, pad = _num_groups(hf), hf.get("pad_token_id")
        sharing: dict[str, Any] = {"type": "none"}
        if groups < hf["num_hidden_layers"]:
            sharing = {"type": "groups", "num_groups": groups}
        tree = {
            **{key: hf[its] for key, its in _SIZES.items()},
            "positions": {"type": "learned", "offset": 0},
            "type_vocab_size": hf.get("type_vocab_size", 2),
            "layer_norm_eps": hf.get("layer_norm_eps", 1e-12),
            "activation": {"type": PLAIN[function]},
            "head_activation": function,
            "parameter_sharing": sharing,
            "hidden_dropout": hf.get("hidden_dropout_prob", 0.0),
            "attention_dropout": hf.get("attention_probs_dropout_prob", 0.0),
            "initializer_range": hf.get("initializer_range", 0.02),
            "pad_token_id": 0 if pad is None else pad,
            "begin_token_id": hf.get("bos_token_id") or 0,
        }
        return validate(tree, ModelConfig, origin), int(hf["vocab_size"])

    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        special = SpecialIds.of(vocab_size)
        sharing, num_layers = config.parameter_sharing, config.num_layers
        groups = sharing.num_groups if sharing.type == "groups" else num_layers
        if not _groups_agree(num_layers, groups):
            groups = num_layers
        sizes = {its: getattr(config, key) for key, its in _SIZES.items()}
        if config.embedding_size is None:
            sizes["embedding_size"] = min(_DEFAULT_EMBEDDING_SIZE, config.hidden_size)
        return {
            "architectures": [self.masked_lm_class],
            "model_type": self.model_type,
            "vocab_size": vocab_size,
            **sizes,
            "num_hidden_groups": groups,
            "inner_group_num": 1,
            "hidden_act": name_of(config.activation.type, PLAIN),
            "hidden_dropout_prob": config.hidden_dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "classifier_dropout_prob": config.hidden_dropout,
            "type_vocab_size": max(config.type_vocab_size, 1),
            "initializer_range": config.initializer_range,
            "layer_norm_eps": config.layer_norm_eps,
            "bos_token_id": special.begin,
            "pad_token_id": config.pad_token_id,
            "eos_token_id": special.end,
            "tie_word_embeddings": True,
        }

    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        return _HEAD.is_among(tensor_names)

    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        hidden, inner, width = config.hidden_size, config.ffn_hidden_size, config.embedding_width
        for mine, its, rows in (
            ("word", "word_embeddings", vocab_size),
            ("position", "position_embeddings", config.max_row_tokens),
            ("segment", "token_type_embeddings", config.type_vocab_size),
        ):
            name = f"{_EMBEDDINGS}.{its}.weight"
            yield TensorPair(f"encoder.embeddings.{mine}.weight", (name,), (rows, width))
        yield from layer_norm("encoder.embeddings.norm", f"{_EMBEDDINGS}.LayerNorm", width)
        yield from linear(
            "encoder.embeddings.projection",
            "albert.encoder.embedding_hidden_mapping_in",
            hidden,
            width,
        )
        for group in range(config.layer_group(config.num_layers - 1) + 1):
            mine = f"encoder.layers.{group}"
            its = f"albert.encoder.albert_layer_groups.{group}.albert_layers.0"
            yield from interleaved(
                f"{mine}.attention.qkv",
                [f"{its}.attention.{name}" for name in ("query", "key", "value")],
                (hidden, hidden),
                num_matrices=3,
                num_blocks=config.num_attention_heads,
            )
            yield from linear(f"{mine}.attention.output", f"{its}.attention.dense", hidden, hidden)
            yield from linear(f"{mine}.mlp.up", f"{its}.ffn", inner, hidden)
            yield from linear(f"{mine}.mlp.down", f"{its}.ffn_output", hidden, inner)
            yield from layer_norm(f"{mine}.attention_norm", f"{its}.attention.LayerNorm", hidden)
            yield from layer_norm(f"{mine}.mlp_norm", f"{its}.full_layer_layer_norm", hidden)
        if with_head:
            yield from _HEAD.pairs(hidden, width, vocab_size)

    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Names lack "albert." where the encoder was saved without a head."""
        is_encoder = re.compile(r"(embeddings|encoder|pooler)\.")
        result = {
            f"albert.{name}" if is_encoder.match(name) else name: tensor
            for name, tensor in state.items()
        }
        _HEAD.take_bias_of_decoder(result)
        return result

    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        """A decoder that is not tied to the embedding is an error too."""
        kept = {name: tensor for name, tensor in state.items() if not _IGNORED.match(name)}
        return _HEAD.superfluous(kept, state, expected, f"{_EMBEDDINGS}.word_embeddings.weight")

    def task_to_hf(
        self, state: Mapping[str, "Tensor"], config: ModelConfig, name: str, head: HeadType
    ) -> dict[str, "Tensor"]:
        self.check_task(config, head)
        tensors = {k: t for k, t in self.to_hf(state, config).items() if k.startswith("albert.")}
        output = "qa_outputs" if head == "span_question_answering" else "classifier"
        for kind in ("weight", "bias"):
            if head in WHOLE_ROW_HEADS:
                tensors[f"albert.pooler.{kind}"] = state[f"pooler.dense.{kind}"]
            tensors[f"{output}.{kind}"] = state[f"task_heads.{name}.output.{kind}"]
        return tensors


def _errors(hf: Mapping[str, Any]) -> Iterator[str]:
    if error := error_of("hidden_act", hf.get("hidden_act", _DEFAULT_ACTIVATION), PLAIN):
        yield error
    only = {
        "position_embedding_type": "absolute",
        "inner_group_num": 1,
    }
    yield from value_errors(hf, only)
    if hf.get("tie_word_embeddings", True) is not True:
        yield NOT_TIED
    optional = {"num_hidden_groups": 1, "pad_token_id": 0, "bos_token_id": 0, "type_vocab_size": 1}
    yield from number_errors(hf, (*_SIZES.values(), "vocab_size"), optional)
    layers, groups = hf.get("num_hidden_layers"), _num_groups(hf)
    if type(layers) is int and type(groups) is int and not _groups_agree(layers, groups):
        yield f"num_hidden_groups {groups} of num_hidden_layers {layers} is not supported"


def _num_groups(hf: Mapping[str, Any]) -> Any:
    return 1 if hf.get("num_hidden_groups") is None else hf["num_hidden_groups"]


def _groups_agree(num_layers: int, num_groups: int) -> bool:
    """Whether transformers, which divides floats, has each layer in the group that we have it in:
    it does not with 14 groups of 18 layers, for example."""
    if not 1 <= num_groups <= num_layers:
        return False
    return all(
        int(number / (num_layers / num_groups)) == number * num_groups // num_layers
        for number in range(num_layers)
    )


ALBERT = Albert()
