"""Attention of sequences: its bounds, and that it equals explicit attention at every layout.

A CPU has no flash attention of this kind. There the same code calls `dense_attention`; that the
kernel's operator takes what it is called with is checked on tensors without values.
"""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.load import ConfigError
from model import varlen_attention
from model.attention import SelfAttention
from model.attention_masks import AttentionMask
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.grid_check import compute_errors
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.row_context import KnownRows, known_rows, make_row_context
from model.varlen_attention import Reach, dense_attention, flash_attention, sequence_bounds
from tests.gloo import in_one_rank, run_ranks
from tests.model.parallel.test_tensor_parallel import assert_parity
from tests.model.test_compiled_layers import NothingFromTheHost

CPU = torch.device("cpu")
VOCAB_SIZE, ROWS, TOKENS, END = 203, 3, 40, 32
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_row_tokens": TOKENS,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}
INSIDE = {"packed_rows": {"type": "inside"}}
ROTARY = {"positions": {"type": "rotary"}}
ALTERNATING = {"attention_pattern": {"type": "alternating", "neighbours": 4, "global_every": 2}}
VARIANTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "pieces": INSIDE,
    "rotary pieces": {**INSIDE, **ROTARY},
    "window": {"attention_pattern": {"type": "window", "neighbours": 3}},
    "pieces in windows": {**INSIDE, **ROTARY, **ALTERNATING},
    "two groups": {**INSIDE, "num_key_value_heads": 2},
    "one rotary group with norms": {
        **{**INSIDE, **ROTARY, **ALTERNATING, "num_key_value_heads": 1, "query_key_norm": True},
        "norm": {"type": "rms_norm"},
    },
}


