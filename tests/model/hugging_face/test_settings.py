"""Settings of a config.json that the network does not compute are refused by their own names."""

from typing import Any

import pytest

from configs.load import ConfigError
from model.config import ModelConfig
from model.hugging_face.families import FAMILIES, family_of_folder
from model.hugging_face.family import Family
from tests.model.hugging_face.test_parity import MODELS, SAME_NETWORK, SIZES, VOCAB_SIZE

BY_TYPE = {family.model_type: family for family in FAMILIES}
ROTARY = ("modernbert", "eurobert", "nomic_bert", "gte")
SIZE_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def hf_config(name: str) -> dict[str, Any]:
    config = ModelConfig(**{**SIZES, **(MODELS | SAME_NETWORK)[name]})
    return BY_TYPE[name].hf_config(config, VOCAB_SIZE)


def refusal(name: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        BY_TYPE[name].model_config({**hf_config(name), **changes}, "config.json")
    return str(error.value)


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize(
    "scaling",
    [{"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}],
    ids=["old", "new"],
)
def test_scaled_positions_are_refused_wherever_they_are_given(
    name: str, scaling: dict[str, Any]
) -> None:
    """Of `rope_scaling` and `rope_parameters`, transformers lets the former count."""
    kind = scaling.get("type") or scaling["rope_type"]
    assert f"rope_scaling.rope_type '{kind}' is not supported" in refusal(
        name, rope_scaling=scaling
    )
    parameters = {"full_attention": scaling} if name == "modernbert" else scaling
    assert f"rope_type '{kind}' is not supported" in refusal(name, rope_parameters=parameters)


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_settings_that_are_none(name: str) -> None:
    assert "rope_parameters 'abc' is no mapping" in refusal(name, rope_parameters="abc")
    for base in (0, -3.0, "x", True):
        section = {"rope_theta": base}
        where = {"full_attention": section} if name == "modernbert" else section
        assert f"rope_theta {base!r} is no number above 1" in refusal(name, rope_parameters=where)
    assert "partial_rotary_factor is not supported" in refusal(name, partial_rotary_factor=0.5)


@pytest.mark.parametrize("name", ["eurobert", "nomic_bert", "gte"])
def test_a_mapping_of_rope_scaling_counts(name: str) -> None:
    hf = {**hf_config(name), "rope_scaling": {"rope_type": "default"}, "rope_theta": 77.0}
    positions = BY_TYPE[name].model_config(hf, "config.json")[0].positions
    assert positions.type == "rotary"
    assert positions.base == 77.0


@pytest.mark.parametrize("name", BY_TYPE)
def test_sizes_that_are_none_are_named(name: str) -> None:
    for key in (*SIZE_KEYS, "max_position_embeddings", "vocab_size"):
        assert f"{key} is missing" in refusal(name, **{key: None})
        for value in ("abc", 2.5, [1], 0, -1, True):
            assert f"{key} {value!r} is no number from 1" in refusal(name, **{key: value})
    assert "pad_token_id -1 is no number from 0" in refusal(name, pad_token_id=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local_attention": None}, "local_attention None is no number from 2"),
        ({"local_attention": 1}, "local_attention 1 is no number from 2"),
        (
            {"local_attention": 48},
            "reaches beyond max_position_embeddings 24: set it to at most 47",
        ),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "every_n_layers 0 is no number"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types: 3, num_hidden_layers: 4"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types: only a full layer first"),
        ({"norm_bias": "no"}, "norm_bias 'no' is neither true nor false"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings None is neither true nor false"),
        ({"cls_token_id": -1}, "cls_token_id -1 is no number from 0"),
    ],
)
def test_settings_of_modernbert_are_named(change: dict[str, Any], message: str) -> None:
    assert message in refusal("modernbert", **change)


def test_a_modernbert_whose_config_leaves_out_ids() -> None:
    """transformers' defaults count; the id 0 is one."""
    hf = {k: v for k, v in hf_config("modernbert").items() if not k.endswith("_token_id")}
    config, _ = BY_TYPE["modernbert"].model_config({**hf, "cls_token_id": 0, "bos_token_id": 5}, "")
    assert (config.pad_token_id, config.begin_token_id) == (50_283, 0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_a_folder_without_model_type_is_known_by_its_class(family: Family, kind: str) -> None:
    architectures = {"architectures": [family.class_prefix + kind]}
    names = ["bert.embeddings.word_embeddings.weight"]  # in files of NomicBERT too
    assert family_of_folder(architectures, names, "config.json") is family


def test_folders_of_code_that_preceded_transformers_are_named() -> None:
    """NomicBERT's and GTE's on the hub, which load with trust_remote_code only."""
    hf = {"model_type": "nomic_bert", "vocab_size": 99, "n_embd": 32, "n_layer": 4, "n_head": 4}
    hf |= {"n_inner": 48, "n_positions": 24, "rotary_emb_base": 1000, "qkv_proj_bias": False}
    family = family_of_folder(hf, [], "config.json")
    with pytest.raises(ConfigError) as error:
        family.model_config(hf, "config.json")
    message = str(error.value)
    assert "n_embd, n_layer, n_head, n_inner, n_positions, rotary_emb_base are keys of" in message
    assert '"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4' in message
    today = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    today |= {"intermediate_size": 48, "max_position_embeddings": 24, "rope_theta": 1000}
    assert family.model_config({**hf, **today}, "config.json")[0].hidden_size == 32
    with pytest.raises(ConfigError, match=r"prenorm True is not supported \(only False\)"):
        family.model_config({**hf, **today, "prenorm": True}, "config.json")
    with pytest.raises(ConfigError, match="'new' cannot be imported: it is of GTE's own code"):
        family_of_folder({"model_type": "new"}, [], "config.json")
    assert "position_embedding_type 'absolute' is not supp" in refusal(
        "gte", position_embedding_type="absolute"
    )
