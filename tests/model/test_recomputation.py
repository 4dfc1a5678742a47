"""Selective recomputation: the same bits, from no product and no message more than without it."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import Grid, make_grid
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
    config = ModelConfig.model_validate({**SIZES, **model})
    again = {"activation_checkpointing": {"type": recomputed}}
    how = ComputeConfig.model_validate({**compute, **again})
    network = build_masked_lm(config, VOCAB_SIZE, grid, seed=0, compute=how).train().to(dtype)
    tokens = torch.randint(4, 200, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[0, 9] = 0, 0  # <s>
    positions = torch.tensor([[1, 2]]).expand(ROWS, 2)
    with Counted() as counted:
        loss, _, _ = network(tokens, positions, torch.full((ROWS, 2), 8), dropout_key=5)
        loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [loss.detach(), *gradients], counted.calls


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
