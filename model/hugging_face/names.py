"""Our tensors <-> the tensors and config.json of Hugging Face's RoBERTa, BERT and pre-LN RoBERTa.

Pure functions on full (not sharded) tensors; neither transformers nor a file is touched here.
H hidden, n heads, d head size.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from configs.load import ConfigError
from model.config import ModelConfig
from model.vocabulary import SpecialIds

Layout = Literal["roberta", "bert", "roberta-prelayernorm"]
"""`model_type` in Hugging Face's config.json."""

# What a folder may hold beside the encoder and its masked-language-model head: buffers, and the
# parts that masked language modelling does not use.
_IGNORED = re.compile(
    r"(.*\.position_ids|.*\.token_type_ids|(\w+\.)?pooler\.dense\.(weight|bias)"
    r"|cls\.seq_relationship\.(weight|bias))$"
)
_HEADS: dict[Layout, tuple[str, str, str, str]] = {
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    "roberta-prelayernorm": (
        "lm_head.dense",
        "lm_head.layer_norm",
        "lm_head.bias",
        "lm_head.decoder",
    ),
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    ),
}


@dataclass(frozen=True)
class _Pair:
    """One of our tensors and where Hugging Face keeps it: three names for a fused Q, K, V."""

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    """The shape of each of `theirs`."""
    num_heads: int = 0
    """Heads of a fused Q, K, V."""


def layout_of(config: ModelConfig) -> Layout:
    """The Hugging Face architecture that computes what `config` describes.

    Raises ConfigError that names every setting for which there is none.
    """
    reasons = []
    if config.norm.type != "layer_norm":
        reasons.append(f"norm {config.norm.type}")
    if config.activation.type != "gelu":
        reasons.append(f"activation {config.activation.type}")
    if config.positions.type != "learned":
        reasons.append(f"positions {config.positions.type}")
    if config.attention_pattern.type != "full":
        reasons.append(f"attention_pattern {config.attention_pattern.type}")
    if config.type_vocab_size == 0:
        reasons.append("type_vocab_size 0")
    is_pre = config.norm_placement.type == "pre"
    offset = config.positions.offset if config.positions.type == "learned" else None
    if offset == 0 and is_pre:
        reasons.append("pre-norm with positions.offset 0")
    elif offset not in (None, 0, config.pad_token_id + 1):
        reasons.append(f"positions.offset {offset} with pad_token_id {config.pad_token_id}")
    if reasons:
        raise ConfigError("no Hugging Face architecture has " + ", ".join(reasons))
    if is_pre:
        return "roberta-prelayernorm"
    return "bert" if offset == 0 else "roberta"


def to_hf(
    state: Mapping[str, Tensor], config: ModelConfig, layout: Layout | None = None
) -> dict[str, Tensor]:
    """Hugging Face's ...ForMaskedLM tensors of our full `state`, the tied decoder left out.

    Raises ConfigError for a config without a Hugging Face architecture, KeyError for a tensor that
    `state` lacks. The tensors share no memory that Hugging Face would take for tied weights.
    """
    layout = layout or layout_of(config)
    vocab_size = state["encoder.embeddings.word.weight"].shape[0]
    result: dict[str, Tensor] = {}
    seen: set[str] = set()
    for pair in _pairs(config, vocab_size, layout):
        tensor = state[pair.ours]
        if len(pair.theirs) == 1:
            # Layers that share weights are written out one by one.
            result[pair.theirs[0]] = tensor.clone() if pair.ours in seen else tensor
            seen.add(pair.ours)
            continue
        heads = tensor.view(pair.num_heads, 3, -1, *tensor.shape[1:])  # [n, 3, d(, H)]
        for place, name in enumerate(pair.theirs):
            result[name] = heads[:, place].reshape(pair.shape).contiguous()
    return result


