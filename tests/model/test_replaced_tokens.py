"""The loss of replaced-token detection against ELECTRA's in plain PyTorch, on the same tokens."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.objectives import SpecialIds
from model.objectives.head_names import KEPT_SHARE, MLM_HEAD, REPLACED_HEAD
from model.parallel.grid import make_grid
from model.replaced_tokens import ReplacedTokensModel
from pipeline.pretraining.model import build_pretraining_model
from tests.gloo import in_one_rank
from tests.pipeline.pretraining.test_replaced_tokens import GENERATORS, MODEL, settings
from tests.pipeline.training_run import ROW_TOKENS, VOCAB_SIZE, make_config

ROWS = 4
SLOTS = 6
WEIGHT = 50.0


@pytest.mark.parametrize("name", GENERATORS)
@in_one_rank
def test_losses_and_gradients_are_those_of_electra(name: str) -> None:
    special = SpecialIds.of(VOCAB_SIZE)
    config = make_config(Path("rows"), Path("run"), **settings(name, model=MODEL))
    model = build_pretraining_model(config, config.model, special, make_grid(1), seed=1).eval()
    assert isinstance(model, ReplacedTokensModel)
    rows, positions, labels = _masked_rows(special)
    is_masked = labels >= 0  # [B, S]
    tokens = rows.masked_fill(is_masked, special.mask)
    slots = labels.gather(1, positions)
    seen: list[Tensor] = []
    handle = model.encoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    results = model(tokens, positions, slots, sample_keys=torch.arange(ROWS) * 7919)
    handle.remove()
    replaced = seen[-1]
    assert torch.equal(replaced[~is_masked], rows[~is_masked])
    found = results[MLM_HEAD][0] / results[MLM_HEAD][1]
    found = found + WEIGHT * results[REPLACED_HEAD][0] / results[REPLACED_HEAD][1]

    generator = model if model.small is None else model.generator
    logits = generator.logits(tokens)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    is_text, is_replaced = rows != special.pad, replaced != rows
    scores = model.replaced_head(model.encoder(replaced, None)).view(rows.shape)
    detection = F.binary_cross_entropy_with_logits(scores[is_text], is_replaced[is_text].float())
    expected = expected + WEIGHT * detection
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert results[KEPT_SHARE][2] == (is_text & ~is_replaced).sum()
    ours, theirs = _gradients(model, found), _gradients(model, expected)
    assert ours.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5, msg=key)


class NotedParts:
    """`model.arriving_weights.Weights` that notes what it is asked for."""

    def __init__(self) -> None:
        self.parameters: dict[nn.Parameter, None] = {}
        """In the order in which they are asked for."""

    def ready(self, *parts: nn.Module) -> None:
        self.parameters |= {p: None for part in parts for p in part.parameters()}


@pytest.mark.parametrize("name", [None, *GENERATORS])
@in_one_rank
def test_parameters_are_in_the_order_in_which_a_forward_pass_asks_for_them(
    name: str | None,
) -> None:
    """Of a masked language model too."""
    special = SpecialIds.of(VOCAB_SIZE)
    changes = {"model": MODEL} if name is None else settings(name, model=MODEL)
    config = make_config(Path("rows"), Path("run"), **changes)
    model = build_pretraining_model(config, config.model, special, make_grid(1), seed=1)
    noted = NotedParts()
    model.take_weights_from(noted)
    rows, positions, labels = _masked_rows(special)
    keys = {} if name is None else {"sample_keys": torch.arange(ROWS)}
    model(rows, positions, labels.gather(1, positions), **keys)
    asked, given = list(noted.parameters), model.parameters_in_order()
    assert len(asked) == len(given) == len(list(model.parameters()))
    assert all(one is other for one, other in zip(asked, given, strict=True))


def _masked_rows(special: SpecialIds) -> tuple[Tensor, Tensor, Tensor]:
    """(rows [B, S] with padding in one, positions [B, K], labels [B, S] with -100 elsewhere)."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(5, VOCAB_SIZE - 1, (ROWS, ROW_TOKENS), generator=draw)
    rows[:, 0] = 0
    rows[1, 20:] = special.pad
    chosen = torch.rand(ROWS, 18, generator=draw).argsort(dim=1)[:, :SLOTS] + 1
    positions = chosen.sort(dim=1).values
    labels = torch.full_like(rows, -100).scatter(1, positions, rows.gather(1, positions))
    labels[2, positions[2, 4:]] = -100
    return rows, positions, labels


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in found.items()}
