"""Selective recomputation: the same bits, from no product and no message more than without it."""

import importlib
from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import layer, varlen_attention
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import Grid, make_grid
from model.varlen_attention import dense_attention, flash_attention
from tests.gloo import run_ranks

VOCAB_SIZE, ROWS, TOKENS = 203, 2, 32
SIZES = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "max_row_tokens": TOKENS}
MODELS: dict[str, dict[str, Any]] = {
    "roberta": {},
    "pre-LN": {
        "norm_placement": {"type": "pre"},
        "positions": {"type": "rotary"},
        "activation": {"type": "geglu"},
        "packed_rows": {"type": "inside"},
    },
    "grouped": {"num_key_value_heads": 2, "query_key_norm": True},
    "shared": {"parameter_sharing": {"type": "groups", "num_groups": 1}},
}
PRODUCTS = ("aten.mm.default", "aten.addmm.default")
COLLECTIVES = ("c10d.allreduce_", "c10d._allgather_base_", "c10d._reduce_scatter_base_")


class Counted(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def step(
    grid: Grid, model: dict[str, Any], compute: dict[str, Any], recomputed: str, dtype: torch.dtype
) -> tuple[list[Tensor], Counter[str]]:
    """(the loss and all gradients, the operators of the step)."""
    with Counted() as counted:
        found = loss_and_gradients(grid, model, compute, recomputed, dtype)
    return found, counted.calls


def loss_and_gradients(
    grid: Grid, model: dict[str, Any], compute: dict[str, Any], recomputed: str, dtype: torch.dtype
) -> list[Tensor]:
    """Of a step, the loss first."""
    config = ModelConfig.model_validate({**SIZES, **model})
    again = {"activation_checkpointing": {"type": recomputed}}
    how = ComputeConfig.model_validate({**compute, **again})
    network = build_masked_lm(config, VOCAB_SIZE, grid, seed=0, compute=how).train().to(dtype)
    tokens = torch.randint(4, 200, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[0, 9] = 0, 0  # <s>
    positions = torch.tensor([[1, 2]]).expand(ROWS, 2)
    loss, _, _ = network(tokens, positions, torch.full((ROWS, 2), 8), dropout_key=5)
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


def all_three(
    tp_size: int, model: dict[str, Any], compute: dict[str, Any], dtype: torch.dtype
) -> list[tuple[list[Tensor], Counter[str]]]:
    grid = make_grid(tp_size)
    kinds = ("none", "selective", "layers")
    return [step(grid, model, compute, kind, dtype) for kind in kinds]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("tp_size", "compute"),
    [
        (1, {}),
        (1, {"attention_backend": "sdpa"}),
        (2, {}),
        (2, {"sequence_parallel": True}),
        (2, {"sequence_parallel": True, "attention_backend": "sdpa"}),
    ],
    ids=str,
)
def test_the_same_bits(
    tp_size: int, compute: dict[str, Any], dtype: torch.dtype, kind: str
) -> None:
    for (kept, _), (selective, _), _ in run_ranks(
        all_three, tp_size, tp_size, MODELS[kind], compute, dtype
    ):
        torch.testing.assert_close(selective, kept, rtol=0, atol=0)


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("backend", ["explicit", "sdpa"])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_no_product_and_no_message_is_repeated(
    tp_size: int, backend: str, sequence_parallel: bool
) -> None:
    compute = {"attention_backend": backend, "sequence_parallel": sequence_parallel}
    model = {"attention_dropout": 0.0}  # on a CPU sdpa is one operator without
    (_, kept), (_, selective), (_, layers) = run_ranks(
        all_three, tp_size, tp_size, model, compute, torch.float32
    )[0]

    def count(calls: Counter[str], *names: str) -> int:
        return sum(number for name, number in calls.items() if name.startswith(names))

    num_layers = SIZES["num_layers"]
    for names in (PRODUCTS, COLLECTIVES if tp_size > 1 else PRODUCTS):
        assert count(selective, *names) == count(kept, *names) < count(layers, *names)
    norms, scores = "aten.native_layer_norm.default", "aten._softmax.default"
    assert count(selective, norms) == count(kept, norms) + 2 * num_layers
    again = num_layers if backend == "explicit" else 0
    assert count(selective, scores) == count(kept, scores) + again
    kernel = "aten._scaled_dot_product_flash_attention_for_cpu.default"
    assert count(selective, kernel) == count(kept, kernel) == num_layers - again


def with_flash_attention(
    tp_size: int, compiles: bool, model: dict[str, Any]
) -> list[tuple[list[Tensor], int, int]]:
    """Without and with selective recomputation, by the operators that a GPU calls for varlen: (the
    loss and all gradients, calls forward and backward). On a CPU they have kernels in this process,
    the backward one no derivative but of all that it is given."""
    calls: Counter[str] = Counter()

    def forward(query: Tensor, key: Tensor, value: Tensor, *more: Any) -> tuple[Tensor, ...]:
        calls["forward"] += 1
        bounds, _, longest, _, _, _, reach = more[:7]
        mixed = dense_attention(query, key, value, bounds, longest, tuple(reach))
        log_sum = query.sum(dim=2).T.contiguous()
        return mixed.contiguous(), log_sum, torch.zeros(2).to(torch.uint64)

    def backward(
        gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        calls["backward"] += 1
        mixed, log_sum = more[:2]
        of_query = query * gradient + mixed * log_sum.T[:, :, None]
        found = (of_query, key * gradient.mean(), value * gradient.mean())
        return tuple(part.contiguous() for part in found)

    importlib.import_module("torch.nn.attention.varlen")  # registers the operators
    torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", forward)
    torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu", backward)
    compute = {"attention_backend": "varlen", "compile": "on" if compiles else "off"}
    compiled = torch.compile(layer.run_layer, fullgraph=True, backend="aot_eager")
    grid, found = make_grid(tp_size), []
    with (
        mock.patch.object(varlen_attention, "dense_attention", flash_attention),
        mock.patch.object(layer, "_compiled_layer", return_value=compiled),
    ):
        for kind in ("none", "selective"):
            calls.clear()
            values = loss_and_gradients(grid, model, compute, kind, torch.float32)
            found.append((values, calls["forward"], calls["backward"]))
    return found


@pytest.mark.parametrize(("tp_size", "compiles"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("kind", ["pre-LN", "grouped"])
def test_flash_attention_of_pieces_is_not_repeated(tp_size: int, compiles: bool, kind: str) -> None:
    model = {**MODELS[kind], "attention_dropout": 0.0}
    arguments = (with_flash_attention, tp_size, tp_size, compiles, model)
    num_layers = SIZES["num_layers"]
    for (kept, *_), (selective, *calls) in run_ranks(*arguments):
        torch.testing.assert_close(selective, kept, rtol=0, atol=0)
        assert calls == [num_layers, num_layers]
