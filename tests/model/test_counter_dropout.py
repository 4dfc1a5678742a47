"""Dropout by counters: right in distribution, a function of seed and place alone."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor

from model.counter_dropout import counter_dropout, fused_kept_values, kept_values, mixed
from model.dropout import CounterDropout, Site, layer_dropouts, mask_seed, seed_tensor

CPU = torch.device("cpu")
SEEDS = seed_tensor([mask_seed(key, 0, Site.HEAD) for key in range(3)], CPU)


def kept(shape: tuple[int, ...], rate: float, seeds: Tensor, first: int = 0) -> Tensor:
    return counter_dropout(torch.ones(shape), rate, seeds, first=first) != 0


def test_mixing_is_a_bijection() -> None:
    places = torch.arange(2**16, dtype=torch.int32)
    for high in (0, 1, -(2**15)):
        assert len(torch.unique(mixed(places + high * 2**16))) == 2**16
    # The values of the unsigned definition, computed with Python's integers.
    for value in (0, 1, 77, 2**31 - 1, -1, -(2**31)):
        found = int(mixed(torch.tensor(value, dtype=torch.int32)))
        assert found % 2**32 == _triple32(value % 2**32)


def _triple32(x: int) -> int:
    x = (x ^ (x >> 17)) * 0xED5AD4BB % 2**32
    x = (x ^ (x >> 11)) * 0xAC4C1B51 % 2**32
    x = (x ^ (x >> 15)) * 0x31848BAB % 2**32
    return x ^ (x >> 14)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_masks_keep_the_share_and_are_independent(rate: float) -> None:
    keys = [(key, layer) for key in (0, 1, 2, 3, 2**40) for layer in (0, 1)]
    seeds = seed_tensor([mask_seed(*key, Site.MLP_OUTPUT) for key in keys], CPU)
    masks = kept((10, 1024, 256), rate, seeds).double()
    deviation = (rate * (1 - rate) / masks[0].numel()) ** 0.5
    for mask in masks:
        assert abs(float(mask.mean()) - (1 - rate)) < 5 * deviation
        for dimension, count in ((0, 1024), (1, 256)):  # neither rows nor columns are alike
            expected = (rate * (1 - rate) / count) ** 0.5
            assert float(mask.mean(dim=dimension).std()) == pytest.approx(expected, rel=0.2)
    flat = masks.flatten(1)
    shifted = [flat.roll(distance, dims=1) for distance in (1, 2, 256, 4096)]
    correlation = torch.corrcoef(torch.cat([flat, *shifted])) - torch.eye(50)
    assert float(correlation.abs().max()) < 5.5 / flat.shape[1] ** 0.5


def test_parts_of_the_tokens_are_parts_of_the_mask() -> None:
    whole = kept((3, 12, 5), 0.4, SEEDS)
    parts = [kept((3, 4, 5), 0.4, SEEDS, first=index * 20) for index in range(3)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_scaled_and_gradients_follow_the_mask(dtype: torch.dtype) -> None:
    x = torch.randn(3, 50, 40).to(dtype).requires_grad_()
    y = counter_dropout(x, 0.25, SEEDS, scale=1 / 0.75)
    is_kept = kept((3, 50, 40), 0.25, SEEDS)
    assert torch.equal(y, torch.where(is_kept, x * (1 / 0.75), 0))
    y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, is_kept.to(dtype) / 0.75)


def test_layers_sites_and_heads_have_masks_of_their_own() -> None:
    x = torch.ones(8, 30, 30)

    def masks(key: int) -> list[Tensor]:
        found = []
        for drawing in layer_dropouts(key, 2, num_heads=4, device=CPU, with_counters=True):
            assert isinstance(drawing, CounterDropout)
            found += list(drawing.probabilities(x[:4], 0.5, first_head=0))
            for site in (Site.EMBEDDING, Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT):
                found.append(drawing.hidden(x[0], 0.5, site, (0, 1)))
            later = drawing.probabilities(x[:2], 0.5, first_head=2)  # a rank's heads 2 and 3
            assert torch.equal(later, torch.stack(found[-5:-3]))
        return found

    both = torch.stack([*masks(1), *masks(2)]).flatten(1)
    assert len(torch.unique(both, dim=0)) == 2 * 2 * 7


def test_a_mask_of_too_many_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="take fewer rows"):
        counter_dropout(torch.ones(3, 1, 1).expand(3, 2, 2**30 + 1), 0.1, SEEDS)


def test_one_compiled_form_serves_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(kept_values, dynamic=True, backend=keep)
    for width in range(2, 40, 3):
        x = torch.ones(3, width, 8)
        found = compiled(x.flatten(1), 0.25, SEEDS, 1.0, 0).view(x.shape)
        assert torch.equal(found, counter_dropout(x, 0.25, SEEDS))
    assert len(graphs) <= 2
    torch._dynamo.reset()


def test_without_a_compiler_masks_are_computed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(graph: object, inputs: object, **_: object) -> object:
        raise RuntimeError("no compiler here")

    compile_of_torch = torch.compile
    monkeypatch.setattr(torch, "compile", partial(compile_of_torch, backend=fails))
    fused_kept_values.cache_clear()
    assert fused_kept_values(CPU) is kept_values
    message = r"torch\.compile failed on dropout: .*no compiler here\n.*; dropout takes many"
    assert re.search(message, caplog.text)
    fused_kept_values.cache_clear()
