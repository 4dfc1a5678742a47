"""Which token may attend to which, as one rule and in the form that each backend needs.

B rows, S tokens in a row.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from configs.load import ConfigError
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.grid_check import check_number_format
from model.varlen_attention import Reach, sequence_bounds

Backend = Literal["explicit", "sdpa", "flex", "varlen"]


@dataclass(frozen=True)
class MaskRule:
    """Query q of row b attends to key k if every given condition holds.

    A token whose row has no other visible key still attends to itself (see `needs_diagonal`).
    """

    num_rows: int
    row_tokens: int
    window: int | None = None
    """|q - k| <= window."""
    pieces: Tensor | None = None
    """[B, S]: q and k are in the same document."""
    visible: Tensor | None = None
    """[B, S]: k is not padding."""
    hidden: Tensor | None = None
    """[B, S]: k is not hidden, or k is q."""
    is_causal: bool = False
    """k <= q: no token sees a later one."""
    max_pieces: int | None = None
    """At least as many `pieces` as the rows have together; None: not known."""

    @property
    def is_trivial(self) -> bool:
        """Whether every token attends to all of its row."""
        return self.needs_only_keys and self.visible is None

    @property
    def needs_only_keys(self) -> bool:
        """Whether the rule is the same for all queries of a row: no quadratic mask is needed."""
        conditions = (self.window, self.pieces, self.hidden)
        return all(condition is None for condition in conditions) and not self.is_causal

    @property
    def is_only_causal(self) -> bool:
        """Whether every token attends to all of its row up to itself."""
        conditions = (self.window, self.pieces, self.visible, self.hidden)
        return all(condition is None for condition in conditions) and self.is_causal

    def allowed(self, device: torch.device) -> Tensor:
        """[B or 1, S or 1, S] bool (row, query, key); quadratic only where the rule is."""
        if self.needs_only_keys:
            assert self.visible is not None
            return self.visible[:, None, :]
        place = torch.arange(self.row_tokens, device=device)
        offset = place[:, None] - place  # q - k
        distance = offset.abs()
        result = torch.ones((1, 1, 1), dtype=torch.bool, device=device)
        if self.window is not None:
            result = result & (distance <= self.window)
        if self.is_causal:
            result = result & (offset >= 0)
        if self.pieces is not None:
            result = result & (self.pieces[:, :, None] == self.pieces[:, None, :])
        # A lone padding token must see something: a softmax over nothing is NaN.
        for keys in (self.visible, None if self.hidden is None else ~self.hidden):
            if keys is not None:
                result = result & (keys[:, None, :] | (distance == 0))
        return result

    def flex_rule(self) -> Any:
        """The same rule as the function of (row, head, query, key) that FlexAttention needs."""

        def rule(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            result = query >= 0
            if self.window is not None:
                result = result & ((query - key).abs() <= self.window)
            if self.is_causal:
                result = result & (key <= query)
            if self.pieces is not None:
                result = result & (self.pieces[row, query] == self.pieces[row, key])
            if self.visible is not None:
                seen = self.visible[row, key]
                result = result & (seen if self.needs_only_keys else seen | (query == key))
            if self.hidden is not None:
                result = result & (~self.hidden[row, key] | (query == key))
            return result

        return rule


@dataclass(frozen=True)
class AttentionMask:
    """A rule in the form that `backend` needs."""

    backend: Backend
    bias: Tensor | None = None
    """explicit: added to the scores, [B or 1, S or 1, S]; None: all see all."""
    allowed: Tensor | None = None
    """sdpa: bool, [B or 1, S or 1, S]; None: all see all, or `is_causal` says it."""
    is_causal: bool = False
    """sdpa: all see all up to themselves, which its kernels know without a mask."""
    blocks: Any = None
    """flex: a BlockMask; None: all see all."""
    bounds: Tensor | None = None
    """varlen: of the sequences, see `sequence_bounds`."""
    reach: Reach = (-1, -1)
    """varlen: of each token in its sequence."""


def build_masks(
    backend: Backend,
    rule: MaskRule,
    windows: Collection[int | None],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[int | None, AttentionMask]:
    """By each of `windows`, the `rule` with that window for `backend`."""
    if backend != "varlen":
        return {
            window: build_mask(backend, replace(rule, window=window), dtype, device)
            for window in windows
        }
    check_number_format(backend, dtype == torch.float32, device.type)
    assert rule.hidden is None  # see `compute_errors`
    shape = (rule.num_rows, rule.row_tokens)
    bounds = sequence_bounds(shape, rule.pieces, rule.visible, rule.max_pieces, device)
    reaches = {window: -1 if window is None else window for window in windows}
    return {
        window: AttentionMask(backend, bounds=bounds, reach=(reach, 0 if rule.is_causal else reach))
        for window, reach in reaches.items()
    }


def build_mask(
    backend: Backend, rule: MaskRule, dtype: torch.dtype, device: torch.device
) -> AttentionMask:
    """`rule` for a `backend` but varlen; explicit scores are of `dtype`."""
    if rule.is_trivial:
        return AttentionMask(backend)
    if backend == "sdpa" and rule.is_only_causal:
        return AttentionMask(backend, is_causal=True)
    if backend == "sdpa":
        return AttentionMask(backend, allowed=rule.allowed(device))
    if backend == "explicit":
        allowed = rule.allowed(device)
        bias = torch.zeros(allowed.shape, dtype=dtype, device=device)
        return AttentionMask(backend, bias=bias.masked_fill_(~allowed, torch.finfo(dtype).min))
    from torch.nn.attention.flex_attention import create_block_mask

    depends_on_row = not (rule.pieces is None and rule.visible is None and rule.hidden is None)
    blocks = create_block_mask(
        rule.flex_rule(),
        B=rule.num_rows if depends_on_row else None,
        H=None,
        Q_LEN=rule.row_tokens,
        KV_LEN=rule.row_tokens,
        device=str(device),
    )
    return AttentionMask(backend, blocks=blocks)


def check_trainable(compute: ComputeConfig, device: torch.device) -> None:
    """Raises ConfigError for a backend that has no backward pass on `device`."""
    if compute.attention_backend == "flex" and device.type == "cpu":
        raise ConfigError(
            "compute.attention_backend flex has no backward pass on the CPU, and this machine has "
            "no CUDA device: use auto or explicit"
        )


def choose_backend(
    config: ModelConfig, compute: ComputeConfig, device: torch.device, with_dropout: bool
) -> Backend:
    """The backend that `compute` names, or for "auto" the fastest for device and pattern.

    On the CPU explicit softmax (at 512 tokens faster than torch's flash attention). On CUDA sdpa,
    except for windows and packed rows, whose empty blocks FlexAttention skips; it has no dropout.
    """
    if torch.is_grad_enabled():
        check_trainable(compute, device)
    if compute.attention_backend != "auto":
        return compute.attention_backend
    if device.type == "cpu":
        return "explicit"
    is_sparse = config.attention_pattern.type != "full" or config.packed_rows.type == "inside"
    if is_sparse and not (with_dropout and config.attention_dropout > 0):
        return "flex"
    return "sdpa"
