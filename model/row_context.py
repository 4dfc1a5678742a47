"""What the layers need of a micro-batch of rows besides its hidden states.

B rows, S tokens in a row, d head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention_masks import AttentionMask, Backend, MaskRule, build_masks
from model.config import ModelConfig
from model.dropout import DropoutKey, LayerDropout, Site, layer_dropouts, mask_seed
from model.label_slots import Slots
from model.rotary import Rotation, rotation_of
from model.varlen_attention import power_of_two


@dataclass(frozen=True)
class KnownRows:
    """What is known of the tokens of a micro-batch before they are on the GPU."""

    is_padded: bool
    """Whether there is padding among them."""
    max_pieces: int | None = None
    """At least as many pieces (from one <s> to the next) as the rows have together, rounded up so
    that few forms are compiled; None: not known, or not asked for."""


def known_rows(config: ModelConfig, tokens: Tensor, labels: Tensor) -> KnownRows:
    """Of `tokens` [B, S] and `labels` [B, K] in host memory, of any integer type."""
    ids, masked = tokens.numpy(), labels.numpy()
    is_padded = bool((ids == config.pad_token_id).any())
    if config.packed_rows.type != "inside":
        return KnownRows(is_padded)
    begins = (ids[:, 1:] == config.begin_token_id).sum() + (masked == config.begin_token_id).sum()
    return KnownRows(is_padded, power_of_two(len(ids) + int(begins)))


@dataclass(frozen=True)
class RowContext:
    """Computed once per forward pass and read by every layer."""

    shape: tuple[int, int]
    """(B, S)."""
    dropouts: list[LayerDropout] | None
    """By layer; None: no dropout."""
    positions: Tensor | None
    """[B, S] position of each token, None where every row counts 0, 1, 2, ..."""
    masks: dict[int | None, AttentionMask]
    """By window (None: full attention), what the attention backend needs to know."""
    rotations: dict[int | None, Rotation] | None
    """By window, the rotation of rotary positions."""

    def of_layer(
        self, number: int, window: int | None, slots: Slots | None = None
    ) -> "LayerContext":
        """What the layer `number` needs, whose attention has this `window`, and of whose output
        only `slots` are read."""
        return LayerContext(
            self.shape,
            self.masks[window],
            None if self.rotations is None else self.rotations[window],
            None if self.dropouts is None else self.dropouts[number],
            slots,
        )


@dataclass(frozen=True)
class LayerContext:
    """What one layer needs besides its hidden states. No number of the layer is in it: layers of
    the same kind share what is compiled for one of them."""

    shape: tuple[int, int]
    """(B, S)."""
    mask: AttentionMask
    rotation: Rotation | None
    """None: no rotary positions."""
    dropout: LayerDropout | None
    """None: no dropout."""
    slots: Slots | None = None
    """The tokens whose output is read; None: all."""

    def read(self, x: Tensor) -> Tensor:
        """[N, ...], what is read of `x` [T, ...]: what follows attention needs no other token."""
        return x if self.slots is None else self.slots.of(x)


def make_row_context(
    config: ModelConfig,
    backend: Backend,
    tokens: Tensor,
    dropout_key: DropoutKey | None,
    dtype: torch.dtype,
    known: KnownRows | None = None,
    is_causal: bool = False,
    with_counters: bool = False,
) -> RowContext:
    """The context of `tokens` [B, S]; `dropout_key` is None outside of training.

    `known` is true of them; None: the tokens are searched for padding, for which the processor has
    to wait until the GPU has finished. `is_causal`: no token sees a later one. `with_counters`: how
    dropout masks are drawn (`model.dropout`).
    """
    rows, row_tokens = tokens.shape
    pieces = positions = None
    if config.packed_rows.type == "inside":
        starts_piece = tokens == config.begin_token_id
        pieces = starts_piece.cumsum(dim=1)
        if config.packed_rows.restart_positions:
            positions = positions_in_pieces(starts_piece)
    is_pad = tokens == config.pad_token_id
    is_padded = bool(is_pad.any()) if known is None else known.is_padded
    visible = ~is_pad if is_padded else None
    hidden = None
    if dropout_key is not None and config.visibility.type != "all":
        assert isinstance(dropout_key, int), "tokens are hidden by a generator on the host"
        hidden = hidden_keys(config, tokens, dropout_key)
    windows = {config.attention_pattern.window(layer) for layer in range(config.num_layers)}
    max_pieces = None if known is None else known.max_pieces
    rule = MaskRule(rows, row_tokens, None, pieces, visible, hidden, is_causal, max_pieces)
    masks = build_masks(backend, rule, windows, dtype, tokens.device)
    dropouts = None
    if dropout_key is not None:
        heads = seeded_heads(config, backend)
        how = (tokens.device, with_counters)
        dropouts = layer_dropouts(dropout_key, config.num_layers, heads, *how)
    return RowContext(
        shape=(rows, row_tokens),
        dropouts=dropouts,
        positions=positions,
        masks=masks,
        rotations=_rotations(config, windows, tokens, positions, dtype),
    )


def seeded_heads(config: ModelConfig, backend: Backend) -> int:
    """Heads whose dropout has a seed of its own; 0 where torch's attention draws it or none is."""
    drops_probabilities = backend == "explicit" and config.attention_dropout > 0
    return config.num_attention_heads if drops_probabilities else 0


def _rotations(
    config: ModelConfig,
    windows: set[int | None],
    tokens: Tensor,
    positions: Tensor | None,
    dtype: torch.dtype,
) -> dict[int | None, Rotation] | None:
    """By window, the rotation of `tokens` [B, S] at `positions` [B, S], or at 0, 1, 2, ...; None
    without rotary positions."""
    if config.positions.type != "rotary":
        return None
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    bases = {window: config.positions.base_of(window) for window in windows}
    of_base = {
        base: rotation_of(positions, config.head_size, base, dtype)
        for base in sorted(set(bases.values()))
    }
    return {window: of_base[base] for window, base in bases.items()}


def positions_in_pieces(starts_piece: Tensor) -> Tensor:
    """[B, S] int64: each token's distance to the last True of `starts_piece` [B, S]."""
    places = torch.arange(starts_piece.shape[1], device=starts_piece.device)
    starts = torch.where(starts_piece, places, 0).cummax(dim=1).values
    return places - starts


def hidden_keys(config: ModelConfig, tokens: Tensor, dropout_key: int) -> Tensor:
    """[B, S] bool: tokens hidden from all other tokens in this pass; never a piece's <s>.

    Drawn on the CPU from a generator keyed by `dropout_key`: the same on every rank and device.
    """
    assert config.visibility.type != "all"
    seed = mask_seed(dropout_key, 0, Site.VISIBILITY)
    generator = torch.Generator().manual_seed(seed)
    rows, row_tokens = tokens.shape
    shares = torch.rand((rows, 1), generator=generator) * config.visibility.max_share
    if config.visibility.type == "random_keys":
        hidden = torch.rand((rows, row_tokens), generator=generator) < shares
    else:
        lengths = (shares * row_tokens).round()  # [B, 1]
        hidden = torch.arange(row_tokens) >= row_tokens - lengths
    return hidden.to(tokens.device) & (tokens != config.begin_token_id)