def packed_tokens(is_padded: bool = True) -> Tensor:
    """[B, S]: rows of three pieces, of one, and of two; the first and last end in padding."""
    tokens = torch.randint(4, 200, (ROWS, TOKENS), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 0
    tokens[0, 9] = tokens[0, 10] = tokens[2, 17] = 0
    if is_padded:
        tokens[0, END:] = tokens[2, TOKENS - 1 :] = 1
    return tokens


def test_bounds_are_where_pieces_and_padding_start() -> None:
    tokens = packed_tokens()
    pieces, visible = (tokens == 0).cumsum(dim=1), tokens != 1
    shape = (ROWS, TOKENS)
    whole = sequence_bounds(shape, None, None, None, CPU)
    assert whole.tolist() == [0, 40, 80, 120]
    assert sequence_bounds(shape, None, visible, None, CPU).tolist() == [
        *(0, END, 40, 80, 119),
        *[120] * 2,
    ]
    found = [0, 9, 10, END, 40, 80, 97, 119]
    for max_pieces in (None, 5, 6, 13):  # None: counted
        bounds = sequence_bounds(shape, pieces, visible, max_pieces, CPU)
        assert bounds.dtype == torch.int32
        assert bounds.tolist() == found + [120] * (len(bounds) - len(found))
        assert len(bounds) == (17 if max_pieces in (6, 13) else 9)
    with pytest.raises(RuntimeError, match="more than 4 sequences"):
        sequence_bounds(shape, pieces, None, 4, CPU)
    visible[1, 3] = False
    with pytest.raises(RuntimeError, match="padding inside of a row"):
        sequence_bounds(shape, None, visible, None, CPU)


def test_known_pieces_are_at_least_those_of_the_rows() -> None:
    config, tokens = ModelConfig(**SIZES, **INSIDE), packed_tokens()
    labels = torch.full((ROWS, 4), -100)
    assert known_rows(config, tokens.short(), labels) == KnownRows(True, 8)
    tokens[2, 17], labels[2, 1] = 200, 0  # a masked <s>
    assert known_rows(config, tokens, labels) == KnownRows(True, 8)
    tokens[:, 9:12] = 0
    assert known_rows(config, tokens, labels) == KnownRows(True, 16)
    assert known_rows(config, packed_tokens(is_padded=False), labels[:1]) == KnownRows(False, 8)
    across = ModelConfig(**SIZES)
    assert known_rows(across, packed_tokens(is_padded=False), labels[:1]) == KnownRows(False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("is_padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("is_causal", [False, True], ids=["both sides", "causal"])
@in_one_rank
def test_losses_and_gradients_equal_those_of_explicit_attention(
    variant: str, is_padded: bool, is_causal: bool
) -> None:
    config = ModelConfig(**SIZES, **VARIANTS[variant])
    tokens = packed_tokens(is_padded)
    positions = torch.tensor([[0, 3, 9, 12, END - 1]] * ROWS)
    labels = torch.full_like(positions, 17)
    known = known_rows(config, tokens, labels)
    results = []
    grid = make_grid(1)
    for backend in ("explicit", "varlen"):
        compute = ComputeConfig(attention_backend=backend)
        model = build_masked_lm(config, VOCAB_SIZE, grid, 1, compute).train()
        loss = model(tokens, positions, labels, 5, known, is_causal)[0]
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@in_one_rank
def test_the_operator_of_the_gpu_takes_what_it_is_called_with(variant: str) -> None:
    """Without values: shapes, strides and number formats, forward and backward."""
    config = ModelConfig(**SIZES, **VARIANTS[variant])
    compute = ComputeConfig(attention_backend="varlen")
    network = build_masked_lm(config, VOCAB_SIZE, make_grid(1), 1, compute).bfloat16()
    layer = network.encoder.layers[0].attention
    assert isinstance(layer, SelfAttention)
    tokens = packed_tokens()
    context = make_row_context(config, "varlen", tokens, None, torch.bfloat16)
    of_layer = context.of_layer(1, config.attention_pattern.window(1))
    calls: list[tuple[Any, ...]] = []

    def on_gpu(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return flash_attention(*arguments)

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(varlen_attention, "dense_attention", on_gpu),
    ):
        x = torch.empty(ROWS * TOKENS, 64, dtype=torch.bfloat16, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(x, of_layer).sum(), x)
    assert gradient.shape == x.shape
    ((query, key, value, bounds, longest, reach),) = calls
    groups = config.key_value_heads
    assert (longest, query.shape) == (TOKENS, (ROWS * TOKENS, 4, 16))
    assert key.shape == value.shape == (ROWS * TOKENS, groups, 16)
    fused = (4 + 2 * groups) * 16
    assert value.stride(0) == fused  # a slice of what the product wrote
    if config.positions.type != "rotary":
        assert key.stride(0) == fused
    moved = [
        torch.empty_strided(part.shape, part.stride(), dtype=part.dtype, device="meta")
        for part in (query, key, value, bounds)
    ]
    assert all(part.stride(-1) == 1 for part in moved)
    output, log_sum, *_ = torch.ops.aten._flash_attention_forward(
        *(*moved, moved[3], longest, longest, 0.0, False, False),
        window_size_left=reach[0],
        window_size_right=reach[1],
    )
    assert output.shape == query.shape
    assert log_sum.shape == (4, ROWS * TOKENS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("reach", [(-1, -1), (4, 4), (-1, 0), (4, 0)])
def test_the_kernel_computes_what_all_scores_give(reach: Reach, groups: int) -> None:
    run_ranks(compare_on_cuda, 1, reach, groups, device="cuda")


def compare_on_cuda(reach: Reach, groups: int) -> None:
    tokens = packed_tokens().cuda()
    pieces, visible = (tokens == 0).cumsum(dim=1), tokens != 1
    bounds = sequence_bounds((ROWS, TOKENS), pieces, visible, None, tokens.device)
    shape = (ROWS * TOKENS, groups, 4 // groups + 2, 16)
    qkv = torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    found = []
    for attend in (flash_attention, dense_attention):
        query, key, value = torch.split(qkv, [4 // groups, 1, 1], dim=2)
        query, key, value = (part.flatten(1, 2) for part in (query, key, value))
        mixed = attend(query, key, value, bounds, TOKENS, reach)
        (gradient,) = torch.autograd.grad(mixed.float().square().sum(), qkv)
        found.append((mixed.float(), gradient.float()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_compute_what_one_does(world_size: int) -> None:
    settings = {
        **{**SIZES, **ROTARY, **ALTERNATING, **INSIDE, "max_row_tokens": 16},
        "num_key_value_heads": 4 if world_size == 4 else 2,
        "compute": {"attention_backend": "varlen", "sequence_parallel": world_size == 4},
    }
    assert_parity(settings, world_size, num_steps=2)


def test_what_it_cannot_compute_is_an_error() -> None:
    hides = ModelConfig(**SIZES, visibility={"type": "random_keys"})
    odd = ModelConfig(**{**SIZES, "hidden_size": 48})
    drops = ModelConfig(**{**SIZES, "attention_dropout": 0.1})
    for config, message in (
        (hides, "varlen cannot hide tokens, as model.visibility random_keys"),
        (odd, "heads of 8, 16, ... 256 values, not 12"),
        (drops, "varlen has no dropout"),
    ):
        (error,) = compute_errors(config, ComputeConfig(attention_backend="varlen"))
        assert message in error
    tokens = torch.zeros(ROWS, TOKENS, dtype=torch.int64, device="meta")
    with pytest.raises(ConfigError, match="varlen has no kernels for fp32: set precision"):
        make_row_context(
            ModelConfig(**SIZES), "varlen", tokens, None, torch.float32, KnownRows(False)
        )


def test_masks_share_their_bounds_for_which_no_device_is_waited_for() -> None:
    config, tokens = ModelConfig(**SIZES, **INSIDE, **ALTERNATING), packed_tokens()
    known = known_rows(config, tokens, tokens[:, :0])
    with NothingFromTheHost():  # type: ignore[no-untyped-call]
        context = make_row_context(config, "varlen", tokens, None, torch.float32, known)
    masks: dict[int | None, AttentionMask] = context.masks
    assert {window: mask.reach for window, mask in masks.items()} == {None: (-1, -1), 4: (4, 4)}
    assert masks[None].bounds is masks[4].bounds
