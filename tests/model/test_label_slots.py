"""The last layer computes only the tokens that are read, with the numbers of all tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.heads import MaskedLanguageModel, build_masked_lm
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank, run_ranks
from tests.model.settings import configs_of

ROWS, TOKENS, SLOTS, VOCAB_SIZE = 3, 32, 5, 203
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": TOKENS}
PRE = {"norm_placement": {"type": "pre"}, "positions": {"type": "rotary"}}
KINDS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": PRE,
    "shared layers": {"parameter_sharing": {"type": "groups", "num_groups": 1}},
    "counters": {"compute": {"compile": "on"}},
    "counters, pre": {**PRE, "compute": {"compile": "on"}},
    "recomputed": {"compute": {"activation_checkpointing": {"type": "layers", "every": 2}}},
    "selective": {"compute": {"activation_checkpointing": {"type": "selective"}}},
}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 200, (ROWS, TOKENS), generator=generator)
    positions = torch.tensor([[1, 4, 9, 30, 31], [0, 2, 3, 8, 0], [5, 6, 7, 0, 0]])
    labels = torch.full((ROWS, SLOTS), 8)
    labels[1, 4], labels[2, 3:] = -100, -100  # unused
    return tokens, positions, labels


def loss_and_gradients(model: MaskedLanguageModel, reads_all: bool) -> tuple[Tensor, list[Tensor]]:
    tokens, positions, labels = batch()
    model.zero_grad()
    if reads_all:
        hidden = model.encoder(tokens, 5)
        loss = model._masked_loss(hidden, tokens, positions, labels)[0]
    else:
        loss = model(tokens, positions, labels, 5)[0]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def build(settings: dict[str, Any], tp_size: int = 1) -> MaskedLanguageModel:
    model, compute = configs_of({**SIZES, **settings})
    return build_masked_lm(model, VOCAB_SIZE, make_grid(tp_size), seed=0, compute=compute).train()


@in_one_rank
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_read_changes_nothing(kind: str) -> None:
    model = build(KINDS[kind])
    with torch.compiler.set_stance("force_eager"):
        found, expected = (loss_and_gradients(model, reads_all) for reads_all in (False, True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@in_one_rank
def test_linears_after_the_last_attention_see_label_slots_only() -> None:
    model, lengths = build({}), list[int]()
    for name, module in model.encoder.layers.named_modules():
        if name.endswith(("qkv", "attention.output", "up", "down")):
            module.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    loss_and_gradients(model, reads_all=False)
    everything, slots = ROWS * TOKENS, ROWS * SLOTS
    assert lengths == [everything] * 5 + [slots] * 3


def losses_of_ranks(settings: dict[str, Any]) -> list[float]:
    model = build(settings, tp_size=2)
    with torch.compiler.set_stance("force_eager"):
        return [float(loss_and_gradients(model, reads_all)[0]) for reads_all in (False, True)]


@pytest.mark.parametrize("compiles", ["on", "off"])
def test_tensor_parallel_ranks_and_parts_of_tokens_agree(compiles: str) -> None:
    losses = [
        loss
        for by_tokens in (False, True)
        for found in run_ranks(
            losses_of_ranks, 2, {"compute": {"compile": compiles, "sequence_parallel": by_tokens}}
        )
        for loss in found
    ]
    assert losses == pytest.approx([losses[0]] * 8, rel=1e-6)
