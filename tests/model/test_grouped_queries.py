"""Grouped-query attention and norms of queries and keys equal a plain reference, at any grid."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from configs.load import ConfigError
from model.attention import SelfAttention
from model.attention_masks import Backend
from model.compute import ComputeConfig
from model.config import ModelConfig, architecture_differences
from model.flops import encoder_flops
from model.grid_check import check_grid
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.row_context import RowContext, make_row_context
from model.size import count_matrix_parameters
from tests.gloo import run_ranks
from tests.model.parallel.test_tensor_parallel import assert_parity

VOCAB_SIZE = 203
ROWS, TOKENS = 2, 12
HEADS, SIZE = 4, 16
SETTINGS: dict[str, Any] = {
    "num_layers": 1,
    "hidden_size": HEADS * SIZE,
    "num_attention_heads": HEADS,
    "max_row_tokens": 16,
    "positions": {"type": "rotary"},
    "attention_dropout": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "one head of its own each": {"query_key_norm": True},
    "two groups": {"num_key_value_heads": 2},
    "one group": {"num_key_value_heads": 1, "norm": {"type": "rms_norm"}, "query_key_norm": True},
    "layer norm": {"num_key_value_heads": 2, "query_key_norm": True},
    "no bias": {
        "num_key_value_heads": 2,
        "query_key_norm": True,
        "bias": {"attention": False, "norm": False},
    },
}


def plain_attention(
    weights: dict[str, Tensor], config: ModelConfig, x: Tensor, context: RowContext
) -> Tensor:
    """[T, H] of `x` [T, H], head by head."""
    groups = config.key_value_heads
    queries_of = HEADS // groups
    fused = functional.linear(x, weights["qkv.weight"], weights.get("qkv.bias"))
    fused = fused.view(ROWS, TOKENS, groups, queries_of + 2, SIZE)
    assert context.rotations is not None
    cosine, sine = (torch.cat([part[0]] * 2, dim=-1) for part in context.rotations[None])

    def placed(part: Tensor, kind: str) -> Tensor:
        if config.query_key_norm:
            weight, bias = weights[f"{kind}_norm.weight"], weights.get(f"{kind}_norm.bias")
            if config.norm.type == "rms_norm":
                square = part.square().mean(-1, keepdim=True)
                part = part / (square + config.layer_norm_eps).sqrt() * weight
            else:
                part = functional.layer_norm(part, (SIZE,), weight, bias, config.layer_norm_eps)
        turned = torch.cat([-part[..., SIZE // 2 :], part[..., : SIZE // 2]], dim=-1)
        return part * cosine + turned * sine

    mixed = []
    for head in range(HEADS):
        group, place = divmod(head, queries_of)
        query = placed(fused[:, :, group, place], "query")
        key, value = placed(fused[:, :, group, -2], "key"), fused[:, :, group, -1]
        scores = query @ key.mT / SIZE**0.5
        mixed.append(scores.softmax(dim=-1) @ value)
    together = torch.cat(mixed, dim=-1).view(ROWS * TOKENS, -1)
    return functional.linear(together, weights["output.weight"], weights.get("output.bias"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_backend_equals_plain_attention(variant: str) -> None:
    run_ranks(compare_with_plain_attention, 1, variant)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_backend_equals_plain_attention_on_cuda(variant: str) -> None:
    run_ranks(compare_with_plain_attention, 1, variant, device="cuda")


def compare_with_plain_attention(variant: str) -> None:
    config = ModelConfig(**{**SETTINGS, **VARIANTS[variant]})
    grid = make_grid(1)
    module = build_masked_lm(config, VOCAB_SIZE, grid, seed=1).encoder.layers[0].attention
    assert isinstance(module, SelfAttention)
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(grid.device)

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(random(*parameter.shape) * 0.3)
    x = random(ROWS * TOKENS, HEADS * SIZE).requires_grad_()
    direction = random(*x.shape)
    tokens = torch.full((ROWS, TOKENS), 9, device=grid.device)
    inputs: dict[str, Tensor] = dict(module.named_parameters())

    def gradients(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, [x, *inputs.values()], direction))

    backends: tuple[Backend, ...] = ("explicit", "sdpa", "flex")
    for backend in backends:
        context = make_row_context(config, backend, tokens, None, torch.float32)
        expected = plain_attention(inputs, config, x, context)
        of_layer = context.of_layer(0, window=None)
        if backend == "flex" and x.device.type == "cpu":  # no backward
            with torch.no_grad():
                torch.testing.assert_close(module(x, of_layer), expected, rtol=1e-5, atol=1e-5)
            continue
        found = module(x, of_layer)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients(found), gradients(expected), rtol=1e-4, atol=1e-4)


def test_groups_of_one_are_the_network_of_before() -> None:
    plain, given = ModelConfig(**SETTINGS), ModelConfig(**SETTINGS, num_key_value_heads=HEADS)
    assert architecture_differences(plain, given) == []
    assert given.num_key_value_heads is None
    assert given.key_value_heads == HEADS


def test_key_value_heads_divide_heads_and_grid() -> None:
    with pytest.raises(ValueError, match="does not divide num_attention_heads 4: use one of 1, 2"):
        ModelConfig(**SETTINGS, num_key_value_heads=3)
    config = ModelConfig(**SETTINGS, num_key_value_heads=2)
    check_grid(config, ComputeConfig(), 2)
    with pytest.raises(ConfigError) as error:
        check_grid(config, ComputeConfig(), 4)
    (line,) = str(error.value).splitlines()
    assert line.startswith("model.num_key_value_heads 2 is not divisible by tensor-parallel size 4")
    assert "nearest values that are: 4" in line
    assert "tensor-parallel sizes that divide 2: 1, 2" in line


def test_operations_and_matrices_are_counted() -> None:
    plain, grouped = ModelConfig(**SETTINGS), ModelConfig(**SETTINGS, num_key_value_heads=1)
    hidden = HEADS * SIZE
    fewer = 2 * (HEADS - 1) * SIZE * hidden
    assert count_matrix_parameters(plain) - count_matrix_parameters(grouped) == fewer
    assert encoder_flops(plain, TOKENS) - encoder_flops(grouped, TOKENS) == 2 * TOKENS * fewer


def test_four_ranks_with_sequence_parallelism() -> None:
    settings = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_key_norm": True,
        "positions": {"type": "rotary"},
        "max_row_tokens": 16,
        "tied_decoder": False,
        "head_layers": False,
        "compute": {"sequence_parallel": True},
    }
    assert_parity(settings, 4, num_steps=3)
