"""Hugging Face's config.json -> our ModelConfig; the way back is `model.hf_names.hf_config`."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from configs.load import ConfigError, validate
from model.config import ModelConfig
from model.hugging_face.names import Layout

# Settings that change what the network computes, and the values that we compute too.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
}


def config_from_hf(
    hf: Mapping[str, Any], tensor_names: Iterable[str], origin: str
) -> tuple[ModelConfig, int, Layout]:
    """(our config, vocabulary size, layout) of a config.json; `origin` names it in messages.

    Old files lack "model_type": the layout is then told from `tensor_names`. Raises ConfigError
    that lists every setting that is missing or that our network does not compute.
    """
    layout = _layout(hf, tensor_names, origin)
    errors = [
        f"{key} {hf[key]!r} is not supported (only {', '.join(map(repr, allowed))})"
        for key, allowed in _SUPPORTED.items()
        if hf.get(key, allowed[0]) not in allowed
    ]
    required = [*_SIZES.values(), "max_position_embeddings", "vocab_size"]
    errors += [f"{key} is missing" for key in required if key not in hf]
    if errors:
        raise ConfigError(f"{origin}: cannot be imported:\n  " + "\n  ".join(errors))
    pad_token_id = hf.get("pad_token_id")
    if pad_token_id is None:
        pad_token_id = 0 if layout == "bert" else 1
    offset = 0 if layout == "bert" else pad_token_id + 1
    tree = {
        **{ours: hf[theirs] for ours, theirs in _SIZES.items()},
        "max_row_tokens": hf["max_position_embeddings"] - offset,
        "positions": {"type": "learned", "offset": offset},
        "type_vocab_size": hf.get("type_vocab_size", 2),
        "norm_placement": {"type": "pre" if layout == "roberta-prelayernorm" else "post"},
        "layer_norm_eps": hf.get("layer_norm_eps", 1e-12),
        "hidden_dropout": hf.get("hidden_dropout_prob", 0.1),
        "attention_dropout": hf.get("attention_probs_dropout_prob", 0.1),
        "initializer_range": hf.get("initializer_range", 0.02),
        "pad_token_id": pad_token_id,
        "begin_token_id": hf.get("bos_token_id") or 0,
    }
    return validate(tree, ModelConfig, origin), int(hf["vocab_size"]), layout


def _layout(hf: Mapping[str, Any], tensor_names: Iterable[str], origin: str) -> Layout:
    layouts: tuple[Layout, ...] = get_args(Layout)
    name = hf.get("model_type")
    prefixes = {tensor_name.split(".")[0] for tensor_name in tensor_names}
    for layout in layouts:
        if name == layout or (name is None and layout.replace("-", "_") in prefixes):
            return layout
    raise ConfigError(
        f"{origin}: model_type {name!r} cannot be imported; layouts known: {', '.join(layouts)}"
    )
