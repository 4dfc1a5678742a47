"""Growing by tiling: exact tensors, and sizes that cannot grow."""

from typing import Any

import numpy as np
import pytest
import torch

from configs.load import ConfigError
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.parameters import parameter_specs
from pipeline.start.architecture import check_architecture
from pipeline.start.tiling import Tiling, centred, layer_map
from tests.gloo import in_one_rank

SMALL: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "ffn_hidden_size": 6,
    "max_row_tokens": 10,
    "activation": {"type": "swiglu"},
}
LARGE = {
    **SMALL,
    "num_layers": 3,
    "hidden_size": 18,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "ffn_hidden_size": 11,
    "max_row_tokens": 25,
}
VOCAB_SIZE = 13


def reference_tiles(small: torch.Tensor, size: int) -> torch.Tensor:
    """One dimension as the paper's code fills it: the centre, then left and right of it."""
    length = len(small)
    offset = (size - length) // 2
    result = torch.empty(size, *small.shape[1:])
    result[offset : offset + length] = small
    for step in range(offset):
        result[offset - 1 - step] = small[length - 1 - step % length]
    for place in range(offset + length, size):
        result[place] = small[(place - offset) % length]
    return result


@pytest.mark.parametrize(("old", "new"), [(4, 4), (4, 5), (4, 6), (3, 8), (2, 9), (768, 1024)])
def test_a_dimension_is_centred_and_wraps_around(old: int, new: int) -> None:
    small = torch.arange(old)
    assert reference_tiles(small, new).tolist() == centred(old, new).tolist()


def test_layers_are_spread_over_the_depth() -> None:
    assert layer_map(22, 28) == [round(i * 22 / 28) for i in range(28)]
    assert layer_map(2, 4) == [0, 0, 1, 1]
    assert layer_map(2, 5) == [0, 0, 1, 1, 1]
    assert layer_map(3, 3) == [0, 1, 2]


@in_one_rank
def test_every_tensor_of_the_larger_model_is_a_tile() -> None:
    grid = make_grid(1)
    start, now = ModelConfig(**SMALL), ModelConfig(**LARGE)
    model = build_masked_lm(start, VOCAB_SIZE, grid, 1)
    small = {
        name: parameter.detach()[tuple(map(slice, parameter_specs(model)[name].full_shape))]
        for name, parameter in model.named_parameters()
    }
    specs = parameter_specs(build_masked_lm(now, VOCAB_SIZE, grid, 1))
    tiling = Tiling(start, now)
    grown = {
        name: tiling.tiled(name, small[tiling.source(name)], spec.full_shape)
        for name, spec in specs.items()
    }
    assert {tuple(t.shape) == specs[name].full_shape for name, t in grown.items()} == {True}
    hidden, layer = centred(8, 18), "encoder.layers.1"
    of_layer = "encoder.layers.1"  # round(1 x 2 / 3)
    word = small["encoder.embeddings.word.weight"]
    assert torch.equal(grown["encoder.embeddings.word.weight"], word[:, hidden])
    assert torch.equal(grown["head.bias"], small["head.bias"])
    position = small["encoder.embeddings.position.weight"]
    rows = [0, 1, *(2 + n % 10 for n in range(25))]
    assert torch.equal(grown["encoder.embeddings.position.weight"], position[rows][:, hidden])
    qkv = small[f"{of_layer}.attention.qkv.weight"].view(2, 4, 2, 8)  # [k, g + 2, d, H]
    expected = qkv[centred(2, 3)][:, [*centred(2, 3), 2, 3]].reshape(-1, 8)[:, hidden]
    assert torch.equal(grown[f"{layer}.attention.qkv.weight"], expected)
    output = small[f"{of_layer}.attention.output.weight"].view(8, 2, 2, 2)  # [H, k, g, d]
    expected = output[:, centred(2, 3)][:, :, centred(2, 3)].reshape(8, -1)[hidden]
    assert torch.equal(grown[f"{layer}.attention.output.weight"], expected)
    up = small[f"{of_layer}.mlp.up.weight"].view(6, 2, 8)  # [F, gate and value, H]
    expected = up[centred(6, 11)].reshape(-1, 8)[:, hidden]
    assert torch.equal(grown[f"{layer}.mlp.up.weight"], expected)
    down = small[f"{of_layer}.mlp.down.weight"]
    assert torch.equal(grown[f"{layer}.mlp.down.weight"], down[hidden][:, centred(6, 11)])
    norm = small[f"{of_layer}.mlp_norm.weight"]
    assert torch.equal(grown[f"{layer}.mlp_norm.weight"], norm[hidden])


