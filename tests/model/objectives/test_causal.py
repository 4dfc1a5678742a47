"""The causal objective: what is predicted from where, and what each token sees."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.objectives import CausalConfig, RowsToMask, SpecialIds
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank

VOCAB_SIZE = 203
ROW = [0, 10, 11, 2, 0, 12, 3, 13, 2, 1, 1]
"""Two documents and padding; the second has an unknown token."""
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 48}


def labelled(
    rows: list[list[int]], special: SpecialIds | int = VOCAB_SIZE
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and labels of `rows`."""
    batch = RowsToMask(np.array(rows, np.uint16), 1, np.zeros(len(rows), int), np.arange(len(rows)))
    masked = CausalConfig().build(special).mask_rows(batch)
    assert np.array_equal(masked.tokens, batch.rows)
    assert masked.positions.shape == (len(rows), CausalConfig().num_slots(len(rows[0])))
    tokens, positions, labels = (
        torch.from_numpy(array.astype(np.int64))
        for array in (masked.tokens, masked.positions, masked.labels)
    )
    return tokens, positions, labels


def predictions(rows: list[list[int]], special: SpecialIds | int = VOCAB_SIZE) -> list[Any]:
    """Of each row, {position: the token that it predicts}."""
    _, positions, labels = (tensor.tolist() for tensor in labelled(rows, special))
    return [
        {p: label for p, label in zip(*pair, strict=True) if label >= 0}
        for pair in zip(positions, labels, strict=True)
    ]


def test_each_token_predicts_the_next_but_no_padding_and_no_start_of_a_document() -> None:
    assert predictions([ROW, [*ROW[:9], 14, 15]]) == [
        {0: 10, 1: 11, 2: 2, 4: 12, 5: 3, 6: 13, 7: 2},
        {0: 10, 1: 11, 2: 2, 4: 12, 5: 3, 6: 13, 7: 2, 8: 14, 9: 15},
    ]


def test_the_end_of_a_document_is_predicted_where_it_is_also_the_start() -> None:
    special = SpecialIds(begin=0, pad=1, end=0, unknown=3, mask=202, vocab_size=VOCAB_SIZE)
    assert predictions([[0, 10, 0, 11, 0]], special) == [{0: 10, 1: 0, 2: 11, 3: 0}]


@pytest.mark.parametrize("backend", ["explicit", "sdpa"])
@pytest.mark.parametrize(
    ("settings", "reach"),
    [
        ({}, 40),
        ({"attention_pattern": {"type": "window", "neighbours": 3}, "num_layers": 1}, 4),
        ({"positions": {"type": "rotary"}, "num_key_value_heads": 2}, 40),
    ],
)
@in_one_rank
def test_a_token_reaches_itself_and_later_tokens(
    backend: str, settings: dict[str, Any], reach: int
) -> None:
    config = ModelConfig(**{**SIZES, "attention_dropout": 0.0, **settings})
    compute = ComputeConfig(attention_backend=backend)
    model = build_masked_lm(config, VOCAB_SIZE, make_grid(1), seed=1, compute=compute).eval()
    tokens = torch.randint(4, 200, (2, 40), generator=torch.Generator().manual_seed(2))
    tokens[1, 37:] = 1
    changed = tokens.clone()
    changed[:, 20] += 1
    with torch.no_grad():
        before, after = (
            model.encoder(t, is_causal=True).view(2, 40, -1) for t in (tokens, changed)
        )
    moved = (before != after).any(-1) & (tokens != 1)
    assert moved[0].nonzero().flatten().tolist() == list(range(20, min(20 + reach, 40)))
    assert moved[1].nonzero().flatten().tolist() == list(range(20, min(20 + reach, 37)))


@in_one_rank
def test_documents_of_a_row_are_predicted_as_if_alone() -> None:
    grid = make_grid(1)
    for packed_rows in ({"type": "inside"}, {"type": "across"}):
        config = ModelConfig(**SIZES, packed_rows=packed_rows)
        model = build_masked_lm(config, VOCAB_SIZE, grid, seed=1).eval()
        with torch.no_grad():
            whole = model(*labelled([ROW]), is_causal=True)
            parts = [model(*labelled([part]), is_causal=True) for part in (ROW[:4], ROW[4:9])]
        together = [sum(values) for values in zip(*parts, strict=True)]
        assert whole[1] == together[1] == 7
        is_equal = torch.allclose(whole[0], torch.as_tensor(together[0]), rtol=1e-6)
        assert is_equal == (packed_rows["type"] == "inside")


@in_one_rank
def test_logits_of_a_part_of_the_slots_at_a_time_give_the_same_loss_and_gradients() -> None:
    model = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, make_grid(1), seed=1)
    batch = labelled([ROW, [*ROW[:9], 14, 15], ROW])

    def computed(slots: int) -> tuple[list[float], list[Tensor]]:
        model.zero_grad()
        largest = 0

        def record(_module: Any, _inputs: Any, logits: Tensor) -> None:
            nonlocal largest
            largest = max(largest, len(logits))

        hook = model.head.register_forward_hook(record)
        hidden = model.encoder(batch[0], 5, is_causal=True)
        results = model._masked_loss(hidden, *batch, slots_at_once=slots)
        results[0].backward()  # type: ignore[no-untyped-call]
        hook.remove()
        assert largest <= slots
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return [float(value.detach()) for value in results], gradients

    whole, whole_gradients = computed(1000)
    parts, part_gradients = computed(7)
    assert parts == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(part_gradients, whole_gradients, rtol=1e-5, atol=1e-5)
