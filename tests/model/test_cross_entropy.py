"""The cross entropy over a sharded vocabulary against torch's, on one rank and on several.

Both ways run here: that of a CPU, and that of an accelerator, uncompiled unless a test compiles it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import cross_entropy, heads
from model.config import ModelConfig
from model.cross_entropy import vocabulary_cross_entropy
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank, run_ranks

N, V = 40, 24
WAYS = ("cpu", "accelerator")


@contextmanager
def on(way: str, compiles: bool = False) -> Iterator[None]:
    """In this block cross entropies are computed as on a CPU, or as on an accelerator."""

    def as_it_is(body: Callable[..., Tensor], _: torch.device) -> Callable[..., Tensor]:
        return body

    with (
        mock.patch.object(cross_entropy, "keeps_logits", return_value=way == "accelerator"),
        mock.patch.object(cross_entropy, "_fused", cross_entropy._fused if compiles else as_it_is),
    ):
        yield


def _logits(num_padding: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, V] logits, the last ones of padding."""
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(3)) * 4
    logits[:, V - num_padding :] = -torch.inf
    return logits.to(dtype)


def _targets(num_padding: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(V - num_padding, (N,), generator=generator)


def _on_a_rank(
    num_padding: int, dtype: torch.dtype, way: str, compiles: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(losses, is_right, gradient of the rank's logits)."""
    with on(way, compiles):
        return _computed(num_padding, dtype)


def _computed(num_padding: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    grid = make_grid(torch.distributed.get_world_size())
    mine = _logits(num_padding, dtype).chunk(grid.tp_size, dim=1)[grid.tp_rank].to(grid.device)
    targets = _targets(num_padding).to(grid.device)
    before = mine.clone()
    mine = mine.clone().requires_grad_()
    losses, is_right = vocabulary_cross_entropy(mine, targets, grid)
    weights = torch.arange(N, device=grid.device)  # a gradient of its own for each loss
    (gradient,) = torch.autograd.grad((losses * weights).sum(), mine)
    assert torch.equal(mine.detach(), before)  # the logits are left as they are
    copy = before.clone().requires_grad_()
    again, _ = vocabulary_cross_entropy(copy, targets, grid, overwrites=True)
    assert torch.equal(torch.autograd.grad((again * weights).sum(), copy)[0], gradient)
    is_in_place = cross_entropy.keeps_logits(mine.device)
    assert torch.equal(copy.detach(), gradient if is_in_place else before)
    return losses.detach().cpu(), is_right.cpu(), gradient.cpu()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_padding", [0, 1, 7])  # 7 of 24: at four ranks one has padding only
def test_losses_and_gradients_equal_those_of_torch(
    world_size: int, num_padding: int, way: str
) -> None:
    whole, targets = _logits(num_padding).requires_grad_(), _targets(num_padding)
    expected = F.cross_entropy(whole, targets, reduction="none")
    (of_torch,) = torch.autograd.grad((expected * torch.arange(N)).sum(), whole)
    results = run_ranks(_on_a_rank, world_size, num_padding, torch.float32, way)
    for losses, is_right, _ in results:
        torch.testing.assert_close(losses, expected.detach(), rtol=2e-6, atol=2e-6)
        assert torch.equal(losses, results[0][0])
        assert torch.equal(is_right, whole.argmax(1) == targets)
    gradient = torch.cat([gradient for _, _, gradient in results], dim=1)
    torch.testing.assert_close(gradient, of_torch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_bf16_logits_are_summed_in_fp32(way: str) -> None:
    whole = _logits(0, torch.bfloat16).requires_grad_()
    expected = F.cross_entropy(whole.float(), _targets(0), reduction="none").detach()
    for world_size in (1, 2):
        results = run_ranks(_on_a_rank, world_size, 0, torch.bfloat16, way)
        assert results[0][0].dtype == torch.float32
        torch.testing.assert_close(results[0][0], expected, rtol=2e-6, atol=2e-6)
        assert results[0][2].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_compiled_bodies_give_what_they_give_uncompiled(
    device: Literal["cpu", "cuda"], dtype: torch.dtype
) -> None:
    (plain,) = run_ranks(_on_a_rank, 1, 1, dtype, "accelerator")
    (compiled,) = run_ranks(_on_a_rank, 1, 1, dtype, "accelerator", True, device=device)
    assert torch.equal(compiled[1], plain[1])
    torch.testing.assert_close(compiled[0], plain[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(compiled[2], plain[2])


def _losses_of_bad_logits(way: str) -> list[tuple[Tensor, Tensor]]:
    with on(way):
        return _of_bad_logits()


def _of_bad_logits() -> list[tuple[Tensor, Tensor]]:
    grid = make_grid(torch.distributed.get_world_size())
    found = []
    for value in (torch.nan, torch.inf):
        logits = _logits(0)
        logits[3, 5] = value
        logits[3, :: V // 4] = -torch.inf  # the first of every rank, as padding is
        mine = logits.chunk(grid.tp_size, dim=1)[grid.tp_rank].clone().requires_grad_()
        losses, _ = vocabulary_cross_entropy(mine, _targets(0), grid)
        (gradient,) = torch.autograd.grad(losses.sum(), mine)
        found.append((losses.detach(), gradient))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_logits_that_are_not_numbers_give_such_a_loss(world_size: int, way: str) -> None:
    for found in run_ranks(_losses_of_bad_logits, world_size, way):
        for losses, gradient in found:
            assert losses.isnan().nonzero().flatten().tolist() == [3]
            assert gradient[3].isnan().any()
            assert gradient[:3].isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@in_one_rank
def test_of_equal_logits_the_first_is_the_prediction(way: str) -> None:
    logits = torch.zeros(2, V)
    with on(way):
        _, is_right = vocabulary_cross_entropy(logits, torch.tensor([0, 1]), make_grid(1))
    assert is_right.tolist() == [True, False]


def _collectives() -> int:
    grid = make_grid(2)
    calls = 0
    gather = torch.distributed.all_gather

    def counted(*args: object, **arguments: object) -> object:
        nonlocal calls
        calls += 1
        return gather(*args, **arguments)

    torch.distributed.all_gather = counted
    with torch.profiler.profile() as profile:
        vocabulary_cross_entropy(torch.randn(N, V // 2), _targets(0), grid)
    others = [event.key for event in profile.key_averages() if "all_reduce" in event.key]
    assert others == []
    return calls


def test_ranks_exchange_once() -> None:
    assert run_ranks(_collectives, 2) == [1, 1]


def _gradients_of_a_model(way: str, is_causal: bool) -> tuple[Tensor, list[Tensor]]:
    grid = make_grid(torch.distributed.get_world_size())
    sizes = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 16}
    model = build_masked_lm(ModelConfig.model_validate(sizes), 203, grid, seed=1).eval()
    tokens = torch.randint(4, 200, (3, 16), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(5).repeat(3, 1)
    with on(way), mock.patch.object(heads, "SLOTS_AT_ONCE", 4):  # of causal objectives
        loss, _, _ = model(tokens, positions, tokens[:, 1:6].clone(), is_causal=is_causal)
        loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("is_causal", [False, True], ids=["all slots", "parts computed again"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_model_whose_logits_are_overwritten_has_its_gradients(
    world_size: int, is_causal: bool
) -> None:
    expected = run_ranks(_gradients_of_a_model, world_size, "cpu", is_causal)
    found = run_ranks(_gradients_of_a_model, world_size, "accelerator", is_causal)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@in_one_rank
def test_an_accelerator_keeps_the_logits_and_a_few_numbers_a_prediction() -> None:
    logits, kept = torch.randn(N, V, requires_grad=True), []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    def unpack(saved: Tensor) -> Tensor:
        return saved

    with on("accelerator"), torch.autograd.graph.saved_tensors_hooks(keep, unpack):
        vocabulary_cross_entropy(logits, torch.arange(N) % V, make_grid(1))
    others = [x for x in kept if x.data_ptr() != logits.data_ptr()]
    assert len(others) == len(kept) - 1
    assert sum(x.numel() for x in others) <= 2 * N


@pytest.mark.parametrize("way", WAYS)
@in_one_rank
def test_a_second_backward_pass_is_refused(way: str) -> None:
    """The first one overwrites what is kept."""
    logits = torch.randn(5, 7, requires_grad=True)
    with on(way, compiles=True):
        losses, _ = vocabulary_cross_entropy(logits * 1, torch.arange(5), make_grid(1), True)
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            losses.sum().backward()  # type: ignore[no-untyped-call]
