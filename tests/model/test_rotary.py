"""Rotary positions: the fused split against the formula, to the bit, and the formula itself."""

import pytest
import torch
from torch import Tensor

from model.rotary import Rotation, rotate, rotation_of, split_and_rotate

B, S, H, D = 3, 10, 4, 16


def _inputs(dtype: torch.dtype, rows: int) -> tuple[Tensor, Rotation]:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(B, S, H, 3, D, generator=generator).to(dtype).requires_grad_()
    places = torch.randint(S, (rows, S), generator=generator)
    return qkv, rotation_of(places, D, 10_000.0, dtype)


def _by_formula(qkv: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.permute(3, 2, 0, 1, 4).contiguous().unbind(0)
    return rotate(query, rotation), rotate(key, rotation), value


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_split_and_rotate_has_the_bits_of_the_formula(dtype: torch.dtype, rows: int) -> None:
    qkv, rotation = _inputs(dtype, rows)
    expected = _by_formula(qkv, rotation)
    found = split_and_rotate(qkv, rotation)
    weights = [torch.randn(part.shape).to(dtype) for part in expected]
    gradients = []
    for parts in (expected, found):
        for part, other in zip(parts, expected, strict=True):
            assert part.is_contiguous()
            assert torch.equal(part, other)
        sums = [(part * weight).sum() for part, weight in zip(parts, weights, strict=True)]
        (gradient,) = torch.autograd.grad(torch.stack(sums).sum(), qkv)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(6)
    query, key = torch.randn(2, 1, 1, 1, D, generator=generator)

    def score(query_place: int, key_place: int) -> Tensor:
        def turned(x: Tensor, place: int) -> Tensor:
            return rotate(x, rotation_of(torch.tensor([[place]]), D, 10_000.0, torch.float32))

        return (turned(query, query_place) * turned(key, key_place)).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score(7, 3), score(3, 7), rtol=1e-3)
