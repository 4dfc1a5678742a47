"""Cross entropy over a vocabulary that is sharded over tensor-parallel ranks.

N predictions, V vocabulary; ``/tp`` sharded over tensor-parallel ranks, M = V/tp.

The ranks exchange four numbers a prediction in one all-gather; megatron-core's cross entropy takes
three all-reduces, and its result does not tell which token is the most probable.

On an accelerator two bodies read the logits, compiled to a few kernels: one finds the four numbers,
the other computes the gradient from the logits and the logarithm of the sum of their exponentials.
On a CPU one softmax of the local part gives all that is needed, and is kept: to compute it again
takes more time there.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.compiling import fused
from model.parallel.grid import Grid


def vocabulary_cross_entropy(
    logits: Tensor, targets: Tensor, grid: Grid, overwrites: bool = False
) -> tuple[Tensor, Tensor]:
    """(fp32 losses [N], whether the target is the most probable [N]) of logits [N, V/tp].

    `targets` [N] int64 are token numbers of the whole vocabulary. Losses agree on all ranks to the
    bit. `overwrites`: nobody else reads `logits` after this, so that their gradient may take their
    memory; else they are left as they are.
    """
    losses, is_right = _CrossEntropy.apply(logits, targets, grid, overwrites)  # type: ignore[no-untyped-call]
    return losses, is_right


class _CrossEntropy(torch.autograd.Function):
    """The losses, differentiable, and which predictions are right."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, grid: Grid, overwrites: bool
    ) -> tuple[Tensor, Tensor]:
        first, is_whole = grid.tp_rank * logits.shape[1], grid.tp_size == 1
        places = targets - first  # [N], of the targets among the M logits, if there
        ctx.overwrites, ctx.dtype = overwrites, logits.dtype
        ctx.keeps_logits = keeps_logits(logits.device)
        kept, shares = logits, None
        if ctx.keeps_logits:
            own = _compiled(find_numbers, logits)(logits.detach(), places)
        else:
            kept, own = of_softmax(logits, places, is_whole)
        log_sum, of_target, best = _of_all_ranks(own, first, grid)
        if not (is_whole or ctx.keeps_logits):
            shares = (own[2] - log_sum).exp()  # of the probability, what lies on this rank
        ctx.save_for_backward(kept, places, log_sum, shares)
        is_right = best == targets
        ctx.mark_non_differentiable(is_right)
        return log_sum - of_target, is_right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        # torch refuses a second pass where the first one overwrote what is kept.
        kept, places, log_sum, shares = ctx.saved_tensors
        if ctx.keeps_logits:
            body = overwrite_logits if ctx.overwrites else logits_gradient
            of_logits = _compiled(body, kept)(kept.detach(), places, log_sum, gradient)
        else:
            of_logits = overwrite_probabilities(kept, places, shares, gradient).to(ctx.dtype)
        return of_logits, None, None, None


def keeps_logits(device: torch.device) -> bool:
    """Whether the logits are kept for the backward pass, in place of probabilities."""
    return device.type != "cpu" or torch.compiler.is_compiling()


