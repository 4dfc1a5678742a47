"""Divergence and noise over sharded vocabularies and tokens; the whole model on two ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.adversarial import (
    Adversary,
    ascended_rows,
    gaussian_noise,
    row_keys,
    symmetric_divergence,
    uniform_noise,
)
from model.adversarial_options import Alum, FreeLb
from model.heads import build_masked_lm
from model.parallel.grid import close_grid, make_grid
from tests.gloo import run_ranks
from tests.model.settings import configs_of

VOCAB_SIZE = 203
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 16}
KEYS = row_keys(3, torch.arange(4).numpy())


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 200, (4, 16), generator=generator)
    tokens[1, -5:] = 1
    positions = torch.tensor([[1, 2, 7]] * 4)
    labels = torch.tensor([[7, 8, 9]] * 3 + [[7, -100, -100]])
    return tokens, positions, labels


def divergence_and_gradients(tp_size: int) -> list[list[float]]:
    """Of logits that differ little, much, and beyond the range of fp32's exponential function."""
    grid = make_grid(tp_size)
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(3, 8, generator=generator)
    other = one + torch.tensor([[1e-3], [3.0], [400.0]]) * torch.randn(3, 8, generator=generator)
    one[:, 7], other[:, 7] = -torch.inf, -torch.inf  # padding
    mine = slice(grid.tp_rank * 8 // tp_size, (grid.tp_rank + 1) * 8 // tp_size)
    parts = [x[:, mine].clone().requires_grad_() for x in (one, other)]
    found = symmetric_divergence(parts[0], parts[1], grid)
    (found * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    wholes = [x[:, :7].double().requires_grad_() for x in (one, other)]
    log_p, log_q = (x.log_softmax(dim=1) for x in wholes)
    expected = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1)
    (expected * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    for part, whole in zip(parts, wholes, strict=True):
        assert part.grad is not None
        assert whole.grad is not None
        gradient = torch.nn.functional.pad(whole.grad, (0, 1))[:, mine]
        torch.testing.assert_close(part.grad.double(), gradient, rtol=1e-4, atol=1e-7)
    close_grid()
    return found.tolist()


def test_divergence_and_gradients_are_those_of_the_whole_vocabulary() -> None:
    for tp_size in (1, 2):
        run_ranks(divergence_and_gradients, tp_size, tp_size)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"embedding_size": 16, "frozen": {"type": "lower"}},
    {"packed_rows": {"type": "inside"}, "compute": {"sequence_parallel": True}},
]


def model_on_ranks(tp_size: int) -> list[dict[str, float]]:
    """Of each of `SETTINGS`, the losses and the squares of the gradient and of the noise."""
    found = []
    tokens, positions, labels = inputs()
    adversary = Adversary(Alum(noise=0.01, step_size=0.1, steps=2), KEYS)
    for settings in SETTINGS:
        config, compute = configs_of({**SIZES, **settings})
        grid = make_grid(tp_size)
        model = build_masked_lm(config, VOCAB_SIZE, grid, seed=3, compute=compute)
        results: Any = model(tokens, positions, labels, 5, adversary=adversary)
        torch.stack([loss for loss, _, _ in results.values()]).sum().backward()  # type: ignore[no-untyped-call]
        squares = torch.zeros(())
        for parameter in model.parameters():
            if parameter.grad is not None:
                square = parameter.grad.square().sum()
                is_sharded = parameter.tensor_model_parallel  # type: ignore[attr-defined]
                squares += square if is_sharded else square / tp_size
        # A step of a row is that of the whole row, on however many ranks its tokens are.
        noise = uniform_noise(KEYS, tokens, 8, model.grid)
        options = FreeLb(step_size=0.5, radius=1)
        moved = ascended_rows(noise, noise.square(), tokens, options, model.grid)
        moved_squares = moved.square().sum() / (1 if model.grid.sequence_parallel else tp_size)
        torch.distributed.all_reduce(squares, group=grid.tp_group)
        torch.distributed.all_reduce(moved_squares, group=grid.tp_group)
        close_grid()
        values = {name: float(loss) for name, (loss, _, _) in results.items()}
        found.append({**values, "norm": float(squares), "moved": float(moved_squares)})
    return found


def test_model_with_an_adversary_is_equal_on_two_ranks() -> None:
    (one,) = run_ranks(model_on_ranks, 1, 1)
    two = run_ranks(model_on_ranks, 2, 2)
    for rank in two:
        for settings, expected in zip(rank, one, strict=True):
            assert settings == pytest.approx(expected, rel=1e-5)
            assert settings["adversarial/mlm"] > 0.01
            assert settings["moved"] == pytest.approx(4)  # each row on its ball of radius 1


def noise_statistics() -> None:
    grid = make_grid(1)
    tokens = torch.zeros(4, 512, dtype=torch.int64)
    normal = gaussian_noise(KEYS, tokens, 64, grid)
    assert abs(float(normal.mean())) < 0.01
    assert float(normal.std()) == pytest.approx(1, abs=0.01)
    assert float((normal.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)
    uniform = uniform_noise(KEYS, tokens, 64, grid)
    assert float(uniform.var()) == pytest.approx(1 / 3, abs=0.01)
    # A row's noise depends on its own key only.
    alone = gaussian_noise(KEYS[2:3], tokens[:1], 64, grid)
    assert torch.equal(alone, normal.view(4, 512, 64)[2])
    assert not torch.equal(alone, normal.view(4, 512, 64)[1])


def test_noise_is_normal_or_uniform_and_each_row_has_its_own() -> None:
    run_ranks(noise_statistics, 1)
