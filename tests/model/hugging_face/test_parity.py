"""Our model and Hugging Face's compute the same from the same weights, at TP 1, 2 and 4."""

from typing import Any, get_args

import pytest
import torch
import transformers

from configs.load import ConfigError
from model.config import ModelConfig
from model.head_types import HeadType
from model.heads import build_masked_lm
from model.hugging_face.families import FAMILIES, family_of_folder, family_of_model
from model.hugging_face.family import Family, auto_class
from model.hugging_face.modernbert import MODERNBERT
from model.parallel.grid import make_grid
from model.parameters import parameter_specs, shard_tensor
from tests.gloo import run_ranks

VOCAB_SIZE = 203
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 24}
MODELS: dict[str, dict[str, Any]] = {
    "roberta": {},
    "bert": {
        "positions": {"type": "learned", "offset": 0},
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    "roberta-prelayernorm": {"norm_placement": {"type": "pre"}},
    "modernbert": {
        "num_layers": 4,
        "ffn_hidden_size": 48,
        "norm_placement": {"type": "pre"},
        "first_norm": False,
        "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
        "activation": {"type": "geglu"},
        "positions": {"type": "rotary", "base": 160_000.0, "local_base": 10_000.0},
        "attention_pattern": {"type": "alternating", "neighbours": 3, "global_every": 3},
        "type_vocab_size": 0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
}
MODELS |= {
    "eurobert": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "ffn_hidden_size": 48,
        "type_vocab_size": 0,
        "norm_placement": {"type": "pre"},
        "norm": {"type": "rms_norm"},
        "embedding_norm": False,
        "bias": {"attention": False, "mlp": False, "decoder": False},
        "activation": {"type": "swiglu"},
        "positions": {"type": "rotary", "base": 250_000.0},
        "head_layers": False,
        "tied_decoder": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "nomic_bert": {
        "ffn_hidden_size": 48,
        "bias": {"attention": False, "mlp": False},
        "activation": {"type": "swiglu"},
        "head_activation": "silu",
        "positions": {"type": "rotary", "base": 1_000.0},
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    "gte": {
        "ffn_hidden_size": 48,
        "bias": {"mlp_up": False},
        "activation": {"type": "geglu"},
        "positions": {"type": "rotary", "base": 160_000.0},
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-12,
    },
    "albert": {
        "num_layers": 4,
        "embedding_size": 12,
        "parameter_sharing": {"type": "groups", "num_groups": 2},
        "activation": {"type": "gelu_tanh"},
        "head_activation": "gelu_tanh",
        "positions": {"type": "learned", "offset": 0},
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
}
SAME_NETWORK: dict[str, dict[str, Any]] = {"xlm-roberta": {}, "camembert": {}}
"""Families that are imported; what they compute is exported as RoBERTa."""


def hf_model(config: ModelConfig) -> Any:
    """A randomly initialised Hugging Face model whose every tensor differs from its default."""
    family = family_of_model(config)
    settings = family.hf_config(config, VOCAB_SIZE)
    settings["attn_implementation"] = "eager"
    torch.manual_seed(3)
    model = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(**settings)
    ).eval()
    assert type(model).__name__ == settings["architectures"][0] == family.masked_lm_class
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tokens_with_padding(config: ModelConfig) -> torch.Tensor:
    tokens = torch.randint(4, VOCAB_SIZE - 1, (3, 20), generator=torch.Generator().manual_seed(1))
    tokens[1, -6:] = config.pad_token_id
    return tokens


def segments_of(config: ModelConfig) -> torch.Tensor | None:
    """The first half of a row is one text, the rest another; None for models of one segment."""
    if config.type_vocab_size < 2:
        return None
    return (torch.arange(20) >= 10).long().expand(3, 20)


def our_logits(settings: dict[str, Any], full: dict[str, torch.Tensor], tp_size: int) -> Any:
    config = ModelConfig(**settings)
    grid = make_grid(tp_size)
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=0).eval()
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(shard_tensor(specs[name], full[name], grid.tp_rank, tp_size))
        tokens, segments = tokens_with_padding(config), segments_of(config)
        return model.logits(tokens, segments), model.hidden_states(tokens, segments)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_hugging_face_at_every_tensor_parallel_size(name: str) -> None:
    settings = {**{**SIZES, **MODELS[name]}}
    config = ModelConfig(**settings)
    family = family_of_model(config)
    assert family.model_type == name
    theirs = hf_model(config)
    tokens = tokens_with_padding(config)
    is_text = tokens != config.pad_token_id
    segments = segments_of(config)
    inputs = {} if segments is None else {"token_type_ids": segments}
    with torch.no_grad():
        outputs = theirs(tokens, attention_mask=is_text.long(), output_hidden_states=True, **inputs)
    full = family.from_hf(theirs.state_dict(), config, VOCAB_SIZE)
    for tp_size in (1, 2, 4):
        for logits, hidden in run_ranks(our_logits, tp_size, settings, full, tp_size):
            torch.testing.assert_close(
                logits[is_text], outputs.logits[is_text], rtol=1e-5, atol=1e-5
            )
            if name != "roberta-prelayernorm":  # its last hidden state comes before the norm
                torch.testing.assert_close(
                    hidden[is_text], outputs.hidden_states[-1][is_text], rtol=1e-5, atol=1e-5
                )


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_equal_to_the_bit(name: str) -> None:
    config = ModelConfig(**{**SIZES, **MODELS[name]})
    theirs = hf_model(config)
    state = theirs.state_dict()
    family = family_of_model(config)
    back = family.to_hf(family.from_hf(state, config, VOCAB_SIZE), config)
    tied = {key for key in state if "decoder." in key and key not in back}
    assert back.keys() == state.keys() - tied
    assert all(torch.equal(back[name], state[name]) for name in back)
    missing, unexpected = theirs.load_state_dict(back, strict=False)
    assert not unexpected
    assert set(missing) <= tied


def test_bad_tensors_are_all_named_at_once() -> None:
    config = ModelConfig(**SIZES)
    state = hf_model(config).state_dict()
    del state["roberta.encoder.layer.1.attention.self.key.bias"]
    state["lm_head.dense.weight"] = torch.zeros(3, 4)
    state["roberta.encoder.layer.2.output.dense.bias"] = torch.zeros(32)
    state["lm_head.decoder.weight"] = state["lm_head.decoder.weight"] + 1
    with pytest.raises(ConfigError) as error:
        family_of_model(config).from_hf(state, config, VOCAB_SIZE)
    message = str(error.value)
    for expected in (
        "4 tensor(s)",
        "roberta.encoder.layer.1.attention.self.key.bias: missing (expected [32])",
        "lm_head.dense.weight: shape [3, 4], expected [32, 32]",
        "roberta.encoder.layer.2.output.dense.bias: superfluous",
        "lm_head.decoder.weight: differs from roberta.embeddings.word_embeddings.weight",
    ):
        assert expected in message


def test_shared_layers_are_written_out_and_must_be_equal_to_come_back() -> None:
    config = ModelConfig(**SIZES, parameter_sharing={"type": "groups", "num_groups": 1})
    plain = ModelConfig(**SIZES)
    family = family_of_model(config)
    ours = family.from_hf(hf_model(plain).state_dict(), plain, VOCAB_SIZE)
    ours = {name: tensor for name, tensor in ours.items() if "layers.1." not in name}
    theirs = family.to_hf(ours, config)
    assert len({tensor.data_ptr() for tensor in theirs.values()}) == len(theirs)
    back = family.from_hf(theirs, config, VOCAB_SIZE)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    theirs["roberta.encoder.layer.1.output.dense.bias"] += 1
    with pytest.raises(ConfigError, match="parameter_sharing gives both layers the same weights"):
        family.from_hf(theirs, config, VOCAB_SIZE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_configs_return_from_hugging_face(family: Family) -> None:
    config = ModelConfig(**{**SIZES, **(MODELS | SAME_NETWORK)[family.model_type]})
    assert family.changes(config) == []
    hf = family.hf_config(config, VOCAB_SIZE)
    assert family_of_folder(hf, [], "config.json") is family
    assert family.model_config(hf, "config.json") == (config, VOCAB_SIZE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@pytest.mark.parametrize("head", get_args(HeadType))
def test_task_heads_have_the_names_of_transformers(family: Family, head: HeadType) -> None:
    if head not in family.heads:
        with pytest.raises(ConfigError, match="transformers has no class"):
            family.task_class(head)
        return
    model = {**SIZES, **(MODELS | SAME_NETWORK)[family.model_type], "pooler": {"type": "first"}}
    config = ModelConfig(**model, head_transform={"type": family.head_transform})
    settings = {**family.hf_config(config, VOCAB_SIZE), "num_labels": 3}
    if head not in family.heads:
        name = f"{family.class_prefix}For{auto_class(head).removeprefix('AutoModelFor')}"
        assert not hasattr(transformers, name)
        for refused in (
            lambda: family.task_class(head),
            lambda: family.task_to_hf({}, config, "mine", head),
        ):
            with pytest.raises(ConfigError, match=f"transformers has no class {name}"):
                refused()
        return
    num_outputs = 1 if head == "multiple_choice" else 3
    theirs = getattr(transformers, auto_class(head)).from_config(
        transformers.AutoConfig.for_model(**settings)
    )
    assert type(theirs).__name__ == family.task_class(head)
    plain = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(**settings)
    )
    state = family.from_hf(plain.state_dict(), config, VOCAB_SIZE)
    state["pooler.dense.weight"] = torch.zeros(32, 32)
    state["pooler.dense.bias"] = torch.zeros(32)
    state["transforms.mine.dense.weight"] = torch.zeros(32, 32)
    state["transforms.mine.dense.bias"] = torch.zeros(32)
    state["transforms.mine.norm.weight"] = torch.zeros(32)
    state["task_heads.mine.output.weight"] = torch.zeros(num_outputs, 32)
    state["task_heads.mine.output.bias"] = torch.zeros(num_outputs)
    theirs.load_state_dict(family.task_to_hf(state, config, "mine", head))


def test_modernbert_of_transformers_4_is_imported() -> None:
    """Its config.json has neither layer_types nor rope_parameters."""
    config = ModelConfig(**{**SIZES, **MODELS["modernbert"]})
    hf = MODERNBERT.hf_config(config, VOCAB_SIZE)
    older = {k: v for k, v in hf.items() if k not in ("layer_types", "rope_parameters")}
    newer = {k: v for k, v in hf.items() if "global_" not in k and "local_rope" not in k}
    for tree in (older, newer):
        assert MODERNBERT.model_config(tree, "config.json") == (config, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, "layer_types"),
        ({"hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn'"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_a_modernbert_that_is_computed_differently_is_refused(
    change: dict[str, Any], message: str
) -> None:
    config = ModelConfig(**{**SIZES, **MODELS["modernbert"]})
    hf = {**MODERNBERT.hf_config(config, VOCAB_SIZE), **change}
    with pytest.raises(ConfigError, match=message):
        MODERNBERT.model_config(hf, "config.json")


def test_a_modernbert_with_all_layers_full_returns() -> None:
    model = {**SIZES, **MODELS["modernbert"], "attention_pattern": {"type": "full"}}
    config = ModelConfig(**{**model, "positions": {"type": "rotary", "base": 160_000.0}})
    hf = MODERNBERT.hf_config(config, VOCAB_SIZE)
    assert MODERNBERT.model_config(hf, "config.json") == (config, VOCAB_SIZE)
