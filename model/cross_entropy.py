"""Cross entropy over a vocabulary that is sharded over tensor-parallel ranks.

N predictions, V vocabulary; ``/tp`` sharded over tensor-parallel ranks.

One softmax of the local part gives all that is needed: with its largest probability p at the
logit m, the logarithm of the sum of exponentials is m - log p. The ranks exchange four numbers a
prediction in one all-gather; megatron-core's cross entropy takes three all-reduces, and its result
does not tell which token is the most probable.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.parallel.grid import Grid


def vocabulary_cross_entropy(logits: Tensor, targets: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(fp32 losses [N], whether the target is the most probable [N]) of logits [N, V/tp].

    `targets` [N] int64 are token numbers of the whole vocabulary. `logits` are left as they are.
    Losses agree on all ranks to the bit.
    """
    losses, is_right = _CrossEntropy.apply(logits, targets, grid)  # type: ignore[no-untyped-call]
    return losses, is_right


class _CrossEntropy(torch.autograd.Function):
    """The losses, differentiable, and which predictions are right."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)  # [N, V/tp]
        place = _arg_max(probabilities)[:, None]  # [N, 1]
        highest = logits.gather(1, place).float()
        log_sum = highest - probabilities.gather(1, place).log()
        first, size = grid.tp_rank * logits.shape[1], logits.shape[1]
        is_mine = ((targets >= first) & (targets < first + size))[:, None]  # [N, 1]
        mine = (targets[:, None] - first).where(is_mine, 0)
        of_target = logits.gather(1, mine).float().where(is_mine, 0)
        share = is_padding = None
        place = place + first
        if grid.tp_size > 1:
            # A rank that holds padding only, of which softmax makes NaN. `highest` may also be -inf
            # where another logit is infinite or NaN.
            is_padding = logits.amax(dim=1, keepdim=True).isneginf()
            log_sum = log_sum.masked_fill(is_padding, -torch.inf)
            # A token number is exact in fp32 up to 2^24.
            own = torch.stack([highest, place.float(), log_sum, of_target])  # [4, N, 1]
            parts = [torch.empty_like(own) for _ in range(grid.tp_size)]
            torch.distributed.all_gather(parts, own, group=grid.tp_group)
            all_highest, places, log_sums, of_targets = torch.stack(parts, dim=1)  # [tp, N, 1]
            winner = all_highest.argmax(dim=0, keepdim=True)  # the lowest rank where equal
            place = places.gather(0, winner)[0].long()
            whole = log_sums.logsumexp(dim=0)  # [N, 1]
            share = (log_sum - whole).exp()  # of the probability, what lies on this rank
            log_sum, of_target = whole, of_targets.sum(dim=0)
        is_right = place[:, 0] == targets
        ctx.dtype = logits.dtype
        ctx.save_for_backward(probabilities, mine, is_mine, share, is_padding)
        ctx.mark_non_differentiable(is_right)
        return (log_sum - of_target)[:, 0], is_right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None]:
        probabilities, mine, is_mine, share, is_padding = ctx.saved_tensors
        # In place: [N, V/tp] in fp32 is the largest tensor of a pass. torch refuses a second one.
        if share is not None:
            probabilities.mul_(share)
        if is_padding is not None:
            probabilities.masked_fill_(is_padding, 0)
        probabilities.scatter_add_(1, mine, -is_mine.float())
        return probabilities.mul_(gradient[:, None]).to(ctx.dtype), None, None


def _arg_max(x: Tensor) -> Tensor:
    """[N] int64: the place of the largest value in each row of `x` [N, M], the first where equal.

    numpy's is several times faster than torch's on a CPU.
    """
    if x.device.type == "cpu" and type(x) is Tensor:
        return torch.from_numpy(x.numpy().argmax(axis=1))
    return x.argmax(dim=1)
