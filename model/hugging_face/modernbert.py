"""ModernBERT (Warner et al. 2024) in transformers; Ettin and mmBERT are of its class."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.activations import GATED, OF_HEADS, error_of, function_of, name_of
from model.hugging_face.family import PairedFamily
from model.hugging_face.settings import flag_errors, number_errors, rope_errors
from model.hugging_face.tensors import (
    TensorPair,
    interleaved,
    layer_norm,
    linear,
    may_be_equal,
)
from model.objectives.vocabulary import SpecialIds
from model.options import AlternatingAttention, RotaryPositions

if TYPE_CHECKING:
    from torch import Tensor

_ACTIVATIONS = {"hidden_activation": GATED, "classifier_activation": OF_HEADS}
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "max_row_tokens": "max_position_embeddings",
}
_FLAGS = {
    "attention": "attention_bias",
    "mlp": "mlp_bias",
    "norm": "norm_bias",
    "head": "classifier_bias",
    "decoder": "decoder_bias",
}
"""`model.bias`; only the last is true by default."""
_EVERY, _LONGEST, _DEFAULT_WINDOW = "global_attn_every_n_layers", "max_position_embeddings", 128
_DEFAULT_PAD_TOKEN_ID, _BEGIN = 50_283, ("cls_token_id", "bos_token_id")
_DECODER, _EMBEDDING = "decoder.weight", "model.embeddings.tok_embeddings.weight"
_HEAD, _TASK_OUTPUT = ("head.", "decoder."), "classifier."
_FULL, _LOCAL = "full_attention", "sliding_attention"


class ModernBert(PairedFamily):
    """ModernBERT: pre-norm, rotary positions, GeGLU, windows in most layers."""

    model_type = "modernbert"
    class_prefix = "ModernBert"
    head_transform = "prediction"

    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        return bool(hf.get("model_type") == self.model_type)

    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        functions = {key: hf.get(key, "gelu") for key in _ACTIVATIONS}
        found = [error_of(key, functions[key], known) for key, known in _ACTIVATIONS.items()]
        errors = [error for error in found if error]
        optional = {"pad_token_id": 0, "cls_token_id": 0, "bos_token_id": 0, _EVERY: 1}
        errors += number_errors(hf, (*_SIZES.values(), "vocab_size"), optional)
        errors += flag_errors(hf, (*_FLAGS.values(), "tie_word_embeddings"))
        errors += rope_errors(hf, (_FULL, _LOCAL))
        if not errors:
            errors += self._errors_of_layers(hf)
        if errors:
            raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
        every = _global_every(hf)
        attention: dict[str, Any] = {"type": "full"}
        if every > 1:
            neighbours = hf.get("local_attention", _DEFAULT_WINDOW) // 2
            attention = {"type": "alternating", "neighbours": neighbours, "global_every": every}
        positions = {"type": "rotary", "base": _theta(hf, _FULL)}
        if every > 1:
            positions["local_base"] = _theta(hf, _LOCAL)
        tree = {
            **{ours: hf[theirs] for ours, theirs in _SIZES.items()},
            "type_vocab_size": 0,
            "norm_placement": {"type": "pre"},
            "layer_norm_eps": hf.get("norm_eps", 1e-5),
            "first_norm": False,
            "bias": {ours: hf.get(its, ours == "decoder") for ours, its in _FLAGS.items()},
            "activation": {"type": GATED[function_of(functions["hidden_activation"])]},
            "head_activation": function_of(functions["classifier_activation"]),
            "tied_decoder": hf.get("tie_word_embeddings", True),
            "positions": positions,
            "attention_pattern": attention,
            "hidden_dropout": hf.get("mlp_dropout", 0.0),
            "attention_dropout": hf.get("attention_dropout", 0.0),
            "initializer_range": hf.get("initializer_range", 0.02),
            "pad_token_id": hf.get("pad_token_id", _DEFAULT_PAD_TOKEN_ID) or 0,
            "begin_token_id": next((hf[k] for k in _BEGIN if hf.get(k) is not None), 0),
        }
        return validate(tree, ModelConfig, origin), int(hf["vocab_size"])

    def _errors_of_layers(self, hf: Mapping[str, Any]) -> Iterator[str]:
        types = hf.get("layer_types")
        if types is not None and types != _layer_types(len(types), _global_every(hf)):
            yield "layer_types: only a full layer first and then after every n - 1 local ones"
        elif types is not None and len(types) != hf["num_hidden_layers"]:
            yield f"layer_types: {len(types)}, num_hidden_layers: {hf['num_hidden_layers']}"
        elif _global_every(hf) > 1:
            window, longest = hf.get("local_attention", _DEFAULT_WINDOW), hf[_LONGEST]
            if type(window) is not int or window < 2:
                yield f"local_attention {window!r} is no number from 2"
            elif window // 2 >= longest:
                yield (
                    f"local_attention {window} reaches beyond {_LONGEST} {longest}: set it to at "
                    f"most {2 * longest - 1}"
                )

    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        special = SpecialIds.of(vocab_size)
        positions, pattern = config.positions, config.attention_pattern
        if positions.type != "rotary":
            positions = RotaryPositions()
        if pattern.type == "window":
            pattern = AlternatingAttention(neighbours=pattern.neighbours)
        neighbours, every, local_base = 64, 1, positions.base
        if pattern.type == "alternating":
            neighbours, every = pattern.neighbours, pattern.global_every
            local_base = positions.base_of(neighbours)
        return {
            "architectures": [self.masked_lm_class],
            "model_type": self.model_type,
            "vocab_size": vocab_size,
            **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
            "hidden_activation": name_of(config.activation.type, GATED),
            "classifier_activation": name_of(config.head_activation, OF_HEADS),
            "norm_eps": config.layer_norm_eps,
            **{its: getattr(config.bias, ours) for ours, its in _FLAGS.items()},
            "classifier_pooling": "mean" if config.pooler.type == "mean" else "cls",
            "attention_dropout": config.attention_dropout,
            "embedding_dropout": config.hidden_dropout,
            "mlp_dropout": config.hidden_dropout,
            "initializer_range": config.initializer_range,
            "local_attention": 2 * neighbours,
            # transformers 4 reads these three, transformers 5 the two after them.
            _EVERY: every,
            "global_rope_theta": positions.base,
            "local_rope_theta": local_base,
            "layer_types": _layer_types(config.num_layers, every),
            "rope_parameters": {
                _FULL: {"rope_type": "default", "rope_theta": positions.base},
                _LOCAL: {"rope_type": "default", "rope_theta": local_base},
            },
            "bos_token_id": special.begin,
            "cls_token_id": special.begin,
            "pad_token_id": config.pad_token_id,
            "eos_token_id": special.end,
            "sep_token_id": special.end,
            "tie_word_embeddings": config.tied_decoder,
        }

    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        """A task's head has layers of the same names as those of the masked-language-model head."""
        names = list(tensor_names)
        is_task = any(name.startswith(_TASK_OUTPUT) for name in names)
        return not is_task and any(name.startswith(_HEAD) for name in names)

    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        hidden, inner, bias = config.hidden_size, config.ffn_hidden_size, config.bias
        yield TensorPair("encoder.embeddings.word.weight", (_EMBEDDING,), (vocab_size, hidden))
        yield from layer_norm("encoder.embeddings.norm", "model.embeddings.norm", hidden, bias.norm)
        for number in range(config.num_layers):
            mine, its = f"encoder.layers.{number}", f"model.layers.{number}"
            yield from interleaved(
                f"{mine}.attention.qkv",
                [f"{its}.attn.Wqkv"],
                (hidden, hidden),
                num_matrices=3,
                num_blocks=config.num_attention_heads,
                has_bias=bias.attention,
            )
            yield from linear(
                f"{mine}.attention.output", f"{its}.attn.Wo", hidden, hidden, bias.attention
            )
            yield from interleaved(
                f"{mine}.mlp.up",
                [f"{its}.mlp.Wi"],
                (inner, hidden),
                num_matrices=2,
                num_blocks=inner,
                has_bias=bias.mlp,
            )
            yield from linear(f"{mine}.mlp.down", f"{its}.mlp.Wo", hidden, inner, bias.mlp)
            if number:
                yield from layer_norm(
                    f"{mine}.attention_norm", f"{its}.attn_norm", hidden, bias.norm
                )
            yield from layer_norm(f"{mine}.mlp_norm", f"{its}.mlp_norm", hidden, bias.norm)
        yield from layer_norm("encoder.norm", "model.final_norm", hidden, bias.norm)
        if with_head:
            yield from linear("head.dense", "head.dense", hidden, hidden, bias.head)
            yield from layer_norm("head.norm", "head.norm", hidden, bias.norm)
            if not config.tied_decoder:
                yield TensorPair("head.decoder.weight", (_DECODER,), (vocab_size, hidden))
            if bias.decoder:
                yield TensorPair("head.bias", ("decoder.bias",), (vocab_size,))

    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Names lack "model." where the encoder was saved without a head."""
        is_encoder = re.compile(r"(embeddings|layers\.\d+|final_norm)\.")
        return {
            f"model.{name}" if is_encoder.match(name) else name: tensor
            for name, tensor in state.items()
        }

    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        with_head = "head.dense.weight" in expected
        for name, tensor in state.items():
            if name in expected or (not with_head and name.startswith(_HEAD)):
                continue
            if name != _DECODER:
                yield f"{name}: superfluous (shape {list(tensor.shape)})"
            elif _EMBEDDING in state and not may_be_equal(tensor, state[_EMBEDDING]):
                yield (
                    f"{name}: differs from {_EMBEDDING}, but config.json says that they are tied "
                    "(tie_word_embeddings)"
                )

    def task_to_hf(
        self, state: Mapping[str, "Tensor"], config: ModelConfig, name: str, head: HeadType
    ) -> dict[str, "Tensor"]:
        self.check_task(config, head)
        tensors = {
            key: t for key, t in self.to_hf(state, config).items() if key.startswith("model.")
        }
        for part, has_bias in (("dense", config.bias.head), ("norm", config.bias.norm)):
            for kind in ("weight", "bias") if has_bias else ("weight",):
                tensors[f"head.{part}.{kind}"] = state[f"transforms.{name}.{part}.{kind}"]
        for kind in ("weight", "bias"):
            tensors[f"classifier.{kind}"] = state[f"task_heads.{name}.output.{kind}"]
        return tensors


def _layer_types(num_layers: int, every: int) -> list[str]:
    return [_LOCAL if number % every else _FULL for number in range(num_layers)]


def _global_every(hf: Mapping[str, Any]) -> int:
    """Every how many layers attention is full."""
    types, every = hf.get("layer_types"), hf.get(_EVERY) or 3
    if types is None or types == _layer_types(len(types), every):
        return int(every)
    later = [number for number, kind in enumerate(types) if kind == _FULL and number]
    return later[0] if later else max(len(types), 2)


def _theta(hf: Mapping[str, Any], kind: str) -> float:
    """The rotary base of the layers of a kind, as transformers 4 or 5 writes it."""
    parameters = (hf.get("rope_parameters") or {}).get(kind) or {}
    old, default = {
        _FULL: ("global_rope_theta", 160_000.0),
        _LOCAL: ("local_rope_theta", 10_000.0),
    }[kind]
    return float(parameters.get("rope_theta") or hf.get(old) or default)


MODERNBERT = ModernBert()
