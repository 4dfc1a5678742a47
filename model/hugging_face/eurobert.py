"""EuroBERT (Boizard et al. 2025) in transformers, which has it from version 5 on.

The published folders were written by version 4, with code of their own; their keys are read too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.activations import GATED, error_of, function_of, name_of
from model.hugging_face.family import PairedFamily
from model.hugging_face.settings import flag_errors, number_errors, rope_base, rope_errors
from model.hugging_face.tensors import (
    TensorPair,
    interleaved,
    layer_norm,
    linear,
    may_be_equal,
    query_key_value,
)
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
_DEFAULT_PAD_TOKEN_ID, _DEFAULT_BEGIN_TOKEN_ID = 128_001, 128_000
_DEFAULT_BASE = 10_000.0
_DECODER, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_WITHOUT_PREFIX = re.compile(r"(embed_tokens|layers\.\d+|norm)\.")
_TASK_DENSE, _TASK_OUTPUT = "dense.", "classifier."
_BUFFER = re.compile(r"(.*\.)?rotary_emb\.(original_)?inv_freq$")


class EuroBert(PairedFamily):
    """EuroBERT: pre-norm with RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    model_type = "eurobert"
    class_prefix = "EuroBert"
    head_transform = "dense"
    heads = ("sequence_classification", "sequence_regression", "token_classification")

    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        return bool(hf.get("model_type") == self.model_type)

    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        errors = [*_errors(hf)]
        if errors:
            raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
        has_bias = bool(hf.get("mlp_bias", False))
        tree = {
            **{ours: hf[theirs] for ours, theirs in _SIZES.items()},
            "num_key_value_heads": hf.get("num_key_value_heads"),
            "type_vocab_size": 0,
            "norm_placement": {"type": "pre"},
            "norm": {"type": "rms_norm"},
            "layer_norm_eps": hf.get("rms_norm_eps", 1e-5),
            "embedding_norm": False,
            "bias": {
                "attention": hf.get("attention_bias", False),
                "mlp": has_bias,
                "decoder": has_bias,
            },
            "activation": {"type": GATED[function_of(hf.get("hidden_act", "silu"))]},
            "head_layers": False,
            "tied_decoder": hf.get("tie_word_embeddings", False),
            "positions": {"type": "rotary", "base": rope_base(hf, _DEFAULT_BASE)},
            "hidden_dropout": 0.0,
            "attention_dropout": hf.get("attention_dropout", 0.0),
            "initializer_range": hf.get("initializer_range", 0.02),
            "pad_token_id": hf.get("pad_token_id", _DEFAULT_PAD_TOKEN_ID),
            "begin_token_id": hf.get("bos_token_id", _DEFAULT_BEGIN_TOKEN_ID) or 0,
        }
        return validate(tree, ModelConfig, origin), int(hf["vocab_size"])

    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        special = SpecialIds.of(vocab_size)
        positions = config.positions if config.positions.type == "rotary" else RotaryPositions()
        return {
            "architectures": [self.masked_lm_class],
            "model_type": self.model_type,
            "vocab_size": vocab_size,
            **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_size,
            "hidden_act": name_of(config.activation.type, GATED) if config.is_gated else "silu",
            "rms_norm_eps": config.layer_norm_eps,
            "attention_bias": config.bias.attention,
            "mlp_bias": config.bias.mlp,
            "attention_dropout": config.attention_dropout,
            "initializer_range": config.initializer_range,
            "classifier_pooling": "mean" if config.pooler.type == "mean" else "bos",
            # transformers reads the mapping, the code of the published folders the number.
            "rope_theta": positions.base,
            "rope_parameters": {"rope_type": "default", "rope_theta": positions.base},
            "bos_token_id": special.begin,
            "pad_token_id": config.pad_token_id,
            "eos_token_id": special.end,
            "mask_token_id": special.mask,
            "tie_word_embeddings": config.tied_decoder,
        }

    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        """A head without biases that is tied to the embedding has no tensor of its own."""
        names = list(tensor_names)
        if any(name.startswith("lm_head.") for name in names):
            return True
        return _EMBEDDING in names and not any(name.startswith("classifier.") for name in names)

    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        hidden, inner, bias = config.hidden_size, config.ffn_hidden_size, config.bias
        yield TensorPair("encoder.embeddings.word.weight", (_EMBEDDING,), (vocab_size, hidden))
        for number in range(config.num_layers):
            mine, its = f"encoder.layers.{config.layer_group(number)}", f"model.layers.{number}"
            projections = [f"{its}.self_attn.{part}_proj" for part in "qkv"]
            yield from query_key_value(f"{mine}.attention.qkv", projections, config, bias.attention)
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
                has_bias=bias.mlp,
            )
            yield from linear(f"{mine}.mlp.down", f"{its}.mlp.down_proj", hidden, inner, bias.mlp)
            for ours, theirs in (
                ("attention_norm", "input_layernorm"),
                ("mlp_norm", "post_attention_layernorm"),
            ):
                yield from layer_norm(f"{mine}.{ours}", f"{its}.{theirs}", hidden, has_bias=False)
        yield from layer_norm("encoder.norm", "model.norm", hidden, has_bias=False)
        if with_head and not config.tied_decoder:
            yield TensorPair("head.decoder.weight", (_DECODER,), (vocab_size, hidden))
        if with_head and bias.decoder:
            yield TensorPair("head.bias", ("lm_head.bias",), (vocab_size,))

    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Names lack "model." where the encoder was saved without a head."""
        return {
            f"model.{name}" if _WITHOUT_PREFIX.match(name) else name: tensor
            for name, tensor in state.items()
        }

    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        for name, tensor in state.items():
            if name in expected or _BUFFER.match(name):
                continue
            if name.startswith(_TASK_DENSE) and not any(n.startswith(_TASK_OUTPUT) for n in state):
                continue  # of a task whose output is left out
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
        parts = {"classifier": f"task_heads.{name}.output"}
        if head != "token_classification":
            parts["dense"] = f"transforms.{name}.dense"
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                tensors[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        return tensors


def _errors(hf: Mapping[str, Any]) -> Iterator[str]:
    """What keeps the model of a config.json from being ours."""
    if error := error_of("hidden_act", hf.get("hidden_act", "silu"), GATED):
        yield error
    optional = {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 0}
    wrong = list(number_errors(hf, (*_SIZES.values(), "vocab_size"), optional))
    yield from wrong
    yield from flag_errors(hf, ("attention_bias", "mlp_bias", "tie_word_embeddings"))
    yield from rope_errors(hf)
    if wrong:
        return
    size = hf["hidden_size"] // hf["num_attention_heads"]
    if hf.get("head_dim") not in (None, size):
        yield f"head_dim {hf['head_dim']!r} is not supported (only {size}, hidden_size / heads)"
    if hf.get("pad_token_id", 0) is None:
        yield "pad_token_id is null: set it to a token that no text needs"


EUROBERT = EuroBert()
