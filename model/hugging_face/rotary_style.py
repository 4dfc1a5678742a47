"""The families of BERT's kind with rotary positions and a gated MLP: post-norm, no windows.

transformers keeps the layers of NomicBERT and GTE under the same names in memory, and under older
ones, with fused matrices, in the files that it writes. Both are read; the former are written.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.activations import GATED, error_of, function_of, name_of
from model.hugging_face.family import WHOLE_ROW_HEADS, PairedFamily
from model.hugging_face.settings import number_errors, rope_base, rope_errors, value_errors
from model.hugging_face.tensors import TensorPair, interleaved, layer_norm, linear
from model.hugging_face.tied_head import NOT_TIED, HeadNames
from model.objectives.vocabulary import SpecialIds
from model.options import RotaryPositions

if TYPE_CHECKING:
    from torch import Tensor

_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "max_row_tokens": "max_position_embeddings",
}
_IGNORED = re.compile(
    r"(.*\.(position_ids|token_type_ids|(original_)?inv_freq)|.*pooler\.dense\..*)$"
)
"""Buffers, and a pooler, which masked language modelling does not use."""


@dataclass(frozen=True)
class RotaryStyle(PairedFamily):
    """A family of post-norm, rotary, gated encoders."""

    model_type: str
    class_prefix: str
    prefix: str
    """What the names of the encoder's tensors start with."""
    head: HeadNames
    head_has_its_activation: bool
    """Whether hidden_act is the activation of the masked-language-model head too; else GELU."""
    bias: Mapping[str, bool]
    """`model.bias`, as far as it is not all true."""
    least_segments: int
    """The smallest `type_vocab_size` that it computes."""
    default_theta: float
    default_pad_token_id: int
    default_hidden_act: str
    default_type_vocab_size: int
    default_hidden_dropout: float
    renamed: tuple[tuple[str, str], ...]
    """(pattern, replacement) from names in its files to those in memory."""
    fused: Mapping[str, tuple[str, ...]]
    """The matrices, in their order, that a fused one of its files is made of."""
    own_code_keys: Mapping[str, str]
    """Of the published code (trust_remote_code) that preceded transformers' class: the keys of
    sizes that have other names there, with today's names."""
    own_code_settings: Mapping[str, Any]
    """Of that code: settings that transformers' class does not read, with the values that it
    computes."""
    heads: tuple[HeadType, ...] = (
        *("sequence_classification", "sequence_regression"),
        "token_classification",
    )

    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        return bool(hf.get("model_type") == self.model_type)

    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        self._check_own_code(hf, origin)
        errors = list(self._errors(hf))
        if errors:
            raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
        function = function_of(hf.get("hidden_act", self.default_hidden_act))
        pad = hf.get("pad_token_id")
        tree = {
            **{key: hf[its] for key, its in _SIZES.items()},
            "positions": {"type": "rotary", "base": rope_base(hf, self.default_theta)},
            "type_vocab_size": hf.get("type_vocab_size", self.default_type_vocab_size),
            "layer_norm_eps": hf.get("layer_norm_eps", 1e-12),
            "bias": self.bias,
            "activation": {"type": GATED[function]},
            "head_activation": function if self.head_has_its_activation else "gelu",
            "hidden_dropout": hf.get("hidden_dropout_prob", self.default_hidden_dropout),
            "attention_dropout": hf.get("attention_probs_dropout_prob", 0.0),
            "initializer_range": hf.get("initializer_range", 0.02),
            "pad_token_id": self.default_pad_token_id if pad is None else pad,
            "begin_token_id": hf.get("bos_token_id") or 0,
        }
        return validate(tree, ModelConfig, origin), int(hf["vocab_size"])

    def _check_own_code(self, hf: Mapping[str, Any], origin: str) -> None:
        """Raises ConfigError for a config.json of the model's own code, with today's keys."""
        old = {
            key: its
            for key, its in self.own_code_keys.items()
            if hf.get(key) is not None and hf.get(its) is None
        }
        if old:
            today = ", ".join(f'"{its}": {hf[key]!r}' for key, its in old.items())
            errors = list(value_errors(hf, self.own_code_settings))
            raise ConfigError(
                f"{origin}: {', '.join(old)} are keys of the model's own code (trust_remote_code), "
                f"not of transformers' {self.class_prefix}: take the folder's version for "
                f"transformers 5, or add to config.json what they mean there: {today}"
                + (f"; but {'; '.join(errors)}" if errors else "")
            )

    def _errors(self, hf: Mapping[str, Any]) -> Iterator[str]:
        yield from value_errors(hf, self.own_code_settings)
        if error := error_of("hidden_act", hf.get("hidden_act", self.default_hidden_act), GATED):
            yield error
        for key in ("is_decoder", "add_cross_attention"):
            if hf.get(key):
                yield f"{key} {hf[key]!r} is not supported (only False)"
        if hf.get("tie_word_embeddings", True) is not True:
            yield NOT_TIED
        optional = {"pad_token_id": 0, "bos_token_id": 0, "type_vocab_size": 0}
        yield from number_errors(hf, (*_SIZES.values(), "vocab_size"), optional)
        yield from rope_errors(hf)
        size, heads = hf.get("head_dim"), hf.get("num_attention_heads")
        if size is not None and type(heads) is int and size * heads != hf.get("hidden_size"):
            yield f"head_dim {size!r} x num_attention_heads {heads} is not hidden_size"

    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        special = SpecialIds.of(vocab_size)
        positions = config.positions if config.positions.type == "rotary" else RotaryPositions()
        return {
            "architectures": [self.masked_lm_class],
            "model_type": self.model_type,
            "vocab_size": vocab_size,
            **{its: getattr(config, key) for key, its in _SIZES.items()},
            "hidden_act": name_of(config.activation.type, GATED),
            "hidden_dropout_prob": config.hidden_dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "type_vocab_size": max(config.type_vocab_size, self.least_segments),
            "initializer_range": config.initializer_range,
            "layer_norm_eps": config.layer_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": positions.base},
            "bos_token_id": special.begin,
            "pad_token_id": config.pad_token_id,
            "eos_token_id": special.end,
            "tie_word_embeddings": True,
        }

    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        return self.head.is_among(map(self._renamed, tensor_names))

    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        hidden, inner, bias = config.hidden_size, config.ffn_hidden_size, config.bias
        embeddings = f"{self.prefix}.embeddings"
        for mine, its, rows in (
            ("word", "word_embeddings", vocab_size),
            ("segment", "token_type_embeddings", config.type_vocab_size),
        ):
            if rows:
                name = f"{embeddings}.{its}.weight"
                yield TensorPair(f"encoder.embeddings.{mine}.weight", (name,), (rows, hidden))
        yield from layer_norm("encoder.embeddings.norm", f"{embeddings}.LayerNorm", hidden)
        for number in range(config.num_layers):
            mine = f"encoder.layers.{config.layer_group(number)}"
            its = f"{self.prefix}.layers.{number}"
            yield from interleaved(
                f"{mine}.attention.qkv",
                [f"{its}.self_attn.{name}_proj" for name in "qkv"],
                (hidden, hidden),
                num_matrices=3,
                num_blocks=config.num_attention_heads,
                has_bias=bias.attention,
            )
            yield from linear(
                f"{mine}.attention.output",
                f"{its}.self_attn.o_proj",
                hidden,
                hidden,
                bias.attention,
            )
            yield from interleaved(
                f"{mine}.mlp.up",
                [f"{its}.mlp.gate_proj", f"{its}.mlp.up_proj"],
                (inner, hidden),
                num_matrices=2,
                num_blocks=inner,
                has_bias=False,
            )
            yield from linear(f"{mine}.mlp.down", f"{its}.mlp.down_proj", hidden, inner, bias.mlp)
            for part, norm in (("attention", "post_attention"), ("mlp", "post_mlp")):
                yield from layer_norm(f"{mine}.{part}_norm", f"{its}.{norm}_layernorm", hidden)
        if with_head:
            yield from self.head.pairs(hidden, hidden, vocab_size)

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        is_encoder = re.match(r"(embeddings|layers\.\d+|pooler)\.", name)
        return f"{self.prefix}.{name}" if is_encoder else name  # saved without a head

    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """The names in memory, which the files of transformers do not have."""
        result = {}
        for old, tensor in state.items():
            name = self._renamed(old)
            fused = next((one for one in self.fused if f".{one}." in name), None)
            if fused is None:
                result[name] = tensor
                continue
            parts = self.fused[fused]
            if not tensor.dim() or tensor.shape[0] % len(parts):
                raise ConfigError(
                    f"{old}: shape {list(tensor.shape)} does not divide into {len(parts)} matrices"
                )
            for part, matrix in zip(parts, tensor.chunk(len(parts)), strict=True):
                result[name.replace(f".{fused}.", f".{part}.")] = matrix
        self.head.take_bias_of_decoder(result)
        return result

    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        """A decoder that is not tied to the embedding is an error too."""
        embedding = f"{self.prefix}.embeddings.word_embeddings.weight"
        kept = {name: tensor for name, tensor in state.items() if not _IGNORED.match(name)}
        return self.head.superfluous(kept, state, expected, embedding)

    def task_to_hf(
        self, state: Mapping[str, "Tensor"], config: ModelConfig, name: str, head: HeadType
    ) -> dict[str, "Tensor"]:
        self.check_task(config, head)
        body = f"{self.prefix}."
        tensors = {key: t for key, t in self.to_hf(state, config).items() if key.startswith(body)}
        for kind in ("weight", "bias"):
            if head in WHOLE_ROW_HEADS:
                tensors[f"{body}pooler.dense.{kind}"] = state[f"pooler.dense.{kind}"]
            tensors[f"classifier.{kind}"] = state[f"task_heads.{name}.output.{kind}"]
        return tensors