def from_hf(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    layout: Layout | None = None,
    with_head: bool = True,
    leave_out: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Our full tensors from Hugging Face's; without the head's if not `with_head`.

    Tensors whose names begin with one of `leave_out` are passed over.

    Raises ConfigError that lists every missing, superfluous and misshapen tensor, and a decoder
    that is not tied to the embedding. Names may lack the model prefix ("roberta.") and may end in
    the old "gamma" and "beta".
    """
    layout = layout or layout_of(config)
    pairs = list(_pairs(config, vocab_size, layout, with_head))
    state = _modern_names(state, layout)
    state = {name: t for name, t in state.items() if not name.startswith(leave_out)}
    errors = list(_check(state, pairs, layout))
    if errors:
        raise ConfigError(
            f"{len(errors)} tensor(s) do not fit a {layout} model of the given sizes:\n  "
            + "\n  ".join(errors)
        )
    result: dict[str, Tensor] = {}
    for pair in pairs:
        tensor = _fuse([state[name] for name in pair.theirs], pair)
        if pair.ours in result and not torch.equal(tensor, result[pair.ours]):
            raise ConfigError(
                f"{pair.theirs[0]} differs from the layers that parameter_sharing would make its "
                "twins"
            )
        result[pair.ours] = tensor
    return result


def _fuse(parts: list[Tensor], pair: _Pair) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    rest = pair.shape[1:]
    heads = [part.view(pair.num_heads, 1, -1, *rest) for part in parts]  # [n, 1, d(, H)]
    return torch.cat(heads, dim=1).reshape(3 * pair.shape[0], *rest)


def hf_config(
    config: ModelConfig, vocab_size: int, special: SpecialIds | None = None
) -> dict[str, Any]:
    """config.json of the ...ForMaskedLM model that `to_hf`'s tensors belong to."""
    layout = layout_of(config)
    special = special or SpecialIds.of(vocab_size)
    assert config.positions.type == "learned"
    architectures = {
        "roberta": "RobertaForMaskedLM",
        "bert": "BertForMaskedLM",
        "roberta-prelayernorm": "RobertaPreLayerNormForMaskedLM",
    }
    return {
        "architectures": [architectures[layout]],
        "model_type": layout,
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.ffn_hidden_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_row_tokens + config.positions.offset,
        "type_vocab_size": config.type_vocab_size,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "bos_token_id": special.begin,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": special.end,
        "tie_word_embeddings": True,
    }


def _pairs(
    config: ModelConfig, vocab_size: int, layout: Layout, with_head: bool = True
) -> Iterator[_Pair]:
    assert config.positions.type == "learned"
    prefix = layout.replace("-", "_")
    hidden, inner = config.hidden_size, config.ffn_hidden_size
    embeddings = f"{prefix}.embeddings"
    num_positions = config.max_row_tokens + config.positions.offset
    for ours, theirs, rows in (
        ("word", "word_embeddings", vocab_size),
        ("position", "position_embeddings", num_positions),
        ("segment", "token_type_embeddings", config.type_vocab_size),
    ):
        name = f"{embeddings}.{theirs}.weight"
        yield _Pair(f"encoder.embeddings.{ours}.weight", (name,), (rows, hidden))
    yield from _norm("encoder.embeddings.norm", f"{embeddings}.LayerNorm", hidden)
    for number in range(config.num_layers):
        mine, its = (
            f"encoder.layers.{config.layer_group(number)}",
            f"{prefix}.encoder.layer.{number}",
        )
        projections = [f"{its}.attention.self.{name}" for name in ("query", "key", "value")]
        for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
            theirs_qkv = tuple(f"{name}.{kind}" for name in projections)
            ours_qkv = f"{mine}.attention.qkv.{kind}"
            yield _Pair(ours_qkv, theirs_qkv, shape, config.num_attention_heads)
        out = f"{its}.attention.output.dense"
        yield from _linear(f"{mine}.attention.output", out, hidden, hidden)
        yield from _linear(f"{mine}.mlp.up", f"{its}.intermediate.dense", inner, hidden)
        yield from _linear(f"{mine}.mlp.down", f"{its}.output.dense", hidden, inner)
        if layout == "roberta-prelayernorm":
            norms = (f"{its}.attention.LayerNorm", f"{its}.intermediate.LayerNorm")
        else:
            norms = (f"{its}.attention.output.LayerNorm", f"{its}.output.LayerNorm")
        yield from _norm(f"{mine}.attention_norm", norms[0], hidden)
        yield from _norm(f"{mine}.mlp_norm", norms[1], hidden)
    if layout == "roberta-prelayernorm":
        yield from _norm("encoder.norm", f"{prefix}.LayerNorm", hidden)
    if with_head:
        dense, norm, bias, _ = _HEADS[layout]
        yield from _linear("head.dense", dense, hidden, hidden)
        yield from _norm("head.norm", norm, hidden)
        yield _Pair("head.bias", (bias,), (vocab_size,))


def _linear(ours: str, theirs: str, out_size: int, in_size: int) -> Iterator[_Pair]:
    yield _Pair(f"{ours}.weight", (f"{theirs}.weight",), (out_size, in_size))
    yield _Pair(f"{ours}.bias", (f"{theirs}.bias",), (out_size,))


def _norm(ours: str, theirs: str, size: int) -> Iterator[_Pair]:
    yield _Pair(f"{ours}.weight", (f"{theirs}.weight",), (size,))
    yield _Pair(f"{ours}.bias", (f"{theirs}.bias",), (size,))


def _modern_names(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    prefix = layout.replace("-", "_")
    result = {}
    for name, tensor in state.items():
        if name.startswith(("embeddings.", "encoder.", "pooler.", "LayerNorm.")):
            name = f"{prefix}.{name}"  # saved without a head
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        result[name] = tensor
    dense_head = _HEADS[layout]
    decoder_bias = f"{dense_head[3]}.bias"
    if dense_head[2] not in result and decoder_bias in result:
        result[dense_head[2]] = result[decoder_bias]
    return result


def _check(state: Mapping[str, Tensor], pairs: list[_Pair], layout: Layout) -> Iterator[str]:
    expected = {name: pair.shape for pair in pairs for name in pair.theirs}
    for name, shape in expected.items():
        if name not in state:
            yield f"{name}: missing (expected {list(shape)})"
        elif tuple(state[name].shape) != shape:
            yield f"{name}: shape {list(state[name].shape)}, expected {list(shape)}"
    head = _HEADS[layout]
    tied = {
        f"{head[3]}.weight": f"{layout.replace('-', '_')}.embeddings.word_embeddings.weight",
        f"{head[3]}.bias": head[2],
    }
    has_head = head[2] in expected
    for name, tensor in state.items():
        if name in expected or _IGNORED.match(name):
            continue
        twin = state.get(tied.get(name, ""))
        if not has_head and name.startswith((*head[:3], head[3])):
            continue
        if twin is None:
            yield f"{name}: superfluous (shape {list(tensor.shape)})"
        elif tensor.shape != twin.shape or not torch.equal(tensor, twin):
            yield f"{name}: differs from {tied[name]}; only tied decoders can be imported"
