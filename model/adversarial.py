"""Adversarial training on word vectors: perturbations, ascent, and divergence of predictions.

All passes of one micro-batch that a regulariser needs run inside one call of the model, and the
ascent takes the gradient of the perturbation only (`torch.autograd.grad`): no hook on a weight, of
ZeRO or of gradient accumulation, runs for it.

B rows, S tokens in a row, T = B x S, E width of the word vectors, N predictions, V vocabulary;
``/tp`` sharded over tensor-parallel ranks, tokens under sequence parallelism only.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from model.adversarial_options import FreeLb, VirtualAdversary
from model.objectives.philox import row_words
from model.parallel.grid import Grid
from model.sampling import draw_keys, random_words
from model.transfer import to_device

Predictions = Mapping[str, Tensor]
"""Scores by head."""


@dataclass(frozen=True)
class Adversary:
    """A regulariser on one micro-batch."""

    options: VirtualAdversary
    row_keys: Tensor
    """[B] int64: random words of the rows, on which the first perturbation depends."""

    def on(self, device: torch.device) -> "Adversary":
        """With its keys on `device`."""
        return Adversary(self.options, to_device(self.row_keys, device))


def row_keys(seed: int, positions: NDArray[np.int64]) -> Tensor:
    """int64 of the shape of `positions`: a random word for the row at each position of a run."""
    digest = hashlib.blake2b(f"perturbation/{seed}".encode(), digest_size=8).digest()
    numbers = positions.ravel()
    zeros = np.zeros_like(numbers)
    words = row_words(
        1,
        seed=int.from_bytes(digest, "little"),
        passes=zeros,
        sources=zeros,
        row_numbers=numbers,
    )
    return torch.from_numpy(words[:, 0].view(np.int64).reshape(positions.shape))


def gaussian_noise(row_keys: Tensor, tokens: Tensor, width: int, grid: Grid) -> Tensor:
    """[T(/tp), E] fp32 standard normal numbers, of the tokens of this rank.

    A function of (row key, position, unit): the same at every grid.
    """
    words = _words(row_keys, tokens, width, grid)
    radius = torch.log_(_unit(words >> 32)).mul_(-2).sqrt_()  # Box and Muller 1958
    return radius.mul_(torch.cos_(_unit(words).mul_(2 * math.pi)))


def uniform_noise(row_keys: Tensor, tokens: Tensor, width: int, grid: Grid) -> Tensor:
    """[T(/tp), E] fp32 numbers from (-1, 1), otherwise as `gaussian_noise`."""
    return _unit(_words(row_keys, tokens, width, grid)).mul_(2).sub_(1)


def _words(row_keys: Tensor, tokens: Tensor, width: int, grid: Grid) -> Tensor:
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    index, count = grid.token_shard
    keys = draw_keys(row_keys, positions).view(-1).chunk(count)[index]
    return random_words(keys, torch.arange(width, device=tokens.device))


def _unit(words: Tensor) -> Tensor:
    """The low 32 bits of `words` as fp32 numbers in (0, 1]."""
    return (words & 0xFFFFFFFF).add_(1).float().mul_(2.0**-32)


def text_of(tokens: Tensor, pad_token_id: int, grid: Grid) -> Tensor:
    """[T(/tp), 1] bool: which tokens of this rank are no padding; padding is not perturbed."""
    index, count = grid.token_shard
    return (tokens != pad_token_id).view(-1).chunk(count)[index][:, None]


def smoothness(
    clean: Predictions,
    predict: Callable[[Tensor], Predictions],
    distances: Callable[[Predictions, Predictions], dict[str, Tensor]],
    noise: Tensor,
    is_text: Tensor,
    options: VirtualAdversary,
) -> dict[str, Tensor]:
    """By head, the sum of the divergences of the predictions under the strongest perturbation.

    `predict` gives the predictions under a perturbation [T(/tp), E] of the word vectors,
    `distances` the divergence of each head. `noise` [T(/tp), E] is standard normal, `is_text`
    [T(/tp), 1] says what is no padding. Gradients reach the weights through both predictions.
    """
    fixed = {name: scores.detach() for name, scores in clean.items()}
    perturbation = noise * options.noise * is_text
    for _ in range(options.steps):
        perturbation = perturbation.detach().requires_grad_()
        found = distances(predict(perturbation), fixed)
        (gradient,) = torch.autograd.grad(torch.stack(list(found.values())).sum(), perturbation)
        perturbation = _ascended(perturbation.detach(), gradient, options) * is_text
    return distances(predict(perturbation), clean)


def _ascended(perturbation: Tensor, gradient: Tensor, options: VirtualAdversary) -> Tensor:
    """A step along the gradient of each token, in the infinity norm."""
    largest = gradient.abs().amax(dim=-1, keepdim=True)
    smallest = torch.finfo(gradient.dtype).tiny
    result = perturbation + options.step_size * (gradient / largest.clamp(min=smallest))
    if options.radius is not None:
        result = result.clamp(-options.radius, options.radius)
    return result


def first_of_rows(
    row_keys: Tensor, tokens: Tensor, is_text: Tensor, width: int, options: FreeLb, grid: Grid
) -> Tensor:
    """[T(/tp), E] FreeLB's first perturbation, 0 at padding."""
    noise = uniform_noise(row_keys, tokens, width, grid) * is_text
    num_values = _of_rows(is_text.float(), tokens, grid) * width  # [T(/tp), 1]
    return noise * (options.radius / num_values.clamp(min=1).sqrt())


