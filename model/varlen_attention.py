"""Attention of rows as sequences of one line of tokens, by torch's flash attention kernels.

A sequence is a piece of a packed row, a row, or the padding at the end of one; no token sees beyond
its own. B rows, S tokens in a row, T = B x S, h query heads, k key/value heads, d head size.
"""

import torch
from torch import Tensor

Reach = tuple[int, int]
"""How far a token sees to the left and to the right within its sequence; -1: to its end."""


def sequence_bounds(
    shape: tuple[int, int],
    pieces: Tensor | None,
    visible: Tensor | None,
    max_pieces: int | None,
    device: torch.device,
) -> Tensor:
    """[n + 1] int32: where each sequence of T tokens starts, and T at the end; empty ones fill n.

    `pieces` [B, S] number the pieces of a row, `visible` [B, S] says what is not padding, which has
    to be at the ends of rows. n depends only on `max_pieces`, at least as many pieces as the rows
    have together, so that few shapes have to be compiled. None: they are counted, for which the
    processor has to wait until the GPU has finished.
    """
    rows, tokens = shape
    if pieces is None and visible is None:
        return torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32, device=device)
    starts = torch.zeros(shape, dtype=torch.bool, device=device)
    starts[:, 0] = True
    for marks in (pieces, visible):
        if marks is not None:
            starts[:, 1:] |= marks[:, 1:] != marks[:, :-1]
    if visible is not None:
        is_last = (visible[:, 1:] <= visible[:, :-1]).all()
        torch._assert_async(is_last, "attention_backend varlen: padding inside of a row")
    numbers = starts.flatten().cumsum(dim=0)  # [T], from 1
    if pieces is None:
        most = 2 * rows
    elif max_pieces is None:
        most = power_of_two(int(numbers[-1]))
    else:
        most = power_of_two(max_pieces + (0 if visible is None else rows))
    torch._assert_async(numbers[-1] <= most, f"more than {most} sequences in the rows")
    wanted = torch.arange(1, most + 2, device=device)
    return torch.searchsorted(numbers, wanted, out_int32=True)


def power_of_two(number: int) -> int:
    """The smallest one that is not below `number`."""
    return 1 << (number - 1).bit_length()


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, reach: Reach
) -> Tensor:
    """[T, h, d] of queries [T, h, d], keys and values [T, k, d], which may be slices of one tensor.

    `bounds` [n + 1] are those of `sequence_bounds`, none longer than `longest` tokens.
    """
    if query.device.type == "cpu":
        return dense_attention(query, key, value, bounds, longest, reach)
    return flash_attention(query, key, value, bounds, longest, reach)


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, reach: Reach
) -> Tensor:
    """`varlen_attention` of bf16 or fp16 on a GPU."""
    from torch.nn.attention.varlen import varlen_attn  # loads torch's compiler

    is_grouped = query.shape[1] != key.shape[1]
    mixed = varlen_attn(
        *(query, key, value, bounds, bounds, longest, longest),
        window_size=reach,
        enable_gqa=is_grouped,
    )
    assert isinstance(mixed, Tensor)
    return mixed


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, reach: Reach
) -> Tensor:
    """`varlen_attention` by all scores [h, T, T]: what the kernels have to give, for checks."""
    del longest
    place = torch.arange(query.shape[0], dtype=bounds.dtype, device=query.device)
    sequence = torch.searchsorted(bounds, place, right=True)
    offset = place - place[:, None]  # k - q
    allowed = sequence == sequence[:, None]  # [T, T]
    left, right = reach
    if left >= 0:
        allowed &= offset >= -left
    if right >= 0:
        allowed &= offset <= right
    times = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))  # [T, h, d]
    scores = torch.einsum("qhd,khd->hqk", query * query.shape[2] ** -0.5, key)
    probabilities = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)  # [h, T, T]
    return torch.einsum("hqk,khd->qhd", probabilities, value)
