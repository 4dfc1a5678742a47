"""A model that no family computes is refused with the settings that make it one of a family's."""

import random
from typing import Any

import pytest
from pydantic import ValidationError

from configs.load import ConfigError
from model.config import ModelConfig
from model.hugging_face.families import FAMILIES, MAX_NEAREST, family_of_model, nearest_families
from model.hugging_face.nearest import with_changes

SIZES = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 24}
CHOICES: dict[str, list[Any]] = {
    "num_layers": [1, 4],
    "num_attention_heads": [4, 32],
    "num_key_value_heads": [None, 2],
    "embedding_size": [None, 8, 32],
    "type_vocab_size": [0, 1, 2],
    "norm_placement": [{"type": "post"}, {"type": "pre"}],
    "norm": [{"type": "layer_norm"}, {"type": "rms_norm"}],
    "layer_norm_eps": [1e-5, 1e-12],
    "embedding_norm": [True, False],
    "first_norm": [True, False],
    "query_key_norm": [False, True],
    "activation": [{"type": t} for t in ("gelu", "gelu_tanh", "geglu", "swiglu")],
    "head_layers": [True, False],
    "tied_decoder": [True, False],
    "head_activation": ["gelu", "gelu_tanh", "silu"],
    "positions": [
        {"type": "learned"},
        {"type": "learned", "offset": 0},
        {"type": "learned", "offset": 7},
        {"type": "rotary", "base": 5_000.0},
        {"type": "rotary", "local_base": 500.0},
        {"type": "none"},
    ],
    "attention_pattern": [
        {"type": "full"},
        {"type": "window", "neighbours": 3},
        {"type": "alternating", "neighbours": 3, "global_every": 5},
    ],
    "parameter_sharing": [{"type": "none"}, {"type": "groups", "num_groups": 1}],
    "pad_token_id": [0, 1, 5],
    "pooler": [{"type": "none"}, {"type": "mean"}],
    "packed_rows": [{"type": "across"}, {"type": "inside"}],
    "hidden_dropout": [0.1, 0.0],
    "bias": [
        {},
        {"attention": False, "mlp": False},
        {"mlp_up": False},
        {"head": False},
        {"norm": False},
        {"decoder": False},
    ],
}


def some_config(generator: random.Random) -> ModelConfig | None:
    """A config of random choices; None where they disagree."""
    names = generator.sample(sorted(CHOICES), generator.randint(1, 8))
    try:
        return ModelConfig(**SIZES | {name: generator.choice(CHOICES[name]) for name in names})
    except ValidationError:
        return None


def test_the_named_settings_make_any_model_exportable() -> None:
    generator = random.Random(0)
    num_refused = 0
    for _ in range(250):
        config = some_config(generator)
        if config is None:
            continue
        for family in FAMILIES:
            if family.can_hold(config):  # then config.json holds everything that is computed
                back, _ = family.model_config(family.hf_config(config, 100), "config.json")
                assert family.can_hold(back)
        nearest = nearest_families(config)
        counts = [len(changes) for _, changes in nearest]
        assert counts == sorted(counts)
        assert len(nearest) == MAX_NEAREST
        if counts[0] == 0:
            assert family_of_model(config).can_hold(config)
            continue
        num_refused += 1
        for family, changes in nearest:
            assert family.can_hold(with_changes(config, changes)), (family.model_type, config)
        with pytest.raises(ConfigError):
            family_of_model(config)
    assert num_refused > 60


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (
            {"norm": {"type": "rms_norm"}},
            ["roberta: model.norm.type: layer_norm (now rms_norm)"],
        ),
        (
            {"attention_pattern": {"type": "window", "neighbours": 3}},
            ["roberta: model.attention_pattern: {type: full} (now window)"],
        ),
        (
            {"activation": {"type": "swiglu"}, "norm_placement": {"type": "pre"}},
            ["roberta-prelayernorm: model.activation.type: gelu (now swiglu)"],
        ),
        (
            {"positions": {"type": "none"}, "pad_token_id": 0},
            ["bert: model.positions: {type: learned, offset: 0} (now none)"],
        ),
        (
            {"bias": {"attention": False}, "query_key_norm": True},
            ["roberta: model.query_key_norm: false (now true), model.bias.attention: true"],
        ),
        (
            {"positions": {"type": "learned", "offset": 5}},
            [
                "roberta: model.positions.offset: 2 (now 5)\n",
                "bert: model.positions.offset: 0 (now 5)",
            ],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_the_nearest_families_are_named(model: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        family_of_model(ModelConfig(**{**SIZES, **model}))
    for line in lines:
        assert f"\n  {line}" in str(error.value)


def test_settings_that_mean_the_same_are_no_obstacle() -> None:
    for same in (
        {"parameter_sharing": {"type": "groups", "num_groups": 4}},
        {"num_key_value_heads": 4},
        {"head_transform": {"type": "prediction"}},
        {"embedding_start": {"type": "vectors", "path": "vectors.txt"}},
    ):
        assert family_of_model(ModelConfig(**{**SIZES, **same})).model_type == "roberta"