def ascended_rows(
    perturbation: Tensor, gradient: Tensor, tokens: Tensor, options: FreeLb, grid: Grid
) -> Tensor:
    """[T(/tp), E] after a step along the gradient of each row, projected to the ball of FreeLB."""
    # Squares of small gradients would be 0 in fp32.
    gradient = gradient.double()
    norms = _of_rows(gradient.square().sum(dim=-1, keepdim=True), tokens, grid).sqrt()
    smallest = torch.finfo(norms.dtype).tiny
    result = perturbation.double() + options.step_size * gradient / norms.clamp(min=smallest)
    sizes = _of_rows(result.square().sum(dim=-1, keepdim=True), tokens, grid).sqrt()
    return (result * (options.radius / sizes.clamp(min=options.radius))).float()


def _of_rows(values: Tensor, tokens: Tensor, grid: Grid) -> Tensor:
    """[T(/tp), 1]: for each token of this rank, the sum of `values` [T(/tp), 1] over its row."""
    index, count = grid.token_shard
    rows = torch.arange(tokens.shape[0], device=tokens.device)[:, None].expand_as(tokens)
    mine = rows.reshape(-1).chunk(count)[index]
    sums = values.new_zeros(tokens.shape[0], 1).index_add(0, mine, values)
    if count > 1:  # a row may be on several ranks
        dist.all_reduce(sums, group=grid.tp_group)
    return sums[mine]


def symmetric_divergence(first: Tensor, second: Tensor, grid: Grid | None = None) -> Tensor:
    """[N] fp32: KL(p, q) + KL(q, p) of the softmaxes p and q of two logits [N, V/tp].

    `grid`: the vocabulary is sharded over its tensor-parallel ranks; None: it is whole. Logits of
    -inf in both, as of vocabulary padding, have no part in it.
    """
    group = grid.tp_group if grid is not None and grid.tp_size > 1 else None
    result: Tensor = _SymmetricDivergence.apply(first, second, group)  # type: ignore[no-untyped-call]
    return result


class _SymmetricDivergence(torch.autograd.Function):
    """Its gradients are those of the whole, on every rank: each computes the same loss."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, group: Any) -> Tensor:
        log_p, log_q = _log_softmax(first, group), _log_softmax(second, group)
        ratio = torch.where(log_p == -torch.inf, 0.0, log_p - log_q)  # log p/q
        p, q = log_p.exp(), log_q.exp()
        difference = _difference(p, q, ratio)
        sums = torch.stack(
            [(difference * ratio).sum(dim=-1), (p * ratio).sum(dim=-1), (q * ratio).sum(dim=-1)]
        )  # [3, N]
        if group is not None:
            dist.all_reduce(sums, group=group)
        ctx.save_for_backward(p, q, ratio, sums)
        ctx.types = first.dtype, second.dtype
        return sums[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        p, q, ratio, sums = ctx.saved_tensors
        gradient = gradient[:, None]
        difference = _difference(p, q, ratio)
        of_first = of_second = None
        if ctx.needs_input_grad[0]:
            of_first = gradient * (p * (ratio - sums[1][:, None]) + difference)
            of_first = of_first.to(ctx.types[0])
        if ctx.needs_input_grad[1]:
            of_second = -gradient * (q * (ratio - sums[2][:, None]) + difference)
            of_second = of_second.to(ctx.types[1])
        return of_first, of_second, None


def _difference(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """p - q, without cancellation where they are nearly equal."""
    return torch.where(ratio < 1, q * torch.expm1(ratio.clamp(max=1)), p - q)


def _log_softmax(logits: Tensor, group: Any) -> Tensor:
    logits = logits.float()
    highest = logits.amax(dim=-1, keepdim=True)
    if group is not None:
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
    logits = logits - highest
    total = logits.exp().sum(dim=-1, keepdim=True)
    if group is not None:
        dist.all_reduce(total, group=group)
    return logits - total.log()
