"""Kernels and bytes of a compiled layer of RoBERTa base and of the cross entropy, counted in what
torch's compiler made.

Counted on a CPU: the compiler for GPUs merges reductions otherwise, so these are budgets for the
graph, not for a GPU. Traffic is in values of the hidden state of a token, T x H.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode
from torch.utils._python_dispatch import TorchDispatchMode

from model import counter_dropout, varlen_attention
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.cross_entropy import find_numbers, logits_gradient, overwrite_logits
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.varlen_attention import flash_attention
from tests.gloo import in_one_rank, run_ranks
from tests.model.settings import set_parts

ROWS, TOKENS, HIDDEN = 2, 512, 768
SIZES = {
    "num_layers": 1,
    "hidden_size": HIDDEN,
    "num_attention_heads": 12,
    "max_row_tokens": TOKENS,
    "attention_dropout": 0.0,  # on a CPU flash attention has none
}
MODERN = {
    "positions": {"type": "rotary"},
    "norm_placement": {"type": "pre"},
    "activation": {"type": "geglu"},
    "ffn_hidden_size": 1152,
    "hidden_dropout": 0.0,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
}


PACKED = {**MODERN, "packed_rows": {"type": "inside"}}
GROUPED = {**PACKED, "num_key_value_heads": 4}


def _register_kernels_without_values() -> None:
    """For torch's varlen_attn on a CPU, in this process."""

    def forward(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        log_sum = torch.zeros(query.shape[1], query.shape[0])
        return torch.zeros(query.shape, dtype=query.dtype), log_sum, torch.zeros(2).to(torch.uint64)

    def backward(_: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(x) for x in inputs[:3])

    torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", forward)
    torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu", backward)


@dataclass
class Counts:
    """Of the graphs that were compiled."""

    fused: int = 0
    """Kernels of the compiler's own."""
    products: int = 0
    """Products of matrices."""
    traffic_bytes: float = 0.0
    """Read and written by the former."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    found = Counts()
    compile_graph = GraphLowering.compile_to_module

    def counted(graph: Any) -> Any:
        module = compile_graph(graph)
        for node in graph.scheduler.nodes:
            if not isinstance(node, ExternKernelSchedulerNode):
                found.fused += 1
                found.traffic_bytes += node.get_read_write_buffers_sizes()
            elif "mm" in str(getattr(node.node, "op_overload", "")):
                found.products += 1
        return module

    monkeypatch.setattr(GraphLowering, "compile_to_module", counted)
    torch._dynamo.reset()
    with (
        inductor.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        yield found


@in_one_rank
@pytest.mark.parametrize(
    ("model", "backend", "fused", "products", "traffic"),
    [
        ({}, "sdpa", 21, 12, 63),
        (MODERN, "sdpa", 20, 12, 50),
        (PACKED, "sdpa", 21, 12, 51),
        (PACKED, "varlen", 18, 12, 48),
        (GROUPED, "varlen", 20, 12, 44),
    ],
    ids=["roberta", "modernbert", "packed", "varlen", "varlen groups"],
)
def test_a_layer_stays_in_its_budget(
    model: dict[str, Any],
    backend: Any,
    fused: int,
    products: int,
    traffic: float,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _register_kernels_without_values()
    monkeypatch.setattr(varlen_attention, "dense_attention", flash_attention)
    config = ModelConfig.model_validate({**SIZES, **model})
    compute = ComputeConfig(compile="on", attention_backend=backend)
    network = build_masked_lm(config, 512, make_grid(1), 0, compute).train().bfloat16()
    hidden = network.encoder(torch.randint(4, 200, (ROWS, TOKENS)), 5)  # all tokens are read
    hidden.sum().backward()
    assert counts.products == products
    assert 0 < counts.fused <= fused
    assert 0 < counts.traffic_bytes / (2 * ROWS * TOKENS * HIDDEN) <= traffic


@in_one_rank
def test_the_last_layer_computes_label_slots_only(counts: Counts) -> None:
    """15 % of the tokens, after attention; 63 are all."""
    compute = ComputeConfig(compile="on", attention_backend="sdpa")
    network = build_masked_lm(ModelConfig(**SIZES), 512, make_grid(1), 0, compute)
    network.train().bfloat16()
    slots = torch.arange(77).expand(ROWS, 77)
    network.encoder(torch.randint(4, 200, (ROWS, TOKENS)), 5, read=slots).sum().backward()
    assert 0 < counts.traffic_bytes / (2 * ROWS * TOKENS * HIDDEN) <= 20


class Launched(TorchDispatchMode):
    """Counts the kernels of a model, compiled or not, but for products, attention and messages."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled parts stay so; `counting` counts theirs."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        is_other = name.startswith(("c10d", "aten.empty", "aten.new_empty", "aten._unsafe_view"))
        is_counted_apart = "mm." in name or "_attention" in name
        if not (func.is_view or is_other or is_counted_apart or name.startswith("aten.detach")):
            self.kernels += 1
        return func(*args, **(kwargs or {}))

    def counting(self, compile_graph: Any, graph: Any) -> Any:
        """What `compile_graph` makes of a graph, counting its kernels whenever it runs."""
        module = compile_graph(graph)
        call, nodes = module.call, graph.scheduler.nodes

        def counted(*arguments: Any) -> Any:
            self.kernels += sum(not isinstance(node, ExternKernelSchedulerNode) for node in nodes)
            return call(*arguments)

        module.call = counted
        return module


def kernels_of_a_layer(model: dict[str, Any], compute: dict[str, Any]) -> list[int]:
    """Of a step at tensor-parallel size 2: [not compiled, in compiled parts]."""
    grid, launched = make_grid(2), Launched()
    compile_graph = GraphLowering.compile_to_module

    def kernels(num_layers: int, in_parts: bool) -> int:
        config = ModelConfig.model_validate({**SIZES, **model, "num_layers": num_layers})
        settings = {"attention_backend": "sdpa", "compile": "on", **compute}
        how = ComputeConfig.model_validate(settings)
        network = build_masked_lm(config, 512, grid, 0, how).train()
        set_parts(network, in_parts)
        tokens, places = torch.full((ROWS, 64), 8), torch.tensor([[1, 2], [3, 4]])
        for _ in range(2):  # the first compiles
            # Into gradients that are there one kernel adds those of each parameter; new ones are
            # copied where a message still holds them.
            launched.kernels = -len(list(network.parameters()))
            network.zero_grad(set_to_none=False)
            with launched:
                network(tokens, places, torch.full((ROWS, 2), 8), dropout_key=5)[0].backward()
        return launched.kernels

    def counting(graph: Any) -> Any:
        return launched.counting(compile_graph, graph)

    with (
        mock.patch.object(GraphLowering, "compile_to_module", counting),
        # A mask outside of compiled parts is one kernel on a GPU.
        mock.patch.object(counter_dropout, "_of_each_row", lambda x, *_: x * 1.0),
        inductor.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        return [kernels(2, in_parts) - kernels(1, in_parts) for in_parts in (False, True)]


@pytest.mark.parametrize(
    ("model", "compute", "eager", "in_parts"),
    [
        ({}, {}, 25, 20),
        ({}, {"sequence_parallel": True}, 29, 24),
        (MODERN, {"sequence_parallel": True}, 51, 25),
    ],
    ids=["roberta", "roberta by tokens", "modernbert"],
)
def test_compiled_parts_launch_few_kernels(
    model: dict[str, Any], compute: dict[str, Any], eager: int, in_parts: int
) -> None:
    found = run_ranks(kernels_of_a_layer, 2, model, compute)[0]
    assert found == [eager, in_parts]


@in_one_rank
@pytest.mark.parametrize(
    ("body", "kernels", "bytes_per_logit"),
    [(find_numbers, 3, 2.1), (overwrite_logits, 1, 4.1), (logits_gradient, 1, 4.1)],
    ids=["forward", "backward", "backward of kept logits"],
)
def test_the_cross_entropy_stays_in_its_budget(
    body: Any, kernels: int, bytes_per_logit: float, counts: Counts
) -> None:
    logits = torch.randn(128, 4096).bfloat16()
    numbers = torch.zeros(128)
    arguments = (numbers.long(), numbers, numbers)
    compiled: Any = torch.compile(body)
    compiled(logits, *arguments[: 1 if body is find_numbers else 3])
    assert 0 < counts.fused <= kernels
    assert 0 < counts.traffic_bytes / logits.numel() <= bytes_per_logit
