"""Compiled parts between the linears of tensor-parallel ranks: the numbers and masks of eager."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model import layer_parts
from model.compute import ComputeConfig, compiles_layers, compiles_parts
from model.config import ModelConfig
from model.grid_check import check_grid
from model.heads import MaskedLanguageModel, build_masked_lm
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank, run_ranks
from tests.model.settings import set_parts

VOCAB_SIZE, ROWS, TOKENS = 203, 2, 32
SIZES = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_row_tokens": TOKENS}
MODELS: dict[str, dict[str, Any]] = {
    "roberta": {},
    "pre-LN": {
        "norm_placement": {"type": "pre"},
        "first_norm": False,
        "norm": {"type": "rms_norm"},
        "positions": {"type": "rotary"},
        "activation": {"type": "geglu"},
        "query_key_norm": True,
        "num_key_value_heads": 2,
        "hidden_dropout": 0.2,
    },
}
WAYS: list[dict[str, Any]] = [
    {},
    {"sequence_parallel": True},
    {"sequence_parallel": True, "activation_checkpointing": {"type": "selective"}},
    {"activation_checkpointing": {"type": "layers"}},
]


def loss_and_gradients(model: MaskedLanguageModel) -> list[Tensor]:
    tokens = torch.randint(4, 200, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 0  # <s>
    model.zero_grad()
    positions = torch.tensor([[1, 2]]).expand(ROWS, 2)
    loss, _, _ = model(tokens, positions, torch.full((ROWS, 2), 8), dropout_key=5)
    loss.backward()
    found = [loss.detach()]
    return found + [p.grad.clone() for p in model.parameters() if p.grad is not None]


def in_parts_and_eager(model: dict[str, Any]) -> list[tuple[list[Tensor], list[Tensor], int]]:
    """By way, (in compiled parts, eager, forms compiled until then)."""
    torch._dynamo.reset()
    grid, found = make_grid(2), []
    for way in WAYS:
        config = ModelConfig.model_validate({**SIZES, **model})
        how = ComputeConfig.model_validate({"compile": "on", **way})
        network = build_masked_lm(config, VOCAB_SIZE, grid, seed=0, compute=how).train()
        first, again = loss_and_gradients(network), loss_and_gradients(network)
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        set_parts(network, False)
        forms = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found.append((first, loss_and_gradients(network), forms))
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_the_numbers_and_masks_of_eager(kind: str) -> None:
    for found in run_ranks(in_parts_and_eager, 2, MODELS[kind]):
        for parts, eager, _ in found:
            torch.testing.assert_close(parts, eager, rtol=1e-6, atol=1e-6)
        forms = [number for *_, number in found]
        assert 0 < forms[0] < forms[1]  # another form for half of the tokens
        assert forms[1:] == [forms[1]] * 3  # recomputation compiles nothing more
        different = [not torch.equal(a, b) for one in found for a, b in zip(*one[:2], strict=True)]
        assert any(different)  # it was compiled: other rounding


@in_one_rank
def test_a_compiler_that_fails_leaves_the_parts_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    layer_parts._compiled.cache_clear()
    assert layer_parts.compiled(layer_parts.add, torch.device("cpu")) is layer_parts.add
    assert "torch.compile failed on 'add' of layers: no compiler here" in caplog.text


def test_parts_are_compiled_beside_tensor_parallel_ranks_if_it_is_asked_for() -> None:
    auto, on = ComputeConfig(), ComputeConfig(compile="on")
    assert [compiles_parts(on, size) for size in (1, 2)] == [False, True]
    assert [compiles_layers(on, "cuda", size) for size in (1, 2)] == [True, False]
    assert not compiles_parts(auto, 2)
    check_grid(ModelConfig.model_validate(SIZES), on, 2)
