"""Dropout masks: right in distribution, keyed by what they decide for."""

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.dropout import Site, draw_keep_mask, dropout, mask_seed
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank


def keep_mask(shape: tuple[int, ...], rate: float, seed: int) -> Tensor:
    mask = torch.empty(shape, dtype=torch.int16)
    draw_keep_mask(mask, rate, seed)
    return mask


def test_masks_keep_the_share_and_are_independent() -> None:
    masks = [
        (keep_mask((64, 4096), 0.1, mask_seed(3, layer, site, head)) != 0).float()
        for layer in (0, 1)
        for site in (Site.ATTENTION_PROBABILITIES, Site.MLP_OUTPUT)
        for head in (0, 1)
    ]
    for mask in masks:
        assert float(mask.mean()) == pytest.approx(0.9, abs=0.003)
        assert float(mask.mean(dim=0).std()) == pytest.approx(0.3 / 8, rel=0.1)
    stacked = torch.stack([mask.flatten() for mask in masks])
    correlation = torch.corrcoef(stacked) - torch.eye(len(masks))
    assert float(correlation.abs().max()) < 0.01


def test_a_mask_is_a_function_of_its_key() -> None:
    first = keep_mask((7, 9), 0.3, mask_seed(1, 2, Site.EMBEDDING))
    torch.manual_seed(0)
    assert torch.equal(first, keep_mask((7, 9), 0.3, mask_seed(1, 2, Site.EMBEDDING)))
    seeds = {
        mask_seed(key, layer, site, head)
        for key in (0, 1, 2**40)
        for layer in range(3)
        for site in Site
        for head in range(3)
    }
    assert len(seeds) == 3 * 3 * len(Site) * 3


def test_parts_of_the_tokens_are_parts_of_the_mask() -> None:
    x = torch.ones(12, 5)
    whole = dropout(x, 0.4, seed=9)
    parts = [dropout(x[:4], 0.4, 9, part=(index, 3)) for index in range(3)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_scaled_and_gradients_follow_the_mask(dtype: torch.dtype) -> None:
    x = torch.randn(50, 40).to(dtype).requires_grad_()
    y = dropout(x, 0.25, seed=4)
    kept = y != 0
    torch.testing.assert_close(y[kept], (x / 0.75)[kept])
    y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept.to(dtype) / 0.75)


@in_one_rank
def test_dropout_is_on_only_in_training_with_a_key() -> None:
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 16}
    config = ModelConfig.model_validate(sizes)
    model = build_masked_lm(config, 203, make_grid(1), seed=0)
    tokens = torch.randint(4, 200, (2, 16))
    positions = torch.tensor([[1, 2], [3, 4]])
    labels = torch.full((2, 2), 8)

    def loss(key: int | None) -> float:
        return float(model(tokens, positions, labels, dropout_key=key)[0].detach())

    model.eval()
    plain = loss(None)
    assert loss(1) == plain
    model.train()
    assert loss(None) == plain
    assert loss(1) == loss(1)
    assert len({plain, loss(1), loss(2)}) == 3
