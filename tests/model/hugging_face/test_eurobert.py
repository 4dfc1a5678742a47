"""EuroBERT: what its folders may say, tied and own decoders, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from configs.load import ConfigError
from model.config import ModelConfig
from model.hugging_face.eurobert import EUROBERT
from model.hugging_face.families import family_of_model
from tests.gloo import run_ranks
from tests.model.hugging_face.test_parity import (
    MODELS,
    SIZES,
    VOCAB_SIZE,
    hf_model,
    our_logits,
    tokens_with_padding,
)

EURO: dict[str, Any] = {**SIZES, **MODELS["eurobert"]}
TIED: dict[str, Any] = {
    **EURO,
    "num_key_value_heads": None,
    "bias": {},
    "activation": {"type": "geglu"},
    "tied_decoder": True,
}
"""With the biases that the class knows, as many key/value heads as heads, GELU in the gate."""
PUBLISHED = {
    "architectures": ["EuroBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token": "<|begin_of_text|>",
    "bos_token_id": 0,
    "clf_pooling": "late",
    "eos_token_id": 2,
    "head_dim": 4,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": 202,
    "max_position_embeddings": 24,
    "mlp_bias": False,
    "model_type": "eurobert",
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pad_token_id": 1,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 250_000,
    "tie_word_embeddings": False,
    "transformers_version": "4.40.0",
    "use_cache": False,
    "vocab_size": VOCAB_SIZE,
}
"""The keys of the published folders, which bring their own code for transformers 4."""


def test_a_tied_decoder_with_biases_equals_hugging_face() -> None:
    config = ModelConfig(**TIED)
    assert family_of_model(config) is EUROBERT
    theirs = hf_model(config)
    state = theirs.state_dict()
    tokens = tokens_with_padding(config)
    is_text = tokens != config.pad_token_id
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=is_text.long()).logits
    full = EUROBERT.from_hf(state, config, VOCAB_SIZE)
    for tp_size in (1, 2):
        for logits, _ in run_ranks(our_logits, tp_size, TIED, full, tp_size):
            torch.testing.assert_close(logits[is_text], expected[is_text], rtol=1e-5, atol=1e-5)
    back = EUROBERT.to_hf(full, config)
    assert back.keys() == state.keys() - {"lm_head.weight"}
    assert all(torch.equal(back[name], state[name]) for name in back)


def test_configs_of_both_versions_are_read(tmp_path: Path) -> None:
    expected = (ModelConfig(**EURO), VOCAB_SIZE)
    assert EUROBERT.model_config(PUBLISHED, "config.json") == expected
    transformers.EuroBertConfig(**PUBLISHED).save_pretrained(tmp_path)
    saved = transformers.EuroBertConfig.from_pretrained(tmp_path).to_dict()
    assert "rope_theta" not in saved
    assert EUROBERT.model_config(saved, "config.json") == expected
    older = {k: v for k, v in EUROBERT.hf_config(*expected).items() if k != "rope_parameters"}
    assert EUROBERT.model_config(older, "config.json") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"head_dim": 16}, r"head_dim 16 is not supported \(only 4"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type 'linear'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 8"),
        ({"pad_token_id": None}, "pad_token_id is null"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 is no number from 1"),
    ],
)
def test_a_eurobert_that_is_computed_differently_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        EUROBERT.model_config({**PUBLISHED, **change}, "config.json")


def test_folders_without_the_head_and_with_a_wrong_one() -> None:
    config = ModelConfig(**EURO)
    state = hf_model(config).state_dict()
    body = {name.removeprefix("model."): t for name, t in state.items() if "lm_head" not in name}
    assert not EUROBERT.has_masked_lm_head(body)
    ours = EUROBERT.from_hf(body, config, VOCAB_SIZE, with_head=False)
    assert not any(name.startswith("head.") for name in ours)
    classifier = {**state, "dense.weight": torch.zeros(32, 32), "classifier.weight": torch.ones(1)}
    del classifier["lm_head.weight"]
    assert not EUROBERT.has_masked_lm_head(classifier)
    with pytest.raises(ConfigError, match=r"dense\.weight: superfluous"):
        EUROBERT.from_hf(classifier, config, VOCAB_SIZE, with_head=False)
    left_out = ("dense.", "classifier.")
    assert EUROBERT.from_hf(classifier, config, VOCAB_SIZE, False, left_out).keys() == ours.keys()
    cut = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    assert EUROBERT.has_masked_lm_head(cut)
    with pytest.raises(ConfigError, match=r"lm_head\.weight: missing \(expected \[203, 32\]\)"):
        EUROBERT.from_hf(cut, config, VOCAB_SIZE)
    tied = config.model_copy(update={"tied_decoder": True})
    with pytest.raises(ConfigError, match="says that they are tied"):
        EUROBERT.from_hf(state, tied, VOCAB_SIZE)
    grouped = {**state, "model.layers.0.self_attn.k_proj.weight": torch.zeros(32, 32)}
    with pytest.raises(ConfigError, match=r"k_proj\.weight: shape \[32, 32\], expected \[16, 32\]"):
        EUROBERT.from_hf(grouped, config, VOCAB_SIZE)


@pytest.mark.parametrize(
    "change",
    [
        {"query_key_norm": True},
        {"bias": {"mlp": False}},
        {"norm": {"type": "layer_norm"}},
        {"head_layers": True},
        {"attention_pattern": {"type": "window", "neighbours": 3}},
    ],
)
def test_what_its_class_does_not_compute_is_named(change: dict[str, Any]) -> None:
    changed = ModelConfig(**{**EURO, **change})
    assert not EUROBERT.can_hold(changed)
    key = next(iter(change))
    assert f"model.{key}" in " ".join(map(str, EUROBERT.changes(changed)))
    with pytest.raises(ConfigError, match="eurobert"):
        family_of_model(changed)