def _of_all_ranks(own: Tensor, first: int, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Of the whole vocabulary, [N] each: the logarithm of the sum of exponentials, the target's
    logit and the most probable token. `own` [4, N] are those of a part that starts at `first`."""
    highest, place, log_sum, of_target = own
    best = place + first  # exact in fp32 up to 2^24
    if grid.tp_size == 1:
        return log_sum, of_target, best.long()
    own = torch.stack([highest, best, log_sum, of_target])
    parts = [torch.empty_like(own) for _ in range(grid.tp_size)]
    torch.distributed.all_gather(parts, own, group=grid.tp_group)
    all_highest, places, log_sums, of_targets = torch.stack(parts, dim=1)  # [tp, N]
    winner = all_highest.argmax(dim=0, keepdim=True)  # the lowest rank where equal
    return log_sums.logsumexp(dim=0), of_targets.sum(dim=0), places.gather(0, winner)[0].long()


def find_numbers(logits: Tensor, places: Tensor) -> Tensor:
    """[4, N] fp32 of logits [N, M]: the largest one, its place (the first where equal), the
    logarithm of the sum of exponentials, and the one at `places` [N], 0 where that is outside."""
    values = logits.float()
    highest = values.amax(dim=1)
    total = (values - highest[:, None]).exp().sum(dim=1)
    # On a rank that holds padding only, logits of -inf, the total is NaN.
    log_sum = torch.where(highest.isneginf(), highest, highest + total.log())
    is_mine = (places >= 0) & (places < logits.shape[1])
    of_target = logits.gather(1, places.where(is_mine, 0)[:, None])[:, 0].float()
    return torch.stack(
        [highest, values.argmax(dim=1).float(), log_sum, of_target.where(is_mine, 0)]
    )


def logits_gradient(logits: Tensor, places: Tensor, log_sum: Tensor, gradient: Tensor) -> Tensor:
    """[N, M] in the number format of `logits`, where that of the losses is `gradient` [N]."""
    is_target = torch.arange(logits.shape[1], device=logits.device) == places[:, None]
    probabilities = (logits.float() - log_sum[:, None]).exp()
    return ((probabilities - is_target.float()) * gradient[:, None]).to(logits.dtype)


def overwrite_logits(logits: Tensor, places: Tensor, log_sum: Tensor, gradient: Tensor) -> Tensor:
    """`logits_gradient` in the memory of `logits`."""
    return logits.copy_(logits_gradient(logits, places, log_sum, gradient))


def _compiled(body: Callable[..., Tensor], logits: Tensor) -> Callable[..., Tensor]:
    """`body` in a few kernels; where it is traced, it is compiled with what is around it."""
    return body if torch.compiler.is_compiling() else _fused(body, logits.device)


@functools.cache
def _fused(body: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    numbers = torch.ones(2, device=device)
    example = (torch.ones(2, 64, device=device), numbers.long(), numbers, numbers)
    return fused(body, "the cross entropy", *(example[:2] if body is find_numbers else example))


def of_softmax(logits: Tensor, places: Tensor, is_whole: bool) -> tuple[Tensor, Tensor]:
    """(probabilities [N, M] in fp32, the numbers of `find_numbers`), for a CPU.

    With its largest probability p at the logit m, the logarithm of the sum of exponentials is
    m - log p. `is_whole`: no rank holds padding only.
    """
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)  # [N, M]
    best = _arg_max(probabilities)[:, None]  # [N, 1]
    highest = logits.gather(1, best).float()
    log_sum = highest - probabilities.gather(1, best).log()
    if not is_whole:
        # Of padding only softmax makes NaN. `highest` may also be -inf where another logit is
        # infinite or NaN.
        is_padding = logits.amax(dim=1, keepdim=True).isneginf()
        probabilities.masked_fill_(is_padding, 0)
        log_sum = log_sum.masked_fill(is_padding, -torch.inf)
    is_mine = ((places >= 0) & (places < logits.shape[1]))[:, None]
    of_target = logits.gather(1, places[:, None].where(is_mine, 0)).float().where(is_mine, 0)
    return probabilities, torch.cat([highest, best.float(), log_sum, of_target], dim=1).T


def overwrite_probabilities(
    probabilities: Tensor, places: Tensor, shares: Tensor | None, gradient: Tensor
) -> Tensor:
    """The gradient of the logits [N, M] in the memory of their `probabilities` on this rank, which
    has `shares` [N] of those of the whole vocabulary; None: all."""
    if shares is not None:
        probabilities.mul_(shares[:, None])
    is_mine = ((places >= 0) & (places < probabilities.shape[1]))[:, None]
    mine = places[:, None].where(is_mine, 0)
    probabilities.scatter_add_(1, mine, -is_mine.float())
    return probabilities.mul_(gradient[:, None])


def _arg_max(x: Tensor) -> Tensor:
    """[N] int64: the place of the largest value in each row of `x` [N, M], the first where equal.

    numpy's is several times faster than torch's on a CPU.
    """
    if type(x) is Tensor:
        return torch.from_numpy(x.numpy().argmax(axis=1))
    return x.argmax(dim=1)
