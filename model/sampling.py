"""Tokens drawn from predictions over a vocabulary that is sharded over tensor-parallel ranks.

A draw is the highest sum of logit and Gumbel noise (Gumbel 1954; Maddison et al. 2014, section 2).
The noise of each id is a function of (key of the row, position, id): it needs no generator, and
each rank computes that of its own ids.

N draws, V vocabulary; ``/tp`` sharded over tensor-parallel ranks.
"""

import torch
from torch import Tensor

from model.parallel.grid import Grid

# The constants of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators",
# figure 17, with the mixing function of Stafford's variant 13), as signed numbers.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)

VALUES_AT_ONCE = 1 << 22
"""Noise is drawn for so many (draw, id) pairs at a time."""


def draw_keys(row_keys: Tensor, positions: Tensor) -> Tensor:
    """[B, K] int64: the key of each draw, of `row_keys` [B] and `positions` [B, K]."""
    return _mixed(row_keys[:, None] + (positions + 1) * _STEP)


@torch.no_grad()
def draw_tokens(logits: Tensor, keys: Tensor, is_allowed: Tensor, grid: Grid) -> Tensor:
    """[N] int64: an id for each of `logits` [N, V/tp], drawn from their softmax over allowed ids.

    `keys` [N] int64 decide the draws; `is_allowed` [V/tp]. Equal on all tensor-parallel ranks, and
    the same at every grid except where rounding of the logits decides between two ids.
    """
    num_draws, num_ids = logits.shape
    first_id = grid.tp_rank * num_ids
    ids = torch.arange(first_id, first_id + num_ids, device=logits.device)
    found = []
    at_once = max(1, VALUES_AT_ONCE // num_ids)
    for start in range(0, num_draws, at_once):
        part = slice(start, start + at_once)
        scores = gumbel_noise(keys[part], ids).add_(logits[part].float())
        scores.masked_fill_(~is_allowed, -torch.inf)
        highest, place = scores.max(dim=-1)
        found.append(torch.stack([highest.double(), (place + first_id).double()]))
    best = torch.cat(found, dim=1)  # [2, N]
    if grid.tp_size > 1:
        parts = [torch.empty_like(best) for _ in range(grid.tp_size)]
        torch.distributed.all_gather(parts, best, group=grid.tp_group)
        together = torch.stack(parts)  # [tp, 2, N]
        winner = together[:, 0].argmax(dim=0, keepdim=True)  # [1, N]
        return together[:, 1].gather(0, winner)[0].long()
    return best[1].long()


def gumbel_noise(keys: Tensor, ids: Tensor) -> Tensor:
    """[N, V] fp32 standard Gumbel noise, a function of the key and the id, of [N] and [V]."""
    bits = random_words(keys, ids)
    # Of [0, 1): small values, which make high noise, keep their relative precision in fp32.
    uniform = _shifted(bits, 11).float().mul_(2.0**-53)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def random_words(keys: Tensor, ids: Tensor) -> Tensor:
    """[N, V] int64 random words, a function of the key and the id, of [N] and [V]."""
    return _mixed(keys[:, None] + (ids + 1) * _STEP)


def _mixed(words: Tensor) -> Tensor:
    """Each of the int64 `words` through the finalizer of SplitMix64, in place."""
    words.bitwise_xor_(_shifted(words, 30)).mul_(_FIRST)
    words.bitwise_xor_(_shifted(words, 27)).mul_(_SECOND)
    return words.bitwise_xor_(_shifted(words, 31))


def _shifted(words: Tensor, places: int) -> Tensor:
    """The logical right shift of int64 `words`: without copies of the sign."""
    return (words >> places).bitwise_and_((1 << (64 - places)) - 1)