def test_equal_sizes_stay_as_they_are() -> None:
    config = ModelConfig(**SMALL)
    tensor = torch.arange(16 * 8).view(16, 8)
    name = "encoder.layers.1.attention.qkv.weight"
    assert torch.equal(Tiling(config, config).tiled(name, tensor, (16, 8)), tensor)


@pytest.mark.parametrize(("old", "new", "rows"), [(2, 1, [0, 2, 3, 4]), (0, 2, [0, 0, 0, 1, 2])])
def test_positions_move_with_the_padding_id(old: int, new: int, rows: list[int]) -> None:
    sizes = {**SMALL, "max_row_tokens": 3}
    start, now = (
        ModelConfig(**{**sizes, "positions": {"type": "learned", "offset": offset}})
        for offset in (old, new)
    )
    small = torch.arange(3.0 + old)[:, None].expand(-1, 8)
    name = "encoder.embeddings.position.weight"
    assert Tiling(start, now).tiled(name, small, (3 + new, 8))[:, 0].tolist() == rows


def test_the_norm_that_the_first_layer_lacks_is_new() -> None:
    modern = {"norm_placement": {"type": "pre"}, "first_norm": False}
    start = ModelConfig(**{**SMALL, **modern})
    tiling = Tiling(start, ModelConfig(**{**SMALL, **modern, "num_layers": 4}))
    names = [f"encoder.layers.{n}.attention_norm.weight" for n in range(4)]
    assert [tiling.is_new(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "grow", "messages"),
    [
        ({"hidden_size": 16}, None, ["model.hidden_size is 16, the start's 8 (start.grow"]),
        ({"hidden_size": 4}, None, ["model.hidden_size is 4, the start's 8\n"]),
        ({"ffn_hidden_size": 5}, "tiling", ["model.ffn_hidden_size is 5, less than"]),
        ({"num_layers": 1}, "tiling", ["model.num_layers is 1, less than the start's 2"]),
        (
            {"hidden_size": 12},
            "tiling",
            [
                "model.hidden_size 12 would make the size of an attention head 3; the start's is 2",
                "set model.num_attention_heads to 6",
            ],
        ),
        (
            {"num_key_value_heads": 4},
            "tiling",
            ["model.num_key_value_heads 4 would make each head of keys and values serve 1 heads"],
        ),
        ({"hidden_size": 4}, "tiling", ["model.hidden_size is 4, less than the start's 8\n"]),
        ({"max_row_tokens": 9}, "tiling", ["model.max_row_tokens is 9, less than"]),
        ({"embedding_size": 8}, "tiling", ["embedding_size"]),
        (
            {"norm": {"type": "rms_norm"}, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
            "tiling",
            ["model.norm.type is 'rms_norm'", "model.type_vocab_size is 2", "layer_norm_eps"],
        ),
    ],
)
def test_what_cannot_start_from_a_model_is_named(
    changes: dict[str, Any], grow: str | None, messages: list[str]
) -> None:
    start = ModelConfig(**SMALL)
    with pytest.raises(ConfigError) as error:
        check_architecture(start, ModelConfig(**{**SMALL, **changes}), grow, "here")
    for message in messages:
        assert message in str(error.value)
    if grow is not None:  # what was not set is not named as if it had been
        first = [line.split()[0] for line in str(error.value).splitlines()[1:-1]]
        assert {name.rstrip(":").split(".")[1] for name in first} == changes.keys()


def test_what_shapes_no_weight_is_free() -> None:
    rotary = {**SMALL, "positions": {"type": "rotary"}}
    longer = {"max_row_tokens": 64, "attention_pattern": {"type": "window", "neighbours": 4}}
    check_architecture(
        ModelConfig(**rotary),
        ModelConfig(**{**rotary, **longer, "positions": {"type": "rotary", "base": 160_000}}),
        None,
        "here",
    )
    assert np.array_equal(centred(5, 5), np.arange(5))
