"""A model that switches to the settings of another phase is the model that was built with them."""

import pytest
import torch

from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.options import PerPhase
from model.parallel.grid import make_grid
from model.phase_settings import fixed_differences
from tests.gloo import in_one_rank, run_ranks

VOCAB_SIZE = 203
SIZES = {"num_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 24}
FIRST = ModelConfig(**SIZES, positions={"type": "rotary"})
SECOND = ModelConfig(
    **SIZES | {"max_row_tokens": 48},
    positions={"type": "rotary", "base": 160_000.0, "local_base": 500.0},
    attention_pattern={"type": "alternating", "neighbours": 5, "global_every": 2},
    packed_rows={"type": "inside"},
    visibility={"type": "random_keys"},
    hidden_dropout=0.3,
    attention_dropout=0.2,
)


def outputs(model: MaskedLanguageModel) -> list[torch.Tensor]:
    """Loss and logits of rows that only the second config can hold, in training and outside."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, VOCAB_SIZE, (4, 40), generator=generator)
    tokens[:, ::13] = 0  # each starts a document
    positions = torch.tensor([[1, 5, 30]] * 4)
    labels = torch.randint(4, VOCAB_SIZE, (4, 3), generator=generator)
    loss, *_ = model.train()(tokens, positions, labels, 77)
    loss.backward()
    gradient = model.encoder.embeddings.word.weight.grad
    return [loss.detach(), gradient, model.eval().logits(tokens).detach()]


def compare(tensor: int) -> None:
    grid = make_grid(tensor)
    switched = build_masked_lm(FIRST, VOCAB_SIZE, grid, seed=3)
    switched.enter_phase(SECOND)
    built = build_masked_lm(SECOND, VOCAB_SIZE, grid, seed=3)
    for mine, theirs in zip(outputs(switched), outputs(built), strict=True):
        assert torch.equal(mine, theirs)


def test_a_switched_model_equals_one_that_was_built_so() -> None:
    run_ranks(compare, 2, 2)
    marked = {
        name
        for name, field in ModelConfig.model_fields.items()
        if any(isinstance(mark, PerPhase) for mark in field.metadata)
    }
    assert marked == {
        *("attention_pattern", "packed_rows", "visibility"),
        *("hidden_dropout", "attention_dropout"),
    }, "a new setting of a phase: add it to SECOND"


@in_one_rank
def test_what_shapes_weights_stays() -> None:
    model = build_masked_lm(FIRST, VOCAB_SIZE, make_grid(1), seed=3)
    with pytest.raises(AssertionError):
        model.enter_phase(FIRST.model_copy(update={"layer_norm_eps": 1e-3}))
    learned = ModelConfig(**SIZES)
    longer = learned.model_copy(update={"max_row_tokens": 48})
    assert [found.path for found in fixed_differences(learned, longer)] == ["max_row_tokens"]
    assert fixed_differences(FIRST, SECOND) == []
